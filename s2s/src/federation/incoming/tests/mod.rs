//! The machine of an incoming stream against plays in text: what the peer sends and what happens around it, and what we do about it. Every row of
//! bad-inputs (B-…) and of its security list (S-…) that concerns domain streams is one of them. The words are explained at [`Stage::play`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{Empty, empty};
use xmpp::sm::{Inbound, Outbound};
use xmpp::xml::framer::Limits as XmlLimits;
use xmpp::{BareJid, Element, Stanza, ns};

use super::machine::Machine;
use super::pairing::UNPROVED_REQUESTS_MAX;
use super::turns::{House, Input, Kept, Output, Settings};
use crate::federation::Ticket;
use crate::federation::dialback::{self, DialbackError, Pair, Verify};
use crate::federation::pairs::Pairs;
use crate::federation::policy::{Certificate, Policy, Tls};
use crate::federation::wire::{Item, Wire};
use crate::federation::{Limits, Timers};

const SECRET: [u8; 32] = *b"a secret that all our nodes know";

/// We are `capulet.example` and `chat.capulet.example`.
struct Home;

impl House for Home {
    fn is_ours(&self, domain: &str) -> bool {
        matches!(domain, "capulet.example" | "chat.capulet.example")
    }

    fn dialback_secret(&self) -> Option<[u8; 32]> {
        Some(SECRET)
    }

    fn policy(&self, domain: &str) -> Policy {
        match domain {
            "denied.example" => Policy { allow: false, ..Policy::DEFAULT },
            "clear.example" => Policy { tls: Tls::Optional, ..Policy::DEFAULT },
            "strict.example" => Policy { certificate: Certificate::Required, ..Policy::DEFAULT },
            _ => Policy::DEFAULT,
        }
    }
}

pub(super) fn settings() -> Settings {
    let limits = Limits {
        streams_max: 10,
        unproved_per_address_max: 3,
        streams_per_domain_max: 3,
        pairs_per_stream_max: 3,
        verifications_max: 10,
        stanza_bytes_max: 10_000,
        queue_items_max: 10,
        queue_bytes_max: 100_000,
        queued_bytes_max: 100_000,
        unacked_max: 2,
        unhandled_max: 3,
        bytes_per_second: 1 << 20,
    };
    let timers = Timers {
        negotiate: Duration::from_secs(30),
        queue: Duration::from_secs(60),
        idle: Duration::from_secs(300),
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_secs(60),
        resume: Duration::from_secs(120),
        ack: Duration::from_secs(10),
    };
    Settings { name: "capulet.example".to_owned(), limits, timers }
}

/// One play: the machine, and the wire it hangs on.
struct Stage {
    machine: Machine,
    wire: Wire<Empty>,
    now: Instant,
    verifying: Vec<Verify>,
    /// Names of ours that the play does not know in advance.
    names: Vec<(String, &'static str)>,
    said: Vec<String>,
}

impl Stage {
    fn new() -> Stage {
        let now = Instant::now();
        Stage {
            machine: Machine::new(Arc::new(settings()), [7; 32], now),
            wire: Wire::new(empty(), XmlLimits::PRE_AUTH),
            now,
            verifying: Vec::new(),
            names: Vec::new(),
            said: Vec::new(),
        }
    }

    fn feed(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.handle(&Home, self.now, input, &mut out);
        for output in out {
            self.perform(output);
        }
        self.wire.set_limits(self.machine.limits());
    }

    /// What was read goes to the machine as the driver would give it.
    fn read(&mut self) {
        while !self.machine.is_waiting() && !self.machine.is_over() && !self.machine.is_full() {
            let input = match self.wire.next() {
                Ok(None) => return,
                Ok(Some(Item::Open(header))) => Input::Open(header),
                Ok(Some(Item::Stanza(piece, head))) => Input::Stanza(piece, head),
                Ok(Some(Item::Element(element))) => Input::Element(element),
                Ok(Some(Item::Close)) => Input::Close,
                Err(error) => Input::Broken(error),
            };
            self.feed(input);
        }
    }

    fn say(&mut self, words: impl Into<String>) {
        let mut words = words.into();
        for (name, called) in &self.names {
            words = words.replace(name.as_str(), called);
        }
        self.said.push(words);
    }

