//! XEP-0352 Client State Indication, version 1.0.0: the stream feature. What is held back from a client that says it is inactive, and what
//! lets it go, is `session/csi.rs`; what is important, `xmpp::payload::importance`. Before anything important, with whatever the client
//! sends, and when it says that it is active, all that waits is sent, each stanza with the time it came (XEP-0203). A client that resumes
//! its stream is active. Bind 2 begins a session inactive with [`Seat::set_inactive`](crate::session::Seat::set_inactive).

use xmpp::ns;
use xmpp::xml::element::Element;

use crate::feature::{Ctx, Feature};

/// See the room.
pub struct ClientState;

impl Feature for ClientState {
    fn name(&self) -> &'static str {
        "csi"
    }

    fn inline(&self) -> &'static [&'static str] {
        &[ns::CSI]
    }

    /// XEP-0386 §3.2: the session begins in that state.
    fn bound(&self, ctx: &mut Ctx<'_>, request: &Element) -> Option<Element> {
        if let Some(seat) = ctx.seat {
            seat.set_inactive(request.name() == "inactive");
        }
        None
    }

    fn stream_features(&self) -> &'static str {
        "<csi xmlns='urn:xmpp:csi:0'/>"
    }
}
