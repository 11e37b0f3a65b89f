//! A, XML: what is not well-formed, not restricted, too much, or right and unusual. RFC 6120 §11, §13.12.

use crate::row::Row;
use crate::state::At::{Bound, Open};
use std::fmt::Write as _;

/// Ten levels of ten entities each.
pub(crate) fn laughs() -> String {
    let mut text = String::from("<!DOCTYPE lolz [<!ENTITY lol0 'lol'>");
    for level in 1..=10 {
        let inside = format!("&lol{};", level - 1).repeat(10);
        write!(text, "<!ENTITY lol{level} '{inside}'>").expect("written to a string");
    }
    text + "]><message><body>&lol10;</body></message>"
}

fn to_self(body: &str) -> String {
    format!("<message to='${{full}}' type='chat'><body>{body}</body></message>")
}

fn bytes(before: &str, middle: &[u8], after: &str) -> Vec<u8> {
    [before.as_bytes(), middle, after.as_bytes()].concat()
}

/// A message of exactly so many bytes, to an address of this length.
fn padded(length: usize) -> String {
    let frame = "<message type='chat'><body></body></message>".len();
    format!("<message type='chat'><body>{}</body></message>", "x".repeat(length - frame))
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bound = |id, what, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, Bound).says(text).gets(expected));
    };
    let malformed = &["SE not-well-formed"][..];
    let restricted = &["SE restricted-xml"][..];
    bound(
        "B-007",
        "an XML declaration between stanzas",
        "<?xml version='1.0'?>".into(),
        &["SE restricted-xml", "SE not-well-formed"],
    );
    bound("B-025", "a processing instruction", "<?php echo 1 ?>".into(), restricted);
    bound(
        "B-025",
        "a processing instruction in a stanza",
        "<message><?pi?></message>".into(),
        restricted,
    );
    bound("B-026", "a document type", "<!DOCTYPE a [ ]>".into(), restricted);
    bound("B-028", "entities of entities", laughs(), restricted);
    let big = format!(
        "<!DOCTYPE a [<!ENTITY a '{}'>]><message><body>{}</body></message>",
        "a".repeat(100 << 10),
        "&a;".repeat(100_000)
    );
    bound("B-029", "a large entity many times", big, restricted);
    bound("6120 §11.1", "a comment", "<!-- psst -->".into(), restricted);
    bound(
        "6120 §11.1",
        "a comment in a stanza",
        "<message><!-- psst --></message>".into(),
        restricted,
    );
    let undeclared = &["SE restricted-xml", "SE not-well-formed"];
    bound("B-032", "an entity that nobody declared", to_self("&nbsp;"), undeclared);
    bound("B-032", "an entity in an attribute", "<message id='&nbsp;'/>".into(), undeclared);
    bound("B-034", "a reference to a control character", to_self("&#x1;"), malformed);
    bound(
        "B-037",
        "a namespace that is no URI",
        "<message to='${full}' type='chat'><x xmlns='a|b c&#10;d'/><body>x</body></message>".into(),
        &["message x", "ST policy-violation/modify"],
    );
    bound("B-038", "a CDATA section", to_self("<![CDATA[a < b && c]]>"), &["message a < b && c"]);
    bound("B-040", "a wrong end tag", "<message><body>x</message></body>".into(), malformed);
    bound("B-040", "crossed tags", "<message><a><b></a></b></message>".into(), malformed);
    bound("B-041", "an attribute twice", "<message id='1' id='2'/>".into(), malformed);
    bound(
        "B-041",
        "an attribute twice under two prefixes",
        "<message><a xmlns:p='u' xmlns:q='u' p:k='' q:k=''/></message>".into(),
        malformed,
    );
    let unbound = &["SE not-well-formed", "SE bad-namespace-prefix"];
    bound("B-043", "an element with a prefix that is not bound", "<p:message/>".into(), unbound);
    bound("B-043", "an attribute with one", "<message p:k=''/>".into(), unbound);
    bound("B-043", "a child with one", "<message><p:x/></message>".into(), unbound);
    for text in [
        "<message xmlns:xml='urn:x'/>",
        "<message xmlns:xmlns='urn:x'/>",
        "<message xmlns:p=''/>",
        "<message xmlns:p='http://www.w3.org/2000/xmlns/'/>",
    ] {
        bound("B-044", "a prefix that may not be bound so", text.into(), unbound);
    }
    bound(
        "B-046",
        "an unknown element",
        "<wherefore xmlns='urn:x'/>".into(),
        &["SE unsupported-stanza-type"],
    );
    bound(
        "B-046",
        "a stanza of another namespace",
        "<message xmlns='jabber:server'/>".into(),
        &["SE unsupported-stanza-type", "SE invalid-namespace"],
    );
    bound(
        "B-046",
        "a stanza of no namespace",
        "<message xmlns=''/>".into(),
        &["SE unsupported-stanza-type", "SE invalid-namespace"],
    );
    bound(
        "B-046",
        "a stream in the stream",
        "<stream:stream xmlns:stream='http://etherx.jabber.org/streams'/>".into(),
        &["SE unsupported-stanza-type", "SE bad-format"],
    );
    let stray = &["SE bad-format", "SE invalid-xml", "SE not-well-formed"];
    bound("B-047", "text between stanzas", "hello".into(), stray);
    bound("B-047", "a reference between stanzas", "&amp;".into(), stray);
    let much = &["SE policy-violation"][..];
    bound(
        "B-049",
        "a hundred thousand children",
        format!("<message>{}</message>", "<a/>".repeat(100_000)),
        much,
    );
    bound("B-049", "too deep", format!("<message>{}", "<a>".repeat(100)), much);
    let attributes: String = (0..80_000).map(|n| format!(" a{n}=''")).collect();
    bound("B-050", "eighty thousand attributes", format!("<message{attributes}/>"), much);
    let declarations: String = (0..1_000).map(|n| format!(" xmlns:a{n}='u'")).collect();
    bound("B-050", "a thousand declarations", format!("<message{declarations}/>"), much);
    bound(
        "B-053",
        "a value of five megabytes",
        format!("<message id='{}'/>", "x".repeat(5 << 20)),
        much,
    );
    bound(
        "B-053",
        "a name of a megabyte",
        format!("<message><{}/></message>", "x".repeat(1 << 20)),
        much,
    );
    let most = 256 << 10;
    bound(
        "B-055",
        "a stanza a byte too long",
        padded(most + 1),
        &["SE policy-violation", "ST policy-violation/modify stanza-too-big"],
    );
    rows.extend([
        // To the own account, where nobody is available: it is filed and nothing comes.
        Row::new("B-055", "a stanza as long as may be", Bound).says(padded(most)).gets(&[""]),
        Row::new("B-056", "a stanza of 9,999 bytes", Bound).says(padded(9_999)).gets(&[""]),
        Row::new("B-056", "a stanza of exactly 10,000 bytes", Bound)
            .says(padded(10_000))
            .gets(&[""]),
        Row::new("B-061", "a space between stanzas", Bound).says(" \n\t ").gets(&[""]),
        Row::new("B-062", "a stanza behind the end of the stream", Bound)
            .says("</stream:stream><message to='${full}'><body>x</body></message>")
            .gets(&["closed"]),
        Row::new("B-064", "a language that is none", Bound)
            .says(format!(
                "<message to='${{full}}' type='chat' xml:lang='{}'><body>x</body></message>",
                "x".repeat(10 << 10)
            ))
            .gets(&["message x", "ST bad-request/modify"]),
        Row::new("B-064", "a language with a space", Bound)
            .says("<message to='${full}' type='chat' xml:lang='d e'><body>x</body></message>")
            .gets(&["message x", "ST bad-request/modify"]),
        Row::new("B-046", "an unknown element before the sign-in", Open)
            .says("<wherefore xmlns='urn:x'/>")
            .gets(&["SE unsupported-stanza-type"]),
        Row::new("B-049", "too many children before the sign-in", Open)
            .says(format!("<iq type='get' id='x'>{}</iq>", "<a/>".repeat(33)))
            .gets(&["SE policy-violation"]),
        Row::new("B-053", "an element too long before the sign-in", Open)
            .says(format!("<iq type='get' id='{}'/>", "x".repeat(64 << 10)))
            .gets(&["SE policy-violation"]),
        Row::new("B-068", "a message before the sign-in", Open)
            .says("<message to='${friend}'><body>x</body></message>")
            .gets(&["SE not-authorized"]),
    ]);
    for control in [0x01u8, 0x0b, 0x1f] {
        rows.push(
            Row::new("B-034", "a control character in text", Bound)
                .raw(bytes("<message><body>", &[control], "</body></message>"))
                .gets(malformed),
        );
        rows.push(
            Row::new("B-034", "a control character in an attribute", Bound)
                .raw(bytes("<message id='", &[control], "'/>"))
                .gets(malformed),
        );
    }
    let wrong = &["SE not-well-formed", "SE unsupported-encoding", "SE bad-format"];
    for (what, bad) in [
        ("an overlong encoding", &[0xc0u8, 0xaf][..]),
        ("a surrogate", &[0xed, 0xa0, 0x80]),
        ("beyond Unicode", &[0xf4, 0x90, 0x80, 0x80]),
        ("a byte that begins nothing", &[0xff]),
        ("U+FFFE", &[0xef, 0xbf, 0xbe]),
    ] {
        rows.push(
            Row::new("B-035", what, Bound)
                .raw(bytes("<message><body>", bad, "</body></message>"))
                .gets(wrong),
        );
    }
    let pings: String = (0..2_000)
        .map(|n| format!("<iq type='get' id='p{n}'><ping xmlns='urn:xmpp:ping'/></iq>"))
        .collect();
    let answers: &'static str = String::leak(vec!["result"; 2_000].join(", "));
    rows.push(
        Row::new("B-065", "two thousand stanzas at once", Bound).says(pings).gets(&[answers]),
    );
    rows
}
