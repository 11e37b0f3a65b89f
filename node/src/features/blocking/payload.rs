//! What clients say of lists, and what they are told, as values: XEP-0191 §3, XEP-0016 §2.3 to §2.8, XEP-0377 §4. Pure.
//! Called by `mod` (XEP-0191) and `privacy` (XEP-0016).

use std::collections::HashSet;

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use super::list::{Item, Kinds, List, Subscription, Whom};
use super::record::{Named, Note};
use super::report::Report;

/// Bytes of a list's name, or of a group's, as a roster may have it.
const NAME_BYTES_MAX: usize = 1023;

/// What a client asks by XEP-0191.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// §3.3, with what is reported of whom.
    Block(Vec<Jid>, Vec<Report>),
    /// §3.4.
    Unblock(Vec<Jid>),
    /// §3.5.
    UnblockAll,
}

/// Reads `<block/>` or `<unblock/>`.
///
/// # Errors
/// `bad-request`: nobody is named, or an item without an address; `jid-malformed`.
pub fn command(payload: &Element) -> Result<Command, StanzaError> {
    let mut known = HashSet::new();
    let mut jids = Vec::new();
    let mut reports = Vec::new();
    for item in payload.children().filter(|child| child.is("item", ns::BLOCKING)) {
        let jid = item.attr("jid").ok_or_else(StanzaError::bad_request)?;
        let jid = Jid::parse(jid).map_err(|_| StanzaError::jid_malformed())?;
        // XEP-0377 §6: whatever is wrong with a report, the address is blocked as if there were none.
        reports.extend(item.child("report", ns::REPORTING).and_then(|one| Report::read(&jid, one)));
        if known.insert(jid.clone()) {
            jids.push(jid);
        }
    }
    match (payload.name(), jids.is_empty()) {
        ("block", false) => Ok(Command::Block(jids, reports)),
        ("unblock", false) => Ok(Command::Unblock(jids)),
        ("unblock", true) => Ok(Command::UnblockAll),
        _ => Err(StanzaError::bad_request()),
    }
}

/// `<blocklist/>`, `<block/>` or `<unblock/>` of these.
pub fn addresses<'a>(name: &str, jids: impl IntoIterator<Item = &'a Jid>) -> Element {
    let item = |jid: &Jid| Element::new("item", ns::BLOCKING).with_attr("jid", jid.as_str());
    Element::new(name, ns::BLOCKING).with_children(jids.into_iter().map(item))
}

/// Pushes to those who asked for the block list, and to those who follow privacy lists. Without `to`.
pub fn pushes(account: &BareJid, serial: u64, note: &Note) -> (Vec<Stanza>, Option<Stanza>) {
    let from = Jid::from(account);
    let push = |word: &str, payload: Element| {
        Stanza::iq_set(Some(&from), None, &format!("{word}{serial}"), payload)
    };
    let mut blocking = Vec::new();
    if note.unblocked_all {
        blocking.push(push("unblock", addresses("unblock", [])));
    } else if !note.unblocked.is_empty() {
        blocking.push(push("unblock", addresses("unblock", &note.unblocked)));
    }
    if !note.blocked.is_empty() {
        blocking.push(push("block", addresses("block", &note.blocked)));
    }
    let privacy = note.list.as_ref().map(|name| push("privacy", query([named("list", name)])));
    (blocking, privacy)
}

/// `<active/>`, `<default/>` or `<list/>` with a name.
pub fn named(word: &str, name: &str) -> Element {
    Element::new(word, ns::PRIVACY).with_attr("name", name)
}

/// A `<query/>` of these.
pub fn query(children: impl IntoIterator<Item = Element>) -> Element {
    Element::new("query", ns::PRIVACY).with_children(children)
}

/// What a client asks by an IQ get (XEP-0016 §2.3).
#[derive(Debug, PartialEq, Eq)]
pub enum Get {
    /// The names of all lists.
    Names,
    /// One list.
    List(String),
}

/// And by an IQ set.
#[derive(Debug, PartialEq, Eq)]
pub enum Set {
    /// §2.4: a name, or none.
    Active(Option<String>),
    /// §2.5: a name, or none.
    Default(Option<String>),
    /// §2.6, §2.7.
    List(Named),
    /// §2.8.
    Remove(String),
}

