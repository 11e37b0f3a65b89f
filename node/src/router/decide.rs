//! Room: where does this stanza go? Pure: header and the domains we serve. RFC 6120 §10, RFC 6121 §8.1 to §8.3.
//! Called by `router::route`; the one `match` that carries it out is there.

use std::collections::{BTreeMap, BTreeSet};

use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::Stanza;

/// The domains of this deployment, as one node sees them.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    /// Served by every region; accounts live here.
    pub global: String,
    /// Our own name in the classic federation (`eu.chat.example`).
    pub regional: String,
    /// Guests' (XEP-0175), served by every region; empty: there are none.
    pub anon: String,
    /// Names of other regions' regional domains.
    pub elsewhere: BTreeSet<String>,
    /// Domains of services (`upload.chat.example`), with their numbers in `Services`.
    pub services: BTreeMap<String, usize>,
    /// Domains of components (XEP-0114), as their rows in the session table name them.
    pub components: BTreeMap<String, BareJid>,
    /// Any other domain below the global one may be a component's, but for these: they have a name in the configuration.
    pub any_component_but: Option<BTreeSet<String>>,
}

impl Domains {
    /// Whether `domain` has accounts, with a home and durable data.
    pub fn has_accounts(&self, domain: &str) -> bool {
        domain == self.global
    }

    /// Whether `domain` has guests: they are users while their session lasts, and have no data.
    pub fn has_guests(&self, domain: &str) -> bool {
        !self.anon.is_empty() && domain == self.anon
    }

    /// Whether users sign in at `domain`, of either kind.
    pub fn has_users(&self, domain: &str) -> bool {
        self.has_accounts(domain) || self.has_guests(domain)
    }

    /// Whether `domain` is somebody else's: stanzas to it leave by federation.
    pub fn is_foreign(&self, domain: &str) -> bool {
        !(self.has_users(domain)
            || self.is_server(domain)
            || self.services.contains_key(domain)
            || self.elsewhere.contains(domain)
            || self.names_component(domain)
            || is_below(domain, &self.global))
    }

    /// Whether other servers may call us by that name, whoever is connected.
    pub fn is_ours(&self, domain: &str) -> bool {
        // Guests are known here alone (XEP-0175 §3).
        (self.is_server(domain) && !self.has_guests(domain))
            || self.services.contains_key(domain)
            || self.names_component(domain)
    }

    /// Whether a stanza to this domain is for this node itself.
    pub fn is_server(&self, domain: &str) -> bool {
        domain == self.global || domain == self.regional || self.has_guests(domain)
    }

    /// Whether somebody of ours has that domain, besides components.
    pub fn is_taken(&self, domain: &str) -> bool {
        self.is_server(domain)
            || self.elsewhere.contains(domain)
            || self.services.contains_key(domain)
            || self.any_component_but.as_ref().is_some_and(|names| names.contains(domain))
    }

    /// Whether the configuration names a component of that domain.
    pub fn names_component(&self, domain: &str) -> bool {
        self.components.contains_key(domain)
    }

    /// Whether what is for that domain is for a component, connected or not.
    pub fn is_component(&self, domain: &str) -> bool {
        let may_be = || self.any_component_but.is_some() && is_below(domain, &self.global);
        self.names_component(domain) || (may_be() && !self.is_taken(domain))
    }

    /// The component that has that domain, as the session table knows it.
    pub fn component(&self, domain: &str) -> Option<BareJid> {
        match self.components.get(domain) {
            Some(component) => Some(component.clone()),
            None if self.is_component(domain) => BareJid::new(None, domain).ok(),
            None => None,
        }
    }

