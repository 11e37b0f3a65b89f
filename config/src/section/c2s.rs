//! `[c2s]`: client connections over TCP, with STARTTLS (RFC 6120 §5) and with TLS from the first byte (XEP-0368).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::{DomainName, HostPort};

/// The `[c2s]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct C2s {
    /// Where clients connect that then ask for STARTTLS.
    pub listen: Vec<SocketAddr>,
    /// Where clients connect with TLS from the first byte.
    pub listen_tls: Vec<SocketAddr>,
    /// The certificate chain, PEM, for every domain without one of its own.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates of single domains, chosen by the name the client asks for.
    pub certificates: Vec<CertificateFor>,
    /// Whether a client may log in without TLS. Only with loopback listeners: `check` refuses it elsewhere.
    pub allow_plain_without_tls: bool,
    /// From accept to a bound resource; then the connection is closed with `policy-violation`.
    pub auth_deadline: Duration,
    /// Where clients of this node are sent when it takes them no longer, host and port (RFC 6120 §4.9.3.19): other nodes of its region, in turn.
    /// If there are none, they find their way as they found it here.
    pub see_other_host: Vec<String>,
    /// Failed logins that one connection survives; the next closes it with `policy-violation`.
    pub auth_attempts_max: u8,
}

/// `[[c2s.certificates]]`: the certificate of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFor {
    /// The domain in the client's SNI.
    pub domain: String,
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

pub(crate) fn read(table: &Table<'_>) -> C2s {
    C2s {
        listen: table.value("listen", vec![SocketAddr::from(([0, 0, 0, 0], 5222))]),
        listen_tls: table.value("listen_tls", vec![SocketAddr::from(([0, 0, 0, 0], 5223))]),
        certificate: table.path("certificate", None),
        key: table.path("key", None),
        certificates: table
            .sections("certificates")
            .iter()
            .map(|one| CertificateFor {
                domain: one.required::<DomainName>("domain").0,
                certificate: one.path("certificate", None),
                key: one.path("key", None),
            })
            .collect(),
        allow_plain_without_tls: table.value("allow_plain_without_tls", false),
        auth_deadline: table.between(
            "auth_deadline",
            Duration::from_secs(60),
            Duration::from_secs(1),
            Duration::from_secs(600),
            "a duration from \"1s\" to \"10m\"",
        ),
        see_other_host: table
            .value::<Vec<HostPort>>("see_other_host", Vec::new())
            .into_iter()
            .map(|place| place.0)
            .collect(),
        auth_attempts_max: table.between("auth_attempts_max", 5, 1, 100, "a number from 1 to 100"),
    }
}
