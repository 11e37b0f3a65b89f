//! Room: what a service is: a feature that owns a domain of its own below ours (`upload`, `proxy`, rooms). Called by `session::stanza` (IQs
//! of clients, which may wait) and by `router::route` (everything else); whose domain it is, `router::decide` says. Any region answers for
//! a service, so a stanza never travels to one: it is handled at the node where it entered. Like a feature, a service sends nothing itself: it
//! pushes [`Action`]s. The list is `features::services`.
//!
//! Service discovery of the domain itself (XEP-0030) and pings (XEP-0199) are answered here for all of them; a service may take them first.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use replication::durable_log::Change;
use tokio::task::JoinSet;
use xmpp::ns;
use xmpp::payload::disco::{Info, Items};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::router;

/// A feature with a domain. Everything but what it says of itself does nothing by default.
pub trait Service: Send + Sync {
    /// Short name: the folder's.
    fn name(&self) -> &'static str;

    /// For people, in the server's list of items.
    fn title(&self) -> &'static str;

    /// What the domain says of itself: identities, features, forms. The features of XEP-0030 and XEP-0199 are added.
    fn info(&self, node: &Node) -> Info;

    /// Its public items.
    fn items(&self, _node: &Node) -> Items {
        Items::default()
    }

    /// An IQ get or set with one payload, to any address under the domain, of anybody. `Next`: not known, and the sender hears it.
    fn iq(&self, _ctx: &mut Ctx<'_>, _iq: &Stanza) -> Flow {
        Flow::Next
    }

    /// A message, presence, or an answer to an IQ of ours. `Next`: nobody takes it (RFC 6121 §8).
    fn stanza(&self, _ctx: &mut Ctx<'_>, _stanza: &Stanza) -> Flow {
        Flow::Next
    }

    /// Stores whose committed changes it follows.
    fn changes(&self) -> &'static [&'static str] {
        &[]
    }

    /// A change was committed at the home, or applied here from its log; `snapshot` when it is part of a full resync.
    fn changed(&self, _ctx: &mut Ctx<'_>, _change: &Change, _snapshot: bool) {}

    /// Begins what runs beside the stanzas: listeners, sweeps. Once, when the node serves.
    ///
    /// # Errors
    /// A port that cannot be had; the node does not start.
    fn start(&self, _node: &Arc<Node>, _tasks: &mut JoinSet<()>) -> io::Result<()> {
        Ok(())
    }

    /// Its paths of the HTTP port.
    fn http(&self, _node: &Arc<Node>) -> Option<axum::Router> {
        None
    }
}

/// The services of a node, each with its domain; `router::Destination::Service` counts in this order.
#[derive(Default)]
pub struct Services {
    list: Vec<(String, Box<dyn Service>)>,
    changes: HashMap<&'static str, Vec<usize>>,
}

impl Services {
    /// These, in order.
    #[must_use]
    pub fn new(list: Vec<(String, Box<dyn Service>)>) -> Services {
        let mut changes: HashMap<_, Vec<_>> = HashMap::new();
        for (at, (_, service)) in list.iter().enumerate() {
            service.changes().iter().for_each(|store| changes.entry(*store).or_default().push(at));
        }
        Services { list, changes }
    }

    /// Their domains, in order.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(host, _)| host.as_str())
    }

    /// Domain and title of each: the server's items (XEP-0030 §4.1).
    pub fn titles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(host, service)| (host.as_str(), service.title()))
    }

    /// Each service.
    pub fn all(&self) -> impl Iterator<Item = &dyn Service> {
        self.list.iter().map(|(_, service)| service.as_ref())
    }

    /// A change was applied.
    pub fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) {
        for at in self.changes.get(change.store().as_str()).into_iter().flatten() {
            self.list[*at].1.changed(ctx, change, snapshot);
        }
    }

    /// A stanza to service number `at`, whose form (id, payload) is that of its kind.
    pub fn handle(&self, ctx: &mut Ctx<'_>, at: usize, stanza: &Stanza) -> Flow {
        let (_, service) = &self.list[at];
        if !matches!(stanza.type_(), Type::Get | Type::Set) {
            return service.stanza(ctx, stanza);
        }
        match service.iq(ctx, stanza) {
            Flow::Next => {
                let answer = common(ctx.node, service.as_ref(), stanza)
                    .map_or_else(|error| stanza.error_reply(&error), Some);
                ctx.actions.extend(answer.map(Action::Reply));
                Flow::Done
            }
            flow => flow,
        }
    }
}

/// A stanza to a service that no session waits for.
pub(crate) fn take(node: &Arc<Node>, at: usize, stanza: &Stanza) {
    let mut ctx = Ctx::new(node, None);
    let flow = node.services.handle(&mut ctx, at, stanza);
    router::perform(node, None, std::mem::take(&mut ctx.actions));
    match flow {
        Flow::Done => {}
        Flow::Next if stanza.kind() == Kind::Iq => {}
        Flow::Next => router::undeliverable(node, stanza),
        Flow::Later(later) => {
            let node = node.clone();
            tokio::spawn(async move { router::perform(&node, None, later.await) });
        }
    }
}

/// What every service answers for its domain; below it nobody is known.
fn common(node: &Node, service: &dyn Service, iq: &Stanza) -> Result<Stanza, StanzaError> {
    let unknown = StanzaError::service_unavailable;
    let of_domain = iq.to().is_some_and(|to| to.local().is_none());
    if !of_domain || iq.type_() != Type::Get {
        return Err(unknown());
    }
    let asked = iq.element();
    let payload = asked.children().next().ok_or_else(StanzaError::bad_request)?;
    let answer = match (payload.name(), payload.ns()) {
        ("ping", ns::PING) => None,
        ("query", ns::DISCO_INFO | ns::DISCO_ITEMS)
            if payload.attr("node").is_some_and(|node| !node.is_empty()) =>
        {
            return Err(StanzaError::item_not_found()); // XEP-0030 §7
        }
        ("query", ns::DISCO_INFO) => {
            let known = [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::PING];
            Some(service.info(node).with_features(known).element())
        }
        ("query", ns::DISCO_ITEMS) => Some(service.items(node).element()),
        _ => return Err(unknown()),
    };
    Ok(Stanza::iq_result(iq, answer))
}
