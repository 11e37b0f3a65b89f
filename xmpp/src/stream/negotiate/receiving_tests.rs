//! Tests of a client's negotiation: a whole login in memory, client and server machine against each other, with
//! tampering; and the rows of bad-inputs A to D and G that meet this machine.

use std::sync::Arc;

use super::super::features::{channel_bindings, is_features, mechanisms};
use super::super::negotiate::FAILURES_MAX;
use super::*;
use crate::sasl::scram::{Client, ClientBinding, ClientError};
use crate::sasl::{ChannelBindings, Hashes, Password, ScramKeys};
use crate::stanza::error::Condition;
use crate::stream::header::Framing;

use rows::{BIND, PLAIN, REGISTER, STARTTLS_XML};

pub(super) const DOMAIN: &str = "capulet.example";

pub(super) fn offer() -> Offer {
    let scram = |hash| [true, false].map(|plus| Mechanism::Scram { hash, plus });
    let mut mechanisms = scram(Hash::Sha256).to_vec();
    mechanisms.extend(scram(Hash::Sha1));
    mechanisms.extend([Mechanism::Plain, Mechanism::External]);
    Offer {
        domains: vec![DOMAIN.into(), "montague.example".into()],
        tls: TlsPolicy::Required,
        mechanisms,
        apart: Vec::new(),
        plain_without_tls: false,
        register: false,
        stream_management: true,
        roster_versioning: true,
        features_before_auth: b"<before xmlns='urn:x'/>".to_vec(),
        features_after_auth: b"<after xmlns='urn:x'/>".to_vec(),
        fake_secret: Secret::new(vec![1; 32]),
        fake_iterations: 4096,
        sasl2: None,
        failures_max: FAILURES_MAX,
    }
}

#[test]
fn a_stream_survives_as_many_failures_as_the_offer_says() {
    for failures_max in [1, 2, 7] {
        let mut server = Server::new(Offer { failures_max, ..offer() }, true);
        server.verdict = Verdict::Wrong;
        server.feed(open(DOMAIN));
        for _ in 0..failures_max {
            server.feed_xml(PLAIN);
            assert_eq!(server.outcome(), "SASL not-authorized");
        }
        server.feed_xml(PLAIN);
        assert_eq!(server.outcome(), "SE policy-violation");
    }
}

pub(super) fn tls() -> Tls {
    let bindings = ChannelBindings { exporter: Some([5; 32]), server_end_point: Some(vec![6; 32]) };
    Tls { bindings, identities: Vec::new() }
}

pub(super) fn header(to: &str) -> StreamHeader {
    StreamHeader {
        to: Some(to.into()),
        version: Some((1, 0)),
        content_ns: ns::CLIENT.into(),
        ..StreamHeader::default()
    }
}

pub(super) fn open(to: &str) -> Input {
    Input::Open(Box::new(header(to)))
}

pub(super) fn element(xml: &str) -> Element {
    let declared = format!("<stream:features xmlns:stream='{}'>", ns::STREAM);
    Element::parse(xml.replace("<stream:features>", &declared).as_bytes()).expect(xml)
}

/// The machine, and what its caller does about the outputs that are not for the client.
pub(super) struct Server {
    pub(super) machine: Box<Receiving>,
    tls: Tls,
    pub(super) credentials: Credentials,
    pub(super) verdict: Verdict,
    pub(super) known: Option<Hashes>,
    pub(super) tokens: Vec<crate::sasl::token::Token>,
    pub(super) signed_in: SignedIn,
    /// Those an upgrade has brought.
    pub(super) keys: Option<ScramKeys>,
    /// What the client reads.
    pub(super) wire: Vec<String>,
    /// Everything else, by name.
    pub(super) done: Vec<String>,
}

