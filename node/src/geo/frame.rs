//! Room: what we say to other nodes: the frame kinds that ride on a link and their bodies. The link itself (s2s) moves them unread.
//! Hot kinds (stanza, multicast) are laid out by hand so that nothing is copied twice; the rest is postcard.

use bytes::{Buf, Bytes};
use s2s::link::FrameKind;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

/// Route-log entries, `Vec<RouteEntry>`.
pub const ROUTE: FrameKind = FrameKind(0x10);
/// A stanza for an account's resources on the receiving node.
pub const STANZA: FrameKind = FrameKind(0x11);
/// A stanza that no session on the sending node takes; same body as the [`STANZA`] it answers.
pub const RETURN: FrameKind = FrameKind(0x12);
/// Presence for the available resources of many accounts.
pub const MULTICAST: FrameKind = FrameKind(0x13);
/// [`PresenceProbe`].
pub const PRESENCE_PROBE: FrameKind = FrameKind(0x14);
/// [`CarbonCopy`].
pub const CARBON: FrameKind = FrameKind(0x15);
/// "We took you for dead: tell us the presence of your users again." Empty.
pub const REPRESENT: FrameKind = FrameKind(0x16);
/// [`FlightEnd`].
pub const FLIGHT: FrameKind = FrameKind(0x17);
/// A watermark probe: `u64`, little endian.
pub const PROBE: FrameKind = FrameKind(0x18);
/// Its echo: the same number.
pub const ECHO: FrameKind = FrameKind(0x19);
/// A request to a service of the other node: [`Call`].
pub const CALL: FrameKind = FrameKind(0x1a);
/// Its answer: [`Reply`].
pub const REPLY: FrameKind = FrameKind(0x1b);
/// Durable-log shipping; the body belongs to `homes::wire`.
pub const DURABLE: FrameKind = FrameKind(0x1c);
/// Raft request, as a datagram: [`Call`].
pub const RAFT_CALL: FrameKind = FrameKind(0x20);
/// Raft answer, as a datagram: [`Reply`].
pub const RAFT_REPLY: FrameKind = FrameKind(0x21);
/// Presence for an account that was granted it; body as [`MULTICAST`].
pub const GRANT: FrameKind = FrameKind(0x1d);
/// Whom the sender reaches, as a datagram: `Vec<String>` of node names.
pub const REACH: FrameKind = FrameKind(0x22);

/// Head of a [`STANZA`]: flags, tries, and the flight when it is one of several copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StanzaHead {
    /// Others have it too: if nobody takes it here, that is no loss.
    pub copy: bool,
    /// How often it was routed anew; at [`TRIES_MAX`] it is bounced.
    pub tries: u8,
    /// Which of the sender's flights it belongs to; 0 for none.
    pub flight: u64,
}

/// Bound on re-routing one stanza.
pub const TRIES_MAX: u8 = 16;

impl StanzaHead {
    /// Appends the head.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.copy) | (u8::from(self.flight != 0) << 1));
        out.push(self.tries);
        if self.flight != 0 {
            out.extend_from_slice(&self.flight.to_le_bytes());
        }
    }

    /// Splits a body into head and stanza bytes; `None` when it is too short.
    pub fn read(mut body: Bytes) -> Option<(Self, Bytes)> {
        if body.len() < 2 {
            return None;
        }
        let flags = body.get_u8();
        let tries = body.get_u8();
        let mut head = Self { copy: flags & 1 != 0, tries, flight: 0 };
        if flags & 2 != 0 {
            head.flight = body.try_get_u64_le().ok()?;
        }
        Some((head, body))
    }
}

/// Bytes of names in one frame at most: with the stanza it stays below the 1 MiB of a frame.
pub const NAMES_BYTES_MAX: usize = 256 * 1024;

