//! Room: what comes from other domains. Called by the streams' tasks for each stanza, whose `from` is of a domain that was proved and whose `to` is at
//! one of ours. What a local stranger may ask, these may, with the same answers (RFC 6121 §8.5): IQs go by `session::iq`, messages by the ledger and
//! the session table, with their place in the addressee's archive, subscriptions and probes to the contact's home and roster.
//!
//! Nothing here blocks. What has to wait (a home, a roster) opens a *lane* for its pair of bare JIDs, and what the same pair sends meanwhile waits in it:
//! messages and presence of a pair never overtake each other (RFC 6120 §10.1). A lane that is empty is gone; a pair that waits for nothing has none.
//! Requests to the server, to an account or to a service are answered beside the lanes. Bound: whatever waits holds its [`Handled`], and a
//! stream with `s2s.unhandled_max` of those is not read.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use s2s::federation::Handled;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

use crate::app::Node;
use crate::components;
use crate::feature::{Ctx, Flow};
use crate::features::archive;
use crate::features::presence::{probe, relation};
use crate::features::roster::subscription;
use crate::router::{self, Destination, decide, perform};
use crate::session::{self, Receipt};

/// Who sends, and to whom.
type Pair = (BareJid, BareJid);
/// What takes a while, and all that is done when it is over.
type Step = BoxFuture<'static, ()>;

/// What waits behind something of the same pair.
enum Waiting {
    Stanza(Stanza, Handled),
    Step(Step),
}

/// The lanes that are open. See the room.
#[derive(Default)]
pub struct Inbound {
    /// How many: nobody takes the lock while there are none.
    count: AtomicUsize,
    lanes: Mutex<HashMap<Pair, VecDeque<Waiting>, foldhash::fast::RandomState>>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbound({} lanes)", self.count.load(Ordering::Acquire))
    }
}

impl Inbound {
    /// Behind what the pair waits for; given back if that is nothing.
    fn wait(&self, pair: &Pair, stanza: Stanza, handled: Handled) -> Result<(), (Stanza, Handled)> {
        // A stream sends one after the other, so a lane that it has opened is seen by what it sends next.
        if self.count.load(Ordering::Acquire) == 0 {
            return Err((stanza, handled));
        }
        match self.lanes.lock().get_mut(pair) {
            Some(lane) => {
                lane.push_back(Waiting::Stanza(stanza, handled));
                Ok(())
            }
            None => Err((stanza, handled)),
        }
    }

    /// Opens a lane for a step; `Some`: it is for the caller to walk. If another stream's stanza has opened one, it waits there.
    fn open(&self, pair: &Pair, step: Step) -> Option<Step> {
        let mut lanes = self.lanes.lock();
        match lanes.entry(pair.clone()) {
            Entry::Occupied(mut lane) => {
                lane.get_mut().push_back(Waiting::Step(step));
                return None;
            }
            Entry::Vacant(lane) => drop(lane.insert(VecDeque::new())),
        }
        self.count.store(lanes.len(), Ordering::Release);
        Some(step)
    }

    /// The next that waits; if there is none, the lane is no more.
    fn next(&self, pair: &Pair) -> Option<Waiting> {
        let mut lanes = self.lanes.lock();
        let next = lanes.get_mut(pair)?.pop_front();
        if next.is_none() {
            lanes.remove(pair);
            self.count.store(lanes.len(), Ordering::Release);
        }
        next
    }

    /// How many pairs wait for something.
    pub fn lanes(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// Takes a stanza of another domain. Returns at once; `handled` is dropped when responsibility for the stanza is taken.
pub fn inbound(node: &Arc<Node>, stanza: Stanza, handled: Handled) {
    let (Some(from), Some(to)) = (stanza.from(), stanza.to()) else { return };
    if stanza.kind() == Kind::Iq && !to.is_full() {
        return iq(node, stanza, handled);
    }
    let pair = (from.bare(), to.bare());
    let lanes = &node.federation.inbound;
    let Err((stanza, handled)) = lanes.wait(&pair, stanza, handled) else { return };
    let Some(step) = take(node, stanza, handled) else { return };
    if let Some(step) = lanes.open(&pair, step) {
        tokio::spawn(walk(node.clone(), pair, step));
    }
}

/// The step that opened a lane, and what has come behind it.
async fn walk(node: Arc<Node>, pair: Pair, first: Step) {
    let lane = Lane { node, pair };
    let Lane { node, pair } = &lane;
    first.await;
    while let Some(next) = node.federation.inbound.next(pair) {
        let step = match next {
            Waiting::Stanza(stanza, handled) => take(node, stanza, handled),
            Waiting::Step(step) => Some(step),
        };
        if let Some(step) = step {
            step.await;
        }
    }
}

/// One that is being walked. If that ends in a panic, what waits in it is lost, and the pair is not stuck for ever.
struct Lane {
    node: Arc<Node>,
    pair: Pair,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            while self.node.federation.inbound.next(&self.pair).is_some() {}
        }
    }
}

