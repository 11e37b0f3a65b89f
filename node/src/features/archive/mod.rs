//! XEP-0313 Message Archive Management, version 1.1.1 (`urn:xmpp:mam:2#extended` too), with preferences (XEP-0441 0.2.0), full-text search
//! (XEP-0431 0.3.0), the archive's ids on what is delivered (XEP-0359 0.7.0), and tombstones for what was retracted (XEP-0424 0.4.2).
//!
//! A message gets its ids where it enters, one for the archive of its sender and one for its addressee's, so that every delivered copy carries
//! the same; it is filed at the two homes beside its delivery (`queue`), and each home gives it its place (`home`). Reading is from the local
//! replica (`query`), after the home has been asked whether it is behind; if the home does not answer, what is here is given and called unstable.
//!
//! Left out: archives of rooms (with the rooms), groupchat in an account's archive, configuration by ad-hoc command (XEP-0441 §2.2).

pub mod home;
pub mod item;
pub mod prefs;
pub mod query;
pub mod queue;
pub mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use replication::durable_log::Change;
use tokio::time::Instant;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::rsm::Given;
use xmpp::payload::{date_time, delay, forward, stanza_id};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use self::home::{Answer, Bounds, Filing, Known, OP, Request};
use self::item::{ARCHIVE, Item, Uid};
use self::prefs::{AllPrefs, Keep, PREFS, Prefs, Rest};
use self::query::{Found, NotFound, Query};
use self::queue::Queue;
use self::store::should_store;
use crate::app::Node;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::blocking::record::PRIVACY;
use crate::homes::HomeError;
use crate::homes::accounts::ACCOUNTS;
use crate::homes::look::look;
use crate::session::{Receipt, Seat};
use crate::storage::StorageError;

/// How long a reader waits for what is on its way into the archive from here.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// How long a reader waits until what it was handed has come to the home.
const COME_WITHIN: Duration = Duration::from_secs(1);
/// Before the home is asked again for that.
const COME_LOOK: Duration = Duration::from_millis(10);

/// What a node knows of archives.
#[derive(Debug)]
pub struct Archive {
    /// On their way.
    pub queue: Queue,
    /// What accounts want.
    pub prefs: AllPrefs,
    /// What the home remembers.
    pub known: Known,
    /// Of one account's archive.
    pub bounds: Bounds,
}

impl Archive {
    /// As configured.
    pub fn new(config: &config::Archive) -> Self {
        let age_max_ms = config
            .age_max
            .map_or(u64::MAX, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Self {
            queue: Queue::new(config.pending_bytes_max),
            prefs: AllPrefs::new(Rest::from(config.default)),
            known: Known::default(),
            bounds: Bounds { items_max: config.messages_max as u64, age_max_ms },
        }
    }
}

/// Takes up what a former life left, and what people have said. Before anything is accepted.
///
/// # Errors
/// The disk cannot be read.
pub async fn load(node: &Arc<Node>) -> Result<(), StorageError> {
    if !node.config.archive.enabled {
        return Ok(());
    }
    const OWNERS: usize = 1_000;
    let mut after: Option<String> = None;
    loop {
        let owners = node.storage.owners(PREFS, after.as_deref(), OWNERS).await?;
        for owner in &owners {
            let said = node.storage.get(PREFS, owner, "").await?;
            let said = said.and_then(|bytes| postcard::from_bytes::<Prefs>(&bytes).ok());
            node.archive.prefs.set(owner, said);
        }
        if owners.len() < OWNERS {
            break;
        }
        after = owners.last().cloned();
    }
    queue::load(node).await
}

/// See the room.
pub struct ArchiveFeature;

impl Feature for ArchiveFeature {
    fn name(&self) -> &'static str {
        "archive"
    }

    fn interests(&self) -> Interests {
        Interests {
            iq: &[ns::MAM],
            outbound_message: true,
            inbound_message: true,
            changes: &[ARCHIVE, PREFS, ACCOUNTS, PRIVACY],
            ..Interests::default()
        }
    }

