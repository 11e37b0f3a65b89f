//! Room: where does this stanza go? Pure: header and the domains we serve. RFC 6120 §10, RFC 6121 §8.1 to §8.3.
//! Called by `router::route`; the one `match` that carries it out is there.

use std::collections::{BTreeMap, BTreeSet};

use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::Stanza;

use crate::app::Live;

/// The domains of this deployment, as one node sees them.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    /// Served by every region.
    pub global: String,
    /// Served by this region alone (`eu.chat.example`): its accounts sign in here and nowhere else. Empty: there are none.
    pub regional: String,
    /// Names of other regions' regional domains, as metadata has them (`app::wires`).
    pub elsewhere: Live<BTreeSet<String>>,
    /// What goes from one region's domain to another's stays inside the system, like everything else. If not, they are strangers to each other.
    pub regions_linked: bool,
    /// What else the configuration names; a reload may change it.
    pub named: Live<Named>,
    /// Domains of components (XEP-0114), as their rows in the session table name them.
    pub components: Live<BTreeMap<String, BareJid>>,
}

/// Names of the configuration that no account and no home is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Guests' (XEP-0175), served by every region; empty: there are none.
    pub anon: String,
    /// Domains of services (`upload.chat.example`), with their numbers in `Services`.
    pub services: BTreeMap<String, usize>,
    /// Any other domain below the global one may be a component's, but for these: they have a name in the configuration.
    pub any_component_but: Option<BTreeSet<String>>,
    /// Names that were guests' in this life of the node. What comes back from their sessions is nothing for a component that is not named.
    pub guests_before: BTreeSet<String>,
}

impl Named {
    /// Those of guests and services.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let anon = Some(self.anon.as_str()).filter(|name| !name.is_empty());
        anon.into_iter().chain(self.services.keys().map(String::as_str))
    }

    /// These were in force before.
    pub fn remember(&mut self, before: &Named) {
        self.guests_before = before.guests_before.clone();
        let anon = Some(before.anon.clone()).filter(|name| !name.is_empty() && *name != self.anon);
        self.guests_before.extend(anon);
    }

    /// As configured; `services` are the domains of those, with their numbers.
    pub fn new<'a>(
        config: &config::Config,
        services: impl Iterator<Item = (&'a str, usize)>,
    ) -> Named {
        Named {
            anon: config.domains.anon.clone().unwrap_or_default(),
            services: services.map(|(host, number)| (host.to_owned(), number)).collect(),
            any_component_but: config.components.any_below.then(|| {
                let all = config.domains.all();
                let own = config.domains.regional_of(&config.node.region);
                all.into_iter().map(|(_, name)| name.to_owned()).chain([own]).collect()
            }),
            guests_before: BTreeSet::new(),
        }
    }
}

impl Domains {
    /// Whether `domain` has accounts, with a home and durable data.
    pub fn has_accounts(&self, domain: &str) -> bool {
        domain == self.global || self.is_regional(domain)
    }

    /// Whether it is the domain of one region, this one or another.
    pub fn is_regional(&self, domain: &str) -> bool {
        self.is_of_this_region(domain) || self.elsewhere.contains(domain)
    }

    /// Whether it is this region's own domain.
    pub fn is_of_this_region(&self, domain: &str) -> bool {
        !self.regional.is_empty() && domain == self.regional
    }

    /// The domains that have accounts, the global one first.
    pub fn of_accounts(&self) -> impl Iterator<Item = &str> {
        let regional = Some(self.regional.as_str()).filter(|name| !name.is_empty());
        let here = std::iter::once(self.global.as_str()).chain(regional);
        here.chain(self.elsewhere.iter().map(String::as_str))
    }

    /// Whether those at the one domain are strangers to those at the other, though both are ours: what they say to each other goes by federation, and what
    /// a region knows of the other's users it does not tell its own.
    pub fn are_strangers(&self, one: &str, other: &str) -> bool {
        !self.regions_linked && one != other && self.is_regional(one) && self.is_regional(other)
    }

    /// Whether whom this region trusts with accounts is trusted with those of `domain`: not with another region's, which is a stranger.
    pub fn trusts_with(&self, domain: &str) -> bool {
        domain == self.global
            || self.is_of_this_region(domain)
            || self.regions_linked && self.is_regional(domain)
    }

