//! What a seat is when its session moves to another node: everything that the client, or a feature on its behalf, has said since the bind.
//! What is read from storage (the privacy list in effect, whether there are devices to push to) is read again there.

use std::sync::atomic::Ordering;

use replication::Hlc;
use serde::{Deserialize, Serialize};
use xmpp::jid::{FullJid, Jid};
use xmpp::stanza::Stanza;

use super::watch::Told;
use super::{AVAILABLE, BLOCKLIST, CARBONS, CATCHING_UP, INVISIBLE, Item, PRIVACY, Seat, Uid};
use crate::session::mailbox::Mailbox;

/// Flags that go along.
const KEPT: u8 = CARBONS | BLOCKLIST | AVAILABLE | PRIVACY | INVISIBLE;

/// See the room.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// Its full JID.
    pub full: FullJid,
    /// When it was bound there; it is bound anew where it comes to.
    pub generation: Hlc,
    flags: u8,
    priority: i8,
    took_at: i8,
    client: Option<(String, bool)>,
    presence: Option<Vec<u8>>,
    photo: Option<String>,
    directed: Vec<Jid>,
    roster: Told,
    handed: u64,
    archived: Option<Uid>,
    /// The version of its account's roster that its pushes have brought it to.
    pub roster_version: u64,
    /// The privacy list it has chosen (XEP-0016 §2.4).
    pub active: Option<String>,
    /// It showed itself a moment ago, or where it came from cannot say that everybody has heard: it is said again.
    pub is_fresh: bool,
    /// Older messages were being handed out.
    pub catching_up: bool,
    /// It waited to be resumed, and its devices have been told.
    pub slept: bool,
    /// It has missed presence.
    missed: bool,
}

impl Seat {
    /// What moves. `fresh_after_ms`: who showed itself after that says so again; `roster_version`: up to which changes were pushed here.
    pub fn state(&self, fresh_after_ms: u64, roster_version: u64) -> State {
        let (presence, photo, since_ms) = {
            let shown = self.presence.lock();
            let presence = shown.last.as_ref().map(|stanza| stanza.bytes().to_vec());
            (presence, shown.photo.as_deref().map(str::to_owned), shown.since_ms)
        };
        State {
            full: self.full.clone(),
            generation: self.generation,
            flags: self.flags.load(Ordering::Acquire) & KEPT,
            priority: self.priority(),
            took_at: self.took_at(),
            client: self.client().map(|(key, inline)| (key.to_owned(), inline)),
            presence,
            photo,
            directed: self.directed(),
            roster: self.roster.lock().told(),
            handed: *self.handed.lock(),
            archived: self.archived(),
            roster_version,
            active: self.guard().and_then(|guard| guard.active.clone()),
            is_fresh: since_ms >= fresh_after_ms,
            catching_up: self.has(CATCHING_UP),
            slept: self.lost_ms() > 0,
            missed: self.missed.load(Ordering::Acquire),
        }
    }

    /// The seat of a session that comes from another node. `None`: its state makes no sense.
    pub fn arrived(state: &State, generation: Hlc, mailbox: Mailbox<Item>) -> Option<Self> {
        let presence = match &state.presence {
            Some(bytes) => Some(Stanza::parse(bytes.clone().into()).ok()?),
            None => None,
        };
        let seat = Self::new(state.full.clone(), generation, mailbox);
        seat.flags.store(state.flags & KEPT, Ordering::Release);
        seat.missed.store(state.missed, Ordering::Release);
        seat.priority.store(state.priority, Ordering::Release);
        seat.took_at.store(state.took_at, Ordering::Release);
        if let Some((key, inline)) = &state.client {
            seat.set_client(key, *inline);
        }
        seat.set_photo(state.photo.as_deref().map(Into::into));
        seat.presence.lock().last = presence;
        seat.directed.lock().clone_from(&state.directed);
        *seat.roster.lock() = state.roster.into();
        seat.roster_is_told(state.roster_version);
        *seat.handed.lock() = state.handed;
        *seat.archived.lock() = state.archived;
        Some(seat)
    }

    /// The whole roster it has been told of, or that version of it; `None`: it never asked for one.
    pub fn roster_told(&self) -> Option<u64> {
        self.roster.lock().interested_since()
    }
}
