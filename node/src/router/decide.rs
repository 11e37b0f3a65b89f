//! Room: where does this stanza go? Pure: header and the domains we serve. RFC 6120 §10, RFC 6121 §8.1 to §8.3.
//! Called by `router::route`; the one `match` that carries it out is there.

use std::collections::BTreeSet;

use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;

/// The domains of this deployment, as one node sees them.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    /// Served by every region; accounts live here.
    pub global: String,
    /// Our own name in the classic federation (`eu.chat.example`).
    pub regional: String,
    /// Names of other regions' regional domains.
    pub elsewhere: BTreeSet<String>,
}

impl Domains {
    /// Whether users may sign in at `domain`.
    pub fn has_accounts(&self, domain: &str) -> bool {
        domain == self.global
    }

    /// Whether a stanza to this domain is for this node itself.
    pub fn is_server(&self, domain: &str) -> bool {
        domain == self.global || domain == self.regional
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A user of the global domain: bare JID.
    Account(BareJid),
    /// The server itself.
    Server,
    /// A domain of ours that no service answers for.
    NoService,
    /// Somebody else's domain.
    Foreign,
}

/// Decides by the `to` alone; a stanza without one is the caller's (RFC 6120 §10.3).
pub fn decide(stanza: &Stanza, domains: &Domains) -> Destination {
    let Some(to) = stanza.to() else { return Destination::Server };
    let domain = to.domain();
    if to.local().is_some() {
        return match domain {
            _ if domains.has_accounts(domain) => Destination::Account(to.bare()),
            _ if domains.is_server(domain) || domains.elsewhere.contains(domain) => {
                Destination::NoService
            }
            _ => Destination::Foreign,
        };
    }
    match domain {
        _ if domains.is_server(domain) => Destination::Server,
        _ if domains.elsewhere.contains(domain) || is_below(domain, &domains.global) => {
            Destination::NoService
        }
        _ => Destination::Foreign,
    }
}

/// `rooms.chat.example` is below `chat.example`.
fn is_below(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}
