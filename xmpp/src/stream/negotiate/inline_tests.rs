//! Tests of SASL2 and what goes along in it: the examples of XEP-0388, 0386, 0484, 0480 and 0198 §11 as scripts, and what must not be.

use super::receiving_tests::{DOMAIN, Server, element, header, offer, open};
use super::*;
use crate::sasl::scram::{Client, ClientBinding};
use crate::sasl::token::{self, Token, Verifier};
use crate::sasl::{Hashes, Offered, ScramKeys, TokenBinding};
use crate::sm::Nonza;
use crate::stanza::error::Condition;

const AGENT: &str = "<user-agent id='d4565fa7'><software>AwesomeXMPP</software></user-agent>";
const BIND2: &str = "<bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag>\
    <enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='urn:xmpp:sm:3'/></bind>";
const RESUME: &str = "<resume xmlns='urn:xmpp:sm:3' previd='124' h='345'/>";
const REQUEST: &str = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>";

fn sasl2_offer() -> Offer {
    let mut offer = offer();
    let scram = |plus| Mechanism::Scram { hash: Hash::Sha512, plus };
    offer.mechanisms.splice(0..0, [scram(true), scram(false)]);
    Offer { sasl2: Some(Inline { bind: vec![ns::CARBONS, ns::SM], fast: true }), ..offer }
}

fn server() -> Server {
    let mut server = Server::new(sasl2_offer(), true);
    server.feed(open(DOMAIN));
    server
}

fn from_juliet(known: &[Hash]) -> Server {
    let mut server = Server::new(sasl2_offer(), true);
    server.known = Some(known.iter().copied().collect());
    let mut header = header(DOMAIN);
    header.from = Some("juliet@capulet.example".into());
    server.feed(Input::Open(Box::new(header)));
    server
}

fn authenticate(mechanism: &str, message: &[u8], inside: &str) -> String {
    let message = BASE64.encode(message);
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>\
         <initial-response>{message}</initial-response>{inside}</authenticate>"
    )
}

fn plain(inside: &str) -> String {
    authenticate("PLAIN", b"\0juliet\0r0m30", inside)
}

fn jid(text: &str) -> FullJid {
    FullJid::parse(text).expect("a JID")
}

fn identity(success: &Element) -> String {
    assert!(success.is("success", ns::SASL2), "{success:?}");
    success.child("authorization-identifier", ns::SASL2).expect("who").text()
}

/// The last but one thing sent.
fn before_features(server: &Server) -> Element {
    assert!(server.last().is("features", ns::STREAM), "{:?}", server.wire);
    element(&server.wire[server.wire.len() - 2])
}

#[test]
fn what_is_offered_is_what_can_be_done() {
    let features = server().last();
    let sasl2 = features.child("authentication", ns::SASL2).expect("SASL2");
    let names = |list: &Element, name: &str, ns: &str| -> Vec<String> {
        list.children().filter(|child| child.is(name, ns)).map(Element::text).collect()
    };
    let mechanisms = super::super::features::mechanisms(&features);
    assert_eq!(names(sasl2, "mechanism", ns::SASL2), mechanisms, "the same in both profiles");
    let inline = sasl2.child("inline", ns::SASL2).expect("inline");
    assert!(inline.has_child("sm", ns::SM));
    let fast = inline.child("fast", ns::FAST).expect("FAST");
    let tokens = ["HT-SHA-256-EXPR", "HT-SHA-256-ENDP", "HT-SHA-256-NONE"];
    assert_eq!(names(fast, "mechanism", ns::FAST), tokens);
    assert_eq!(fast.attr("tls-0rtt"), None);
    let bind = inline.child("bind", ns::BIND2).and_then(|bind| bind.child("inline", ns::BIND2));
    let vars = bind.expect("Bind 2").children().filter_map(|feature| feature.attr("var"));
    assert_eq!(vars.collect::<Vec<_>>(), [ns::CARBONS, ns::SM]);
    assert!(!sasl2.has_child("upgrade", ns::SASL_UPGRADE), "nobody knows of whom");

    // XEP-0388 §2.2: only what this account can use.
    let features = from_juliet(&[Hash::Sha1]).last();
    let sasl2 = features.child("authentication", ns::SASL2).expect("SASL2");
    let left = ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "PLAIN"];
    assert_eq!(names(sasl2, "mechanism", ns::SASL2), left);
    assert_eq!(super::super::features::mechanisms(&features), left);
    let upgrades = ["UPGR-SCRAM-SHA-512", "UPGR-SCRAM-SHA-256"];
    assert_eq!(names(sasl2, "upgrade", ns::SASL_UPGRADE), upgrades);

    let mut without = Server::new(Offer { sasl2: None, ..sasl2_offer() }, true);
    without.feed(open(DOMAIN));
    assert!(!without.last().has_child("authentication", ns::SASL2));
    without.feed_xml(&plain(""));
    assert_eq!(without.outcome(), "SE unsupported-stanza-type"); // S-048
    let mut in_clear = Server::new(sasl2_offer(), false);
    in_clear.feed(open(DOMAIN));
    assert!(!in_clear.last().has_child("authentication", ns::SASL2));
    in_clear.feed_xml(&plain(""));
    assert_eq!(in_clear.outcome(), "SASL encryption-required");
}

