//! How fast the framer is: `cargo run --release -p xmpp --example framer_speed`. Prints, asserts nothing about time.

use std::time::Instant;

use xmpp::xml::framer::{Framer, Limits, Scan};
use xmpp::{Jid, Stanza};

const STANZAS: [&str; 4] = [
    "<message xmlns='jabber:client' to='juliet@capulet.example/balcony' type='chat' id='0f1b5a0c-6d1e-4f0c-9a52-9a2c2d1c8e11' \
     xml:lang='en'><body>Art thou not Romeo, and a Montague? What man art thou that thus bescreen'd in night so stumblest on my \
     counsel? &quot;By a name I know not how to tell thee who I am.&quot;</body><request xmlns='urn:xmpp:receipts'/>\
     <markable xmlns='urn:xmpp:chat-markers:0'/><origin-id xmlns='urn:xmpp:sid:0' id='0f1b5a0c-6d1e-4f0c-9a52-9a2c2d1c8e11'/>\
     <active xmlns='http://jabber.org/protocol/chatstates'/></message>",
    "<presence><show>away</show><status>on the balcony</status><priority>5</priority><c xmlns='http://jabber.org/protocol/caps' \
     hash='sha-1' node='https://client.example' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/><x xmlns='vcard-temp:x:update'>\
     <photo>01b87fcd030b72895ff8e88db57ec525450f000d</photo></x></presence>",
    "<iq id='ping-1' type='get' to='capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    "<message to='juliet@capulet.example' type='chat' id='x'><encrypted xmlns='eu.siacs.conversations.axolotl'><header sid='123456'>\
     <key rid='31415'>MwohBfRqBm2atj3fT0/KUDg59Cnvfpgoe/PLNIu1xgSXujEZEAAYACIwKh6TTC7VBQZcCcKnQlO+6s1GQ9DIRKH4JU7XrJ+JJnkPUwJ4</key>\
     <key rid='12321'>MwohBUzqBm2atj3fT0/KUDg59Cnvfpgoe/PLNIu1xgSXujEZEAAYACIwKh6TTC7VBQZcCcKnQlO+6s1GQ9DIRKH4JU7XrJ+JJnkPUwJ4</key>\
     <iv>bG9yZW0gaXBzdW0gZG9sb3I=</iv></header><payload>U2VkIHV0IHBlcnNwaWNpYXRpcyB1bmRlIG9tbmlzIGlzdGUgbmF0dXMgZXJyb3I=</payload>\
     </encrypted><store xmlns='urn:xmpp:hints'/><body>I sent you an OMEMO message</body></message>",
];

fn main() {
    let from = Jid::parse("romeo@montague.example/orchard").expect("a literal");
    for (index, stanza) in STANZAS.iter().enumerate() {
        measure(&format!("stanza {index}"), &stanza.repeat(2_000), 1 << 20, None);
    }
    let mixed = STANZAS.concat().repeat(2_000);
    measure("mixed, whole", &mixed, 1 << 20, None);
    measure("mixed, and received", &mixed, 1 << 20, Some(&from));
    measure("mixed, 1460-byte reads", &mixed, 1460, None);
    measure("mixed, 1-byte reads", &STANZAS.concat().repeat(100), 1, None);
}

fn measure(name: &str, bytes: &str, read: usize, from: Option<&Jid>) {
    let mut best = f64::MAX;
    let mut stanzas = 0;
    for _ in 0..9 {
        let started = Instant::now();
        stanzas = frame(bytes.as_bytes(), read, from);
        best = best.min(started.elapsed().as_secs_f64());
    }
    println!(
        "{name:>24}: {:7.0} MB/s {:7.0} ns a stanza of {} bytes",
        bytes.len() as f64 / best / 1e6,
        best * 1e9 / stanzas as f64,
        bytes.len() / stanzas
    );
}

/// Feeds `bytes` as reads of `read` bytes would bring them, makes stanzas of them if there is a sender; gives their number.
fn frame(bytes: &[u8], read: usize, from: Option<&Jid>) -> usize {
    let mut framer = Framer::standalone(Limits::STANZA);
    let (mut start, mut end, mut found) = (0, 0, 0);
    while start < bytes.len() {
        match framer.scan(&bytes[start..end]).expect("well-formed") {
            Scan::More => end = (end + read).min(bytes.len()),
            Scan::Element(length, head) => {
                if let Some(from) = from {
                    let stanza = Stanza::receive(&bytes[start..start + length], &head, from, None);
                    std::hint::black_box(&stanza.expect("a good addressee"));
                }
                std::hint::black_box(&head);
                start += length;
                found += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    found
}
