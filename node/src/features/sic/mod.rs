//! XEP-0279 Server IP Check, version 0.2: the address a client has as this server sees it, in the words of 0.2 (`urn:xmpp:sic:1`) and
//! of 0.1 (`urn:xmpp:sic:0`). Nobody hears another's (§4). Left out: nothing.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use xmpp::ns;
use xmpp::stanza::Type;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

/// See the room.
pub struct Sic;

impl Feature for Sic {
    fn name(&self) -> &'static str {
        "sic"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::SIC, ns::SIC_0], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::SIC, ns::SIC_0]);
        disco.account.extend([ns::SIC, ns::SIC_0]);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let Some(seat) = ctx.seat else { return Flow::Next };
        match answer(iq, seat.peer()) {
            Some(answer) => {
                ctx.actions.extend(Action::answer(&iq.stanza, answer.map(Some)));
                Flow::Done
            }
            None => Flow::Next,
        }
    }
}

fn answer(iq: &Iq, peer: Option<SocketAddr>) -> Option<Result<Element, StanzaError>> {
    if iq.stanza.type_() != Type::Get {
        return None;
    }
    if matches!(iq.target, Target::Account { own: false, .. }) {
        return Some(Err(StanzaError::forbidden()));
    }
    let Some(peer) = peer else { return Some(Err(StanzaError::item_not_found())) };
    let ip = peer.ip().to_canonical().to_string();
    match iq.stanza.first_child()? {
        ("address", ns::SIC) => {
            let text = |name: &str, text: &str| Element::new(name, ns::SIC).with_text(text);
            let port = peer.port().to_string();
            let address = Element::new("address", ns::SIC);
            Some(Ok(address.with_child(text("ip", &ip)).with_child(text("port", &port))))
        }
        ("ip", ns::SIC_0) => Some(Ok(Element::new("ip", ns::SIC_0).with_text(&ip))),
        _ => Some(Err(StanzaError::bad_request())),
    }
}
