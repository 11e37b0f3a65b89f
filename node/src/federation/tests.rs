//! One node and streams that do what the test says; what crosses nodes is in the simulator (`tests/sim`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use s2s::federation::Ticket;
use tokio::time::Instant;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::Streams;
use crate::testing::{House, mail};

/// Keeps what it is given; refuses the domain `full.example`.
#[derive(Default)]
struct Kept(Mutex<Vec<(Ticket, Stanza)>>);

impl Streams for Kept {
    fn send(&self, ticket: Ticket, stanza: Stanza) -> Result<(), (Stanza, StanzaError)> {
        if stanza.to().is_some_and(|to| to.domain() == "full.example") {
            return Err((stanza, StanzaError::resource_constraint()));
        }
        self.0.lock().push((ticket, stanza));
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>> {
        Box::pin(async { std::mem::take(&mut *self.0.lock()) })
    }
}

async fn house() -> (House, Arc<Kept>) {
    let house = House::new().await;
    let streams = Arc::new(Kept::default());
    house.node.federation.set_streams(streams.clone());
    (house, streams)
}

#[tokio::test]
async fn without_streams_no_other_domain_is_found() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 0).await;
    mail(&seat);
    house.says(&seat, "<message to='romeo@other.example' id='1'><body>o</body></message>").await;
    let heard = mail(&seat).concat();
    assert!(heard.contains("remote-server-not-found"), "{heard}");
    assert_eq!(house.node.ledger.depth().0, 0);
}

#[tokio::test]
async fn what_leaves_is_in_the_ledger_until_the_other_domain_has_it() {
    let (house, streams) = house().await;
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 0).await;
    for id in 1..=3 {
        let text = format!("<message to='romeo@other.example' id='{id}'><body>o</body></message>");
        house.says(&seat, &text).await;
    }
    let given: Vec<_> = std::mem::take(&mut *streams.0.lock());
    let ids: Vec<_> = given.iter().filter_map(|(_, stanza)| stanza.id()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!((house.node.ledger.depth().0, house.node.federation.open()), (3, 3));
    super::delivered(&house.node, &[given[0].0, given[1].0]);
    assert_eq!((house.node.ledger.depth().0, house.node.federation.open()), (1, 1));
    mail(&seat);
    super::failed(&house.node, given[2].0, &given[2].1, &StanzaError::remote_server_timeout());
    let heard = mail(&seat).concat();
    assert!(heard.contains("remote-server-timeout") && heard.contains("id='3'"), "{heard}");
    assert_eq!((house.node.ledger.depth().0, house.node.federation.open()), (0, 0));
}

#[tokio::test]
async fn what_the_streams_do_not_take_comes_back_at_once() {
    let (house, _streams) = house().await;
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 0).await;
    mail(&seat);
    house.says(&seat, "<message to='romeo@full.example' id='1'><body>o</body></message>").await;
    let heard = mail(&seat).concat();
    assert!(heard.contains("resource-constraint"), "{heard}");
    assert_eq!((house.node.ledger.depth().0, house.node.federation.open()), (0, 0));
}