/// Reads the `<query/>` of an IQ get.
///
/// # Errors
/// `bad-request`: more than one list, or something else than a list.
pub fn get(query: &Element) -> Result<Get, StanzaError> {
    let mut children = query.children();
    match (children.next(), children.next()) {
        (None, _) => Ok(Get::Names),
        (Some(list), None) if list.is("list", ns::PRIVACY) => Ok(Get::List(name_of(list)?)),
        _ => Err(StanzaError::bad_request()),
    }
}

/// Reads the `<query/>` of an IQ set.
///
/// # Errors
/// `bad-request`: not exactly one child, an item that does not add up, two of one order; `not-acceptable`: a name that is too long.
pub fn set(query: &Element) -> Result<Set, StanzaError> {
    let mut children = query.children();
    let (Some(child), None) = (children.next(), children.next()) else {
        return Err(StanzaError::bad_request());
    };
    if child.ns() != ns::PRIVACY {
        return Err(StanzaError::bad_request());
    }
    let optional = || child.attr("name").is_some().then(|| name_of(child)).transpose();
    match child.name() {
        "active" => Ok(Set::Active(optional()?)),
        "default" => Ok(Set::Default(optional()?)),
        "list" => {
            let name = name_of(child)?;
            let items = child.children().map(item).collect::<Result<Vec<_>, _>>()?;
            if items.is_empty() {
                return Ok(Set::Remove(name));
            }
            let list = List::new(items).ok_or_else(StanzaError::bad_request)?;
            Ok(Set::List(Named { name, list }))
        }
        _ => Err(StanzaError::bad_request()),
    }
}

fn name_of(element: &Element) -> Result<String, StanzaError> {
    let name = element.attr("name").ok_or_else(StanzaError::bad_request)?;
    match name.len() {
        0 => Err(StanzaError::bad_request()),
        1..=NAME_BYTES_MAX => Ok(name.to_owned()),
        _ => Err(StanzaError::not_acceptable()),
    }
}

fn item(element: &Element) -> Result<Item, StanzaError> {
    let bad = StanzaError::bad_request;
    if !element.is("item", ns::PRIVACY) {
        return Err(bad());
    }
    let allow = match element.attr("action") {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err(bad()),
    };
    let order = element.attr("order").and_then(|order| order.trim().parse().ok());
    let order = order.ok_or_else(bad)?;
    let value = element.attr("value").unwrap_or_default();
    let whom = match element.attr("type") {
        None => Whom::Everybody,
        Some("jid") => Whom::Jid(Jid::parse(value).map_err(|_| bad())?),
        Some("group") if value.len() > NAME_BYTES_MAX => {
            return Err(StanzaError::not_acceptable());
        }
        Some("group") if !value.is_empty() => Whom::Group(value.to_owned()),
        Some("subscription") => Whom::Subscription(Subscription::of(value).ok_or_else(bad)?),
        _ => return Err(bad()),
    };
    let mut kinds = Kinds::default();
    for child in element.children().filter(|child| child.ns() == ns::PRIVACY) {
        let known = Kinds::NAMES.iter().find(|(name, _)| *name == child.name());
        kinds.add(known.ok_or_else(bad)?.1);
    }
    Ok(Item { order, allow, kinds, whom })
}

/// A list as a client gets it.
pub fn list(named: &Named) -> Element {
    let item = |item: &Item| {
        let (type_, value) = match &item.whom {
            Whom::Everybody => (None, None),
            Whom::Jid(jid) => (Some("jid"), Some(jid.as_str())),
            Whom::Group(group) => (Some("group"), Some(group.as_str())),
            Whom::Subscription(subscription) => (Some("subscription"), Some(subscription.name())),
        };
        let named = Kinds::NAMES.iter().filter(|(_, kind)| item.kinds.names(*kind));
        Element::new("item", ns::PRIVACY)
            .with_attr_opt("type", type_)
            .with_attr_opt("value", value)
            .with_attr("action", if item.allow { "allow" } else { "deny" })
            .with_attr("order", &item.order.to_string())
            .with_children(named.map(|(name, _)| Element::new(name, ns::PRIVACY)))
    };
    self::named("list", &named.name).with_children(named.list.items().iter().map(item))
}
