//! Negotiation over bytes: the machines behind real framers, byte by byte, and whatever else a peer may throw at them.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use xmpp::sasl::scram::{Client, ClientBinding};
use xmpp::sasl::{
    ChannelBindings, Credentials, Hash, Mechanism, Password, ScramKeys, Secret, Tokens, Verdict,
};
use xmpp::stanza::error::StanzaError;
use xmpp::stream::header::{Framing, Opening, StreamHeader};
use xmpp::stream::negotiate::{Inline, Input, Offer, Output, Receiving, Tls, TlsPolicy};
use xmpp::xml::framer::{Framer, Limits, Scan};
use xmpp::{Element, FullJid, StreamError, ns};

/// What arrives at one end, found byte by byte.
struct End {
    framer: Framer,
    buffer: Vec<u8>,
    wire: VecDeque<u8>,
}

enum Seen {
    Open(Box<StreamHeader>),
    Element(Element),
}

impl End {
    fn new() -> End {
        // What a server offers has more children than it lets a stranger send.
        End { framer: Framer::stream(Limits::STANZA), buffer: Vec::new(), wire: VecDeque::new() }
    }

    fn next(&mut self) -> Option<Result<Seen, StreamError>> {
        while let Some(byte) = self.wire.pop_front() {
            self.buffer.push(byte);
            let (taken, seen) = match self.framer.scan(&self.buffer) {
                Ok(Scan::More) => continue,
                Ok(Scan::Space(taken)) => (taken, None),
                Ok(Scan::Open(taken, header)) => (taken, Some(Seen::Open(header))),
                Ok(Scan::Element(taken, _)) => {
                    let element =
                        self.framer.element(&self.buffer[..taken]).expect("the framer proved it");
                    (taken, Some(Seen::Element(element)))
                }
                Ok(Scan::Close(taken)) => (taken, None),
                Err(error) => return Some(Err(error)),
            };
            self.buffer.drain(..taken);
            if let Some(seen) = seen {
                return Some(Ok(seen));
            }
        }
        None
    }

    /// A new stream: nothing of the old one may be left.
    fn restart(&mut self) {
        assert!(self.buffer.is_empty() && self.wire.is_empty(), "bytes left over");
        self.framer.restart();
    }
}

fn offer() -> Offer {
    Offer {
        domains: vec!["capulet.example".into()],
        tls: TlsPolicy::Required,
        mechanisms: Mechanism::ALL.to_vec(),
        apart: Vec::new(),
        plain_without_tls: false,
        register: true,
        stream_management: true,
        roster_versioning: true,
        features_before_auth: Vec::new(),
        features_after_auth: Vec::new(),
        fake_secret: Secret::new(vec![1; 32]),
        fake_iterations: 4096,
        sasl2: Some(Inline { bind: vec![ns::CARBONS], fast: true }),
        failures_max: xmpp::stream::negotiate::FAILURES_MAX,
    }
}

fn tls() -> Tls {
    let bindings = ChannelBindings { exporter: Some([5; 32]), server_end_point: None };
    Tls { bindings, identities: vec!["juliet@capulet.example".into()] }
}

