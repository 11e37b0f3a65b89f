//! Room: what we say to other nodes: the frame kinds that ride on a link and their bodies. The link itself (s2s) moves them unread.
//! Hot kinds (stanza, multicast) are laid out by hand so that nothing is copied twice; the rest is postcard.

use bytes::{Buf, Bytes};
use replication::Hlc;
use s2s::link::FrameKind;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid};

/// Route-log entries, `Vec<RouteEntry>`.
pub const ROUTE: FrameKind = FrameKind(0x10);
/// A stanza for an account's resources on the receiving node.
pub const STANZA: FrameKind = FrameKind(0x11);
/// A stanza of the receiver's that no session on the sending node has any more; body as [`STANZA`].
pub const RETURN: FrameKind = FrameKind(0x12);
/// Presence for the available resources of many accounts.
pub const MULTICAST: FrameKind = FrameKind(0x13);
/// [`PresenceProbe`].
pub const PRESENCE_PROBE: FrameKind = FrameKind(0x14);
/// [`CarbonCopy`].
pub const CARBON: FrameKind = FrameKind(0x15);
/// "We took you for dead: tell us the presence of your users again." Empty.
pub const REPRESENT: FrameKind = FrameKind(0x16);
/// These messages of the receiver's ledger are kept: clients have them, or they are filed. [`write_orders`].
pub const KEPT: FrameKind = FrameKind(0x17);
/// A watermark probe: `u64`, little endian.
pub const PROBE: FrameKind = FrameKind(0x18);
/// Its echo: the same number.
pub const ECHO: FrameKind = FrameKind(0x19);
/// A request to a service of the other node: [`Call`].
pub const CALL: FrameKind = FrameKind(0x1a);
/// Its answer: [`Reply`].
pub const REPLY: FrameKind = FrameKind(0x1b);
/// These calls of mine are given up: not to be carried out if they are still on the way. Ids as in [`write_orders`], in the front lane.
pub const GIVEN_UP: FrameKind = FrameKind(0x23);
/// All messages of the receiver's ledger, of former lives too, that the sender has: the first word on a fresh link. [`write_orders`].
pub const HELD: FrameKind = FrameKind(0x1e);
/// Durable-log shipping; the body belongs to `homes::wire`.
pub const DURABLE: FrameKind = FrameKind(0x1c);
/// Raft request, as a datagram: [`Call`].
pub const RAFT_CALL: FrameKind = FrameKind(0x20);
/// Raft answer, as a datagram: [`Reply`].
pub const RAFT_REPLY: FrameKind = FrameKind(0x21);
/// Presence for an account that was granted it; body as [`MULTICAST`].
pub const GRANT: FrameKind = FrameKind(0x1d);
/// "You may see it no longer", of a session that is still there; body as [`MULTICAST`].
pub const WITHDRAWN: FrameKind = FrameKind(0x24);
/// "Show somebody at another domain your sessions of that account": [`super::abroad::Show`].
pub const SHOW: FrameKind = FrameKind(0x25);
/// The presence of one session for one that asked: [`write_presence`].
pub const PRESENCE: FrameKind = FrameKind(0x1f);
/// Whom the sender reaches, as a datagram: `Vec<String>` of node names.
pub const REACH: FrameKind = FrameKind(0x22);
/// An answer to a request of the server's own, to the node that asked: the stanza.
pub const ANSWER: FrameKind = FrameKind(0x26);
/// "Has the component that you have room for more?": [`Call`] with its full JID, answered by a [`Reply`].
pub const ROOM: FrameKind = FrameKind(0x27);

/// "I write my region's database", with the term: `u64`, little endian, and a byte: 1 for a reminder. The first word on a link, and when it begins.
pub const SCRIBE: FrameKind = FrameKind(0x30);
/// Between the scribe and the other nodes of its region; the body belongs to `homes::feed`.
pub const FEED: FrameKind = FrameKind(0x31);
/// A stanza for another domain, to the node that speaks to it: [`write_abroad`]. It stays in the ledger of the sender until that is told [`KEPT`].
pub const ABROAD: FrameKind = FrameKind(0x32);
/// A session that moves between two nodes: `session::moving::Word`.
pub const MOVE: FrameKind = FrameKind(0x40);
/// What an operator says to the receiver, through the sender: [`Call`], answered by a [`Reply`].
pub const ORDER: FrameKind = FrameKind(0x41);

