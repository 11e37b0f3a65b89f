//! XEP-0077: what a registration iq asks, and the elements that answer it. Values only.

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::sasl::Password;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

/// What is asked. The type says get or set already; anything else in the query is left alone.
#[derive(Debug)]
pub(super) enum Asked {
    /// §3.1: which fields are wanted, or who is registered.
    Fields,
    /// §3.1 without an account, §3.3 with one.
    Register {
        /// As it was written.
        username: String,
        /// As it was written.
        password: Password,
    },
    /// §3.2.
    Remove,
}

/// Reads an iq of type get or set whose payload is `<query xmlns='jabber:iq:register'/>`.
pub(super) fn parse(iq: &Element) -> Result<Asked, StanzaError> {
    let query = iq.child("query", ns::REGISTER).ok_or_else(StanzaError::bad_request)?;
    match iq.attr("type") {
        Some("get") => return Ok(Asked::Fields),
        Some("set") => {}
        _ => return Err(StanzaError::bad_request()),
    }
    if query.has_child("remove", ns::REGISTER) {
        // §3.2: alone, for it is final.
        return if query.children().count() == 1 {
            Ok(Asked::Remove)
        } else {
            Err(StanzaError::bad_request())
        };
    }
    let text = |name| query.child(name, ns::REGISTER).map(Element::text);
    match (text("username"), text("password")) {
        (Some(username), Some(password)) => {
            Ok(Asked::Register { username, password: Password::new(password) })
        }
        _ => Err(StanzaError::bad_request()),
    }
}

/// The account that a wished-for name means. §3.1: a name that cannot be one is `not-acceptable`.
pub(super) fn account_of(username: &str, domain: &str) -> Result<BareJid, StanzaError> {
    // Both would make another address of it than the one that was meant.
    if username.is_empty() || username.contains(['@', '/']) {
        return Err(StanzaError::not_acceptable());
    }
    BareJid::parse(&format!("{username}@{domain}")).map_err(|_| StanzaError::not_acceptable())
}

/// The form for a stranger (§3.1).
pub(super) fn fields() -> Element {
    let child = |name| Element::new(name, ns::REGISTER);
    Element::new("query", ns::REGISTER)
        .with_child(child("instructions").with_text("Choose a username and a password."))
        .with_child(child("username"))
        .with_child(child("password"))
}

/// What somebody who is signed in is told (§3.1, example 5).
pub(super) fn registered(account: &BareJid) -> Element {
    let child = |name| Element::new(name, ns::REGISTER);
    Element::new("query", ns::REGISTER)
        .with_child(child("registered"))
        .with_child(child("username").with_text(account.local().unwrap_or_default()))
        .with_child(child("password"))
}

/// The answer to an iq that has no stanza yet: before sign-in nobody has an address.
pub(super) fn reply(
    iq: &Element,
    domain: &str,
    answer: Result<Option<Element>, StanzaError>,
) -> Element {
    let reply =
        Element::new("iq", ns::CLIENT).with_attr_opt("id", iq.attr("id")).with_attr("from", domain);
    match answer {
        Ok(payload) => reply.with_attr("type", "result").with_children(payload),
        Err(error) => reply.with_attr("type", "error").with_child(error.element()),
    }
}
