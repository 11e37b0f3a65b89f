//! Room `s2s`: the wire to other servers. Called by `node::app`; calls `xmpp` for framing and streams. What is here now is the
//! link, the road between our own nodes ([`link`]); the classic federation (DNS, dialback, domain streams) joins it in this crate later.
//!
//! This crate moves bytes it does not read: it knows no stanza, no session row and no Raft message.

mod error;
pub mod link;
pub mod tls;

pub use error::{LinkError, Refusal};
