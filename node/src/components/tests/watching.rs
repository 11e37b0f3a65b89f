//! What a component hears of accounts it may watch (XEP-0356).

use global_distrib::health::Turn;

use super::*;
use crate::features::roster;
use crate::features::roster::home::Request;
use crate::features::roster::subscription::Kind;
use crate::geo::light;
use crate::router;

const WATCHES: &str = "
[[components.component]]
domain = 'bot.chat.example'
privileged_roster = 'get'
privileged_roster_push = true
privileged_presence = 'roster'
";

async fn house() -> House {
    let house = House::with(&format!("{CONFIG}{WATCHES}")).await;
    house.accounts(["romeo", "juliet"]).await;
    house
}

#[tokio::test]
async fn it_hears_who_comes_and_goes_and_who_was_there() {
    let house = house().await;
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    let told = bot.reads("</message>").await;
    assert!(
        told.contains("push='true'") && told.contains("<perm access='presence' type='roster'/>"),
        "{told}"
    );
    // §8: who was there before.
    let heard = bot.reads("</presence>").await;
    assert!(
        heard.contains("from='romeo@chat.example/orchard'")
            && heard.contains("to='bot.chat.example'"),
        "{heard}"
    );
    house.says(&romeo, "<presence><show>away</show></presence>").await;
    assert!(bot.reads("</presence>").await.contains("<show>away</show>"));
    let juliet = house.available("juliet/balcony", 0).await;
    assert!(bot.reads("</presence>").await.contains("from='juliet@chat.example/balcony'"));
    // Not whom it writes to, and no subscriptions.
    house
        .says(&juliet, "<presence to='friar@other.example'><status>directed</status></presence>")
        .await;
    // A contact elsewhere, but nothing that is no presence of his, and nobody who is none.
    house.says(&juliet, "<presence to='friar@other.example' type='subscribe'/>").await;
    house
        .hears("<presence from='friar@other.example' to='juliet@chat.example' type='subscribed'/>")
        .await;
    house.hears("<presence from='paris@other.example/x' to='juliet@chat.example'><status>paris</status></presence>").await;
    house.hears("<presence from='friar@other.example/x' to='romeo@chat.example'><status>paris</status></presence>").await;
    house
        .hears("<presence from='friar@other.example' to='juliet@chat.example' type='subscribe'/>")
        .await;
    house.hears("<presence from='friar@other.example/cell' to='juliet@chat.example'><status>cell</status></presence>").await;
    house.says(&juliet, "<presence type='unavailable'/>").await;
    let mut heard = String::new();
    while !(heard.contains("cell</status>") && heard.contains("type='unavailable'")) {
        heard += &bot.reads(">").await;
    }
    assert!(heard.contains("from='friar@other.example/cell'"), "{heard}");
    assert!(heard.contains("from='juliet@chat.example/balcony'"), "{heard}");
    assert!(
        !heard.contains("directed")
            && !heard.contains("paris")
            && !heard.contains("type='subscribe'"),
        "{heard}"
    );
    // Nobody hears that it is gone.
    drop(bot);
    house.until("it is gone", || house.node.components.connections() == 0).await;
    house.says(&romeo, "<presence><show>dnd</show></presence>").await;
    house.says(&romeo, "<message to='irc.chat.example' id='last'/>").await;
    let mut mail = String::new();
    while !mail.contains("id='last'") {
        mail += &house.mail(&romeo).await.join("");
    }
    assert!(!mail.contains("bot.chat.example"), "{mail}");
}

#[tokio::test]
async fn it_hears_what_changes_in_rosters() {
    let house = house().await;
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    bot.reads("</message>").await;
    // Nobody of the account is there, and yet.
    house.watches("romeo", "juliet").await;
    let mut heard = String::new();
    while !heard.contains("subscription='to'") {
        let push = bot.reads("</iq>").await;
        assert!(push.contains("to='bot.chat.example'") && push.contains("type='set'"), "{push}");
        assert!(push.contains("<query xmlns='jabber:iq:roster'"), "{push}");
        heard += &push;
    }
    assert!(heard.contains("from='romeo@chat.example'"), "{heard}");
}

