//! Stanzas (RFC 6120 §8).

pub mod error;
pub mod header;
