//! RFC 6121 §4, presence: initial presence, broadcast, probes, directed presence, unavailable; and the way of subscription stanzas
//! (`relation`). Clients and other servers may ask for somebody's presence too (`probe`). A broadcast goes to local contacts at once and as one frame to every other live region. The row is changed before
//! the broadcast leaves, so a contact that comes up elsewhere either gets the broadcast or finds the row and probes. Contacts at other domains get a
//! stanza each, from the node of the session (`geo::abroad`).
//! Left out: when somebody who is not there was seen last, in the answer to a probe (§4.3.2, a MAY); a contact that has moved (`gone`, `redirect`).

pub mod probe;
pub mod relation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::Duration;

use global_distrib::Row;
use replication::Hlc;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Kind, Stanza, Type};

use crate::app::Node;
use crate::components;
use crate::feature::{Action, Ctx, Feature, Flow, Interests, SessionEvent};
use crate::features::blocking;
use crate::features::roster::record::Roster;
use crate::geo::abroad::is_abroad;
use crate::geo::presence::Presence;
use crate::session::Seat;
use crate::storage::StorageError;

/// Before a roster that could not be read is read again.
const TOLD_AGAIN: Duration = Duration::from_secs(2);

/// See the room.
pub struct PresenceFeature;

impl Feature for PresenceFeature {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn interests(&self) -> Interests {
        Interests { outbound_presence: true, session: true, ..Interests::default() }
    }

    fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        let Some(seat) = ctx.seat.cloned() else { return Flow::Next };
        if stanza.kind() != Kind::Presence {
            return Flow::Next;
        }
        if let Some(kind) = relation::kind_of(stanza.type_()) {
            let Some(contact) = stanza.to().map(Jid::bare) else {
                return refuse(ctx, stanza, &StanzaError::bad_request());
            };
            let node = ctx.node.clone();
            // §3.1.2: the server stamps the bare JIDs on both ends.
            let stanza = stanza.with_from(&Jid::from(&seat.bare)).with_to(&Jid::from(&contact));
            if contact == seat.bare {
                return Flow::Done;
            }
            return Flow::Later(Box::pin(async move {
                relation::send(&node, &seat.bare, &contact, kind, stanza).await
            }));
        }
        match (stanza.type_(), stanza.to()) {
            (Type::Available, None) => available(ctx, &seat, stanza),
            (Type::Unavailable, None) => {
                unavailable(ctx, &seat, Some(stanza.clone()));
                Flow::Done
            }
            (Type::Available, Some(to)) => {
                seat.direct(to.clone(), ctx.node.config.limits.directed_presence_max);
                ctx.actions.push(Action::Route(stanza.clone()));
                Flow::Done
            }
            (Type::Unavailable, Some(to)) => {
                seat.undirect(to);
                ctx.actions.push(Action::Route(stanza.clone()));
                Flow::Done
            }
            (Type::Error, Some(_)) => {
                ctx.actions.push(Action::Route(stanza.clone()));
                Flow::Done
            }
            (Type::Probe, Some(to)) => probe::ask(ctx, &seat, stanza, to),
            (Type::Probe | Type::Error, _) => Flow::Done,
            _ => refuse(ctx, stanza, &StanzaError::bad_request()),
        }
    }

    fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Flow {
        if event == SessionEvent::Gone
            && let Some(seat) = ctx.seat.cloned()
        {
            unavailable(ctx, &seat, None);
        }
        Flow::Next
    }
}

