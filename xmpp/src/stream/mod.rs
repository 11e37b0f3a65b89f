//! The stream around the stanzas: header, features, errors, and the negotiation as a state machine (RFC 6120 §4–7).
//!
//! Called by sessions and links; calls `xml` and `sasl`. Bytes are framed elsewhere (`xml::framer`).

pub mod error;
pub mod features;
pub mod header;
pub mod negotiate;
