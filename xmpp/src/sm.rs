//! Stream management (XEP-0198) as plain state: the counters, the unacknowledged queue and the elements.
//!
//! A session owns one [`Outbound`] and one [`Inbound`]; `stream::negotiate` reads `<resume/>` with [`Nonza::parse`].
//! Counters wrap at 2³² (XEP-0198 §4). Deliberately absent: when to ask for an acknowledgement, how long a session may
//! be resumed, where the unacknowledged go (the session's business), and clocks.

use std::collections::{VecDeque, vec_deque};

use crate::ns;
use crate::stanza::error::Condition;
use crate::stream::error::StreamError;
use crate::xml::element::Element;
use crate::xml::write;

/// What we sent and the peer has not acknowledged yet, oldest first. Bounded in items and in bytes.
#[derive(Debug)]
pub struct Outbound<T> {
    queue: VecDeque<(T, u32)>,
    bytes: usize,
    bytes_max: usize,
    items_max: usize,
    acked: u32,
}

/// The queue is full; the item comes back. A session that meets this closes its stream with `policy-violation` or
/// `resource-constraint` and delivers the queue elsewhere (bad-input row B-190).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// The peer acknowledged more than was sent to it (or took an acknowledgement back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooHigh {
    /// What it said.
    pub h: u32,
    /// What we have sent.
    pub sent: u32,
}

impl TooHigh {
    /// The stream error XEP-0198 §4 recommends.
    #[must_use]
    pub fn error(self) -> StreamError {
        let extra = Element::new("handled-count-too-high", ns::SM)
            .with_attr("h", &self.h.to_string())
            .with_attr("send-count", &self.sent.to_string());
        StreamError::undefined_condition().with_extra(extra)
    }
}

impl<T> Outbound<T> {
    /// An empty queue; holds no memory until something is pushed.
    #[must_use]
    pub fn new(items_max: usize, bytes_max: usize) -> Outbound<T> {
        Outbound { queue: VecDeque::new(), bytes: 0, bytes_max, items_max, acked: 0 }
    }

    /// A queue that goes on counting at `acked`, with what was not acknowledged and its size on the wire: for a session that moved
    /// here. The bounds are for what comes from now on: what was taken elsewhere is kept.
    #[must_use]
    pub fn resumed(
        acked: u32,
        unacked: impl IntoIterator<Item = (T, usize)>,
        items_max: usize,
        bytes_max: usize,
    ) -> Outbound<T> {
        let mut queue = Outbound { acked, ..Outbound::new(items_max, bytes_max) };
        for (item, bytes) in unacked {
            queue.bytes += bytes;
            queue.queue.push_back((item, u32::try_from(bytes).unwrap_or(u32::MAX)));
        }
        queue
    }

    /// Counts and keeps an item about to be sent. `bytes` is its size on the wire. An item larger than the whole bound
    /// is taken by an empty queue, so that the bound cannot make a legal stanza undeliverable.
    pub fn push(&mut self, item: T, bytes: usize) -> Result<(), Full<T>> {
        let has_room = self.queue.len() < self.items_max && self.bytes + bytes <= self.bytes_max;
        if !has_room && !self.queue.is_empty() {
            return Err(Full(item));
        }
        self.bytes += bytes;
        self.queue.push_back((item, u32::try_from(bytes).unwrap_or(u32::MAX)));
        Ok(())
    }

