//! XEP-0355 Namespace Delegation, version 0.5: requests of namespaces that the configuration gives to a component are answered by it, in the name of the
//! server and of its accounts (§4). It is told of its delegations when it connects; what is asked of the server or of an account's bare JID, by whomever, is
//! wrapped for it, and its answer goes to whoever asked as if it were ours. Nobody waits for it in line (§9): what a session asks next is not held up. While it is not connected, or does not
//! answer in time, or answers something else, that is `service-unavailable` (§4.3).
//! Called by `session::stanza` ahead of the features, by `serve`, and by disco. Costs one look at an empty map where nothing is delegated.
//!
//! The component may be connected elsewhere, and its answer comes to the server at its own node then: the id of a request names the node that asked, and the answer
//! is handed on there.
//! Left out: the client mode (§5) and its commands (§6).

mod nest;
mod payload;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::disco::Info;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;

pub(super) use self::nest::appeared;
pub use self::nest::nested;
pub(super) use self::payload::advertised;
use self::waiting::{Key, Waiting};
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::geo::frame;
use crate::router;
use crate::session::{Delivery, Receipt, Seat};

/// Ids of requests to components begin like that; behind it stands the node that asks.
const ID: &str = "delegation/";
/// A pseudo-namespace: disco#info of accounts, at nodes that nobody here knows (§7.2).
pub const INFO: &str = "urn:xmpp:delegation:2:bare:disco#info:*";
/// A pseudo-namespace: disco#items of accounts (§7.2).
pub const ITEMS: &str = "urn:xmpp:delegation:2:bare:disco#items:*";

fn is_pseudo(namespace: &str) -> bool {
    namespace == INFO || namespace == ITEMS
}

/// What is delegated, and what is asked of components.
#[derive(Debug, Default)]
pub(super) struct Delegations {
    by_namespace: BTreeMap<String, Delegated>,
    /// Requests that wait for their answers.
    waiting: Mutex<Waiting>,
    /// What components say at which node: as many as there are namespaces, twice.
    nested: Mutex<BTreeMap<String, Nested>>,
}

/// What is known of a node at which a component is asked.
#[derive(Debug, Default)]
struct Nested {
    /// The id of the newest question. What is answered to an older one counts no more.
    newest: String,
    said: Option<Info>,
}

#[derive(Debug)]
struct Delegated {
    to: BareJid,
    attributes: Vec<String>,
}

impl Delegations {
    /// Those of the configuration.
    pub(super) fn new(config: &config::Components) -> Delegations {
        let mut by_namespace = BTreeMap::new();
        for component in &config.component {
            let Ok(to) = BareJid::new(None, &component.domain) else { continue };
            for one in &component.delegations {
                let (to, attributes) = (to.clone(), one.attributes.clone());
                by_namespace.insert(one.namespace.clone(), Delegated { to, attributes });
            }
        }
        Delegations { by_namespace, ..Delegations::default() }
    }

    /// Namespaces that are delegated to a component.
    fn of<'a>(&'a self, component: &'a BareJid) -> impl Iterator<Item = &'a str> {
        let its = |(_, delegated): &(&String, &Delegated)| delegated.to == *component;
        self.by_namespace.iter().filter(its).map(|(namespace, _)| namespace.as_str())
    }
}

/// See the room.
pub struct Delegation {
    is_on: bool,
}

impl Delegation {
    /// It is advertised if something is delegated.
    pub fn new(config: &config::Config) -> Delegation {
        let mut all = config.components.component.iter();
        Delegation { is_on: all.any(|component| !component.delegations.is_empty()) }
    }
}

impl Feature for Delegation {
    fn name(&self) -> &'static str {
        "delegation"
    }

    fn interests(&self) -> Interests {
        Interests { answers: self.is_on, ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        if self.is_on {
            disco.server.push(ns::DELEGATION);
        }
    }

    fn answer(&self, ctx: &mut Ctx<'_>, iq: &Iq) {
        if iq.target == Target::Server {
            heard(ctx.node, &iq.stanza, true);
        }
    }
}

/// A request to the server or to an account: `Some` if it is a component's to answer.
pub(crate) fn taken(ctx: &mut Ctx<'_>, iq: &Iq) -> Option<Flow> {
    let node = ctx.node;
    let all = &node.components.delegations;
    if all.by_namespace.is_empty() {
        return None;
    }
    // The pseudo-namespaces are nobody's: they stand for requests of others (`remaining`).
    let (_, namespace) = iq.stanza.first_child().filter(|(_, of)| !is_pseudo(of))?;
    let delegated = all.by_namespace.get(namespace)?;
    // §4.3.1: not what the component itself asks, in its own name or in an account's.
    let asks_itself = iq.stanza.from().is_some_and(|from| from.domain() == delegated.to.domain());
    if asks_itself || ctx.component == Some(&delegated.to) {
        return None;
    }
    if !delegated.attributes.is_empty() {
        let asked = iq.stanza.element();
        let payload = asked.children().next()?;
        let has = |name: &String| payload.attr(name).is_some();
        // §4.3: as if nothing were delegated.
        if !delegated.attributes.iter().all(has) {
            return None;
        }
    }
    let asker = (ctx.seat.cloned(), ctx.receipt.take());
    let action = hand_on(node, asker, &delegated.to, iq.stanza.clone());
    ctx.actions.push(action);
    Some(Flow::Done)
}