/// At a node of eu, beside a region us: accounts of the one are strangers to those of the other.
#[tokio::test]
async fn strangers_are_watched_as_contacts_and_not_as_accounts() {
    let house = House::beside_us(false, &format!("{CONFIG}{WATCHES}")).await;
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    bot.reads("</message>").await;
    let item = xmpp::xml::element::Element::new("item", xmpp::ns::ROSTER);
    let pushes = |account: &str| {
        let (account, mut actions) = (BareJid::parse(account).expect("a JID"), Vec::new());
        super::super::roster_changed(&house.node, &account, &item, None, &mut actions);
        actions.len()
    };
    assert_eq!((pushes("alice@eu.chat.example"), pushes("bob@us.chat.example")), (1, 0));
    assert_eq!(pushes("juliet@chat.example"), 1);
    let alice = BareJid::parse("alice@eu.chat.example").expect("a JID");
    let bob = BareJid::parse("bob@us.chat.example").expect("a JID");
    house.account(&alice).await;
    let out = Request::Out { contact: bob.clone(), kind: Kind::Subscribe, items_max: 10 };
    let granted = Request::In {
        contact: bob,
        kind: Kind::Subscribed,
        stanza: b"<presence/>".to_vec(),
        items_max: 10,
    };
    for request in [out, granted] {
        roster::ask(&house.node, &alice, &request).await.expect("done");
    }
    house
        .hears("<presence from='bob@us.chat.example/x' to='alice@eu.chat.example'><status>heard</status></presence>")
        .await;
    let heard = bot.reads("</presence>").await;
    assert!(heard.contains("from='bob@us.chat.example/x'"), "{heard}");
}

#[tokio::test]
async fn who_was_there_before_comes_as_there_is_room() {
    let few = format!("{CONFIG}{WATCHES}");
    let few = few.replace("[components]", "[components]\nqueue_items_max = 8");
    let house = House::with(&few).await;
    house.accounts(["romeo", "juliet"]).await;
    for n in 0..20 {
        house.available(&format!("romeo/{n}"), 0).await;
        house.available(&format!("juliet/{n}"), 0).await;
    }
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    bot.reads("</message>").await;
    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < 40 {
        let shown = bot.reads("</presence>").await;
        let from = shown.split("from='").nth(1).and_then(|rest| rest.split('\'').next());
        heard.insert(from.expect("a sender").to_owned());
    }
    // As another node is told that asks.
    let domain = BareJid::parse("bot.chat.example").expect("a JID");
    let seats = perform::seats_of(&house.node, domain.as_str());
    assert_eq!(room(&house.node, seats[0].full.as_str().as_bytes()), [1]);
    for asked in ["bot.chat.example/other", "bot.chat.example", ""] {
        assert_eq!(room(&house.node, asked.as_bytes()), [0], "{asked}");
    }
}