    /// The peer has handled everything up to `h`: gives the items that may be forgotten, oldest first.
    /// After an error nothing has changed.
    pub fn acked(&mut self, h: u32) -> Result<Drained<'_, T>, TooHigh> {
        let fresh = h.wrapping_sub(self.acked) as usize;
        if fresh > self.queue.len() {
            return Err(TooHigh { h, sent: self.sent() });
        }
        self.acked = h;
        let freed: usize = self.queue.iter().take(fresh).map(|(_, bytes)| *bytes as usize).sum();
        self.bytes -= freed;
        Ok(Drained(self.queue.drain(..fresh)))
    }

    /// How many items were ever sent, modulo 2³².
    #[must_use]
    pub fn sent(&self) -> u32 {
        // The queue is bounded far below 2³² by memory alone.
        self.acked.wrapping_add(self.queue.len() as u32)
    }

    /// The last `h` the peer told us.
    #[must_use]
    pub fn last_acked(&self) -> u32 {
        self.acked
    }

    /// The unacknowledged, oldest first: what is sent again on resumption.
    pub fn unacked(&self) -> impl ExactSizeIterator<Item = &T> {
        self.queue.iter().map(|(item, _)| item)
    }

    /// How many are unacknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Everything is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the unacknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives memory back: for a session that went idle.
    pub fn shrink(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// The session is over: everything unacknowledged, oldest first, to be delivered elsewhere.
    #[must_use]
    pub fn into_unacked(self) -> impl ExactSizeIterator<Item = T> {
        self.queue.into_iter().map(|(item, _)| item)
    }
}

/// Items just acknowledged. Dropping it forgets them all.
#[derive(Debug)]
pub struct Drained<'a, T>(vec_deque::Drain<'a, (T, u32)>);

impl<T> Iterator for Drained<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next().map(|(item, _)| item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<T> ExactSizeIterator for Drained<'_, T> {}

/// The stanzas the peer has sent since `<enable/>` (only stanzas count, XEP-0198 §4): which of them are handled. "Handled" means that
/// responsibility is taken (§3); that may take a while, and for a later stanza be quicker than for an earlier one. `h` is a
/// count, so it goes only as far as the first that is open. Memory: one byte for each from there on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    handled: u32,
    /// The ticket of the first open one.
    first: u64,
    /// From the first open one on: whether each is handled.
    later: VecDeque<bool>,
}

impl Inbound {
    /// Goes on counting at `handled`: for a session that moved here.
    #[must_use]
    pub fn resumed(handled: u32) -> Inbound {
        Inbound { handled, ..Inbound::default() }
    }

    /// One more has come and is handled at once.
    pub fn count(&mut self) {
        if self.later.is_empty() {
            self.handled = self.handled.wrapping_add(1);
            self.first += 1;
        } else {
            self.later.push_back(true);
        }
    }

    /// One more has come and is handled when [`Inbound::done`] is called with this ticket.
    pub fn begin(&mut self) -> u64 {
        self.later.push_back(false);
        self.first + self.later.len() as u64 - 1
    }

    /// The stanza of that ticket is handled. A ticket that was done already is ignored.
    pub fn done(&mut self, ticket: u64) {
        let Some(at) = ticket.checked_sub(self.first) else { return };
        let Some(entry) = self.later.get_mut(at as usize) else { return };
        *entry = true;
        while self.later.front() == Some(&true) {
            self.later.pop_front();
            self.first += 1;
            self.handled = self.handled.wrapping_add(1);
        }
        if self.later.is_empty() {
            self.later = VecDeque::new();
        }
    }

    /// The `h` to tell the peer.
    #[must_use]
    pub fn handled(&self) -> u32 {
        self.handled
    }

    /// The ticket of the first that is open: all before it are handled. That of the next to come when none is.
    #[must_use]
    pub fn first_open(&self) -> u64 {
        self.first
    }

    /// The ticket of the next to come.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.first + self.later.len() as u64
    }
}

/// `<r xmlns='urn:xmpp:sm:3'/>`, ready to be sent.
pub const REQUEST: &[u8] = b"<r xmlns='urn:xmpp:sm:3'/>";

/// The elements of XEP-0198, both directions. A "nonza" is a top-level element that is no stanza (XEP-0360).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonza {
    /// The client wants acknowledgements.
    Enable {
        /// And resumption.
        resume: bool,
        /// The resumption time it would like, in seconds.
        max: Option<u32>,
    },
    /// The server agrees.
    Enabled {
        /// The resumption id; `None`: this stream cannot be resumed.
        id: Option<String>,
        /// How long the session waits to be resumed, in seconds.
        max: Option<u32>,
        /// Where to connect to resume, host and port.
        location: Option<String>,
    },
    /// The client goes on with an older session.
    Resume {
        /// The resumption id.
        previd: String,
        /// What it has handled.
        h: u32,
    },
    /// The server agrees.
    Resumed {
        /// The resumption id.
        previd: String,
        /// What it has handled.
        h: u32,
    },
    /// The server does not.
    Failed {
        /// Why.
        condition: Condition,
        /// What it had handled, if it still knows.
        h: Option<u32>,
    },
    /// `<r/>`: how many have you handled?
    Request,
    /// `<a/>`: so many.
    Answer {
        /// Handled, modulo 2³².
        h: u32,
    },
}

