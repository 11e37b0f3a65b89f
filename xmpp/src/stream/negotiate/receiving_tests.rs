//! Tests of a client's negotiation: a whole login in memory, client and server machine against each other, with
//! tampering; and the rows of bad-inputs A to D and G that meet this machine.

use std::sync::Arc;

use super::super::features::{channel_bindings, is_features, mechanisms};
use super::*;
use crate::sasl::scram::{Client, ClientBinding, ClientError};
use crate::sasl::{ChannelBindings, Password, ScramKeys};
use crate::stanza::error::Condition;
use crate::stream::header::Framing;

const DOMAIN: &str = "capulet.example";

fn offer() -> Offer {
    let scram = |hash| [true, false].map(|plus| Mechanism::Scram { hash, plus });
    let mut mechanisms = scram(Hash::Sha256).to_vec();
    mechanisms.extend(scram(Hash::Sha1));
    mechanisms.extend([Mechanism::Plain, Mechanism::External]);
    Offer {
        domains: vec![DOMAIN.into(), "montague.example".into()],
        tls: TlsPolicy::Required,
        mechanisms,
        plain_without_tls: false,
        register: false,
        stream_management: true,
        roster_versioning: true,
        features_before_auth: b"<before xmlns='urn:x'/>".to_vec(),
        features_after_auth: b"<after xmlns='urn:x'/>".to_vec(),
        fake_secret: Secret::new(vec![1; 32]),
        fake_iterations: 4096,
    }
}

fn tls() -> Tls {
    let bindings = ChannelBindings { exporter: Some([5; 32]), server_end_point: Some(vec![6; 32]) };
    Tls { bindings, identities: Vec::new() }
}

fn header(to: &str) -> StreamHeader {
    StreamHeader {
        to: Some(to.into()),
        version: Some((1, 0)),
        content_ns: ns::CLIENT.into(),
        ..StreamHeader::default()
    }
}

fn open(to: &str) -> Input {
    Input::Open(Box::new(header(to)))
}

fn element(xml: &str) -> Element {
    let declared = format!("<stream:features xmlns:stream='{}'>", ns::STREAM);
    Element::parse(xml.replace("<stream:features>", &declared).as_bytes()).expect(xml)
}

/// The machine, and what its caller does about the outputs that are not for the client.
struct Server {
    machine: Box<Receiving>,
    tls: Tls,
    credentials: Credentials,
    verdict: Verdict,
    /// What the client reads.
    wire: Vec<String>,
    /// Everything else, by name.
    done: Vec<String>,
}

impl Server {
    fn new(offer: Offer, tls_active: bool) -> Server {
        let machine =
            Receiving::new(Arc::new(offer), Framing::Stream, tls_active.then(tls), [9; 32]);
        Server {
            machine,
            tls: tls(),
            credentials: Credentials::Unknown,
            verdict: Verdict::Right,
            wire: Vec::new(),
            done: Vec::new(),
        }
    }

