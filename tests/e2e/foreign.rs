//! Promises shown with `tokio-xmpp` from crates.io, a client library that this project did not write.
//!
//! It can be given its own way to connect (`ServerConnector`), so it trusts the test authority and its line can be cut
//! under it; it negotiates, authenticates, binds, turns on stream management and resumes by itself.

use crate::place::Place;
use futures_util::StreamExt;
use pangaea_tests::client::{Endpoint, Result, Security, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::ledger::{Ledger, body};
use pangaea_tests::platform::Platform;
use pangaea_tests::reference::Which;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_xmpp::Stanza;
use tokio_xmpp::connect::ServerConnector;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::message::{Lang, Message, MessageType};
use tokio_xmpp::parsers::presence::{Presence, Type as PresenceType};
use tokio_xmpp::parsers::roster::{Ask, Roster, Subscription};
use tokio_xmpp::stanzastream::{Event, StanzaStream, StreamEvent};
use tokio_xmpp::xmlstream::{PendingFeaturesRecv, StreamHeader, Timeouts, initiate_stream};

pub(crate) fn steady(place: &Place) -> Vec<Test<'_>> {
    let mut resumption =
        Test::new("tokio_xmpp::resumption_after_cuts", || resumption_after_cuts(place));
    // What was not acknowledged comes behind what was sent meanwhile there.
    resumption.ignored = (Which::wanted() == Ok(Some(Which::Ejabberd)))
        .then(|| "not on ejabberd: 23.01 does not keep the order over a resumption".to_owned());
    vec![
        Test::new("tokio_xmpp::messages_in_order", || messages_in_order(place)),
        Test::new("tokio_xmpp::offline_in_another_region", || offline_in_another_region(place)),
        Test::new("tokio_xmpp::subscription_and_presence", || subscription_and_presence(place)),
        resumption,
    ]
}

pub(crate) fn breaking<'a>(place: &'a Place, platform: &'a Platform) -> Vec<Test<'a>> {
    vec![Test::new("tokio_xmpp::bridge_reset_under_traffic", || bridge_reset(place, platform))]
}

const QUEUE: usize = 8192;

/// Connects to a port on loopback, trusts what the endpoint trusts, and can be cut.
#[derive(Clone)]
struct Line {
    endpoint: Endpoint,
    /// The task that carries the bytes: aborting it ends both connections at once.
    carrier: Arc<Mutex<Option<tokio::task::AbortHandle>>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line to port {}", self.endpoint.port)
    }
}

impl Line {
    fn cut(&self) {
        if let Some(carrier) = self.carrier.lock().expect("no one panics while cutting").take() {
            carrier.abort();
        }
    }

    async fn tls(&self) -> std::io::Result<TlsStream<DuplexStream>> {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let config = match &self.endpoint.security {
            Security::Plain => return Err(std::io::Error::other("this test wants TLS")),
            Security::Direct(config) => config.clone(),
            Security::StartTls(config) => {
                // The library's own STARTTLS trusts no private authority: the three lines before TLS are said here.
                let open = format!(
                    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                     xmlns:stream='http://etherx.jabber.org/streams' to='{}' version='1.0'>\
                     <starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
                    self.endpoint.domain
                );
                tcp.write_all(open.as_bytes()).await?;
                let mut said = Vec::new();
                while !said.windows(9).any(|w| w == b"<proceed ") || said.last() != Some(&b'>') {
                    said.push(tcp.read_u8().await?);
                }
                config.clone()
            }
        };
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let carrying = tokio::spawn(async move {
            let _ = tokio::io::copy_bidirectional(&mut theirs, &mut tcp).await;
        });
        *self.carrier.lock().expect("no one panics while cutting") = Some(carrying.abort_handle());
        let name = rustls::pki_types::ServerName::try_from(self.endpoint.domain.clone())
            .map_err(std::io::Error::other)?;
        TlsConnector::from(config).connect(name, ours).await
    }
}

impl ServerConnector for Line {
    type Stream = BufStream<TlsStream<DuplexStream>>;

