//! The list that is in effect for a session, and what follows from it: what the session is kept from, what it may not send, who may not see it.
//! It hangs on the [`Seat`], and is absent for those who block nobody: then every question here is one look at the seat's flags.
//! Called by the router and `geo` for what arrives, by `session` for what a client sends, by the presence feature for who is told.
//! XEP-0016 §2.2 (rules 1 to 4, 9), §2.10 to §2.13; XEP-0191 §3.3, §3.4.

use std::sync::Arc;

use global_distrib::Row;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::error::{ErrorType, StanzaError};
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use super::list::{Item, List, Rules, Traffic, is_exempt};
use super::record::{Head, PRIVACY, decode, key};
use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::features::roster::record::Roster;
use crate::geo::abroad::is_abroad;
use crate::geo::presence::Presence;
use crate::session::Seat;
use crate::storage::StorageError;

/// See the room.
#[derive(Debug)]
pub struct Guard {
    /// The active list's name; `None`: it is the account's default list.
    pub active: Option<String>,
    /// The list.
    pub rules: Rules,
    /// The account's roster, if the list asks for it. A copy: a stanza is judged under locks behind which no roster may be read.
    roster: Option<Arc<Roster>>,
}

impl Guard {
    /// For a session of that account, whose roster is at hand if it can be.
    fn new(node: &Node, account: &BareJid, active: Option<String>, list: List) -> Self {
        let roster = list.asks_roster().then(|| node.rosters.cached(account)).flatten();
        Self { active, rules: Rules::new(list), roster }
    }

    fn denies(&self, who: &Jid, traffic: Traffic) -> Option<&Item> {
        let item = self.rules.judge(who, traffic, self.roster.as_deref());
        item.filter(|item| !item.allow)
    }
}

/// What a stanza is to whom it is for.
fn traffic_in(stanza: &Stanza) -> Traffic {
    match (stanza.kind(), stanza.type_()) {
        (Kind::Message, _) => Traffic::Message,
        (Kind::Iq, _) => Traffic::Iq,
        (Kind::Presence, Type::Available | Type::Unavailable) => Traffic::PresenceIn,
        _ => Traffic::Other,
    }
}

/// And to who sends it: only presence notifications can be named in this direction.
fn traffic_out(stanza: &Stanza) -> Traffic {
    match (stanza.kind(), stanza.type_()) {
        (Kind::Presence, Type::Available | Type::Unavailable) => Traffic::PresenceOut,
        _ => Traffic::Other,
    }
}

/// Whether the session may not have this stanza, for its sender's sake.
pub fn refuses(seat: &Seat, stanza: &Stanza) -> bool {
    let Some(guard) = seat.guard() else { return false };
    let Some(from) = stanza.from() else { return false };
    !is_exempt(&seat.bare, from) && guard.denies(from, traffic_in(stanza)).is_some()
}

/// Whether that one may not see the session.
pub fn hides(seat: &Seat, from: &Jid) -> bool {
    let Some(guard) = seat.guard() else { return false };
    !is_exempt(&seat.bare, from) && guard.denies(from, Traffic::PresenceOut).is_some()
}

/// Takes out those that may not see the session.
pub fn hide(seat: &Seat, from: &mut Vec<BareJid>) {
    if let Some(guard) = seat.guard() {
        from.retain(|who| {
            let who = Jid::from(who);
            is_exempt(&seat.bare, &who) || guard.denies(&who, Traffic::PresenceOut).is_none()
        });
    }
}

/// What becomes of a stanza that a client sends to somebody its list denies (XEP-0191 §3.3): `None`, if it does not.
pub fn outbound(ctx: &mut Ctx<'_>, stanza: &Stanza) -> Option<Flow> {
    let seat = ctx.seat?;
    let guard = seat.guard()?;
    let to = stanza.to()?;
    if is_exempt(&seat.bare, to) {
        return None;
    }
    let item = guard.denies(to, traffic_out(stanza))?;
    let mut error = StanzaError::not_acceptable().with_type(ErrorType::Cancel);
    if guard.active.is_none() && item.as_blocked().is_some() {
        error = error.with_extra(Element::new("blocked", ns::BLOCKING_ERRORS));
    }
    ctx.actions.extend(stanza.error_reply(&error).map(Action::Reply));
    Some(Flow::Done)
}