/// What a malformed element of XEP-0198 gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The stream is closed.
    Stream(StreamError),
    /// A `<failed/>` answers the request.
    Failed(Condition),
}

impl Nonza {
    /// Reads an element of the namespace `urn:xmpp:sm:3`; `None` for any other.
    pub fn parse(element: &Element) -> Option<Result<Nonza, Malformed>> {
        (element.ns() == ns::SM).then(|| Nonza::read(element))
    }

    fn read(element: &Element) -> Result<Nonza, Malformed> {
        let bad_request = || Malformed::Failed(Condition::BadRequest);
        let invalid = || Malformed::Stream(StreamError::invalid_xml());
        let owned =
            |name: &str| element.attr(name).filter(|value| !value.is_empty()).map(str::to_owned);
        // Optional, but if present a number.
        let number = |name: &str| match element.attr(name) {
            None => Ok(None),
            Some(text) => counter(text).map(Some).ok_or(()),
        };
        match element.name() {
            "enable" => Ok(Nonza::Enable {
                resume: is_true(element.attr("resume")),
                max: number("max").map_err(|()| bad_request())?,
            }),
            "enabled" => Ok(Nonza::Enabled {
                id: owned("id").filter(|_| is_true(element.attr("resume"))),
                max: number("max").map_err(|()| invalid())?,
                location: owned("location"),
            }),
            "resume" => {
                let h = element.attr("h").and_then(counter).ok_or_else(bad_request)?;
                Ok(Nonza::Resume { previd: owned("previd").ok_or_else(bad_request)?, h })
            }
            "resumed" => {
                let h = element.attr("h").and_then(counter).ok_or_else(invalid)?;
                Ok(Nonza::Resumed { previd: owned("previd").ok_or_else(invalid)?, h })
            }
            "failed" => {
                let named = |child: &Element| {
                    let known = |condition: &&Condition| condition.name() == child.name();
                    Condition::ALL.iter().find(known).filter(|_| child.ns() == ns::STANZAS)
                };
                let condition = element.children().find_map(named).copied();
                Ok(Nonza::Failed {
                    condition: condition.unwrap_or(Condition::UndefinedCondition),
                    h: number("h").map_err(|()| invalid())?,
                })
            }
            "r" => Ok(Nonza::Request),
            // Empty by definition; `<a h='1'>2</a>` is somebody's mistake or somebody's trick.
            "a" if !element.nodes().is_empty() => Err(invalid()),
            "a" => {
                Ok(Nonza::Answer { h: element.attr("h").and_then(counter).ok_or_else(invalid)? })
            }
            _ => Err(Malformed::Stream(StreamError::unsupported_stanza_type())),
        }
    }

    /// The same, to stand inside another element.
    #[must_use]
    pub fn element(&self) -> Element {
        Element::parse(&self.to_bytes()).expect("what we write is well-formed")
    }

    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        match self {
            Nonza::Enable { resume, max } => {
                open(&mut out, "enable");
                attr_if(&mut out, "resume", resume.then_some("true"));
                attr_if(&mut out, "max", max.map(|max| max.to_string()).as_deref());
            }
            Nonza::Enabled { id, max, location } => {
                open(&mut out, "enabled");
                attr_if(&mut out, "id", id.as_deref());
                attr_if(&mut out, "resume", id.as_ref().map(|_| "true"));
                attr_if(&mut out, "max", max.map(|max| max.to_string()).as_deref());
                attr_if(&mut out, "location", location.as_deref());
            }
            Nonza::Resume { previd, h } => {
                open(&mut out, "resume");
                write::attr(&mut out, "h", &h.to_string());
                write::attr(&mut out, "previd", previd);
            }
            Nonza::Resumed { previd, h } => {
                open(&mut out, "resumed");
                write::attr(&mut out, "h", &h.to_string());
                write::attr(&mut out, "previd", previd);
            }
            Nonza::Failed { condition, h } => {
                open(&mut out, "failed");
                attr_if(&mut out, "h", h.map(|h| h.to_string()).as_deref());
                out.extend_from_slice(b"><");
                out.extend_from_slice(condition.name().as_bytes());
                write::attr(&mut out, "xmlns", ns::STANZAS);
                out.extend_from_slice(b"/></failed>");
                return out;
            }
            Nonza::Request => return REQUEST.to_vec(),
            Nonza::Answer { h } => {
                open(&mut out, "a");
                write::attr(&mut out, "h", &h.to_string());
            }
        }
        out.extend_from_slice(b"/>");
        out
    }
}

