//! A and B: how a stream begins, TLS, and what must not come before it. RFC 6120 §4, §5.

use super::{At, Row};
use crate::stranger::{DIALBACK, SERVER};

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

fn header(attributes: &str) -> String {
    format!("<?xml version='1.0'?><stream:stream {attributes}>")
}

/// The usual namespaces.
fn server(attributes: &str) -> String {
    header(&format!("xmlns='{SERVER}' xmlns:db='{DIALBACK}' xmlns:stream='{STREAM}' {attributes}"))
}

pub(super) fn rows() -> Vec<Row> {
    let garbage = &["SE not-well-formed", "SE bad-format"];
    let mut rows = vec![
        Row::new("B-001", "an HTTP request", At::Fresh)
            .says("GET / HTTP/1.1\r\nHost: ${us}\r\n\r\n")
            .gets(garbage),
        Row::new("B-002", "random bytes", At::Fresh).raw(noise(4096)).gets(garbage),
        Row::new("B-004", "UTF-16", At::Fresh)
            .raw(utf16("<?xml version='1.0'?><stream:stream>"))
            .gets(&["SE unsupported-encoding", "SE not-well-formed"]),
        Row::new("B-004", "an encoding that is none of ours", At::Fresh)
            .says("<?xml version='1.0' encoding='ISO-8859-1'?>")
            .gets(&["SE unsupported-encoding"]),
        Row::new("B-005", "a byte order mark", At::Fresh)
            .raw("\u{feff}<?xml version='1.0'?>")
            .gets(&["SE not-well-formed"]),
        Row::new("B-007", "an XML declaration in the middle", At::Open)
            .says("<?xml version='1.0'?>")
            .gets(&["SE restricted-xml", "SE not-well-formed"]),
        Row::new("B-008", "a wrong streams namespace", At::Fresh)
            .says(header("xmlns='jabber:server' xmlns:stream='http://wrong.example/' ${header}"))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-010", "the content namespace of clients", At::Fresh)
            .says(header(&format!("xmlns='jabber:client' xmlns:stream='{STREAM}' ${{header}}")))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-010", "no content namespace", At::Fresh)
            .says(header(&format!("xmlns:stream='{STREAM}' ${{header}}")))
            .gets(&["SE invalid-namespace"]),
        Row::new("B-011", "a root that is no stream", At::Fresh)
            .says(format!("<stream:steam xmlns='{SERVER}' xmlns:stream='{STREAM}' ${{header}}>"))
            .gets(&["SE bad-format", "SE invalid-namespace"]),
        Row::new("B-011", "a stanza instead of a stream", At::Fresh)
            .says("<message xmlns='jabber:server' from='a@evil.lab' to='${friend}'/>")
            .gets(&["SE bad-format", "SE invalid-namespace"]),
        Row::new("B-013", "no version", At::Fresh)
            .says(server("from='evil.lab' to='${us}'"))
            .gets(&["SE unsupported-version"]),
        Row::new("B-016", "nobody addressed", At::Fresh)
            .says(server("from='evil.lab' version='1.0'"))
            .gets(&["SE host-unknown", "SE improper-addressing"]),
        Row::new("B-017", "another domain", At::Fresh)
            .says(server("from='evil.lab' to='verona.lab' version='1.0'"))
            .gets(&["SE host-unknown"]),
        Row::new("B-194", "one of our own domains as who it comes from", At::Fresh)
            .says(server("from='${us}' to='${us}' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-194", "another region's own domain, to all regions", At::Fresh)
            .says(server("from='us.${us}' to='${us}' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-194", "this region's own domain, to itself", At::Fresh)
            .says(server("from='eu.${us}' to='eu.${us}' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-019", "it comes from no domain", At::Fresh)
            .says(server("from='a@evil.lab/x' to='${us}' version='1.0'"))
            .gets(&["SE invalid-from", "SE improper-addressing"]),
        Row::new("B-022", "another domain behind SASL", At::Signed)
            .says(server("from='evil.lab' to='verona.lab' version='1.0'"))
            .gets(&["SE not-authorized"]),
        Row::new("B-022", "another domain of ours behind SASL", At::Signed)
            .says(server("from='evil.lab' to='anon.${us}' version='1.0'"))
            .gets(&["SE not-authorized"]),
        Row::new("B-023", "somebody else behind SASL", At::Signed)
            .says(server("from='caller.lab' to='${us}' version='1.0'"))
            .gets(&["SE invalid-from"]),
        Row::new("B-023", "the same behind SASL", At::Signed)
            .says(server("${header}"))
            .gets(&["features"]),
        Row::new("B-026", "a document type before the stream", At::Fresh)
            .says("<!DOCTYPE stream><stream:stream>")
            .gets(&["SE restricted-xml"]),
        Row::new("B-028", "entities of entities", At::Fresh)
            .says(format!("<?xml version='1.0'?>{}", super::xml::laughs()))
            .gets(&["SE restricted-xml"]),
        Row::new("B-062", "only the end of the stream", At::Open)
            .says("</stream:stream>")
            .gets(&["closed"]),
        Row::new("B-062", "a stanza behind the end of the stream", At::Proved)
            .says("</stream:stream><message from='a@evil.lab' to='${friend}'><body>x</body></message><<<")
            .gets(&["closed"]),
        // B. Nothing but an error for who does not begin TLS.
        Row::new("B-196", "a stanza before TLS", At::Open)
            .says("<message from='a@evil.lab' to='${friend}'><body>x</body></message>")
            .gets(&["SE not-authorized"]),
        Row::new("B-203", "dialback before TLS", At::Open)
            .says("<db:result from='evil.lab' to='${us}'>key</db:result>")
            .gets(&["SE policy-violation"]),
        Row::new("S-024", "a question about a key before TLS", At::Open)
            .says("<db:verify from='evil.lab' to='${us}' id='x'>key</db:verify>")
            .gets(&["SE policy-violation"]),
        Row::new("B-067", "SASL before TLS", At::Open)
            .says(crate::stranger::EXTERNAL)
            .gets(&["SASL encryption-required"]),
        Row::new("B-068", "stream management before TLS", At::Open)
            .says("<enable xmlns='urn:xmpp:sm:3'/>")
            .gets(&["SE not-authorized", "SE policy-violation", "failed"]),
        Row::new("B-073", "STARTTLS inside TLS", At::Secured)
            .says(crate::stranger::STARTTLS)
            .gets(&["SE unsupported-stanza-type", "SE policy-violation"]),
        Row::new("B-304", "compression", At::Proved)
            .says("<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>")
            .gets(&["SE unsupported-stanza-type"]),
        Row::new("S-025", "SASL2, which was not offered", At::Secured)
            .says("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='EXTERNAL'/>")
            .gets(&["SE unsupported-stanza-type"]),
        Row::new("S-056", "dialback without dialback", At::Caller)
            .says("<db:result from='caller.lab' to='${us}'/>")
            .gets(&["DB not-acceptable", "DB bad-request", "DB not-authorized"]),
    ];
    for at in [At::Open, At::Secured, At::Proved] {
        rows.push(
            Row::new("6120 §4.9.1.1", "a stream error of theirs", at)
                .says("<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
                .gets(&["closed"]),
        );
    }
    for version in ["0.9", "abc", "1.", "-1", ""] {
        rows.push(
            Row::new("B-014", "a version that is none", At::Fresh)
                .says(server(&format!("from='evil.lab' to='${{us}}' version='{version}'")))
                .gets(&["SE unsupported-version"]),
        );
    }
    for to in ["a@b@c", "user1@${us}", "/", "a b", "xn--example-.org", "${us}/x"] {
        rows.push(
            Row::new("B-019", "a domain that is none", At::Fresh)
                .says(server(&format!("from='evil.lab' to='{to}' version='1.0'")))
                .gets(&["SE host-unknown", "SE improper-addressing"]),
        );
    }
    rows
}