    fn perform(&mut self, output: Output) {
        let pair = |pair: &Pair| format!("{} {}", pair.from, pair.to);
        match output {
            Output::Send(bytes) => {
                let text = String::from_utf8(bytes.to_vec()).expect("text");
                let words = self.spoken(&text);
                self.say(words);
            }
            Output::StartTls => {
                if self.wire.is_amid() {
                    return self.say("hang up"); // The driver's duty.
                }
                self.wire = Wire::new(empty(), XmlLimits::PRE_AUTH);
                self.say("start tls");
            }
            Output::Restart => self.wire.restart(),
            Output::Prove(domain) => self.say(format!("prove {domain}")),
            Output::Verify(verify) => {
                self.say(format!("verify {} {} {}", pair(&verify.pair), verify.id, verify.key));
                self.verifying.push(verify);
            }
            Output::Accepted(accepted) => self.say(format!("accepted {}", pair(&accepted))),
            Output::Back(back) => self.say(format!("back {}", pair(&back))),
            Output::Receive(stanza, number) => self.say(format!("receive {number} {stanza:?}")),
            Output::Delivered(tickets) => {
                let orders: Vec<_> = tickets.iter().map(|ticket| ticket.order).collect();
                self.say(format!("delivered {orders:?}"));
            }
            Output::Sent(ticket) => self.say(format!("sent {}", ticket.order)),
            Output::Resumable(id) => {
                self.names.push((id, "SM"));
                self.say("resumable SM");
            }
            Output::Resume(id) => self.say(format!("resume {id}")),
            Output::Dropped(_) => self.say("dropped"),
            Output::Closing => self.say("closing"),
            Output::End(None) => self.say("end"),
            Output::End(Some(error)) => {
                let extra = error.extra.map(|extra| format!(" {extra}")).unwrap_or_default();
                self.say(format!("error {}{extra}", error.condition.name()));
            }
            Output::Cut => self.say("cut"),
        }
    }

    /// Bytes of ours, made short where they are always the same.
    fn spoken(&mut self, text: &str) -> String {
        if text == " " {
            return "space".to_owned();
        }
        if text.starts_with("<?xml") {
            let root = text.split_once("?>").expect("a declaration").1.replace('>', "/>");
            let root = Element::parse(root.as_bytes()).expect("a header");
            assert!(
                text.contains(" xmlns='jabber:server'")
                    && text.contains(" xmlns:db='jabber:server:dialback'")
            );
            assert_eq!(root.attr("version"), Some("1.0"));
            self.names.push((root.attr("id").expect("an id").to_owned(), "ID"));
            let to = root.attr("to").map(|to| format!(" to {to}")).unwrap_or_default();
            return format!("header from {}{to}", root.attr("from").unwrap_or("nobody"));
        }
        if text.starts_with("<stream:features>") {
            let declared = text.replacen('>', &format!(" xmlns:stream='{}'>", ns::STREAM), 1);
            let features = Element::parse(declared.as_bytes()).expect("features");
            let names = features.children().map(|feature| match feature.name() {
                "mechanisms" => feature.children().map(Element::text).collect::<String>(),
                "limits" => feature.children().map(Element::text).collect::<String>(),
                name if feature.children().any(|child| child.name() == "required") => {
                    format!("{name}!")
                }
                name => name.to_owned(),
            });
            return format!("features {}", names.collect::<Vec<_>>().join(" "));
        }
        text.to_owned()
    }

