//! What of a session goes over the link: its seat, its stream management, and what its client has not acknowledged, each stanza with who
//! waits to hear of it. Values; `give` makes them and `take` reads them. No client and no other server ever sees one.

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

use crate::session::Owed;
use crate::session::seat::State;

/// Bytes of a capsule in one frame: with what belongs to it, far below what a frame may hold.
pub(super) const PART_BYTES: usize = 256 << 10;

/// What two nodes say to each other about sessions that move.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// "Give me this session of yours."
    Ask {
        /// The asker's number for it.
        call: u64,
        /// Whose; the client has proved that it is.
        account: BareJid,
        /// The resumption id.
        id: String,
        /// What the client has handled.
        h: u32,
    },
    /// The answer, if it is no capsule.
    Refused {
        /// The asker's number.
        call: u64,
        /// Why.
        why: Why,
    },
    /// A piece of a capsule, in order.
    Part {
        /// Which.
        call: Call,
        /// The last one.
        last: bool,
        /// It.
        bytes: Vec<u8>,
    },
    /// "I have it": the giver owns it no more.
    Took {
        /// Which.
        call: Call,
    },
    /// "I do not want it": it stays the giver's.
    Declined {
        /// Which.
        call: Call,
    },
    /// To the node where messages entered: sessions that have them have moved from that node to the sender.
    Holds {
        /// From which node, by name.
        from: String,
        /// Their orders; whether the former node has it no more.
        orders: Vec<(u64, bool)>,
    },
    /// "Which of these messages of mine do you still have?" A node is gone, to which sessions may have moved with some: what they say of that is said by
    /// the node that is gone.
    Has {
        /// Their orders.
        orders: Vec<u64>,
    },
    /// The answer: not these, and nothing of them is on its way.
    HasNot {
        /// Their orders.
        orders: Vec<u64>,
    },
    /// What had come for a session after its state was sent, and cannot be sent anew.
    Late {
        /// Whose.
        to: FullJid,
        /// It.
        stanza: Vec<u8>,
    },
    /// A contact's presence came where the session was: it may have passed by where it is.
    AskPresence {
        /// The session.
        to: FullJid,
        /// The contact.
        of: BareJid,
    },
}

/// Which hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Call {
    /// The taker has asked, under that number of its own.
    Asked(u64),
    /// The giver is emptied and nobody has asked; a number of its own.
    Pushed(u64),
}

/// Why a session is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// There is none of that id and account here; how many stanzas it had handled, if that is known.
    NotFound {
        /// As in `<failed h=''/>`.
        h: Option<u32>,
    },
    /// It is on its way to somebody else: ask again in a moment.
    Moving,
    /// The client says that it handled more than it was sent. The session has ended.
    TooHigh {
        /// What it said.
        h: u32,
        /// What was sent.
        sent: u32,
    },
}

/// One stanza that the client has not acknowledged.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) stanza: Vec<u8>,
    /// When it was first sent, or came (wall clock, ms).
    pub(super) at_ms: u64,
    /// The node where it entered, by name; `None`: what was made for this session, and goes back nowhere.
    pub(super) via: Option<String>,
    pub(super) sole: bool,
    pub(super) order: u64,
    pub(super) owed: Debt,
    /// No other session of the giver has it.
    pub(super) leaves: bool,
}

/// [`Owed`], as it goes over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Debt {
    Nothing,
    Ledger,
    Home,
}

impl From<Owed> for Debt {
    fn from(owed: Owed) -> Self {
        match owed {
            Owed::Nothing => Self::Nothing,
            Owed::Ledger => Self::Ledger,
            Owed::Home => Self::Home,
        }
    }
}

impl From<Debt> for Owed {
    fn from(debt: Debt) -> Self {
        match debt {
            Debt::Nothing => Self::Nothing,
            Debt::Ledger => Self::Ledger,
            Debt::Home => Self::Home,
        }
    }
}

/// A session on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Capsule {
    /// What others see of it.
    pub(super) seat: State,
    /// The resumption id: it stays the same.
    pub(super) id: String,
    /// How long it may be resumed.
    pub(super) timeout_ms: u64,
    /// How long still, if nobody has asked for it.
    pub(super) left_ms: u64,
    /// How many stanzas of its client are handled.
    pub(super) handled: u32,
    /// How many of ours its client has acknowledged.
    pub(super) acked: u32,
    /// What it has not, oldest first.
    pub(super) unacked: Vec<Kept>,
    /// What waits until older messages have been handed out, oldest first; none if nothing is being handed out.
    pub(super) waiting: Vec<Kept>,
}