/// A session has been bound: the account's default list is in effect for it.
pub async fn load(node: Arc<Node>, seat: Arc<Seat>) -> Vec<Action> {
    let account = &seat.bare;
    let read = || Head::read(&*node.storage, account);
    let mut found = read().await;
    loop {
        let head = match found {
            Ok(Some(head)) => head,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, %account, "a privacy list cannot be read");
                return Vec::new();
            }
        };
        let serial = head.serial;
        let guard = match head.default {
            Some(named) => Some(made(&node, account, None, named.list).await),
            None => None,
        };
        seat.set_guard(guard);
        // What was changed meanwhile may have been there first.
        found = read().await;
        if matches!(&found, Ok(Some(head)) if head.serial == serial) {
            return Vec::new();
        }
    }
}

async fn made(node: &Node, account: &BareJid, active: Option<String>, list: List) -> Arc<Guard> {
    if list.asks_roster()
        && let Err(error) = node.rosters.load(node, account).await
    {
        tracing::error!(%error, %account, "a roster cannot be read");
    }
    Arc::new(Guard::new(node, account, active, list))
}

/// A session has chosen its active list, or none (XEP-0016 §2.4); its home knows.
///
/// # Errors
/// The lists cannot be read.
pub async fn choose(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    active: Option<String>,
) -> Result<Vec<Action>, StorageError> {
    let account = &seat.bare;
    loop {
        let list = read(node, account, active.as_deref()).await?;
        let guard = match list.clone() {
            Some(list) => Some(made(node, account, active.clone(), list).await),
            None => None,
        };
        let mut actions = Vec::new();
        put(&mut actions, node, seat, guard);
        // What was changed meanwhile may have been there first.
        if read(node, account, active.as_deref()).await? == list {
            return Ok(actions);
        }
        crate::router::perform(node, None, actions);
    }
}

/// The list of that name, or the default list.
async fn read(
    node: &Node,
    account: &BareJid,
    name: Option<&str>,
) -> Result<Option<List>, StorageError> {
    match name {
        Some(name) => {
            let bytes = node.storage.get(PRIVACY, account.as_str(), &key(name)).await?;
            bytes.map(|bytes| decode(&bytes)).transpose()
        }
        None => {
            let head = Head::read(&*node.storage, account).await?;
            Ok(head.and_then(|head| head.default).map(|named| named.list))
        }
    }
}

/// The default list is another: for every session that has chosen no other. `None`: there is none any more.
pub fn default_is(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, list: Option<&List>) {
    let guard = seat.guard();
    if guard.as_ref().is_some_and(|guard| guard.active.is_some()) {
        return;
    }
    if guard.as_ref().map(|guard| guard.rules.list()) == list {
        return;
    }
    match list {
        Some(list) => renew(ctx, seat, None, list.clone()),
        None => put(&mut ctx.actions, ctx.node, seat, None),
    }
}

/// A list is another: for every session that has chosen it.
pub fn list_is(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, name: &str, list: &List) {
    if seat.guard().is_some_and(|guard| guard.active.as_deref() == Some(name)) {
        renew(ctx, seat, Some(name.to_owned()), list.clone());
    }
}

/// The account's roster is another: subscriptions and groups count as they are now (XEP-0016 §2.2 rule 9).
pub fn roster_is(ctx: &mut Ctx<'_>, seat: &Arc<Seat>) {
    if let Some(guard) = seat.guard()
        && guard.rules.list().asks_roster()
    {
        renew(ctx, seat, guard.active.clone(), guard.rules.list().clone());
    }
}

/// With the roster that is at hand; if there is none, once more when there is.
fn renew(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, active: Option<String>, list: List) {
    let made = Guard::new(ctx.node, &seat.bare, active, list);
    let waits = made.roster.is_none() && made.rules.list().asks_roster();
    put(&mut ctx.actions, ctx.node, seat, Some(Arc::new(made)));
    if waits {
        let (node, seat) = (ctx.node.clone(), seat.clone());
        tokio::spawn(async move {
            if let Err(error) = node.rosters.load(&node, &seat.bare).await {
                tracing::error!(%error, account = %seat.bare, "a roster cannot be read");
                return;
            }
            let Some(guard) = seat.guard() else { return };
            let (active, list) = (guard.active.clone(), guard.rules.list().clone());
            let made = Guard::new(&node, &seat.bare, active, list);
            let mut actions = Vec::new();
            put(&mut actions, &node, &seat, Some(Arc::new(made)));
            crate::router::perform(&node, None, actions);
        });
    }
}

