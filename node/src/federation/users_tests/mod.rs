//! What other domains send, and what they are told, on a whole node: what would leave is kept by the house.

mod inbound;
mod presence;
mod regional;

use std::sync::Arc;

use xmpp::jid::BareJid;

use crate::feature::Ctx;
use crate::features::roster;
use crate::features::roster::home::Request;
use crate::features::roster::subscription::Kind;
use crate::router;
use crate::session::{self, Seat};
use crate::testing::{House, all, bare, stanza};

const ROMEO: &str = "romeo@far.example";

/// Juliet, who has an account, in a house that keeps what leaves.
async fn house() -> House {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    house.abroad();
    house
}

/// Juliet's roster says this of Romeo, who is at another domain: `none`, `to`, `from`, `both`, `asks` (he waits for an answer), `approved`.
async fn subscribed(house: &House, state: &str) {
    says_of_him(house, state).await;
    house.abroad();
}

async fn says_of_him(house: &House, state: &str) {
    let (account, contact) = (bare("juliet"), BareJid::parse(ROMEO).expect("a JID"));
    let incoming = |kind| Request::In {
        contact: contact.clone(),
        kind,
        stanza: b"<presence type='subscribe' from='romeo@far.example'/>".to_vec(),
        items_max: 10,
    };
    let outgoing = |kind| Request::Out { contact: contact.clone(), kind, items_max: 10 };
    let from = || [incoming(Kind::Subscribe), outgoing(Kind::Subscribed)];
    let to = || [outgoing(Kind::Subscribe), incoming(Kind::Subscribed)];
    let requests: Vec<Request> = match state {
        "to" => to().into(),
        "from" => from().into(),
        "both" => to().into_iter().chain(from()).collect(),
        "asks" => vec![incoming(Kind::Subscribe)],
        "approved" => vec![outgoing(Kind::Subscribed)],
        _ => Vec::new(),
    };
    for request in requests {
        roster::ask(&house.node, &account, &request).await.expect("done");
    }
}

/// A session sends an IQ to its own account or to the server; what comes of it has happened.
async fn asks(house: &House, seat: &Arc<Seat>, payload: &str) {
    let iq = stanza(&format!("<iq type='set' id='1'>{payload}</iq>")).with_from(seat.address());
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = session::iq(&mut ctx, iq);
    let actions = all(ctx, flow).await;
    router::perform(&house.node, Some(seat), actions);
}