    /// Whose rows of the session table what goes to `to` goes by: a user's bare JID, or the domain of a component.
    pub fn addressee(&self, to: &Jid) -> BareJid {
        if to.local().is_none() || self.has_users(to.domain()) {
            return to.bare();
        }
        self.component(to.domain()).unwrap_or_else(|| to.bare())
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A user of the global domain, or a guest: bare JID.
    Account(BareJid),
    /// The server itself.
    Server,
    /// A service of ours, by its number: its domain, or an address under it.
    Service(usize),
    /// A component, by its domain: that, or an address under it.
    Component(BareJid),
    /// A domain of ours that no service answers for.
    NoService,
    /// Somebody else's domain.
    Foreign,
}

/// Decides by the `to` alone; a stanza without one is the caller's (RFC 6120 §10.3).
pub fn decide(stanza: &Stanza, domains: &Domains) -> Destination {
    let Some(to) = stanza.to() else { return Destination::Server };
    let domain = to.domain();
    match to.local() {
        Some(_) if domains.has_users(domain) => Destination::Account(to.bare()),
        None if domains.is_server(domain) => Destination::Server,
        _ if let Some(service) = domains.services.get(domain) => Destination::Service(*service),
        _ if let Some(component) = domains.component(domain) => Destination::Component(component),
        _ if domains.is_server(domain)
            || domains.elsewhere.contains(domain)
            || is_below(domain, &domains.global) =>
        {
            Destination::NoService
        }
        _ => Destination::Foreign,
    }
}

/// `rooms.chat.example` is below `chat.example`.
fn is_below(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn every_address_has_one_destination() {
        let domains = Domains {
            global: "chat.example".into(),
            regional: "eu.chat.example".into(),
            anon: "anon.chat.example".into(),
            elsewhere: ["us.chat.example".into()].into(),
            services: [("upload.chat.example".into(), 0), ("proxy.example".into(), 1)].into(),
            components: ["irc.chat.example", "bridge.example"]
                .map(|name| (name.to_owned(), BareJid::parse(name).expect("a JID")))
                .into(),
            any_component_but: None,
        };
        let component = |name: &str| Destination::Component(BareJid::parse(name).expect("a JID"));
        let account = |name: &str| {
            Destination::Account(BareJid::parse(&format!("{name}@chat.example")).expect("a JID"))
        };
        let guest = BareJid::parse("4f1c@anon.chat.example").expect("a JID");
        let guest = Destination::Account(guest);
        for (to, expected) in [
            ("romeo@chat.example", account("romeo")),
            ("romeo@chat.example/orchard", account("romeo")),
            ("ROMEO@Chat.Example/Orchard", account("romeo")),
            ("chat.example", Destination::Server),
            ("chat.example/anything", Destination::Server),
            ("eu.chat.example", Destination::Server),
            // Accounts live under the global name only.
            ("romeo@eu.chat.example", Destination::NoService),
            ("romeo@us.chat.example", Destination::NoService),
            ("us.chat.example", Destination::NoService),
            ("upload.chat.example", Destination::Service(0)),
            ("upload.chat.example/anything", Destination::Service(0)),
            ("romeo@upload.chat.example/orchard", Destination::Service(0)),
            ("proxy.example", Destination::Service(1)),
            ("irc.chat.example", component("irc.chat.example")),
            ("#hall%net@irc.chat.example/x", component("irc.chat.example")),
            ("bridge.example/x", component("bridge.example")),
            ("a.bridge.example", Destination::Foreign),
            // Guests are users.
            ("4f1c@anon.chat.example/x", guest),
            ("anon.chat.example", Destination::Server),
            // Below our name, but nothing answers there.
            ("rooms.chat.example", Destination::NoService),
            ("a.b.chat.example", Destination::NoService),
            ("hall@rooms.chat.example", Destination::NoService),
            // Not ours, however much it looks like it.
            ("notchat.example", Destination::Foreign),
            ("chat.example.org", Destination::Foreign),
            ("example", Destination::Foreign),
            ("juliet@other.example", Destination::Foreign),
            ("other.example", Destination::Foreign),
        ] {
            let stanza = Stanza::parse(Bytes::from(format!("<message to='{to}'/>")));
            assert_eq!(decide(&stanza.expect("a message"), &domains), expected, "{to}");
        }
        let any = Domains {
            any_component_but: Some(["rooms.chat.example".into()].into()),
            ..domains.clone()
        };
        for (to, expected) in [
            ("x@comp.chat.example/y", component("comp.chat.example")),
            ("a.b.chat.example", component("a.b.chat.example")),
            ("irc.chat.example", component("irc.chat.example")),
            ("rooms.chat.example", Destination::NoService),
            ("upload.chat.example", Destination::Service(0)),
            ("romeo@us.chat.example", Destination::NoService),
            ("romeo@eu.chat.example", Destination::NoService),
            ("romeo@chat.example", account("romeo")),
            ("other.example", Destination::Foreign),
        ] {
            let stanza = Stanza::parse(Bytes::from(format!("<message to='{to}'/>")));
            assert_eq!(decide(&stanza.expect("a message"), &any), expected, "{to}");
            let to = Jid::parse(to).expect("a JID");
            let addressee = any.addressee(&to);
            match expected {
                Destination::Component(domain) => assert_eq!(addressee, domain),
                _ => assert_eq!(addressee, to.bare()),
            }
        }
        let without = Domains { global: "chat.example".into(), ..Domains::default() };
        let guest = Stanza::parse(Bytes::from_static(b"<message to='a@anon.chat.example'/>"));
        assert_eq!(decide(&guest.expect("a message"), &without), Destination::NoService);
        let nowhere = Stanza::parse(Bytes::from_static(b"<message/>")).expect("a message");
        assert_eq!(decide(&nowhere, &domains), Destination::Server);
    }
}
