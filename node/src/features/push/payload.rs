//! The elements of XEP-0357: what a client asks for, what is published at an app server, and what an app server's answer is about.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::carbons;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use super::record::Registration;

/// What publish options say they are (XEP-0060 §7.1.5).
const SUMMARY: &str = "urn:xmpp:push:summary";
/// How an id of ours begins.
const ID: &str = "push-";
/// Bytes of a node's name at an app server.
const NODE_BYTES_MAX: usize = 1_023;
/// Characters of a message that are told to an app server, if any are.
const BODY_MAX: usize = 1_000;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Publish there (§5).
    Enable {
        /// The app server.
        jid: String,
        /// Its node.
        node: Option<String>,
        /// What to send with every publication.
        options: Option<Vec<u8>>,
    },
    /// Do not (§6).
    Disable {
        /// The app server.
        jid: String,
        /// That node only.
        node: Option<String>,
    },
}

/// Reads the payload of an IQ set of `from`.
///
/// # Errors
/// `bad-request` without a `jid`, or for one's own; `jid-malformed`; `not-acceptable` for options longer than `options_bytes_max`, or a
/// node of more than [`NODE_BYTES_MAX`].
pub fn parse(iq: &Stanza, options_bytes_max: usize) -> Result<Ask, StanzaError> {
    let bad = |text: &str| StanzaError::bad_request().with_text(text);
    let iq_element = iq.element();
    let asked = iq_element.children().next().ok_or_else(StanzaError::bad_request)?;
    let given = |name: &str| asked.attr(name).filter(|value| !value.is_empty());
    let jid = given("jid").ok_or_else(|| bad("a push service has a jid"))?;
    let jid = Jid::parse(jid).map_err(|_| StanzaError::jid_malformed())?;
    let node = given("node").map(str::to_owned);
    if node.as_ref().is_some_and(|node| node.len() > NODE_BYTES_MAX) {
        return Err(StanzaError::not_acceptable().with_text("too long a node"));
    }
    match asked.name() {
        "enable" if iq.from() == Some(&jid) => Err(bad("a push service is somebody else")),
        "enable" => {
            let options = asked.child("x", ns::DATA_FORMS).map(Element::to_bytes);
            if options.as_ref().is_some_and(|options| options.len() > options_bytes_max) {
                return Err(StanzaError::not_acceptable().with_text("too many publish options"));
            }
            Ok(Ask::Enable { jid: jid.as_str().to_owned(), node, options })
        }
        "disable" => Ok(Ask::Disable { jid: jid.as_str().to_owned(), node }),
        _ => Err(StanzaError::bad_request()),
    }
}

/// What a push may tell of a message; the home says no more than it is configured to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How many messages it is about.
    pub count: u32,
    /// Who sent the last one.
    pub sender: String,
    /// What it says, as far as its first letters go.
    pub body: Option<String>,
}

impl Note {
    /// Of a message, or of the one in a carbon copy of it.
    pub fn of(message: &Stanza) -> Note {
        let copied = message.has_child("received", ns::CARBONS);
        let element = copied.then(|| carbons::parse(&message.element())).flatten();
        let element = element.map_or_else(|| message.element(), |(_, copy)| copy.stanza);
        let body = element.child("body", ns::CLIENT).map(|body| {
            let mut text = body.text();
            if let Some((cut, _)) = text.char_indices().nth(BODY_MAX) {
                text.truncate(cut);
            }
            text
        });
        Note { count: 1, sender: element.attr("from").unwrap_or_default().to_owned(), body }
    }
}

/// What the configuration lets a push say.
#[derive(Clone, Copy, Debug)]
pub struct Says<'a> {
    /// The sender.
    pub sender: bool,
    /// What the message says.
    pub body: bool,
    /// What is said instead of it; empty: nothing.
    pub placeholder: &'a str,
}

/// The publication at an app server (§7), in the name of the account. `number` makes its id its own.
pub fn publication(
    account: &BareJid,
    registration: &Registration,
    note: &Note,
    says: Says<'_>,
    number: u64,
) -> Option<Stanza> {
    let to = Jid::parse(&registration.jid).ok()?;
    let mut summary = Form::typed(FormKind::Submit, SUMMARY).with_field(Field::new(
        "message-count",
        FieldKind::TextSingle,
        &note.count.to_string(),
    ));
    if says.sender {
        summary = summary.with_field(Field::new(
            "last-message-sender",
            FieldKind::JidSingle,
            &note.sender,
        ));
    }
    let body = match (&note.body, says.body, says.placeholder) {
        (Some(body), true, _) => Some(body.as_str()),
        (_, _, "") => None,
        (_, _, placeholder) => Some(placeholder),
    };
    if let Some(body) = body {
        summary = summary.with_field(Field::new("last-message-body", FieldKind::TextSingle, body));
    }
    let notification = Element::new("notification", ns::PUSH).with_child(summary.element());
    let item = Element::new("item", ns::PUBSUB).with_child(notification);
    let publish = Element::new("publish", ns::PUBSUB)
        .with_attr_opt("node", registration.node.as_deref())
        .with_child(item);
    let mut pubsub = Element::new("pubsub", ns::PUBSUB).with_child(publish);
    if let Some(options) =
        registration.options.as_deref().and_then(|bytes| Element::parse(bytes).ok())
    {
        pubsub.push_child(Element::new("publish-options", ns::PUBSUB).with_child(options));
    }
    let id = format!("{ID}{:016x}-{number:x}", registration.token);
    Some(Stanza::iq_set(Some(&Jid::from(account)), Some(&to), &id, pubsub))
}

/// Which registration an answer is about: its token.
pub fn answered(id: &str) -> Option<u64> {
    let (token, _) = id.strip_prefix(ID)?.split_once('-')?;
    (token.len() == 16).then(|| u64::from_str_radix(token, 16).ok()).flatten()
}
