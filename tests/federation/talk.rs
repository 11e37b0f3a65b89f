//! People at two domains: what each does, seen by the other. Every test is performed at every pair of servers, and has people of its own.

use crate::site::Site;
use crate::{expect, next_user};
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::xml::{CLIENT, Element};

const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
const DISCO: &str = "http://jabber.org/protocol/disco#info";
const MUC: &str = "http://jabber.org/protocol/muc";
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
const MAM: &str = "urn:xmpp:mam:2";

/// Two domains.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) ours: &'a Site,
    pub(crate) theirs: &'a Site,
}

impl Pair<'_> {
    fn turned(self) -> Self {
        Pair { ours: self.theirs, theirs: self.ours }
    }
}

/// All of them, called `PLACE::…`.
pub(crate) fn tests<'a>(place: &str, pair: Pair<'a>) -> Vec<Test<'a>> {
    macro_rules! tests {
        ($($name:literal => $test:expr),* $(,)?) => {
            vec![$(Test::new(format!("{place}::{}", $name), move || $test)),*]
        };
    }
    let back = pair.turned();
    tests![
        "messages both ways in order" => messages(pair),
        "to two devices in two regions" => devices(pair),
        "presence, asked for by us" => presence(pair),
        "presence, asked for by them" => presence(back),
        "a refused subscription" => refused(pair),
        "a refused subscription of theirs" => refused(back),
        "directed presence ends with the session" => directed(pair),
        "our people in their room" => room(pair),
        "archive and offline at our side" => archive(pair),
        "archive and offline at their side" => archive(back),
        "vcards" => vcards(pair),
        "pings and discovery" => pings(pair),
        "iqs between clients" => iqs(pair),
        "errors from them" => errors(pair),
        "errors from us" => errors(back),
    ]
}

/// One and the other, or the other and the one.
fn turned<'a>(
    turn: bool,
    a: &'a mut Client,
    b: &'a mut Client,
) -> (&'a mut Client, &'a mut Client) {
    if turn { (b, a) } else { (a, b) }
}

/// Hears a message of somebody with a body.
async fn hears(client: &mut Client, from: &str) -> Result<String> {
    let what = format!("a message of {from}");
    let got = client.wait_for_within(patience() * 2, &what, |e| {
        e.name == "message"
            && e.attr("from").is_some_and(|at| at.starts_with(from))
            && e.body().is_some()
    });
    Ok(got.await?.body().unwrap_or_default())
}

/// Sees presence of somebody of a type, or none.
pub(crate) async fn sees(client: &mut Client, from: &str, type_: Option<&str>) -> Result<Element> {
    let what = format!("presence {} of {from}", type_.unwrap_or("available"));
    client
        .wait_for_within(patience() * 2, &what, |e| {
            e.name == "presence"
                && e.attr("type") == type_
                && e.attr("from")
                    .is_some_and(|at| at == from || at.starts_with(&format!("{from}/")))
        })
        .await
}