    /// One line of a play.
    /// `peer: open …` its header, `name=value` for what is not as usual, `name=-` for what is left out; `peer: XML`; `peer: bytes HEX`.
    /// `tls: certificate` or `tls: none`; `proves: DOMAIN yes|no`; `server: FROM TO valid|invalid|ERROR` (the authoritative one has answered);
    /// `handled: N`; `after: SECONDS`; `deaf: SECONDS` (so long it is not read); `send: ORDER XML` (back over this stream); `kept: none` or `kept: HANDLED PEER OURS ORDER…` (what was looked for; `ORDER-named`: it names
    /// the namespace of clients; `HANDLED+N`: so many more had come and were not handled).
    /// `{key RECEIVING ORIGINATING ID}` stands for a key of ours, `{x N}` for N letters.
    fn play(&mut self, line: &str) {
        let (who, what) = line.split_once(':').unwrap_or_else(|| panic!("{line}"));
        let what = what.trim();
        let words: Vec<_> = what.split(' ').collect();
        match who {
            "peer" if words[0] == "open" => {
                let header = opening(&words[1..]);
                self.wire.feed(header.as_bytes());
                self.read();
            }
            "peer" if words[0] == "bytes" => {
                let bytes = words[1].as_bytes().chunks(2).map(|pair| {
                    u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex")
                });
                self.wire.feed(&bytes.collect::<Vec<_>>());
                self.read();
            }
            "peer" => {
                self.wire.feed(expand(what).as_bytes());
                self.read();
            }
            "tls" => {
                self.feed(Input::Secured { certificate: what == "certificate" });
                self.read();
            }
            "proves" => {
                let (domain, good) = (words[0].to_owned(), words[1] == "yes");
                self.feed(Input::Proved { domain, good });
                self.read();
            }
            "server" => {
                let pair = Pair::new(words[0], words[1]);
                let at = self.verifying.iter().position(|verify| verify.pair == pair);
                let verify = at.map_or_else(
                    || Verify { pair, id: "another".to_owned(), key: "k".to_owned() },
                    |at| self.verifying.remove(at),
                );
                let answer = match words[2] {
                    "valid" => Ok(true),
                    "invalid" => Ok(false),
                    error => Err(DialbackError::parse(error).expect("a condition")),
                };
                self.feed(Input::Verified(verify, answer));
            }
            "handled" => {
                self.feed(Input::Handled(what.parse().expect("a number")));
                self.read();
            }
            "after" => {
                self.now += Duration::from_secs(what.parse().expect("seconds"));
                if self.machine.deadline().is_some_and(|deadline| self.now >= deadline) {
                    self.feed(Input::Tick);
                }
            }
            "deaf" => {
                let seconds = what.parse().expect("seconds");
                self.machine.deaf(self.now + Duration::from_secs(seconds));
            }
            "send" => {
                assert!(self.machine.may_send(), "not now: {line}");
                let (order, xml) = what.split_once(' ').expect("a stanza");
                let ticket = ticket(order);
                let stanza = Stanza::parse(xml.as_bytes().to_vec().into()).expect("a stanza");
                self.feed(Input::Back(ticket, stanza));
            }
            "kept" => {
                let kept = (what != "none").then(|| Box::new(kept(&words)));
                self.feed(Input::Resumed(kept));
                self.read();
            }
            _ => panic!("{line}"),
        }
    }
}

fn ticket(order: &str) -> Ticket {
    Ticket { via: None, order: order.parse().expect("a number") }
}

fn kept(words: &[&str]) -> Kept {
    let mut pairs = Pairs::default();
    pairs.add(&Pair::new(words[1], words[2]));
    let stanza = |order: &str| {
        let (order, xml) = match order.strip_suffix("-named") {
            Some(order) => {
                (order, format!("<message id='{order}'><x xmlns='jabber:client'/></message>"))
            }
            None => (order, format!("<message id='{order}'/>")),
        };
        let stanza = Stanza::parse(xml.into_bytes().into()).expect("a stanza");
        ((ticket(order), stanza), 20)
    };
    let unacked = Outbound::resumed(0, words[3..].iter().map(|order| stanza(order)), 10, 1000);
    let (handled, open) = words[0].split_once('+').unwrap_or((words[0], "0"));
    let [handled, open] = [handled, open].map(|n| n.parse::<u32>().expect("a number"));
    let mut inbound = Inbound::default();
    for _ in 0..open {
        inbound.begin();
    }
    let id = "older".to_owned();
    Kept { id, inbound, from: 0, handled, pairs, bidi: !unacked.is_empty(), unacked }
}

fn opening(changes: &[&str]) -> String {
    let mut attributes = vec![
        ("xmlns", ns::SERVER),
        ("xmlns:stream", ns::STREAM),
        ("xmlns:db", ns::DIALBACK),
        ("from", "montague.example"),
        ("to", "capulet.example"),
        ("version", "1.0"),
    ];
    let mut name = "stream:stream";
    for change in changes {
        let (key, value) = change.split_once('=').expect("name=value");
        match key {
            "name" => name = value,
            _ => {
                attributes.retain(|(other, _)| *other != key);
                if value != "-" {
                    attributes.push((key, value));
                }
            }
        }
    }
    let attributes = attributes.iter().map(|(name, value)| format!(" {name}='{value}'"));
    format!("<?xml version='1.0'?><{name}{}>", attributes.collect::<String>())
}

/// Replaces what stands in braces.
fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
    let (inside, after) = rest.split_once('}').expect("a closing brace");
    let words: Vec<_> = inside.split(' ').collect();
    let value = match words[..] {
        ["key", receiving, originating, id] => {
            dialback::key(&SECRET, receiving, originating, &id.replace('_', " "))
        }
        ["x", count] => "x".repeat(count.parse().expect("a number")),
        _ => panic!("{inside}"),
    };
    format!("{before}{value}{}", expand(after))
}

