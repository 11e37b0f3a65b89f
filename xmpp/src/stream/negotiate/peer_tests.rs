//! Tests of a server stream's negotiation: both roles against each other in memory, and what either does about a peer
//! that breaks the rules.

use std::sync::Arc;

use super::*;
use crate::stream::header::Framing;

fn offer() -> PeerOffer {
    PeerOffer {
        domains: vec!["us-0".into(), "capulet.example".into()],
        features_after_auth: b"<link xmlns='urn:pangaea:link:1'/>".to_vec(),
        features_unverified: Vec::new(),
        dialback: false,
    }
}

fn dial() -> Dial {
    Dial { from: "eu-0".into(), to: "us-0".into(), is_tls_active: false }
}

/// What the framer would make of bytes on a server stream.
enum Seen {
    Open(Box<StreamHeader>),
    Element(Element),
}

fn read(bytes: &[u8]) -> Seen {
    let text = std::str::from_utf8(bytes).expect("text");
    if let Some(header) = text.strip_prefix("<?xml version='1.0'?>") {
        let root = Element::parse(header.replace('>', "/>").as_bytes()).expect("a header");
        let owned = |name| root.attr(name).map(str::to_owned);
        let content_ns =
            if text.contains("xmlns='jabber:server'") { ns::SERVER } else { ns::CLIENT };
        return Seen::Open(Box::new(StreamHeader {
            to: owned("to"),
            from: owned("from"),
            id: owned("id"),
            version: Some((1, 0)),
            content_ns: content_ns.into(),
            ..StreamHeader::default()
        }));
    }
    let declared = format!("<stream:features xmlns:stream='{}'>", ns::STREAM);
    Seen::Element(
        Element::parse(text.replace("<stream:features>", &declared).as_bytes()).expect(text),
    )
}

/// Runs both machines against each other; gives what each ended with. `is_verified`: the certificate is good.
fn run(dial: Dial, offer: PeerOffer, is_verified: bool, first: Element) -> (String, String) {
    let mut peer = ReceivingPeer::new(Arc::new(offer), dial.is_tls_active, [3; 32]);
    let (mut caller, mut calls) = Initiating::new(dial);
    let (mut caller_end, mut peer_end) = (String::new(), String::new());
    let mut to_caller: Vec<InitiatingInput> = Vec::new();
    loop {
        let mut to_peer = Vec::new();
        for output in calls.drain(..) {
            match output {
                InitiatingOutput::Send(bytes) => to_peer.push(match read(&bytes) {
                    Seen::Open(header) => PeerInput::Open(header),
                    Seen::Element(element) => PeerInput::Element(element),
                }),
                InitiatingOutput::StartTls => {
                    to_peer.push(PeerInput::TlsReady);
                    to_caller.push(InitiatingInput::TlsReady);
                }
                InitiatingOutput::Restart => {}
                InitiatingOutput::Done { features, stream_id } => {
                    assert!(stream_id.is_some());
                    caller_end = format!(
                        "done {}",
                        features.children().map(Element::name).collect::<String>()
                    );
                    to_peer.push(PeerInput::Element(first.clone()));
                }
                InitiatingOutput::Fail(error) => caller_end = error.to_string(),
            }
        }
        // The caller's own TLS goes first, so that its header follows the handshake.
        for input in to_peer {
            let mut inputs = vec![input];
            while let Some(input) = inputs.pop() {
                for output in peer.handle(input) {
                    match output {
                        PeerOutput::Send(bytes) => to_caller.push(match read(&bytes) {
                            Seen::Open(header) => InitiatingInput::Open(header),
                            Seen::Element(element) => InitiatingInput::Element(element),
                        }),
                        PeerOutput::Verify { from, to } => {
                            assert_eq!((from.as_str(), to.as_str()), ("eu-0", "us-0"));
                            inputs.push(PeerInput::Verified(is_verified));
                        }
                        PeerOutput::Authenticated { from, to } => {
                            peer_end = format!("{from} to {to}")
                        }
                        PeerOutput::Peer(element) => {
                            peer_end.push_str(&format!(", then {}", element.name()))
                        }
                        PeerOutput::Unauthenticated(element) => {
                            peer_end = format!("unauthenticated {}", element.name())
                        }
                        PeerOutput::StartTls | PeerOutput::Restart => {}
                        PeerOutput::Fail(error) => {
                            peer_end = error.to_string();
                            let error = Element::new("error", ns::STREAM)
                                .with_child(Element::new(error.condition.name(), ns::STREAMS));
                            to_caller.push(InitiatingInput::Element(error));
                        }
                    }
                }
            }
        }
        if to_caller.is_empty() {
            return (caller_end, peer_end);
        }
        for input in to_caller.drain(..) {
            calls.extend(caller.handle(input));
        }
    }
}

