//! XEP-0280: given this message, expect a copy or the reason why not.

use bytes::Bytes;

use super::*;
use crate::features::tests::iq;
use crate::testing::{House, stanza};

fn message(type_: &str, from: &str, payload: &str) -> Stanza {
    let text = format!(
        "<message to='juliet@example.org/balcony' from='{from}' type='{type_}'>{payload}</message>"
    );
    Stanza::parse(Bytes::from(text)).expect("a message")
}

fn check(type_: &str, payload: &str, expected: Verdict) {
    let message = message(type_, "romeo@example.net/orchard", payload);
    for direction in [Direction::Sent, Direction::Received] {
        assert_eq!(should_copy(&message, direction), expected, "{type_} {payload} {direction:?}");
    }
}

#[test]
fn the_rules_of_section_6_1() {
    check("chat", "<body>x</body>", Verdict::Chat);
    check("chat", "", Verdict::Chat);
    check("normal", "<body>x</body>", Verdict::Body);
    check("normal", "<received xmlns='urn:xmpp:receipts' id='1'/>", Verdict::Payload);
    check("normal", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", Verdict::Payload);
    check(
        "normal",
        "<x xmlns='jabber:x:conference' jid='room@rooms.example.org'/>",
        Verdict::Invitation,
    );
    check(
        "normal",
        "<event xmlns='http://jabber.org/protocol/pubsub#event'/>",
        Verdict::NotInstantMessaging,
    );
    check("headline", "<body>x</body>", Verdict::NotInstantMessaging);
    check("error", "<body>x</body>", Verdict::NotInstantMessaging);
    check("groupchat", "<body>x</body>", Verdict::Groupchat);
    check("chat", "<body>x</body><private xmlns='urn:xmpp:carbons:2'/>", Verdict::NoCopy);
    check("chat", "<body>x</body><no-copy xmlns='urn:xmpp:hints'/>", Verdict::NoCopy);
    check("chat", "<sent xmlns='urn:xmpp:carbons:2'/>", Verdict::IsCopy);
}

#[test]
fn an_error_of_an_account_is_copied_where_it_arrives() {
    for (from, way, expected) in [
        ("romeo@example.net", Direction::Received, Verdict::Bounce),
        ("romeo@example.net", Direction::Sent, Verdict::NotInstantMessaging),
        ("romeo@example.net/orchard", Direction::Received, Verdict::NotInstantMessaging),
        ("example.net", Direction::Received, Verdict::NotInstantMessaging),
    ] {
        let error = message("error", from, "<error type='cancel'/>");
        assert_eq!(should_copy(&error, way), expected, "{from} {way:?}");
    }
    let private = "<private xmlns='urn:xmpp:carbons:2'/><body>x</body>";
    let error = message("error", "romeo@example.net", private);
    assert_eq!(should_copy(&error, Direction::Received), Verdict::NoCopy);
}

#[test]
fn a_client_does_not_see_what_is_for_servers() {
    let private = message(
        "chat",
        "romeo@example.net/x",
        "<private xmlns='urn:xmpp:carbons:2'/><body>x</body>",
    );
    assert_eq!(without_private(&private), message("chat", "romeo@example.net/x", "<body>x</body>"));
}

#[test]
fn a_private_message_in_a_room_is_copied_to_its_senders_clients_only() {
    let payload = "<body>x</body><x xmlns='http://jabber.org/protocol/muc#user'/>";
    let private = message("chat", "room@rooms.example.org/nurse", payload);
    assert_eq!(should_copy(&private, Direction::Sent), Verdict::Invitation);
    assert_eq!(should_copy(&private, Direction::Received), Verdict::RoomPrivate);
    let payload =
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='nurse@example.org'/></x>";
    let invitation = message("normal", "room@rooms.example.org", payload);
    assert!(should_copy(&invitation, Direction::Received).is_copy());
}

#[test]
fn a_client_switches_its_own_carbons_and_nobody_elses() {
    let enable = "<enable xmlns='urn:xmpp:carbons:2'/>";
    assert_eq!(switch(&iq("set", "romeo@example.org", enable)).ok(), Some(true));
    assert_eq!(
        switch(&iq("set", "example.org", "<disable xmlns='urn:xmpp:carbons:2'/>")).ok(),
        Some(false)
    );
    assert!(switch(&iq("get", "romeo@example.org", enable)).is_err());
    assert!(switch(&iq("set", "juliet@example.org", enable)).is_err());
    assert!(
        switch(&iq("set", "romeo@example.org", "<maybe xmlns='urn:xmpp:carbons:2'/>")).is_err()
    );
}

#[test]
fn a_note_to_oneself_is_copied_once() {
    let note = |to: &str| {
        let text = format!(
            "<message to='{to}' from='romeo@example.net/orchard' type='chat'><body>x</body></message>"
        );
        Stanza::parse(Bytes::from(text)).expect("a message")
    };
    // To, whether the sent copy is left out, whether the received one is.
    for (to, sent, received) in [
        ("romeo@example.net", true, false),
        ("romeo@example.net/garden", false, true),
        ("juliet@example.org", false, false),
        ("juliet@example.org/balcony", false, false),
    ] {
        let note = note(to);
        assert_eq!((is_to_self(&note, false), is_to_self(&note, true)), (sent, received), "{to}");
    }
}

/// A copy is thought of only where there is somebody for it.
#[tokio::test]
async fn who_has_one_resource_has_no_copies_made() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let balcony = house.available("juliet/balcony", 0).await;
    let copies = || {
        let mut ctx = Ctx::new(&house.node, Some(&balcony));
        let said = "<message to='romeo@chat.example/orchard' from='juliet@chat.example/balcony' \
                    type='chat'><body>x</body></message>";
        assert!(matches!(Carbons.outbound(&mut ctx, &mut stanza(said)), Flow::Next));
        let heard = "<message to='juliet@chat.example/balcony' from='romeo@chat.example/orchard' \
                     type='chat'><body>x</body></message>";
        ctx.nobody_else = !has_others(&house.node, &balcony.full);
        Carbons.inbound(&mut ctx, &stanza(heard), std::slice::from_ref(&balcony));
        ctx.actions.len()
    };
    assert_eq!(copies(), 0);
    let _chamber = house.available("juliet/chamber", 0).await;
    assert_eq!(copies(), 2);
}