    fn disco(&self, disco: &mut Disco) {
        let all = [
            ns::MAM,
            ns::MAM_EXTENDED,
            ns::MAM_GROUPCHAT_FIELD,
            ns::RSM,
            ns::STANZA_ID,
            ns::FULLTEXT,
            ns::RETRACT,
            "urn:xmpp:message-retract:1#tombstone",
        ];
        disco.account_kept.extend(all);
        // Older clients look at the server.
        disco.server.extend(all);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        // §7: nobody reads another's archive.
        if matches!(iq.target, Target::Account { own: false, .. }) {
            return refuse(ctx, iq, &StanzaError::forbidden());
        }
        let Some(seat) = ctx.seat else { return Flow::Next };
        match iq.target {
            // A guest has none.
            Target::Account { own: true, .. }
                if !ctx.node.domains.has_accounts(seat.bare.domain()) =>
            {
                return Flow::Next;
            }
            Target::Account { own: true, .. } => {}
            _ => return Flow::Next,
        }
        let (node, seat, request) = (ctx.node.clone(), seat.clone(), iq.stanza.clone());
        let element = iq.stanza.element();
        let Some(payload) = element.children().find(|child| child.ns() == ns::MAM) else {
            return Flow::Next;
        };
        match (iq.stanza.type_(), payload.name()) {
            (Type::Get, "query") => {
                let form = Stanza::iq_result(&iq.stanza, Some(query::form()));
                ctx.actions.push(Action::Reply(form));
                Flow::Done
            }
            (Type::Set, "query") => match Query::parse(payload) {
                Ok(query) => {
                    Flow::Later(Box::pin(async move { read(&node, &seat, &request, &query).await }))
                }
                Err(error) => refuse(ctx, iq, &error),
            },
            (Type::Get, "metadata") => {
                Flow::Later(Box::pin(async move { metadata(&node, &seat, &request).await }))
            }
            (Type::Get, "prefs") => {
                Flow::Later(Box::pin(async move { preferred(&node, &seat, &request).await }))
            }
            (Type::Set, "prefs") => {
                match Prefs::parse(payload, node.config.archive.preferences_max) {
                    Ok(prefs) => {
                        Flow::Later(Box::pin(
                            async move { prefer(&node, &seat, &request, prefs).await },
                        ))
                    }
                    Err(error) => refuse(ctx, iq, &error),
                }
            }
            _ => refuse(ctx, iq, &StanzaError::bad_request()),
        }
    }

    fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        let (Some(seat), Some(to)) = (ctx.seat, stanza.to()) else { return Flow::Next };
        let (node, own, to) = (ctx.node, &seat.bare, to.clone());
        // What a client says of archives that are ours is not true (XEP-0359 §5).
        let their = to.bare();
        if stanza.has_child("stanza-id", ns::STANZA_ID) {
            *stanza = stanza_id::without(stanza, &Jid::from(own));
            *stanza = stanza_id::without(stanza, &Jid::from(&their));
            // The copies for the account's other resources were made before.
            ctx.actions.iter_mut().for_each(|action| {
                if let Action::Copy { forwarded, sent: true, .. } = action {
                    *forwarded = stanza.clone();
                }
            });
        }
        if !should_store(stanza).is_kept() {
            return Flow::Next;
        }
        let is_ours = to.local().is_some()
            && node.domains.has_accounts(to.domain())
            && !node.domains.leaves(Some(seat.address()), &to);
        // A note to oneself is kept once, and what a guest says not at all.
        let is_kept = their != *own && node.domains.has_accounts(own.domain());
        let sent = if is_kept { node.archive.prefs.keep(own, &to) } else { Keep::No };
        let from = Jid::from(&seat.full);
        let got = if is_ours { node.archive.prefs.keep(&their, &from) } else { Keep::No };
        let queue = &node.archive.queue;
        if (sent != Keep::No && queue.refuses(own)) || (got != Keep::No && queue.refuses(&their)) {
            let error = StanzaError::resource_constraint();
            ctx.actions.extend(stanza.error_reply(&error).map(Action::Reply));
            return Flow::Done;
        }
        let said = stanza.clone();
        let mut enter = |account: &BareJid, with: &Jid, sent: bool, keep: Keep| {
            enter(node, account, with, sent, keep, &said, ctx.receipt.as_mut())
        };
        if sent != Keep::No {
            let uid = enter(own, &to, true, sent);
            // The account's other resources are told which it is (§3.3); the addressee is not.
            let named = || said.with_child(&stanza_id::element(&uid, &Jid::from(own)));
            for action in &mut ctx.actions {
                if let Action::Copy { forwarded, sent: true, .. } = action {
                    *forwarded = named();
                }
            }
        }
        if got != Keep::No {
            let uid = enter(&their, &from, false, got);
            *stanza = said.with_child(&stanza_id::element(&uid, &Jid::from(&their)));
        }
        Flow::Next
    }

    fn inbound(&self, _ctx: &mut Ctx<'_>, stanza: &Stanza, at: &[Arc<Seat>]) {
        let Some(first) = at.first() else { return };
        let Some(named) = stanza.child("stanza-id", ns::STANZA_ID) else { return };
        let by_us = named.attr("by") == Some(first.bare.as_str());
        let id = if by_us {
            named.attr("id").map(str::to_owned)
        } else {
            stanza_id::find(&stanza.element(), &Jid::from(&first.bare))
        };
        if let Some(uid) = id.and_then(|id| Uid::parse(&id)) {
            at.iter().for_each(|seat| seat.set_archived(uid));
        }
    }

    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        let archive = &ctx.node.archive;
        match change {
            Change::Put { store, owner, value, .. } if store.as_str() == PREFS => {
                archive.prefs.set(owner, postcard::from_bytes(value).ok());
                archive.known.forget(owner);
            }
            _ if change.store().as_str() == PREFS => {
                archive.prefs.set(change.owner(), None);
                archive.known.forget(change.owner());
            }
            // Our own writing, or another home's: then we are not one, and remember nothing.
            Change::Append { .. } if !snapshot && ctx.node.homes.is_home(change.owner()) => {}
            _ => archive.known.forget(change.owner()),
        }
        Flow::Next
    }
}

