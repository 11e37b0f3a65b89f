//! Room: one task owns one client's connection and everything about it: transport, framer, stream management. It waits for one thing
//! (bytes, mailbox), names it an `Event`, and acts. Others reach it only through its [`Seat`].
//! Called by the listeners (`serve`). Calls the outbound features and the router.
//!
//! * `seat` what others see · `mailbox`, `wheel` how they reach it · `negotiate` from the first byte to the bind · `turnstile` how many begin in a second · `task` the loop · `pace` how fast ·
//!   `stanza` what a client sends · `receipt` what of it may not be acknowledged yet · `sm` XEP-0198, resumption and hibernation · `csi` what an
//!   inactive client need not see · `end` what happens to what is left ·
//!   `moving` from one node to another

mod csi;
mod end;
pub mod mailbox;
pub mod moving;
mod negotiate;
mod pace;
mod receipt;
mod seat;
#[cfg(test)]
mod sign_in_tests;
mod sm;
mod stanza;
mod task;
#[cfg(test)]
mod tests;
mod turnstile;
pub mod wheel;

use std::sync::Arc;

pub use self::end::{component_over, no_room};
pub use self::receipt::{Handled, Receipt};
pub use self::seat::{Control, Delivery, Item, Leave, Older, Owed, Seat, State};
pub use self::sm::{Handover, Resumable};
pub(crate) use self::stanza::{handle, iq, without_our_delay};
pub(crate) use self::task::poll_leave;
pub use self::turnstile::Turnstile;
use crate::app::Node;
use crate::transport::tcp::Accepted;

/// One accepted client connection, from its first byte to its end. `direct`: TLS comes first (XEP-0368).
pub async fn serve(node: Arc<Node>, accepted: Accepted, direct: bool) {
    let _connected = node.metrics.connected();
    // Boxed, so that the memory of the negotiation is given back when the session begins.
    let ready = Box::pin(negotiate::run(&node, accepted, direct)).await;
    if let Some(ready) = ready {
        let session = task::Session::begin(node.clone(), ready);
        session.run().await;
    }
}