async fn messages(pair: Pair<'_>) -> Result<()> {
    const COUNT: u64 = 60;
    let number = next_user();
    let mut romeo = pair.ours.online(number, 0, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    for serial in 0..COUNT {
        for turn in [false, true] {
            let (from, to) = turned(turn, &mut romeo, &mut juliet);
            // To the bare JID and to the full one: one order.
            let to = if serial % 2 == 0 { to.bare() } else { to.full() };
            let text = body("writer", serial);
            let stanza = format!(
                "<message to='{to}' type='chat' id='n{serial}'><body>{text}</body></message>"
            );
            from.send(&stanza).await?;
        }
    }
    for turn in [false, true] {
        let (writer, reader) = turned(turn, &mut romeo, &mut juliet);
        let (from, writer) = (if turn { pair.theirs } else { pair.ours }, writer.bare());
        let mut ledger = Ledger::default();
        for _ in 0..COUNT {
            ledger.enter(&hears(reader, &writer).await?);
        }
        let order = from.wrote(&reader.bare())?.verdict(ledger.seen("writer"));
        let verdict = ledger.complete("writer", COUNT).and(order);
        verdict.map_err(|wrong| format!("of {writer}: {wrong}"))?;
    }
    for client in [&mut romeo, &mut juliet] {
        client.ping().await?;
        let more = client.drain().into_iter().find(|e| e.name == "message");
        expect(more.is_none(), || format!("and more: {more:?}"))?;
    }
    Ok(())
}

/// Of one user; their message to the bare JID comes to both.
async fn devices(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut first = pair.ours.online(number, 0, "first").await?;
    let mut second = pair.ours.online(number, 1, "second").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    let text =
        format!("<message to='{}' type='headline'><body>extra</body></message>", first.bare());
    juliet.send(&text).await?;
    for device in [&mut first, &mut second] {
        expect(hears(device, &juliet.bare()).await? == "extra", || "another message".into())?;
    }
    // Each speaks with its own region's voice, and is answered there.
    for device in [&mut first, &mut second] {
        let (word, from) = (device.full(), device.full());
        let text =
            format!("<message to='{}' type='chat'><body>{word}</body></message>", juliet.full());
        device.send(&text).await?;
        expect(hears(&mut juliet, &from).await? == word, || "another message".into())?;
        juliet.send(&format!("<message to='{from}'><body>back</body></message>")).await?;
        expect(hears(device, &juliet.full()).await? == "back", || "another message".into())?;
    }
    Ok(())
}

/// `asks` asks, `says` says yes; then both see each other come, change, go and come back.
async fn presence(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut asks = pair.ours.online(number, 0, "asks").await?;
    let mut says = pair.theirs.online(number, 0, "says").await?;
    let (a, b) = (asks.bare(), says.bare());
    let presence = |to: &str, type_: &str| format!("<presence to='{to}' type='{type_}'/>");
    asks.send(&presence(&b, "subscribe")).await?;
    sees(&mut says, &a, Some("subscribe")).await?;
    says.send(&presence(&a, "subscribed")).await?;
    sees(&mut asks, &b, Some("subscribed")).await?;
    sees(&mut asks, &says.full(), None).await?;
    // And back.
    says.send(&presence(&a, "subscribe")).await?;
    sees(&mut asks, &b, Some("subscribe")).await?;
    asks.send(&presence(&b, "subscribed")).await?;
    sees(&mut says, &a, Some("subscribed")).await?;
    sees(&mut says, &asks.full(), None).await?;
    for turn in [false, true] {
        let (from, to) = turned(turn, &mut asks, &mut says);
        from.send("<presence><show>away</show><status>&lt;sleeping&gt;</status></presence>")
            .await?;
        let from = from.full();
        let fits = |e: &Element| {
            e.name == "presence"
                && e.attr("from") == Some(&from)
                && e.child("show", CLIENT).is_some_and(|show| show.text() == "away")
        };
        let seen = to.wait_for_within(patience(), "away", fits).await?;
        let status = seen.child("status", CLIENT).map(Element::text);
        expect(status.as_deref() == Some("<sleeping>"), || seen.to_string())?;
    }
    asks.send("<presence type='unavailable'/>").await?;
    sees(&mut says, &asks.full(), Some("unavailable")).await?;
    // Whoever comes is told, and is told of (RFC 6121 §4.3: a probe).
    asks.send("<presence/>").await?;
    sees(&mut says, &asks.full(), None).await?;
    sees(&mut asks, &says.full(), None).await?;
    says.disconnect().await?;
    sees(&mut asks, &says.full(), Some("unavailable")).await?;
    let mut again = pair.theirs.online(number, 0, "again").await?;
    sees(&mut again, &asks.full(), None).await?;
    sees(&mut asks, &again.full(), None).await?;
    // The end of it.
    asks.send(&presence(&b, "unsubscribe")).await?;
    sees(&mut again, &a, Some("unsubscribe")).await?;
    // RFC 6121 §3.3.3 has it so; Prosody 0.12 leaves it out.
    if !b.contains("@prosody.") {
        sees(&mut asks, &again.full(), Some("unavailable")).await?;
    }
    again.send("<presence><show>dnd</show></presence>").await?;
    again.ping().await?;
    asks.iq("get", Some(&pair.theirs.domain), "<ping xmlns='urn:xmpp:ping'/>").await?;
    let more = asks.drain().into_iter().find(|e| {
        e.name == "presence" && e.attr("from") == Some(&again.full()) && e.attr("type").is_none()
    });
    expect(more.is_none(), || format!("seen all the same: {more:?}"))
}

async fn refused(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut asks = pair.ours.online(number, 0, "asks").await?;
    let mut says = pair.theirs.online(number, 0, "says").await?;
    asks.send(&format!("<presence to='{}' type='subscribe'/>", says.bare())).await?;
    sees(&mut says, &asks.bare(), Some("subscribe")).await?;
    says.send(&format!("<presence to='{}' type='unsubscribed'/>", asks.bare())).await?;
    sees(&mut asks, &says.bare(), Some("unsubscribed")).await?;
    let roster = asks.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
    let item = roster.children().flat_map(Element::children).next().cloned();
    let none = item.as_ref().is_none_or(|item| item.attr("subscription") == Some("none"));
    expect(none, || roster.to_string())
}

async fn directed(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut romeo = pair.ours.online(number, 0, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    romeo
        .send(&format!("<presence to='{}'><status>here</status></presence>", juliet.full()))
        .await?;
    sees(&mut juliet, &romeo.full(), None).await?;
    romeo.cut().await;
    sees(&mut juliet, &romeo.full(), Some("unavailable")).await?;
    Ok(())
}

async fn joins(client: &mut Client, room: &str, nick: &str) -> Result<Element> {
    client.send(&format!("<presence to='{room}/{nick}'><x xmlns='{MUC}'/></presence>")).await?;
    let me = format!("{room}/{nick}");
    let fits = |e: &Element| {
        let user = e.child("x", MUC_USER);
        let is_self = user.is_some_and(|x| {
            x.children().any(|s| s.name == "status" && s.attr("code") == Some("110"))
        });
        e.name == "presence" && e.attr("from") == Some(&me) && (is_self || e.attr("type").is_some())
    };
    let got = client.wait_for_within(patience() * 2, "one's own presence in a room", fits).await?;
    expect(got.attr("type").is_none(), || format!("not let in: {got}"))?;
    Ok(got)
}

/// Three occupants: one of theirs, and two of ours in different regions. All see all, and hear the same in the same order.
async fn room(pair: Pair<'_>) -> Result<()> {
    const EACH: u64 = 10;
    let rooms = pair.theirs.rooms.as_ref().ok_or("they have no rooms")?;
    let number = next_user();
    let room = format!("hall{number}@{rooms}");
    let mut owner = pair.theirs.online(number, 0, "owner").await?;
    joins(&mut owner, &room, "owner").await?;
    let form = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>";
    let made = owner.iq("set", Some(&room), form).await?;
    expect(made.attr("type") == Some("result"), || made.to_string())?;
    let mut romeo = pair.ours.online(number, 0, "romeo").await?;
    let mut mercutio = pair.ours.online(next_user(), 1, "mercutio").await?;
    joins(&mut romeo, &room, "romeo").await?;
    joins(&mut mercutio, &room, "mercutio").await?;
    sees(&mut owner, &format!("{room}/romeo"), None).await?;
    sees(&mut romeo, &format!("{room}/mercutio"), None).await?;
    for serial in 0..EACH {
        for (nick, client) in
            [("owner", &mut owner), ("romeo", &mut romeo), ("mercutio", &mut mercutio)]
        {
            let text = body(nick, serial);
            let stanza =
                format!("<message to='{room}' type='groupchat'><body>{text}</body></message>");
            client.send(&stanza).await?;
        }
    }
    let mut orders = Vec::new();
    for client in [&mut owner, &mut romeo, &mut mercutio] {
        let (mut ledger, mut order) = (Ledger::default(), Vec::new());
        for _ in 0..3 * EACH {
            let text = hears(client, &room).await?;
            ledger.enter(&text);
            order.push(text);
        }
        for nick in ["owner", "romeo", "mercutio"] {
            ledger.verdict(nick, EACH)?;
        }
        orders.push(order);
    }
    expect(orders.iter().all(|order| *order == orders[0]), || "not all heard one order".into())?;
    // Privately, by way of the room.
    let to = format!("{room}/mercutio");
    owner.send(&format!("<message to='{to}' type='chat'><body>psst</body></message>")).await?;
    let heard = hears(&mut mercutio, &format!("{room}/owner")).await?;
    expect(heard == "psst", || heard.clone())?;
    // Who leaves, and who is gone, is seen to.
    romeo.send(&format!("<presence to='{room}/romeo' type='unavailable'/>")).await?;
    sees(&mut owner, &format!("{room}/romeo"), Some("unavailable")).await?;
    mercutio.cut().await;
    sees(&mut owner, &format!("{room}/mercutio"), Some("unavailable")).await?;
    Ok(())
}

/// Somebody of theirs writes to somebody of ours who is away; and both find it in their archives.
async fn archive(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    // An account that was there once.
    let mut before = pair.ours.online(number, 0, "before").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    for client in [&mut before, &mut juliet] {
        let always = format!("<prefs xmlns='{MAM}' default='always'><always/><never/></prefs>");
        let set = client.iq("set", None, &always).await?;
        expect(set.attr("type") == Some("result"), || set.to_string())?;
    }
    before.disconnect().await?;
    let bare = pair.ours.bare(number);
    for serial in 0..3 {
        let text = body("writer", serial);
        juliet
            .send(&format!("<message to='{bare}' type='chat'><body>{text}</body></message>"))
            .await?;
    }
    // Behind them on the same stream: when it is answered, they are there.
    juliet.iq("get", Some(&bare), "<query xmlns='http://jabber.org/protocol/disco#info'/>").await?;
    let mut romeo = pair.ours.online(number, 1, "orchard").await?;
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        ledger.enter(&hears(&mut romeo, &juliet.bare()).await?);
    }
    ledger.verdict("writer", 3)?;
    for (client, with) in [(&mut romeo, juliet.bare()), (&mut juliet, bare)] {
        let query = format!(
            "<query xmlns='{MAM}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>{MAM}</value></field>\
             <field var='with'><value>{with}</value></field></x></query>"
        );
        let done = client.iq("set", None, &query).await?;
        expect(done.attr("type") == Some("result"), || done.to_string())?;
        let found = client.drain();
        let texts: Vec<String> = found
            .iter()
            .filter_map(|e| {
                e.child("result", MAM)?.children().next()?.child("message", CLIENT)?.body()
            })
            .collect();
        let expected: Vec<String> = (0..3).map(|serial| body("writer", serial)).collect();
        expect(texts == expected, || format!("{}'s archive has {texts:?}", client.name))?;
    }
    Ok(())
}

async fn vcards(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut romeo = pair.ours.online(number, 0, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    for turn in [false, true] {
        let (owner, other) = turned(turn, &mut romeo, &mut juliet);
        let name = format!("The one of {}", owner.endpoint.domain);
        let card = format!("<vCard xmlns='vcard-temp'><FN>{name}</FN></vCard>");
        let set = owner.iq("set", None, &card).await?;
        expect(set.attr("type") == Some("result"), || set.to_string())?;
        let got = other.iq("get", Some(&owner.bare()), "<vCard xmlns='vcard-temp'/>").await?;
        let found = got
            .child("vCard", "vcard-temp")
            .and_then(|card| card.child("FN", "vcard-temp"))
            .map(Element::text);
        expect(found.as_deref() == Some(&name), || got.to_string())?;
    }
    Ok(())
}

async fn pings(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut romeo = pair.ours.online(number, 0, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    for (client, there) in [(&mut romeo, pair.theirs), (&mut juliet, pair.ours)] {
        for payload in [
            "<ping xmlns='urn:xmpp:ping'/>",
            "<query xmlns='jabber:iq:version'/>",
            "<time xmlns='urn:xmpp:time'/>",
        ] {
            let answer = client.iq("get", Some(&there.domain), payload).await?;
            expect(answer.attr("type") == Some("result"), || format!("{payload}: {answer}"))?;
            expect(answer.attr("from") == Some(&there.domain), || answer.to_string())?;
        }
        let query = format!("<query xmlns='{DISCO}'/>");
        let info = client.iq("get", Some(&there.domain), &query).await?;
        let identities = info.children().flat_map(Element::children);
        let is_server = |e: &Element| {
            e.name == "identity"
                && e.attr("category") == Some("server")
                && e.attr("type") == Some("im")
        };
        expect(identities.into_iter().any(is_server), || info.to_string())?;
        if let Some(rooms) = &there.rooms {
            let info = client.iq("get", Some(rooms), &query).await?;
            let features = info.children().flat_map(Element::children);
            let has_rooms = features.into_iter().any(|e| e.attr("var") == Some(MUC));
            expect(has_rooms, || info.to_string())?;
        }
    }
    Ok(())
}

async fn iqs(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut romeo = pair.ours.online(number, 1, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    for turn in [false, true] {
        let (asks, answers) = turned(turn, &mut romeo, &mut juliet);
        for type_ in ["get", "set"] {
            let (from, to) = (asks.full(), answers.full());
            let payload = "<query xmlns='urn:example:q'><x y='&lt;&#xe9;'/></query>";
            asks.send(&format!("<iq type='{type_}' id='of mine' to='{to}'>{payload}</iq>")).await?;
            let fits = |e: &Element| e.name == "iq" && e.attr("from") == Some(&from);
            let asked = answers.wait_for_within(patience() * 2, "an iq", fits).await?;
            let same = asked.children().next().map(ToString::to_string);
            let whole = Element::parse(payload)?.to_string();
            expect(same.as_deref() == Some(&*whole), || asked.to_string())?;
            let id = asked.attr("id").unwrap_or_default().to_owned();
            answers.send(&format!("<iq type='result' id='{id}' to='{from}'/>")).await?;
            let fits = |e: &Element| e.name == "iq" && e.attr("id") == Some("of mine");
            let answer = asks.wait_for("an answer", fits).await?;
            let is_it = answer.attr("type") == Some("result") && answer.attr("from") == Some(&to);
            expect(is_it, || answer.to_string())?;
        }
    }
    Ok(())
}

/// The condition of an error.
pub(crate) fn condition(of: &Element) -> String {
    let error = of.child("error", CLIENT);
    let condition = error.and_then(|e| e.children().find(|c| c.ns == STANZAS && c.name != "text"));
    match (error, condition) {
        (Some(error), Some(condition)) => {
            format!("{}/{}", condition.name, error.attr("type").unwrap_or("?"))
        }
        _ => format!("no error: {of}"),
    }
}

/// What comes back of what `pair.ours` sends.
async fn errors(pair: Pair<'_>) -> Result<()> {
    let number = next_user();
    let mut romeo = pair.ours.online(number, 0, "orchard").await?;
    let mut juliet = pair.theirs.online(number, 0, "balcony").await?;
    let there = &pair.theirs.domain;
    let cases: [(String, &[&str]); 4] = [
        (format!("nobody@{there}"), &["service-unavailable/cancel", "item-not-found/cancel"]),
        (
            format!("nobody@{there}/nowhere"),
            &["service-unavailable/cancel", "item-not-found/cancel"],
        ),
        (format!("{}/away", juliet.bare()), &["service-unavailable/cancel"]),
        (
            "somebody@nowhere.lab".into(),
            &["remote-server-not-found/cancel", "remote-server-not-found/wait"],
        ),
    ];
    for (to, expected) in &cases {
        let query = "<query xmlns='urn:example:nothing'/>";
        let answer = romeo.iq("get", Some(to), query).await?;
        let got = condition(&answer);
        expect(expected.contains(&&*got) && answer.attr("from") == Some(to), || {
            format!("an iq to {to}: {answer}")
        })?;
    }
    for to in [&cases[0].0, &cases[3].0] {
        let expected = if to.contains("nowhere.lab") { cases[3].1 } else { cases[0].1 };
        romeo
            .send(&format!(
                "<message to='{to}' id='lost' type='chat'><body>hello?</body></message>"
            ))
            .await?;
        let fits = |e: &Element| e.name == "message" && e.attr("id") == Some("lost");
        let back = romeo.wait_for_within(patience() * 2, "an error", fits).await?;
        let got = condition(&back);
        expect(expected.contains(&&*got) && back.attr("from") == Some(to), || {
            format!("a message to {to}: {back}")
        })?;
    }
    // An error is not answered, and goes through.
    let error = format!(
        "<message type='error' to='{}' id='own'><error type='cancel'><gone xmlns='{STANZAS}'/></error></message>",
        juliet.full()
    );
    romeo.send(&error).await?;
    let fits = |e: &Element| e.name == "message" && e.attr("id") == Some("own");
    let got = juliet.wait_for("the error", fits).await?;
    expect(condition(&got) == "gone/cancel", || got.to_string())?;
    romeo.send(&error.replace(&juliet.full(), &format!("nobody@{there}"))).await?;
    romeo.iq("get", Some(there), "<ping xmlns='urn:xmpp:ping'/>").await?;
    let more = romeo.drain().into_iter().find(|e| e.name == "message");
    expect(more.is_none(), || format!("an error was answered: {more:?}"))
}