#[test]
fn a_client_signs_in_with_scram_and_its_server_signs_what_it_offered() {
    let mut server = server();
    let password = Password::new("r0m30");
    let keys = ScramKeys::derive(Hash::Sha512, "r0m30", b"0123456789abcdef", 4096);
    server.credentials = Credentials::Keys(keys.expect("prepares"));
    let features = server.last();
    let mechanisms = super::super::features::mechanisms(&features);
    let bindings = super::super::features::channel_bindings(&features);
    let binding = ClientBinding::Use { kind: "tls-exporter".into(), data: vec![5; 32] };
    let mut client = Client::new(Hash::Sha512, binding, None, "juliet", &password, "fyko+d2l")
        .expect("prepares");
    server.feed_xml(&authenticate("SCRAM-SHA-512-PLUS", &client.first(), ""));
    let challenge = server.last();
    assert!(challenge.is("challenge", ns::SASL2));
    let challenge = BASE64.decode(challenge.text()).expect("base64");
    let text = std::str::from_utf8(&challenge).expect("text");
    let seen =
        Offered::new(mechanisms.iter().map(String::as_str), bindings.iter().map(String::as_str));
    assert!(text.contains(",h=") && !seen.is_another(Hash::Sha512, text), "{text}"); // XEP-0474
    let answer = client.challenge(&challenge).expect("a challenge");
    server.feed_xml(&format!(
        "<response xmlns='urn:xmpp:sasl:2'>{}</response>",
        BASE64.encode(answer)
    ));
    let success = before_features(&server);
    assert_eq!(identity(&success), "juliet@capulet.example");
    let data = success.child("additional-data", ns::SASL2).expect("a signature").text();
    assert_eq!(client.success(&BASE64.decode(data).expect("base64")), Ok(()));
    assert_eq!(server.done, ["juliet@capulet.example by SCRAM-SHA-512-PLUS"], "no restart");
    assert!(server.last().has_child("bind", ns::BIND));
    server.feed_xml("<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    assert_eq!(server.done.last().map(String::as_str), Some("bind juliet@capulet.example/"));
}

#[test]
fn all_at_once_in_the_order_of_the_xeps() {
    let mut server = server();
    let token = sasl2::NewToken { token: "secret".into(), expiry: "2020-03-12T14:36:15Z".into() };
    server.signed_in = Ok(Some(token));
    server.feed_xml(&plain(&format!("{AGENT}{BIND2}{RESUME}{REQUEST}")));
    let signed_in = [
        "juliet@capulet.example with d4565fa7 None Some(Exporter) to resume 124",
        "juliet@capulet.example by PLAIN",
        "resume juliet@capulet.example 124 345",
    ];
    assert_eq!(server.done, signed_in);
    server.feed(Input::ResumeRefused { condition: Condition::ItemNotFound, h: Some(7) });
    let bind = server.done.last().expect("a bind").clone();
    assert!(bind.starts_with("bind juliet@capulet.example/AwesomeXMPP/"), "{bind}");
    assert!(bind.ends_with("[\"urn:xmpp:carbons:2\", \"urn:xmpp:sm:3\"]"), "{bind}");
    let enabled = Nonza::Enabled { id: None, max: None, location: None }.element();
    server.feed(Input::BoundInline(jid("juliet@capulet.example/AwesomeXMPP/1"), vec![enabled]));
    let success = before_features(&server);
    assert_eq!(identity(&success), "juliet@capulet.example/AwesomeXMPP/1");
    let bound = success.child("bound", ns::BIND2).expect("bound");
    assert!(bound.has_child("enabled", ns::SM));
    assert_eq!(success.child("failed", ns::SM).and_then(|failed| failed.attr("h")), Some("7"));
    let token = success.child("token", ns::FAST).expect("a token");
    assert_eq!(
        (token.attr("token"), token.attr("expiry")),
        (Some("secret"), Some("2020-03-12T14:36:15Z"))
    );
    let features = server.last();
    assert!(features.has_child("sm", ns::SM) && !features.has_child("bind", ns::BIND));
}

#[test]
fn a_session_that_goes_on_binds_nothing_and_sees_no_features() {
    let mut server = server();
    server.feed_xml(&plain(&format!("{BIND2}{RESUME}")));
    let (jid, previd) = (jid("juliet@capulet.example/old"), "124".to_owned());
    server.feed(Input::ResumedInline { jid, previd, h: 8 });
    let success = server.last();
    assert_eq!(identity(&success), "juliet@capulet.example/old");
    let resumed = success.child("resumed", ns::SM).expect("resumed");
    assert_eq!((resumed.attr("previd"), resumed.attr("h")), (Some("124"), Some("8")));
    assert!(!success.has_child("bound", ns::BIND2));
    assert_eq!(
        server.done.last().map(String::as_str),
        Some("resume juliet@capulet.example 124 345")
    );
}

#[test]
fn what_goes_wrong_inside_is_said_inside() {
    let mut server = server();
    server.feed_xml(&plain(&format!("{AGENT}<resume xmlns='urn:xmpp:sm:3' previd='x'/>")));
    assert_eq!(
        server.done[0], "juliet@capulet.example with d4565fa7 None None",
        "nothing to resume"
    );
    let success = before_features(&server);
    assert!(success.child("failed", ns::SM).expect("why").has_child("bad-request", ns::STANZAS));
    assert_eq!(identity(&success), "juliet@capulet.example");

    let mut server = self::server();
    server.feed_xml(&plain(BIND2));
    server.feed(Input::BindRefused(StanzaError::resource_constraint()));
    let success = before_features(&server);
    assert_eq!(identity(&success), "juliet@capulet.example");
    assert!(success.has_child("failed", ns::BIND2) && !success.has_child("bound", ns::BIND2));
    assert!(server.last().has_child("bind", ns::BIND), "it may bind after all");
}

#[test]
fn what_was_asked_for_has_no_effect_on_failure() {
    // B-107.
    let mut server = server();
    server.verdict = Verdict::Wrong;
    server.feed_xml(&plain(&format!("{AGENT}{BIND2}{RESUME}{REQUEST}")));
    assert_eq!(server.outcome(), "SASL not-authorized");
    assert!(server.done.is_empty(), "{:?}", server.done);
    // Nor on the next attempt.
    server.verdict = Verdict::Right;
    server.feed_xml(&plain(""));
    assert_eq!(server.done, ["juliet@capulet.example by PLAIN"]);
    assert_eq!(identity(&before_features(&server)), "juliet@capulet.example");

    let mut server = self::server();
    server.signed_in = Err(Failure::TemporaryAuthFailure);
    server.feed_xml(&plain(&format!("{AGENT}{BIND2}")));
    assert_eq!(server.outcome(), "SASL temporary-auth-failure");
    assert!(server.machine.account().is_none());
}

fn with_tokens() -> (Server, String) {
    tokens_of(server())
}

fn tokens_of(mut server: Server) -> (Server, String) {
    let secret = "q".repeat(80);
    let token = |id, binding, expired| {
        let verifier = Verifier::new(&secret, binding);
        Token { id, binding, verifier, expired }
    };
    server.tokens =
        vec![token(2, TokenBinding::Exporter, false), token(1, TokenBinding::None, true)];
    (server, secret)
}

const FAST: &str = "<fast xmlns='urn:xmpp:fast:0' count='123'/>";

#[test]
fn a_token_signs_in_with_its_mechanism_and_its_client() {
    let (mut server, secret) = with_tokens();
    let proof = token::message("juliet", &secret, &[5; 32]);
    server.feed_xml(&authenticate("HT-SHA-256-EXPR", &proof, &format!("{AGENT}{FAST}")));
    let expected = [
        "tokens of juliet@capulet.example d4565fa7",
        "juliet@capulet.example with d4565fa7 Some(Used { token: 2, binding: Exporter, count: Some(123), invalidate: false }) None",
        "juliet@capulet.example by HT-SHA-256-EXPR",
    ];
    assert_eq!(server.done, expected);
    let success = before_features(&server);
    let data = success.child("additional-data", ns::SASL2).expect("an answer").text();
    assert!(token::is_answer(&BASE64.decode(data).expect("base64"), &secret, &[5; 32]));
}

#[test]
fn a_token_that_is_no_good_is_told_so() {
    let (_, secret) = with_tokens();
    let bound = token::message("juliet", &secret, &[5; 32]);
    let free = token::message("juliet", &secret, b"");
    let other = token::message("juliet", &secret, &[6; 32]);
    let both = format!("{AGENT}{FAST}");
    for (mechanism, proof, inside, expected) in [
        ("HT-SHA-256-EXPR", &other, both.as_str(), "SASL not-authorized"),
        ("HT-SHA-256-ENDP", &bound, &both, "SASL not-authorized"), // B-109
        ("HT-SHA-256-NONE", &free, &both, "SASL credentials-expired"), // B-110
        ("HT-SHA-256-UNIQ", &bound, &both, "SASL invalid-mechanism"),
        ("HT-SHA-256-EXPR", &bound, FAST, "SASL malformed-request"), // S-053
        ("HT-SHA-256-EXPR", &bound, AGENT, "SASL invalid-mechanism"),
        ("PLAIN", &b"\0juliet\0r0m30".to_vec(), &both, "SASL invalid-mechanism"),
        ("HT-SHA-256-EXPR", &b"juliet".to_vec(), &both, "SASL malformed-request"),
        (
            "HT-SHA-256-EXPR",
            &[b"a@b@c".as_slice(), &[0; 33]].concat(),
            &both,
            "SASL not-authorized",
        ),
    ] {
        let (mut server, _) = with_tokens();
        server.feed_xml(&authenticate(mechanism, proof, inside));
        assert_eq!(server.outcome(), expected, "{mechanism} {inside}");
    }
    let (mut server, _) = with_tokens();
    let auth = format!(
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='HT-SHA-256-EXPR'>{}</auth>",
        BASE64.encode(&bound)
    );
    server.feed_xml(&auth);
    assert_eq!(server.outcome(), "SASL invalid-mechanism");
    // A replayed count.
    let (mut server, _) = with_tokens();
    server.signed_in = Err(Failure::NotAuthorized);
    server.feed_xml(&authenticate("HT-SHA-256-EXPR", &bound, &both));
    assert_eq!(server.outcome(), "SASL not-authorized");
}

const UPGRADES: &str = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>\
    <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>\
    <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-1</upgrade>";

fn next(task: &str) -> String {
    format!("<next xmlns='urn:xmpp:sasl:2' task='{task}'/>")
}

fn hash_of(salted: &[u8]) -> String {
    format!(
        "<task-data xmlns='urn:xmpp:sasl:2'><hash xmlns='urn:xmpp:scram-upgrade:0'>{}</hash></task-data>",
        BASE64.encode(salted)
    )
}

#[test]
fn a_client_brings_the_keys_that_are_missing_one_after_the_other() {
    let mut server = from_juliet(&[Hash::Sha1]);
    server.feed_xml(&plain(&format!("{UPGRADES}{AGENT}{BIND2}")));
    for hash in [Hash::Sha256, Hash::Sha512] {
        let name = sasl2::task_of(hash);
        let task = server.last();
        assert!(task.is("continue", ns::SASL2), "{task:?}");
        let tasks = task.child("tasks", ns::SASL2).expect("tasks");
        assert_eq!(tasks.children().map(Element::text).collect::<Vec<_>>(), [name.as_str()]);
        server.feed_xml(&next(&name));
        let data = server.last();
        let salt = data.child("salt", ns::SCRAM_UPGRADE).expect("a salt");
        assert_eq!(salt.attr("iterations"), Some("4096"));
        let salt = BASE64.decode(salt.text()).expect("base64");
        server.feed_xml(&hash_of(&hash.salted(b"r0m30", &salt, 4096)));
        let keys = server.keys.take().expect("new keys");
        assert!(keys.hash == hash && keys.verify("r0m30") && !keys.verify("romeo"));
    }
    assert!(server.done.last().is_some_and(|done| done.starts_with("bind ")), "{:?}", server.done);
    server.feed(Input::BoundInline(jid("juliet@capulet.example/1"), vec![]));
    assert_eq!(identity(&before_features(&server)), "juliet@capulet.example/1");
}

#[test]
fn nobody_is_asked_for_keys_that_are_there() {
    let mut server = from_juliet(&[Hash::Sha1, Hash::Sha256, Hash::Sha512]);
    assert!(!server.wire[1].contains("UPGR-"));
    server.feed_xml(&plain(UPGRADES));
    assert_eq!(identity(&before_features(&server)), "juliet@capulet.example");
}

/// What a client salts is taken at its word: from one that has not shown the password it would be another one.
#[test]
fn who_has_only_a_token_brings_no_keys() {
    let (mut server, secret) = tokens_of(from_juliet(&[Hash::Sha1]));
    let proof = token::message("juliet", &secret, &[5; 32]);
    let inside = format!("{AGENT}{FAST}{UPGRADES}");
    server.feed_xml(&authenticate("HT-SHA-256-EXPR", &proof, &inside));
    assert_eq!(identity(&before_features(&server)), "juliet@capulet.example");
}

#[test]
fn a_task_is_done_in_its_order_or_not_at_all() {
    let good = next("UPGR-SCRAM-SHA-256");
    let hash = hash_of(&[1; 32]);
    let abort = "<abort xmlns='urn:xmpp:sasl:2'/>";
    for (script, expected) in [
        (vec![next("UPGR-SCRAM-SHA-512")], "SASL malformed-request"),
        (vec![hash.clone()], "SASL malformed-request"),
        (vec![good.clone(), good.clone()], "SASL malformed-request"),
        (vec![good.clone(), hash_of(&[1; 31])], "SASL malformed-request"),
        (
            vec![good.clone(), "<task-data xmlns='urn:xmpp:sasl:2'/>".into()],
            "SASL malformed-request",
        ),
        (
            vec![good.clone(), hash_of(&[1; 32]).replace("</hash>", "!</hash>")],
            "SASL incorrect-encoding",
        ),
        (vec![abort.into()], "SASL aborted"),
        (vec![good.clone(), abort.into()], "SASL aborted"),
        (vec![good.clone(), plain("")], "SE policy-violation"), // B-106
        (vec![plain("")], "SE policy-violation"),
        (vec!["<message/>".into()], "SE not-authorized"),
        (vec!["<r xmlns='urn:xmpp:sm:3'/>".into()], "SE policy-violation"),
    ] {
        let mut server = from_juliet(&[Hash::Sha1]);
        server.feed_xml(&plain(&format!("{UPGRADES}{BIND2}")));
        for line in &script {
            server.feed_xml(line);
        }
        assert_eq!(server.outcome(), expected, "{script:?}");
        assert!(server.machine.account().is_none() && server.keys.is_none());
    }
}

#[test]
fn every_bad_element_gets_its_answer() {
    const SASL1: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>";
    let begun = "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>";
    let response = |text: &str| format!("<response xmlns='urn:xmpp:sasl:2'>{text}</response>");
    let abort = "<abort xmlns='urn:xmpp:sasl:2'/>";
    let other = |mechanism| authenticate(mechanism, b"", "");
    for (script, expected) in [
        (vec![other("ANONYMOUS")], "SASL invalid-mechanism"), // B-085
        (vec![other("EXTERNAL")], "SASL invalid-mechanism"),
        (vec![other("plain")], "SASL invalid-mechanism"),
        (vec!["<authenticate xmlns='urn:xmpp:sasl:2'/>".into()], "SASL invalid-mechanism"),
        (vec![begun.into()], "challenge"),
        (vec![begun.into(), response("?")], "SASL incorrect-encoding"), // B-086
        (vec![begun.into(), response("=")], "SASL incorrect-encoding"),
        (vec![begun.into(), response("")], "SASL malformed-request"),
        (vec![begun.into(), response("AGp1bGlldAByMG0zMA==")], "features"),
        (vec![begun.into(), abort.into()], "SASL aborted"),
        (vec![begun.into(), begun.into()], "SE policy-violation"),
        (vec![begun.into(), SASL1.into()], "SE policy-violation"),
        (vec![begun.into(), "<presence/>".into()], "SE not-authorized"),
        (vec![SASL1.into(), begun.into()], "SE policy-violation"),
        (vec![response("AAAA")], "SASL malformed-request"), // B-101
        (vec![abort.into()], "SASL malformed-request"),
        (vec![next("UPGR-SCRAM-SHA-256")], "SASL malformed-request"),
        (vec!["<x xmlns='urn:xmpp:sasl:2'/>".into()], "SE unsupported-stanza-type"),
        (vec![plain("").replace("=</", "</")], "SASL incorrect-encoding"),
        (
            vec![authenticate("PLAIN", b"romeo@capulet.example\0juliet\0r0m30", "")],
            "SASL invalid-authzid",
        ),
        (vec![authenticate("PLAIN", b"juliet@capulet.example\0juliet\0r0m30", "")], "features"),
        (vec![plain(""), plain("")], "SE policy-violation"), // B-106
        (vec![abort.to_owned(); 6], "SE policy-violation"),  // B-103
    ] {
        let mut server = server();
        for line in &script {
            server.feed_xml(line);
        }
        assert_eq!(server.outcome(), expected, "{script:?}");
    }
}

#[test]
fn whom_the_header_names_is_who_signs_in() {
    // B-091.
    let mut server = from_juliet(&[Hash::Sha256]);
    server.feed_xml(&authenticate("PLAIN", b"\0romeo\0r0m30", BIND2));
    assert_eq!(server.outcome(), "SASL invalid-authzid");
    server.feed_xml(&plain(""));
    assert_eq!(server.outcome(), "features");
}

#[test]
fn nobody_asks_about_whom_the_header_does_not_name() {
    let mut server = Server::new(sasl2_offer(), true);
    server.known = Some(Hashes::default());
    for from in [None, Some("capulet.example"), Some("juliet@verona.example")] {
        let mut server = Server::new(sasl2_offer(), true);
        server.known = Some(Hashes::default());
        let header =
            crate::stream::header::StreamHeader { from: from.map(str::to_owned), ..header(DOMAIN) };
        server.feed(Input::Open(Box::new(header)));
        assert!(server.wire[1].contains("SCRAM-SHA-512"), "{from:?}");
    }
}