    /// Whether what `from` sends to `to` leaves by federation.
    pub fn leaves(&self, from: Option<&Jid>, to: &Jid) -> bool {
        self.is_foreign(to.domain())
            || !self.is_of_this_region(to.domain())
                && from.is_some_and(|from| self.are_strangers(to.domain(), from.domain()))
    }

    /// Whether streams of other servers may bring what is from `from` to `to`, a domain of ours: never from one of ours, but for the domain of another
    /// region to this region's, if they are strangers.
    pub fn may_arrive(&self, from: &str, to: &str) -> bool {
        if self.elsewhere.contains(from) {
            return self.is_of_this_region(to) && self.are_strangers(from, to);
        }
        !self.is_ours(from)
    }

    /// Whether `domain` has guests: they are users while their session lasts, and have no data.
    pub fn has_guests(&self, domain: &str) -> bool {
        let anon = &self.named.anon;
        !anon.is_empty() && domain == anon
    }

    /// Whether `domain` has users, of either kind.
    pub fn has_users(&self, domain: &str) -> bool {
        self.has_accounts(domain) || self.has_guests(domain)
    }

    /// Whether users of `domain` sign in at this node.
    pub fn signs_in(&self, domain: &str) -> bool {
        self.has_users(domain) && !self.elsewhere.contains(domain)
    }

    /// Whether `domain` is somebody else's.
    fn is_foreign(&self, domain: &str) -> bool {
        !(self.has_users(domain)
            || self.named.services.contains_key(domain)
            || self.names_component(domain)
            || is_below(domain, &self.global))
    }

    /// Whether other servers may call us by that name, whoever is connected.
    pub fn is_ours(&self, domain: &str) -> bool {
        // Guests are known here alone (XEP-0175 §3).
        domain == self.global
            || self.is_of_this_region(domain)
            || self.named.services.contains_key(domain)
            || self.names_component(domain)
    }

    /// Whether a stanza to this domain is for this node itself: all domains with users are of the same server, whose every node says the same.
    pub fn is_server(&self, domain: &str) -> bool {
        self.has_users(domain)
    }

    /// Whether somebody of ours has that domain, besides components.
    pub fn is_taken(&self, domain: &str) -> bool {
        self.is_server(domain)
            || self.named.services.contains_key(domain)
            || self.named.any_component_but.as_ref().is_some_and(|names| names.contains(domain))
            || self.named.guests_before.contains(domain)
    }

    /// Whether the configuration names a component of that domain.
    pub fn names_component(&self, domain: &str) -> bool {
        self.components.contains_key(domain)
    }

    /// Whether what is for that domain is for a component, connected or not.
    pub fn is_component(&self, domain: &str) -> bool {
        let may_be = || self.named.any_component_but.is_some() && is_below(domain, &self.global);
        self.names_component(domain) || (may_be() && !self.is_taken(domain))
    }