    async fn connect(
        &self,
        jid: &Jid,
        ns: &'static str,
        timeouts: Timeouts,
    ) -> std::result::Result<
        (PendingFeaturesRecv<Self::Stream>, sasl::common::ChannelBinding),
        tokio_xmpp::Error,
    > {
        let tls = self.tls().await?;
        let mut binding = sasl::common::ChannelBinding::None;
        let (_, connection) = tls.get_ref();
        if connection.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3)
            && let Ok(data) =
                connection.export_keying_material(vec![0u8; 32], b"EXPORTER-Channel-Binding", None)
        {
            binding = sasl::common::ChannelBinding::TlsExporter(data);
        }
        let header = StreamHeader { to: Some(jid.domain().as_str().into()), from: None, id: None };
        Ok((initiate_stream(BufStream::new(tls), ns, header, timeouts).await?, binding))
    }
}

/// A session of the foreign library, run by a task of its own so that sending never waits for receiving.
///
/// It stands on the library's `StanzaStream` with deep queues: with the shallow ones of its `Client`, a reader that falls
/// behind its 16 stanzas is sometimes not woken again, though all bytes have come (seen on the wire with 6.0.0).
struct Peer {
    bare: String,
    full: String,
    line: Line,
    outgoing: mpsc::UnboundedSender<Out>,
    incoming: mpsc::UnboundedReceiver<Stanza>,
    task: tokio::task::JoinHandle<()>,
}

enum Out {
    Stanza(Box<Stanza>),
    /// A request for the roster; the payload of the result goes there.
    Roster(oneshot::Sender<Roster>),
    End(oneshot::Sender<()>),
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    async fn online(place: &Place, number: u32, region: &str, resource: &str) -> Result<Self> {
        let bare = format!("user{number}@{}", place.domain);
        let full = format!("{bare}/{resource}");
        let jid = Jid::new(&full).map_err(|e| e.to_string())?;
        let line = Line { endpoint: place.endpoint(region).clone(), carrier: Arc::default() };
        let mut stream = StanzaStream::new_c2s(
            line.clone(),
            jid,
            format!("pw{number}"),
            Timeouts::tight(),
            QUEUE,
        );
        let deadline = tokio::time::Instant::now() + patience() * 2;
        loop {
            match tokio::time::timeout_at(deadline, stream.next()).await {
                Ok(Some(Event::Stream(StreamEvent::Reset { .. }))) => break,
                Ok(Some(_)) => {}
                Ok(None) => return Err(format!("{full} has no stream any more")),
                Err(_) => return Err(format!("{full} is not online in {region}")),
            }
        }
        let (outgoing, sending) = mpsc::unbounded_channel();
        let (received, incoming) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(stream, sending, received));
        let peer = Self { bare, full, line, outgoing, incoming, task };
        peer.send(Presence::available().into());
        Ok(peer)
    }

    fn send(&self, stanza: Stanza) {
        let _ = self.outgoing.send(Out::Stanza(Box::new(stanza)));
    }

    fn say(&self, to: &str, text: String) -> Result<()> {
        let mut message = Message::new(Some(Jid::new(to).map_err(|e| e.to_string())?));
        message.type_ = MessageType::Chat;
        message.bodies.insert(Lang::default(), text);
        self.send(message.into());
        Ok(())
    }

    async fn roster(&self) -> Result<Roster> {
        let (answer, answered) = oneshot::channel();
        let _ = self.outgoing.send(Out::Roster(answer));
        let answered = tokio::time::timeout(patience() * 2, answered).await;
        answered
            .map_err(|_| format!("{} got no roster", self.full))?
            .map_err(|_| "the session ended".to_owned())
    }

    /// A round trip to the server.
    async fn settled(&self) -> Result<()> {
        self.roster().await.map(|_| ())
    }

    async fn end(self) -> Result<()> {
        let (done, ended) = oneshot::channel();
        let _ = self.outgoing.send(Out::End(done));
        let waited = tokio::time::timeout(patience() * 2, ended).await;
        waited.map_err(|_| format!("{} cannot leave", self.full))?.map_err(|e| e.to_string())
    }

    async fn next(&mut self, deadline: Instant, what: &str) -> Result<Stanza> {
        match tokio::time::timeout_at(deadline.into(), self.incoming.recv()).await {
            Ok(Some(stanza)) => Ok(stanza),
            Ok(None) => Err(format!("{}'s session is gone, waiting for {what}", self.full)),
            Err(_) => Err(format!("{} waited for {what}", self.full)),
        }
    }

    /// Enters messages into a ledger until so many of a sender are there.
    async fn hear(
        &mut self,
        ledger: &mut Ledger,
        sender: &str,
        count: usize,
        seconds: u64,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while ledger.count(sender) < count {
            let what = format!("{count} messages of {sender}, {} have come", ledger.count(sender));
            if let Stanza::Message(message) = self.next(deadline, &what).await?
                && let Some(text) = message.bodies.values().next()
            {
                ledger.enter(text);
            }
        }
        Ok(())
    }

    /// Waits for a presence of a type from an address.
    async fn see(&mut self, type_: PresenceType, from: &str) -> Result<()> {
        let deadline = Instant::now() + patience() * 2;
        let what = format!("presence {type_:?} of {from}");
        loop {
            if let Stanza::Presence(presence) = self.next(deadline, &what).await?
                && presence.type_ == type_
                && presence.from.as_ref().is_some_and(|f| f.as_str() == from)
            {
                return Ok(());
            }
        }
    }
}

