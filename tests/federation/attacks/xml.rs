//! A, XML of those who have proved who they are: what is not well-formed, not restricted, too much, or right and unusual. RFC 6120 §11, §13.12.

use super::{At, Row};
use std::fmt::Write as _;

/// Ten levels of ten entities each.
pub(super) fn laughs() -> String {
    let mut text = String::from("<!DOCTYPE lolz [<!ENTITY lol0 'lol'>");
    for level in 1..=10 {
        let inside = format!("&lol{};", level - 1).repeat(10);
        write!(text, "<!ENTITY lol{level} '{inside}'>").expect("written to a string");
    }
    text + "]><message><body>&lol10;</body></message>"
}

fn bytes(before: &str, middle: &[u8], after: &str) -> Vec<u8> {
    [before.as_bytes(), middle, after.as_bytes()].concat()
}

const TO_FRIEND: &str = "<message from='a@evil.lab' to='${friend}'";

/// Of exactly so many bytes, to nobody: it comes back on a stream of its own, if at all.
fn padded(length: usize) -> String {
    let frame = |text: &str| {
        format!(
            "<message from='a@evil.lab' type='headline' to='nobody@pangaea.lab'><body>{text}</body></message>"
        )
    };
    frame(&"x".repeat(length - frame("").len()))
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut proved = |id, what, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, At::Proved).says(text).gets(expected));
    };
    let malformed = &["SE not-well-formed"][..];
    let restricted = &["SE restricted-xml"][..];
    proved(
        "B-007",
        "an XML declaration between stanzas",
        "<?xml version='1.0'?>".into(),
        &["SE restricted-xml", "SE not-well-formed"],
    );
    proved("B-025", "a processing instruction", "<?php echo 1 ?>".into(), restricted);
    proved("B-025", "one in a stanza", "<message><?pi?></message>".into(), restricted);
    proved("B-026", "a document type", "<!DOCTYPE a [ ]>".into(), restricted);
    proved("B-028", "entities of entities", laughs(), restricted);
    let big = format!(
        "<!DOCTYPE a [<!ENTITY a '{}'>]><message><body>{}</body></message>",
        "a".repeat(100 << 10),
        "&a;".repeat(100_000)
    );
    proved("B-029", "a large entity many times", big, restricted);
    proved(
        "6120 §11.1",
        "a comment in a stanza",
        "<message><!-- psst --></message>".into(),
        restricted,
    );
    let undeclared = &["SE restricted-xml", "SE not-well-formed"];
    proved(
        "B-032",
        "an entity that nobody declared",
        format!("{TO_FRIEND}><body>&nbsp;</body></message>"),
        undeclared,
    );
    proved(
        "B-034",
        "a reference to a control character",
        format!("{TO_FRIEND}><body>&#x1;</body></message>"),
        malformed,
    );
    proved(
        "B-038",
        "a CDATA section",
        format!("{TO_FRIEND}><body><![CDATA[honest a < b && c]]></body></message>"),
        &[""],
    );
    proved("B-040", "a wrong end tag", "<message><body>x</message></body>".into(), malformed);
    proved("B-041", "an attribute twice", "<message id='1' id='2'/>".into(), malformed);
    let unbound = &["SE not-well-formed", "SE bad-namespace-prefix"];
    proved("B-043", "an element with a prefix that is not bound", "<p:message/>".into(), unbound);
    proved("B-043", "an attribute with one", "<message p:k=''/>".into(), unbound);
    for text in
        ["<message xmlns:xml='urn:x'/>", "<message xmlns:xmlns='urn:x'/>", "<message xmlns:p=''/>"]
    {
        proved("B-044", "a prefix that may not be bound so", text.into(), unbound);
    }
    let unknown = &["SE unsupported-stanza-type"][..];
    proved("B-046", "an unknown element", "<wherefore xmlns='urn:x'/>".into(), unknown);
    for ns in ["jabber:client", ""] {
        proved(
            "B-046",
            "a stanza of another namespace",
            format!(
                "<message xmlns='{ns}' from='a@evil.lab' to='${{friend}}'><body>x</body></message>"
            ),
            &["SE unsupported-stanza-type", "SE invalid-namespace"],
        );
    }
    let stray = &["SE bad-format", "SE invalid-xml", "SE not-well-formed"];
    proved("B-047", "text between stanzas", "hello".into(), stray);
    let much = &["SE policy-violation"][..];
    proved(
        "B-049",
        "a hundred thousand children",
        format!("<message>{}</message>", "<a/>".repeat(100_000)),
        much,
    );
    proved("B-049", "too deep", format!("<message>{}", "<a>".repeat(100)), much);
    let attributes: String = (0..80_000).map(|n| format!(" a{n}=''")).collect();
    proved("B-050", "eighty thousand attributes", format!("<message{attributes}/>"), much);
    let declarations: String = (0..1_000).map(|n| format!(" xmlns:a{n}='u'")).collect();
    proved("B-050", "a thousand declarations", format!("<message{declarations}/>"), much);
    proved(
        "B-053",
        "a value of five megabytes",
        format!("<message id='{}'/>", "x".repeat(5 << 20)),
        much,
    );
    let most = 512 << 10;
    proved(
        "B-055",
        "a stanza a byte too long",
        padded(most + 1),
        &["SE policy-violation", "message"],
    );
    for (what, length) in [
        ("a stanza as long as may be", most),
        ("a stanza of 9,999 bytes", 9_999),
        ("a stanza of 10,000 bytes", 10_000),
    ] {
        proved("B-056", what, padded(length), &[""]);
    }
    proved("B-061", "a space between stanzas", " \n\t ".into(), &[""]);
    proved(
        "B-064",
        "a language that is none",
        format!("{TO_FRIEND} xml:lang='{}'><body>honest</body></message>", "x".repeat(10 << 10)),
        &[""],
    );
    let many = format!("{TO_FRIEND} type='headline'><body>honest</body></message>").repeat(2_000);
    proved("B-065", "two thousand stanzas at once", many, &[""]);
    for control in [0x01u8, 0x0b, 0x1f] {
        for (what, before, after) in [
            ("a control character in text", "<message><body>", "</body></message>"),
            ("a control character in an attribute", "<message id='", "'/>"),
        ] {
            let row = Row::new("B-034", what, At::Proved);
            rows.push(row.raw(bytes(before, &[control], after)).gets(malformed));
        }
    }
    let wrong = &["SE not-well-formed", "SE unsupported-encoding", "SE bad-format"];
    for (what, bad) in [
        ("an overlong encoding", &[0xc0u8, 0xaf][..]),
        ("a surrogate", &[0xed, 0xa0, 0x80]),
        ("beyond Unicode", &[0xf4, 0x90, 0x80, 0x80]),
        ("a byte that begins nothing", &[0xff]),
    ] {
        let row = Row::new("B-035", what, At::Proved);
        rows.push(row.raw(bytes("<message><body>", bad, "</body></message>")).gets(wrong));
    }
    // Who has proved nothing yet has less room.
    rows.push(
        Row::new("B-049", "too many children before anything is proved", At::Secured)
            .says(format!("<iq type='get' id='x'>{}</iq>", "<a/>".repeat(33)))
            .gets(&["SE policy-violation"]),
    );
    rows.push(
        Row::new("B-053", "an element too long before anything is proved", At::Open)
            .says(format!("<iq type='get' id='{}'/>", "x".repeat(64 << 10)))
            .gets(&["SE policy-violation"]),
    );
    rows
}
