//! RFC 6121 §2, the roster, with versions (§2.6). Changes are requests to the account's home (`home`); the roster push is an effect
//! of *applying* the committed change, in every region alike, so each interested resource gets it exactly when its region has it.
//! A guest has a roster too, while its session lasts (`guest`). `subscription` is appendix A, `cache` what is held in memory, `copied` what comes as a whole, `record` what is stored.
//! Left out, on purpose: interim pushes for an outdated `ver`. The full roster is sent instead, which §2.6.3 allows, and which is what clients
//! know from every other server.

pub mod cache;
pub mod copied;
pub mod guest;
pub mod home;
pub mod record;
pub mod subscription;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use config::Limits;
use replication::durable_log::Change;
use tokio::time::Instant;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use self::home::{Answer, Request};
use self::record::{Contact, Effect, ROSTER, VERSION};
use self::subscription::Kind;
use crate::app::Node;
use crate::components;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::presence::relation::{self, Parting};
use crate::geo::light;
use crate::homes::HomeError;
use crate::router::perform::to_seat;
use crate::session::Seat;

/// How long a session that comes from another node waits until this one has applied what it has seen there.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(1);
/// Before it is looked again.
const CATCH_UP_LOOK: Duration = Duration::from_millis(20);

/// See the room.
pub struct RosterFeature;

impl Feature for RosterFeature {
    fn name(&self) -> &'static str {
        "roster"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::ROSTER], changes: &[ROSTER, VERSION], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::ROSTER);
        disco.account.push(ns::ROSTER);
    }

    fn stream_features(&self) -> &'static str {
        "<ver xmlns='urn:xmpp:features:rosterver'/><sub xmlns='urn:xmpp:features:pre-approval'/>"
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if !iq.is("query") {
            return Flow::Next;
        }
        match &iq.target {
            Target::Account { own: true, .. } => {}
            // §2.3.3 and §2.1.6: nobody may touch another's roster.
            Target::Account { own: false, .. } => {
                return refuse(ctx, iq, &StanzaError::forbidden());
            }
            Target::Server => return Flow::Next,
        }
        let Some(seat) = ctx.seat else { return Flow::Next };
        let (node, seat, request) = (ctx.node.clone(), seat.clone(), iq.stanza.clone());
        if iq.stanza.type_() == Type::Get {
            seat.ask_roster();
            return Flow::Later(Box::pin(async move {
                let (version, answer) = get(&node, &seat.bare, &request).await;
                vec![Action::Roster { seat, version, answer }]
            }));
        }
        match parse_set(&iq.stanza.element(), &seat.bare, &node.config.limits) {
            Ok(change) => {
                Flow::Later(Box::pin(async move { set(&node, &seat.bare, &request, change).await }))
            }
            Err(error) => refuse(ctx, iq, &error),
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        let Ok(account) = BareJid::parse(change.owner()) else { return Flow::Next };
        if snapshot {
            ctx.node.rosters.forget(&account, cache::is_here(ctx.node, &account));
            // Comes behind the contacts, once for each account.
            if matches!(change, Change::Put { store, .. } if store.as_str() == VERSION) {
                light::retell(ctx.node, &account);
            }
            return Flow::Next;
        }
        let held = ctx.node.rosters.cached(&account);
        let was_held = held.is_some();
        let was_listed = held.is_some_and(|roster| roster.shows(change));
        if matches!(change, Change::Clear { store, .. } if store.as_str() == ROSTER) {
            relation::ended(ctx.node, &account);
        }
        let parting = Parting::of(ctx.node, &account, change);
        if let Some(parting) = &parting {
            parting.begin(ctx.node, &account);
        }
        let version = ctx.node.rosters.apply(&account, change);
        if let Some(parting) = parting {
            parting.end(ctx.node, &account);
        }
        match change {
            Change::Put { store, key, value, .. } if store.as_str() == ROSTER => {
                let (Ok(jid), Some(contact)) = (BareJid::parse(key), Contact::decode(value)) else {
                    return Flow::Next;
                };
                if let Some(stanza) = contact
                    .deliver
                    .as_ref()
                    .and_then(|bytes| Stanza::parse(bytes.clone().into()).ok())
                {
                    ctx.actions.push(Action::ToAvailable(account.clone(), stanza));
                }
                if contact.push {
                    let item = contact.element(&jid);
                    components::roster_changed(
                        ctx.node,
                        &account,
                        &item,
                        version,
                        &mut ctx.actions,
                    );
                    push(ctx, &account, item, version);
                }
                match contact.effect {
                    Effect::None => {}
                    Effect::Granted => relation::granted(ctx, &account, &jid),
                    Effect::Withdrawn => relation::withdrawn(ctx, &account, &jid),
                    Effect::Gained => relation::gained(ctx, &account, &jid),
                }
            }
            // A contact that was never listed goes without a word; if the roster that is held knew of its end before, it may have been.
            Change::Delete { store, key, .. }
                if store.as_str() == ROSTER && (was_listed || ctx.node.rosters.knew(&account)) =>
            {
                let item = removed(key);
                components::roster_changed(ctx.node, &account, &item, version, &mut ctx.actions);
                push(ctx, &account, item, version);
            }
            // Nobody here has asked for the roster: whether it was listed says what was written ahead of its end.
            Change::Delete { store, key, .. }
                if store.as_str() == ROSTER
                    && !was_held
                    && components::watches_rosters(ctx.node)
                    && is_listed(ctx.before, change) =>
            {
                let item = removed(key);
                components::roster_changed(ctx.node, &account, &item, version, &mut ctx.actions);
            }
            _ => {}
        }
        Flow::Next
    }
}

