//! One node and streams that do what the test says; what crosses nodes is in the simulator (`tests/sim`).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use global_distrib::NodeIx;
use parking_lot::Mutex;
use s2s::federation::Ticket;
use tokio::time::Instant;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use super::Streams;
use crate::router::ledger::Due;
use crate::testing::{House, mail, stanza};

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

#[tokio::test]
async fn one_sender_has_a_share_of_the_way() {
    let (house, streams) = house().await;
    house.accounts(["juliet", "nurse"]).await;
    let juliet = house.available("juliet/balcony", 0).await;
    let nurse = house.available("nurse/house", 0).await;
    let share = super::OPEN_MAX / super::SENDER_SHARE;
    for id in 0..=share {
        let text = format!("<message to='romeo@d{}.example' id='{id}'/>", id % 7);
        house.says(&juliet, &text).await;
        if id < share {
            mail(&juliet);
        }
    }
    let heard = mail(&juliet).concat();
    assert!(heard.contains("resource-constraint") && heard.contains(&format!("id='{share}'")));
    assert_eq!(house.node.federation.open(), share);
    house.says(&nurse, "<message to='romeo@d1.example' id='n'/>").await;
    assert_eq!(house.node.federation.open(), share + 1, "others have their own");
    let given: Vec<_> = std::mem::take(&mut *streams.0.lock());
    super::delivered(&house.node, &[given[0].0]);
    house.says(&juliet, "<message to='romeo@d1.example' id='again'/>").await;
    assert_eq!(house.node.federation.open(), share + 1, "and what is over makes room");
}

/// By a reload its name is another server's again, while the node where it was connected still has something for it.
#[tokio::test]
async fn what_was_a_components_leaves_when_it_comes_back() {
    let (house, streams) = house().await;
    let (node, there) = (&house.node, NodeIx(3));
    let message = stanza("<message from='juliet@chat.example/x' to='romeo@bridge.example'/>");
    let order = node.ledger.next_order();
    assert!(node.ledger.enter(order, &message, Due::Passing, 0, 0).is_ok());
    assert!(node.ledger.hand(order, 0, &[there]));
    super::came_back(node, there, order, message);
    let given: Vec<_> = streams.0.lock().iter().map(|(ticket, _)| ticket.order).collect();
    assert_eq!((given, node.federation.open()), (vec![order], 1));
    assert!(!node.federation.lock().is_leaving(there), "it has not said that it stops");
}

/// Says that it has left before it has come back from being given it.
struct Quick(std::sync::Weak<crate::app::Node>, Mutex<usize>);

impl Streams for Quick {
    fn send(&self, ticket: Ticket, _: Stanza) -> Result<(), (Stanza, StanzaError)> {
        let node = self.0.upgrade().expect("it runs");
        std::thread::scope(|scope| {
            scope.spawn(|| *self.1.lock() += node.federation.open());
        });
        tokio::spawn(async move { super::delivered(&node, &[ticket]) });
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, Vec<(Ticket, Stanza)>> {
        Box::pin(async { Vec::new() })
    }
}

#[tokio::test]
async fn what_is_delivered_at_once_is_counted_before() {
    let house = House::new().await;
    let streams = Arc::new(Quick(Arc::downgrade(&house.node), Mutex::new(0)));
    house.node.federation.set_streams(streams.clone());
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 0).await;
    house.says(&seat, "<message to='romeo@other.example' id='1'/>").await;
    tokio::task::yield_now().await;
    assert_eq!((*streams.1.lock(), house.node.federation.open()), (1, 0));
}

#[tokio::test]
async fn who_stops_keeps_what_finds_no_other_way() {
    let (house, streams) = house().await;
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 0).await;
    mail(&seat);
    house.says(&seat, "<message to='romeo@other.example' id='1'/>").await;
    super::stop(&house.node, Instant::now() + Duration::from_secs(1)).await;
    assert!(streams.0.lock().is_empty());
    house.says(&seat, "<message to='romeo@other.example' id='2'/>").await;
    assert!(streams.0.lock().is_empty(), "nothing is given to streams that have ended");
    assert_eq!((house.node.ledger.depth().0, house.node.federation.open()), (2, 2));
    assert!(mail(&seat).is_empty(), "and nobody is told that it failed");
}
