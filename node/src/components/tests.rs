//! Components on a wire in memory, at a whole node: what their streams are answered with, what reaches them, what becomes of it when they go.

mod going;
mod reloading;
mod signing;
mod watching;

use std::time::Duration;

use global_distrib::Place;
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::testing::{House, Wire, romeo};
use crate::transport::tcp::{Accepted, Gate, GateLimits};

const SOON: Duration = Duration::from_secs(5);
pub(super) const CONFIG: &str = "
[components]
secret = 'of all'
any_below = true
[[components.component]]
domain = 'irc.chat.example'
title = 'IRC'
secret = 'of its own'
[[components.component]]
domain = 'bridge.example'
listed = false
";

/// The far end of a component's connection.
pub(super) struct Line<S = DuplexStream> {
    line: S,
    got: String,
}

impl Line {
    pub(super) fn new(house: &House) -> Line {
        let (transport, line) = Wire::pair();
        let peer = transport.peer_addr().expect("an address");
        let admission = Gate::new(GateLimits::default()).admit(peer.ip()).expect("admitted");
        tokio::spawn(serve(house.node.clone(), Accepted { transport, peer, admission }));
        Line { line, got: String::new() }
    }

    pub(super) async fn connected(house: &House, domain: &str, secret: &str) -> Line {
        let mut line = Line::new(house);
        line.shakes(domain, secret).await;
        line.reads("<handshake/>").await;
        line
    }

    pub(super) async fn shakes(&mut self, domain: &str, secret: &str) {
        let id = self.opens_as(domain).await;
        self.hashes(&id, secret).await;
    }

    /// The id of its stream.
    pub(super) async fn opens_as(&mut self, domain: &str) -> String {
        self.says(&open(domain)).await;
        let header = self.reads(">").await + &self.reads(">").await;
        let id = header.split(" id='").nth(1).and_then(|rest| rest.split('\'').next());
        id.expect("an id in the header").to_owned()
    }

    pub(super) async fn hashes(&mut self, id: &str, secret: &str) {
        self.says(&shaken(id, secret)).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) async fn says(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).await.expect("written");
        self.line.flush().await.expect("written");
    }

    /// Everything up to and with `what`.
    pub(super) async fn reads(&mut self, what: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.got.find(what) {
                let rest = self.got.split_off(at + what.len());
                return std::mem::replace(&mut self.got, rest);
            }
            let read = tokio::time::timeout(SOON, self.line.read(&mut bytes)).await;
            let count = read.unwrap_or_else(|_| panic!("{what} after {:?}", self.got));
            let count = count.expect("read");
            assert!(count > 0, "the end instead of {what} after {:?}", self.got);
            self.got.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
        }
    }

    /// Everything until the end.
    pub(super) async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(SOON, self.line.read_to_end(&mut bytes)).await;
        read.expect("in time").expect("read");
        self.got + std::str::from_utf8(&bytes).expect("text")
    }
}

/// A connection at a node of another region, of that age.
pub(super) fn elsewhere(house: &House, full: &FullJid, generation: Hlc) -> NodeIx {
    let ix = house.node.geo.nodes.index("us-0").expect("few nodes");
    let row = Row::new(full.clone(), Place::There(ix), generation);
    house.node.directory.bind(row, |_| true);
    ix
}

