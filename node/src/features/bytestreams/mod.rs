//! XEP-0065 SOCKS5 Bytestreams, version 1.8.2: `proxy.<domain>`, the relay between two clients that cannot reach each other (§6).
//!
//! A client asks for the address, gets that of the node it is connected to, and tells the other client, wherever that is; both connect there,
//! and the client that asked activates. Only accounts of ours may; whom they exchange with is theirs to know.
//!
//! Left out: UDP (§8), activation by a client that is connected to another node by then (`item-not-found`), authentication within SOCKS.

mod relay;
mod socks;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use sha1::{Digest as _, Sha1};
use tokio::task::JoinSet;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::disco::Info;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use self::relay::{NotActivated, Relay};
use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::service::Service;
use crate::transport::tcp;

/// Characters of a stream's id (§3).
const SID_CHARS_MAX: usize = 128;

/// Its name.
pub const NAME: &str = "bytestreams";

/// The service.
pub struct Bytestreams {
    config: config::Proxy,
    relay: Arc<Relay>,
    /// Where it listens, once it does.
    address: OnceLock<SocketAddr>,
}

impl Bytestreams {
    /// As configured. It does not listen yet.
    #[must_use]
    pub fn new(config: config::Proxy) -> Bytestreams {
        let relay = Arc::new(Relay::new(config.clone()));
        Bytestreams { config, relay, address: OnceLock::new() }
    }

    /// §6.3.1 (and §4): where it is reached, for who asks it by that domain.
    fn streamhost(&self, domain: &str) -> Result<Element, StanzaError> {
        let address = self.address.get().ok_or_else(StanzaError::not_allowed)?;
        let host = match &self.config.host {
            Some(host) => host.clone(),
            None if address.ip().is_unspecified() => domain.to_owned(),
            None => address.ip().to_string(),
        };
        let streamhost = Element::new("streamhost", ns::BYTESTREAMS)
            .with_attr("jid", domain)
            .with_attr("host", &host)
            .with_attr("port", &address.port().to_string());
        Ok(Element::new("query", ns::BYTESTREAMS).with_child(streamhost))
    }

    /// §6.3.5: both sides are connected and may send.
    fn activate(&self, query: &Element, from: &Jid, account: &BareJid) -> Result<(), StanzaError> {
        let sid = query.attr("sid").filter(|sid| !sid.is_empty());
        let target = query.child("activate", ns::BYTESTREAMS).map(Element::text);
        let (Some(sid), Some(target)) = (sid, target) else {
            return Err(StanzaError::bad_request());
        };
        let prepared = Jid::parse(&target).map_err(|_| StanzaError::jid_malformed())?;
        if sid.chars().count() > SID_CHARS_MAX {
            return Err(StanzaError::bad_request());
        }
        let names = [digest(sid, from, prepared.as_str()), digest(sid, from, &target)];
        let mut done = self.relay.activate(&names[0], account);
        // COMPAT: clients that hash the address as they were given it.
        if done == Err(NotActivated::Unknown) && names[0] != names[1] {
            done = self.relay.activate(&names[1], account);
        }
        done.map_err(|why| match why {
            NotActivated::Unknown => StanzaError::item_not_found(),
            NotActivated::OneSide => StanzaError::not_allowed(),
            NotActivated::TooMany => StanzaError::resource_constraint(),
        })
    }
}

/// SHA-1 of the stream's id and both addresses, in hexadecimal (§5.3.2).
fn digest(sid: &str, requester: &Jid, target: &str) -> String {
    let mut digest = Sha1::new();
    for part in [sid, requester.as_str(), target] {
        digest.update(part.as_bytes());
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Service for Bytestreams {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "SOCKS5 Bytestreams"
    }

    fn info(&self, _node: &Node) -> Info {
        Info::default()
            .with_identity("proxy", "bytestreams", Some(self.title()))
            .with_features([ns::BYTESTREAMS])
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Stanza) -> Flow {
        let Some(("query", ns::BYTESTREAMS)) = iq.first_child() else { return Flow::Next };
        let Some(to) = iq.to().filter(|to| to.local().is_none()) else { return Flow::Next };
        let ours =
            |from: &&Jid| from.local().is_some() && ctx.node.domains.has_accounts(from.domain());
        let query = iq.child("query", ns::BYTESTREAMS);
        let answer = match (iq.from().filter(ours), query) {
            (Some(_), Some(_)) if iq.type_() == Type::Get => self.streamhost(to.domain()).map(Some),
            (Some(from), Some(query)) => self.activate(&query, from, &from.bare()).map(|()| None),
            _ => Err(StanzaError::forbidden()),
        };
        let answer = match answer {
            Ok(payload) => Some(Stanza::iq_result(iq, payload)),
            Err(error) => iq.error_reply(&error),
        };
        ctx.actions.extend(answer.map(Action::Reply));
        Flow::Done
    }

    fn start(&self, _node: &Arc<Node>, tasks: &mut JoinSet<()>) -> io::Result<()> {
        for address in &self.config.listen {
            let listener = tcp::listen(*address)?;
            let _ = self.address.set(listener.local_addr()?); // The first is told.
            tasks.spawn(self.relay.clone().listen(listener));
        }
        Ok(())
    }
}
