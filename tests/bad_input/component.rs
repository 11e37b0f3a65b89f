//! A and H, streams of components (XEP-0114): the opening, the handshake, and what comes behind it. No rows: a component signs in otherwise, and each of its
//! stanzas says from whom it is.

use crate::expect;
use crate::state::House;
use pangaea_tests::client::{Client, Endpoint, Result, Security, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::platform::Door;
use pangaea_tests::xml::{CLIENT, Element, STREAM};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// Number of the row, what it is, what is said, and the answers that are right.
type Row = (&'static str, &'static str, Vec<u8>, &'static [&'static str]);

fn open(to: &str) -> String {
    format!("<stream:stream xmlns='jabber:component:accept' xmlns:stream='{STREAM}'{to}>")
}

/// What is said first. `HOST` is a domain that may be.
fn fresh() -> Vec<Row> {
    let rows: Vec<(&str, &str, String, &[&str])> = vec![
        (
            "B-001",
            "an HTTP request",
            "GET / HTTP/1.1\r\n\r\n".into(),
            &["SE not-well-formed", "SE bad-format"],
        ),
        (
            "B-008",
            "a wrong streams namespace",
            open(" to='HOST'").replace(STREAM, "http://wrong.example/"),
            &["SE invalid-namespace"],
        ),
        (
            "B-010",
            "the content namespace of clients",
            open(" to='HOST'").replace("component:accept", "client"),
            &["SE invalid-namespace"],
        ),
        (
            "B-010",
            "the content namespace of servers",
            open(" to='HOST'").replace("component:accept", "server"),
            &["SE invalid-namespace"],
        ),
        (
            "B-011",
            "a root that is no stream",
            open(" to='HOST'").replace("stream:stream ", "stream:steam "),
            &["SE bad-format", "SE invalid-namespace"],
        ),
        ("B-016", "nobody named", open(""), &["SE improper-addressing", "SE host-unknown"]),
        ("B-017", "a domain of others", open(" to='verona.example'"), &["SE host-unknown"]),
        (
            "B-019",
            "a domain that is none",
            open(" to='a@b@c'"),
            &["SE host-unknown", "SE improper-addressing"],
        ),
        (
            "B-019",
            "an address under a domain",
            open(" to='bot@HOST'"),
            &["SE host-unknown", "SE improper-addressing"],
        ),
        (
            "B-217",
            "the domain of the server",
            open(" to='DOMAIN'"),
            &["SE conflict", "SE host-unknown"],
        ),
        (
            "B-217",
            "the domain of a service",
            open(" to='upload.DOMAIN'"),
            &["SE conflict", "SE host-unknown"],
        ),
        (
            "B-217",
            "the domain of a region",
            open(" to='eu.DOMAIN'"),
            &["SE conflict", "SE host-unknown"],
        ),
        (
            "B-026",
            "a document type",
            "<!DOCTYPE stream><stream:stream>".into(),
            &["SE restricted-xml"],
        ),
        (
            "0114 §3",
            "a wrong handshake",
            open(" to='HOST'") + "<handshake>0000</handshake>",
            &["SE not-authorized"],
        ),
        (
            "0114 §3",
            "an empty handshake",
            open(" to='HOST'") + "<handshake/>",
            &["SE not-authorized"],
        ),
        (
            "0114 §3",
            "a stanza before the handshake",
            open(" to='HOST'") + "<message from='HOST' to='x@DOMAIN'/>",
            &["SE not-authorized"],
        ),
        (
            "B-053",
            "a handshake too long",
            open(" to='HOST'") + "<handshake>" + &"0".repeat(64 << 10) + "</handshake>",
            &["SE policy-violation"],
        ),
        (
            "B-062",
            "only the end of the stream",
            open(" to='HOST'") + "</stream:stream>",
            &["closed"],
        ),
    ];
    let mut rows: Vec<Row> = rows
        .into_iter()
        .map(|(id, what, text, right)| (id, what, text.into_bytes(), right))
        .collect();
    rows.push((
        "B-002",
        "bytes that are no text",
        vec![0x80, 0x01, 0xff, 0x3c],
        &["SE not-well-formed", "SE bad-format"],
    ));
    rows
}