fn hello() -> Element {
    Element::new("link", ns::LINK)
}

#[test]
fn two_nodes_find_to_a_link() {
    for is_tls_active in [false, true] {
        let (caller, peer) = run(Dial { is_tls_active, ..dial() }, offer(), true, hello());
        assert_eq!((caller.as_str(), peer.as_str()), ("done link", "eu-0 to us-0, then link"));
    }
}

#[test]
fn a_certificate_for_somebody_else_is_no_way_in() {
    let (caller, peer) = run(dial(), offer(), false, hello());
    assert_eq!((caller.as_str(), peer.as_str()), ("the peer does not offer EXTERNAL", ""));
}

#[test]
fn a_name_that_is_not_ours_is_refused() {
    let (caller, peer) = run(Dial { to: "us-1".into(), ..dial() }, offer(), true, hello());
    assert_eq!(peer, "host-unknown");
    assert_eq!(
        caller, "the peer broke the protocol: invalid-from",
        "who answers is not whom we called"
    );
}

/// The receiving entity under TLS, verified, up to its features.
fn verified() -> Box<ReceivingPeer> {
    let mut peer = ReceivingPeer::new(Arc::new(offer()), true, [3; 32]);
    peer.handle(PeerInput::Open(Box::new(peer_header("eu-0", "us-0"))));
    peer.handle(PeerInput::Verified(true));
    peer
}

fn peer_header(from: &str, to: &str) -> StreamHeader {
    StreamHeader {
        from: Some(from.into()),
        to: Some(to.into()),
        version: Some((1, 0)),
        content_ns: ns::SERVER.into(),
        ..StreamHeader::default()
    }
}

fn external(authzid: &str) -> PeerInput {
    let auth = Element::new("auth", ns::SASL).with_attr("mechanism", "EXTERNAL");
    PeerInput::Element(auth.with_text(&encode(authzid.as_bytes())))
}

