//! What a listener offers to clients, and what its transport knows of a connection. Values only: handed to [`Receiving`](super::Receiving).

use super::inline::Inline;
use crate::sasl::{ChannelBindings, Mechanism, Secret};

/// Whether clear-text streams may, or must, be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// There is no STARTTLS here.
    Absent,
    /// Offered.
    Optional,
    /// Nothing else is offered before it.
    Required,
}

/// What a listener offers; shared by its connections.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Domains served here, prepared; at least one. The first speaks when the client named none of them.
    pub domains: Vec<String>,
    /// About STARTTLS. Irrelevant where TLS is active from the start.
    pub tls: TlsPolicy,
    /// Mechanisms, the preferred first. -PLUS ones are only offered where the channel can be bound to, EXTERNAL where the
    /// certificate proves an address, PLAIN where there is TLS.
    pub mechanisms: Vec<Mechanism>,
    /// Domains that have these mechanisms instead; where that is ANONYMOUS there is no in-band registration: guests' (XEP-0175).
    pub apart: Vec<(String, Vec<Mechanism>)>,
    /// Offer PLAIN without TLS all the same.
    pub plain_without_tls: bool,
    /// Advertise in-band registration before authentication (XEP-0077). Who asks without that is handed out too, to be refused.
    pub register: bool,
    /// Offer stream management (XEP-0198).
    pub stream_management: bool,
    /// Offer roster versioning (RFC 6121 §2.6).
    pub roster_versioning: bool,
    /// More feature elements before authentication, as bytes that declare their own namespaces.
    pub features_before_auth: Vec<u8>,
    /// The same after authentication.
    pub features_after_auth: Vec<u8>,
    /// See [`Terms::fake_secret`](crate::sasl::Terms::fake_secret).
    pub fake_secret: Secret,
    /// See [`Terms::fake_iterations`](crate::sasl::Terms::fake_iterations).
    pub fake_iterations: u32,
    /// Offer SASL2 (XEP-0388), with this in it.
    pub sasl2: Option<Inline>,
    /// Failed attempts to sign in or bind that a stream survives, at most 254; the next one closes it with `policy-violation`.
    pub failures_max: u8,
}

impl Offer {
    /// The mechanisms of a domain, and whether one may register there.
    pub(super) fn of(&self, domain: Option<&str>) -> (&[Mechanism], bool) {
        let apart = self.apart.iter().find(|(name, _)| Some(name.as_str()) == domain);
        match apart {
            Some((_, mechanisms)) => {
                (mechanisms, self.register && *mechanisms != [Mechanism::Anonymous])
            }
            None => (&self.mechanisms, self.register),
        }
    }
}

/// What TLS tells about the connection.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// For -PLUS.
    pub bindings: ChannelBindings,
    /// Bare JIDs a verified client certificate proves (XEP-0178 §2), for EXTERNAL.
    pub identities: Vec<String>,
}