/// Does what can be done at once, and gives back what takes longer.
fn take(node: &Arc<Node>, stanza: Stanza, handled: Handled) -> Option<Step> {
    match stanza.kind() {
        Kind::Message => message(node, stanza, handled),
        Kind::Presence => presence(node, stanza, handled),
        _ => {
            iq(node, stanza, handled);
            None
        }
    }
}

/// As a local stranger's (RFC 6121 §8.5). Its answer is routed. Who lets others answer takes the receipt.
fn iq(node: &Arc<Node>, stanza: Stanza, handled: Handled) {
    let receipt = Some(Receipt::of_stream(handled));
    let mut ctx = Ctx { receipt, ..Ctx::new(node, None) };
    let flow = session::iq(&mut ctx, stanza);
    let handled = ctx.receipt.take();
    perform(node, None, std::mem::take(&mut ctx.actions));
    if let Flow::Later(later) = flow {
        let node = node.clone();
        tokio::spawn(async move {
            perform(&node, None, later.await);
            drop(handled);
        });
    }
}

fn message(node: &Arc<Node>, stanza: Stanza, handled: Handled) -> Option<Step> {
    let stanza = session::without_our_delay(node, stanza);
    match decide(&stanza, &node.domains) {
        Destination::Account(account) => {
            let mut receipt = Receipt::of_stream(handled);
            match archive::received(node, &account, &stanza, &mut receipt) {
                Ok(stanza) => router::route_from(node, stanza, Some(receipt)),
                Err(stanza) => router::bounce(node, &stanza, &StanzaError::resource_constraint()),
            }
            None
        }
        Destination::Service(at) => service(node, at, &stanza, handled),
        // A component is responsible for it when it has it, another domain too; and an answer says all.
        _ => {
            router::route_from(node, stanza, Some(Receipt::of_stream(handled)));
            None
        }
    }
}

fn presence(node: &Arc<Node>, stanza: Stanza, handled: Handled) -> Option<Step> {
    let stanza = session::without_our_delay(node, stanza);
    if stanza.type_() == Type::Invalid {
        router::bounce(node, &stanza, &StanzaError::bad_request());
        return None;
    }
    match decide(&stanza, &node.domains) {
        Destination::Account(contact) => match relation::kind_of(stanza.type_()) {
            Some(kind) => Some(subscription(node.clone(), contact, kind, stanza, handled)),
            None if stanza.type_() == Type::Probe
                && node.domains.has_accounts(contact.domain()) =>
            {
                let node = node.clone();
                Some(Box::pin(async move {
                    let actions = probe::of_another_domain(&node, &stanza).await;
                    perform(&node, None, actions);
                    drop(handled);
                }))
            }
            None => {
                let Some(told) = components::contact_shows(node, &contact, &stanza) else {
                    router::route(node, stanza);
                    return None;
                };
                let node = node.clone();
                Some(Box::pin(async move {
                    told.await;
                    router::route(&node, stanza);
                    drop(handled);
                }))
            }
        },
        Destination::Service(at) => service(node, at, &stanza, handled),
        _ => {
            router::route(node, stanza);
            None
        }
    }
}

/// RFC 6121 §3.1.3, §3.1.6, §3.2.3, §3.3.3: the contact's home decides.
fn subscription(
    node: Arc<Node>,
    contact: BareJid,
    kind: subscription::Kind,
    stanza: Stanza,
    handled: Handled,
) -> Step {
    Box::pin(async move {
        let Some(account) = stanza.from().map(Jid::bare) else { return };
        // §3.1.2: bare JIDs on both ends, whatever their server did.
        let stanza = stanza.with_from(&Jid::from(&account)).with_to(&Jid::from(&contact));
        let actions = relation::deliver(&node, &account, &contact, kind, Some(stanza)).await;
        perform(&node, None, actions);
        drop(handled);
    })
}

/// Messages and presence to a service of ours.
fn service(node: &Arc<Node>, at: usize, stanza: &Stanza, handled: Handled) -> Option<Step> {
    let mut ctx = Ctx::new(node, None);
    let flow = node.services.handle(&mut ctx, at, stanza);
    perform(node, None, std::mem::take(&mut ctx.actions));
    match flow {
        Flow::Done => None,
        Flow::Next => {
            router::undeliverable(node, stanza);
            None
        }
        Flow::Later(later) => {
            let node = node.clone();
            Some(Box::pin(async move {
                perform(&node, None, later.await);
                drop(handled);
            }))
        }
    }
}