/// What is said behind the handshake. `OWN` is the component.
fn known() -> Vec<Row> {
    let to_self = |inside: &str| format!("<message from='OWN' to='OWN' id='x'>{inside}</message>");
    let laughs = crate::xml::laughs();
    let attributes: String = (0..80_000).map(|n| format!(" a{n}=''")).collect();
    let rows: Vec<(&str, &str, String, &[&str])> = vec![
        (
            "B-007",
            "an XML declaration between stanzas",
            "<?xml version='1.0'?>".into(),
            &["SE restricted-xml", "SE not-well-formed"],
        ),
        ("B-025", "a processing instruction", "<?php echo 1 ?>".into(), &["SE restricted-xml"]),
        ("B-028", "entities of entities", laughs, &["SE restricted-xml"]),
        ("6120 §11.1", "a comment", "<!-- psst -->".into(), &["SE restricted-xml"]),
        (
            "B-032",
            "an entity that nobody declared",
            to_self("<body>&nbsp;</body>"),
            &["SE restricted-xml", "SE not-well-formed"],
        ),
        (
            "B-034",
            "a reference to a control character",
            to_self("<body>&#x1;</body>"),
            &["SE not-well-formed"],
        ),
        ("B-038", "a CDATA section", to_self("<body><![CDATA[a < b]]></body>"), &["message a < b"]),
        (
            "B-040",
            "a wrong end tag",
            "<message><body>x</message></body>".into(),
            &["SE not-well-formed"],
        ),
        ("B-041", "an attribute twice", "<message id='1' id='2'/>".into(), &["SE not-well-formed"]),
        (
            "B-043",
            "a prefix that is not bound",
            to_self("<p:x/>"),
            &["SE not-well-formed", "SE bad-namespace-prefix"],
        ),
        (
            "B-046",
            "an unknown element",
            "<wherefore xmlns='urn:x'/>".into(),
            &["SE unsupported-stanza-type"],
        ),
        ("B-046", "a second handshake", "<handshake/>".into(), &["SE unsupported-stanza-type"]),
        (
            "B-047",
            "text between stanzas",
            "hello".into(),
            &["SE bad-format", "SE invalid-xml", "SE not-well-formed"],
        ),
        (
            "B-049",
            "a hundred thousand children",
            to_self(&"<a/>".repeat(100_000)),
            &["SE policy-violation"],
        ),
        (
            "B-050",
            "eighty thousand attributes",
            format!("<message{attributes}/>"),
            &["SE policy-violation"],
        ),
        (
            "B-053",
            "a value of five megabytes",
            format!("<message id='{}'/>", "x".repeat(5 << 20)),
            &["SE policy-violation"],
        ),
        (
            "B-056",
            "a stanza of 9,999 bytes",
            to_self(&format!("<body>{}</body>", "x".repeat(9_900))),
            &["message x…"],
        ),
        ("B-061", "a space between stanzas", " \n ".into(), &["alive"]),
        (
            "B-062",
            "a stanza behind the end of the stream",
            "</stream:stream><message from='OWN' to='OWN'/>".into(),
            &["closed"],
        ),
        (
            "B-130",
            "to what is no address",
            "<iq from='OWN' to='@' id='x' type='get'><a xmlns='b'/></iq>".into(),
            &["ST jid-malformed/modify"],
        ),
        (
            "B-143",
            "an iq without an id",
            "<iq from='OWN' to='DOMAIN' type='get'><a xmlns='b'/></iq>".into(),
            &["ST bad-request/modify"],
        ),
        (
            "B-145",
            "an iq with an unknown payload",
            "<iq from='OWN' to='DOMAIN' id='x' type='get'><a xmlns='b'/></iq>".into(),
            &["ST service-unavailable/cancel"],
        ),
        (
            "B-218",
            "from another domain",
            "<message from='x@DOMAIN' to='OWN'/>".into(),
            &["SE invalid-from"],
        ),
        (
            "B-218",
            "from a domain below its own",
            "<message from='x@a.OWN' to='OWN'/>".into(),
            &["SE invalid-from"],
        ),
        (
            "B-218",
            "from what is no address",
            "<message from='@' to='OWN'/>".into(),
            &["SE invalid-from"],
        ),
        (
            "0114 §3",
            "from nobody",
            "<message to='OWN'/>".into(),
            &["SE improper-addressing", "SE invalid-from"],
        ),
        (
            "0114 §3",
            "to nobody",
            "<message from='OWN'/>".into(),
            &["SE improper-addressing", "ST bad-request/modify"],
        ),
        (
            "6120 §4.9.1.1",
            "a stream error of its own",
            format!("<stream:error><undefined-condition xmlns='{STREAMS}'/></stream:error>"),
            &["closed"],
        ),
    ];
    rows.into_iter().map(|(id, what, text, right)| (id, what, text.into_bytes(), right)).collect()
}

