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

use xmpp::jid::{BareJid, Jid};
use xmpp::payload::delay;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use self::home::{Answer, Request};
use crate::app::Node;
use crate::feature::{Disco, Feature};
use crate::homes::HomeError;
use crate::router::Routed;
use crate::session::{Delivery, Item, Seat};

/// Before the home is asked again for what waits there.
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
    /// The account is connected: route these anew.
    pub elsewhere: Vec<Routed>,
    /// Not taken, and why.
    pub refused: Vec<(Routed, StanzaError)>,
}

/// Files messages at the addressee's home, in order.
pub async fn file(node: &Arc<Node>, account: &BareJid, batch: Vec<Routed>) -> Filed {
    let server = Jid::parse(&node.domains.global).expect("a configured domain is a JID");
    let now = node.wall_ms();
    let stanzas = batch
        .iter()
        .map(|routed| {
            routed.stanza.with_child(&delay::element(now, Some(&server), None)).bytes().to_vec()
        })
        .collect();
    let max = u32::try_from(node.config.limits.offline_messages_max).unwrap_or(u32::MAX);
    let all = |error: StanzaError, batch: Vec<Routed>| Filed {
        elsewhere: Vec::new(),
        refused: batch.into_iter().map(|routed| (routed, error.clone())).collect(),
    };
    match ask(node, account, &Request::File { stanzas, max }).await {
        Ok(Answer::Filed) => {
            node.metrics.routed.offline.inc_by(batch.len() as u64);
            Filed::default()
        }
        Ok(Answer::Elsewhere) => Filed { elsewhere: batch, refused: Vec::new() },
        Ok(Answer::NoAccount) => all(StanzaError::service_unavailable(), batch),
        // XEP-0160 §2: like an account without offline storage.
        Ok(Answer::Full) => all(StanzaError::service_unavailable(), batch),
        Ok(Answer::Messages(_)) => all(StanzaError::internal_server_error(), batch),
        Err(error) => all(error.stanza_error(), batch),
    }
}

/// Brings a newly available resource what waits for its account. Runs beside the session: what is new goes by the ordinary way.
pub fn hand_out(node: &Arc<Node>, seat: &Arc<Seat>) {
    let (node, seat) = (node.clone(), seat.clone());
    tokio::spawn(async move {
        let mut after = None;
        while seat.available() {
            let messages = match ask(&node, &seat.bare, &Request::Fetch { after }).await {
                Ok(Answer::Messages(messages)) => messages,
                Ok(_) => return,
                // The home cannot be reached now, or metadata is still being founded: again, but not at once.
                Err(HomeError::Unreachable | HomeError::NotHome { .. } | HomeError::Busy) => {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(?error, "offline messages cannot be read");
                    return;
                }
            };
            let Some((last, _)) = messages.last() else { return };
            let upto = *last;
            for (_, bytes) in messages {
                let Ok(stanza) = Stanza::parse(bytes.into()) else { continue };
                let item = Item::Stanza(Delivery { stanza, sole: true });
                if seat.mailbox.push(item).is_err() {
                    return; // Full or gone: the rest stays filed.
                }
            }
            if ask(&node, &seat.bare, &Request::Drop { upto }).await.is_err() {
                return;
            }
            after = Some(upto);
        }
    });
}

async fn ask(node: &Arc<Node>, account: &BareJid, request: &Request) -> Result<Answer, HomeError> {
    let body = postcard::to_stdvec(request).expect("a plain value");
    let answer = node.homes.request(account, home::OP, body).await?;
    postcard::from_bytes(&answer).map_err(|_| HomeError::Unknown(home::OP.to_owned()))
}