/// Puts a list into effect. Who may not see the session any more is told that it is unavailable, who may again is shown it; and so is the
/// session itself for those it hears of again, or no longer. A blocked address (XEP-0191) is not shown unavailable to who blocks it: nothing
/// is to come from there, not even this.
fn put(actions: &mut Vec<Action>, node: &Node, seat: &Arc<Seat>, new: Option<Arc<Guard>>) {
    let old = seat.set_guard(new.clone());
    if !seat.available() {
        return;
    }
    let denies = |guard: &Option<Arc<Guard>>, who: &Jid, traffic| match guard {
        Some(guard) if !is_exempt(&seat.bare, who) => {
            guard.denies(who, traffic).map(|item| item.as_blocked().is_some())
        }
        _ => None,
    };
    let mut hidden_from = Vec::new();
    let mut unheard = Vec::new();
    if let Some(roster) = node.rosters.cached(&seat.bare) {
        for (contact, item) in &roster.contacts {
            let who = Jid::from(contact);
            if item.state.from {
                let out = Traffic::PresenceOut;
                match (denies(&old, &who, out), denies(&new, &who, out)) {
                    (None, Some(_)) => hidden_from.push(contact.clone()),
                    (Some(_), None) => {
                        actions.push(Action::Grant { seat: seat.clone(), to: contact.clone() });
                    }
                    _ => {}
                }
            }
            if item.state.to {
                let within = Traffic::PresenceIn;
                match (denies(&old, &who, within), denies(&new, &who, within)) {
                    (None, Some(false)) => leave(actions, node, seat, contact),
                    (Some(_), None) => unheard.push(contact.clone()),
                    _ => {}
                }
            }
        }
    }
    let unavailable = || Stanza::presence(None, Some(seat.address()), Type::Unavailable).build();
    for to in seat.directed() {
        if denies(&new, &to, Traffic::PresenceOut).is_some() {
            seat.undirect(&to);
            // Who watches is told below.
            if !seat.is_shown() || !hidden_from.contains(&to.bare()) {
                actions.push(Action::Route(unavailable().with_to(&to)));
            }
        }
    }
    if seat.is_shown() && !hidden_from.is_empty() {
        let generation = Presence::ALWAYS;
        let presence = Presence { stanza: unavailable(), generation, node: None, withdrawn: false };
        actions.push(Action::Multicast { presence, to: hidden_from });
    }
    for contact in unheard {
        hear(actions, node, seat, contact);
    }
}

/// XEP-0016 §2.10, note: a contact that is not heard any more is shown unavailable. Of one at another domain we do not know which resources it has shown.
fn leave(actions: &mut Vec<Action>, node: &Node, seat: &Arc<Seat>, contact: &BareJid) {
    if is_abroad(node, seat.bare.domain(), contact) {
        return not_there(actions, seat, contact);
    }
    let shown = node.directory.read(contact.as_str(), |rows| {
        let shown = rows.iter().filter(|row| row.available && row.lit && !row.hidden);
        shown.map(|row| Jid::from(&row.full)).collect::<Vec<_>>()
    });
    for full in shown.unwrap_or_default() {
        let to = Jid::from(&seat.bare);
        let stanza = Stanza::presence(Some(&to), Some(&full), Type::Unavailable).build();
        actions.push(Action::ToSeat(seat.clone(), stanza));
    }
}

/// A contact is heard again: how it is by now, also if it has gone meanwhile.
fn hear(actions: &mut Vec<Action>, node: &Node, seat: &Arc<Seat>, contact: BareJid) {
    let shown = |row: &Row<Arc<Seat>>| row.available && !row.hidden;
    let there = node.directory.read(contact.as_str(), |rows| rows.iter().any(shown));
    if there.unwrap_or(false) || is_abroad(node, seat.bare.domain(), &contact) {
        actions.push(Action::Probe { from: seat.full.clone(), to: vec![contact] });
    } else if node.domains.has_accounts(contact.domain()) {
        not_there(actions, seat, &contact);
    }
}

fn not_there(actions: &mut Vec<Action>, seat: &Arc<Seat>, contact: &BareJid) {
    let (to, from) = (Jid::from(&seat.bare), Jid::from(contact));
    let stanza = Stanza::presence(Some(&to), Some(&from), Type::Unavailable).build();
    actions.push(Action::ToSeat(seat.clone(), stanza));
}