pub(crate) fn tests<'a>(house: &'a House<'a>) -> Vec<Test<'a>> {
    let at_the_door = fresh().into_iter().map(|(id, what, says, right)| {
        Test::new(format!("component::{id} {what}"), move || at_the_door(house, says, right))
    });
    let inside = known().into_iter().map(|(id, what, says, right)| {
        Test::new(format!("component::{id} {what}"), move || inside(house, says, right))
    });
    let mut tests: Vec<Test<'a>> = at_the_door.chain(inside).collect();
    tests.push(Test::new("component::B-217 a name that is connected", move || twice(house)));
    tests.push(Test::new("component::B-152 errors between two", move || errors(house)));
    tests
}

fn endpoint(house: &House<'_>) -> Result<Endpoint> {
    let endpoint = house.platform.endpoint(0, Door::StartTls)?;
    let port = house.platform.port(0, 347);
    Ok(Endpoint { port, security: Security::Plain, ..endpoint })
}

/// A component that nobody else is.
fn component(house: &House<'_>) -> Result<Client> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("bad{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut client = Client::new(&name, endpoint(house)?, &name, "", None);
    client.component = Some("wonderland".into());
    Ok(client)
}

fn fill(says: Vec<u8>, own: &str, domain: &str) -> Vec<u8> {
    match String::from_utf8(says) {
        Ok(text) => {
            let text = text.replace("OWN", own).replace("HOST", &format!("bad.{domain}"));
            text.replace("DOMAIN", domain).into_bytes()
        }
        Err(raw) => raw.into_bytes(),
    }
}

async fn at_the_door(house: &House<'_>, says: Vec<u8>, right: &[&str]) -> Result<()> {
    let endpoint = endpoint(house)?;
    let tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await;
    let mut tcp = tcp.map_err(|e| e.to_string())?;
    let _ = tcp.write_all(&fill(says, "", &endpoint.domain)).await;
    let mut heard = Vec::new();
    let read = timeout(patience(), tcp.read_to_end(&mut heard)).await;
    read.map_err(|_| format!("not closed: {}", String::from_utf8_lossy(&heard)))?
        .map_err(|e| e.to_string())?;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    expect(heard.contains("<stream:stream ") && heard.ends_with("</stream:stream>"), || {
        format!("no whole stream: {heard}")
    })?;
    let error =
        heard.split("<stream:error><").nth(1).and_then(|rest| rest.split([' ', '/']).next());
    let word = error.map_or_else(|| "closed".to_owned(), |condition| format!("SE {condition}"));
    expect(right.contains(&word.as_str()), || format!("expected {right:?}, got {heard}"))
}

