//! XEP-0012: what is kept, and what is said.

use super::*;
use crate::features::presence;
use crate::homes::Tx;
use crate::homes::accounts::ACCOUNTS;
use crate::testing::House;

fn left_at(at_ms: u64) -> Left {
    Left { at_ms, login_ms: 1, status: "Heading Home".into() }
}

#[tokio::test]
async fn the_latest_is_kept_of_accounts_that_are_there() {
    let mut tx = Tx::of("juliet@example.org");
    home::keep(&mut tx, left_at(5)).await.expect("decided");
    assert!(tx.changed().is_empty(), "there is no account");
    tx.put(ACCOUNTS, "", Vec::new());
    for (at, known) in [(5, 5), (7, 7), (6, 7)] {
        home::keep(&mut tx, left_at(at)).await.expect("decided");
        let kept = tx.get(LAST, "").await.expect("read").and_then(|bytes| Left::decode(&bytes));
        assert_eq!(kept, Some(left_at(known)));
    }
}

/// XEP-0186 §3.1.1: as if the account were offline since then.
#[tokio::test]
async fn who_is_invisible_was_last_there_when_it_became_so() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let seat = house.available("romeo/orchard", 0).await;
    let left = Left { at_ms: house.node.wall_ms() - 903_500, login_ms: 1, status: String::new() };
    let keep = Request::Left(left);
    house.node.homes.exchange::<_, Option<Left>>(&romeo, OP, &keep).await.expect("kept");
    let said = async || {
        let query = of_account(&house.node, &romeo).await.expect("said");
        query.attr("seconds").map(str::to_owned)
    };
    assert_eq!(said().await.as_deref(), Some("0"));
    presence::vanish(&mut Ctx::new(&house.node, Some(&seat)), &seat);
    assert_eq!(said().await.as_deref(), Some("903"));
    // And so it stays when it goes: it was not there.
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    let _ = LastFeature.session(&mut ctx, SessionEvent::Gone);
    assert_eq!(house.node.leaving.len(), 0);
}

#[tokio::test]
async fn becoming_invisible_is_remembered() {
    let house = House::new().await;
    house.accounts(["romeo"]).await;
    let seat = house.available("romeo/orchard", 0).await;
    let text = "<iq id='i1' type='set'><invisible xmlns='urn:xmpp:invisible:1'/></iq>";
    let target = Target::Account { account: seat.bare.clone(), own: true };
    let iq = Iq { stanza: crate::testing::stanza(text), target };
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    assert!(matches!(LastFeature.iq(&mut ctx, &iq), Flow::Next), "it is another feature's");
    assert_eq!(house.node.leaving.len(), 1);
}

/// What a home is not told yet is known to whoever asks it, and written before the node stops.
#[tokio::test]
async fn who_has_just_left_is_known_before_it_is_written() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let seat = house.available("romeo/orchard", 0).await;
    let written = async || {
        let value = house.node.storage.get(LAST, romeo.as_str(), "").await.expect("read");
        value.as_deref().and_then(Left::decode)
    };
    leaves(&house.node, &seat, "Heading Home".into());
    assert_eq!(written().await, None);
    let known = left(&house.node, &romeo).await.expect("known").expect("it has left");
    assert_eq!(known.status, "Heading Home");
    // The last of what happens meanwhile.
    leaves(&house.node, &seat, "Home".into());
    leaving::flush(&house.node).await;
    assert_eq!(written().await.map(|left| left.status), Some("Home".into()));
    assert_eq!(house.node.leaving.len(), 0);
    assert_eq!(left(&house.node, &romeo).await.expect("known"), written().await);
}

#[tokio::test]
async fn those_who_leave_are_written_together_a_moment_later() {
    let house = House::new().await;
    let [romeo, juliet] = house.accounts(["romeo", "juliet"]).await;
    let seats =
        [house.available("romeo/orchard", 0).await, house.available("juliet/balcony", 0).await];
    tokio::time::pause();
    seats.iter().for_each(|seat| leaves(&house.node, seat, String::new()));
    while house.node.leaving.len() > 0 {
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
    }
    for account in [romeo, juliet] {
        assert!(house.node.storage.get(LAST, account.as_str(), "").await.expect("read").is_some());
    }
}

#[test]
fn seconds_always_and_words_if_there_are_some() {
    let said = |status| {
        let query = query(903, status);
        (query.attr("seconds").map(str::to_owned), query.text())
    };
    assert_eq!(said(Some("Heading Home")), (Some("903".into()), "Heading Home".into()));
    assert_eq!(said(Some("")), (Some("903".into()), String::new()));
    assert_eq!(said(None), (Some("903".into()), String::new()));
}