fn refuse(ctx: &mut Ctx<'_>, iq: &Iq, error: &StanzaError) -> Flow {
    ctx.actions.extend(iq.stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}

/// A session comes from another node, where pushes have brought it to a version: what this node has applied since is pushed here. Who was removed
/// just then is not named: its client finds that with the next roster it asks for.
pub async fn arrived(node: &Arc<Node>, seat: &Arc<Seat>, known: u64) {
    if seat.roster_told().is_none() {
        return;
    }
    let give_up = Instant::now() + CATCH_UP_WITHIN;
    let roster = loop {
        let Ok(roster) = node.rosters.load(node, &seat.bare).await else { return };
        // Behind what the client has seen: if it asked now, a version would go back.
        if roster.version >= known || Instant::now() >= give_up {
            break roster;
        }
        tokio::time::sleep(CATCH_UP_LOOK).await;
    };
    if roster.version > known {
        let version = roster.version.to_string();
        for (jid, contact) in roster.contacts.iter().filter(|(_, contact)| contact.listed) {
            let query = Element::new("query", ns::ROSTER)
                .with_attr("ver", &version)
                .with_child(contact.element(jid));
            let from = Jid::from(&seat.bare);
            let id = format!("push{version}");
            let push = Stanza::iq_set(Some(&from), Some(seat.address()), &id, query);
            to_seat(node, seat, push);
        }
    }
    seat.roster_is_told(roster.version.max(known));
}

/// The version that a roster push of ours speaks of; `None`: it is none.
pub fn version_of_push(stanza: &Stanza) -> Option<u64> {
    let is_push =
        stanza.type_() == Type::Set && stanza.first_child() == Some(("query", ns::ROSTER));
    let query = is_push.then(|| stanza.child("query", ns::ROSTER)).flatten()?;
    query.attr("ver")?.parse().ok()
}

/// §2.1.6: to every interested resource, and to each region its own.
fn push(ctx: &mut Ctx<'_>, account: &BareJid, item: Element, version: Option<u64>) {
    let Some(version) = version else { return };
    let push = push_of(account, version, item);
    ctx.actions.push(Action::ToInterested { account: account.clone(), version, push });
}

fn push_of(account: &BareJid, version: u64, item: Element) -> Stanza {
    let query =
        Element::new("query", ns::ROSTER).with_attr("ver", &version.to_string()).with_child(item);
    let id = format!("push{version}");
    Stanza::iq_set(Some(&Jid::from(account)), None, &id, query)
}

/// A push of several that make a version together: it speaks of the one before them, but of none before what its session knows already.
pub fn not_before(push: Stanza, known: u64) -> Stanza {
    let query = push.child("query", ns::ROSTER).filter(|_| version_of_push(&push) < Some(known));
    let Some(mut query) = query else { return push };
    query.set_attr("ver", &known.to_string());
    push.without_children(|_, _| true).with_child(&query)
}

/// Whether that is the last word of a contact that is removed, and says that a client could see it.
fn is_listed(before: Option<&Change>, removal: &Change) -> bool {
    let Some(Change::Put { store, key, value, .. }) = before else { return false };
    let is_its = store.as_str() == ROSTER
        && before.is_some_and(|before| before.owner() == removal.owner())
        && matches!(removal, Change::Delete { key: removed, .. } if removed == key);
    is_its && Contact::decode(value).is_some_and(|contact| contact.listed)
}

/// Of a contact that is in the roster no more.
fn removed(contact: &str) -> Element {
    Element::new("item", ns::ROSTER).with_attr("jid", contact).with_attr("subscription", "remove")
}

/// The answer, and the version it speaks of.
async fn get(node: &Arc<Node>, account: &BareJid, request: &Stanza) -> (Option<u64>, Stanza) {
    let roster = match node.rosters.load(node, account).await {
        Ok(roster) => roster,
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            return (None, error_of(request, &error.stanza_error()));
        }
    };
    let ver = request
        .element()
        .child("query", ns::ROSTER)
        .and_then(|query| query.attr("ver").map(str::to_owned));
    let now = roster.version.to_string();
    if ver.as_deref() == Some(now.as_str()) {
        // §2.6.3: nothing has changed.
        return (Some(roster.version), Stanza::iq_result(request, None));
    }
    let mut query = Element::new("query", ns::ROSTER)
        .with_attr_opt("ver", ver.is_some().then_some(now.as_str()));
    for (jid, contact) in roster.contacts.iter().filter(|(_, contact)| contact.listed) {
        query.push_child(contact.element(jid));
    }
    (Some(roster.version), Stanza::iq_result(request, Some(query)))
}