/// A disco request to an account that nothing here answers, of that pseudo-namespace: what is to be done if it is a component's to answer, and not asked `by`
/// that component in the account's name.
pub(crate) fn remaining(
    node: &Arc<Node>,
    by: Option<&BareJid>,
    asker: (Option<&Arc<Seat>>, Option<Receipt>),
    namespace: &str,
    request: &Stanza,
) -> Option<Action> {
    let delegated = node.components.delegations.by_namespace.get(namespace)?;
    let asks_itself = request.from().is_some_and(|from| from.domain() == delegated.to.domain());
    let itself = asks_itself || by == Some(&delegated.to);
    let (seat, receipt) = asker;
    (!itself).then(|| hand_on(node, (seat.cloned(), receipt), &delegated.to, request.clone()))
}

/// To the component; what it answers, or that it does not, goes to the seat or to whoever asked. A stream on which it came has sent one that is
/// not handled, until then.
fn hand_on(
    node: &Arc<Node>,
    (seat, receipt): (Option<Arc<Seat>>, Option<Receipt>),
    to: &BareJid,
    request: Stanza,
) -> Action {
    let refused = |error: &StanzaError| {
        Action::Reply(request.error_reply(error).expect("a get or a set is answered"))
    };
    if !super::is_connected(node, to) {
        return refused(&StanzaError::service_unavailable());
    }
    let Some(asked) = Asked::of(node, to, request.from()) else {
        return refused(&StanzaError::resource_constraint());
    };
    let wrapped = payload::wrapped(&node.server, &Jid::from(to), &asked.id, &request);
    let (node, to) = (node.clone(), to.clone());
    tokio::spawn(async move {
        let answer = asked.answer(&to).await;
        let answer = answer.and_then(|answer| payload::unwrapped(&answer, &request));
        let unavailable = || request.error_reply(&StanzaError::service_unavailable());
        if let Some(reply) = answer.or_else(unavailable) {
            answer_to(&node, seat.as_ref(), reply);
        }
        drop(receipt);
    });
    Action::Route(wrapped)
}

/// To the seat that has asked. If its session goes on elsewhere by now, or at another seat, the answer goes after it (RFC 6120 §8.2.3).
fn answer_to(node: &Arc<Node>, seat: Option<&Arc<Seat>>, reply: Stanza) {
    let Some(seat) = seat else { return router::route(node, reply) };
    if seat.take(Delivery::light(reply.clone())) {
        return;
    }
    if !seat.mailbox.is_closed() {
        node.metrics.mailbox_full.inc();
        return;
    }
    // What has no sender is said in the account's name.
    let reply = match reply.from() {
        Some(_) => reply,
        None => reply.with_from(&Jid::from(&seat.bare)),
    };
    router::route(node, reply);
}

/// A request to a component that waits for its answer.
struct Asked {
    node: Arc<Node>,
    id: String,
    answer: oneshot::Receiver<Stanza>,
}

impl Asked {
    /// Somebody's. `None`: there are as many as there may be, in all, of that component, or of that asker: an account of ours, or another domain.
    fn of(node: &Arc<Node>, component: &BareJid, asker: Option<&Jid>) -> Option<Asked> {
        let asker = asker.map_or("", |asker| match node.domains.has_users(asker.domain()) {
            true => asker.bare_str(),
            false => asker.domain(),
        });
        let config = &node.config.components;
        let each = [
            (Key::Component(component.clone()), config.delegated_component_max),
            (Key::Asker(asker.to_owned()), config.delegated_asker_max),
        ];
        Asked::counted(node, config.delegated_max, &each)
    }

    /// One of the server's own, at that node of its component. The one before it waits no more: so there are no more than twice as many as there are delegations,
    /// and there is room for them whatever else waits.
    fn own(node: &Arc<Node>, at: &str) -> Asked {
        let asked = Asked::counted(node, usize::MAX, &[]).expect("nothing bounds it");
        let all = &node.components.delegations;
        let before = {
            let mut nested = all.nested.lock();
            let newest = &mut nested.entry(at.to_owned()).or_default().newest;
            std::mem::replace(newest, asked.id.clone())
        };
        all.waiting.lock().remove(&before);
        asked
    }

    fn counted(node: &Arc<Node>, most: usize, each: &[(Key, usize)]) -> Option<Asked> {
        let id = format!("{ID}{}/{}", node.geo.me, node.token());
        let (answers, answer) = oneshot::channel();
        let mut waiting = node.components.delegations.waiting.lock();
        // Not made where there is no room: its end would wait for the lock.
        waiting.insert(&id, answers, most, each).then(|| Asked { node: node.clone(), id, answer })
    }

    /// What that component says within the time it has.
    async fn answer(mut self, of: &BareJid) -> Option<Stanza> {
        let within = self.node.config.components.delegated_deadline;
        let answer = timeout(within, &mut self.answer).await.ok()?.ok()?;
        // An error of ours is that it cannot be reached; it has the component's address too.
        answer.from().is_some_and(|from| from.domain() == of.domain()).then_some(answer)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.node.components.delegations.waiting.lock().remove(&self.id);
    }
}

/// An answer has come to the server: if it is to a request of another node's, that has it. `first`: it has not been handed on yet.
fn heard(node: &Node, answer: &Stanza, first: bool) {
    let Some(id) = answer.id() else { return };
    let Some((of, _)) = id.strip_prefix(ID).and_then(|rest| rest.rsplit_once('/')) else { return };
    if of == node.geo.me.to_string() {
        let waits = node.components.delegations.waiting.lock().remove(&id);
        if let Some(waits) = waits {
            let _ = waits.send(answer.clone()); // Whoever does not wait any more has told already.
        }
    } else if first && let Some(peer) = node.geo.peer_named(of) {
        node.geo.send(peer.ix, frame::ANSWER, &[answer.bytes()]);
    }
}

/// An answer to a request of this node has come to the server at another, which handed it on.
pub fn answered(node: &Node, answer: &Stanza) {
    heard(node, answer, false);
}