fn refuse(ctx: &mut Ctx<'_>, stanza: &Stanza, error: &StanzaError) -> Flow {
    ctx.actions.extend(stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}

/// RFC 6121 §4.7.2.3: an integer from -128 to 127; absent means 0, nonsense is a bad request.
fn priority(stanza: &Stanza) -> Result<i8, StanzaError> {
    if !stanza.has_child("priority", xmpp::ns::CLIENT) {
        return Ok(0);
    }
    let element = stanza.element();
    let Some(child) = element.child("priority", xmpp::ns::CLIENT) else { return Ok(0) };
    child.text().trim().parse().map_err(|_| StanzaError::bad_request())
}

/// §4.2 and §4.4: initial or later presence. The roster is at hand before anybody is shown to it: it says whom it watches.
fn available(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, stanza: &Stanza) -> Flow {
    let priority = match priority(stanza) {
        Ok(priority) => priority,
        Err(error) => return refuse(ctx, stanza, &error),
    };
    if let Some(roster) = ctx.node.rosters.cached(&seat.bare) {
        let stanza = stanza.clone();
        ctx.actions.extend(shown(ctx.node, seat, &roster, stanza, priority));
        return Flow::Done;
    }
    let (node, seat, stanza) = (ctx.node.clone(), seat.clone(), stanza.clone());
    Flow::Later(Box::pin(async move {
        match node.rosters.load(&node, &seat.bare).await {
            Ok(roster) => shown(&node, &seat, &roster, stanza, priority),
            Err(error @ StorageError::Unavailable { .. }) => {
                tracing::debug!(%error, account = %seat.bare, "its contacts hear of it later");
                let Shown { initial, unseen, hand_out } = show(&node, &seat, &stanza, priority);
                if !unseen {
                    let seat = Arc::downgrade(&seat);
                    tokio::spawn(told_later(node.clone(), seat, stanza, initial));
                }
                hand_out.into_iter().collect()
            }
            Err(error) => {
                tracing::error!(%error, "a roster cannot be read");
                let error = stanza.error_reply(&error.stanza_error());
                error.map(Action::Reply).into_iter().collect()
            }
        }
    }))
}

/// The database is away: who is told is known when it is back, if the session still shows itself then. Before, its other sessions and those who
/// write to it find it there.
async fn told_later(node: Arc<Node>, seat: Weak<Seat>, stanza: Stanza, initial: bool) {
    loop {
        tokio::time::sleep(TOLD_AGAIN).await;
        let Some(seat) = seat.upgrade() else { return };
        let is_newest = || seat.presence().is_some_and(|newest| newest.bytes() == stanza.bytes());
        if !is_newest() {
            return;
        }
        match node.rosters.load(&node, &seat.bare).await {
            Ok(roster) if is_newest() => {
                let mut actions = Vec::new();
                told(&node, &mut actions, &seat, &roster, stanza, initial);
                crate::router::perform(&node, Some(&seat), actions);
                return;
            }
            Ok(_) => return,
            Err(StorageError::Unavailable { .. }) => {}
            Err(error) => {
                tracing::error!(%error, "a roster cannot be read");
                return;
            }
        }
    }
}

/// What has come of showing a session.
struct Shown {
    /// It had shown nothing before.
    initial: bool,
    /// It is invisible: nobody is told.
    unseen: bool,
    hand_out: Option<Action>,
}

/// The session shows itself: its row says so from now on.
fn show(node: &Arc<Node>, seat: &Arc<Seat>, stanza: &Stanza, priority: i8) -> Shown {
    let unseen = seat.invisible();
    let initial = !seat.set_presence(Some(stanza.clone()));
    seat.shown_at(node.now_ms());
    // Nothing is ever filed for a guest.
    let hand_out = seat.set_priority(priority) && node.domains.has_accounts(seat.bare.domain());
    if hand_out {
        // Before the row says so: what is new must not overtake what waits.
        seat.begin_catching_up();
    }
    node.announce(seat, priority, true);
    Shown { initial, unseen, hand_out: hand_out.then(|| Action::HandOut(seat.clone())) }
}

/// The same, and its contacts are told.
fn shown(
    node: &Arc<Node>,
    seat: &Arc<Seat>,
    roster: &Roster,
    stanza: Stanza,
    priority: i8,
) -> Vec<Action> {
    let Shown { initial, unseen, hand_out } = show(node, seat, &stanza, priority);
    let mut actions = Vec::new();
    if !unseen {
        told(node, &mut actions, seat, roster, stanza, initial);
    }
    actions.extend(hand_out);
    actions
}

/// Who is told, and who is asked.
fn told(
    node: &Node,
    actions: &mut Vec<Action>,
    seat: &Arc<Seat>,
    roster: &Roster,
    stanza: Stanza,
    initial: bool,
) {
    let mut to: Vec<BareJid> = roster.subscribers().cloned().collect();
    blocking::hide(seat, &mut to);
    to.push(seat.bare.clone());
    components::showing(node, &stanza, |of| roster.has_subscriber(of), actions);
    let presence = Presence { stanza, generation: seat.generation, node: None, withdrawn: false };
    actions.push(Action::Multicast { presence, to });
    if initial {
        let mut asked: Vec<BareJid> = roster.subscriptions().cloned().collect();
        asked.push(seat.bare.clone());
        actions.push(Action::Probe { from: seat.full.clone(), to: asked });
        // §3.1.3: requests that nobody has answered yet.
        for contact in roster.contacts.values() {
            let request =
                contact.request.as_ref().and_then(|bytes| Stanza::parse(bytes.clone().into()).ok());
            let request = request.filter(|request| !blocking::refuses(seat, request));
            actions.extend(request.map(Action::Reply));
        }
    }
}

/// §4.5: by its own word, or because it is gone.
fn unavailable(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, stanza: Option<Stanza>) {
    let own_word = stanza.is_some();
    let was_there = seat.available();
    let was_shown = seat.set_presence(None);
    seat.set_priority(-1);
    if own_word && was_there {
        ctx.node.announce(seat, 0, false);
    }
    let stanza = stanza.unwrap_or_else(|| no_more(seat));
    if own_word && was_shown {
        // §4.5.2: "as well as to the resource that generated" it.
        ctx.actions.push(Action::Reply(stanza.with_to(&Jid::from(&seat.bare))));
    }
    farewell(ctx, seat, stanza, was_shown.then_some(seat.generation));
}

/// XEP-0186 §3.1: everybody who sees it hears that it is gone; to messages and to the presence of others it stays available.
pub fn vanish(ctx: &mut Ctx<'_>, seat: &Arc<Seat>) {
    let was_there = seat.available();
    let was_shown = seat.hide();
    if !was_there {
        let hand_out = seat.set_priority(0);
        if hand_out {
            seat.begin_catching_up();
        }
        ctx.node.announce(seat, 0, true);
        ctx.actions.extend(hand_out.then(|| Action::HandOut(seat.clone())));
    } else {
        ctx.node.announce(seat, seat.priority(), true);
    }
    if was_shown {
        // Its row says that it is there, so this is of no session.
        farewell(ctx, seat, no_more(seat), Some(Presence::ALWAYS));
    }
}

/// XEP-0186 §3.2: as before initial presence. Whom it wrote to meanwhile is remembered.
pub fn appear(ctx: &mut Ctx<'_>, seat: &Arc<Seat>) {
    if seat.unhide() {
        seat.set_priority(-1);
        ctx.node.announce(seat, 0, false);
    }
}

fn no_more(seat: &Seat) -> Stanza {
    Stanza::presence(None, Some(seat.address()), Type::Unavailable).build()
}

/// Those it wrote to hear of it, and its subscribers if they saw it (`shown`: of which generation). Who must not see it does not (XEP-0191).
fn farewell(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, stanza: Stanza, shown: Option<Hlc>) {
    let mut directed = seat.take_directed();
    directed.retain(|to| !blocking::hides(seat, to));
    let Some(generation) = shown else {
        ctx.actions.extend(directed.iter().map(|to| Action::Route(stanza.with_to(to))));
        return;
    };
    let presence = Presence { stanza, generation, node: None, withdrawn: false };
    let (node, seat) = (ctx.node.clone(), seat.clone());
    match node.rosters.cached(&seat.bare) {
        Some(roster) => {
            tell_gone(&node, &mut ctx.actions, &seat, &roster, presence, directed);
        }
        None => {
            tokio::spawn(async move {
                let roster = node.rosters.load(&node, &seat.bare).await.unwrap_or_default();
                let mut actions = Vec::new();
                tell_gone(&node, &mut actions, &seat, &roster, presence, directed);
                crate::router::perform(&node, None, actions);
            });
        }
    }
}

fn tell_gone(
    node: &Node,
    actions: &mut Vec<Action>,
    seat: &Seat,
    roster: &Roster,
    presence: Presence,
    directed: Vec<Jid>,
) {
    for to in directed.iter().filter(|to| !hears(node, &seat.bare, roster, to)) {
        actions.push(Action::Route(presence.stanza.with_to(to)));
    }
    components::showing(node, &presence.stanza, |of| roster.has_subscriber(of), actions);
    // Behind the roster: who is not in it any more, and may see this session, is here.
    let mut to = node.geo.partings.of(seat.bare.as_str());
    to.extend(roster.subscribers().cloned());
    blocking::hide(seat, &mut to);
    to.push(seat.bare.clone());
    actions.push(Action::Multicast { presence, to });
}

/// §4.6.3: whether a target of directed presence hears of the end by the broadcast, and needs no word of its own. Who of a contact at another domain
/// is there its server knows.
fn hears(node: &Node, account: &BareJid, roster: &Roster, to: &Jid) -> bool {
    let bare = to.bare();
    if bare != *account && !roster.has_subscriber(&bare) {
        return false;
    }
    let there = |rows: &[Row<Arc<Seat>>]| {
        rows.iter().any(|row| row.available && row.full.as_str() == to.as_str())
    };
    to.is_bare()
        || is_abroad(node, account.domain(), &bare)
        || node.directory.read(bare.as_str(), there).unwrap_or(false)
}