/// Head of a [`STANZA`] and of a [`RETURN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StanzaHead {
    /// Others have it too, and nobody remembers this copy: if no session takes it, that is not told. Of a return of one that is tracked: another
    /// session there has it all the same.
    pub copy: bool,
    /// It stays in the ledger of the node where it entered until that is told [`KEPT`] or [`RETURN`].
    pub tracked: bool,
    /// Of a return: it was refused because something earlier has to be settled first, which is no failed try.
    pub early: bool,
    /// Of a return: sessions are there, and none of them may have it.
    pub denied: bool,
    /// How often it was routed anew; at [`TRIES_MAX`] it is bounced.
    pub tries: u8,
    /// Its place among all that the node accepted where it entered.
    pub order: u64,
    /// The newest refusal of the receiver that the sender has seen (`global_distrib` admits by it). Of a return: its own number.
    pub seen: u64,
    /// The newest session of the addressee that the sender knew of: it is not for younger ones.
    pub newest: Hlc,
}

/// Bound on re-routing one stanza.
pub const TRIES_MAX: u8 = 16;

const HEAD_BYTES: usize = 26;

impl StanzaHead {
    /// Appends the head.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut head = [0; HEAD_BYTES];
        let flags = [self.copy, self.tracked, self.early, self.denied];
        head[0] = (0..).zip(flags).map(|(bit, on)| u8::from(on) << bit).sum();
        head[1] = self.tries;
        head[2..10].copy_from_slice(&self.order.to_le_bytes());
        head[10..18].copy_from_slice(&self.seen.to_le_bytes());
        head[18..].copy_from_slice(&self.newest.0.to_le_bytes());
        out.extend_from_slice(&head);
    }

    /// Splits a body into head and stanza bytes; `None` when it is too short.
    pub fn read(mut body: Bytes) -> Option<(Self, Bytes)> {
        if body.len() < HEAD_BYTES {
            return None;
        }
        let flags = body.get_u8();
        let head = Self {
            copy: flags & 1 != 0,
            tracked: flags & 2 != 0,
            early: flags & 4 != 0,
            denied: flags & 8 != 0,
            tries: body.get_u8(),
            order: body.get_u64_le(),
            seen: body.get_u64_le(),
            newest: Hlc(body.get_u64_le()),
        };
        Some((head, body))
    }
}

/// Orders in one frame at most.
pub const ORDERS_MAX: usize = 64 * 1024;

/// Appends orders.
pub fn write_orders(out: &mut Vec<u8>, orders: &[u64]) {
    out.extend(orders.iter().flat_map(|order| order.to_le_bytes()));
}

/// The orders in a body; a last one that is not whole is left out.
pub fn read_orders(body: &[u8]) -> impl Iterator<Item = u64> + '_ {
    body.as_chunks::<8>().0.iter().map(|order| u64::from_le_bytes(*order))
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

/// Appends a multicast body: the generation of the session it is of, how many, each account, the stanza.
pub fn write_multicast(out: &mut Vec<u8>, generation: Hlc, to: &[BareJid], stanza: &[u8]) {
    out.extend_from_slice(&generation.0.to_le_bytes());
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
pub fn read_multicast(mut body: Bytes) -> Option<(Hlc, Vec<Bytes>, Bytes)> {
    let generation = Hlc(body.try_get_u64_le().ok()?);
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
    Some((generation, to, body))
}

/// Appends the body of an [`ABROAD`]: the order, the stanza.
pub fn write_abroad(out: &mut Vec<u8>, order: u64, stanza: &[u8]) {
    out.extend_from_slice(&order.to_le_bytes());
    out.extend_from_slice(stanza);
}

/// Splits it; `None` when it is too short.
pub fn read_abroad(mut body: Bytes) -> Option<(u64, Bytes)> {
    Some((body.try_get_u64_le().ok()?, body))
}

/// Appends a presence body: the generation of the session it is of, to whom, the stanza.
pub fn write_presence(out: &mut Vec<u8>, generation: Hlc, to: &FullJid, stanza: &[u8]) {
    out.extend_from_slice(&generation.0.to_le_bytes());
    let text = to.as_str().as_bytes();
    let length = u16::try_from(text.len()).expect("a full JID is at most 3,071 bytes");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text);
    out.extend_from_slice(stanza);
}

