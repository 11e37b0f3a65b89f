//! The framer: whatever comes, the verdict does not depend on how it was cut, and what is found is a stanza that reads back as itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::jid::Jid;
use xmpp::stanza::{Kind, Stanza};
use xmpp::xml::framer::{Framer, Limits, Scan};

const HEADER: &[u8] =
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='a.example' version='1.0'>";

/// What was found, in words, reading no more than `step` bytes at a time.
fn read(all: &[u8], step: usize) -> Vec<String> {
    let mut framer = Framer::stream(Limits::PRE_AUTH);
    let (mut done, mut seen, mut found) = (0, 0, Vec::new());
    loop {
        match framer.scan(&all[done..seen]) {
            Ok(Scan::More) if seen == all.len() => return found,
            Ok(Scan::More) => seen = all.len().min(seen + step),
            Ok(Scan::Space(bytes)) => done += bytes,
            Ok(Scan::Open(bytes, header)) => {
                done += bytes;
                found.push(format!("{header:?}"));
            }
            Ok(Scan::Close(bytes)) => {
                done += bytes;
                found.push("close".to_owned());
            }
            Ok(Scan::Element(bytes, head)) => {
                let piece = &all[done..done + bytes];
                let element = framer.element(piece).expect("the framer found it");
                if head.kind != Kind::Other {
                    let from = Jid::parse("romeo@a.example/o").expect("an address");
                    if let Ok(stanza) = Stanza::receive(piece, &head, &from, Some("de")) {
                        let again = Stanza::parse(stanza.bytes().clone()).expect("canonical");
                        assert_eq!(again.to(), stanza.to());
                        assert!(stanza.children().eq(again.children()));
                    }
                }
                done += bytes;
                found.push(format!("{element:?}"));
            }
            Err(error) => {
                found.push(error.to_string());
                return found;
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    // Half of them begin behind a header, where there is more to find.
    let all = match data.split_first() {
        Some((first, rest)) if first % 2 == 0 => [HEADER, rest].concat(),
        Some((_, rest)) => rest.to_vec(),
        None => return,
    };
    let whole = read(&all, usize::MAX);
    assert_eq!(whole, read(&all, 1));
    assert_eq!(whole, read(&all, 7));
});