/// A message from another domain to one of our accounts, before it is routed: what it says of that account's archive is not true (XEP-0359 §5), and if
/// it is kept there, it is named.
///
/// # Errors
/// The message, which is refused: the home cannot be reached, and much waits for such homes.
pub fn received(
    node: &Arc<Node>,
    account: &BareJid,
    message: &Stanza,
    receipt: &mut Receipt,
) -> Result<Stanza, Stanza> {
    let by = Jid::from(account);
    let stanza = stanza_id::without(message, &by);
    let is_kept = node.config.archive.enabled
        && node.domains.has_accounts(account.domain())
        && should_store(&stanza).is_kept();
    let Some(from) = stanza.from().cloned().filter(|_| is_kept) else { return Ok(stanza) };
    match node.archive.prefs.keep(account, &from) {
        Keep::No => Ok(stanza),
        _ if node.archive.queue.refuses(account) => Err(stanza),
        keep => {
            let uid = enter(node, account, &from, false, keep, &stanza, Some(receipt));
            Ok(stanza.with_child(&stanza_id::element(&uid, &by)))
        }
    }
}

/// Files it, and says under which id.
fn enter(
    node: &Arc<Node>,
    account: &BareJid,
    with: &Jid,
    sent: bool,
    keep: Keep,
    said: &Stanza,
    receipt: Option<&mut Receipt>,
) -> String {
    let salt = u32::from_le_bytes(node.random());
    let uid = Uid { order: node.ledger.next_order(), salt };
    let item = Item {
        uid,
        at_ms: node.wall_ms(),
        with: with.as_str().to_owned(),
        sent,
        stanza: said.bytes().to_vec(),
    };
    let filing = Filing {
        item,
        if_contact: keep == Keep::IfContact,
        again: false,
        retracts: said.has_child("retract", ns::RETRACT),
    };
    queue::file(node, account.clone(), filing, receipt.map(Receipt::share));
    uid.to_string()
}

fn refuse(ctx: &mut Ctx<'_>, iq: &Iq, error: &StanzaError) -> Flow {
    ctx.actions.extend(iq.stanza.error_reply(error).map(Action::Reply));
    Flow::Done
}

fn reply(stanza: &Stanza, error: &StanzaError) -> Vec<Action> {
    stanza.error_reply(error).map(Action::Reply).into_iter().collect()
}

/// Until what this client can know of can be read here. Whether that is certain.
async fn caught_up(node: &Arc<Node>, seat: &Arc<Seat>) -> bool {
    let settled = queue::settled(node, &seat.bare, Instant::now() + SETTLE_WITHIN).await;
    let give_up = Instant::now() + COME_WITHIN;
    let request = Request::Has(seat.archived());
    loop {
        match node.homes.exchange::<_, Answer>(&seat.bare, OP, &request).await {
            Ok(Answer::Has(false)) if Instant::now() < give_up => {
                tokio::time::sleep(COME_LOOK).await;
            }
            // Not there after so long: refused by the home, or gone by its bounds.
            Ok(_) => return settled,
            Err(error) => {
                tracing::debug!(account = %seat.bare, ?error, "read from the replica alone");
                return false;
            }
        }
    }
}

async fn read(node: &Arc<Node>, seat: &Arc<Seat>, request: &Stanza, query: &Query) -> Vec<Action> {
    let stable = caught_up(node, seat).await;
    let found = match query::run(node, &seat.bare, query).await {
        Ok(found) => found,
        Err(NotFound::Item) => return reply(request, &StanzaError::item_not_found()),
        Err(NotFound::Storage(error)) => {
            tracing::error!(account = %seat.bare, %error, "an archive cannot be read");
            return reply(request, &error.stanza_error());
        }
    };
    let mut actions: Vec<Action> = Vec::with_capacity(found.items.len() + 1);
    let message = |item: &Item| Action::ToSeat(seat.clone(), result(seat, query, item));
    if query.flip {
        actions.extend(found.items.iter().rev().map(message));
    } else {
        actions.extend(found.items.iter().map(message));
    }
    actions.push(Action::Reply(Stanza::iq_result(request, Some(fin(&found, stable)))));
    actions
}