/// Splits a presence body; `None` when it does not add up.
pub fn read_presence(mut body: Bytes) -> Option<(Hlc, FullJid, Bytes)> {
    let generation = Hlc(body.try_get_u64_le().ok()?);
    let length = usize::from(body.try_get_u16_le().ok()?);
    if length > body.len() {
        return None;
    }
    let to = FullJid::parse(std::str::from_utf8(&body.split_to(length)).ok()?).ok()?;
    Some((generation, to, body))
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CarbonCopy {
    /// Whose.
    pub account: BareJid,
    /// Not for this one, which sent or received it; `None`: for those that take no messages of the account (RFC 6121 §8.5.2.1.1).
    pub except: Option<FullJid>,
    /// For this one alone, which has just moved to the receiving node.
    pub only: Option<FullJid>,
    /// Sent or received.
    pub sent: bool,
    /// The original.
    pub forwarded: Vec<u8>,
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
        let full = StanzaHead {
            copy: true,
            tracked: true,
            early: true,
            denied: true,
            tries: 3,
            order: 9,
            seen: u64::MAX,
            newest: Hlc(7),
        };
        for head in [StanzaHead::default(), full] {
            let mut out = Vec::new();
            head.write(&mut out);
            out.extend_from_slice(b"<message/>");
            assert_eq!(
                StanzaHead::read(out.into()),
                Some((head, Bytes::from_static(b"<message/>")))
            );
        }
        assert_eq!(StanzaHead::read(Bytes::from_static(&[2, 0, 1])), None);
        let mut out = Vec::new();
        write_orders(&mut out, &[1, u64::MAX]);
        assert_eq!(read_orders(&out).collect::<Vec<_>>(), [1, u64::MAX]);
    }

    #[test]
    fn long_names_and_many_go_in_parts_that_fit_and_none_is_left_out() {
        for (length, count) in [(1, 10), (1_000, 1_000), (3, 200_000)] {
            let name = |n: usize| BareJid::parse(&format!("{}{n}@x", "u".repeat(length)));
            let to: Vec<BareJid> = (0..count).map(|n| name(n).expect("jid")).collect();
            for part in parts(&to) {
                let mut out = Vec::new();
                write_multicast(&mut out, Hlc::ZERO, part, b"");
                assert!(out.len() <= NAMES_BYTES_MAX + 12 && !part.is_empty());
            }
            assert_eq!(parts(&to).flatten().count(), count);
        }
        assert_eq!(parts(&[]).count(), 0);
    }

    #[test]
    fn a_multicast_comes_back_and_a_cut_one_is_refused() {
        let to = [BareJid::parse("a@x").expect("jid"), BareJid::parse("bb@x").expect("jid")];
        let mut out = Vec::new();
        write_multicast(&mut out, Hlc(7), &to, b"<presence/>");
        let (generation, who, stanza) = read_multicast(out.clone().into()).expect("whole");
        assert_eq!(generation, Hlc(7));
        assert_eq!(who, [Bytes::from_static(b"a@x"), Bytes::from_static(b"bb@x")]);
        assert_eq!(stanza, Bytes::from_static(b"<presence/>"));
        let full = FullJid::parse("a@x/y").expect("jid");
        let mut one = Vec::new();
        write_presence(&mut one, Hlc(9), &full, b"<presence/>");
        let (generation, to, stanza) = read_presence(one.clone().into()).expect("whole");
        assert_eq!((generation, to), (Hlc(9), full));
        assert_eq!(stanza, Bytes::from_static(b"<presence/>"));
        one.truncate(12);
        assert!(read_presence(one.into()).is_none());
        out.truncate(16);
        assert!(read_multicast(out.into()).is_none());
    }
}
