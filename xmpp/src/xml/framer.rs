//! Bytes to whole top-level elements, proved well-formed.

/// What the peer's stream header says (RFC 6120 §4.7). The namespace of the root is checked already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamHeader {
    /// Whom the peer addresses, unprepared.
    pub to: Option<String>,
    /// Who the peer says it is, unprepared.
    pub from: Option<String>,
    /// The stream id, from a receiving entity.
    pub id: Option<String>,
    /// Major and minor; `None` if missing or malformed.
    pub version: Option<(u16, u16)>,
    /// `xml:lang`.
    pub lang: Option<String>,
    /// The default namespace: `jabber:client`, `jabber:server`, … or empty.
    pub content_ns: String,
    /// Whether the root declares the dialback namespace (XEP-0220).
    pub dialback: bool,
}
