//! XEP-0186: what a command wishes for, and what others see of whoever sent it.

use super::*;
use crate::testing::{House, all, mail, stanza};

const ON: &str = "<invisible xmlns='urn:xmpp:invisible:1'/>";
const OFF: &str = "<visible xmlns='urn:xmpp:invisible:1'/>";

#[test]
fn only_the_two_commands_are_understood() {
    use crate::features::tests::iq;
    let on = |probe| Ok(Wish::Invisible { probe });
    for (type_, to, payload, expected) in [
        ("set", "romeo@example.org", ON, on(false)),
        ("set", "example.org", "<invisible xmlns='urn:xmpp:invisible:0'/>", on(false)),
        ("set", "example.org", "<invisible xmlns='urn:xmpp:invisible:1' probe='true'/>", on(true)),
        ("set", "example.org", "<invisible xmlns='urn:xmpp:invisible:1' probe='0'/>", on(false)),
        ("set", "example.org", OFF, Ok(Wish::Visible)),
        ("get", "example.org", ON, Err(StanzaError::bad_request())),
        (
            "set",
            "example.org",
            "<x xmlns='urn:xmpp:invisible:1'/>",
            Err(StanzaError::bad_request()),
        ),
        ("set", "juliet@example.org", ON, Err(StanzaError::service_unavailable())),
    ] {
        assert_eq!(wish(&iq(type_, to, payload)), expected, "{type_} {to} {payload}");
    }
}

async fn commands(house: &House, seat: &Arc<Seat>, command: &str) {
    let text = format!("<iq id='i1' type='set' from='{}'>{command}</iq>", seat.full);
    let target = Target::Account { account: seat.bare.clone(), own: true };
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = Invisible.iq(&mut ctx, &Iq { stanza: stanza(&text), target });
    let actions = all(ctx, flow).await;
    crate::router::perform(&house.node, Some(seat), actions);
    let got = mail(seat);
    assert!(got.iter().any(|text| text.contains("type='result'")), "{got:?}");
}

fn row(house: &House, seat: &Seat) -> (bool, i8) {
    let find = |rows: &[global_distrib::Row<Arc<Seat>>]| {
        rows.iter().find(|row| row.full == seat.full).map(|row| (row.available, row.priority))
    };
    house.node.directory.read(seat.bare.as_str(), find).flatten().expect("a row")
}

fn is_hidden(house: &House, seat: &Seat) -> bool {
    let hidden = |rows: &[global_distrib::Row<Arc<Seat>>]| {
        rows.iter().any(|row| row.full == seat.full && row.hidden)
    };
    house.node.directory.read(seat.bare.as_str(), hidden).unwrap_or(false)
}

/// Romeo and Juliet see each other; both are available.
async fn verona() -> (House, Arc<Seat>, Arc<Seat>) {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    house.watches("juliet", "romeo").await;
    let romeo = house.available("romeo/orchard", 3).await;
    let juliet = house.available("juliet/balcony", 0).await;
    drop((mail(&romeo), mail(&juliet)));
    (house, romeo, juliet)
}

#[tokio::test]
async fn who_goes_invisible_is_gone_for_contacts_and_there_for_messages() {
    let (house, romeo, juliet) = verona().await;
    commands(&house, &romeo, ON).await;
    let got = mail(&juliet);
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].contains("unavailable") && got[0].contains("romeo@chat.example/orchard"));
    assert_eq!(row(&house, &romeo), (true, 3));
    assert!(is_hidden(&house, &romeo));
    // Once more changes nothing; what it says to everybody, nobody hears.
    commands(&house, &romeo, ON).await;
    house.says(&romeo, "<presence><show>dnd</show><priority>7</priority></presence>").await;
    assert_eq!(row(&house, &romeo), (true, 7));
    assert!(mail(&juliet).is_empty() && mail(&romeo).is_empty());
    // Who comes and asks sees nobody, who writes is heard, and whose presence changes is seen.
    house.says(&juliet, "<presence type='probe' to='romeo@chat.example'/>").await;
    let got = mail(&juliet).join("\n");
    assert!(got.contains("unavailable") && !got.contains("orchard"), "{got}");
    let phone = house.available("juliet/phone", 0).await;
    assert!(!mail(&phone).join("\n").contains("romeo"));
    house
        .says(&juliet, "<message to='romeo@chat.example' type='chat'><body>x</body></message>")
        .await;
    // What waits for him is looked for first.
    house.until("both are there", || romeo.mailbox.depth().items > 1).await;
    let got = mail(&romeo).join("\n");
    assert!(got.contains("<message") && got.contains("juliet@chat.example/phone"), "{got}");
}

#[tokio::test]
async fn an_invisible_session_says_goodbye_only_to_whom_it_wrote() {
    let (house, romeo, juliet) = verona().await;
    commands(&house, &romeo, ON).await;
    drop(mail(&juliet));
    house.says(&romeo, "<presence to='juliet@chat.example/balcony'/>").await;
    assert_eq!(mail(&juliet).len(), 1);
    house.says(&romeo, "<presence type='unavailable'/>").await;
    assert!(mail(&juliet).join("\n").contains("unavailable"));
    assert_eq!(row(&house, &romeo), (false, 0));
    // Back, still invisible; and gone, without a word.
    house.says(&romeo, "<presence/>").await;
    assert_eq!(row(&house, &romeo), (true, 0));
    house.says(&romeo, "<presence type='unavailable'/>").await;
    assert!(mail(&juliet).is_empty());
}

#[tokio::test]
async fn who_becomes_visible_is_as_before_initial_presence() {
    let (house, romeo, juliet) = verona().await;
    commands(&house, &romeo, OFF).await;
    assert_eq!(row(&house, &romeo), (true, 3));
    commands(&house, &romeo, ON).await;
    commands(&house, &romeo, OFF).await;
    assert_eq!(row(&house, &romeo), (false, 0));
    assert!(!is_hidden(&house, &romeo));
    drop(mail(&juliet));
    house.says(&romeo, "<presence/>").await;
    assert!(mail(&juliet).join("\n").contains("romeo@chat.example/orchard"));
    assert!(mail(&romeo).join("\n").contains("juliet@chat.example/balcony"));
}

#[tokio::test]
async fn invisible_from_the_start_with_a_look_at_the_contacts() {
    let (house, _, juliet) = verona().await;
    let phone = house.bound("romeo/phone");
    let text = "<invisible xmlns='urn:xmpp:invisible:1' probe='true'/>";
    let iq = format!("<iq id='i1' type='set' from='{}'>{text}</iq>", phone.full);
    let target = Target::Account { account: phone.bare.clone(), own: true };
    let mut ctx = Ctx::new(&house.node, Some(&phone));
    let flow = Invisible.iq(&mut ctx, &Iq { stanza: stanza(&iq), target });
    let actions = all(ctx, flow).await;
    crate::router::perform(&house.node, Some(&phone), actions);
    let got = mail(&phone).join("\n");
    assert!(got.contains("juliet@chat.example/balcony"), "{got}");
    assert_eq!(row(&house, &phone), (true, 0));
    assert!(mail(&juliet).is_empty());
}