/// A message with an archived one in it (§4.2).
fn result(seat: &Seat, query: &Query, item: &Item) -> Stanza {
    let mut xml = Vec::with_capacity(item.stanza.len() + 300);
    let head = Element::new("result", ns::MAM)
        .with_attr_opt("queryid", query.queryid.as_deref())
        .with_attr("id", &item.uid.to_string());
    let mut bytes = head.to_bytes();
    // The element is empty: it ends in "/>".
    bytes.truncate(bytes.len() - 2);
    xml.extend_from_slice(&bytes);
    xml.push(b'>');
    match Stanza::parse(bytes::Bytes::copy_from_slice(&item.stanza)) {
        Ok(stanza) => {
            forward::write(&mut xml, &stanza, Some(&delay::element(item.at_ms, None, None)));
        }
        Err(error) => tracing::error!(uid = %item.uid, %error, "an archived message is damaged"),
    }
    xml.extend_from_slice(b"</result>");
    Stanza::message(Some(&Jid::from(&seat.full)), Some(&Jid::from(&seat.bare)), Type::Normal)
        .with_xml(&xml)
        .build()
}

/// The end of an answer (§4.3).
fn fin(found: &Found, stable: bool) -> Element {
    let ends = found.items.first().zip(found.items.last());
    let ends = ends.map(|(first, last)| (first.uid.to_string(), last.uid.to_string()));
    let mut fin = Element::new("fin", ns::MAM);
    if found.complete {
        fin.set_attr("complete", "true");
    }
    if !stable {
        fin.set_attr("stable", "false");
    }
    fin.with_child(Given { ends, count: found.count, index: found.index }.element())
}

async fn metadata(node: &Arc<Node>, seat: &Arc<Seat>, request: &Stanza) -> Vec<Action> {
    caught_up(node, seat).await;
    match ends(node, seat).await {
        Ok(metadata) => vec![Action::Reply(Stanza::iq_result(request, Some(metadata)))],
        Err(error) => reply(request, &error.stanza_error()),
    }
}

/// What a client is told when it binds (XEP-0386 §3.2): how far the archive goes by then.
pub async fn bound(node: &Arc<Node>, seat: &Arc<Seat>) -> Option<Element> {
    if node.config.archive.enabled { ends(node, seat).await.ok() } else { None }
}

/// `<metadata/>`. If the archive cannot be read, the log says so.
async fn ends(node: &Arc<Node>, seat: &Arc<Seat>) -> Result<Element, StorageError> {
    let ends = match query::ends(node.storage.as_ref(), &seat.bare).await {
        Ok(ends) => ends,
        Err(error) => {
            tracing::error!(account = %seat.bare, %error, "an archive cannot be read");
            return Err(error);
        }
    };
    let mut metadata = Element::new("metadata", ns::MAM);
    if let Some((first, last)) = ends {
        for (name, item) in [("start", first), ("end", last)] {
            let end = Element::new(name, ns::MAM)
                .with_attr("id", &item.uid.to_string())
                .with_attr("timestamp", &date_time::format(item.at_ms));
            metadata.push_child(end);
        }
    }
    Ok(metadata)
}

/// What another device of the user was told is kept is found here.
async fn preferred(node: &Arc<Node>, seat: &Arc<Seat>, request: &Stanza) -> Vec<Action> {
    look(&node.homes, &seat.bare).await;
    let said = match node.storage.get(PREFS, seat.bare.as_str(), "").await {
        Ok(said) => said.and_then(|bytes| postcard::from_bytes::<Prefs>(&bytes).ok()),
        Err(error) => {
            tracing::error!(account = %seat.bare, %error, "preferences cannot be read");
            return reply(request, &error.stanza_error());
        }
    };
    let prefs = said.unwrap_or_else(|| node.archive.prefs.of_the_silent());
    vec![Action::Reply(Stanza::iq_result(request, Some(prefs.element())))]
}

async fn prefer(node: &Arc<Node>, seat: &Arc<Seat>, request: &Stanza, prefs: Prefs) -> Vec<Action> {
    let element = prefs.element();
    match node.homes.exchange::<_, Answer>(&seat.bare, OP, &Request::Prefer(prefs)).await {
        Ok(Answer::Done) => {
            vec![Action::Reply(Stanza::iq_result(request, Some(element)))]
        }
        Ok(_) => reply(request, &StanzaError::service_unavailable()),
        Err(error) => reply(request, &HomeError::stanza_error(&error)),
    }
}