async fn drive(
    mut stream: StanzaStream,
    mut sending: mpsc::UnboundedReceiver<Out>,
    received: mpsc::UnboundedSender<Stanza>,
) {
    let mut asked: BTreeMap<String, oneshot::Sender<Roster>> = BTreeMap::new();
    let mut asks = 0;
    loop {
        tokio::select! {
            out = sending.recv() => match out {
                Some(Out::Stanza(stanza)) => {
                    stream.send(stanza).await;
                }
                Some(Out::Roster(answer)) => {
                    asks += 1;
                    let id = format!("roster-{asks}");
                    let request = Roster { ver: None, items: Vec::new() };
                    stream.send(Box::new(Iq::from_get(id.clone(), request).into())).await;
                    asked.insert(id, answer);
                }
                Some(Out::End(done)) => {
                    stream.close().await;
                    let _ = done.send(());
                    return;
                }
                None => return,
            },
            event = stream.next() => match event {
                Some(Event::Stanza(Stanza::Iq(Iq::Result { id, payload, .. }))) => {
                    let roster = payload.and_then(|p| Roster::try_from(p).ok());
                    if let (Some(answer), Some(roster)) = (asked.remove(&id), roster) {
                        let _ = answer.send(roster);
                    }
                }
                Some(Event::Stanza(stanza)) => {
                    let _ = received.send(stanza);
                }
                Some(Event::Stream(_)) => {}
                None => return,
            },
        }
    }
}

async fn messages_in_order(place: &Place) -> Result<()> {
    const COUNT: u64 = 500;
    let mut one = Peer::online(place, 30, "us", "one").await?;
    let mut other = Peer::online(place, 31, "ap", "other").await?;
    if place.control.is_none() {
        // At other servers what waits for presence may come behind what needs none.
        one.settled().await?;
        other.settled().await?;
    }
    for number in 0..COUNT {
        one.say(if number % 2 == 0 { &other.full } else { &other.bare }, body("one", number))?;
        other.say(if number % 3 == 0 { &one.bare } else { &one.full }, body("other", number))?;
    }
    let (mut heard, mut heard_back) = (Ledger::default(), Ledger::default());
    other.hear(&mut heard, "one", 500, 60).await?;
    one.hear(&mut heard_back, "other", 500, 60).await?;
    heard.verdict("one", COUNT)?;
    heard_back.verdict("other", COUNT)
}

