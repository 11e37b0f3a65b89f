//! Room `s2s`: the wire to other servers. Called by `node::app` and `node::federation`; calls `xmpp` for framing and streams. Two things share one port: the
//! link, the road between our own nodes ([`link`]), and the streams of the classic federation ([`federation`]); [`front`] tells them apart.
//!
//! The link moves bytes it does not read: it knows no stanza, no session row and no Raft message.

pub mod anybody;
mod error;
pub mod federation;
pub mod front;
pub mod link;
pub mod tls;

pub use error::{LinkError, Refusal};