fn open(out: &mut Vec<u8>, name: &str) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
    write::attr(out, "xmlns", ns::SM);
}

fn attr_if(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        write::attr(out, name, value);
    }
}

/// `xs:boolean`.
fn is_true(value: Option<&str>) -> bool {
    matches!(value, Some("true" | "1"))
}

/// `xs:unsignedInt`, digits only.
fn counter(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(xml: &str) -> Result<Nonza, Malformed> {
        Nonza::parse(&Element::parse(xml.as_bytes()).expect("well-formed"))
            .expect("of our namespace")
    }

    #[test]
    fn acknowledging_frees_the_oldest_first() {
        let mut queue = Outbound::new(10, 1000);
        for (item, bytes) in [("a", 10), ("b", 20), ("c", 30)] {
            queue.push(item, bytes).expect("has room");
        }
        assert_eq!((queue.sent(), queue.bytes()), (3, 60));
        assert_eq!(queue.acked(2).expect("was sent").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((queue.sent(), queue.bytes(), queue.len()), (3, 30, 1));
        assert_eq!(queue.acked(2).expect("may repeat").len(), 0);
        assert_eq!(queue.unacked().collect::<Vec<_>>(), [&"c"]);
        drop(queue.acked(3).expect("was sent"));
        assert!(queue.is_empty());
    }

    #[test]
    fn acknowledging_too_much_or_too_little_changes_nothing() {
        let mut queue = Outbound::new(10, 1000);
        for item in 0..3 {
            queue.push(item, 1).expect("has room");
        }
        drop(queue.acked(1));
        assert_eq!(queue.acked(4).err(), Some(TooHigh { h: 4, sent: 3 })); // B-179
        assert_eq!(queue.acked(0).err(), Some(TooHigh { h: 0, sent: 3 })); // taken back
        assert_eq!(queue.acked(u32::MAX).err(), Some(TooHigh { h: u32::MAX, sent: 3 }));
        assert_eq!((queue.len(), queue.last_acked()), (2, 1));
        let error = String::from_utf8(TooHigh { h: 4, sent: 3 }.error().to_bytes()).expect("text");
        assert!(error.contains("<undefined-condition"), "{error}");
        assert!(
            error.contains("<handled-count-too-high xmlns='urn:xmpp:sm:3' h='4' send-count='3'/>")
        );
    }

    #[test]
    fn counters_wrap_at_two_to_the_thirty_second() {
        let mut queue = Outbound::resumed(u32::MAX - 1, [], 10, 1000); // B-181
        for item in 0..4 {
            queue.push(item, 1).expect("has room");
        }
        assert_eq!(queue.sent(), 2);
        assert_eq!(queue.acked(u32::MAX).expect("was sent").collect::<Vec<_>>(), [0]);
        assert_eq!(queue.acked(3).err(), Some(TooHigh { h: 3, sent: 2 }));
        assert_eq!(queue.acked(1).expect("was sent").collect::<Vec<_>>(), [1, 2]);
        assert_eq!(queue.into_unacked().collect::<Vec<_>>(), [3]);
        let mut inbound = Inbound::resumed(u32::MAX);
        inbound.count();
        assert_eq!(inbound.handled(), 0);
    }

    #[test]
    fn handled_counts_up_to_the_first_that_is_open() {
        let mut inbound = Inbound::default();
        inbound.count();
        let (second, third) = (inbound.begin(), inbound.begin());
        inbound.count();
        assert_eq!((inbound.handled(), inbound.first_open(), inbound.next()), (1, 1, 4));
        inbound.done(third);
        assert_eq!(inbound.handled(), 1);
        inbound.done(second);
        assert_eq!((inbound.handled(), inbound.first_open(), inbound.next()), (4, 4, 4));
        inbound.done(second);
        inbound.count();
        assert_eq!(inbound.handled(), 5);
        let ticket = inbound.begin();
        inbound.done(ticket);
        assert_eq!(inbound, Inbound { handled: 6, first: 6, later: VecDeque::new() });
    }

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let mut queue = Outbound::new(2, 100); // B-190
        queue.push("large", 500).expect("an empty queue takes anything");
        assert_eq!(queue.push("x", 1), Err(Full("x")));
        drop(queue.acked(1));
        queue.push("a", 60).expect("has room");
        assert_eq!(queue.push("b", 60), Err(Full("b")));
        queue.push("b", 40).expect("has room");
        assert_eq!(queue.push("c", 0), Err(Full("c")));
        assert_eq!(queue.sent(), 3, "what was given back is not counted");
    }

    #[test]
    fn every_element_is_read_back_as_it_was_written() {
        let id = || Some("some'id".to_owned());
        for nonza in [
            Nonza::Enable { resume: true, max: Some(60) },
            Nonza::Enable { resume: false, max: None },
            Nonza::Enabled {
                id: id(),
                max: Some(300),
                location: Some("[2001:db8::1]:5222".into()),
            },
            Nonza::Enabled { id: None, max: None, location: None },
            Nonza::Resume { previd: "a&b".into(), h: 0 },
            Nonza::Resumed { previd: "a".into(), h: u32::MAX },
            Nonza::Failed { condition: Condition::ItemNotFound, h: Some(7) },
            Nonza::Failed { condition: Condition::UnexpectedRequest, h: None },
            Nonza::Request,
            Nonza::Answer { h: 4_294_967_295 },
        ] {
            let bytes = nonza.to_bytes();
            assert_eq!(parse(std::str::from_utf8(&bytes).expect("text")), Ok(nonza));
        }
    }

    #[test]
    fn a_malformed_element_gets_its_error() {
        let invalid = Malformed::Stream(StreamError::invalid_xml());
        let bad_request = Malformed::Failed(Condition::BadRequest);
        let unknown = Malformed::Stream(StreamError::unsupported_stanza_type());
        let cases = [
            ("<a xmlns='urn:xmpp:sm:3'/>", &invalid), // B-178, and the six below
            ("<a xmlns='urn:xmpp:sm:3' h=''/>", &invalid),
            ("<a xmlns='urn:xmpp:sm:3' h='one'/>", &invalid),
            ("<a xmlns='urn:xmpp:sm:3' h='-1'/>", &invalid),
            ("<a xmlns='urn:xmpp:sm:3' h='+1'/>", &invalid),
            ("<a xmlns='urn:xmpp:sm:3' h='4294967296'/>", &invalid),
            ("<a xmlns='urn:xmpp:sm:3' h='1'>1</a>", &invalid),
            ("<resume xmlns='urn:xmpp:sm:3' h='1'/>", &bad_request),
            ("<resume xmlns='urn:xmpp:sm:3' h='1' previd=''/>", &bad_request),
            ("<resume xmlns='urn:xmpp:sm:3' previd='x'/>", &bad_request),
            ("<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>", &bad_request),
            ("<enable xmlns='urn:xmpp:sm:3' max='soon'/>", &bad_request),
            ("<b xmlns='urn:xmpp:sm:3'/>", &unknown),
        ];
        for (xml, expected) in cases {
            assert_eq!(parse(xml).as_ref(), Err(expected), "{xml}");
        }
        let other = Element::parse(b"<a xmlns='urn:xmpp:sm:2' h='1'/>").expect("well-formed");
        assert_eq!(Nonza::parse(&other), None);
    }
}
