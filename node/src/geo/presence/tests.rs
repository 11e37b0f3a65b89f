//! Presence that is told out of rosters of another time.

use super::*;
use crate::features::roster::home::Request;
use crate::features::roster::{self, subscription::Kind};
use crate::testing::{House, bare, mail};

#[tokio::test]
async fn who_does_not_watch_is_shown_nobody_though_the_other_roster_is_behind() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    // While nobody is here, Romeo's roster comes further than the copy of Juliet's.
    let word = b"<presence type='unsubscribed'/>".to_vec();
    let request = Request::In {
        contact: bare("juliet"),
        kind: Kind::Unsubscribed,
        stanza: word,
        items_max: 9,
    };
    roster::ask(&house.node, &bare("romeo"), &request).await.expect("done");
    let romeo = house.available("romeo/orchard", 0).await;
    drop(mail(&romeo));
    let roster = house.node.rosters.load(&house.node, &bare("juliet")).await.expect("read");
    assert!(roster.has_subscriber(&bare("romeo")) && house.node.geo.partings.is_empty());
    house.available("juliet/phone", 0).await;
    assert_eq!(mail(&romeo), [""; 0]);
}
