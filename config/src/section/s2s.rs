//! `[s2s]` and `[[s2s.policy]]`: streams to and from other people's servers; the links between our own nodes come in here too.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::limits::stanza_bytes;
use crate::table::Table;
use crate::value::{FromToml, HostPort, OneOf, Size, Words, describe, is_domain};

/// The `[s2s]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S2s {
    /// Where other servers and our other nodes connect. Empty: nobody can.
    pub listen: Vec<SocketAddr>,
    /// Where other servers connect with TLS from the first byte (XEP-0368).
    pub listen_tls: Vec<SocketAddr>,
    /// Where our other nodes dial this one, `host:port`, if they have no address of it in their own `[[peers]]`.
    pub advertise: Option<String>,
    /// The certificate chain, PEM, shown as server and as client; by default that of `[c2s]`. Peers know its
    /// SHA-256.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whether there are streams to other people's servers at all. If not, they are as if they did not exist.
    pub federation: bool,
    /// Where other servers are sent while this node is emptied and when it stops, host and port (RFC 6120 §4.9.3.19): other nodes, in turn. If
    /// there are none, they stay until it stops, and find their way as they found it here.
    pub see_other_host: Vec<String>,
    /// The DNS servers to ask for other domains. Empty: the system's.
    pub dns: Vec<SocketAddr>,
    /// Whether DNSSEC is checked: what is signed wrongly is not believed.
    pub dnssec: bool,
    /// Whether a domain whose certificate proves nothing is asked over `https` which are its own (POSH, RFC 7711).
    pub posh: bool,
    /// The authorities that other servers' certificates may be from, PEM. None: the system's.
    pub trust: Option<PathBuf>,
    /// Revocation lists of such authorities, PEM.
    pub revoked: Option<PathBuf>,
    /// A file of domains to have nothing to do with, one a line, those below them included.
    pub blocklist: Option<PathBuf>,
    /// What is asked of whom, `[[s2s.policy]]`.
    pub policy: Vec<S2sPolicy>,
    /// Bounds.
    pub limits: S2sLimits,
    /// Times.
    pub timers: S2sTimers,
}

/// The bounds of streams to other servers. Beyond each: what is said there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S2sLimits {
    /// Streams in each direction. Beyond: an incoming one is refused with `resource-constraint`, an outgoing one waits.
    pub streams_max: usize,
    /// Incoming streams from one address (IPv6: one /64) that have proved nothing yet. Beyond: closed at once.
    pub unproved_per_address_max: usize,
    /// Incoming streams that have proved one and the same domain. Beyond: `policy-violation` for the newest. As many more that are cut may wait to be resumed;
    /// beyond, one that is cut is over.
    pub streams_per_domain_max: usize,
    /// Pairs of domains proved on one incoming stream. Beyond: the dialback request is answered with an error (`resource-constraint`).
    pub pairs_per_stream_max: usize,
    /// Servers that are asked at one time about dialback keys that others have shown us, and as many certificates that are looked up elsewhere
    /// than in themselves. Beyond: dialback is answered with an error (`resource-constraint`), a certificate proves nothing.
    pub verifications_max: usize,
    /// Bytes of one stanza from a peer that has proved who it is (RFC 6120 §13.12: at least 10,000). Beyond: `policy-violation`.
    pub stanza_bytes_max: usize,
    /// Stanzas waiting for one pair of domains. Beyond: `resource-constraint` to the sender.
    pub queue_items_max: usize,
    /// Bytes waiting for one pair of domains. Beyond: the same.
    pub queue_bytes_max: usize,
    /// Bytes waiting for all pairs together. Beyond: the same.
    pub queued_bytes_max: usize,
    /// Stanzas sent on one stream and not acknowledged (XEP-0198). Beyond: the queue waits.
    pub unacked_max: usize,
    /// Stanzas received on one stream for which nobody is responsible yet. Beyond: the stream is not read.
    pub unhandled_max: usize,
    /// Bytes a second that one peer domain may send us on average, over its streams and again over ours (XEP-0288). Beyond: they are read more slowly.
    pub bytes_per_second: u64,
}

