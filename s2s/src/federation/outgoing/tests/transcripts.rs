//! Negotiations as plays: what the peer says, what we say, what comes of it. No socket.
//!
//! `we:` and `peer:` speak; `tls:` is a handshake with a certificate that proves the domain or does not; `up:` and `end:` say what came of it. `=` is a stream header,
//! the peer's with what is behind it.

use xmpp::xml::framer::{Framer, Limits, Scan};

use super::super::machine::{Dial, Input, Machine, Output, Proof, Terms, farewell};
use crate::federation::dialback::{self, Pair};
use crate::federation::policy::{Certificate, Policy, Tls};

const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const SECRET: [u8; 32] = [7; 32];

fn policy(certificate: Certificate, tls: Tls) -> Terms {
    Terms::of(&Policy { certificate, tls, ..Policy::DEFAULT })
}

fn usual() -> Terms {
    policy(Certificate::Preferred, Tls::Required)
}

struct Play {
    machine: Option<Machine>,
    framer: Framer,
    outputs: Vec<String>,
}

impl Play {
    fn note(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let line = match output {
                Output::Send(bytes) => {
                    let text = String::from_utf8(bytes).unwrap();
                    let header = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' \
                        xmlns:stream='http://etherx.jabber.org/streams' \
                        xmlns:db='jabber:server:dialback' from='capulet.example' \
                        to='montague.example' version='1.0' xml:lang='en'>";
                    format!("we: {}", if text == header { "=" } else { &text })
                }
                Output::StartTls => "we: (handshake)".to_owned(),
                Output::Restart => {
                    self.framer.restart();
                    continue;
                }
                Output::Established(up) => {
                    let proof = match up.proof {
                        Proof::External => "external",
                        Proof::Dialback => "dialback",
                        Proof::None => "nothing",
                    };
                    let also = [
                        (up.is_tls, " tls"),
                        (up.is_proved, " proved"),
                        (up.bidi, " bidi"),
                        (up.sm, " sm"),
                        (up.takes_more, " more"),
                    ];
                    let also = also.iter().filter(|(is, _)| *is).map(|(_, name)| *name);
                    format!("up: {proof}{}", also.collect::<String>())
                }
                Output::Failed(failure) => {
                    let last = String::from_utf8(farewell(&failure)).unwrap();
                    assert!(last.ends_with("</stream:stream>"));
                    format!("end: {failure}")
                }
            };
            self.outputs.push(line);
        }
    }

    fn peer(&mut self, text: &str) {
        let header =
            "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'";
        let text = match text.strip_prefix('=') {
            Some(rest) => format!("{header}{rest}>"),
            None => text.to_owned(),
        };
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let input = match self.framer.scan(rest) {
                Ok(Scan::More) => panic!("half a piece: {text}"),
                Ok(Scan::Space(taken)) => {
                    rest = &rest[taken..];
                    continue;
                }
                Ok(Scan::Open(taken, header)) => {
                    rest = &rest[taken..];
                    Input::Open(header)
                }
                Ok(Scan::Element(taken, _)) => {
                    let element = self.framer.element(&rest[..taken]).unwrap();
                    rest = &rest[taken..];
                    Input::Element(element)
                }
                Ok(Scan::Close(_)) => {
                    rest = &[];
                    Input::Closed
                }
                Err(error) => {
                    rest = &[];
                    Input::Broken(error)
                }
            };
            self.input(input);
        }
    }

    fn input(&mut self, input: Input) {
        let outputs = self.machine.as_mut().expect("it is still on").handle(input);
        self.note(outputs);
    }
}

fn play_with(dial: Dial, script: &str) {
    let mut play =
        Play { machine: None, framer: Framer::stream(Limits::PRE_AUTH), outputs: Vec::new() };
    match Machine::new(dial) {
        Ok((machine, first)) => {
            play.machine = Some(machine);
            play.note(first);
        }
        Err(failure) => play.outputs.push(format!("end: {failure}")),
    }
    for (number, line) in script.lines().map(str::trim).enumerate() {
        if let Some(text) = line.strip_prefix("peer: ") {
            assert!(play.outputs.is_empty(), "line {number}: before it {:?}", play.outputs);
            play.peer(&text.replace("STARTTLS", STARTTLS));
        } else if let Some(what) = line.strip_prefix("tls: ") {
            play.framer.restart();
            play.input(Input::Tls { proved: what == "proved" });
        } else if !line.is_empty() {
            let key = |id| dialback::key(&SECRET, "montague.example", "capulet.example", id);
            let expected = line.replace("STARTTLS", STARTTLS).replace("KEY1", &key("1"));
            let expected = expected.replace("KEY2", &key("2"));
            assert!(!play.outputs.is_empty(), "line {number}: nothing came, expected {expected}");
            assert_eq!(play.outputs.remove(0), expected, "line {number}");
        }
    }
    assert!(play.outputs.is_empty(), "at the end: {:?}", play.outputs);
}