impl Server {
    pub(super) fn new(offer: Offer, tls_active: bool) -> Server {
        let machine =
            Receiving::new(Arc::new(offer), Framing::Stream, tls_active.then(tls), [9; 32]);
        Server {
            machine,
            tls: tls(),
            credentials: Credentials::Unknown,
            verdict: Verdict::Right,
            known: None,
            tokens: Vec::new(),
            signed_in: Ok(None),
            keys: None,
            wire: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn feed(&mut self, input: Input) {
        for output in self.machine.handle(input) {
            match output {
                Output::Send(bytes) => self.wire.push(String::from_utf8(bytes).expect("text")),
                Output::StartTls => {
                    self.done.push("tls".into());
                    self.feed(Input::TlsReady(self.tls.clone()));
                }
                Output::LookUp { .. } => self.feed(Input::Credentials(self.credentials.clone())),
                Output::CheckPlain { .. } | Output::Admit { .. } => {
                    self.feed(Input::PlainChecked(self.verdict))
                }
                Output::CheckToken { .. } => {
                    let found = BareJid::parse("juliet@capulet.example").map_err(|_| self.verdict);
                    let right = self.verdict == Verdict::Right;
                    let found = if right { found } else { Err(self.verdict) };
                    self.feed(Input::TokenChecked(found))
                }
                Output::Bind { account, resource, .. } => {
                    self.done.push(format!("bind {account}/{}", resource.unwrap_or_default()));
                }
                Output::Resume { account, previd, h } => {
                    self.done.push(format!("resume {account} {previd} {h}"))
                }
                Output::Register(_) => self.done.push("register".into()),
                Output::About(_) => self.feed(Input::About(self.known)),
                Output::LookUpTokens { account, client } => {
                    self.done.push(format!("tokens of {account} {client}"));
                    self.feed(Input::Tokens(SignInTokens::Found(self.tokens.clone())));
                }
                Output::Upgrade { account, keys } => {
                    self.done.push(format!("{account} {:?}", keys.hash));
                    self.keys = Some(keys);
                    self.feed(Input::Upgraded);
                }
                Output::SignIn(sign_in) => {
                    let id = sign_in.agent.id.as_deref().expect("an id");
                    let (account, token) = (&sign_in.account, sign_in.request_token);
                    let resume = sign_in.resume.map(|resume| format!(" to resume {resume}"));
                    let resume = resume.unwrap_or_default();
                    let used = sign_in.used;
                    self.done.push(format!("{account} with {id} {used:?} {token:?}{resume}"));
                    self.feed(Input::SignedIn(self.signed_in.clone()));
                }
                Output::ResumeInline { account, previd, h } => {
                    self.done.push(format!("resume {account} {previd} {h}"))
                }
                Output::BindInline { account, resource, features } => {
                    let names: Vec<_> = features.iter().map(Element::ns).collect();
                    self.done.push(format!("bind {account}/{resource} {names:?}"));
                }
                Output::Authenticated { account, mechanism } => {
                    self.done.push(format!("{account} by {mechanism}"))
                }
                Output::Restart => self.done.push("restart".into()),
                Output::Fail(error) => {
                    self.wire.push(format!("SE {}", error.condition.name()));
                    self.done.push("closed".into());
                }
            }
        }
    }

    pub(super) fn feed_xml(&mut self, xml: &str) {
        self.feed(Input::Element(element(xml)));
    }

    pub(super) fn last(&self) -> Element {
        element(self.wire.last().expect("something was sent"))
    }

    /// In the words of bad-inputs.md.
    pub(super) fn outcome(&self) -> String {
        let last = self.wire.last().expect("something was sent");
        if last.starts_with("SE ") || last.starts_with("<?xml") {
            return last.clone();
        }
        let last = element(last);
        let condition = |ns: &'static str| {
            let found = last.children().find(move |child| child.ns() == ns);
            found.map(|child| child.name().to_owned()).unwrap_or_default()
        };
        match (last.ns(), last.name()) {
            (ns::SASL | ns::SASL2, "failure") => format!("SASL {}", condition(ns::SASL)),
            (ns::SM, "failed") => format!("SM {}", condition(ns::STANZAS)),
            (ns::CLIENT, "iq") if last.attr("type") == Some("error") => {
                let error = StanzaError::parse(last.child("error", ns::CLIENT).expect("an error"));
                format!("ST {}/{}", error.condition.name(), error.type_.name())
            }
            (_, name) => name.to_owned(),
        }
    }
}

fn auth(mechanism: &str, message: &[u8]) -> String {
    format!("<auth xmlns='{}' mechanism='{mechanism}'>{}</auth>", ns::SASL, encode(message))
}

fn response(message: &[u8]) -> String {
    format!("<response xmlns='{}'>{}</response>", ns::SASL, encode(message))
}

fn keys(hash: Hash) -> Credentials {
    Credentials::Keys(
        ScramKeys::derive(hash, "r0m30", b"0123456789abcdef", 4096).expect("prepares"),
    )
}

/// Logs juliet in; gives what SASL ended with. `tamper` sits between the two and may change what they say:
/// (what it is, the text) → the text.
fn scram_login(
    server: &mut Server,
    password: &str,
    tamper: &dyn Fn(&str, String) -> String,
) -> Result<(), String> {
    let features = element(&tamper("features", server.wire.last().expect("features").clone()));
    assert!(is_features(&features));
    let offered = mechanisms(&features);
    // What the client sees is another channel if somebody ends TLS in between.
    let exporter =
        tamper("channel", "5".into()).parse::<u8>().map(|byte| [byte; 32]).expect("a byte");
    let (name, binding) = if offered.iter().any(|name| name == "SCRAM-SHA-256-PLUS") {
        assert_eq!(channel_bindings(&features), ["tls-exporter", "tls-server-end-point"]);
        (
            "SCRAM-SHA-256-PLUS",
            ClientBinding::Use { kind: "tls-exporter".into(), data: exporter.to_vec() },
        )
    } else {
        ("SCRAM-SHA-256", ClientBinding::NotOffered)
    };
    let mut client = Client::new(
        Hash::Sha256,
        binding,
        None,
        "juliet",
        &Password::new(password),
        "fyko+d2lbbFgONRv",
    )
    .expect("prepares");
    server.feed_xml(&tamper("auth", auth(name, &client.first())));
    let challenge = element(&tamper("challenge", server.wire.last().expect("an answer").clone()));
    if !challenge.is("challenge", ns::SASL) {
        return Err(server.outcome());
    }
    let answer = client
        .challenge(&decode(&challenge.text()).expect("base64"))
        .map_err(|error| error.to_string())?;
    server.feed_xml(&tamper("response", response(&answer)));
    let success = element(&tamper("success", server.wire.last().expect("an answer").clone()));
    if !success.is("success", ns::SASL) {
        return Err(server.outcome());
    }
    client.success(&decode(&success.text()).unwrap_or_default()).map_err(|error| error.to_string())
}

fn honest(_: &str, text: String) -> String {
    text
}

#[test]
fn a_client_logs_in_with_channel_binding_and_binds() {
    let mut server = Server::new(offer(), false);
    server.credentials = keys(Hash::Sha256);
    server.feed(open(DOMAIN));
    assert!(server.wire[0].starts_with("<?xml version='1.0'?><stream:stream "));
    assert_eq!(
        server.wire[1],
        "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>"
    );
    server.feed_xml("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(server.wire.last().map(String::as_bytes), Some(PROCEED));
    server.feed(open(DOMAIN));
    let ids: Vec<_> = server.wire.iter().filter_map(|sent| sent.split(" id='").nth(1)).collect();
    assert_ne!(ids[0][..24], ids[1][..24], "every stream has an id of its own");
    assert!(server.last().has_child("before", "urn:x"));
    assert!(mechanisms(&server.last()).contains(&"PLAIN".to_owned()), "TLS protects it");
    assert!(
        !mechanisms(&server.last()).contains(&"EXTERNAL".to_owned()),
        "no certificate, no EXTERNAL"
    );

    assert_eq!(scram_login(&mut server, "r0m30", &honest), Ok(()));
    assert_eq!(server.done, ["tls", "juliet@capulet.example by SCRAM-SHA-256-PLUS", "restart"]);

    let mut restarted = header(DOMAIN);
    restarted.from = Some("juliet@capulet.example".into());
    server.feed(Input::Open(Box::new(restarted)));
    let features = server.last();
    for (name, ns) in [
        ("bind", ns::BIND),
        ("session", ns::SESSION),
        ("sm", ns::SM),
        ("ver", ns::ROSTER_VERSIONING),
        ("after", "urn:x"),
    ] {
        assert!(features.has_child(name, ns), "{name}");
    }
    assert!(!features.has_child("mechanisms", ns::SASL));

    server.feed_xml("<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>balcony</resource></bind></iq>");
    assert_eq!(server.done.last().map(String::as_str), Some("bind juliet@capulet.example/balcony"));
    assert!(server.machine.is_waiting());
    server.feed(Input::BindRefused(StanzaError::conflict()));
    assert_eq!(server.outcome(), "ST conflict/cancel");
    server.feed_xml("<iq id='2' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    server.feed(Input::Bound(FullJid::parse("juliet@capulet.example/1").expect("a JID")));
    assert_eq!(
        server.wire.last().map(String::as_str),
        Some(
            "<iq type='result' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>juliet@capulet.example/1</jid></bind></iq>"
        )
    );
}

#[test]
fn somebody_in_the_middle_is_found_out() {
    let replace = |what: &'static str, from: &'static str, to: &'static str| {
        move |kind: &str, text: String| if kind == what { text.replace(from, to) } else { text }
    };
    type Tamper = Box<dyn Fn(&str, String) -> String>;
    let cases: Vec<(&str, Tamper, String)> = vec![
        ("another channel", Box::new(replace("channel", "5", "4")), "SASL not-authorized".into()),
        // The client answers with `y`: it could have bound to the channel.
        (
            "-PLUS taken out of the list",
            Box::new(replace("features", "-PLUS", "-MINUS")),
            "SASL not-authorized".into(),
        ),
        (
            "another user name",
            Box::new(|kind: &str, text: String| match kind {
                "auth" => {
                    let first = b"p=tls-exporter,,n=romeo,r=fyko+d2lbbFgONRv";
                    auth("SCRAM-SHA-256-PLUS", first)
                }
                _ => text,
            }),
            "SASL not-authorized".into(),
        ),
        (
            "a success the server never signed",
            Box::new(
                |kind: &str, text: String| {
                    if kind == "success" { sasl_success("v=AAAA") } else { text }
                },
            ),
            ClientError::Signature.to_string(),
        ),
        (
            "a success without a signature",
            Box::new(
                |kind: &str, text: String| if kind == "success" { sasl_success("") } else { text },
            ),
            ClientError::Malformed.to_string(),
        ),
        (
            "not base64",
            Box::new(replace("response", "</", "!</")),
            "SASL incorrect-encoding".into(),
        ),
    ];
    for (name, tamper, expected) in cases {
        let mut server = Server::new(offer(), true);
        server.credentials = keys(Hash::Sha256);
        server.feed(open(DOMAIN));
        assert_eq!(scram_login(&mut server, "r0m30", &*tamper), Err(expected), "{name}");
    }
}

fn sasl_success(data: &str) -> String {
    String::from_utf8(sasl("success", &BASE64.encode(data))).expect("text")
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_the_same() {
    for credentials in [keys(Hash::Sha256), Credentials::Unknown] {
        let mut server = Server::new(offer(), true);
        server.credentials = credentials;
        server.feed(open(DOMAIN));
        assert_eq!(scram_login(&mut server, "wrong", &honest), Err("SASL not-authorized".into())); // B-092
        // And may try again on the same stream.
        server.credentials = keys(Hash::Sha256);
        server.wire.push(server.wire[1].clone());
        assert_eq!(scram_login(&mut server, "r0m30", &honest), Ok(()));
    }
}

#[test]
fn a_foreign_host_is_refused_in_the_name_of_one_of_ours() {
    let mut server = Server::new(offer(), true);
    let mut header = header("verona.example");
    header.from = Some("romeo@verona.example/x".into());
    server.feed(Input::Open(Box::new(header)));
    assert!(
        server.wire[0].contains(" from='capulet.example' to='romeo@verona.example'"),
        "{}",
        server.wire[0]
    );
    assert_eq!(server.wire[1], "SE host-unknown"); // B-017
}

#[test]
fn a_stream_that_breaks_before_our_header_still_gets_it() {
    let mut server = Server::new(offer(), true);
    server.feed(Input::Broken(StreamError::not_well_formed())); // B-001
    assert!(server.wire[0].starts_with("<?xml"));
    assert_eq!(server.wire[1], "SE not-well-formed");
    let mut server = Server::new(offer(), true);
    server.feed(open(DOMAIN));
    server.feed(Input::Broken(StreamError::connection_timeout())); // B-059
    assert_eq!(server.wire.len(), 3, "{:?}", server.wire);
}

#[test]
fn a_client_resumes_or_binds_after_all() {
    let mut server = Server::new(offer(), true);
    for input in [open(DOMAIN), Input::Element(element(PLAIN)), open(DOMAIN)] {
        server.feed(input);
    }
    server.feed_xml("<resume xmlns='urn:xmpp:sm:3' previd='some-id' h='7'/>");
    assert_eq!(
        server.done.last().map(String::as_str),
        Some("resume juliet@capulet.example some-id 7")
    );
    server.feed(Input::ResumeRefused { condition: Condition::ItemNotFound, h: Some(3) });
    assert_eq!(server.outcome(), "SM item-not-found"); // B-182
    assert_eq!(server.last().attr("h"), Some("3"));
    server.feed_xml(BIND);
    assert_eq!(server.done.last().map(String::as_str), Some("bind juliet@capulet.example/"));
}

#[test]
fn registration_is_handed_out_and_the_stream_stays() {
    let mut server = Server::new(Offer { register: true, ..offer() }, true);
    server.feed(open(DOMAIN));
    assert!(server.last().has_child("register", ns::REGISTER_FEATURE));
    server.feed_xml(REGISTER);
    server.feed_xml(REGISTER);
    assert_eq!(server.done, ["register", "register"]);
    server.feed_xml(PLAIN);
    assert_eq!(server.outcome(), "success");
}

#[test]
fn a_certificate_logs_its_owner_in() {
    let mut server = Server::new(offer(), false);
    server.tls.identities = vec!["juliet@capulet.example".into()];
    for input in [open(DOMAIN), Input::Element(element(STARTTLS_XML)), open(DOMAIN)] {
        server.feed(input);
    }
    assert!(mechanisms(&server.last()).contains(&"EXTERNAL".to_owned()));
    server.feed_xml(&auth("EXTERNAL", b"romeo@capulet.example"));
    assert_eq!(server.outcome(), "SASL invalid-authzid");
    server.verdict = Verdict::Disabled;
    server.feed_xml(&auth("EXTERNAL", b""));
    assert_eq!(server.outcome(), "SASL account-disabled");
    server.verdict = Verdict::Right;
    server.feed_xml(&auth("EXTERNAL", b""));
    assert_eq!(server.outcome(), "success");
}

#[test]
fn a_certificate_of_another_domain_proves_nothing_here() {
    let mut server = Server::new(offer(), false);
    server.tls.identities = vec!["romeo@montague.example".into(), DOMAIN.into()];
    for input in [open(DOMAIN), Input::Element(element(STARTTLS_XML)), open(DOMAIN)] {
        server.feed(input);
    }
    assert!(!mechanisms(&server.last()).contains(&"EXTERNAL".to_owned()));
    server.feed_xml(&auth("EXTERNAL", b""));
    assert_eq!(server.outcome(), "SASL invalid-mechanism");
}

#[test]
fn a_token_logs_its_owner_in_and_a_bad_one_is_explained() {
    let mut offer = offer();
    offer.mechanisms = vec![Mechanism::OauthBearer];
    let mut server = Server::new(offer, true);
    server.feed(open(DOMAIN));
    assert_eq!(mechanisms(&server.last()), ["OAUTHBEARER"]);
    server.verdict = Verdict::Wrong;
    let first = auth("OAUTHBEARER", b"n,,\x01auth=Bearer t0k3n\x01\x01");
    server.feed_xml(&first);
    assert_eq!(server.outcome(), "challenge");
    server.feed_xml(&response(b"\x01"));
    assert_eq!(server.outcome(), "SASL not-authorized");
    server.verdict = Verdict::Right;
    server.feed_xml(&first);
    assert_eq!(server.outcome(), "success");
}

#[test]
fn a_domain_apart_has_its_own_mechanisms_and_guests_no_registration() {
    let guests = || ("montague.example".to_owned(), vec![Mechanism::Anonymous]);
    let offer = || Offer { register: true, apart: vec![guests()], ..offer() };
    let mut server = Server::new(offer(), true);
    server.feed(open("montague.example"));
    assert_eq!(mechanisms(&server.last()), ["ANONYMOUS"]);
    assert!(!server.last().has_child("register", "http://jabber.org/features/iq-register"));
    server.feed_xml(PLAIN);
    assert_eq!(server.outcome(), "SASL invalid-mechanism");
    server.feed_xml(&auth("ANONYMOUS", b""));
    assert_eq!(server.outcome(), "success");
    let mut server = Server::new(offer(), true);
    server.feed(open("montague.example"));
    server.feed_xml(REGISTER);
    assert_eq!(server.done, ["register"], "whoever drives the stream refuses it");
    let mut server = Server::new(offer(), true);
    server.feed(open(DOMAIN));
    server.feed_xml(&auth("ANONYMOUS", b""));
    assert_eq!(server.outcome(), "SASL invalid-mechanism");
    // One that has accounts.
    let plain = ("montague.example".to_owned(), vec![Mechanism::Plain]);
    let mut server = Server::new(Offer { apart: vec![plain], ..offer() }, true);
    server.feed(open("montague.example"));
    assert_eq!(mechanisms(&server.last()), ["PLAIN"]);
    assert!(server.last().has_child("register", "http://jabber.org/features/iq-register"));
}

#[test]
fn a_guest_gets_a_name_of_our_choosing() {
    let mut offer = offer();
    offer.mechanisms = vec![Mechanism::Anonymous];
    let mut server = Server::new(offer, true);
    server.feed(open(DOMAIN));
    server.feed_xml(&auth("ANONYMOUS", b""));
    let account = server.machine.account().expect("is authenticated").clone();
    assert_eq!((account.local().map(str::len), account.domain()), (Some(36), DOMAIN));
    assert_eq!(account.local().and_then(|name| name.chars().nth(14)), Some('4'));
}

#[test]
fn a_web_socket_gets_whole_frames() {
    let machine = Receiving::new(Arc::new(offer()), Framing::WebSocket, Some(tls()), [9; 32]);
    let mut server = Server { machine, ..Server::new(offer(), true) };
    let framed = StreamHeader { content_ns: String::new(), ..header(DOMAIN) };
    server.feed(Input::Open(Box::new(framed.clone())));
    assert!(Element::parse(server.wire[0].as_bytes()).expect("whole").is("open", ns::FRAMING));
    assert!(is_features(&Element::parse(server.wire[1].as_bytes()).expect("whole")));
    server.feed_xml(PLAIN);
    server.feed(Input::Open(Box::new(framed)));
    server.feed_xml(BIND);
    server.feed(Input::Bound(FullJid::parse("juliet@capulet.example/1").expect("a JID")));
    assert!(server.wire.last().expect("a result").starts_with("<iq xmlns='jabber:client' "));
}

#[test]
fn secrets_and_tokens_do_not_print() {
    let machine = Receiving::new(Arc::new(offer()), Framing::Stream, None, [0xab; 32]);
    let shown = format!("{machine:?}");
    assert!(!shown.contains("171") && shown.contains("Tokens("), "{shown}");
}

#[path = "receiving_rows.rs"]
mod rows;