/// Feeds the server, answers its questions, and gives the bytes for the client and the names of what else it did.
fn serve(machine: &mut Receiving, input: Input, end: &mut End) -> (Vec<u8>, Vec<&'static str>) {
    let (mut bytes, mut done, mut inputs) = (Vec::new(), Vec::new(), vec![input]);
    while let Some(input) = inputs.pop() {
        for output in machine.handle(input) {
            match output {
                Output::Send(sent) => bytes.extend(sent),
                Output::StartTls => {
                    end.restart();
                    inputs.push(Input::TlsReady(tls()));
                    done.push("tls");
                }
                Output::Restart => {
                    end.restart();
                    done.push("restart");
                }
                Output::LookUp { hash, .. } => {
                    let keys = ScramKeys::derive(hash, "r0m30", b"0123456789abcdef", 4096);
                    inputs.push(Input::Credentials(Credentials::Keys(keys.expect("prepares"))));
                }
                Output::CheckPlain { .. } | Output::Admit { .. } => {
                    inputs.push(Input::PlainChecked(Verdict::Right));
                }
                Output::CheckToken { .. } => inputs.push(Input::TokenChecked(Err(Verdict::Wrong))),
                Output::Authenticated { .. } => done.push("authenticated"),
                Output::Bind { account, resource, .. } => {
                    let resource = resource.unwrap_or_else(|| "made".into());
                    inputs.push(Input::Bound(account.with_resource(&resource).expect("prepared")));
                    done.push("bind");
                }
                Output::Resume { .. } => inputs.push(Input::BindRefused(StanzaError::conflict())),
                Output::Register(_) => done.push("register"),
                Output::About(_) => inputs.push(Input::About(None)),
                Output::LookUpTokens { .. } => inputs.push(Input::Tokens(Tokens::Found(vec![]))),
                Output::Upgrade { .. } => inputs.push(Input::Upgraded),
                Output::SignIn(_) => inputs.push(Input::SignedIn(Ok(None))),
                Output::ResumeInline { .. } => inputs.push(Input::ResumeRefused {
                    condition: xmpp::Condition::ItemNotFound,
                    h: None,
                }),
                Output::BindInline { account, resource, .. } => {
                    let jid = account.with_resource(&resource).expect("prepared");
                    inputs.push(Input::BoundInline(jid, vec![]));
                    done.push("bind");
                }
                Output::Fail(error) => {
                    bytes.extend(Framing::Stream.error(&error));
                    done.push("fail");
                }
            }
        }
    }
    (bytes, done)
}

fn header() -> Vec<u8> {
    let opening = Opening {
        content_ns: ns::CLIENT,
        from: None,
        to: Some("capulet.example"),
        id: None,
        dialback: false,
    };
    opening.to_bytes(Framing::Stream)
}

fn sasl(name: &str, data: &[u8]) -> Element {
    Element::new(name, ns::SASL).with_text(&BASE64.encode(data))
}

#[test]
fn a_client_logs_in_byte_by_byte() {
    let mut machine = Receiving::new(Arc::new(offer()), Framing::Stream, None, [9; 32]);
    let (mut at_server, mut at_client) = (End::new(), End::new());
    let binding = ClientBinding::Use { kind: "tls-exporter".into(), data: vec![5; 32] };
    let password = Password::new("r0m30");
    let mut scram =
        Client::new(Hash::Sha256, binding, None, "juliet", &password, "fyko+d2lbbFgONRv")
            .expect("prepares");
    let (mut streams, mut bound) = (0, None);

    at_server.wire.extend(header());
    while bound.is_none() {
        while let Some(seen) = at_server.next() {
            let input = match seen.expect("the client writes XML") {
                Seen::Open(header) => Input::Open(header),
                Seen::Element(element) => Input::Element(element),
            };
            at_client.wire.extend(serve(&mut machine, input, &mut at_server).0);
        }
        let seen = at_client.next().expect("the server answers").expect("the server writes XML");
        let answer = match seen {
            Seen::Open(header) => {
                assert_eq!(
                    (header.from.as_deref(), header.version),
                    (Some("capulet.example"), Some((1, 0)))
                );
                streams += 1;
                continue;
            }
            Seen::Element(element) => match (element.name(), streams) {
                ("features", 1) => Element::new("starttls", ns::TLS).to_bytes(),
                ("features", 2) => sasl("auth", &scram.first())
                    .with_attr("mechanism", "SCRAM-SHA-256-PLUS")
                    .to_bytes(),
                ("challenge", _) => {
                    let challenge = BASE64.decode(element.text()).expect("base64");
                    sasl("response", &scram.challenge(&challenge).expect("well-formed")).to_bytes()
                }
                ("success", _) => {
                    scram.success(&BASE64.decode(element.text()).expect("base64")).expect("signed");
                    at_client.restart();
                    header()
                }
                ("proceed", _) => {
                    at_client.restart();
                    header()
                }
                ("features", 3) => {
                    let resource = Element::new("resource", ns::BIND).with_text("balcony");
                    let bind = Element::new("bind", ns::BIND).with_child(resource);
                    let iq = Element::new("iq", ns::CLIENT)
                        .with_attr("type", "set")
                        .with_attr("id", "b1");
                    iq.with_child(bind).to_bytes()
                }
                ("iq", 3) => {
                    let jid = element
                        .child("bind", ns::BIND)
                        .and_then(|bind| bind.child("jid", ns::BIND));
                    bound = jid.map(|jid| FullJid::parse(&jid.text()).expect("a JID"));
                    continue;
                }
                _ => panic!("unexpected {element}"),
            },
        };
        at_server.wire.extend(answer);
    }
    assert_eq!(bound.as_ref().map(FullJid::as_str), Some("juliet@capulet.example/balcony"));
}

