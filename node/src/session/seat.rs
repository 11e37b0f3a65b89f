//! Room: what the rest of the node may know of a local session: its address, its mailbox, its last presence, three flags.
//! The session task owns everything else. A row of the session table points here.

mod item;
mod missed;
mod moved;
mod newer;
mod photo;
mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI8, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use replication::Hlc;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Kind, Stanza, Type};

pub use self::item::{Control, Delivery, Item, Leave, Older, Owed};
pub use self::moved::State;
use self::newer::Newer;
use self::watch::Watch;
use super::mailbox::{Mailbox, Refused};
use crate::features::archive::item::Uid;
use crate::features::blocking::guard::Guard;
use crate::geo::presence::Presence;

const CARBONS: u8 = 1;
/// It asked for its block list.
const BLOCKLIST: u8 = 2;
const AVAILABLE: u8 = 4;
const INACTIVE: u8 = 8;
/// It spoke of privacy lists.
const PRIVACY: u8 = 32;
/// There is a guard.
const GUARDED: u8 = 16;
/// Older messages are being handed out.
const CATCHING_UP: u8 = 64;
const INVISIBLE: u8 = 128;

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
    /// Its client's key (see `features::clients`), and whether it was bound by Bind 2.
    client: OnceLock<(Box<str>, bool)>,
    /// Devices of its account are registered for pushes.
    pushes: AtomicBool,
    /// Its account has a card.
    carded: AtomicBool,
    /// See `missed`.
    missed: AtomicBool,
    /// See [`Seat::probes`].
    asks: AtomicBool,
    /// See [`Seat::lost_ms`].
    lost_ms: AtomicU64,
    priority: AtomicI8,
    took_at: AtomicI8,
    /// Rows are read while it is held; so it is not taken where rows are read.
    presence: Mutex<Shown>,
    /// Whom it sent directed presence. Apart: what is delivered where rows are read looks at it.
    directed: Mutex<Vec<Jid>>,
    roster: Mutex<Watch>,
    /// The id of the last filed message it was handed.
    handed: Mutex<u64>,
    /// Up to which id the client has what was filed, and its home has not heard.
    read: Mutex<Option<u64>>,
    /// `Some` while older messages are being handed out: newer ones wait here.
    newer: Mutex<Option<Box<Newer>>>,
    /// The last archived message it was handed.
    archived: Mutex<Option<Uid>>,
    peer: Mutex<Option<SocketAddr>>,
    /// The privacy list in effect (XEP-0016, XEP-0191). Looked at only if the flag says that there is one.
    guard: Mutex<Option<Arc<Guard>>>,
}

