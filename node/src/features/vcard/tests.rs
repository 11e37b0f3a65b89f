//! XEP-0054: given this stanza, expect this.

use super::*;
use crate::features::tests::iq;
use crate::homes::Tx;
use crate::homes::accounts::ACCOUNTS;

const OWN: &str = "romeo@example.org";
const MAX: usize = 200;

fn check(type_: &str, to: &str, payload: &str) -> Result<Wish, StanzaError> {
    wish(&iq(type_, to, payload), MAX)
}

#[test]
fn everybody_may_read_and_only_the_owner_may_write() {
    let (card, own) = ("<vCard xmlns='vcard-temp'><FN>R</FN></vCard>", BareJid::parse(OWN).ok());
    let (own, bytes) = (own.expect("a JID"), Element::parse(card.as_bytes()).expect("XML"));
    let juliet = BareJid::parse("juliet@example.org").expect("a JID");
    assert_eq!(check("get", OWN, card), Ok(Wish::Read(own.clone())));
    assert_eq!(check("get", "juliet@example.org", card), Ok(Wish::Read(juliet)));
    assert_eq!(check("get", "example.org", card), Ok(Wish::ServersOwn));
    assert_eq!(check("set", OWN, card), Ok(Wish::Write(own, bytes.to_bytes())));
    assert_eq!(check("set", "juliet@example.org", card), Err(StanzaError::forbidden()));
    assert_eq!(check("set", "example.org", card), Err(StanzaError::not_allowed()));
}

#[test]
fn what_is_no_card_or_too_large_or_no_picture_is_refused() {
    let condition = |payload: &str| check("set", OWN, payload).map_err(|error| error.condition);
    let refused = |payload: &str| condition(payload).err().map(|condition| condition.name());
    assert_eq!(refused("<vcard xmlns='vcard-temp'/>"), Some("bad-request"));
    let large = format!("<vCard xmlns='vcard-temp'><FN>{}</FN></vCard>", "x".repeat(MAX));
    assert_eq!(refused(&large), Some("policy-violation"));
    for (type_, expected) in [
        ("image/png", None),
        ("IMAGE/JPEG", None),
        ("JPEG", None),
        ("", None),
        ("text/html", Some("not-acceptable")),
    ] {
        let photo = format!(
            "<vCard xmlns='vcard-temp'><PHOTO><TYPE>{type_}</TYPE><BINVAL>AA==</BINVAL></PHOTO></vCard>"
        );
        assert_eq!(refused(&photo), expected, "{type_}");
    }
}

#[tokio::test]
async fn a_card_replaces_the_one_before_and_nobody_has_none() {
    let mut tx = Tx::of(OWN);
    let set = |text: &str| Request::Set(text.into());
    assert_eq!(home::decide(&mut tx, set("1")).await.ok(), Some(Answer::NoAccount));
    assert!(tx.changed().is_empty());
    tx.put(ACCOUNTS, "", Vec::new());
    for card in ["1", "2"] {
        assert_eq!(home::decide(&mut tx, set(card)).await.ok(), Some(Answer::Done));
        assert_eq!(tx.get(VCARD, "").await.ok(), Some(Some(card.into())));
    }
}
