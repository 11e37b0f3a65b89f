//! Room: what a session's mailbox holds: stanzas for its client, with who waits to hear that it has them, and orders to the session itself.

use global_distrib::NodeIx;
use xmpp::stanza::{Kind, Stanza};
use xmpp::stream::error::StreamError;

use crate::session::Handover;
use crate::session::mailbox::{Class, Weight};

/// What a mailbox holds. 24 bytes: there are many.
#[derive(Debug)]
pub enum Item {
    /// A stanza for the client, in its final form.
    Stanza(Delivery),
    /// For the session itself.
    Control(Control),
}

/// A stanza on its way to the client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The stanza.
    pub stanza: Stanza,
    /// The node where it entered, if that is another: what this session can not hand on goes back there, so that it keeps its place
    /// among what that node still has for the account.
    pub via: Option<NodeIx>,
    /// Nobody else has this message: if this session cannot hand it on, it is routed anew (XEP-0198 §5 *Acks*).
    pub sole: bool,
    /// Its place among all that the node accepted where it entered (RFC 6120 §10.1: order); for what was filed, its id at the home.
    pub order: u64,
    /// Who waits to hear that the client has it.
    pub owed: Owed,
}

/// Who waits to hear that a client has what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owed {
    /// Nobody.
    Nothing,
    /// The ledger of the node where it entered; until then it is not kept.
    Ledger,
    /// The account's home, which keeps it filed until then.
    Home,
}

/// What became of an older message that was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// It is in the mailbox, or was before.
    Taken,
    /// There is no room now.
    Full,
    /// The session is over, or takes no messages any more.
    Over,
}

impl Delivery {
    /// What we made ourselves, or what is no loss: presence, answers, copies.
    pub fn light(stanza: Stanza) -> Self {
        Self { stanza, via: None, sole: false, order: 0, owed: Owed::Nothing }
    }
}

/// Orders to a session. Small, for what is rare among the items of a mailbox is not to make all of them large.
#[derive(Debug)]
pub enum Control {
    /// Close with this stream error.
    Close(Box<StreamError>),
    /// The coarse timer fired: look at your deadlines.
    Tick,
    /// What goes with the client's presence is another: it is sent again.
    SayAgain,
    /// Presence for the client found no room: it is told anew how things are.
    Missed,
    /// Of what the client has sent, more is handled: read on if you had stopped, and tell it if it has asked (XEP-0198 `h`).
    Handled {
        /// It has asked.
        answer: bool,
    },
    /// Another connection resumes this session: hand over your state (XEP-0198 §5).
    Resume(tokio::sync::oneshot::Sender<Handover>),
    /// The node is emptied: close the connection with this stream error, and hand over your state if the session may be resumed. If not, it
    /// ends.
    Leave(Box<Leave>),
}

/// See [`Control::Leave`].
#[derive(Debug)]
pub struct Leave {
    /// What the client is told.
    pub error: StreamError,
    /// Who wants the session.
    pub reply: tokio::sync::oneshot::Sender<Handover>,
}

impl Weight for Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Stanza(delivery) => delivery.stanza.bytes().len() + size_of::<Self>(),
            Item::Control(_) => size_of::<Self>(),
        }
    }

    fn class(&self) -> Class {
        match self {
            Item::Stanza(delivery) => match delivery.stanza.kind() {
                Kind::Message => Class::Message,
                Kind::Presence => Class::Presence,
                _ => Class::Iq,
            },
            // A handed-over session takes its mailbox along; how much is handled is said behind the errors that belong to it.
            Item::Control(Control::Close(_) | Control::Resume(_) | Control::Leave(_)) => {
                Class::Order
            }
            Item::Control(
                Control::Handled { .. } | Control::Tick | Control::SayAgain | Control::Missed,
            ) => Class::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_24_bytes() {
        assert_eq!((size_of::<Delivery>(), size_of::<Item>()), (24, 24));
    }
}