#[derive(Debug, Default)]
struct Shown {
    last: Option<Stanza>,
    /// See `photo`.
    photo: Option<Arc<str>>,
    /// A [`Control::SayAgain`] is on its way.
    again: bool,
    /// When it last showed itself (monotonic, ms).
    since_ms: u64,
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
            client: OnceLock::new(),
            pushes: AtomicBool::new(false),
            carded: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            asks: AtomicBool::new(false),
            lost_ms: AtomicU64::new(0),
            priority: AtomicI8::new(-1),
            took_at: AtomicI8::new(0),
            presence: Mutex::default(),
            directed: Mutex::default(),
            roster: Mutex::default(),
            read: Mutex::default(),
            handed: Mutex::new(0),
            newer: Mutex::default(),
            archived: Mutex::default(),
            peer: Mutex::default(),
            guard: Mutex::default(),
        }
    }

    /// Where its client is, as far as is known.
    pub fn peer(&self) -> Option<SocketAddr> {
        *self.peer.lock()
    }

    /// Its client connects from there, or from there now.
    pub fn set_peer(&self, peer: SocketAddr) {
        *self.peer.lock() = Some(peer);
    }

    /// Its full JID, as what stanzas carry.
    pub fn address(&self) -> &Jid {
        &self.address
    }

    /// Who has gone, or does not take its directed presence, needs no word of its end (RFC 6121 §4.6.3).
    fn hears_of_end(&self, presence: &Stanza) {
        if matches!(presence.type_(), Type::Unavailable | Type::Error)
            && let Some(from) = presence.from()
        {
            self.undirect(from);
        }
    }

    /// Takes a stanza for the client; false when there is no room, or the session is over. A message waits while older ones are being
    /// handed out, and whatever else its sender sends waits behind it (RFC 6120 §10.1); an error does not: it is an answer to this session,
    /// and nobody else's if the session hides meanwhile.
    pub fn take(&self, delivery: Delivery) -> bool {
        let waits =
            delivery.stanza.kind() == Kind::Message && delivery.stanza.type_() != Type::Error;
        if waits {
            let mut newer = self.newer.lock();
            if let Some(newer) = newer.as_mut() {
                return newer.wait(delivery);
            }
            // Under the lock, so that the end of the catching up comes before or after, never between.
            return self.mailbox.push(Item::Stanza(delivery)).is_ok();
        }
        if delivery.stanza.kind() == Kind::Presence {
            self.hears_of_end(&delivery.stanza);
        }
        if self.has(CATCHING_UP)
            && delivery.stanza.type_() != Type::Error
            && let Some(newer) = self.newer.lock().as_mut()
            && newer.has_of(delivery.stanza.from())
        {
            return newer.wait(delivery);
        }
        match self.mailbox.push(Item::Stanza(delivery)) {
            Ok(_) => true,
            Err(refused) => {
                self.is_refused(&refused);
                false
            }
        }
    }

    /// Presence that finds no room is told anew when there is; an error of it is an answer to what the client itself has said.
    fn is_refused(&self, refused: &Refused<Item>) {
        if let Refused::Full(Item::Stanza(Delivery { stanza, .. })) = refused
            && stanza.kind() == Kind::Presence
            && matches!(stanza.type_(), Type::Available | Type::Unavailable)
        {
            self.misses();
        }
    }

    /// As [`Self::take`], of what answers this session and is for no other (what it reads from an archive): that waits for nothing, as the
    /// IQ result that ends it does not either.
    pub fn take_answer(&self, delivery: Delivery) -> bool {
        if delivery.stanza.kind() == Kind::Message {
            return self.mailbox.push(Item::Stanza(delivery)).is_ok();
        }
        self.take(delivery)
    }

    /// From now on newer messages wait.
    pub fn begin_catching_up(&self) {
        let mut newer = self.newer.lock();
        newer.get_or_insert_default().running += 1;
        self.set(CATCHING_UP, true);
    }

    /// Whether newer messages wait.
    #[cfg(test)]
    pub(crate) fn is_catching_up(&self) -> bool {
        self.has(CATCHING_UP)
    }

    /// An older message, ahead of those that wait; its order is its id at the home.
    pub fn push_older(&self, delivery: Delivery) -> Older {
        let id = delivery.order;
        let mut handed = self.handed.lock();
        if id <= *handed {
            return Older::Taken; // Another hand-out was quicker.
        }
        if !self.takes_messages() {
            return Older::Over;
        }
        match self.mailbox.push(Item::Stanza(delivery)) {
            Ok(_) => {
                *handed = id;
                Older::Taken
            }
            Err(Refused::Full(_)) => Older::Full,
            Err(Refused::Closed(_)) => Older::Over,
        }
    }

    /// The last filed message this session was handed: it stays filed until the client has it, but is not handed out here again.
    pub fn handed(&self) -> Option<u64> {
        Some(*self.handed.lock()).filter(|id| *id > 0)
    }

    /// What waits behind older messages, in order, to go along with the session when it moves. What comes now waits on, also when the older ones have
    /// been handed out meanwhile. `None`: nothing is being handed out. Ended by [`Self::end_catching_up`], behind [`Self::waits_again`] if it stays.
    pub fn take_waiting(&self) -> Option<Vec<Delivery>> {
        let mut newer = self.newer.lock();
        let newer = newer.as_mut()?;
        newer.running += 1;
        newer.bytes = 0;
        Some(std::mem::take(&mut newer.waiting))
    }

    /// While it catches up: these wait, ahead of those that do already. Given back by one that does not, or is over.
    #[must_use]
    pub fn waits_again(&self, waiting: Vec<Delivery>) -> Vec<Delivery> {
        match self.newer.lock().as_mut() {
            Some(newer) => {
                newer.wait_first(waiting);
                Vec::new()
            }
            None => waiting,
        }
    }

    /// It takes no messages any more: those that wait behind older ones are given back, and what is for this session alone goes on.
    pub fn take_newer(&self) -> Vec<Delivery> {
        let mut newer = self.newer.lock();
        let Some(newer) = newer.as_mut() else { return Vec::new() };
        newer.bytes = 0;
        let waiting = std::mem::take(&mut newer.waiting);
        self.go_on(waiting, false)
    }

    /// Into the mailbox, in order. What finds no room is given back, with the messages behind it; all messages, unless they may go on.
    fn go_on(&self, waiting: Vec<Delivery>, messages: bool) -> Vec<Delivery> {
        let mut back: Vec<Delivery> = Vec::new();
        let mut held = !messages;
        for delivery in waiting {
            if held && delivery.stanza.kind() == Kind::Message {
                back.push(delivery);
            } else if let Err(refused) = self.mailbox.push(Item::Stanza(delivery))
                && let Item::Stanza(delivery) = refused.into_item()
            {
                held = true;
                back.push(delivery);
            }
        }
        back
    }

    /// What waited goes on, in order; what finds no room any more is given back. All of it, if what is older was not handed out (`whole`).
    pub fn end_catching_up(&self, whole: bool) -> Vec<Delivery> {
        let mut newer = self.newer.lock();
        if let Some(newer) = newer.as_mut() {
            newer.running -= 1;
            if newer.running > 0 {
                return Vec::new();
            }
        }
        let waiting = newer.take().map(|newer| newer.waiting).unwrap_or_default();
        let back = self.go_on(waiting, whole);
        self.set(CATCHING_UP, false);
        back
    }

    /// The session is over: everything that waits for the client, in order; nothing is taken any more.
    pub fn close(&self) -> Vec<Delivery> {
        let mut newer = self.newer.lock();
        let mailbox = self.mailbox.close().into_iter().filter_map(|item| match item {
            Item::Stanza(delivery) => Some(delivery),
            Item::Control(_) => None,
        });
        mailbox.chain(newer.take().map(|newer| newer.waiting).unwrap_or_default()).collect()
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

    /// Which client it is, if that has said so (XEP-0388), and whether it was bound by Bind 2.
    pub fn client(&self) -> Option<(&str, bool)> {
        self.client.get().map(|(key, inline)| (key.as_ref(), *inline))
    }

    /// Says which client it is; once.
    pub fn set_client(&self, key: &str, inline: bool) {
        let _ = self.client.set((key.into(), inline)); // A session that goes on is the same client's.
    }

    /// XEP-0280 is on.
    pub fn carbons(&self) -> bool {
        self.has(CARBONS)
    }

    /// Switches XEP-0280.
    pub fn set_carbons(&self, on: bool) {
        self.set(CARBONS, on);
    }

    /// It is handed a message that is archived under that id.
    pub fn set_archived(&self, uid: Uid) {
        *self.archived.lock() = Some(uid);
    }

    /// The last one it was handed.
    pub fn archived(&self) -> Option<Uid> {
        *self.archived.lock()
    }

    /// Its client has said that nobody looks at it (XEP-0352).
    pub fn inactive(&self) -> bool {
        self.has(INACTIVE)
    }

    /// Its account has devices that are registered for pushes (XEP-0357).
    pub fn pushes(&self) -> bool {
        self.pushes.load(Ordering::Acquire)
    }

    /// It has some, or none.
    pub fn set_pushes(&self, any: bool) {
        self.pushes.store(any, Ordering::Release);
    }

    /// Since when it waits to be resumed (monotonic, ms); 0: it has a connection.
    pub fn lost_ms(&self) -> u64 {
        self.lost_ms.load(Ordering::Acquire)
    }

    /// Its connection is lost, or (0) it has another one.
    pub fn set_lost_ms(&self, since_ms: u64) {
        self.lost_ms.store(since_ms, Ordering::Release);
    }

    /// What its client says of that. Before the session begins (Bind 2) this is all there is to do; later it is the session's.
    pub fn set_inactive(&self, inactive: bool) {
        self.set(INACTIVE, inactive);
    }

    /// The privacy list in effect for it, if there is one.
    #[inline]
    pub fn guard(&self) -> Option<Arc<Guard>> {
        if self.has(GUARDED) { self.guard.lock().clone() } else { None }
    }

    /// Another list is in effect, or none. Returns the one before. Not while it shows itself: who may not see it any more is told after.
    pub fn set_guard(&self, guard: Option<Arc<Guard>>) -> Option<Arc<Guard>> {
        let _shown = self.presence.lock();
        let mut held = self.guard.lock();
        self.set(GUARDED, guard.is_some());
        std::mem::replace(&mut *held, guard)
    }

    /// It asked for its block list: changes are pushed to it (XEP-0191 §3.3).
    pub fn follows_blocklist(&self) -> bool {
        self.has(BLOCKLIST)
    }

    /// From now on it does.
    pub fn follow_blocklist(&self) {
        self.set(BLOCKLIST, true);
    }

    /// It spoke of privacy lists (XEP-0016).
    pub fn follows_privacy(&self) -> bool {
        self.has(PRIVACY)
    }

    /// From now on it does.
    pub fn follow_privacy(&self) {
        self.set(PRIVACY, true);
    }

    /// The client has what was filed up to that id. Whether somebody has to begin telling its home ([`Seat::to_tell_read`]).
    pub fn read_upto(&self, upto: u64) -> bool {
        let mut read = self.read.lock();
        let begins = read.is_none();
        *read = Some(read.map_or(upto, |known| known.max(upto)));
        begins
    }

    /// What its home is to be told; `None`: it has heard everything, and whoever told it is done.
    pub fn to_tell_read(&self) -> Option<u64> {
        *self.read.lock()
    }

    /// Its home has heard that.
    pub fn told_read(&self, upto: u64) {
        let mut read = self.read.lock();
        *read = read.filter(|known| *known > upto);
    }

    /// It has sent initial presence and not withdrawn it, or takes messages unseen.
    pub fn available(&self) -> bool {
        self.has(AVAILABLE)
    }

    /// It takes messages to its account (RFC 6121 §8.5.2.1.1): available, and of a priority that is not negative.
    pub fn takes_messages(&self) -> bool {
        self.available() && self.priority.load(Ordering::Acquire) >= 0
    }

    /// Its priority; -1 while it is not available.
    pub fn priority(&self) -> i8 {
        self.priority.load(Ordering::Acquire)
    }

    /// The last priority at which it took messages of its account; 0 before it has taken any.
    pub fn took_at(&self) -> i8 {
        self.took_at.load(Ordering::Acquire)
    }

    /// XEP-0186 is on: nobody is shown its presence.
    pub fn invisible(&self) -> bool {
        self.has(INVISIBLE)
    }

    /// From now on it is available and shows nothing. Returns whether it showed anything before.
    pub fn hide(&self) -> bool {
        self.set(INVISIBLE | AVAILABLE, true);
        self.asks.store(false, Ordering::Release);
        self.presence.lock().last.take().is_some()
    }

    /// No more of that: it is as before initial presence. Returns whether it was invisible.
    pub fn unhide(&self) -> bool {
        let was = self.invisible();
        if was {
            self.set(INVISIBLE | AVAILABLE, false);
        }
        was
    }

    /// Whether it shows any presence. Takes no lock: rows are read where it is asked, and what is shown goes out where rows are read.
    pub fn is_shown(&self) -> bool {
        self.available() && !self.invisible()
    }

    /// Its client has probed for somebody's presence (RFC 6121 §4.3): one that is not available is answered until it is, for it has asked by itself.
    pub fn probes(&self) {
        if !self.available() {
            self.asks.store(true, Ordering::Release);
        }
    }

    /// See [`Seat::probes`].
    pub fn asks(&self) -> bool {
        self.asks.load(Ordering::Acquire)
    }

    /// Its last presence, if available.
    pub fn presence(&self) -> Option<Stanza> {
        self.presence.lock().last.clone()
    }

    /// Hands on its last presence, if available; nothing newer can be handed on before that is done.
    pub fn tell_presence(&self, tell: impl FnOnce(Presence)) {
        let shown = self.presence.lock();
        if let Some(stanza) = shown.last.clone() {
            tell(Presence { stanza, generation: self.generation, node: None, withdrawn: false });
        }
    }

    /// It shows itself: a list that comes into effect comes before that or after it, never between the look at the list and the word.
    pub fn show(&self, tell: impl FnOnce()) {
        let _shown = self.presence.lock();
        tell();
    }

    /// New presence (`None`: unavailable), which an invisible one keeps to itself. Returns whether it showed any before.
    pub fn set_presence(&self, presence: Option<Stanza>) -> bool {
        self.set(AVAILABLE, presence.is_some());
        self.asks.store(false, Ordering::Release);
        let presence = presence.filter(|_| !self.invisible());
        std::mem::replace(&mut self.presence.lock().last, presence).is_some()
    }

    /// It has just shown itself.
    pub fn shown_at(&self, now_ms: u64) {
        self.presence.lock().since_ms = now_ms;
    }

    /// New priority; -1 stands for "not available". Returns whether messages to the account now reach it and did not before.
    pub fn set_priority(&self, priority: i8) -> bool {
        let before = self.priority.swap(priority, Ordering::AcqRel);
        if priority >= 0 {
            self.took_at.store(priority, Ordering::Release);
        }
        before < 0 && priority >= 0
    }

    /// Remembers whom it sent directed presence (RFC 6121 §4.6), the last `max` of them: who is forgotten gets no `unavailable` at the end.
    pub fn direct(&self, to: Jid, max: usize) {
        let mut directed = self.directed.lock();
        if !directed.contains(&to) {
            if directed.len() >= max {
                directed.remove(0);
            }
            directed.push(to);
        }
    }

    /// Whom it sent directed presence.
    pub fn directed(&self) -> Vec<Jid> {
        self.directed.lock().clone()
    }

    /// It told `to` that it is unavailable.
    pub fn undirect(&self, to: &Jid) {
        self.directed.lock().retain(|known| known != to);
    }

    /// Whom directed presence was sent, forgetting them.
    pub fn take_directed(&self) -> Vec<Jid> {
        std::mem::take(&mut *self.directed.lock())
    }
}
