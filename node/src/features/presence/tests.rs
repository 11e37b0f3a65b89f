//! RFC 6121 §4: given this presence of a local user, expect these actions: who is told, who is asked, who is written to.

use super::*;
use crate::features::roster;
use crate::features::roster::home::Request;
use crate::features::roster::subscription::Kind as Subscription;
use crate::testing::{House, all, bare, mail, stanza, words};

/// Romeo, with juliet (both), nurse (receives his presence), paris (whose presence he receives) and tybalt (who has asked).
async fn verona() -> House {
    let house = House::new().await;
    house.accounts(["romeo", "juliet", "nurse", "paris", "tybalt"]).await;
    let romeo = bare("romeo");
    for (name, kinds) in [
        ("juliet", &["subscribe>", "<subscribed", "<subscribe", "subscribed>"][..]),
        ("nurse", &["<subscribe", "subscribed>"]),
        ("paris", &["subscribe>", "<subscribed"]),
        ("tybalt", &["<subscribe"]),
    ] {
        let contact = bare(name);
        for written in kinds {
            let kind = match written.trim_matches(['<', '>']) {
                "subscribe" => Subscription::Subscribe,
                _ => Subscription::Subscribed,
            };
            let (contact, items_max) = (contact.clone(), 10);
            let stanza = format!("<presence type='subscribe' from='{contact}' to='{romeo}'/>");
            let request = if written.starts_with('<') {
                Request::In { contact, kind, stanza: stanza.into_bytes(), items_max }
            } else {
                Request::Out { contact, kind, items_max }
            };
            roster::ask(&house.node, &romeo, &request).await.expect("done");
        }
    }
    house
}

/// Romeo's session sends this.
async fn says(house: &House, seat: &Arc<Seat>, text: &str) -> Vec<String> {
    let mut sent = stanza(text).with_from(seat.address());
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = PresenceFeature.outbound(&mut ctx, &mut sent);
    words(&all(ctx, flow).await)
}

fn row(house: &House, seat: &Seat) -> (bool, i8) {
    let find = |rows: &[global_distrib::Row<Arc<Seat>>]| {
        rows.iter().find(|row| row.full == seat.full).map(|row| (row.available, row.priority))
    };
    house.node.directory.read(seat.bare.as_str(), find).flatten().expect("a row")
}

#[tokio::test]
async fn of_those_it_wrote_to_the_last_are_remembered() {
    let house = House::with("[limits]\ndirected_presence_max = 2\n").await;
    house.accounts(["romeo"]).await;
    let seat = house.bound("romeo/orchard");
    for name in ["nurse", "paris", "paris", "friar"] {
        says(&house, &seat, &format!("<presence to='{name}@chat.example'/>")).await;
    }
    let directed: Vec<_> = seat.directed().iter().map(ToString::to_string).collect();
    assert_eq!(directed, ["paris@chat.example", "friar@chat.example"]);
}

#[test]
fn a_priority_is_a_number_of_eight_bits_or_a_bad_request() {
    for (written, expected) in [
        ("", Some(0)),
        ("<priority>5</priority>", Some(5)),
        ("<priority> -128 </priority>", Some(-128)),
        ("<priority>127</priority>", Some(127)),
        ("<priority>+7</priority>", Some(7)),
        ("<priority>128</priority>", None),
        ("<priority>-129</priority>", None),
        ("<priority>much</priority>", None),
        ("<priority>1.5</priority>", None),
        ("<priority/>", None),
        ("<priority xmlns='other'>x</priority>", Some(0)),
    ] {
        let presence = stanza(&format!("<presence>{written}</presence>"));
        assert_eq!(priority(&presence).ok(), expected, "{written}");
    }
}

#[tokio::test]
async fn initial_presence_tells_the_subscribers_and_asks_the_subscriptions() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    let done = says(&house, &seat, "<presence><priority>3</priority></presence>").await;
    let [told, asked, request, offline] = done.as_slice() else { panic!("{done:#?}") };
    assert!(told.starts_with("tell juliet nurse romeo: <presence"), "{told}");
    assert_eq!(asked, "ask juliet paris romeo");
    // §3.1.3: what nobody has answered yet is shown again.
    assert!(request.starts_with("reply") && request.contains("tybalt"), "{request}");
    assert_eq!(offline, "hand out");
    assert_eq!(row(&house, &seat), (true, 3));
    assert!(seat.available());
}

#[tokio::test]
async fn nobody_is_shown_to_a_session_before_its_roster_is_read() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    house.node.rosters.evict(&seat.bare);
    let mut sent = stanza("<presence/>").with_from(seat.address());
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    let flow = PresenceFeature.outbound(&mut ctx, &mut sent);
    assert!(!row(&house, &seat).0 && !seat.available());
    assert_eq!(all(ctx, flow).await.len(), 4);
    assert!(row(&house, &seat).0 && house.node.rosters.cached(&seat.bare).is_some());
}