    fn feed(&mut self, input: Input) {
        for output in self.machine.handle(input) {
            match output {
                Output::Send(bytes) => self.wire.push(String::from_utf8(bytes).expect("text")),
                Output::StartTls => {
                    self.done.push("tls".into());
                    self.feed(Input::TlsReady(self.tls.clone()));
                }
                Output::LookUp { .. } => self.feed(Input::Credentials(self.credentials.clone())),
                Output::CheckPlain { .. } => self.feed(Input::PlainChecked(self.verdict)),
                Output::Bind { account, resource, .. } => {
                    self.done.push(format!("bind {account}/{}", resource.unwrap_or_default()));
                }
                Output::Resume { account, previd, h } => {
                    self.done.push(format!("resume {account} {previd} {h}"))
                }
                Output::Register(_) => self.done.push("register".into()),
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

    fn feed_xml(&mut self, xml: &str) {
        self.feed(Input::Element(element(xml)));
    }

    fn last(&self) -> Element {
        element(self.wire.last().expect("something was sent"))
    }

    /// In the words of bad-inputs.md.
    fn outcome(&self) -> String {
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
            (ns::SASL, "failure") => format!("SASL {}", condition(ns::SASL)),
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

/// One row: what the machine is set up with, a script, and the last thing it said.
struct Row {
    no: &'static str,
    change: fn(&mut Server, &mut Offer),
    tls: bool,
    script: &'static [&'static str],
    expected: &'static str,
}

const ROW: Row = Row { no: "", change: |_, _| {}, tls: true, script: &[], expected: "" };

const BIND: &str = "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
const PLAIN: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMA==</auth>";
const ABORT: &str = "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const RESPONSE: &str = "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</response>";
const BEGUN: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>";
const STARTTLS_XML: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const REGISTER: &str = "<iq id='1' type='get'><query xmlns='jabber:iq:register'/></iq>";

const ROWS: &[Row] = &[
    // A: headers.
    Row {
        no: "B-010",
        script: &["open ns=jabber:server"],
        expected: "SE invalid-namespace",
        ..ROW
    },
    Row { no: "B-013", script: &["open version=-"], expected: "SE unsupported-version", ..ROW },
    Row { no: "B-014", script: &["open version=0.9"], expected: "SE unsupported-version", ..ROW },
    Row { no: "newer", script: &["open version=2.1"], expected: "features", ..ROW },
    Row { no: "B-016", script: &["open to=-"], expected: "SE host-unknown", ..ROW },
    Row { no: "B-017", script: &["open to=verona.example"], expected: "SE host-unknown", ..ROW },
    Row { no: "B-019", script: &["open to=a@b@c"], expected: "SE host-unknown", ..ROW },
    Row {
        no: "B-019",
        script: &["open to=juliet@capulet.example"],
        expected: "SE host-unknown",
        ..ROW
    },
    Row { no: "upper case", script: &["open to=Capulet.Example"], expected: "features", ..ROW },
    Row {
        no: "B-022",
        script: &["open", PLAIN, "open to=montague.example"],
        expected: "SE not-authorized",
        ..ROW
    },
    Row {
        no: "B-022",
        script: &["open", PLAIN, "open to=verona.example"],
        expected: "SE not-authorized",
        ..ROW
    },
    Row {
        no: "B-023",
        script: &["open", PLAIN, "open from=romeo@capulet.example"],
        expected: "SE invalid-from",
        ..ROW
    },
    Row {
        no: "B-023",
        script: &["open", PLAIN, "open from=@"],
        expected: "SE invalid-from",
        ..ROW
    },
    Row {
        no: "full from",
        script: &["open", PLAIN, "open from=juliet@capulet.example/x"],
        expected: "features",
        ..ROW
    },
    Row { no: "twice", script: &["open", "open"], expected: "SE policy-violation", ..ROW },
    Row { no: "too early", script: &[PLAIN], expected: "SE not-authorized", ..ROW },
    Row {
        no: "B-046",
        script: &["open", "<x xmlns='urn:x'/>"],
        expected: "SE unsupported-stanza-type",
        ..ROW
    },
    Row { no: "stanza", script: &["open", "<message/>"], expected: "SE not-authorized", ..ROW },
    Row {
        no: "stanza",
        script: &["open", BEGUN, "<presence/>"],
        expected: "SE not-authorized",
        ..ROW
    },
    // B: STARTTLS.
    Row {
        no: "B-067",
        tls: false,
        script: &["open", PLAIN],
        expected: "SASL encryption-required",
        ..ROW
    },
    Row {
        no: "B-067",
        tls: false,
        script: &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X'>=</auth>"],
        expected: "SASL encryption-required",
        ..ROW
    },
    Row { no: "B-068", tls: false, script: &["open", BIND], expected: "SE not-authorized", ..ROW },
    Row {
        no: "B-068",
        tls: false,
        script: &["open", "<enable xmlns='urn:xmpp:sm:3'/>"],
        expected: "SE not-authorized",
        ..ROW
    },
    Row { no: "B-073", script: &["open", STARTTLS_XML], expected: "SE policy-violation", ..ROW },
    Row {
        no: "B-073",
        tls: false,
        script: &["open", STARTTLS_XML, "open", STARTTLS_XML],
        expected: "SE policy-violation",
        ..ROW
    },
    Row {
        no: "S-025",
        tls: false,
        change: |_, offer| offer.tls = TlsPolicy::Absent,
        script: &["open", STARTTLS_XML],
        expected: "SE policy-violation",
    },
    Row {
        no: "no header",
        tls: false,
        script: &["open", STARTTLS_XML, PLAIN],
        expected: "SE not-authorized",
        ..ROW
    },
    Row {
        no: "PLAIN in clear",
        tls: false,
        change: |_, offer| offer.tls = TlsPolicy::Optional,
        script: &["open", PLAIN],
        expected: "SASL encryption-required",
    },
    Row {
        no: "PLAIN in clear",
        tls: false,
        change: |_, offer| (offer.tls, offer.plain_without_tls) = (TlsPolicy::Absent, true),
        script: &["open", PLAIN],
        expected: "success",
    },
    // C: SASL.
    Row {
        no: "B-085",
        script: &[
            "open",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'>=</auth>",
        ],
        expected: "SASL invalid-mechanism",
        ..ROW
    },
    Row {
        no: "B-085",
        script: &[
            "open",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>",
        ],
        expected: "SASL invalid-mechanism",
        ..ROW
    },
    Row {
        no: "B-085",
        script: &[
            "open",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='plain'>=</auth>",
        ],
        expected: "SASL invalid-mechanism",
        ..ROW
    },
    Row {
        no: "B-085",
        script: &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</auth>"],
        expected: "SASL invalid-mechanism",
        ..ROW
    },
    Row {
        no: "B-086",
        script: &[
            "open",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>?</auth>",
        ],
        expected: "SASL incorrect-encoding",
        ..ROW
    },
    Row {
        no: "B-086",
        script: &[
            "open",
            BEGUN,
            "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AGp1 bGll</response>",
        ],
        expected: "SASL incorrect-encoding",
        ..ROW
    },
    Row {
        no: "B-088",
        script: &["open", BEGUN, RESPONSE],
        expected: "SASL malformed-request",
        ..ROW
    },
    Row { no: "no initial response", script: &["open", BEGUN], expected: "challenge", ..ROW },
    Row { no: "aborted", script: &["open", BEGUN, ABORT], expected: "SASL aborted", ..ROW },
    Row { no: "B-101", script: &["open", RESPONSE], expected: "SASL malformed-request", ..ROW },
    Row { no: "B-101", script: &["open", ABORT], expected: "SASL malformed-request", ..ROW },
    Row { no: "twice", script: &["open", BEGUN, BEGUN], expected: "SASL malformed-request", ..ROW },
    Row {
        no: "twice",
        script: &["open", BEGUN, BEGUN, RESPONSE],
        expected: "SASL malformed-request",
        ..ROW
    },
    Row {
        no: "B-103",
        script: &["open", ABORT, ABORT, ABORT, ABORT, ABORT],
        expected: "SASL malformed-request",
        ..ROW
    },
    Row {
        no: "B-103",
        script: &["open", ABORT, ABORT, ABORT, ABORT, ABORT, ABORT],
        expected: "SE policy-violation",
        ..ROW
    },
    Row {
        no: "B-112",
        change: |server, _| server.verdict = Verdict::Disabled,
        script: &["open", PLAIN],
        expected: "SASL account-disabled",
        ..ROW
    },
    Row {
        no: "B-113",
        change: |server, _| server.verdict = Verdict::Unavailable,
        script: &["open", PLAIN],
        expected: "SASL temporary-auth-failure",
        ..ROW
    },
    Row {
        no: "wrong",
        change: |server, _| server.verdict = Verdict::Wrong,
        script: &["open", PLAIN],
        expected: "SASL not-authorized",
        ..ROW
    },
    Row {
        no: "after success",
        script: &["open", PLAIN, "open", PLAIN],
        expected: "SE policy-violation",
        ..ROW
    },
    Row {
        no: "after success",
        script: &["open", PLAIN, PLAIN],
        expected: "SE not-authorized",
        ..ROW
    },
    // D: binding.
    Row {
        no: "B-118",
        script: &[
            "open",
            PLAIN,
            "open",
            "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource/></bind></iq>",
        ],
        expected: "ST bad-request/modify",
        ..ROW
    },
    Row {
        no: "B-118",
        script: &[
            "open",
            PLAIN,
            "open",
            "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>&#xE000;</resource></bind></iq>",
        ],
        expected: "ST bad-request/modify",
        ..ROW
    },
    Row {
        no: "bind get",
        script: &[
            "open",
            PLAIN,
            "open",
            "<iq id='1' type='get'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        ],
        expected: "ST bad-request/modify",
        ..ROW
    },
    Row {
        no: "bind without id",
        script: &[
            "open",
            PLAIN,
            "open",
            "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        ],
        expected: "ST bad-request/modify",
        ..ROW
    },
    Row {
        no: "bind result",
        script: &[
            "open",
            PLAIN,
            "open",
            "<iq id='1' type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>",
        ],
        expected: "SE not-authorized",
        ..ROW
    },
    Row {
        no: "unbound",
        script: &["open", PLAIN, "open", "<presence/>"],
        expected: "SE not-authorized",
        ..ROW
    },
    Row {
        no: "while binding",
        script: &["open", PLAIN, "open", BIND, BIND],
        expected: "SE policy-violation",
        ..ROW
    },
    // G: stream management.
    Row {
        no: "B-176",
        script: &["open", "<enable xmlns='urn:xmpp:sm:3'/>"],
        expected: "SM unexpected-request",
        ..ROW
    },
    Row {
        no: "B-176",
        script: &["open", PLAIN, "open", "<enable xmlns='urn:xmpp:sm:3'/>"],
        expected: "SM unexpected-request",
        ..ROW
    },
    Row {
        no: "B-184",
        script: &["open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>"],
        expected: "SM unexpected-request",
        ..ROW
    },
    Row {
        no: "B-185",
        script: &["open", PLAIN, "open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>"],
        expected: "SM bad-request",
        ..ROW
    },
    Row {
        no: "not offered",
        change: |_, offer| offer.stream_management = false,
        script: &["open", PLAIN, "open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>"],
        expected: "SM unexpected-request",
        ..ROW
    },
    Row {
        no: "r",
        script: &["open", PLAIN, "open", "<r xmlns='urn:xmpp:sm:3'/>"],
        expected: "SE not-authorized",
        ..ROW
    },
    // Registration.
    Row { no: "S-099", script: &["open", REGISTER], expected: "SE not-authorized", ..ROW },
    Row {
        no: "S-099",
        tls: false,
        change: |_, offer| offer.register = true,
        script: &["open", REGISTER],
        expected: "SE not-authorized",
    },
    Row {
        no: "register",
        change: |_, offer| offer.register = true,
        script: &["open", REGISTER],
        expected: "features",
        ..ROW
    },
];

/// `open to=… from=… version=… ns=…`, with `-` for nothing.
fn scripted_header(line: &str) -> StreamHeader {
    let mut header = header(DOMAIN);
    for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
        let value = (value != "-").then(|| value.to_owned());
        match key {
            "to" => header.to = value,
            "from" => header.from = value,
            "ns" => header.content_ns = value.unwrap_or_default(),
            "version" => {
                header.version = value.and_then(|value| {
                    let (major, minor) = value.split_once('.')?;
                    Some((major.parse().ok()?, minor.parse().ok()?))
                });
            }
            _ => panic!("{line}"),
        }
    }
    header
}

#[test]
fn every_bad_input_gets_its_answer() {
    for row in ROWS {
        let (mut server, mut offer) = (Server::new(offer(), row.tls), offer());
        (row.change)(&mut server, &mut offer);
        server.machine =
            Receiving::new(Arc::new(offer), Framing::Stream, row.tls.then(tls), [9; 32]);
        for line in row.script {
            match line.strip_prefix("open") {
                Some(line) => server.feed(Input::Open(Box::new(scripted_header(line)))),
                None => server.feed_xml(line),
            }
        }
        assert_eq!(server.outcome(), row.expected, "{} {:?}", row.no, row.script);
        assert!(server.wire[0].starts_with("<?xml"), "{}: our header goes first", row.no);
        if row.expected.starts_with("SE ") {
            let said = server.wire.len();
            server.feed(open(DOMAIN));
            assert_eq!(server.wire.len(), said, "{}: silent after a stream error", row.no);
        }
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
    server.feed_xml(&auth("EXTERNAL", b""));
    assert_eq!(server.outcome(), "success");
}

#[test]
fn a_guest_gets_a_name_of_our_choosing() {
    let mut offer = offer();
    offer.mechanisms = vec![Mechanism::Anonymous];
    let mut server = Server::new(offer, true);
    server.feed(open(DOMAIN));
    server.feed_xml(&auth("ANONYMOUS", b""));
    let account = server.machine.account().expect("is authenticated").clone();
    assert_eq!((account.local().map(str::len), account.domain()), (Some(20), DOMAIN));
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
