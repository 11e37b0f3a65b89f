//! XEP-0160 1.0.1, messages for users who are away. Filed at the account's home, in order, under an id of the home's hybrid clock;
//! handed out to the first resource that becomes available with a priority that is not negative, in any region.
//! The home looks at its session table when it files: a user who is connected after all gets the message by the ordinary way, so
//! a message can not be filed behind the back of a user who has just been handed what there was.
//! Who never had anything filed is known without a look at the database: most who sign in.
//! Left out: flexible retrieval (XEP-0013).

pub mod home;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use replication::durable_log::Change;
use tokio::time::Instant;

use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

use self::home::{Answer, FILED, Request};
use crate::app::Node;
use crate::feature::{Ctx, Disco, Feature, Flow, Interests};
use crate::features::carbons::without_private;
use crate::homes::HomeError;
use crate::router::Routed;
use crate::session::{Delivery, Older, Owed, Seat};

/// Bytes of messages filed by one request: with what belongs to them they stay below what one change may hold.
const PART_BYTES: usize = 384 << 10;
/// How long new messages wait for a home that cannot be reached; then they go first.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// Before the home is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Before the home is told again what was handed out: soon, for it may hand it out once more.
const DROP_RETRY: Duration = Duration::from_millis(250);
/// Before a client that reads slowly is offered more.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// See the room.
pub struct OfflineFeature;

impl Feature for OfflineFeature {
    fn name(&self) -> &'static str {
        "offline"
    }

    fn interests(&self) -> Interests {
        Interests { changes: &[FILED], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push("msgoffline");
        disco.account.push("msgoffline");
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, _snapshot: bool) -> Flow {
        ctx.node.filed.apply(change);
        Flow::Next
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

/// Files messages at the addressee's home, in order; as many at once as one change may hold.
pub async fn file(node: &Arc<Node>, account: &BareJid, batch: Vec<Routed>) -> Filed {
    let mut filed = Filed::default();
    if !node.domains.has_accounts(account.domain()) {
        // A guest that has left: there is no home that could keep anything.
        let gone = |routed| (routed, StanzaError::service_unavailable());
        filed.refused = batch.into_iter().map(gone).collect();
        return filed;
    }
    let mut rest = batch.into_iter().peekable();
    while rest.peek().is_some() {
        let mut bytes = 0;
        let mut part = Vec::new();
        while let Some(routed) = rest.next_if(|routed| {
            bytes += routed.stanza.bytes().len();
            bytes <= PART_BYTES || part.is_empty()
        }) {
            part.push(routed);
        }
        let of_part = file_part(node, account, part).await;
        filed.kept.extend(of_part.kept);
        filed.refused.extend(of_part.refused);
        if !of_part.elsewhere.is_empty() {
            // Somebody is there after all: what follows goes there too, behind these.
            filed.elsewhere.extend(of_part.elsewhere);
            filed.elsewhere.extend(rest);
            break;
        }
    }
    filed
}

async fn file_part(node: &Arc<Node>, account: &BareJid, batch: Vec<Routed>) -> Filed {
    let now = node.wall_ms();
    let stanzas = batch
        .iter()
        .map(|routed| {
            // When it was sent, not when its turn came (XEP-0203 §3), and as the client is to see it (XEP-0280 §9).
            let sent_ms = node.ledger.accepted_ms(routed.order).unwrap_or(now);
            let stanza = crate::router::delayed(node, &routed.stanza, sent_ms);
            (routed.order, without_private(&stanza).bytes().to_vec())
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
        // As if nobody were there who could be written to (XEP-0191 §3.3).
        Ok(Answer::Denied(denied)) => {
            let (refused, kept): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|routed| denied.contains(&routed.order));
            let error = |routed| (routed, StanzaError::service_unavailable());
            Filed { kept, refused: refused.into_iter().map(error).collect(), ..Filed::default() }
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
pub async fn filed_before(
    node: &Arc<Node>,
    account: &BareJid,
    by: &str,
    orders: Vec<u64>,
) -> Vec<u64> {
    let request = Request::Which { node: by.to_owned(), orders };
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
        let whole = catch_up(&node, &seat).await.unwrap_or_else(|error| {
            // The messages stay filed; they come when the resource is next announced, or to the next one.
            tracing::warn!(account = %seat.bare, ?error, "offline messages cannot be handed out now");
            true
        });
        // If older ones stay filed because the client hid again, the newer ones go there too, behind them.
        let back = seat.end_catching_up(whole);
        crate::session::no_room(&node, &seat, back);
    });
}

/// Whether all of it was handed out.
async fn catch_up(node: &Arc<Node>, seat: &Arc<Seat>) -> Result<bool, HomeError> {
    let mut after = seat.handed();
    let give_up = Instant::now() + CATCH_UP_MAX;
    'pages: loop {
        let messages = match ask(node, &seat.bare, &Request::Fetch { after }).await {
            Ok(Answer::Messages(messages)) => messages,
            Ok(_) => return Ok(true),
            Err(HomeError::Unreachable | HomeError::NotHome { .. } | HomeError::Busy)
                if Instant::now() < give_up =>
            {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some((last, _)) = messages.last() else { return Ok(true) };
        let upto = *last;
        for (id, bytes) in messages {
            let Ok(stanza) = Stanza::parse(bytes.into()) else {
                tracing::error!(account = %seat.bare, id, "a filed message cannot be read, and is passed over");
                continue;
            };
            // It stays filed until the client has it (`handed_out`).
            let owed = Owed::Home;
            let delivery = Delivery { stanza, via: None, sole: true, order: id, owed };
            match seat.push_older(delivery) {
                Older::Taken => {}
                Older::Full => {
                    // The client reads slowly; the rest of the page is fetched again.
                    tokio::time::sleep(ROOM_LOOK).await;
                    after = seat.handed();
                    continue 'pages;
                }
                Older::Over => return Ok(false), // Gone or hidden.
            }
        }
        after = Some(upto);
    }
}

/// A client has all that was filed for its account up to this id: it need not be kept any longer. Should the home not hear of it, the
/// messages come once more, marked with when they were sent.
pub fn handed_out(node: &Arc<Node>, seat: &Arc<Seat>, upto: u64) {
    if !seat.read_upto(upto) {
        return; // Whoever tells the home already tells it this too.
    }
    let (node, seat) = (node.clone(), seat.clone());
    tokio::spawn(async move {
        // Longer than it takes until the home of a region that is gone has passed on.
        let patience = node.config.geo.hold + node.config.geo.down_after;
        let mut give_up = Instant::now() + patience;
        while let Some(upto) = seat.to_tell_read() {
            match ask(&node, &seat.bare, &Request::Drop { upto }).await {
                Ok(_) => {
                    seat.told_read(upto);
                    give_up = Instant::now() + patience;
                }
                Err(error) if Instant::now() >= give_up => {
                    tracing::warn!(account = %seat.bare, ?error, "handed out, and still filed");
                    seat.told_read(u64::MAX);
                }
                Err(_) => tokio::time::sleep(DROP_RETRY).await,
            }
        }
    });
}

async fn ask(node: &Arc<Node>, account: &BareJid, request: &Request) -> Result<Answer, HomeError> {
    node.homes.exchange(account, home::OP, request).await
}
