//! XEP-0077: what a registration iq asks, and the elements that answer it. Values only.

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};
use xmpp::sasl::Password;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

/// FORM_TYPE of the form for a stranger (§4, §11.4).
const FORM: &str = "jabber:iq:register";
/// FORM_TYPE of the form for another password (§3.3).
const FORM_CHANGE: &str = "jabber:iq:register:changepassword";

/// What a stranger is told if the operator says nothing.
const INSTRUCTIONS: &str = "Choose a username and a password.";
/// What somebody who is signed in is told.
const INSTRUCTIONS_REGISTERED: &str = "You are registered. Send a new password to change yours.";

/// What is asked. The type says get or set already; anything else in the query is left alone.
#[derive(Debug)]
pub(super) enum Asked {
    /// §3.1: which fields are wanted, or who is registered.
    Fields,
    /// §3.1 without an account, §3.3 with one. An element or field without text is there, and empty.
    Register {
        /// As it was written.
        username: Option<String>,
        /// As it was written.
        password: Option<Password>,
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
    // §6: a form comes before the elements.
    let (username, password) = match query.child("x", ns::DATA_FORMS) {
        Some(form) => {
            let form = submitted(form)?;
            let value = |var| form.value(var).map(str::to_owned);
            (value("username"), value("password"))
        }
        None => {
            let text = |name| query.child(name, ns::REGISTER).map(Element::text);
            (text("username"), text("password"))
        }
    };
    Ok(Asked::Register { username, password: password.map(Password::new) })
}

fn submitted(form: &Element) -> Result<Form, StanzaError> {
    let form = Form::parse(form).map_err(|_| StanzaError::bad_request())?;
    let known = form.form_type().is_none_or(|name| name == FORM || name == FORM_CHANGE);
    if form.kind == FormKind::Submit && known { Ok(form) } else { Err(StanzaError::bad_request()) }
}

/// The account that a wished-for name means. §3.1: a name that cannot be one is `not-acceptable`.
///
/// # Errors
/// `not-acceptable`.
pub fn account_of(username: &str, domain: &str) -> Result<BareJid, StanzaError> {
    let refuse = || StanzaError::not_acceptable().with_text("This cannot be a username.");
    // Both would make another address of it than the one that was meant.
    if username.is_empty() || username.contains(['@', '/']) {
        return Err(refuse());
    }
    BareJid::parse(&format!("{username}@{domain}")).map_err(|_| refuse())
}

/// Whether a name that somebody who is signed in gave is the own one: with or without the domain, as the XEP's examples have both (§3.3).
pub(super) fn is_own(username: &str, account: &BareJid) -> bool {
    let said = match username.contains('@') {
        true => BareJid::parse(username).ok(),
        false => account_of(username, account.domain()).ok(),
    };
    said.as_ref() == Some(account)
}

/// The form for a stranger (§3.1), as elements and as a form (§4), and where there is another one on the web (§5.1).
pub(super) fn fields(rules: &config::Registration) -> Element {
    let child = |name| Element::new(name, ns::REGISTER);
    let instructions = rules.instructions.as_deref().unwrap_or(INSTRUCTIONS);
    let form = Form::typed(FormKind::Form, FORM)
        .with_title("A new account")
        .with_instructions(instructions)
        .with_field(
            Field::empty("username", FieldKind::TextSingle).with_label("Username").required(),
        )
        .with_field(
            Field::empty("password", FieldKind::TextPrivate).with_label("Password").required(),
        );
    Element::new("query", ns::REGISTER)
        .with_child(child("instructions").with_text(instructions))
        .with_child(child("username"))
        .with_child(child("password"))
        .with_child(form.element())
        .with_children(rules.url.as_deref().map(elsewhere))
}

/// Accounts are made on the web (§5.1).
pub(super) fn redirection(rules: &config::Registration, url: &str) -> Element {
    let ours = format!("To register, visit {url}");
    let instructions = rules.instructions.as_deref().unwrap_or(&ours);
    Element::new("query", ns::REGISTER)
        .with_child(Element::new("instructions", ns::REGISTER).with_text(instructions))
        .with_child(elsewhere(url))
}

fn elsewhere(url: &str) -> Element {
    Element::new("x", ns::OOB).with_child(Element::new("url", ns::OOB).with_text(url))
}

/// What somebody who is signed in is told (§3.1, example 3).
pub(super) fn registered(account: &BareJid) -> Element {
    let child = |name| Element::new(name, ns::REGISTER);
    Element::new("query", ns::REGISTER)
        .with_child(child("registered"))
        .with_child(child("instructions").with_text(INSTRUCTIONS_REGISTERED))
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
