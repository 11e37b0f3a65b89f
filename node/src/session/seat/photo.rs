//! The photo of the account's card, as its resources say it in presence (XEP-0153 §3.1). Set by the feature `vcard`, which also asks for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xmpp::stanza::Stanza;

use super::{Control, Item, Seat};

impl Seat {
    /// The hash of its photo, empty if the card has none; `None`: there is no card. One load where there is none.
    pub fn photo(&self) -> Option<Arc<str>> {
        if !self.carded.load(Ordering::Acquire) {
            return None;
        }
        self.presence.lock().photo.clone()
    }

    /// What it is now. Whether it was another.
    pub fn set_photo(&self, photo: Option<Arc<str>>) -> bool {
        let mut shown = self.presence.lock();
        self.carded.store(photo.is_some(), Ordering::Release);
        let old = std::mem::replace(&mut shown.photo, photo);
        old != shown.photo
    }

    /// Has the session say its presence again: once, however often it is another until that is done, for one that takes nothing must not
    /// gather any number of these.
    pub fn ask_again(&self) {
        if !std::mem::replace(&mut self.presence.lock().again, true) {
            // A session that is over has nothing to say.
            let _ = self.mailbox.push(Item::Control(Control::SayAgain));
        }
    }

    /// What it says again; who asks from now on is not forgotten.
    pub fn asked_again(&self) -> Option<Stanza> {
        let mut shown = self.presence.lock();
        shown.again = false;
        shown.last.clone()
    }
}
