//! XEP-0352 Client State Indication, version 1.0.0: the stream feature. What is held back from a client that says it is inactive, and what
//! lets it go, is `session/csi.rs`; what is important, `xmpp::payload::importance`. Before anything important, with whatever the client
//! sends, and when it says that it is active, all that waits is sent, each stanza with the time it came (XEP-0203). A client that resumes
//! its stream is active. Bind 2 begins a session inactive with [`Seat::set_inactive`](crate::session::Seat::set_inactive).

use crate::feature::Feature;

/// See the room.
pub struct ClientState;

impl Feature for ClientState {
    fn name(&self) -> &'static str {
        "csi"
    }

    fn stream_features(&self) -> &'static str {
        "<csi xmlns='urn:xmpp:csi:0'/>"
    }
}
