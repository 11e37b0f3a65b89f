//! XEP-0225 §4: which hostnames a connection binds and unbinds. It may have those that have the secret it has proved to know. Called by `sign_in` for the first
//! of them, and by `connection` for the rest.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Builder, Kind, Type};
use xmpp::xml::element::Element;

use super::handshake::Claim;
use crate::app::Node;
use crate::session::Seat;

/// What the other end of a connection has proved: that it knows the secret of that hostname, as it was at that version of what is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Proved {
    pub(super) host: String,
    pub(super) at: u64,
}

/// What is asked of us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// This one; `None`: that of the sign-in.
    Bind(Option<Jid>),
    /// Not this one any more; `None`: that of the sign-in.
    Unbind(Option<Jid>),
}

impl Wish {
    /// `None`: it is none.
    pub(super) fn of(iq: &Element, server: &str) -> Option<Result<Wish, StanzaError>> {
        let to_us = iq.attr("to").is_none_or(|to| to == server);
        let asked = iq.children().find(|child| child.ns() == ns::COMPONENT_BIND)?;
        if !to_us || !iq.is("iq", ns::CLIENT) || !matches!(iq.attr("type"), Some("set" | "get")) {
            return None;
        }
        Some(Wish::read(iq, asked))
    }

    fn read(iq: &Element, asked: &Element) -> Result<Wish, StanzaError> {
        if iq.attr("type") != Some("set") || iq.attr("id").is_none() || iq.children().count() != 1 {
            return Err(StanzaError::bad_request());
        }
        let host = match asked.child("hostname", ns::COMPONENT_BIND).map(Element::text) {
            None => None,
            Some(text) => {
                let jid = Jid::parse(text.trim()).ok().filter(|jid| jid.local().is_none());
                Some(jid.ok_or_else(StanzaError::bad_request)?)
            }
        };
        match asked.name() {
            "bind" => Ok(Wish::Bind(host)),
            "unbind" => Ok(Wish::Unbind(host)),
            _ => Err(StanzaError::bad_request()),
        }
    }
}

/// Binds it for who knows the secret of `proved`, and says what is bound.
///
/// # Errors
/// §4: it is none of ours (`not-allowed`), somebody else's or bound already (`conflict`).
pub(super) fn bind(
    node: &Arc<Node>,
    proved: &Proved,
    host: Option<Jid>,
) -> Result<(Jid, Arc<Seat>), StanzaError> {
    let host = named(&proved.host, host)?;
    let claim = |domain: &str| node.components.claim(&node.domains, domain);
    match (claim(host.domain()), claim(&proved.host)) {
        (Claim::May(of), Claim::May(known)) if of.matches(known.expose()) => {}
        (Claim::Taken, _) => return Err(StanzaError::conflict()),
        _ => return Err(StanzaError::not_allowed()),
    }
    if node.is_leaving() {
        return Err(StanzaError::resource_constraint());
    }
    let domain = BareJid::new(None, host.domain()).map_err(|_| StanzaError::bad_request())?;
    let seat = super::bind(node, &domain, host.resource(), proved);
    seat.map(|seat| (host, seat)).map_err(|_| StanzaError::conflict())
}

/// Which hostname is meant: without a word of which, that of the sign-in.
///
/// # Errors
/// What was proved is no hostname.
pub(super) fn named(proved: &str, host: Option<Jid>) -> Result<Jid, StanzaError> {
    match host {
        Some(host) => Ok(host),
        None => Jid::parse(proved).map_err(|_| StanzaError::bad_request()),
    }
}

/// Whether that is what is to be unbound.
pub(super) fn is(seat: &Seat, host: &Jid) -> bool {
    match host.resource() {
        Some(_) => seat.full.as_str() == host.as_str(),
        None => seat.bare.as_str() == host.as_str(),
    }
}

/// What it is answered.
pub(super) fn answer(
    iq: &Element,
    done: Result<Option<&(Jid, Arc<Seat>)>, &StanzaError>,
) -> Vec<u8> {
    let type_ = if done.is_ok() { Type::Result } else { Type::Error };
    let reply = Builder::new(Kind::Iq, type_, None, None).id_opt(iq.attr("id"));
    let reply = match done {
        Ok(None) => reply,
        Ok(Some((host, _))) => {
            let host = Element::new("hostname", ns::COMPONENT_BIND).with_text(host.as_str());
            reply.with_child(Element::new("bind", ns::COMPONENT_BIND).with_child(host))
        }
        Err(error) => reply.with_child(error.element()),
    };
    reply.build().bytes().to_vec()
}