#[tokio::test]
async fn later_presence_tells_but_does_not_ask_again() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    says(&house, &seat, "<presence/>").await;
    let done = says(&house, &seat, "<presence><show>away</show></presence>").await;
    let [told] = done.as_slice() else { panic!("{done:#?}") };
    assert!(told.starts_with("tell juliet nurse romeo") && told.contains("away"), "{told}");
    // Unavailable and back: initial again.
    says(&house, &seat, "<presence type='unavailable'/>").await;
    assert_eq!(says(&house, &seat, "<presence/>").await.len(), 4);
}

#[tokio::test]
async fn unavailable_tells_the_subscribers_once() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    assert!(says(&house, &seat, "<presence type='unavailable'/>").await.is_empty());
    says(&house, &seat, "<presence/>").await;
    let done =
        says(&house, &seat, "<presence type='unavailable'><status>bye</status></presence>").await;
    let [itself, told] = done.as_slice() else { panic!("{done:#?}") };
    assert!(itself.starts_with("reply ") && itself.contains("bye"), "{itself}");
    assert!(told.starts_with("tell juliet nurse romeo") && told.contains("bye"), "{told}");
    assert_eq!(row(&house, &seat), (false, 0));
    assert!(says(&house, &seat, "<presence type='unavailable'/>").await.is_empty());
    // When the session ends there is nobody left to tell.
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    let flow = PresenceFeature.session(&mut ctx, SessionEvent::Gone);
    assert!(all(ctx, flow).await.is_empty());
}

#[tokio::test]
async fn directed_presence_goes_to_one_and_is_taken_back_at_the_end() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    for to in ["hall@rooms.example/romeo", "paris@chat.example", "friar@chat.example"] {
        let done = says(&house, &seat, &format!("<presence to='{to}'/>")).await;
        let [routed] = done.as_slice() else { panic!("{done:#?}") };
        assert!(routed.starts_with("route") && routed.contains(to), "{routed}");
    }
    let to_friar = "<presence to='friar@chat.example' type='unavailable'/>";
    assert_eq!(says(&house, &seat, to_friar).await.len(), 1);
    // §4.6.3: it never was available, so contacts hear nothing; those it wrote to do, once.
    let mut ctx = Ctx::new(&house.node, Some(&seat));
    let flow = PresenceFeature.session(&mut ctx, SessionEvent::Gone);
    let done = words(&all(ctx, flow).await);
    let [hall, paris] = done.as_slice() else { panic!("{done:#?}") };
    for (word, to) in [(hall, "hall@rooms.example/romeo"), (paris, "paris@chat.example")] {
        assert!(word.contains("unavailable") && word.contains(to), "{word}");
        assert!(word.contains("from='romeo@chat.example/orchard'"), "{word}");
    }
}

#[tokio::test]
async fn what_is_no_presence_is_refused_and_what_means_nothing_goes_nowhere() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    for refused in [
        "<presence><priority>much</priority></presence>",
        "<presence type='subscribe'/>",
        "<presence type='nonsense'/>",
    ] {
        let done = says(&house, &seat, refused).await;
        let [reply] = done.as_slice() else { panic!("{refused} {done:#?}") };
        assert!(reply.starts_with("reply") && reply.contains("bad-request"), "{reply}");
    }
    assert!(!seat.available());
    for ignored in [
        "<presence type='probe'/>",
        "<presence type='error'/>",
        "<presence type='subscribe' to='romeo@chat.example'/>",
    ] {
        assert!(says(&house, &seat, ignored).await.is_empty(), "{ignored}");
    }
}

#[tokio::test]
async fn a_contact_hears_of_the_end_once_though_it_got_directed_presence() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    let _juliet = house.available("juliet/balcony", 0).await;
    says(&house, &seat, "<presence/>").await;
    for to in
        ["juliet", "juliet@chat.example/balcony", "juliet@chat.example/gone", "romeo", "paris"]
    {
        let to = if to.contains('@') { to.to_owned() } else { format!("{to}@chat.example") };
        says(&house, &seat, &format!("<presence to='{to}'/>")).await;
    }
    // §4.6.3: Paris does not see Romeo's presence otherwise, and a resource that is not available gets no broadcast.
    let done = says(&house, &seat, "<presence type='unavailable'/>").await;
    let [_, gone, paris, told] = done.as_slice() else { panic!("{done:#?}") };
    assert!(gone.contains("juliet@chat.example/gone") && paris.contains("to='paris@"), "{done:#?}");
    assert!(told.starts_with("tell juliet nurse romeo"), "{told}");
}

#[tokio::test]
async fn who_has_gone_or_refused_gets_no_word_of_the_end() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    let who = ["paris@chat.example/x", "hall@rooms.example/r", "friar@chat.example"];
    for to in who {
        says(&house, &seat, &format!("<presence to='{to}'/>")).await;
    }
    for from in [
        "<presence type='unavailable' from='paris@chat.example/x'/>",
        "<presence type='error' from='hall@rooms.example/r'/>",
        // Another resource of the friar's may be there.
        "<presence type='unavailable' from='friar@chat.example/cell'/>",
    ] {
        crate::router::perform::to_seat(&house.node, &seat, stanza(from));
    }
    let done = says(&house, &seat, "<presence type='unavailable'/>").await;
    let [friar] = done.as_slice() else { panic!("{done:#?}") };
    assert!(friar.contains("to='friar@chat.example'"), "{friar}");
}

