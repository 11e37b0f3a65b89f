//! C, signing in: RFC 6120 §6, RFC 4616, RFC 5802. Wrong passwords are few here: a node slows down who guesses.

use crate::row::Row;
use crate::state::At::{Authenticated, Bound, Open};
use crate::wire::Road;
use base64::{Engine as _, prelude::BASE64_STANDARD};

fn auth(mechanism: &str, text: &str) -> String {
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{text}</auth>")
}

fn of(mechanism: &str, message: &str) -> String {
    auth(mechanism, &BASE64_STANDARD.encode(message))
}

fn response(text: &str) -> String {
    format!("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{text}</response>")
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut open = |id, what, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, Open).says(text).gets(expected));
    };
    for mechanism in ["ANONYMOUS", "EXTERNAL", "plain", "X-NOTHING", ""] {
        open(
            "B-085",
            "a mechanism that is not offered",
            auth(mechanism, "="),
            &["SASL invalid-mechanism"],
        );
    }
    open(
        "B-085",
        "no mechanism",
        "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
        &["SASL invalid-mechanism"],
    );
    for text in ["?", "AGp1 bGll", "AGp1bGl", "====", "AGp1bGk=x"] {
        open("B-086", "what is no base64", auth("PLAIN", text), &["SASL incorrect-encoding"]);
    }
    let empty = &["SASL not-authorized", "SASL malformed-request"];
    open("B-088", "no user", of("PLAIN", "\0\0pw"), empty);
    open("B-088", "no password", of("PLAIN", "\0user1\0"), empty);
    open("B-088", "nothing", auth("PLAIN", "="), empty);
    open("B-088", "one part", of("PLAIN", "user1"), empty);
    open(
        "B-089",
        "the authorization of somebody else",
        of("PLAIN", "user2@pangaea.localhost\0user1\0pw1"),
        &["SASL invalid-authzid"],
    );
    open(
        "B-089",
        "an authorization that is no address",
        of("PLAIN", "@\0user1\0pw1"),
        &["SASL invalid-authzid", "SASL malformed-request"],
    );
    let scram = |message: &str| of("SCRAM-SHA-1", message);
    open(
        "B-095",
        "an unknown channel binding",
        scram("p=tls-unknown,,n=user1,r=abc"),
        &["SASL not-authorized", "SASL malformed-request"],
    );
    open(
        "B-097",
        "an extension that is mandatory",
        scram("n,,m=x,n=user1,r=abc"),
        &["SASL not-authorized"],
    );
    let broken = &["SASL malformed-request", "SASL not-authorized"];
    open("B-098", "attributes in another order", scram("n,,r=abc,n=user1"), broken);
    open("B-098", "an attribute twice", scram("n,,n=user1,n=user1,r=abc"), broken);
    open("B-098", "no nonce", scram("n,,n=user1"), broken);
    open("B-098", "an empty nonce", scram("n,,n=user1,r="), broken);
    open("B-098", "a name that is escaped wrong", scram("n,,n=us=er,r=abc"), broken);
    open("B-098", "no channel binding flag", scram("n=user1,r=abc"), broken);
    open(
        "B-098",
        "a name of ten thousand letters",
        scram(&format!("n,,n={},r=abc", "x".repeat(9_000))),
        broken,
    );
    let none = &["SASL malformed-request", "SE policy-violation"];
    open("B-101", "a response to nothing", response("="), none);
    open(
        "B-101",
        "an abort of nothing",
        "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
        none,
    );
    open(
        "B-101",
        "an element that SASL does not have",
        "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".into(),
        &["SE unsupported-stanza-type"],
    );
    rows.extend([
        // RFC 6120 §6.4.4: and the client may try again.
        Row::new("B-101", "an abort, and another try", Open)
            .says(auth("PLAIN", ""))
            .hears("challenge")
            .says("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
            .hears("failure")
            .says(auth("PLAIN", "${plain}"))
            .gets(&["success"]),
        Row::new("B-101", "a second beginning in the middle", Open)
            .says(of("SCRAM-SHA-1", "n,,n=user1,r=abc"))
            .hears("challenge")
            .says(of("SCRAM-SHA-1", "n,,n=user1,r=abc"))
            .gets(&["SASL malformed-request", "SE policy-violation"]),
        Row::new("B-098", "another nonce in the end", Open)
            .says(of("SCRAM-SHA-1", "n,,n=user1,r=abc"))
            .hears("challenge")
            .says(response(
                &BASE64_STANDARD.encode("c=biws,r=abcdef,p=AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            ))
            .gets(broken),
        Row::new("B-092", "an account that does not exist", Open)
            .says(of("PLAIN", "\0nobody-at-all\0pw1"))
            .gets(&["SASL not-authorized"]),
        Row::new("B-092", "a wrong password", Open)
            .says(of("PLAIN", "\0user1\0wrong"))
            .gets(&["SASL not-authorized"]),
        Row::new("B-094", "a client that believes there is no channel binding", Open)
            .says(of("SCRAM-SHA-1", "y,,n=user1,r=abc"))
            .gets(&["SASL not-authorized"])
            .on(&[Road::Tls]),
        Row::new("B-095", "a channel binding where there is none", Open)
            .says(of("SCRAM-SHA-1-PLUS", "p=tls-exporter,,n=user1,r=abc"))
            .gets(&["SASL invalid-mechanism", "SASL not-authorized"])
            .on(&[Road::Plain]),
        Row::new("B-095", "a channel binding that TLS 1.3 does not have", Open)
            .says(of("SCRAM-SHA-1-PLUS", "p=tls-unique,,n=user1,r=abc"))
            .gets(&["SASL not-authorized", "SASL malformed-request"])
            .on(&[Road::Tls]),
        Row::new("B-106", "signing in again", Authenticated)
            .says(auth("PLAIN", "${plain}"))
            .gets(&["SE policy-violation", "SE unsupported-stanza-type"]),
        Row::new("B-106", "signing in again behind the bind", Bound)
            .says(auth("PLAIN", "${plain}"))
            .gets(&["SE policy-violation", "SE unsupported-stanza-type"]),
    ]);
    let mut sixth = Row::new("B-103", "the sixth failed attempt", Open);
    for _ in 0..5 {
        sixth = sixth.says(auth("X-NOTHING", "=")).hears("failure");
    }
    rows.push(sixth.says(auth("X-NOTHING", "=")).gets(&["SE policy-violation"]));
    rows
}