/// A play begins with `== NAME` and maybe `from NAME`, whose lines go before its own; `we:` is what is expected after the line above; `#` explains.
fn perform(text: &str) {
    let mut plays: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix("== ") {
            plays.push((name, Vec::new()));
        } else if let Some(earlier) = line.strip_prefix("from ") {
            let found = plays.iter().find(|(name, _)| *name == earlier);
            let lines = found.unwrap_or_else(|| panic!("no play {earlier}")).1.clone();
            plays.last_mut().expect("a name first").1.extend(lines);
        } else {
            plays.last_mut().expect("a name first").1.push(line);
        }
    }
    assert!(!plays.is_empty());
    let mut failed = String::new();
    for (name, lines) in plays {
        let mut stage = Stage::new();
        let mut seen = Vec::new();
        for line in &lines {
            if !line.starts_with("we:") {
                seen.push((*line).to_owned());
                stage.play(line);
                seen.extend(stage.said.drain(..).map(|words| format!("we: {words}")));
            }
        }
        let expected: Vec<_> = lines.iter().map(|line| expand(line)).collect();
        let seen: Vec<_> = seen.iter().map(|line| expand(line)).collect();
        if seen != expected {
            failed.push_str(&format!("== {name}\n{}\n\n", seen.join("\n")));
        }
    }
    assert!(failed.is_empty(), "not as written, but:\n{failed}");
}

#[test]
fn headers_and_xml() {
    perform(include_str!("headers.txt"));
}

#[test]
fn certificates_and_external() {
    perform(include_str!("external.txt"));
}

#[test]
fn dialback_and_many_pairs() {
    perform(include_str!("dialback.txt"));
}

#[test]
fn a_stream_that_has_proved_nothing_has_few_requests() {
    let mut stage = Stage::new();
    let limits = Limits { pairs_per_stream_max: 1_000, ..settings().limits };
    stage.machine.set(Arc::new(Settings { limits, ..settings() }));
    stage.play("tls: none");
    stage.play("peer: open");
    for number in 0..UNPROVED_REQUESTS_MAX {
        stage.play(&format!(
            "peer: <db:result from='a{number}.example' to='capulet.example'>k</db:result>"
        ));
        stage.play(&format!("server: a{number}.example capulet.example remote-server-not-found"));
    }
    stage.said.clear();
    let more = "peer: <db:result from='b.example' to='capulet.example'>k</db:result>";
    stage.play(more);
    assert!(stage.said[0].contains("resource-constraint"), "{:?}", stage.said);
    assert_eq!(stage.said.len(), 1, "and nobody is asked");
}

#[test]
fn stanzas_and_times() {
    perform(include_str!("stanzas.txt"));
}

#[test]
fn stream_management_and_both_directions() {
    perform(include_str!("management.txt"));
}

#[test]
fn domains_of_plays_are_prepared() {
    for domain in ["capulet.example", "montague.example"] {
        assert_eq!(BareJid::parse(domain).expect("a domain").as_str(), domain);
    }
}