/// The times of streams to other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S2sTimers {
    /// To find, reach and convince one peer: DNS, TCP, TLS, authentication. Also what an incoming stream has to prove something.
    pub negotiate: Duration,
    /// How long a stanza may wait in the queue of its pair. Then `remote-server-timeout` to its sender.
    pub queue: Duration,
    /// An outgoing stream that carries nothing for so long is closed.
    pub idle: Duration,
    /// Between two attempts to reach a domain: at first, and at most. Doubled each time, with jitter.
    pub retry_first: Duration,
    /// See `retry_first`.
    pub retry_max: Duration,
    /// How long a cut stream may be resumed, at either end (XEP-0198). One that a peer has opened and that carries ours too: half of `queue` at most, so
    /// that these have time to go another way.
    pub resume: Duration,
    /// How long an acknowledgement that was asked for may take before the stream counts as cut.
    pub ack: Duration,
}

/// `[[s2s.policy]]`: what is asked of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S2sPolicy {
    /// A domain, all below one (`*.example.org`), or everybody (`*`).
    pub domain: String,
    /// Whether there are streams with it.
    pub allow: bool,
    /// What its certificate is worth.
    pub certificate: S2sCertificate,
    /// Whether there must be TLS.
    pub tls: S2sTls,
    /// Bytes a second that it may send us, if not as everybody.
    pub bytes_per_second: Option<u64>,
}

/// What a peer's certificate is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S2sCertificate {
    /// A valid one is needed.
    Required,
    /// A valid one is taken; without, dialback.
    Preferred,
    /// It is not looked at: dialback.
    Ignored,
}

/// Whether a stream must be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S2sTls {
    /// It must.
    Required,
    /// It is if the peer can.
    Optional,
}

impl Words for S2sCertificate {
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Self::Required), ("preferred", Self::Preferred), ("ignored", Self::Ignored)];
}

impl Words for S2sTls {
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Self::Required), ("optional", Self::Optional)];
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq)]
struct DomainPattern(String);

impl FromToml for DomainPattern {
    fn expected() -> String {
        "a domain name in lower case, as in \"example.org\"; \"*.example.org\" for all below it; \"*\" for all"
            .to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let written = value.as_str().ok_or_else(|| describe(value))?;
        let name = written.strip_prefix("*.").unwrap_or(written);
        if written == "*" || is_domain(name) {
            Ok(DomainPattern(written.to_owned()))
        } else {
            Err(describe(value))
        }
    }
    fn stand_in() -> Self {
        DomainPattern(String::new())
    }
}

impl S2s {
    /// The address to make known to other nodes: `advertise`, or the first of `listen` that names an interface. `None`: whoever is to
    /// dial this node must have it in its `[[peers]]`.
    #[must_use]
    pub fn advertised(&self) -> Option<String> {
        let named = || self.listen.iter().find(|address| !address.ip().is_unspecified());
        self.advertise.clone().or_else(|| named().map(ToString::to_string))
    }
}

pub(crate) fn read(table: &Table<'_>) -> S2s {
    let s2s = S2s {
        listen: table.value("listen", vec![SocketAddr::from(([0, 0, 0, 0], 5269))]),
        listen_tls: table.value("listen_tls", Vec::new()),
        advertise: table.optional::<HostPort>("advertise").map(|address| address.0),
        // Taken from [c2s] by `check` when they are left out.
        certificate: table.path("certificate", Some(PathBuf::new())),
        key: table.path("key", Some(PathBuf::new())),
        federation: table.value("federation", true),
        see_other_host: table
            .value::<Vec<HostPort>>("see_other_host", Vec::new())
            .into_iter()
            .map(|place| place.0)
            .collect(),
        dns: table.value("dns", Vec::new()),
        dnssec: table.value("dnssec", false),
        posh: table.value("posh", false),
        trust: table.optional_path("trust"),
        revoked: table.optional_path("revoked"),
        blocklist: table.optional_path("blocklist"),
        policy: table.sections("policy").iter().map(policy).collect(),
        limits: limits(table),
        timers: timers(table),
    };
    for (at, rule) in s2s.policy.iter().enumerate() {
        if s2s.policy[..at].iter().any(|before| before.domain == rule.domain) {
            table.refuse(
                "policy",
                "one [[s2s.policy]] for each domain",
                format!("two for {:?}", rule.domain),
            );
        }
    }
    s2s
}