    /// The component that has that domain, as the session table knows it.
    pub fn component(&self, domain: &str) -> Option<BareJid> {
        match self.components.get(domain) {
            // A region that was added later has its name, whatever the configuration calls so.
            Some(component) => (!self.elsewhere.contains(domain)).then(|| component.clone()),
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
    /// A user of ours: bare JID.
    Account(BareJid),
    /// The server itself.
    Server,
    /// A service of ours, by its number: its domain, or an address under it.
    Service(usize),
    /// A component, by its domain: that, or an address under it.
    Component(BareJid),
    /// A domain of ours that no service answers for.
    NoService,
    /// Somebody else's domain, or one that is as good as that.
    Foreign,
}

/// Decides by the `to`, and between regions' own domains by the `from`; a stanza without `to` is the caller's (RFC 6120 §10.3).
pub fn decide(stanza: &Stanza, domains: &Domains) -> Destination {
    let Some(to) = stanza.to() else { return Destination::Server };
    let domain = to.domain();
    match to.local() {
        _ if domain != domains.global
            && domains.elsewhere.contains(domain)
            && domains.leaves(stanza.from(), to) =>
        {
            Destination::Foreign
        }
        Some(_) if domains.has_users(domain) => Destination::Account(to.bare()),
        None if domains.is_server(domain) => Destination::Server,
        _ if let Some(service) = domains.named.services.get(domain) => {
            Destination::Service(*service)
        }
        _ if let Some(component) = domains.component(domain) => Destination::Component(component),
        _ if domains.is_server(domain) || is_below(domain, &domains.global) => {
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

    fn named(anon: &str, services: &[&str]) -> Live<Named> {
        let services = services.iter().map(|name| (*name).to_owned()).zip(0..).collect();
        Live::new(Named { anon: anon.into(), services, ..Named::default() })
    }

    #[test]
    fn every_address_has_one_destination() {
        let domains = Domains {
            global: "chat.example".into(),
            regional: "eu.chat.example".into(),
            elsewhere: Live::new(["us.chat.example".into()].into()),
            named: named("anon.chat.example", &["upload.chat.example", "proxy.example"]),
            components: Live::new(
                ["irc.chat.example", "bridge.example"]
                    .map(|name| (name.to_owned(), BareJid::parse(name).expect("a JID")))
                    .into(),
            ),
            ..Domains::default()
        };
        let component = |name: &str| Destination::Component(BareJid::parse(name).expect("a JID"));
        let account = |name: &str| {
            Destination::Account(BareJid::parse(&format!("{name}@chat.example")).expect("a JID"))
        };
        let of = |jid: &str| Destination::Account(BareJid::parse(jid).expect("a JID"));
        let guest = BareJid::parse("4f1c@anon.chat.example").expect("a JID");
        let guest = Destination::Account(guest);
        for (to, expected) in [
            ("romeo@chat.example", account("romeo")),
            ("romeo@chat.example/orchard", account("romeo")),
            ("ROMEO@Chat.Example/Orchard", account("romeo")),
            ("chat.example", Destination::Server),
            ("chat.example/anything", Destination::Server),
            ("eu.chat.example", Destination::Server),
            // Accounts live under regions' own names too, of which all are the same server.
            ("romeo@eu.chat.example", of("romeo@eu.chat.example")),
            ("romeo@us.chat.example/x", of("romeo@us.chat.example")),
            ("us.chat.example", Destination::Server),
            ("romeo@ap.chat.example", Destination::NoService),
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
        let taken = Named {
            any_component_but: Some(["rooms.chat.example".into()].into()),
            ..Named::clone(&domains.named)
        };
        let any = Domains { named: Live::new(taken), ..domains.clone() };
        for (to, expected) in [
            ("x@comp.chat.example/y", component("comp.chat.example")),
            ("a.b.chat.example", component("a.b.chat.example")),
            ("irc.chat.example", component("irc.chat.example")),
            ("rooms.chat.example", Destination::NoService),
            ("upload.chat.example", Destination::Service(0)),
            ("romeo@us.chat.example", of("romeo@us.chat.example")),
            ("romeo@eu.chat.example", of("romeo@eu.chat.example")),
            ("us.chat.example", Destination::Server),
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
        // Nor is what comes back from the sessions of guests whose domain is gone for a component that nobody has named.
        let mut after = Named { anon: String::new(), ..Named::clone(&any.named) };
        after.remember(&any.named);
        let after = Domains { named: Live::new(after), ..domains.clone() };
        let guest = Stanza::parse(Bytes::from_static(b"<message to='a@anon.chat.example'/>"));
        assert_eq!(decide(&guest.expect("a message"), &after), Destination::NoService);
        let without = Domains { global: "chat.example".into(), ..Domains::default() };
        let guest = Stanza::parse(Bytes::from_static(b"<message to='a@anon.chat.example'/>"));
        assert_eq!(decide(&guest.expect("a message"), &without), Destination::NoService);
        let nowhere = Stanza::parse(Bytes::from_static(b"<message/>")).expect("a message");
        assert_eq!(decide(&nowhere, &domains), Destination::Server);
    }

    /// At a node of eu, when regions' own domains are strangers, and when they are linked.
    #[test]
    fn between_regions_own_domains_it_depends_on_who_sends() {
        let apart = Domains {
            global: "chat.example".into(),
            regional: "eu.chat.example".into(),
            elsewhere: Live::new(["us.chat.example".into(), "ap.chat.example".into()].into()),
            named: named("", &["upload.chat.example"]),
            ..Domains::default()
        };
        let linked = Domains { regions_linked: true, ..apart.clone() };
        let of = |jid: &str| Destination::Account(BareJid::parse(jid).expect("a JID"));
        let server = || Destination::Server;
        for (from, to, inside, leaves) in [
            // Ours to theirs: by federation. Their answer comes back by it, and is for us.
            ("a@eu.chat.example/x", "b@us.chat.example", of("b@us.chat.example"), true),
            ("a@eu.chat.example/x", "b@us.chat.example/y", of("b@us.chat.example"), true),
            ("a@eu.chat.example", "us.chat.example", server(), true),
            ("eu.chat.example", "b@us.chat.example", of("b@us.chat.example"), true),
            ("b@us.chat.example/y", "a@eu.chat.example", of("a@eu.chat.example"), false),
            ("us.chat.example", "eu.chat.example", server(), false),
            // What a fallen node of another region had.
            ("b@us.chat.example/y", "c@ap.chat.example", of("c@ap.chat.example"), true),
            ("b@us.chat.example/y", "c@us.chat.example", of("c@us.chat.example"), false),
            // The same domain, the global one, and services: always inside.
            ("a@eu.chat.example/x", "c@eu.chat.example", of("c@eu.chat.example"), false),
            ("a@eu.chat.example/x", "c@chat.example", of("c@chat.example"), false),
            ("c@chat.example/x", "b@us.chat.example", of("b@us.chat.example"), false),
            ("c@chat.example/x", "us.chat.example", server(), false),
            ("upload.chat.example", "b@us.chat.example", of("b@us.chat.example"), false),
            ("a@eu.chat.example/x", "upload.chat.example", Destination::Service(0), false),
            // Strangers to all of us.
            ("a@eu.chat.example/x", "d@far.example", Destination::Foreign, true),
            ("d@far.example/x", "a@eu.chat.example", of("a@eu.chat.example"), false),
        ] {
            let text = format!("<message from='{from}' to='{to}'/>");
            let stanza = Stanza::parse(Bytes::from(text)).expect("a message");
            let expected = if leaves { Destination::Foreign } else { inside.clone() };
            assert_eq!(decide(&stanza, &apart), expected, "{from} to {to}");
            assert_eq!(decide(&stanza, &linked), inside, "{from} to {to}, linked");
            let to = stanza.to().expect("there");
            assert_eq!(apart.leaves(stanza.from(), to), leaves, "{from} to {to}");
            assert_eq!(linked.leaves(stanza.from(), to), inside == Destination::Foreign);
        }
    }

    #[test]
    fn streams_bring_nothing_from_us_but_from_regions_that_are_strangers() {
        let apart = Domains {
            global: "chat.example".into(),
            regional: "eu.chat.example".into(),
            elsewhere: Live::new(["us.chat.example".into()].into()),
            named: named("anon.chat.example", &["upload.chat.example"]),
            ..Domains::default()
        };
        let linked = Domains { regions_linked: true, ..apart.clone() };
        for (from, to, may, may_linked) in [
            ("us.chat.example", "eu.chat.example", true, false),
            ("us.chat.example", "chat.example", false, false),
            ("us.chat.example", "upload.chat.example", false, false),
            ("eu.chat.example", "eu.chat.example", false, false),
            ("eu.chat.example", "chat.example", false, false),
            ("chat.example", "eu.chat.example", false, false),
            ("upload.chat.example", "chat.example", false, false),
            ("far.example", "eu.chat.example", true, true),
            ("far.example", "chat.example", true, true),
        ] {
            assert_eq!(apart.may_arrive(from, to), may, "{from} to {to}");
            assert_eq!(linked.may_arrive(from, to), may_linked, "{from} to {to}, linked");
        }
        for (domain, signs_in, is_ours) in [
            ("chat.example", true, true),
            ("eu.chat.example", true, true),
            ("anon.chat.example", true, false),
            ("us.chat.example", false, false),
            ("upload.chat.example", false, true),
            ("", false, false),
        ] {
            assert_eq!(
                (apart.signs_in(domain), apart.is_ours(domain)),
                (signs_in, is_ours),
                "{domain}"
            );
        }
    }
}