/// §2.3.3: exactly one item, of a shape we can keep.
fn parse_set(iq: &Element, own: &BareJid, limits: &Limits) -> Result<Request, StanzaError> {
    let query = iq.child("query", ns::ROSTER).ok_or_else(StanzaError::bad_request)?;
    let mut items = query.children();
    let (Some(item), None) = (items.next(), items.next()) else {
        return Err(StanzaError::bad_request());
    };
    if !item.is("item", ns::ROSTER) {
        return Err(StanzaError::bad_request());
    }
    let jid = item.attr("jid").ok_or_else(StanzaError::bad_request)?;
    let contact = Jid::parse(jid).map_err(|_| StanzaError::jid_malformed())?.bare();
    if contact == *own {
        return Err(StanzaError::not_allowed());
    }
    if item.attr("subscription") == Some("remove") {
        return Ok(Request::Remove { contact });
    }
    let name = item.attr("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let mut groups = BTreeSet::new();
    for group in item.children().filter(|child| child.is("group", ns::ROSTER)) {
        let text = group.text();
        if text.is_empty() || text.len() > limits.roster_name_bytes_max {
            return Err(StanzaError::not_acceptable());
        }
        if !groups.insert(text) {
            return Err(StanzaError::bad_request());
        }
    }
    let is_long = |name: &String| name.len() > limits.roster_name_bytes_max;
    if groups.len() > limits.roster_groups_max || name.as_ref().is_some_and(is_long) {
        return Err(StanzaError::not_acceptable());
    }
    let items_max = u32::try_from(limits.roster_items_max).unwrap_or(u32::MAX);
    Ok(Request::Set { contact, name, groups: groups.into_iter().collect(), items_max })
}

async fn set(
    node: &Arc<Node>,
    account: &BareJid,
    request: &Stanza,
    change: Request,
) -> Vec<Action> {
    let removed = match &change {
        Request::Remove { contact } => Some(contact.clone()),
        _ => None,
    };
    match ask(node, account, &change).await {
        Ok(Answer::Removed(state)) => {
            let contact = removed.expect("only a removal is answered so");
            let mut actions = vec![Action::Reply(Stanza::iq_result(request, None))];
            // §2.5.2: the server cancels what there was, in both directions.
            for (was, kind) in [
                (state.to || state.pending_out, Kind::Unsubscribe),
                (state.from || state.pending_in, Kind::Unsubscribed),
            ] {
                if was {
                    actions.extend(relation::deliver(node, account, &contact, kind, None).await);
                }
            }
            actions
        }
        Ok(Answer::NotFound) => {
            vec![Action::Reply(error_of(request, &StanzaError::item_not_found()))]
        }
        Ok(Answer::TooMany) => {
            vec![Action::Reply(error_of(request, &StanzaError::resource_constraint()))]
        }
        Ok(_) => vec![Action::Reply(Stanza::iq_result(request, None))],
        Err(error) => vec![Action::Reply(error_of(request, &error.stanza_error()))],
    }
}

fn error_of(request: &Stanza, error: &StanzaError) -> Stanza {
    request.error_reply(error).expect("a get or set may be answered")
}

/// Whether whoever asks may see the account's presence, and so what else is for those only (XEP-0030 §8, XEP-0012 §6). The owner may.
pub async fn shows_presence(node: &Arc<Node>, account: &BareJid, asked: &Stanza) -> bool {
    let Some(asker) = asked.from().map(|from| from.bare()) else { return false };
    if asker == *account {
        return true;
    }
    match node.rosters.load(node, account).await {
        Ok(roster) => roster.has_subscriber(&asker),
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            false
        }
    }
}

/// Asks the account's home; of a guest, its node.
///
/// # Errors
/// The home could not be reached or could not commit.
pub async fn ask(
    node: &Arc<Node>,
    account: &BareJid,
    request: &Request,
) -> Result<Answer, HomeError> {
    if node.domains.has_guests(account.domain()) {
        let answer = guest::ask(node, account, request).await;
        return answer.map_err(HomeError::from);
    }
    node.homes.exchange(account, home::OP, request).await
}
