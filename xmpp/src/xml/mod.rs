//! XML as XMPP restricts it (RFC 6120 §11): `framer` proves and cuts, `element` makes a tree on request, `write` escapes.
//!
//! Called by everything that reads or writes a stream. Deliberately absent: DTDs, comments, processing instructions.

pub(crate) mod chars;
pub mod element;
pub mod framer;
pub(crate) mod parse;
pub(crate) mod piece;
pub(crate) mod tag;
pub mod write;
