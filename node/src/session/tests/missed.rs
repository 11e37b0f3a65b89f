//! Presence for which a slow client's mailbox has no room.

use super::*;
use crate::testing::stanza;

/// More presence than there is room for, the last of which says that somebody has gone.
fn flood(client: &Client) {
    let status = "x".repeat(200);
    let shown = format!(
        "<presence from='juliet@chat.example/balcony' to='romeo@chat.example'><status>{status}</status></presence>"
    );
    let shown = stanza(&shown);
    while client.seat.take(Delivery::light(shown.clone())) {}
    let gone =
        "<presence type='unavailable' from='juliet@chat.example/balcony' to='romeo@chat.example'/>";
    assert!(!client.seat.take(Delivery::light(stanza(gone))));
}

async fn slow(house: &House) -> Client {
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    let mut client = Client::new(house, "romeo/one");
    client.sends("<presence/>").await;
    client.reads("<presence").await;
    client
}

#[tokio::test]
async fn what_it_has_missed_is_told_when_there_is_room() {
    let house = House::new().await;
    let mut client = slow(&house).await;
    let nurse = house.available("juliet/nurse", 0).await;
    flood(&client);
    client.reads("from='juliet@chat.example' ").await;
    // Who is there is told behind it.
    client.reads("from='juliet@chat.example/nurse'").await;
    assert!(nurse.available());
}

#[tokio::test]
async fn who_misses_too_much_is_closed() {
    let house = House::new().await;
    let mut client = slow(&house).await;
    for _ in 0..3 {
        flood(&client);
        client.reads("from='juliet@chat.example' ").await;
    }
    flood(&client);
    let rest = client.rest().await;
    assert!(rest.contains("<resource-constraint"), "{rest}");
}
