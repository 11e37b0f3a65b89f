//! XEP-0065 as a whole: two sides, an activation, bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use xmpp::stanza::error::Condition;

use super::*;
use crate::testing::{House, stanza};

/// A node whose proxy listens.
struct Place {
    house: House,
    at: usize,
    port: u16,
    _tasks: JoinSet<()>,
}

const ROMEO: &str = "romeo@chat.example/orchard";
const JULIET: &str = "juliet@chat.example/balcony";

impl Place {
    async fn new(more: &str) -> Place {
        let house = House::with(&format!("[proxy]\nlisten = '127.0.0.1:0'\n{more}")).await;
        let mut tasks = JoinSet::new();
        let service = house.node.services.named(NAME).expect("it has a domain");
        service.start(&house.node, &mut tasks).expect("a port");
        let at = house.node.domains.named.services["proxy.chat.example"];
        let place = Place { port: 0, at, house, _tasks: tasks };
        let host = place.says(ROMEO, "type='get'><query xmlns='NS'/>").expect("told");
        let host = host.children().next().and_then(|query| query.children().next().cloned());
        let host = host.expect("a streamhost");
        assert_eq!(
            (host.attr("jid"), host.attr("host")),
            (Some("proxy.chat.example"), Some("127.0.0.1"))
        );
        let port = host.attr("port").and_then(|port| port.parse().ok()).expect("a port");
        Place { port, ..place }
    }

    fn says(&self, from: &str, iq: &str) -> Result<Element, StanzaError> {
        let iq = iq.replace("NS", ns::BYTESTREAMS);
        let iq = stanza(&format!("<iq from='{from}' to='proxy.chat.example' id='1' {iq}</iq>"));
        let mut ctx = Ctx::new(&self.house.node, None);
        self.house.node.services.handle(&mut ctx, self.at, &iq);
        let Some(Action::Reply(reply)) = ctx.actions.pop() else { panic!("no answer") };
        let reply = reply.element();
        match reply.child("error", ns::CLIENT) {
            Some(error) => Err(StanzaError::parse(error)),
            None => Ok(reply),
        }
    }

    fn activates(&self, from: &str, to: &str) -> Result<(), Condition> {
        let iq = format!("type='set'><query xmlns='NS' sid='s1'><activate>{to}</activate></query>");
        self.says(from, &iq).map(drop).map_err(|error| error.condition)
    }

    /// Connects for the bytestream from Romeo to Juliet.
    async fn connects(&self) -> TcpStream {
        let (stream, status) = self.tries().await;
        assert_eq!(status, 0);
        stream
    }

    async fn tries(&self) -> (TcpStream, u8) {
        let name = digest("s1", &Jid::parse(ROMEO).expect("a JID"), JULIET);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
        stream.write_all(&[5, 1, 0]).await.expect("sent");
        let mut method = [0; 2];
        stream.read_exact(&mut method).await.expect("a method");
        let request = [&[5, 1, 0, 3, 40], name.as_bytes(), &[0, 0]].concat();
        stream.write_all(&request).await.expect("sent");
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).await.expect("a reply");
        if reply[1] == 0 {
            let mut rest = [0; 37];
            stream.read_exact(&mut rest).await.expect("the rest");
        }
        (stream, reply[1])
    }
}

async fn hears(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("bytes, and an end");
    text
}

#[tokio::test]
async fn two_sides_are_joined_and_each_ends_by_itself() {
    let place = Place::new("").await;
    assert_eq!(place.activates(ROMEO, JULIET), Err(Condition::ItemNotFound));
    let mut juliet = place.connects().await;
    assert_eq!(place.activates(ROMEO, JULIET), Err(Condition::NotAllowed));
    let romeo = place.connects().await;
    assert_eq!(place.tries().await.1, 2, "a third");
    drop(romeo);
    let mut romeo = place.connects().await;
    romeo.write_all(b"before").await.expect("sent");
    assert_eq!(place.activates(JULIET, ROMEO), Err(Condition::ItemNotFound));
    assert_eq!(place.activates(ROMEO, "Juliet@CHAT.example/balcony"), Ok(()));
    romeo.write_all(b" and after").await.expect("sent");
    romeo.shutdown().await.expect("ended");
    assert_eq!(hears(&mut juliet).await, "before and after");
    juliet.write_all(b"thanks").await.expect("sent");
    juliet.shutdown().await.expect("ended");
    assert_eq!(hears(&mut romeo).await, "thanks");
    assert_eq!(place.activates(ROMEO, JULIET), Err(Condition::ItemNotFound));
}

