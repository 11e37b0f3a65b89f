//! XEP-0160 1.0.1, messages for users who are away. Filed at the account's home, in order, under an id of the home's hybrid clock;
//! handed out to the first resource that becomes available with a priority that is not negative, in any region.
//! The home looks at its session table when it files: a user who is connected after all gets the message by the ordinary way, so
//! a message can not be filed behind the back of a user who has just been handed what there was.
//! Left out: flexible retrieval (XEP-0013).

pub mod home;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use self::home::{Answer, Request};
use crate::app::Node;
use crate::feature::{Disco, Feature};
use crate::homes::HomeError;
use crate::router::Routed;
use crate::session::{Delivery, Owed, Seat};

/// How long new messages wait for a home that cannot be reached; then they go first.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// Before the home is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// See the room.
pub struct OfflineFeature;

impl Feature for OfflineFeature {
    fn name(&self) -> &'static str {
        "offline"
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push("msgoffline");
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Filed {
    /// Committed at the home.
    pub kept: Vec<Routed>,
    /// The account is connected: route these anew.
    pub elsewhere: Vec<Routed>,
    /// Not taken, and why.
    pub refused: Vec<(Routed, StanzaError)>,
}

/// Files messages at the addressee's home, in order.
pub async fn file(node: &Arc<Node>, account: &BareJid, batch: Vec<Routed>) -> Filed {
    let now = node.wall_ms();
    let stanzas = batch
        .iter()
        .map(|routed| {
            let stanza = crate::router::delayed(node, &routed.stanza, now);
            (routed.order, stanza.bytes().to_vec())
        })
        .collect();
    let max = u32::try_from(node.config.limits.offline_messages_max).unwrap_or(u32::MAX);
    let all = |error: StanzaError, batch: Vec<Routed>| Filed {
        refused: batch.into_iter().map(|routed| (routed, error.clone())).collect(),
        ..Filed::default()
    };
    let request = Request::File { node: node.geo.me.to_string(), stanzas, max };
    let give_up = Instant::now() + node.config.geo.hold;
    let answer = loop {
        match ask(node, account, &request).await {
            // The home is out of reach: the messages wait, in order, as long as any message may.
            Err(HomeError::Unreachable | HomeError::NotHome { .. } | HomeError::Busy)
                if Instant::now() < give_up =>
            {
                tokio::time::sleep(RETRY).await;
            }
            answer => break answer,
        }
    };
    match answer {
        Ok(Answer::Filed) => {
            node.metrics.routed.offline.inc_by(batch.len() as u64);
            Filed { kept: batch, ..Filed::default() }
        }
        Ok(Answer::Elsewhere(filed)) => {
            let (kept, elsewhere) =
                batch.into_iter().partition(|routed| filed.contains(&routed.order));
            Filed { kept, elsewhere, ..Filed::default() }
        }
        Ok(Answer::NoAccount) => all(StanzaError::service_unavailable(), batch),
        // XEP-0160 §2: like an account without offline storage.
        Ok(Answer::Full) => all(StanzaError::service_unavailable(), batch),
        Ok(Answer::Messages(_) | Answer::Known(_)) => {
            all(StanzaError::internal_server_error(), batch)
        }
        Err(error) => all(error.stanza_error(), batch),
    }
}

/// Which of a former life's messages were filed before it ended. Nothing, if the home cannot be reached: then some may come twice.
pub async fn filed_before(node: &Arc<Node>, account: &BareJid, orders: Vec<u64>) -> Vec<u64> {
    let request = Request::Which { node: node.geo.me.to_string(), orders };
    match ask(node, account, &request).await {
        Ok(Answer::Known(orders)) => orders,
        Ok(_) => Vec::new(),
        Err(error) => {
            tracing::warn!(%account, ?error, "cannot ask what a former life has filed");
            Vec::new()
        }
    }
}

/// Brings a newly available resource what waits for its account. The seat has begun to catch up before its row said that it is
/// available: until this is done, what is new waits behind it there, so that nothing overtakes what is older.
pub fn hand_out(node: &Arc<Node>, seat: &Arc<Seat>) {
    let (node, seat) = (node.clone(), seat.clone());
    tokio::spawn(async move {
        if let Err(error) = catch_up(&node, &seat).await {
            // The messages stay filed; they come when the resource is next announced, or to the next one.
            tracing::warn!(account = %seat.bare, ?error, "offline messages cannot be handed out now");
        }
        let back = seat.end_catching_up();
        crate::session::no_room(&node, &seat, back);
    });
}

async fn catch_up(node: &Arc<Node>, seat: &Arc<Seat>) -> Result<(), HomeError> {
    let mut after = seat.handed();
    let give_up = Instant::now() + CATCH_UP_MAX;
    loop {
        let messages = match ask(node, &seat.bare, &Request::Fetch { after }).await {
            Ok(Answer::Messages(messages)) => messages,
            Ok(_) => return Ok(()),
            Err(HomeError::Unreachable | HomeError::NotHome { .. } | HomeError::Busy)
                if Instant::now() < give_up =>
            {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some((last, _)) = messages.last() else { return Ok(()) };
        let upto = *last;
        for (id, bytes) in messages {
            let Ok(stanza) = Stanza::parse(bytes.into()) else { continue };
            // It stays filed until the client has it (`handed_out`).
            let owed = Owed::Home;
            if !seat.push_older(Delivery { stanza, via: None, sole: true, order: id, owed }) {
                return Ok(()); // Full or gone.
            }
        }
        after = Some(upto);
    }
}

/// A client has all that was filed for its account up to this id: it need not be kept any longer. Should the home not hear of it, the
/// messages come once more, marked with when they were sent.
pub fn handed_out(node: &Arc<Node>, seat: &Arc<Seat>, upto: u64) {
    let (node, account) = (node.clone(), seat.bare.clone());
    tokio::spawn(async move {
        if let Err(error) = ask(&node, &account, &Request::Drop { upto }).await {
            tracing::warn!(%account, ?error, "handed out, and still filed");
        }
    });
}

async fn ask(node: &Arc<Node>, account: &BareJid, request: &Request) -> Result<Answer, HomeError> {
    let body = postcard::to_stdvec(request).expect("a plain value");
    let answer = node.homes.request(account, home::OP, body).await?;
    postcard::from_bytes(&answer).map_err(|_| HomeError::Unknown(home::OP.to_owned()))
}
