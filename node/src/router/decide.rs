//! Room: where does this stanza go? Pure: header and the domains we serve. RFC 6120 §10, RFC 6121 §8.1 to §8.3.
//! Called by `router::route`; the one `match` that carries it out is there.

use std::collections::{BTreeMap, BTreeSet};

use xmpp::jid::BareJid;
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
            || is_below(domain, &self.global))
    }

    /// Whether a stanza to this domain is for this node itself.
    pub fn is_server(&self, domain: &str) -> bool {
        domain == self.global || domain == self.regional || self.has_guests(domain)
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
        };
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
        let without = Domains { global: "chat.example".into(), ..Domains::default() };
        let guest = Stanza::parse(Bytes::from_static(b"<message to='a@anon.chat.example'/>"));
        assert_eq!(decide(&guest.expect("a message"), &without), Destination::NoService);
        let nowhere = Stanza::parse(Bytes::from_static(b"<message/>")).expect("a message");
        assert_eq!(decide(&nowhere, &domains), Destination::Server);
    }
}
