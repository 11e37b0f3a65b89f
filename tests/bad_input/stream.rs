//! A, the opening of a stream: what is no XMPP, no XML, for nobody here, or for somebody else. RFC 6120 §4.

use crate::row::Row;
use crate::state::At::{Authenticated, Bound, Fresh, Open, Signed};

const STREAM: &str = "http://etherx.jabber.org/streams";

/// Bytes without a pattern, the first of them nothing that XML or another encoding begins with.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::once(0x80).chain(std::iter::from_fn(|| Some(next()))).take(count).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// A stream header with these attributes, namespaces included.
fn header(attributes: &str) -> String {
    format!("<?xml version='1.0'?><stream:stream {attributes}>")
}

/// The usual namespaces.
fn client(attributes: &str) -> String {
    header(&format!("xmlns='jabber:client' xmlns:stream='{STREAM}' {attributes}"))
}

pub(crate) fn rows() -> Vec<Row> {
    let garbage = &["SE not-well-formed", "SE bad-format"];
    let mut rows = vec![
        Row::new("B-001", "an HTTP request", Fresh)
            .says("GET / HTTP/1.1\r\nHost: ${domain}\r\n\r\n")
            .gets(garbage),
        Row::new("B-002", "random bytes", Fresh).raw(noise(4096)).gets(garbage),
        Row::new("B-004", "UTF-16", Fresh)
            .raw(utf16("<?xml version='1.0'?><stream:stream>"))
            .gets(&["SE unsupported-encoding", "SE not-well-formed"]),
        Row::new("B-004", "an encoding that is none of ours", Fresh)
            .says("<?xml version='1.0' encoding='ISO-8859-1'?>")
            .gets(&["SE unsupported-encoding"]),
        // Fixed here: a byte order mark is not welcome (RFC 6120 §11.6).
        Row::new("B-005", "a byte order mark", Fresh)
            .raw("\u{feff}<?xml version='1.0'?>")
            .gets(&["SE not-well-formed"]),
        Row::new("B-007", "an XML declaration in the middle", Open)
            .says("<?xml version='1.0'?>")
            .gets(&["SE restricted-xml", "SE not-well-formed"]),
        Row::new("B-008", "a wrong streams namespace", Fresh)
            .says(header("xmlns='jabber:client' xmlns:stream='http://wrong.example/' ${header}"))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-010", "the content namespace of servers", Fresh)
            .says(header(&format!("xmlns='jabber:server' xmlns:stream='{STREAM}' ${{header}}")))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-010", "no content namespace", Fresh)
            .says(header(&format!("xmlns:stream='{STREAM}' ${{header}}")))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-011", "a root that is no stream", Fresh)
            .says(format!(
                "<stream:steam xmlns='jabber:client' xmlns:stream='{STREAM}' ${{header}}>"
            ))
            .gets(&["SE bad-format", "SE invalid-namespace"]),
        Row::new("B-011", "a stanza instead of a stream", Fresh)
            .says("<message xmlns='jabber:client' to='${me}'/>")
            .gets(&["SE bad-format", "SE invalid-namespace"]),
        Row::new("B-013", "no version", Fresh)
            .says(client("to='${domain}'"))
            .gets(&["SE unsupported-version"]),
        Row::new("B-016", "nobody addressed", Fresh)
            .says(client("version='1.0'"))
            .gets(&["SE host-unknown", "SE improper-addressing"]),
        Row::new("B-017", "another domain", Fresh)
            .says(client("to='verona.example' version='1.0'"))
            .gets(&["SE host-unknown"]),
        Row::new("B-022", "another domain behind the sign-in", Signed)
            .says(client("to='verona.example' version='1.0'"))
            .gets(&["SE not-authorized"]),
        Row::new("B-022", "another domain of ours behind the sign-in", Signed)
            .says(client("to='anon.${domain}' version='1.0'"))
            .gets(&["SE not-authorized"]),
        Row::new("B-023", "another user behind the sign-in", Signed)
            .says(client("to='${domain}' from='${friend}' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-023", "a user that is no address behind the sign-in", Signed)
            .says(client("to='${domain}' from='@' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-023", "itself behind the sign-in", Signed)
            .says(client("to='${domain}' from='${me}' version='1.0'"))
            .gets(&["features"]),
        Row::new("B-026", "a document type before the stream", Fresh)
            .says("<!DOCTYPE stream><stream:stream>")
            .gets(&["SE restricted-xml"]),
        Row::new("B-028", "entities of entities", Fresh)
            .says(format!("<?xml version='1.0'?>{}", crate::xml::laughs()))
            .gets(&["SE restricted-xml"]),
        Row::new("B-062", "only the end of the stream", Open)
            .says("</stream:stream>")
            .gets(&["closed"]),
        Row::new("B-062", "a stanza behind the end of the stream", Open)
            .says("</stream:stream><message to='${friend}'><body>x</body></message><<<")
            .gets(&["closed"]),
    ];
    // An error is not answered with another one.
    for at in [Open, Authenticated, Bound] {
        rows.push(
            Row::new("6120 §4.9.1.1", "a stream error of the client's", at)
                .says("<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
                .gets(&["closed"]),
        );
    }
    for version in ["0.9", "abc", "1.", "-1", ""] {
        rows.push(
            Row::new("B-014", "a version that is none", Fresh)
                .says(client(&format!("to='${{domain}}' version='{version}'")))
                .gets(&["SE unsupported-version"]),
        );
    }
    for to in ["a@b@c", "user1@${domain}", "/", "a b", "xn--example-.org", "${domain}/x"] {
        rows.push(
            Row::new("B-019", "a domain that is none", Fresh)
                .says(client(&format!("to='{to}' version='1.0'")))
                .gets(&["SE host-unknown", "SE improper-addressing"]),
        );
    }
    rows
}
