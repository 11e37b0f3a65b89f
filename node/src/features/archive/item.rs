//! The archive as it is stored and replicated. Store [`ARCHIVE`]: an archive, owner the account, id the item's place: the home's hybrid time, or
//! the next after the last one if that is greater. An item begins with the mark of the other party. Store [`PLACES`]: a map from an item's
//! public id (XEP-0359) to its place.
//!
//! The public id is given where the message enters, so that every delivered copy carries the same one (blueprint §7); the place is given by the
//! home, so that there is one order.

use std::fmt;

use serde::{Deserialize, Serialize};
use xmpp::jid::Jid;

use crate::storage::{MARK_BYTES, Mark};

/// The items.
pub const ARCHIVE: &str = "archive";
/// Where an item of a public id is: 8 bytes, big-endian.
pub const PLACES: &str = "archive.places";

/// The public id of an item: unlike that of any other item of any account, and not to be guessed from others (XEP-0313 §3, XEP-0359 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Uid {
    /// Its place among all that a node accepted.
    pub order: u64,
    /// By chance: what makes it nobody's guess, and another one than that of a message which has the same place at another node.
    pub salt: u32,
}

impl Uid {
    /// From its text; `None`: no id of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 24 || !text.bytes().all(is_lower) {
            return None;
        }
        let order = u64::from_str_radix(&text[..16], 16).ok()?;
        let salt = u32::from_str_radix(&text[16..], 16).ok()?;
        Some(Self { order, salt })
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:08x}", self.order, self.salt)
    }
}

/// One archived message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its public id.
    pub uid: Uid,
    /// When the server received it, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The other party, a full or bare JID.
    pub with: String,
    /// Whether the account sent it.
    pub sent: bool,
    /// Its bytes.
    pub stanza: Vec<u8>,
}

impl Item {
    /// The stored form: the mark of the other party, then the rest.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = mark(&self.with).to_vec();
        out.reserve(self.stanza.len() + self.with.len() + 40);
        postcard::to_extend(self, out).expect("strings, numbers and bytes always serialise")
    }

    /// Reads the stored form; `None`: damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes.get(MARK_BYTES..)?).ok()
    }

    /// Whether it is with that party: any of its resources, if it is a bare JID (XEP-0313 §4.1.1).
    pub fn is_with(&self, party: &Jid) -> bool {
        if party.resource().is_some() {
            self.with == party.as_str()
        } else {
            bare(&self.with) == party.as_str()
        }
    }
}

fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}

/// The mark of a party: of its bare JID (FNV-1a). Two parties may share one; whoever looks for one compares.
pub fn mark(party: &str) -> Mark {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bare(party).bytes().fold(0xcbf2_9ce4_8422_2325, mix).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_text_and_nothing_else_does() {
        for uid in [
            Uid { order: 0, salt: 0 },
            Uid { order: u64::MAX, salt: u32::MAX },
            Uid { order: 7, salt: 0xdead_beef },
        ] {
            assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        }
        let good = Uid { order: 10, salt: 11 }.to_string();
        for text in [
            "",
            "x",
            "28482-98726-73623",
            &good[1..],
            &good.to_uppercase(),
            "+00000000000000100000000",
        ] {
            assert_eq!(Uid::parse(text), None, "{text}");
        }
        assert_eq!(Uid::parse(&format!("{good}0")), None);
    }

    #[test]
    fn an_item_comes_back_and_begins_with_its_mark() {
        let item = Item {
            uid: Uid { order: 5, salt: 6 },
            at_ms: 7,
            with: "romeo@chat.example/orchard".into(),
            sent: true,
            stanza: b"<message/>".to_vec(),
        };
        let bytes = item.encode();
        assert!(bytes.starts_with(&mark("romeo@chat.example")));
        assert_eq!(Item::decode(&bytes), Some(item.clone()));
        assert_eq!(Item::decode(b"short"), None);
        let party = |text: &str| Jid::parse(text).expect("a JID");
        assert!(item.is_with(&party("romeo@chat.example")));
        assert!(item.is_with(&party("romeo@chat.example/orchard")));
        assert!(!item.is_with(&party("romeo@chat.example/home")));
        assert!(!item.is_with(&party("juliet@chat.example")));
    }
}