/// The last thing said, in the words of bad-inputs.md.
fn last(outputs: Vec<PeerOutput>) -> String {
    match outputs.into_iter().next_back() {
        Some(PeerOutput::Fail(error)) => format!("SE {}", error.condition.name()),
        Some(PeerOutput::Send(bytes)) => match read(&bytes) {
            Seen::Element(element) if element.is("failure", ns::SASL) => {
                format!("SASL {}", element.children().map(Element::name).collect::<String>())
            }
            Seen::Element(element) => element.name().to_owned(),
            Seen::Open(_) => "header".into(),
        },
        Some(PeerOutput::Restart) => "restart".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_peer_that_breaks_the_rules_gets_its_error() {
    let open = |from, to| PeerInput::Open(Box::new(peer_header(from, to)));
    let element = |name, ns| PeerInput::Element(Element::new(name, ns));

    // B-010, B-013.
    let mut peer = ReceivingPeer::new(Arc::new(offer()), false, [3; 32]);
    let client = StreamHeader { content_ns: ns::CLIENT.into(), ..peer_header("eu-0", "us-0") };
    assert_eq!(last(peer.handle(PeerInput::Open(Box::new(client)))), "SE invalid-namespace");
    let mut peer = ReceivingPeer::new(Arc::new(offer()), false, [3; 32]);
    let old = StreamHeader { version: None, ..peer_header("eu-0", "us-0") };
    assert_eq!(last(peer.handle(PeerInput::Open(Box::new(old)))), "SE unsupported-version");

    // S-024, B-067: in clear nothing but STARTTLS.
    let in_clear = || {
        let mut peer = ReceivingPeer::new(Arc::new(offer()), false, [3; 32]);
        assert_eq!(last(peer.handle(open("eu-0", "us-0"))), "features");
        peer
    };
    assert_eq!(last(in_clear().handle(element("message", ns::SERVER))), "SE not-authorized");
    assert_eq!(last(in_clear().handle(element("result", ns::DIALBACK))), "SE not-authorized");
    assert_eq!(last(in_clear().handle(external("eu-0"))), "SASL encryption-required");

    // Nobody is verified without a name.
    let mut peer = ReceivingPeer::new(Arc::new(offer()), true, [3; 32]);
    let nameless = StreamHeader { from: None, ..peer_header("eu-0", "us-0") };
    assert_eq!(last(peer.handle(PeerInput::Open(Box::new(nameless)))), "SE improper-addressing");

    // Under TLS: only EXTERNAL, only as oneself, a few times.
    assert_eq!(last(verified().handle(element("message", ns::SERVER))), "SE not-authorized");
    assert_eq!(last(verified().handle(element("starttls", ns::TLS))), "SE policy-violation");
    assert_eq!(last(verified().handle(external("asia-0"))), "SASL invalid-authzid");
    assert_eq!(last(verified().handle(external("eu-0"))), "restart");
    assert_eq!(last(verified().handle(external(""))), "restart");
    let mut peer = verified();
    let failures: Vec<_> = (0..6).map(|_| last(peer.handle(external("asia-0")))).collect();
    assert_eq!(
        (failures[4].as_str(), failures[5].as_str()),
        ("SASL invalid-authzid", "SE policy-violation")
    );
    let plain = PeerInput::Element(
        Element::new("auth", ns::SASL).with_attr("mechanism", "PLAIN").with_text("="),
    );
    assert_eq!(last(verified().handle(plain)), "SASL invalid-mechanism");

    // The restarted stream is between the same two.
    let restarted = |from, to| {
        let mut peer = verified();
        peer.handle(external("eu-0"));
        last(peer.handle(open(from, to)))
    };
    assert_eq!(restarted("eu-0", "us-0"), "features");
    assert_eq!(restarted("asia-0", "us-0"), "SE invalid-from");
    assert_eq!(restarted("eu-0", "capulet.example"), "SE not-authorized");
}

#[test]
fn dialback_elements_come_out_only_where_they_are_wanted() {
    for dialback in [false, true] {
        let mut peer =
            ReceivingPeer::new(Arc::new(PeerOffer { dialback, ..offer() }), true, [3; 32]);
        peer.handle(PeerInput::Open(Box::new(peer_header("montague.example", "capulet.example"))));
        peer.handle(PeerInput::Verified(false));
        let outputs = peer.handle(PeerInput::Element(Element::new("result", ns::DIALBACK)));
        assert_eq!(matches!(outputs[..], [PeerOutput::Unauthenticated(_)]), dialback);
        assert_eq!(
            last(peer.handle(external("montague.example"))) == "SASL invalid-mechanism",
            dialback
        );
    }
}

/// The initiating entity, fed `inputs` after the peer's header; gives the error it ended with.
fn dialled(is_tls_active: bool, inputs: Vec<InitiatingInput>) -> Option<DialError> {
    let (mut caller, _) = Initiating::new(Dial { is_tls_active, ..dial() });
    let header = StreamHeader { id: Some("1".into()), ..peer_header("us-0", "eu-0") };
    let mut outputs = caller.handle(InitiatingInput::Open(Box::new(header)));
    for input in inputs {
        outputs = caller.handle(input);
    }
    match outputs.pop() {
        Some(InitiatingOutput::Fail(error)) => Some(error),
        _ => None,
    }
}

#[test]
fn a_caller_leaves_a_peer_that_breaks_the_rules() {
    let see = |xml: &str| match read(xml.as_bytes()) {
        Seen::Element(element) => InitiatingInput::Element(element),
        Seen::Open(_) => panic!("{xml}"),
    };
    let starttls =
        "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>";
    let external = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
                    <mechanism>EXTERNAL</mechanism></mechanisms></stream:features>";
    let proceed = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    let policy = Some(DialError::Protocol(StreamError::policy_violation()));

    // B-071, S-027: the feature is stripped, EXTERNAL is dangled instead.
    assert_eq!(dialled(false, vec![see(external)]), Some(DialError::TlsNotOffered));
    let refused = see("<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(dialled(false, vec![see(starttls), refused]), Some(DialError::TlsRefused));
    // B-070: clear text after `<proceed/>`.
    assert_eq!(dialled(false, vec![see(starttls), see(proceed), see(external)]), policy);
    assert_eq!(
        dialled(false, vec![see(starttls), see(proceed), InitiatingInput::TlsReady, see(external)]),
        policy
    );
    assert_eq!(dialled(false, vec![InitiatingInput::TlsReady]), policy);
    assert_eq!(dialled(true, vec![see("<message/>")]), policy);
    assert!(matches!(
        dialled(true, vec![see(starttls)]),
        Some(DialError::ExternalNotOffered { .. })
    ));
    let failure =
        see("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>");
    assert_eq!(
        dialled(true, vec![see(external), failure]),
        Some(DialError::Refused(Failure::NotAuthorized))
    );
    let error =
        Element::new("error", ns::STREAM).with_child(Element::new("system-shutdown", ns::STREAMS));
    let error = dialled(true, vec![InitiatingInput::Element(error)]).expect("it failed");
    assert_eq!(error, DialError::Peer(StreamError::system_shutdown()));
    assert_eq!(error.farewell(), Framing::Stream.close());
}