#[tokio::test]
async fn one_that_stands_by_does_not_bring_everybody_again() {
    let two = format!("{CONFIG}{WATCHES}");
    let two = two.replace("[components]", "[components]\nconnections_per_region_max = 2");
    let house = House::with(&two).await;
    house.accounts(["romeo"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    let mut first = Line::connected(&house, "bot.chat.example", "of all").await;
    first.reads("</presence>").await;
    let mut second = Line::connected(&house, "bot.chat.example", "of all").await;
    second.reads("</message>").await;
    house.says(&romeo, "<presence><show>away</show></presence>").await;
    let heard = first.reads("</presence>").await;
    assert!(heard.contains("<show>away</show>"), "{heard}");
}

#[tokio::test]
async fn it_hears_no_contact_whom_its_account_does_not_want_to_hear() {
    let house = house().await;
    let friar = BareJid::parse("friar@other.example").expect("a JID");
    let romeo = crate::testing::bare("romeo");
    let said = |kind: Kind| Request::In {
        contact: friar.clone(),
        kind,
        stanza: b"<presence/>".to_vec(),
        items_max: 10,
    };
    let out = Request::Out { contact: friar.clone(), kind: Kind::Subscribe, items_max: 10 };
    for request in [out, said(Kind::Subscribed)] {
        roster::ask(&house.node, &romeo, &request).await.expect("done");
    }
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    bot.reads("</message>").await;
    // Nobody of the account is there.
    let shows = |status: &str| {
        format!(
            "<presence from='friar@other.example/x' to='romeo@chat.example'><status>{status}</status></presence>"
        )
    };
    house.hears(&shows("one")).await;
    assert!(bot.reads("</presence>").await.contains("<status>one</status>"));
    let seat = house.available("romeo/orchard", 0).await;
    bot.reads("</presence>").await;
    let block = "<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='friar@other.example'/></block></iq>";
    let mut ctx = crate::feature::Ctx::new(&house.node, Some(&seat));
    let block = crate::testing::stanza(block).with_from(seat.address());
    let flow = crate::session::handle(&mut ctx, block);
    let actions = crate::testing::all(ctx, flow).await;
    perform(&house.node, Some(&seat), actions);
    house.hears(&shows("two")).await;
    house.says(&seat, "<presence><status>three</status></presence>").await;
    let heard = bot.reads("three").await;
    assert!(!heard.contains("two"), "{heard}");
}

#[tokio::test]
async fn it_does_not_hear_that_somebody_is_removed_who_was_never_listed() {
    let house = house().await;
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    bot.reads("</message>").await;
    // Nobody of the account is there; he asks, and does not want it any more.
    for kind in ["subscribe", "unsubscribe"] {
        house
            .hears(&format!(
                "<presence from='friar@other.example' to='romeo@chat.example' type='{kind}'/>"
            ))
            .await;
    }
    let (romeo, nurse) = (crate::testing::bare("romeo"), crate::testing::bare("nurse"));
    let set = Request::Set { contact: nurse.clone(), name: None, groups: Vec::new(), items_max: 9 };
    for request in [set, Request::Remove { contact: nurse }] {
        roster::ask(&house.node, &romeo, &request).await.expect("done");
    }
    let heard = bot.reads("subscription='remove'").await + &bot.reads("</iq>").await;
    assert!(heard.contains("nurse@") && !heard.contains("friar@"), "{heard}");
}

#[tokio::test]
async fn one_at_a_silent_node_hears_who_goes_and_the_others_when_that_is_back() {
    let house = house().await;
    let full = FullJid::parse("bot.chat.example/there").expect("a JID");
    let there = elsewhere(&house, &full, Hlc::new(house.node.wall_ms(), 0));
    let told = |shown: &str| {
        let shown = format!("<presence from='romeo@chat.example/orchard'{shown}/>");
        let mut actions = Vec::new();
        showing(&house.node, &crate::testing::stanza(&shown), |_| false, &mut actions);
        actions.len()
    };
    let both = || (told(""), told(" type='unavailable'"));
    assert_eq!(both(), (1, 1));
    light::turned(&house.node, Turn::WentDark(there));
    assert_eq!(both(), (0, 1));
    light::turned(&house.node, Turn::CameBack(there));
    assert_eq!(both(), (1, 1));
}

#[tokio::test]
async fn nobody_has_an_error_of_presence_for_which_it_has_no_room() {
    let few = format!("{CONFIG}{WATCHES}");
    let few = few.replace("[components]", "[components]\nqueue_items_max = 8");
    let (house, romeo) = romeo(&few).await;
    house.abroad();
    let friar = BareJid::parse("friar@other.example").expect("a JID");
    let out = Request::Out { contact: friar.clone(), kind: Kind::Subscribe, items_max: 10 };
    let granted = Request::In {
        contact: friar,
        kind: Kind::Subscribed,
        stanza: b"<presence/>".to_vec(),
        items_max: 10,
    };
    for request in [out, granted] {
        roster::ask(&house.node, &romeo.bare, &request).await.expect("done");
    }
    // A connection that takes nothing.
    let domain = BareJid::parse("bot.chat.example").expect("a JID");
    let proved = house.node.components.proved("bot.chat.example");
    let bot = bind(&house.node, &domain, None, &proved).expect("there is none");
    house
        .until("it is full", || {
            let message =
                "<message from='friar@other.example' to='bot.chat.example' type='headline'/>";
            router::route(&house.node, crate::testing::stanza(message));
            bot.mailbox.depth().items == 8
        })
        .await;
    crate::testing::mail(&romeo);
    let ignored = || house.node.metrics.routed.ignored.get();
    let before = ignored();
    for shown in ["", " type='unavailable'"] {
        let friar =
            format!("<presence from='friar@other.example/x' to='romeo@chat.example'{shown}/>");
        house.hears(&friar).await;
        house.says(&romeo, &format!("<presence{shown}/>")).await;
    }
    // Who enters a room waits for an answer.
    house.says(&romeo, "<presence to='room@bot.chat.example/nick' id='enters'/>").await;
    let mut mail = String::new();
    while !mail.contains("id='enters'") {
        mail += &house.mail(&romeo).await.join("");
    }
    assert_eq!(mail.matches("type='error'").count(), 1, "{mail}");
    let abroad = house.abroad().join("");
    assert!(!abroad.contains("type='error'"), "{abroad}");
    assert_eq!(ignored(), before + 4);
}