/// Things a client may say, sensible or not.
fn saying() -> impl Strategy<Value = Vec<u8>> {
    let named =
        |name: &'static str, ns: &'static str| Just(Element::new(name, ns).to_bytes()).boxed();
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let mechanism = prop::sample::select(Mechanism::ALL.to_vec());
    let auth = (mechanism, data.clone()).prop_map(|(mechanism, data)| {
        sasl("auth", &data).with_attr("mechanism", mechanism.name()).to_bytes()
    });
    let plain = Just(sasl("auth", b"\0juliet\0r0m30").with_attr("mechanism", "PLAIN").to_bytes());
    let scram =
        Just(sasl("auth", b"n,,n=juliet,r=abc").with_attr("mechanism", "SCRAM-SHA-1").to_bytes());
    let response = data.prop_map(|data| sasl("response", &data).to_bytes());
    let bind = Element::new("iq", ns::CLIENT)
        .with_attr("type", "set")
        .with_attr("id", "1")
        .with_child(Element::new("bind", ns::BIND));
    prop_oneof![
        4 => Just(header()),
        2 => named("starttls", ns::TLS),
        4 => plain,
        2 => scram,
        2 => auth,
        2 => response,
        1 => named("abort", ns::SASL),
        2 => Just(bind.to_bytes()),
        1 => named("enable", ns::SM),
        1 => Just(b"<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>".to_vec()),
        1 => Just(b"<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>".to_vec()),
        1 => named("message", ns::CLIENT),
        1 => Just(b"</stream:stream>".to_vec()),
        1 => Just(b"<broken".to_vec()),
    ]
}

proptest! {
    #[test]
    fn whatever_a_client_says_the_answer_is_xml_and_nobody_gets_in_without_a_password(
        sayings in prop::collection::vec(saying(), 0..16),
    ) {
        let mut machine = Receiving::new(Arc::new(offer()), Framing::Stream, None, [9; 32]);
        let (mut at_server, mut at_client) = (End::new(), End::new());
        let (mut is_tls_active, mut is_authenticated, mut is_over) = (false, false, false);
        for saying in sayings {
            // A client that sends ahead is cut off by the session; here it waits.
            at_server.wire.extend(&saying);
            while let Some(seen) = at_server.next() {
                let input = match seen {
                    Ok(Seen::Open(header)) => Input::Open(header),
                    Ok(Seen::Element(element)) => Input::Element(element),
                    Err(error) => Input::Broken(error),
                };
                let (bytes, done) = serve(&mut machine, input, &mut at_server);
                prop_assert!(!is_over || bytes.is_empty(), "spoke after the end");
                is_tls_active |= done.contains(&"tls");
                is_authenticated |= done.contains(&"authenticated");
                prop_assert!(!is_authenticated || is_tls_active, "authenticated in clear");
                prop_assert!(!done.contains(&"bind") || is_authenticated, "bound before authentication");
                prop_assert!(!done.contains(&"register") || is_tls_active, "registered in clear");
                is_over |= done.contains(&"fail");
                // What the client reads is XML, whatever stream it belongs to.
                for piece in String::from_utf8(bytes).expect("text").split("<?xml version='1.0'?>") {
                    if piece.starts_with("<stream:stream ") {
                        at_client = End::new();
                    }
                    at_client.wire.extend(piece.bytes());
                    while let Some(seen) = at_client.next() {
                        prop_assert!(seen.is_ok(), "{piece}");
                    }
                    prop_assert!(at_client.buffer.is_empty(), "half an element: {piece}");
                }
            }
        }
    }
}