fn policy(table: &Table<'_>) -> S2sPolicy {
    S2sPolicy {
        domain: table.required::<DomainPattern>("domain").0,
        allow: table.value("allow", true),
        certificate: table.value("certificate", OneOf(S2sCertificate::Preferred)).0,
        tls: table.value("tls", OneOf(S2sTls::Required)).0,
        bytes_per_second: table
            .optional::<Size>("bytes_per_second")
            .map(|size| u64::try_from(size.0).unwrap_or(u64::MAX).max(1_024)),
    }
}

fn limits(table: &Table<'_>) -> S2sLimits {
    let count = |key, default: usize| {
        table.between(key, default, 1, 10_000_000, "a number from 1 to 10000000")
    };
    let size = |key, default: usize, least: usize, words: &str| {
        table.between(key, Size(default), Size(least), Size(64 << 30), words).0
    };
    let limits = S2sLimits {
        streams_max: count("streams_max", 20_000),
        unproved_per_address_max: count("unproved_per_address_max", 100),
        streams_per_domain_max: count("streams_per_domain_max", 64),
        pairs_per_stream_max: count("pairs_per_stream_max", 1_000),
        verifications_max: count("verifications_max", 2_000),
        stanza_bytes_max: stanza_bytes(table, "stanza_bytes_max", 512 << 10),
        queue_items_max: count("queue_items_max", 2_000),
        queue_bytes_max: size(
            "queue_bytes_max",
            8 << 20,
            64 << 10,
            "a size from \"64KiB\" to \"64GiB\"",
        ),
        queued_bytes_max: size(
            "queued_bytes_max",
            256 << 20,
            1 << 20,
            "a size from \"1MiB\" to \"64GiB\"",
        ),
        unacked_max: count("unacked_max", 1_000),
        unhandled_max: count("unhandled_max", 1_000),
        bytes_per_second: u64::try_from(size(
            "bytes_per_second",
            4 << 20,
            1_024,
            "a size from \"1KiB\" to \"64GiB\"",
        ))
        .unwrap_or(u64::MAX),
    };
    if limits.queued_bytes_max < limits.queue_bytes_max {
        table.refuse(
            "queued_bytes_max",
            format!("at least queue_bytes_max, {}", limits.queue_bytes_max),
            limits.queued_bytes_max.to_string(),
        );
    }
    limits
}

fn timers(table: &Table<'_>) -> S2sTimers {
    let time = |key, default: u64| {
        table.between(
            key,
            Duration::from_secs(default),
            Duration::from_millis(100),
            Duration::from_secs(86_400),
            "a duration from \"100ms\" to \"1d\"",
        )
    };
    let timers = S2sTimers {
        negotiate: time("negotiate_within", 20),
        queue: time("queue_for", 30),
        idle: time("idle_after", 600),
        retry_first: time("retry_first", 1),
        retry_max: time("retry_max", 60),
        resume: time("resume_within", 60),
        ack: time("ack_within", 20),
    };
    if timers.retry_max < timers.retry_first {
        table.refuse(
            "retry_max",
            format!("at least retry_first, {:?}", timers.retry_first),
            format!("{:?}", timers.retry_max),
        );
    }
    timers
}
