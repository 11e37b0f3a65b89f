//! The XMPP protocol as values: addresses, XML, stanzas, streams, SASL, stream management.
//!
//! This is the lowest room of the house. Every other crate calls it and it calls none of them. It never touches a
//! socket or a clock: who needs the time or a random number is handed it. Specifications: RFC 6120, RFC 6121,
//! RFC 7590, RFC 7622, and the XEPs named at the top of each file.

pub mod jid;
pub mod ns;
pub mod payload;
pub mod sasl;
pub mod sm;
pub mod stanza;
pub mod stream;
pub mod xml;

pub use jid::{BareJid, FullJid, Jid, JidError};
pub use stanza::error::{Condition, ErrorType, StanzaError};
pub use stanza::{Kind, Stanza, StanzaReject, Type};
pub use stream::error::{StreamCondition, StreamError};
pub use xml::element::{Element, Node};