fn dial(terms: Terms) -> Dial {
    let pair = Pair::new("capulet.example", "montague.example");
    Dial { pair, terms, direct_tls: None, secret: Some(SECRET) }
}

fn play(terms: Terms, script: &str) {
    play_with(dial(terms), script);
}

const TLS: &str = "we: =
    peer: = xmlns:db='jabber:server:dialback' id='1' from='montague.example' version='1.0'
    peer: <stream:features>STARTTLS<bidi xmlns='urn:xmpp:features:bidi'/></stream:features>
    we: STARTTLS
    peer: <proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
    we: (handshake)
    ";

fn after_tls(terms: Terms, script: &str) {
    play(terms, &format!("{TLS}{script}"));
}

const EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>";

#[test]
fn a_certificate_speaks_for_us_where_it_is_asked_for() {
    after_tls(
        usual(),
        &format!(
            "tls: proved
            we: =
            peer: = xmlns:db='jabber:server:dialback' id='2' from='montague.example' version='1.0'
            peer: <stream:features>{EXTERNAL}<bidi xmlns='urn:xmpp:features:bidi'/></stream:features>
            we: <bidi xmlns='urn:xmpp:bidi'/>
            we: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y2FwdWxldC5leGFtcGxl</auth>
            peer: <success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>
            we: =
            peer: = id='3' from='montague.example' version='1.0'
            peer: <stream:features><sm xmlns='urn:xmpp:sm:3'/><dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback></stream:features>
            up: external tls proved bidi sm more"
        ),
    );
}

#[test]
fn dialback_where_it_is_not() {
    after_tls(
        usual(),
        "tls: unproved
        we: =
        peer: = xmlns:db='jabber:server:dialback' id='2' from='MONTAGUE.example' version='1.0'
        peer: <stream:features><bidi xmlns='urn:xmpp:features:bidi'/><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>
        we: <bidi xmlns='urn:xmpp:bidi'/>
        we: <db:result from='capulet.example' to='montague.example'>KEY2</db:result>
        peer: <db:result from='montague.example' to='capulet.example' type='valid'/>
        up: dialback tls bidi",
    );
}

#[test]
fn dialback_after_external_failed_on_the_same_stream() {
    let failed = |terms, end: &str| {
        after_tls(
            terms,
            &format!(
                "tls: proved
                we: =
                peer: = xmlns:db='jabber:server:dialback' id='2' from='montague.example' version='1.0'
                peer: <stream:features>{EXTERNAL}</stream:features>
                we: <auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>Y2FwdWxldC5leGFtcGxl</auth>
                peer: <failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>
                {end}"
            ),
        );
    };
    failed(
        usual(),
        "we: <db:result from='capulet.example' to='montague.example'>KEY2</db:result>
        peer: </stream:stream>
        end: the other server refuses EXTERNAL: not-authorized",
    );
    failed(
        policy(Certificate::Required, Tls::Required),
        "end: the other server refuses EXTERNAL: not-authorized",
    );
}

#[test]
fn what_dialback_may_be_told() {
    let told = |answer: &str, end: &str| {
        after_tls(
            usual(),
            &format!(
                "tls: unproved
                we: =
                peer: = xmlns:db='jabber:server:dialback' id='2' version='1.0'
                peer: <stream:features/>
                we: <db:result from='capulet.example' to='montague.example'>KEY2</db:result>
                {answer}
                {end}"
            ),
        );
    };
    told(
        "peer: <db:result from='montague.example' to='capulet.example' type='invalid'/>",
        "end: the other server calls our dialback key wrong",
    );
    told(
        "peer: <db:result from='montague.example' to='capulet.example' type='error'><error type='cancel'><remote-connection-failed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>",
        "end: the other server refuses dialback: remote-connection-failed",
    );
    // S-054: answers that nobody asked for, of every kind, are nothing.
    told(
        "peer: <db:result from='other.example' to='capulet.example' type='valid'/>
        peer: <db:result from='montague.example' to='other.example' type='valid'/>
        peer: <db:result from='capulet.example' to='montague.example' type='valid'/>
        peer: <db:verify from='montague.example' to='capulet.example' id='2' type='valid'/>
        peer: <db:result from='montague.example' to='capulet.example'>key</db:result>
        peer: <db:result from='montague.example' to='capulet.example' type='valid'/>",
        "up: dialback tls",
    );
    told(
        "peer: <message from='montague.example' to='capulet.example'/>",
        "end: the other server broke the protocol: policy-violation",
    );
    told(
        "peer: <stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
        "end: the other server ended the stream: host-unknown",
    );
}

