//! `pangaea bench`: small figures of this machine, to compare versions and machines by.
//!
//! `frame` and `jid` run in this process, on one thread; `chat` speaks to a server that is running. Real load tests,
//! with latencies and references, are made with tools apart.

mod chat;

use std::time::{Duration, Instant};

use xmpp::Jid;
use xmpp::xml::framer::{Framer, Limits, Scan};

/// Bytes that the framer gets at once, as from a socket.
const READ_BYTES: usize = 4096;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea bench jid
  pangaea bench frame --seconds 5
  pangaea bench chat --url 127.0.0.1:5222 --pairs 20

The figures of jid and frame are of one core. Use a release build.")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Parsing addresses: nanoseconds a JID
    Jid {
        /// For how long
        #[arg(long, default_value_t = 2, value_name = "S")]
        seconds: u64,
    },
    /// Cutting stanzas out of a stream: megabytes a second
    Frame {
        /// For how long
        #[arg(long, default_value_t = 2, value_name = "S")]
        seconds: u64,
    },
    /// Messages between pairs of users of a quickstart, over plain TCP: messages a second
    Chat(chat::Args),
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("note: a debug build; the figures mean nothing");
    }
    match &args.what {
        What::Jid { seconds } => {
            for (name, address) in [
                ("bare", "romeo.montague@chat.example"),
                ("full", "romeo.montague@chat.example/balcony-7f3a"),
                ("not ASCII", "ромео@chat.example/балкон"),
            ] {
                let (times, spent) = repeat(*seconds, || {
                    std::hint::black_box(Jid::parse(std::hint::black_box(address)).is_ok());
                    1
                });
                println!("jid, {name:<10} {:>8.1} ns", spent.as_nanos() as f64 / times as f64);
            }
            Ok(())
        }
        What::Frame { seconds } => {
            let stream = stream();
            let mut stanzas = 0;
            let (bytes, spent) = repeat(*seconds, || {
                stanzas += frame(&stream);
                stream.len() as u64
            });
            let seconds = spent.as_secs_f64();
            println!(
                "frame           {:>8.0} MB/s  {:.0} ns a stanza of {} bytes",
                bytes as f64 / seconds / 1e6,
                spent.as_nanos() as f64 / stanzas as f64,
                bytes / stanzas.max(1)
            );
            Ok(())
        }
        What::Chat(args) => chat::main(args),
    }
}

/// Calls `once` until the time is over. The sum of what it gave, and the time.
fn repeat(seconds: u64, mut once: impl FnMut() -> u64) -> (u64, Duration) {
    let start = Instant::now();
    let mut sum = 0;
    while start.elapsed() < Duration::from_secs(seconds.max(1)) {
        for _ in 0..100 {
            sum += once();
        }
    }
    (sum, start.elapsed())
}

/// A stream as clients write it: header, then messages, presence and pings.
fn stream() -> Vec<u8> {
    let mut stream = b"<?xml version='1.0'?><stream:stream to='chat.example' version='1.0' \
        xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        .to_vec();
    for n in 0..200 {
        let body = "But, soft! what light through yonder window breaks? ".repeat(1 + n % 5);
        let stanza = match n % 4 {
            0 | 1 => format!(
                "<message to='juliet@chat.example' type='chat' id='m{n}'><body>{body}</body>\
                 <request xmlns='urn:xmpp:receipts'/><origin-id xmlns='urn:xmpp:sid:0' id='o{n}'/>\
                 </message>"
            ),
            2 => format!("<presence id='p{n}'><show>away</show><priority>5</priority></presence>"),
            _ => format!("<iq type='get' id='i{n}'><ping xmlns='urn:xmpp:ping'/></iq>"),
        };
        stream.extend_from_slice(stanza.as_bytes());
    }
    stream
}

/// How many stanzas the framer finds.
fn frame(stream: &[u8]) -> u64 {
    let mut framer = Framer::stream(Limits::STANZA);
    let (mut taken, mut end, mut stanzas) = (0, 0, 0);
    loop {
        match framer.scan(&stream[taken..end]) {
            Ok(Scan::More) if end == stream.len() => return stanzas,
            Ok(Scan::More) => end = (end + READ_BYTES).min(stream.len()),
            Ok(Scan::Space(n) | Scan::Open(n, _) | Scan::Close(n)) => taken += n,
            Ok(Scan::Element(n, _)) => {
                taken += n;
                stanzas += 1;
            }
            Err(_) => return stanzas,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_that_is_measured_is_whole() {
        assert_eq!(frame(&stream()), 200);
    }
}