async fn offline_in_another_region(place: &Place) -> Result<()> {
    let writer = Peer::online(place, 32, "ap", "writer").await?;
    for number in 0..30 {
        writer.say(&format!("user33@{}", place.domain), body("writer", number))?;
    }
    writer.settled().await?;
    let mut reader = Peer::online(place, 33, "eu", "reader").await?;
    let mut heard = Ledger::default();
    reader.hear(&mut heard, "writer", 30, 30).await?;
    heard.verdict("writer", 30)
}

async fn subscription_and_presence(place: &Place) -> Result<()> {
    let mut one = Peer::online(place, 34, "eu", "one").await?;
    let mut other = Peer::online(place, 35, "us", "other").await?;
    one.settled().await?;
    other.settled().await?;
    let to = |jid: &str, type_| -> Result<Stanza> {
        Ok(Presence::new(type_).with_to(Jid::new(jid).map_err(|e| e.to_string())?).into())
    };
    let (a, b) = (one.bare.clone(), other.bare.clone());
    one.send(to(&b, PresenceType::Subscribe)?);
    other.see(PresenceType::Subscribe, &a).await?;
    other.send(to(&a, PresenceType::Subscribed)?);
    // Presence may overtake the roster's replica: the change is there when it has been pushed.
    let deadline = Instant::now() + patience() * 2;
    let subscription = loop {
        if let Stanza::Iq(Iq::Set { payload, .. }) = one.next(deadline, "a roster push").await?
            && let Ok(push) = Roster::try_from(payload)
            && let Some(item) = push.items.iter().find(|i| i.jid.as_str() == b)
            && item.ask != Ask::Subscribe
        {
            break item.subscription.clone();
        }
    };
    let roster = one.roster().await?;
    let item = roster
        .items
        .iter()
        .find(|i| i.jid.as_str() == b)
        .ok_or("the contact is not in the roster")?;
    if subscription != Subscription::To || item.subscription != Subscription::To {
        return Err(format!("pushed {subscription:?}, read {:?}", item.subscription));
    }
    let gone = other.full.clone();
    other.end().await?;
    one.see(PresenceType::Unavailable, &gone).await
}

async fn resumption_after_cuts(place: &Place) -> Result<()> {
    const COUNT: u64 = 300;
    let writer = Peer::online(place, 36, "eu", "writer").await?;
    let mut reader = Peer::online(place, 37, "ap", "reader").await?;
    let mut heard = Ledger::default();
    for turn in 0..3u64 {
        for number in turn * 100..turn * 100 + 50 {
            writer.say(&reader.full, body("writer", number))?;
        }
        let so_far = usize::try_from(turn * 100 + 25).expect("small");
        reader.hear(&mut heard, "writer", so_far, 30).await?;
        reader.line.cut();
        for number in turn * 100 + 50..turn * 100 + 100 {
            writer.say(&reader.full, body("writer", number))?;
        }
        writer.settled().await?;
    }
    reader.hear(&mut heard, "writer", usize::try_from(COUNT).expect("small"), 60).await?;
    reader.settled().await?;
    heard.verdict("writer", COUNT)
}

/// The writer is never more than 200 ahead of the reader, so that every reset falls into the conversation.
async fn bridge_reset(place: &Place, platform: &Platform) -> Result<()> {
    const COUNT: u64 = 2000;
    let writer = Peer::online(place, 38, "us", "writer").await?;
    let mut reader = Peer::online(place, 39, "ap", "reader").await?;
    let mut heard = Ledger::default();
    for turn in 0..10u64 {
        for number in turn * 200..(turn + 1) * 200 {
            writer.say(&reader.full, body("writer", number))?;
        }
        let half = usize::try_from(turn * 200 + 50).expect("small");
        reader.hear(&mut heard, "writer", half, 60).await?;
        let (from, to) = if turn % 2 == 0 { ("us", "ap") } else { ("ap", "us") };
        platform.reset(from, to).await?;
    }
    reader.hear(&mut heard, "writer", usize::try_from(COUNT).expect("small"), 60).await?;
    reader.settled().await?;
    heard.verdict("writer", COUNT)
}