#[tokio::test]
async fn a_client_that_probes_gets_what_a_server_would() {
    let house = verona().await;
    let seat = house.bound("romeo/orchard");
    let probe = async |to: &str| {
        says(&house, &seat, &format!("<presence type='probe' to='{to}'/>")).await.join(", ")
    };
    let is = |done: String, type_: &str, from: &str| {
        let (type_, from) = (format!("type='{type_}'"), format!("from='{from}'"));
        assert!(
            done.starts_with("reply") && done.contains(&type_) && done.contains(&from),
            "{done}"
        );
    };
    // §4.3.2: nobody there; not allowed to know; no such account.
    is(probe("paris@chat.example").await, "unavailable", "paris@chat.example");
    is(probe("romeo@chat.example").await, "unavailable", "romeo@chat.example");
    for unknown in ["nurse@chat.example", "tybalt@chat.example", "nobody@chat.example"] {
        is(probe(unknown).await, "unsubscribed", unknown);
    }
    let _paris = house.available("paris/street", 0).await;
    assert_eq!(probe("paris@chat.example").await, "ask paris");
    assert_eq!(probe("paris@chat.example/street").await, "ask paris");
    let gone = "paris@chat.example/gone";
    is(probe(gone).await, "unavailable", gone);
    // Who was asked and has not answered says nothing.
    says(&house, &seat, "<presence type='subscribe' to='nurse@chat.example'/>").await;
    assert_eq!(probe("nurse@chat.example").await, "");
    // Not ours to answer.
    assert!(probe("friar@elsewhere.example").await.starts_with("route"));
}

#[tokio::test]
async fn contacts_see_each_other_come_and_go() {
    let house = verona().await;
    // Juliet's own roster knows of it too; that of Paris says nothing.
    house.watches("romeo", "juliet").await;
    house.watches("juliet", "romeo").await;
    let juliet = house.available("juliet/balcony", 0).await;
    let paris = house.available("paris/street", 0).await;
    let romeo = house.available("romeo/orchard", 0).await;
    let seen = house.mail(&juliet).await;
    assert!(seen.iter().any(|text| text.contains("from='romeo@chat.example/orchard'")), "{seen:?}");
    let seen = mail(&romeo).join("\n");
    // §4.3.2: the contact's server looks at the contact's roster. Paris has granted nothing, whatever Romeo's says.
    assert!(seen.contains("juliet@chat.example/balcony") && !seen.contains("paris"), "{seen}");
    assert!(mail(&paris).iter().all(|text| !text.contains("romeo")));
    house.says(&romeo, "<presence type='unavailable'/>").await;
    let seen = mail(&juliet).join("\n");
    assert!(seen.contains("type='unavailable'") && seen.contains("romeo"), "{seen}");
    // §4.5.2: the resource itself hears of it too, once.
    let own = mail(&romeo);
    assert!(own.len() == 1 && own[0].contains("type='unavailable'"), "{own:?}");
}

#[tokio::test]
async fn a_subscription_walks_between_the_homes_and_presence_follows_it() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    let juliet = house.available("juliet/balcony", 0).await;
    for seat in [&romeo, &juliet] {
        seat.ask_roster();
        seat.answer_roster(None, Stanza::presence(None, None, Type::Available).build(), |_| {});
    }
    drop((mail(&romeo), mail(&juliet)));
    house
        .says(&romeo, "<presence type='subscribe' to='juliet@chat.example/balcony' id='s1'/>")
        .await;
    let asked = mail(&juliet);
    assert_eq!(asked.len(), 1, "{asked:?}");
    // §3.1.2: stamped with bare JIDs on both ends.
    assert!(asked[0].contains("from='romeo@chat.example'"), "{asked:?}");
    assert!(asked[0].contains("to='juliet@chat.example'"), "{asked:?}");
    let pushed = mail(&romeo).join("\n");
    assert!(
        pushed.contains("ask='subscribe'") && pushed.contains("subscription='none'"),
        "{pushed}"
    );
    house.says(&juliet, "<presence type='subscribed' to='romeo@chat.example'/>").await;
    let got = mail(&romeo);
    let at = |what: &str| got.iter().position(|text| text.contains(what));
    let (answer, push) = (at("type='subscribed'"), at("subscription='to'"));
    let presence = at("from='juliet@chat.example/balcony'");
    assert!(answer.is_some() && push.is_some() && presence.is_some(), "{got:#?}");
    assert!(mail(&juliet).join("\n").contains("subscription='from'"));
    // And withdrawn: unavailable from the contact's resource (§3.2.2).
    house.says(&juliet, "<presence type='unsubscribed' to='romeo@chat.example'/>").await;
    let got = mail(&romeo).join("\n");
    for part in ["type='unsubscribed'", "subscription='none'", "type='unavailable'"] {
        assert!(got.contains(part), "{part} in {got}");
    }
}