/// Divides accounts, in their order, into parts whose names fit a frame.
pub fn parts(to: &[BareJid]) -> impl Iterator<Item = &[BareJid]> {
    let mut rest = to;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |account: &&BareJid| {
            bytes += account.as_str().len() + size_of::<u16>();
            bytes <= NAMES_BYTES_MAX
        };
        // A name is far shorter than a part, so each part has one at least.
        let (part, after) = rest.split_at(rest.iter().take_while(fits).count());
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// Appends a multicast body: how many, each account, the stanza.
pub fn write_multicast(out: &mut Vec<u8>, to: &[BareJid], stanza: &[u8]) {
    let count = u32::try_from(to.len()).expect("a roster is bounded far below 2^32");
    out.extend_from_slice(&count.to_le_bytes());
    for account in to {
        let text = account.as_str().as_bytes();
        let length = u16::try_from(text.len()).expect("a bare JID is at most 2,047 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text);
    }
    out.extend_from_slice(stanza);
}

/// Splits a multicast body; `None` when it does not add up.
pub fn read_multicast(mut body: Bytes) -> Option<(Vec<Bytes>, Bytes)> {
    let count = body.try_get_u32_le().ok()? as usize;
    if count > body.len() / 2 {
        return None;
    }
    let mut to = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::from(body.try_get_u16_le().ok()?);
        if length > body.len() {
            return None;
        }
        to.push(body.split_to(length));
    }
    Some((to, body))
}

/// "Tell `from` whether these are available."
#[derive(Debug, Serialize, Deserialize)]
pub struct PresenceProbe {
    /// Who asks.
    pub from: FullJid,
    /// About whom.
    pub to: Vec<BareJid>,
}

/// A carbon for the resources of an account on the receiving node.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarbonCopy {
    /// Whose.
    pub account: BareJid,
    /// Not for this one.
    pub except: FullJid,
    /// Sent or received.
    pub sent: bool,
    /// The original.
    pub forwarded: Vec<u8>,
}

/// What became of one copy of a flight.
#[derive(Debug, Serialize, Deserialize)]
pub struct FlightEnd {
    /// Which.
    pub flight: u64,
    /// Whether a session took it.
    pub delivered: bool,
}

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by the caller; the answer carries it.
    pub id: u64,
    /// For the service.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Of the call.
    pub id: u64,
    /// From the service.
    pub body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_head_comes_back() {
        for head in [StanzaHead::default(), StanzaHead { copy: true, tries: 3, flight: 9 }] {
            let mut out = Vec::new();
            head.write(&mut out);
            out.extend_from_slice(b"<message/>");
            assert_eq!(
                StanzaHead::read(out.into()),
                Some((head, Bytes::from_static(b"<message/>")))
            );
        }
        assert_eq!(StanzaHead::read(Bytes::from_static(&[2, 0, 1])), None);
    }

    #[test]
    fn long_names_and_many_go_in_parts_that_fit_and_none_is_left_out() {
        for (length, count) in [(1, 10), (1_000, 1_000), (3, 200_000)] {
            let name = |n: usize| BareJid::parse(&format!("{}{n}@x", "u".repeat(length)));
            let to: Vec<BareJid> = (0..count).map(|n| name(n).expect("jid")).collect();
            for part in parts(&to) {
                let mut out = Vec::new();
                write_multicast(&mut out, part, b"");
                assert!(out.len() <= NAMES_BYTES_MAX + 4 && !part.is_empty());
            }
            assert_eq!(parts(&to).flatten().count(), count);
        }
        assert_eq!(parts(&[]).count(), 0);
    }

    #[test]
    fn a_multicast_comes_back_and_a_cut_one_is_refused() {
        let to = [BareJid::parse("a@x").expect("jid"), BareJid::parse("bb@x").expect("jid")];
        let mut out = Vec::new();
        write_multicast(&mut out, &to, b"<presence/>");
        let (who, stanza) = read_multicast(out.clone().into()).expect("whole");
        assert_eq!(who, [Bytes::from_static(b"a@x"), Bytes::from_static(b"bb@x")]);
        assert_eq!(stanza, Bytes::from_static(b"<presence/>"));
        out.truncate(8);
        assert!(read_multicast(out.into()).is_none());
    }
}