async fn inside(house: &House<'_>, says: Vec<u8>, right: &[&str]) -> Result<()> {
    let mut client = component(house)?;
    client.connect().await?;
    let (own, domain) = (client.bare(), client.endpoint.domain.clone());
    let says = String::from_utf8(fill(says, &own, &domain)).map_err(|e| e.to_string())?;
    let _ = client.send_raw(&says).await;
    let marker = format!(
        "<iq type='get' id='marker' from='{own}' to='{domain}'><ping xmlns='urn:xmpp:ping'/></iq>"
    );
    let _ = client.send_raw(&marker).await;
    let mut heard = None;
    let word = loop {
        match client.receive().await {
            Ok(element) if element.attr("id") == Some("marker") => match heard {
                None => break "alive".to_owned(),
                Some(word) => break word,
            },
            Ok(element) => heard = Some(word(&element)),
            Err(_) if client.ended_cleanly() => break heard.unwrap_or_else(|| "closed".into()),
            Err(e) => return Err(e),
        }
    };
    expect(right.contains(&word.as_str()), || format!("expected {right:?}, got {word}"))
}

fn word(element: &Element) -> String {
    let condition = |of: &Element, ns: &str| {
        of.children()
            .find(|child| child.ns == ns)
            .map_or_else(String::new, |child| child.name.clone())
    };
    if element.is("error", STREAM) {
        return format!("SE {}", condition(element, STREAMS));
    }
    match element.child("error", CLIENT) {
        Some(error) => {
            let kind = error.attr("type").unwrap_or("?");
            format!("ST {}/{kind}", condition(error, STANZAS))
        }
        None => {
            let body = element.body().unwrap_or_default();
            let long = body.len() > 100;
            format!("{} {}", element.name, if long { format!("{}…", &body[..1]) } else { body })
        }
    }
}

async fn twice(house: &House<'_>) -> Result<()> {
    let mut first = component(house)?;
    first.connect().await?;
    let mut second = Client::new("second", endpoint(house)?, &first.user, "", None);
    second.component = Some("wonderland".into());
    let refused = second.connect().await.err().unwrap_or_default();
    expect(refused.contains("<conflict "), || format!("got {refused:?}"))?;
    // And the first does not feel it.
    let own = first.bare();
    first.send(&format!("<message from='{own}' to='{own}' id='x'/>")).await?;
    first.wait_for("its own word", |e| e.attr("id") == Some("x")).await.map(|_| ())
}

/// Whatever is said in answer to an error is said by a component itself.
async fn errors(house: &House<'_>) -> Result<()> {
    let (mut one, mut other) = (component(house)?, component(house)?);
    one.connect().await?;
    let (from, to) = (one.bare(), other.bare());
    let error = format!("<error type='cancel'><service-unavailable xmlns='{STANZAS}'/></error>");
    for kind in ["message", "iq", "presence"] {
        // Nobody is there yet, and nobody is told.
        one.send(&format!(
            "<{kind} from='{from}' to='{to}' type='error' id='{kind}'>{error}</{kind}>"
        ))
        .await?;
    }
    // What asks and finds nobody is answered, and comes behind them: whatever they waited for is over by then.
    let domain = one.endpoint.domain.clone();
    one.send(&format!(
        "<iq type='get' id='p' from='{from}' to='{to}'><ping xmlns='urn:xmpp:ping'/></iq>"
    ))
    .await?;
    let first = one.receive().await?;
    expect(first.attr("id") == Some("p"), || format!("an answer to an error: {first}"))?;
    other.connect().await?;
    one.send(&format!("<message from='{from}' to='{to}' type='error' id='e'>{error}</message>"))
        .await?;
    let got = other.receive().await?;
    expect(got.attr("id") == Some("e"), || format!("got {got}"))?;
    one.send(&format!(
        "<iq type='get' id='q' from='{from}' to='{domain}'><ping xmlns='urn:xmpp:ping'/></iq>"
    ))
    .await?;
    let next = one.receive().await?;
    expect(next.attr("id") == Some("q"), || format!("an answer to an error: {next}"))
}
