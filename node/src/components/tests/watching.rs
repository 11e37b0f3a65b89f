//! What a component hears of accounts it may watch (XEP-0356).

use super::*;

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
    house.says(&juliet, "<presence to='friar@other.example' type='subscribe'/>").await;
    // A contact elsewhere, but nothing that is no presence of his.
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
    assert!(!heard.contains("directed") && !heard.contains("type='subscribe'"), "{heard}");
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
    house.account(&BareJid::parse("alice@eu.chat.example").expect("a JID")).await;
    house
        .hears("<presence from='bob@us.chat.example/x' to='alice@eu.chat.example'><status>heard</status></presence>")
        .await;
    let heard = bot.reads("</presence>").await;
    assert!(heard.contains("from='bob@us.chat.example/x'"), "{heard}");
}
