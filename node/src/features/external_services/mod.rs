//! XEP-0215 External Service Discovery, version 1.0.0: STUN, TURN and other servers, as the configuration names them.
//!
//! Those of this region come first, then the others in their order: a call goes through the nearest relay. With a shared secret each client
//! gets credentials of its own that end by themselves, as coturn's `use-auth-secret` has it (draft-uberti-behave-turn-rest-00).
//!
//! Left out: pushes (what is configured does not change while a node runs), extended information (§4), users of other servers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::ExternalService;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct ExternalServices;

impl Feature for ExternalServices {
    fn name(&self) -> &'static str {
        "external_services"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::EXTERNAL_SERVICES], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::EXTERNAL_SERVICES);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if iq.target != Target::Server || iq.stanza.type_() != Type::Get {
            return Flow::Next;
        }
        let node = ctx.node;
        let ours = |account: &BareJid| node.domains.has_users(account.domain());
        let account = iq.stanza.from().map(xmpp::jid::Jid::bare).filter(ours);
        let known = Known {
            services: &node.config.external_services,
            region: &node.config.node.region,
            now_s: node.wall_ms() / 1_000,
        };
        let answer = account.ok_or_else(StanzaError::forbidden);
        let answer = answer.and_then(|account| known.answer(&iq.stanza, &account));
        let answer = answer.map_or_else(|error| iq.stanza.error_reply(&error), Some);
        ctx.actions.extend(answer.map(Action::Reply));
        Flow::Done
    }
}

/// What there is to tell.
struct Known<'a> {
    services: &'a [ExternalService],
    region: &'a str,
    now_s: u64,
}

impl Known<'_> {
    fn answer(&self, iq: &Stanza, account: &BareJid) -> Result<Stanza, StanzaError> {
        let asked = iq.element();
        let asked = asked.children().next().ok_or_else(StanzaError::bad_request)?;
        let payload = match asked.name() {
            "services" => self.services(asked, account),
            "credentials" => self.credentials(asked, account)?,
            _ => return Err(StanzaError::bad_request()),
        };
        Ok(Stanza::iq_result(iq, Some(payload)))
    }

    /// Ours first; otherwise in the order of the configuration.
    fn nearest_first(&self) -> Vec<&ExternalService> {
        let mut services: Vec<_> = self.services.iter().collect();
        services.sort_by_key(|service| service.region.as_deref() != Some(self.region));
        services
    }

    /// §3.1 and §3.2: all, or those of one type.
    fn services(&self, asked: &Element, account: &BareJid) -> Element {
        let type_ = asked.attr("type");
        let all = self.nearest_first();
        let wanted = all.into_iter().filter(|one| type_.is_none_or(|type_| one.type_ == type_));
        Element::new("services", ns::EXTERNAL_SERVICES)
            .with_attr_opt("type", type_)
            .with_children(wanted.map(|service| self.element(service, account)))
    }

    /// §3.3: of those that are named by host and type, perhaps by port. One that needs no credentials comes without.
    fn credentials(&self, asked: &Element, account: &BareJid) -> Result<Element, StanzaError> {
        let mut found = Vec::new();
        for named in asked.children() {
            let (Some(host), Some(type_)) = (named.attr("host"), named.attr("type")) else {
                return Err(StanzaError::bad_request());
            };
            if !named.is("service", ns::EXTERNAL_SERVICES) {
                return Err(StanzaError::bad_request());
            }
            let port = named.attr("port");
            let is_it = |one: &&ExternalService| {
                let same_port = port
                    .is_none_or(|port| one.port.map(|p| p.to_string()).as_deref() == Some(port));
                one.host == host && one.type_ == type_ && same_port
            };
            found.extend(self.nearest_first().into_iter().filter(is_it));
        }
        if asked.children().next().is_none() {
            return Err(StanzaError::bad_request());
        }
        if found.is_empty() {
            return Err(StanzaError::item_not_found());
        }
        found.dedup_by(|a, b| std::ptr::eq(*a, *b));
        let found = found.into_iter().map(|service| self.element(service, account));
        Ok(Element::new("credentials", ns::EXTERNAL_SERVICES).with_children(found))
    }

    fn element(&self, service: &ExternalService, account: &BareJid) -> Element {
        let port = service.port.map(|port| port.to_string());
        let element = Element::new("service", ns::EXTERNAL_SERVICES)
            .with_attr("type", &service.type_)
            .with_attr("host", &service.host)
            .with_attr_opt("port", port.as_deref())
            .with_attr_opt("transport", service.transport.as_deref())
            .with_attr_opt("name", service.name.as_deref())
            .with_attr_opt("restricted", needs_credentials(service).then_some("1"));
        let Some(secret) = &service.secret else {
            return element
                .with_attr_opt("username", service.username.as_deref())
                .with_attr_opt("password", service.password.as_deref());
        };
        let ends_s = self.now_s + service.valid_for.as_secs();
        let (username, password) = time_limited(secret, ends_s, account);
        element
            .with_attr("username", &username)
            .with_attr("password", &password)
            .with_attr("expires", &date_time::format(ends_s * 1_000))
    }
}

fn needs_credentials(service: &ExternalService) -> bool {
    service.secret.is_some() || service.username.is_some() || service.password.is_some()
}

/// Name and password that a relay with this secret takes until then. The account is told apart from others, so that the relay can count
/// what it uses, and not named.
fn time_limited(secret: &str, ends_s: u64, account: &BareJid) -> (String, String) {
    let mut who = Sha256::new();
    who.update(secret.as_bytes());
    who.update(account.as_str().as_bytes());
    let who: String = who.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let username = format!("{ends_s}:{who}");
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("any key is one");
    mac.update(username.as_bytes());
    let password = STANDARD.encode(mac.finalize().into_bytes());
    (username, password)
}