#[tokio::test]
async fn what_is_not_activated_is_closed() {
    let place = Place::new("activate_within = '1s'").await;
    let mut juliet = place.connects().await;
    assert_eq!(hears(&mut juliet).await, "");
    assert_eq!(place.activates(ROMEO, JULIET), Err(Condition::ItemNotFound));
    // One that says nothing at all.
    let mut silent = TcpStream::connect(("127.0.0.1", place.port)).await.expect("it listens");
    assert_eq!(hears(&mut silent).await, "");
}

#[tokio::test]
async fn an_account_has_only_so_many_and_a_bytestream_only_so_much() {
    let place = Place::new("streams_per_account_max = 1\nstream_bytes_max = '1KiB'").await;
    let (mut juliet, mut romeo) = (place.connects().await, place.connects().await);
    assert_eq!(place.activates(ROMEO, JULIET), Ok(()));
    let again = (place.connects().await, place.connects().await);
    assert_eq!(place.activates(ROMEO, JULIET), Err(Condition::ResourceConstraint));
    romeo.write_all(&[b'x'; 1024]).await.expect("sent");
    let mut bytes = [0; 1024];
    juliet.read_exact(&mut bytes).await.expect("as much as there may be");
    romeo.write_all(b"y").await.expect("sent");
    assert_eq!(juliet.read(&mut bytes).await.unwrap_or(0), 0, "closed");
    place.house.until("there is room again", || place.activates(ROMEO, JULIET) == Ok(())).await;
    drop(again);
}

#[tokio::test]
async fn a_silent_bytestream_is_closed_and_connections_are_counted() {
    let place = Place::new("silent_after = '1s'\nconnections_max = 2").await;
    let (mut juliet, _romeo) = (place.connects().await, place.connects().await);
    let mut third = TcpStream::connect(("127.0.0.1", place.port)).await.expect("the kernel has it");
    assert_eq!(hears(&mut third).await, "", "closed at once");
    assert_eq!(place.activates(ROMEO, JULIET), Ok(()));
    assert_eq!(hears(&mut juliet).await, "");
}

#[tokio::test]
async fn an_address_has_only_so_many_that_are_not_activated() {
    let place = Place::new("waiting_per_address_max = 2").await;
    let sides = (place.connects().await, place.connects().await);
    let mut third = TcpStream::connect(("127.0.0.1", place.port)).await.expect("the kernel has it");
    assert_eq!(hears(&mut third).await, "", "closed at once");
    assert_eq!(place.activates(ROMEO, JULIET), Ok(()));
    drop((place.connects().await, sides));
}

#[tokio::test]
async fn requests_are_refused_as_the_xep_says() {
    let place = Place::new("").await;
    let condition = |from: &str, iq: &str| place.says(from, iq).expect_err(iq).condition;
    let get = "type='get'><query xmlns='NS'/>";
    assert_eq!(condition("tybalt@other.example/x", get), Condition::Forbidden);
    let set = |inner: &str| format!("type='set'><query xmlns='NS' {inner}</query>");
    let asks = [
        (set(">"), Condition::BadRequest),
        (set("sid='s1'>"), Condition::BadRequest),
        (set(&format!("><activate>{JULIET}</activate>")), Condition::BadRequest),
        (set("sid='s1'><activate>@</activate>"), Condition::JidMalformed),
        (
            set(&format!("sid='{}'><activate>{JULIET}</activate>", "s".repeat(129))),
            Condition::BadRequest,
        ),
        (
            "type='get'><query xmlns='urn:example:unknown'/>".to_owned(),
            Condition::ServiceUnavailable,
        ),
    ];
    for (iq, expected) in asks {
        assert_eq!(condition(ROMEO, &iq), expected, "{iq}");
    }
    let info = "type='get'><query xmlns='http://jabber.org/protocol/disco#info'/>";
    let info = place.says(ROMEO, info).expect("told");
    let info = Info::parse(info.children().next().expect("info")).expect("info");
    assert_eq!(info.identities[0].category, "proxy");
    assert!(info.features.iter().any(|feature| feature == ns::BYTESTREAMS));
}