#[test]
fn tls_that_is_taken_away_ends_it() {
    // B-071, S-027.
    let stripped = "we: =
        peer: = xmlns:db='jabber:server:dialback' id='1' from='montague.example' version='1.0'
        peer: <stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>
        ";
    play(usual(), &format!("{stripped} end: the other server does not offer TLS"));
    let clear = policy(Certificate::Preferred, Tls::Optional);
    play(clear, &format!("{stripped} we: <db:result from='capulet.example' to='montague.example'>KEY1</db:result>
        peer: <db:result from='montague.example' to='capulet.example' type='valid'/>
        up: dialback"));
    let strict = policy(Certificate::Required, Tls::Optional);
    play(
        strict,
        &format!(
            "{stripped} end: the other server offers neither EXTERNAL nor dialback that we may use"
        ),
    );
    play(
        usual(),
        "we: =
        peer: = id='1' version='1.0'
        peer: <stream:features>STARTTLS</stream:features>
        we: STARTTLS
        peer: <failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>
        end: the other server does not offer TLS",
    );
}

#[test]
fn nothing_is_said_in_clear_after_proceed() {
    // B-070, as far as the machine sees it: the driver drops the connection before it looks at such bytes.
    after_tls(
        usual(),
        "peer: <stream:features/>
        end: the other server broke the protocol: policy-violation",
    );
}

#[test]
fn a_certificate_that_must_prove_does_or_it_ends() {
    after_tls(
        policy(Certificate::Required, Tls::Required),
        "tls: unproved
        we: =
        end: the certificate of the other server does not prove its domain",
    );
    let direct =
        Dial { direct_tls: Some(false), ..dial(policy(Certificate::Required, Tls::Required)) };
    play_with(direct, "end: the certificate of the other server does not prove its domain");
}

#[test]
fn a_certificate_that_is_ignored_proves_nothing_of_ours_either() {
    let ignored = policy(Certificate::Ignored, Tls::Required);
    let script = format!(
        "we: =
        peer: = xmlns:db='jabber:server:dialback' id='1' version='1.0'
        peer: <stream:features>{EXTERNAL}</stream:features>
        we: <db:result from='capulet.example' to='montague.example'>KEY1</db:result>
        peer: <db:result from='montague.example' to='capulet.example' type='valid'/>
        up: dialback tls proved"
    );
    play_with(Dial { direct_tls: Some(true), ..dial(ignored) }, &script);
}

#[test]
fn a_server_of_the_old_days_has_dialback_alone() {
    let old = "we: =
        peer: = xmlns:db='jabber:server:dialback' id='1'
        ";
    play(usual(), &format!("{old} end: the other server does not offer TLS"));
    play(
        policy(Certificate::Preferred, Tls::Optional),
        &format!(
            "{old} we: <db:result from='capulet.example' to='montague.example'>KEY1</db:result>
        peer: <db:result from='montague.example' to='capulet.example' type='valid'/>
        up: dialback"
        ),
    );
}

#[test]
fn a_stream_without_an_id_is_no_ground_for_a_key() {
    // S-057.
    let clear = policy(Certificate::Preferred, Tls::Optional);
    play(
        clear,
        "we: =
        peer: = xmlns:db='jabber:server:dialback' id=''
        end: the other server broke the protocol: invalid-xml",
    );
}

#[test]
fn who_answers_must_be_whom_we_called() {
    play(
        usual(),
        "we: =
        peer: = id='1' from='verona.example' version='1.0'
        peer: <stream:features/>
        end: the other server broke the protocol: invalid-from",
    );
    // Whoever serves other domains says so in the name of one of them.
    play(
        usual(),
        "we: =
        peer: = id='1' from='verona.example' version='1.0'
        peer: <stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>
        end: the other server ended the stream: host-unknown",
    );
    play(
        usual(),
        "we: =
        peer: <stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1' version='1.0'>
        end: the other server broke the protocol: invalid-namespace",
    );
}

#[test]
fn another_host_is_believed_only_under_tls() {
    let elsewhere = "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>other.example:5270</see-other-host></stream:error>";
    play(
        usual(),
        &format!(
            "we: =
            peer: = id='1' version='1.0'
            peer: {elsewhere}
            end: the other server ended the stream: see-other-host"
        ),
    );
    after_tls(
        usual(),
        &format!(
            "tls: proved
            we: =
            peer: = id='2' version='1.0'
            peer: {elsewhere}
            end: the other server sends us to other.example:5270"
        ),
    );
}

#[test]
fn without_the_key_of_keys_dialback_waits() {
    let none = Dial { secret: None, direct_tls: Some(true), ..dial(usual()) };
    play_with(
        none,
        "we: =
        peer: = xmlns:db='jabber:server:dialback' id='1' version='1.0'
        peer: <stream:features/>
        end: dialback is not ready yet",
    );
}

#[test]
fn who_only_asks_about_a_key_does_not_authenticate() {
    let terms = Terms { only_verify: true, ..usual() };
    after_tls(
        terms,
        &format!(
            "tls: unproved
            we: =
            peer: = xmlns:db='jabber:server:dialback' id='2' version='1.0'
            peer: <stream:features>{EXTERNAL}<sm xmlns='urn:xmpp:sm:3'/></stream:features>
            up: nothing tls"
        ),
    );
}
