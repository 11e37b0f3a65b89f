//! XEP-0356 Privileged Entity, version 0.4.1: what a component that the configuration trusts with it does in the name of our accounts: reads and changes
//! their rosters (§4), sends messages from them (§5), sends requests as they would (§6). It is told what it may when it connects, and `told` what it hears of them. Called by
//! `serve` for what a component with privileges sends, before `federation::inbound` sees it.
//!
//! What it does as an account goes the way of a session's stanzas, by a seat that is in no table and shows nothing: so archives and carbons treat its messages as
//! those of a device, and the features answer as they would the account.
//! Left out: what contacts at other domains had shown before the component connected (§8: it hears of them when they next show something); what was shown before to a connection that
//! takes another's place (the component as a whole has heard); presence for which one that reads too slowly has no room (it is not told again before the component connects anew);
//! earlier presence only once to a component that is a contact too (it hears it twice); requests to other entities than the server, its services and the account itself
//! (`feature-not-implemented`).

mod told;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use config::{Privileges, WatchedPresence};
use futures_util::future::BoxFuture;
use s2s::federation::Handled;
use tokio::time::{interval, timeout};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::forward;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

pub(super) use self::told::Watchers;
pub(super) use self::told::earlier::appeared;
pub use self::told::earlier::room;
pub use self::told::{contact_shows, roster_changed, showing, watches_rosters};
use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::router::{self, Destination, decide};
use crate::session::mailbox::{Mailbox, MailboxLimits};
use crate::session::{self, Delivery, Item, Seat};

/// How long an answer is waited for that others make. What a feature asks of homes and databases has deadlines of its own, well within it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Before it is looked again whether there is anybody who could answer: the last one's end wakes nobody.
const ALONE_LOOK: Duration = Duration::from_secs(1);

/// What a component is told of what it may (§4.2, §5.2, §6.2).
pub(super) fn advertised(server: &Jid, component: &Jid, may: &Privileges) -> Stanza {
    let element = |name: &str| Element::new(name, ns::PRIVILEGE);
    let perm = |access: &str, type_: &str| {
        element("perm").with_attr("access", access).with_attr("type", type_)
    };
    let mut privilege = element("privilege");
    let push = if may.roster_push { "true" } else { "false" };
    if let Some(type_) = type_of(may.roster_get, may.roster_set) {
        privilege.push_child(perm("roster", type_).with_attr("push", push));
    }
    if may.messages {
        privilege.push_child(perm("message", "outgoing"));
    }
    match may.presence {
        WatchedPresence::None => {}
        WatchedPresence::ManagedEntity => {
            privilege.push_child(perm("presence", "managed_entity"));
        }
        WatchedPresence::Roster => privilege.push_child(perm("presence", "roster")),
    }
    let namespaces: std::collections::BTreeSet<&String> =
        may.iq_get.iter().chain(&may.iq_set).collect();
    if !namespaces.is_empty() {
        let one = |ns: &String| {
            let type_ = type_of(may.iq_get.contains(ns), may.iq_set.contains(ns));
            element("namespace").with_attr("ns", ns).with_attr_opt("type", type_)
        };
        let all = namespaces.into_iter().map(one);
        privilege.push_child(element("perm").with_attr("access", "iq").with_children(all));
    }
    Stanza::message(Some(component), Some(server), Type::Normal).with_child(privilege).build()
}

fn type_of(get: bool, set: bool) -> Option<&'static str> {
    match (get, set) {
        (true, true) => Some("both"),
        (true, false) => Some("get"),
        (false, true) => Some("set"),
        (false, false) => None,
    }
}

/// What a stanza asks to be done in somebody's name.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing: it is a stanza like any other.
    Nothing,
    /// This message is to be sent, from an account or from the server.
    Message(Stanza),
    /// This account's request, and whether its answer is wrapped.
    Request(BareJid, Stanza, bool),
}

