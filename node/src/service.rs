//! Room: what a service is: a feature that owns a domain of its own below ours (`upload`, `proxy`, rooms). Called by `session::stanza` (IQs
//! of clients, which may wait) and by `router::route` (everything else); whose domain it is, `router::decide` says. Any region answers for
//! a service, so a stanza never travels to one: it is handled at the node where it entered. Like a feature, a service sends nothing itself: it
//! pushes [`Action`]s. The list is `features::services`. A service has its domain from the configuration, which may give it one, another, or none
//! while the node runs ([`begin_anew`]).
//!
//! Service discovery of the domain itself (XEP-0030) and pings (XEP-0199) are answered here for all of them; a service may take them first.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use config::Config;
use parking_lot::Mutex;
use replication::durable_log::Change;
use tokio::task::JoinSet;
use tower_service::Service as _;
use xmpp::ns;
use xmpp::payload::disco::{Info, Item, Items};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::features;
use crate::http;
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

    /// Begins what runs beside the stanzas: listeners, sweeps. Once, when the node serves and it has a domain. When it has none any more, `tasks` are dropped.
    ///
    /// # Errors
    /// A port that cannot be had; the node does not start, or does not take the configuration that wants it.
    fn start(&self, _node: &Arc<Node>, _tasks: &mut JoinSet<()>) -> io::Result<()> {
        Ok(())
    }

    /// Its paths of the HTTP port. Made for each request that nothing else answers: a service may begin and end while the port is served.
    fn http(&self, _node: &Arc<Node>) -> Option<axum::Router> {
        None
    }
}

/// A service and its domain.
pub type Hosted = (String, Arc<dyn Service>);

/// The services of a node; `router::Destination::Service` counts in this order, in which each has its place whether or not it has a domain.
#[derive(Default)]
pub struct Services {
    list: Vec<Option<Hosted>>,
    changes: HashMap<&'static str, Vec<usize>>,
}

impl Services {
    /// These, in order.
    #[must_use]
    pub fn new(list: Vec<Option<Hosted>>) -> Services {
        let mut changes: HashMap<_, Vec<_>> = HashMap::new();
        for (at, (_, service)) in numbered(&list) {
            service.changes().iter().for_each(|store| changes.entry(*store).or_default().push(at));
        }
        Services { list, changes }
    }

    /// Their domains, each with its number.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, usize)> {
        numbered(&self.list).map(|(at, (host, _))| (host.as_str(), at))
    }

    /// The server's items (XEP-0030 §4.1).
    pub fn items(&self) -> impl Iterator<Item = Item> {
        numbered(&self.list).map(|(_, (host, service))| {
            let name = Some(service.title().to_owned());
            Item { jid: host.clone(), node: None, name }
        })
    }

    /// Each service that has a domain.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Service>> {
        numbered(&self.list).map(|(_, (_, service))| service)
    }

    /// The one of that name, if it has a domain.
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Service>> {
        self.all().find(|service| service.name() == name)
    }

    /// A change was applied.
    pub fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) {
        for at in self.changes.get(change.store().as_str()).into_iter().flatten() {
            if let Some((_, service)) = &self.list[*at] {
                service.changed(ctx, change, snapshot);
            }
        }
    }

    /// A stanza to service number `at`, whose form (id, payload) is that of its kind.
    pub fn handle(&self, ctx: &mut Ctx<'_>, at: usize, stanza: &Stanza) -> Flow {
        let is_asked = matches!(stanza.type_(), Type::Get | Type::Set);
        let Some((_, service)) = self.list.get(at).and_then(Option::as_ref) else {
            // It has lost its domain this very moment.
            let error = is_asked.then(|| stanza.error_reply(&StanzaError::service_unavailable()));
            ctx.actions.extend(error.flatten().map(Action::Reply));
            return if is_asked { Flow::Done } else { Flow::Next };
        };
        if !is_asked {
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

fn numbered(list: &[Option<Hosted>]) -> impl Iterator<Item = (usize, &Hosted)> {
    list.iter().enumerate().filter_map(|(at, hosted)| Some((at, hosted.as_ref()?)))
}

/// What runs beside the stanzas, by the names of the services. Ended when a service loses its domain, and when the node stops.
#[derive(Default)]
pub struct Running(Mutex<HashMap<&'static str, JoinSet<()>>>);

impl Running {
    /// It ends: afterwards its ports are free.
    pub async fn shutdown(&self) {
        let all: Vec<JoinSet<()>> = self.0.lock().drain().map(|(_, tasks)| tasks).collect();
        for mut tasks in all {
            tasks.shutdown().await;
        }
    }
}

/// Services as another configuration wants them, begun and not in force yet. Dropped: they end.
pub struct Begun {
    services: Services,
    running: HashMap<&'static str, JoinSet<()>>,
}

/// Begins what runs beside the stanzas of all services of a node that begins to serve.
///
/// # Errors
/// See [`Service::start`].
pub fn begin(node: &Arc<Node>) -> io::Result<()> {
    let mut running = node.running.0.lock();
    for service in node.services.all() {
        let mut tasks = JoinSet::new();
        service.start(node, &mut tasks)?;
        running.insert(service.name(), tasks);
    }
    Ok(())
}

/// The paths of services, for what `router` does not answer.
pub fn with_paths(node: &Arc<Node>, router: Router) -> Router {
    let node = node.clone();
    router.fallback(move |request: Request| {
        let paths = node.services.all().filter_map(|service| service.http(&node));
        paths.fold(http::nothing(), Router::merge).call(request)
    })
}

/// Begins those that have no domain and get one by `config`. Those that have one go on, under whatever name.
///
/// # Errors
/// See [`Service::start`]; nothing has begun then.
pub fn begin_anew(node: &Arc<Node>, config: &Config) -> io::Result<Begun> {
    let services = Services::new(features::services(config, |name| node.services.named(name)));
    let mut running = HashMap::new();
    for service in services.all().filter(|one| node.services.named(one.name()).is_none()) {
        let mut tasks = JoinSet::new();
        service.start(node, &mut tasks)?;
        running.insert(service.name(), tasks);
    }
    Ok(Begun { services, running })
}

impl Begun {
    /// The services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// In force from now on. Gives what is to end because its service has no domain any more; what that has under way (a file, a bytestream) goes on to its end.
    #[must_use]
    pub fn replace(self, node: &Node) -> Running {
        let Begun { services, running } = self;
        let mut all = node.running.0.lock();
        let ended = all.extract_if(|name, _| services.named(name).is_none()).collect();
        all.extend(running);
        let replaced = node.services.replace(services);
        assert!(replaced, "it is replaced no more often than the configuration");
        Running(Mutex::new(ended))
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