fn shaken(id: &str, secret: &str) -> String {
    let hash = Sha1::digest(format!("{id}{secret}").as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("<handshake>{hash}</handshake>")
}

fn open(domain: &str) -> String {
    format!(
        "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='{domain}'>"
    )
}

#[tokio::test]
async fn stanzas_go_both_ways_with_the_addresses_they_have() {
    let (house, romeo) = romeo(CONFIG).await;
    let mut irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    house
        .says(&romeo, "<message to='#hall%net@irc.chat.example/x' id='1'><body>hi</body></message>")
        .await;
    let got = irc.reads("</message>").await;
    assert_eq!(
        got,
        "<message to='#hall%net@irc.chat.example/x' id='1' from='romeo@chat.example/orchard'><body>hi</body></message>"
    );
    irc.says("<message xmlns='jabber:component:accept' from='#hall%net@irc.chat.example' to='romeo@chat.example/orchard'><body>x</body></message>").await;
    irc.says("<message xmlns='jabber:client' from='irc.chat.example' to='romeo@chat.example/orchard'><body>y</body></message>").await;
    let mut both = Vec::new();
    while both.len() < 2 {
        both.extend(house.mail(&romeo).await);
    }
    let expected = [("#hall%net@irc.chat.example", "x"), ("irc.chat.example", "y")];
    for ((from, body), mail) in expected.into_iter().zip(both) {
        assert!(mail.contains(&format!("from='{from}'")) && mail.contains(body), "{mail}");
        assert!(!mail.contains("component:accept"), "{mail}");
    }
    // One to another, and to itself.
    let mut other = Line::connected(&house, "other.chat.example", "of all").await;
    other.says("<iq type='get' id='2' from='a@other.chat.example' to='irc.chat.example'><x xmlns='y'/></iq>").await;
    assert!(irc.reads("</iq>").await.contains("from='a@other.chat.example'"));
    irc.says("<message from='irc.chat.example' to='b@irc.chat.example'/>").await;
    assert!(irc.reads("/>").await.contains("to='b@irc.chat.example'"));
    // Its end ends ours, and it is gone.
    irc.says("</stream:stream>").await;
    assert_eq!(irc.rest().await, "</stream:stream>");
    house.says(&romeo, "<message to='irc.chat.example' id='3'/>").await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='3'"), "{mail}");
}

#[tokio::test]
async fn what_is_wrong_has_its_error_behind_a_header() {
    let house = House::with(CONFIG).await;
    let client = open("irc.chat.example").replace("component:accept", "client");
    for (says, expected) in [
        (open("nobody.example"), "host-unknown"),
        (open("bot@irc.chat.example"), "host-unknown"),
        (open("chat.example"), "conflict"),
        (open("upload.chat.example"), "conflict"),
        (open("eu.chat.example"), "conflict"),
        (client, "invalid-namespace"),
        (open("").replace(" to=''", ""), "improper-addressing"),
        ("GET / HTTP/1.1\r\n".into(), "not-well-formed"),
        ("<!DOCTYPE x>".into(), "restricted-xml"),
        ("<stream xmlns='jabber:component:accept'>".into(), "invalid-namespace"),
        (
            open("irc.chat.example") + "<message from='irc.chat.example' to='a@chat.example'/>",
            "not-authorized",
        ),
        (open("irc.chat.example") + "<handshake>0</handshake>", "not-authorized"),
        (open("irc.chat.example") + "<?php", "restricted-xml"),
    ] {
        let mut line = Line::new(&house);
        line.says(&says).await;
        let said = line.rest().await;
        assert!(said.starts_with("<?xml version='1.0'?><stream:stream "), "{says}: {said}");
        assert!(said.contains(&format!("<stream:error><{expected} ")), "{says}: {said}");
        assert!(said.ends_with("</stream:error></stream:stream>"), "{says}: {said}");
        assert_eq!(said.matches("<stream:stream ").count(), 1, "{says}: {said}");
    }
    let stanza = |attrs: &str| format!("<message {attrs}><body>x</body></message>");
    for (says, expected) in [
        (stanza("from='romeo@chat.example' to='juliet@chat.example'"), "invalid-from"),
        (stanza("from='other.chat.example' to='juliet@chat.example'"), "invalid-from"),
        (stanza("from='a.irc.chat.example' to='juliet@chat.example'"), "invalid-from"),
        (stanza("from='@' to='juliet@chat.example'"), "invalid-from"),
        (stanza("xmlns='jabber:client' from='chat.example' to='a@chat.example'"), "invalid-from"),
        (stanza("from='irc.chat.example'"), "improper-addressing"),
        (stanza("to='juliet@chat.example'"), "improper-addressing"),
        ("<presence/>".into(), "improper-addressing"),
        ("<wish/>".into(), "unsupported-stanza-type"),
        (
            "<message xmlns='jabber:server' from='irc.chat.example' to='a@b'/>".into(),
            "unsupported-stanza-type",
        ),
        ("<a><b></a>".into(), "not-well-formed"),
        ("<!-- -->".into(), "restricted-xml"),
        ("text".into(), "bad-format"),
        (format!("<message x='{}'/>", "x".repeat(600 << 10)), "policy-violation"),
    ] {
        let mut line = Line::connected(&house, "irc.chat.example", "of its own").await;
        let _ = line.line.write_all(says.as_bytes()).await; // The big one is not read to its end.
        let said = line.rest().await;
        let expected = format!(
            "<stream:error><{expected} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        );
        assert_eq!(said, expected, "{}", &says[..says.len().min(100)]);
        let domain = BareJid::parse("irc.chat.example").expect("a JID");
        assert!(!is_connected(&house.node, &domain), "its row goes before its connection");
    }
    // A bad addressee is no reason to end.
    let mut line = Line::connected(&house, "irc.chat.example", "of its own").await;
    line.says("<iq type='get' id='7' from='a@irc.chat.example' to='@'><x xmlns='y'/></iq>").await;
    let said = line.reads("</iq>").await;
    assert!(said.contains("jid-malformed") && said.contains("to='a@irc.chat.example'"), "{said}");
}

#[tokio::test]
async fn who_comes_second_is_refused_unless_there_is_room() {
    let house = House::with(CONFIG).await;
    let first = Line::connected(&house, "irc.chat.example", "of its own").await;
    let mut second = Line::new(&house);
    second.shakes("irc.chat.example", "of its own").await;
    let said = second.rest().await;
    assert!(said.contains("<stream:error><conflict "), "{said}");
    drop(first);
    house.until("it is gone", || house.node.components.connections() == 0).await;
    let _third = Line::connected(&house, "irc.chat.example", "of its own").await;
    let mut wrong = Line::new(&house);
    // That of all is not that of one with a secret of its own.
    wrong.shakes("irc.chat.example", "of all").await;
    assert!(wrong.rest().await.contains("<stream:error><not-authorized "));
}

#[tokio::test]
async fn one_that_sends_more_than_may_be_open_is_written_to_all_the_same() {
    let more = CONFIG.replace("[components]", "[components]\nunhandled_max = 5");
    let (house, romeo) = romeo(&more).await;
    let mut irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    // Nobody has what romeo's client has not taken, and five of those are all there may be.
    let mut text = String::new();
    for n in 0..20 {
        text += &format!(
            "<message from='irc.chat.example' to='romeo@chat.example' type='chat' id='{n}'><body>x</body></message>"
        );
    }
    irc.says(&text).await;
    house.until("five have come", || romeo.mailbox.depth().items == 5).await;
    house.says(&romeo, "<message to='irc.chat.example' id='back'/>").await;
    assert!(irc.reads("/>").await.contains("id='back'"));
    let mut got = 0;
    while got < 20 {
        assert!(romeo.mailbox.depth().items <= 5);
        got += house.mail(&romeo).await.len();
    }
    // To itself: it is written what it is not read for.
    let own: String = (0..50)
        .map(|n| format!("<message from='irc.chat.example' to='irc.chat.example' id='own{n}'/>"))
        .collect();
    irc.says(&own).await;
    irc.reads("id='own49'").await;
}

#[tokio::test]
async fn connected_ones_are_items_of_the_server() {
    let house = House::with(CONFIG).await;
    let names = || -> Vec<(String, Option<String>)> {
        items(&house.node).into_iter().map(|item| (item.jid, item.name)).collect()
    };
    assert!(names().is_empty());
    let irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    let _hidden = Line::connected(&house, "bridge.example", "of all").await;
    let _any = Line::connected(&house, "any.chat.example", "of all").await;
    let expected = [
        ("any.chat.example".to_owned(), None),
        ("irc.chat.example".to_owned(), Some("IRC".to_owned())),
    ];
    assert_eq!(names(), expected);
    drop(irc);
    house.until("it is gone", || names() == expected[..1]).await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed_and_who_is_silent_is_kept() {
    let house = House::with(CONFIG).await;
    let mut silent = Line::new(&house);
    silent.says(&open("irc.chat.example")).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert!(silent.reads("example'>").await.contains("from='irc.chat.example'"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(silent.rest().await.contains("<stream:error><connection-timeout "));
    let mut irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(irc.reads(" ").await, " ");
    }
}

const PRIVILEGED: &str = "
[[components.component]]
domain = 'bot.chat.example'
privileged_roster = 'both'
privileged_messages = true
privileged_iq_get = ['jabber:iq:private', 'urn:xmpp:ping']
privileged_iq_set = ['jabber:iq:private']
";

#[tokio::test]
async fn a_privileged_one_acts_for_accounts() {
    let house = House::with(&format!("{CONFIG}{PRIVILEGED}")).await;
    house.accounts(["romeo", "juliet"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    romeo.set_carbons(true);
    let juliet = house.available("juliet/balcony", 0).await;
    house.mail(&romeo).await;
    house.mail(&juliet).await;
    let mut bot = Line::connected(&house, "bot.chat.example", "of all").await;
    let told = bot.reads("</message>").await;
    assert!(
        told.contains("<perm access='roster' type='both'") && told.contains("outgoing"),
        "{told}"
    );
    // §4.3
    bot.says("<iq from='bot.chat.example' to='romeo@chat.example' type='set' id='1'><query xmlns='jabber:iq:roster'><item jid='friar@chat.example' name='Friar'/></query></iq>").await;
    let done = bot.reads("/>").await;
    assert_eq!(done, "<iq type='result' id='1' to='bot.chat.example' from='romeo@chat.example'/>");
    bot.says("<iq from='bot.chat.example' to='romeo@chat.example' type='get' id='2'><query xmlns='jabber:iq:roster'/></iq>").await;
    let roster = bot.reads("</iq>").await;
    assert!(roster.contains("friar@chat.example") && roster.contains("id='2'"), "{roster}");
    assert!(roster.contains("to='bot.chat.example'"), "{roster}");
    // §5.3: as if he had sent it, from another device.
    bot.says("<message from='bot.chat.example' to='chat.example' id='3'><privilege xmlns='urn:xmpp:privilege:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@chat.example' to='juliet@chat.example' type='chat' id='4'><body>in his name</body></message></forwarded></privilege></message>").await;
    let got = house.mail(&juliet).await.join("");
    assert!(got.contains("from='romeo@chat.example'") && got.contains("in his name"), "{got}");
    let copy = house.mail(&romeo).await.join("");
    assert!(
        copy.contains("<sent xmlns='urn:xmpp:carbons:2'>") && copy.contains("in his name"),
        "{copy}"
    );
    bot.says("<message from='bot.chat.example' to='chat.example' id='5'><privilege xmlns='urn:xmpp:privilege:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='romeo@chat.example/orchard' to='juliet@chat.example'/></forwarded></privilege></message>").await;
    let refused = bot.reads("</message>").await;
    assert!(refused.contains("type='error'") && refused.contains("<forbidden "), "{refused}");
    // §6.3
    let iq = |id: &str, type_: &str, to: &str, payload: &str| {
        format!(
            "<iq from='bot.chat.example' to='romeo@chat.example' type='{type_}' id='{id}'><privileged_iq xmlns='urn:xmpp:privilege:2'>\
             <iq xmlns='jabber:client' type='{type_}' id='in{id}'{to}>{payload}</iq></privileged_iq></iq>"
        )
    };
    let kept = "<query xmlns='jabber:iq:private'><x xmlns='y'>kept</x></query>";
    bot.says(&iq("6", "set", "", kept)).await;
    let done = bot.reads("</privilege></iq>").await;
    assert!(done.starts_with("<iq ") && done.contains("id='6'"), "{done}");
    assert!(
        done.contains("<forwarded xmlns='urn:xmpp:forward:0'><iq xmlns='jabber:client'")
            && done.contains("id='in6'"),
        "{done}"
    );
    let asked = "<query xmlns='jabber:iq:private'><x xmlns='y'/></query>";
    bot.says(&iq("7", "get", " to='romeo@chat.example'", asked)).await;
    let done = bot.reads("</privilege></iq>").await;
    assert!(done.contains(">kept<"), "{done}");
    bot.says(&iq("8", "get", " to='elsewhere.example'", "<ping xmlns='urn:xmpp:ping'/>")).await;
    let refused = bot.reads("</iq>").await;
    assert!(refused.contains("feature-not-implemented"), "{refused}");
}
