//! XEP-0153 vCard-Based Avatars, version 1.1, the server's part of it (as XEP-0398 §4 wants it of servers): the hash of the photo in the account's
//! card goes with every available presence of its resources, in place of what the client says of it, and presence is sent again
//! when the photo is another. A card without a photo is said as that; who has no card says what it likes.
//!
//! An account without a card costs its presence one load. The hash is made when a resource is bound and when the card changes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use replication::durable_log::Change;
use sha1::{Digest, Sha1};
use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::xml::element::Element;

use super::home::VCARD;
use crate::app::Node;
use crate::feature::Action;
use crate::router::perform::seats_of;
use crate::session::Seat;

/// Presence that says so (§3.1).
pub(super) fn said(presence: &Stanza, photo: &str) -> Stanza {
    let update = Element::new("x", ns::VCARD_UPDATE)
        .with_child(Element::new("photo", ns::VCARD_UPDATE).with_text(photo));
    let of_update = |name: &str, ns: &str| name == "x" && ns == ns::VCARD_UPDATE;
    presence.without_children(of_update).with_child(&update)
}

/// The hash of a card's photo, in lower-case hexadecimal; empty if there is none that can be read.
fn hash(card: &[u8]) -> Arc<str> {
    let card = Element::parse(card).ok();
    let photo = card.as_ref().and_then(|card| card.child("PHOTO", ns::VCARD));
    let text = photo.and_then(|photo| photo.child("BINVAL", ns::VCARD)).map(Element::text);
    let text: String = text.unwrap_or_default().split_whitespace().collect();
    match STANDARD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => {
            let digest = Sha1::digest(bytes);
            digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
        _ => "".into(),
    }
}

/// A resource of somebody who may have a card has been bound.
pub(super) async fn load(node: Arc<Node>, seat: Arc<Seat>) -> Vec<Action> {
    let mut known = None;
    loop {
        let card = match node.storage.get(VCARD, seat.bare.as_str(), "").await {
            Ok(card) => card,
            Err(error) => {
                tracing::error!(account = %seat.bare, %error, "a vCard cannot be read");
                return Vec::new();
            }
        };
        if known.as_ref() == Some(&card) {
            return Vec::new();
        }
        seat.set_photo(card.as_deref().map(hash));
        // What was changed meanwhile may have been there first.
        known = Some(card);
    }
}

/// A card has come, changed, or gone: its owner's resources here say so.
pub(super) fn changed(node: &Arc<Node>, change: &Change) {
    let seats = seats_of(node, change.owner());
    if seats.is_empty() {
        return;
    }
    let photo = match change {
        Change::Put { key, value, .. } if key.is_empty() => Some(hash(value)),
        Change::Delete { .. } | Change::Clear { .. } => None,
        _ => return,
    };
    for seat in seats {
        if seat.set_photo(photo.clone()) && seat.is_shown() {
            seat.ask_again();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Control, Item};
    use crate::testing::House;

    #[test]
    fn the_hash_is_that_of_the_picture_however_it_is_wrapped() {
        let card =
            |inner: &str| hash(format!("<vCard xmlns='vcard-temp'>{inner}</vCard>").as_bytes());
        let png = "4caece539b039b16e16206ea2478f8c5ffb2ca05";
        for (inner, expected) in [
            ("<PHOTO><TYPE>image/png</TYPE><BINVAL>iVBORw0KGgo=</BINVAL></PHOTO>", png),
            ("<FN>R</FN><PHOTO><BINVAL>\n iVBO\nRw0K\n Ggo=\n</BINVAL></PHOTO>", png),
            ("<PHOTO><EXTVAL>http://x.example/p.png</EXTVAL></PHOTO>", ""),
            ("<PHOTO><BINVAL>no base64!</BINVAL></PHOTO>", ""),
            ("<PHOTO><BINVAL/></PHOTO>", ""),
            ("<FN>R</FN>", ""),
        ] {
            assert_eq!(&*card(inner), expected, "{inner}");
        }
    }

    #[tokio::test]
    async fn a_session_that_takes_nothing_is_asked_once() {
        let house = House::new().await;
        let [romeo] = house.accounts(["romeo"]).await;
        let seat = house.available("romeo/orchard", 0).await;
        drop(seat.mailbox.drain());
        let again = || {
            let mail = seat.mailbox.drain();
            mail.iter().filter(|item| matches!(item, Item::Control(Control::SayAgain))).count()
        };
        let change = |picture: &str| {
            let card = format!(
                "<vCard xmlns='vcard-temp'><PHOTO><BINVAL>{picture}</BINVAL></PHOTO></vCard>"
            );
            let (owner, key) = (romeo.as_str().to_owned(), String::new());
            let put = Change::Put { store: VCARD.into(), owner, key, value: card.into() };
            changed(&house.node, &put);
        };
        ["aaaa", "bbbb", "cccc"].into_iter().for_each(change);
        assert_eq!(again(), 1);
        change("cccc");
        assert_eq!(again(), 0, "the same");
        assert!(seat.asked_again().is_some());
        change("dddd");
        assert_eq!(again(), 1);
    }

    #[test]
    fn what_the_client_says_of_it_gives_way() {
        let presence = crate::testing::stanza(
            "<presence><show>away</show><x xmlns='vcard-temp:x:update'><photo>0</photo></x></presence>",
        );
        let text = |photo| String::from_utf8_lossy(said(&presence, photo).bytes()).into_owned();
        let of = |photo: &str| format!("<x xmlns='vcard-temp:x:update'>{photo}</x></presence>");
        let full = text("ab");
        assert!(full.ends_with(&of("<photo>ab</photo>")) && !full.contains(">0<"), "{full}");
        assert!(full.contains("<show>away</show>"), "{full}");
        assert!(text("").ends_with(&of("<photo/>")), "{}", text(""));
    }
}
