//! What becomes of stanzas when a connection goes, and of connections when a silent node returns.

use global_distrib::Place;
use global_distrib::health::Turn;
use xmpp::jid::FullJid;

use super::*;
use crate::geo::light;

#[tokio::test]
async fn everything_it_had_not_taken_goes_to_the_next_in_its_order() {
    let more = CONFIG.replace("[components]", "[components]\nconnections_per_region_max = 2");
    let house = House::with(&more).await;
    house.accounts(["romeo"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    let mut first = Line::connected(&house, "irc.chat.example", "of its own").await;
    let mut second = Line::connected(&house, "irc.chat.example", "of its own").await;
    // More than wire and output hold: the rest waits in its mailbox.
    let body = "x".repeat(40 << 10);
    for n in 0..20 {
        let message =
            format!("<message to='irc.chat.example' id='{n}'><body>{body}</body></message>");
        house.says(&romeo, &message).await;
    }
    house.says(&romeo, "<presence to='irc.chat.example' id='here'/>").await;
    house.says(&romeo, "<iq to='irc.chat.example' id='wish' type='get'><x xmlns='y'/></iq>").await;
    house.says(&romeo, "<presence to='irc.chat.example' id='gone' type='unavailable'/>").await;
    house.says(&romeo, "<message to='irc.chat.example' id='last'/>").await;
    first.reads("id='0'").await;
    drop(first);
    for id in ["19", "here", "wish", "gone", "last"] {
        let upto = second.reads(&format!("id='{id}'")).await;
        assert!(!upto.contains("id='here'") || id == "here", "{id} is not behind it");
        assert!(!upto.contains("id='last'") || id == "last", "{id} is not before it");
    }
}

#[tokio::test]
async fn what_is_said_of_subscriptions_to_one_that_is_not_there_comes_back() {
    let house = House::with(CONFIG).await;
    house.accounts(["romeo"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    let is_error = |mail: &str, id: &str| {
        mail.starts_with("<presence ")
            && mail.contains("type='error'")
            && mail.contains(&format!("id='{id}'"))
            && mail.contains("service-unavailable")
    };
    for (id, says) in [
        ("1", "<presence to='irc.chat.example' id='1' type='subscribe'/>"),
        ("2", "<presence to='hall@irc.chat.example' id='2' type='subscribe'/>"),
        ("3", "<presence to='irc.chat.example' id='3' type='unsubscribe'/>"),
    ] {
        house.says(&romeo, says).await;
        let mut mail = Vec::new();
        while !mail.iter().any(|one: &String| is_error(one, id)) {
            mail.extend(house.mail(&romeo).await);
        }
    }
    // What says only who is there, or that it failed already, says nothing to who is not (RFC 6121 §8.5).
    house.says(&romeo, "<presence to='irc.chat.example' id='4' type='error'/>").await;
    house.says(&romeo, "<presence to='irc.chat.example' id='5'/>").await;
    house.says(&romeo, "<message to='irc.chat.example' id='6'/>").await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("id='6'") && !mail.contains("<presence "), "{mail}");
    // The same of what waited when it went.
    let irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    let body = "x".repeat(40 << 10);
    for _ in 0..20 {
        let message = format!("<message to='irc.chat.example'><body>{body}</body></message>");
        house.says(&romeo, &message).await;
    }
    house.says(&romeo, "<presence to='irc.chat.example' id='7' type='subscribe'/>").await;
    drop(irc);
    let mut mail = Vec::new();
    while !mail.iter().any(|one: &String| is_error(one, "7")) {
        mail.extend(house.mail(&romeo).await);
    }
}

/// A connection at a node of another region, of that age.
fn elsewhere(house: &House, generation: Hlc) -> global_distrib::NodeIx {
    let ix = house.node.geo.nodes.index("us-0").expect("few nodes");
    let full = FullJid::parse("irc.chat.example/there").expect("a JID");
    house.node.directory.bind(Row::new(full, Place::There(ix), generation), |_| true);
    ix
}

#[tokio::test]
async fn of_two_that_a_cut_has_let_be_the_newer_one_ends() {
    let config = CONFIG.replace("[components]", "[components]\nmode = 'one'");
    let house = House::with(&config).await;
    let older = Hlc::new(house.node.wall_ms() - 1_000, 0);
    let there = elsewhere(&house, older);
    light::turned(&house.node, Turn::WentDark(there));
    let irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    light::turned(&house.node, Turn::CameBack(there));
    let said = irc.rest().await;
    assert!(said.contains("<stream:error><conflict "), "{said}");
    // The older one stays.
    let house = House::with(&config).await;
    let newer = Hlc::new(house.node.wall_ms() + 3_600_000, 0);
    let mut irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    let there = elsewhere(&house, newer);
    light::turned(&house.node, Turn::WentDark(there));
    light::turned(&house.node, Turn::CameBack(there));
    irc.says("<message from='irc.chat.example' to='irc.chat.example' id='stays'/>").await;
    irc.reads("id='stays'").await;
}
