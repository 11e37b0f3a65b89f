//! Room: what the rest of the node may know of a local session: its address, its mailbox, its last presence, three flags.
//! The session task owns everything else. A row of the session table points here.

use std::sync::atomic::{AtomicI8, AtomicU8, Ordering};

use parking_lot::Mutex;
use replication::Hlc;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Kind, Stanza};
use xmpp::stream::error::StreamError;

use super::mailbox::{Class, Mailbox, Weight};

const CARBONS: u8 = 1;
const INTERESTED: u8 = 2;
const AVAILABLE: u8 = 4;

/// Bound on remembered targets of directed presence; beyond it the oldest is forgotten (it gets no `unavailable` at the end).
pub const DIRECTED_MAX: usize = 256;

/// One local session, seen from outside.
#[derive(Debug)]
pub struct Seat {
    /// Its full JID.
    pub full: FullJid,
    /// Its bare JID: the same buffer.
    pub bare: BareJid,
    address: Jid,
    /// When it was bound.
    pub generation: Hlc,
    /// What it has to write.
    pub mailbox: Mailbox<Item>,
    flags: AtomicU8,
    priority: AtomicI8,
    presence: Mutex<Presence>,
}

#[derive(Debug, Default)]
struct Presence {
    last: Option<Stanza>,
    directed: Vec<Jid>,
}

/// What a mailbox holds.
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
    /// Nobody else has this message: if this session cannot hand it on, it is routed anew (XEP-0198 §5 *Acks*).
    pub sole: bool,
}

/// Orders to a session.
#[derive(Debug)]
pub enum Control {
    /// Close with this stream error.
    Close(StreamError),
    /// The coarse timer fired: look at your deadlines.
    Tick,
    /// Another connection resumes this session: hand over your state (XEP-0198 §5).
    Resume(tokio::sync::oneshot::Sender<super::Handover>),
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
            Item::Control(_) => Class::Control,
        }
    }
}

impl PartialEq for Seat {
    /// One bind is one seat.
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation && self.full == other.full
    }
}

impl Seat {
    /// A new seat; nothing is announced yet.
    pub fn new(full: FullJid, generation: Hlc, mailbox: Mailbox<Item>) -> Self {
        let bare = full.bare();
        let address = Jid::from(&full);
        Self {
            full,
            bare,
            address,
            generation,
            mailbox,
            flags: AtomicU8::new(0),
            priority: AtomicI8::new(-1),
            presence: Mutex::default(),
        }
    }

    /// Its full JID, as what stanzas carry.
    pub fn address(&self) -> &Jid {
        &self.address
    }

    fn set(&self, bit: u8, on: bool) {
        if on {
            self.flags.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    fn has(&self, bit: u8) -> bool {
        self.flags.load(Ordering::Acquire) & bit != 0
    }

    /// XEP-0280 is on.
    pub fn carbons(&self) -> bool {
        self.has(CARBONS)
    }

    /// Switches XEP-0280.
    pub fn set_carbons(&self, on: bool) {
        self.set(CARBONS, on);
    }

    /// It asked for its roster (RFC 6121 §2.1.6).
    pub fn interested(&self) -> bool {
        self.has(INTERESTED)
    }

    /// It asked for its roster.
    pub fn set_interested(&self) {
        self.set(INTERESTED, true);
    }

    /// It has sent initial presence and not withdrawn it.
    pub fn available(&self) -> bool {
        self.has(AVAILABLE)
    }

    /// Its last presence, if available.
    pub fn presence(&self) -> Option<Stanza> {
        self.presence.lock().last.clone()
    }

    /// New presence (`None`: unavailable). Returns whether it was available before.
    pub fn set_presence(&self, presence: Option<Stanza>) -> bool {
        self.set(AVAILABLE, presence.is_some());
        std::mem::replace(&mut self.presence.lock().last, presence).is_some()
    }

    /// New priority; -1 stands for "not available". Returns whether messages to the account now reach it and did not before.
    pub fn set_priority(&self, priority: i8) -> bool {
        let before = self.priority.swap(priority, Ordering::AcqRel);
        before < 0 && priority >= 0
    }

    /// Remembers whom it sent directed presence (RFC 6121 §4.6).
    pub fn direct(&self, to: Jid) {
        let mut presence = self.presence.lock();
        if !presence.directed.contains(&to) {
            if presence.directed.len() == DIRECTED_MAX {
                presence.directed.remove(0);
            }
            presence.directed.push(to);
        }
    }

    /// It told `to` that it is unavailable.
    pub fn undirect(&self, to: &Jid) {
        self.presence.lock().directed.retain(|known| known != to);
    }

    /// Whom directed presence was sent, forgetting them.
    pub fn take_directed(&self) -> Vec<Jid> {
        std::mem::take(&mut self.presence.lock().directed)
    }
}
