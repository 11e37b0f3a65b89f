//! Archives through a real home: when a sender may be told that a message is handled, what a former life left, what waits for a home that
//! cannot be reached. What clients see is in the plays `archive_*`.

use xmpp::jid::BareJid;

use super::*;
use crate::session::Handled;
use crate::storage::Page;
use crate::testing::{House, bare, stanza};

async fn archived(house: &House, account: &BareJid) -> Vec<Item> {
    let page = Page::after(None, 1_000);
    let items = house.node.storage.archive(ARCHIVE, account.as_str(), page).await.expect("memory");
    items.iter().map(|(_, bytes)| Item::decode(bytes).expect("an item")).collect()
}

fn filing(order: u64, at_ms: u64) -> Filing {
    let item = Item {
        uid: Uid { order, salt: 7 },
        at_ms,
        with: "romeo@chat.example/x".into(),
        sent: false,
        stanza: format!("<message><body>{order}</body></message>").into_bytes(),
    };
    Filing { item, if_contact: false, again: false, retracts: false }
}

#[tokio::test]
async fn a_message_is_handled_when_both_archives_have_it() {
    let house = House::new().await;
    let [romeo, juliet] = house.accounts(["romeo", "juliet"]).await;
    let seat = house.available("romeo/x", 0).await;
    let handled = Handled::new(&seat);
    let mut message =
        stanza("<message to='juliet@chat.example' type='chat'><body>Hi</body></message>");
    message = message.with_from(seat.address());
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    ctx.receipt = Some(handled.begin());
    assert!(matches!(house.node.features.outbound(&mut ctx, &mut message), Flow::Next));
    let found = stanza_id::find(&message.element(), &Jid::from(&juliet)).expect("named");
    // Somebody has kept the message; the archives have not.
    drop(ctx.receipt.take());
    assert_eq!(handled.open(), 1);
    house.until("both archives have it", || handled.open() == 0).await;
    let (his, hers) = (archived(&house, &romeo).await, archived(&house, &juliet).await);
    assert_eq!((his.len(), hers.len()), (1, 1));
    assert_eq!(hers[0].uid.to_string(), found);
    assert_ne!(his[0].uid, hers[0].uid);
    assert!(his[0].sent && !hers[0].sent);
    let kept = String::from_utf8(hers[0].stanza.clone()).expect("text");
    assert!(!kept.contains("stanza-id"), "{kept}");
}

#[tokio::test]
async fn what_a_former_life_wrote_down_is_filed_and_not_twice() {
    let house = House::new().await;
    let [juliet] = house.accounts(["juliet"]).await;
    let rows = |orders: &[u64]| {
        let row = |order: &u64| {
            let filing = filing(*order, house.node.wall_ms());
            (*order, postcard::to_stdvec(&(juliet.as_str(), filing)).expect("plain"))
        };
        orders.iter().map(row).collect()
    };
    let outbox = format!("{}/archive", house.node.geo.me);
    for (orders, expected) in [(&[1, 2][..], 2), (&[2, 3][..], 3)] {
        let write = house.node.storage.outbox_write(&outbox, rows(orders), Vec::new());
        write.await.expect("memory");
        queue::load(&house.node).await.expect("memory");
        assert!(!house.node.archive.queue.is_settled(&juliet));
        house.until("filed", || house.node.archive.queue.is_settled(&juliet)).await;
        let orders: Vec<u64> =
            archived(&house, &juliet).await.iter().map(|item| item.uid.order).collect();
        assert_eq!(orders, (1..=expected).collect::<Vec<u64>>());
    }
    let mut left = house.node.storage.outbox(&outbox).await.expect("memory");
    while !left.is_empty() {
        tokio::task::yield_now().await;
        left = house.node.storage.outbox(&outbox).await.expect("memory");
    }
}

#[tokio::test]
async fn what_an_account_wants_is_heard_by_every_node_and_gone_with_it() {
    let house = House::new().await;
    let [juliet] = house.accounts(["juliet"]).await;
    let romeo = Jid::parse("romeo@chat.example").expect("a JID");
    let never = Prefs::new(Rest::Never);
    let asked = house.node.homes.exchange::<_, Answer>(&juliet, OP, &Request::Prefer(never)).await;
    assert_eq!(asked, Ok(Answer::Done));
    assert_eq!(house.node.archive.prefs.keep(&juliet, &romeo), Keep::No);
    crate::homes::accounts::remove(&house.node.homes, &juliet).await.expect("removed");
    assert_eq!(house.node.archive.prefs.keep(&juliet, &romeo), Keep::Yes);
    let stranger = bare("nobody");
    let request = Request::Prefer(Prefs::new(Rest::Never));
    let asked = house.node.homes.exchange::<_, Answer>(&stranger, OP, &request).await;
    assert_eq!(asked, Ok(Answer::NoAccount));
}