/// Takes a component's stanza if it is done in somebody's name; gives it back if not.
pub(super) fn take(
    node: &Arc<Node>,
    component: &BareJid,
    may: &Privileges,
    stanza: Stanza,
    handled: Handled,
) -> Option<(Stanza, Handled)> {
    let is_account = |jid: &Jid| jid.local().is_some() && node.domains.trusts_with(jid.domain());
    match asked(may, &node.domains.global, is_account, &stanza) {
        Ok(Asked::Nothing) => return Some((stanza, handled)),
        Ok(Asked::Message(message)) => {
            match message.from().map(Jid::bare).filter(|from| from.local().is_some()) {
                Some(account) => {
                    // In its order; only what takes a while is waited for apart.
                    let mut acting = Acting::begin(node, component, &account, message);
                    if acting.later.is_some() {
                        let node = node.clone();
                        tokio::spawn(async move {
                            acting.done(&node).await;
                            drop(handled);
                        });
                    }
                }
                None => router::route(node, message),
            }
        }
        Ok(Asked::Request(account, request, wrapped)) => {
            if !is_ours(node, &account, &request) {
                router::bounce(node, &stanza, &StanzaError::feature_not_implemented());
                return None;
            }
            let id = request.id().map(std::borrow::Cow::into_owned);
            let acting = Acting::begin(node, component, &account, request);
            let node = node.clone();
            tokio::spawn(async move {
                let answer = acting.answer(&node, id.as_deref()).await;
                answer_to(&node, &stanza, answer, wrapped);
                drop(handled);
            });
        }
        Err(error) => router::bounce(node, &stanza, &error),
    }
    None
}

/// What a stanza asks for, if the component may.
fn asked(
    may: &Privileges,
    server: &str,
    is_account: impl Fn(&Jid) -> bool,
    stanza: &Stanza,
) -> Result<Asked, StanzaError> {
    let Some(to) = stanza.to() else { return Ok(Asked::Nothing) };
    match (stanza.kind(), stanza.type_()) {
        (Kind::Message, kind)
            if kind != Type::Error && stanza.has_child("privilege", ns::PRIVILEGE) =>
        {
            if to.as_str() != server {
                return Ok(Asked::Nothing);
            }
            if !may.messages {
                return Err(StanzaError::forbidden());
            }
            let privilege = stanza.child("privilege", ns::PRIVILEGE);
            let inner = privilege.and_then(|all| forwarded(&all, "message"));
            let message = inner.ok_or_else(StanzaError::bad_request)?;
            let from = message.from().filter(|from| from.resource().is_none());
            // §5.1: a bare JID of the server's.
            if !from.is_some_and(|from| is_account(from) || from.as_str() == server) {
                return Err(StanzaError::forbidden());
            }
            if message.to().is_none() {
                return Err(StanzaError::bad_request());
            }
            Ok(Asked::Message(message))
        }
        (Kind::Iq, Type::Get | Type::Set) if is_account(to) && to.resource().is_none() => {
            let get = stanza.type_() == Type::Get;
            match stanza.first_child() {
                Some(("query", ns::ROSTER)) => {
                    if !(if get { may.roster_get } else { may.roster_set }) {
                        return Err(StanzaError::forbidden());
                    }
                    Ok(Asked::Request(to.bare(), stanza.clone(), false))
                }
                Some(("privileged_iq", ns::PRIVILEGE)) => {
                    let inner = stanza.child("privileged_iq", ns::PRIVILEGE);
                    let inner = inner.as_ref().and_then(|inner| child(inner, "iq"));
                    let request = inner.ok_or_else(StanzaError::bad_request)?;
                    let namespaces = if get { &may.iq_get } else { &may.iq_set };
                    // §6.3: of the same type, and of nobody else.
                    let is_his = request.from().is_none_or(|from| from == to);
                    let payload = request.first_child().map(|(_, ns)| ns);
                    let may_it = payload.is_some_and(|ns| namespaces.iter().any(|may| may == ns));
                    if request.type_() != stanza.type_() || !is_his || !may_it {
                        return Err(StanzaError::forbidden());
                    }
                    if request.id().is_none() || request.children().count() != 1 {
                        return Err(StanzaError::bad_request());
                    }
                    Ok(Asked::Request(to.bare(), request, true))
                }
                _ => Ok(Asked::Nothing),
            }
        }
        _ => Ok(Asked::Nothing),
    }
}

fn forwarded(privilege: &Element, name: &str) -> Option<Stanza> {
    let forwarded = forward::parse(privilege.child("forwarded", ns::FORWARD)?)?;
    (forwarded.stanza.name() == name).then(|| Stanza::from_element(&forwarded.stanza).ok())?
}

fn child(of: &Element, name: &str) -> Option<Stanza> {
    Stanza::from_element(of.child(name, ns::CLIENT)?).ok()
}

/// Whether it is answered here, at once.
fn is_ours(node: &Node, account: &BareJid, request: &Stanza) -> bool {
    match decide(request, &node.domains) {
        Destination::Server | Destination::Service(_) => true,
        Destination::Account(of) => {
            of == *account && request.to().is_none_or(|to| to.resource().is_none())
        }
        _ => false,
    }
}

fn answers(said: &Stanza, id: Option<&str>) -> bool {
    said.kind() == Kind::Iq
        && matches!(said.type_(), Type::Result | Type::Error)
        && said.id().as_deref() == id
}

/// What a session of the account does that sends a stanza, without the session.
struct Acting {
    seat: Arc<Seat>,
    later: Option<BoxFuture<'static, Vec<Action>>>,
}

impl Acting {
    fn begin(node: &Arc<Node>, component: &BareJid, account: &BareJid, stanza: Stanza) -> Acting {
        let full = account.with_resource(&node.token()).expect("a token is a resource");
        let mailbox = Mailbox::new(MailboxLimits::default());
        let seat = Arc::new(Seat::new(full, node.tick_clock(), mailbox));
        let stanza = match stanza.kind() {
            Kind::Iq => stanza.with_from(seat.address()),
            _ => stanza,
        };
        let mut ctx = Ctx::new(node, Some(&seat));
        ctx.component = Some(component);
        let flow = session::handle(&mut ctx, stanza);
        router::perform(node, Some(&seat), std::mem::take(&mut ctx.actions));
        let later = match flow {
            Flow::Later(later) => Some(later),
            Flow::Next | Flow::Done => None,
        };
        Acting { seat, later }
    }

    /// Until what takes a while is done. What it hears is nobody's.
    async fn done(&mut self, node: &Arc<Node>) {
        if let Some(later) = self.later.take() {
            router::perform(node, Some(&self.seat), later.await);
        }
    }

    /// The answer to its request of that id, whoever makes it: a feature may have left it to a task of its own, which has the seat. `None`: there is
    /// nobody left who could answer, or it takes longer than [`ANSWER_WITHIN`].
    async fn answer(mut self, node: &Arc<Node>, id: Option<&str>) -> Option<Stanza> {
        self.done(node).await;
        let is_it = |item| match item {
            Item::Stanza(Delivery { stanza, .. }) if answers(&stanza, id) => Some(stanza),
            _ => None,
        };
        let mut heard = Vec::new();
        let mut look = interval(ALONE_LOOK);
        let come = poll_fn(|cx| {
            while look.poll_tick(cx).is_ready() {}
            // Asked before the mailbox: whoever is gone by then has said what he had to say.
            let alone = Arc::strong_count(&self.seat) == 1;
            loop {
                let more = self.seat.mailbox.poll_drain(cx, &mut heard).is_ready();
                if let Some(answer) = heard.drain(..).find_map(is_it) {
                    return Poll::Ready(Some(answer));
                }
                if !more {
                    return if alone { Poll::Ready(None) } else { Poll::Pending };
                }
            }
        });
        let answer = timeout(ANSWER_WITHIN, come).await;
        self.seat.close();
        answer.unwrap_or_default()
    }
}

/// The answer, to the component: as it is (§4.3), or wrapped (§6.3).
fn answer_to(node: &Arc<Node>, request: &Stanza, answer: Option<Stanza>, wrapped: bool) {
    let (Some(component), Some(account)) = (request.from(), request.to()) else { return };
    let Some(answer) = answer else {
        return router::bounce(node, request, &StanzaError::service_unavailable());
    };
    if !wrapped {
        return router::route(node, answer.with_to(component).with_from(account));
    }
    let reply =
        xmpp::stanza::Builder::new(Kind::Iq, answer.type_(), Some(account), Some(component));
    let mut inside = Vec::new();
    let answer = answer.with_to(account);
    forward::write(&mut inside, &answer, None);
    let error = answer.element().child("error", ns::CLIENT).cloned();
    let xml = [b"<privilege xmlns='urn:xmpp:privilege:2'>", &*inside, b"</privilege>"].concat();
    let reply = reply.id_opt(request.id().as_deref()).with_xml(&xml).with_child_opt(error);
    router::route(node, reply.build());
}

#[cfg(test)]
mod tests;
