//! Room: bytes and framing of a domain stream, shared by both halves. Reading and writing go on together in one task ([`Wire::turn`]); what was read is
//! taken out piece by piece ([`Wire::next`]) when its owner is ready for it, so that who does not take is not read from.
//!
//! Called by the drivers of `incoming` and `outgoing`; calls `xmpp`'s framer. Left out: what anything means, but for one thing that both halves must see
//! alike: whether a stanza may come from there ([`stanza`]).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use xmpp::stanza::Head;
use xmpp::xml::framer::{Framer, Limits, Scan, StreamHeader};
use xmpp::{Element, Jid, Kind, Stanza, StreamCondition, StreamError, ns};

use super::pairs::Pairs;

const READ_BYTES: usize = 8 << 10;
/// Bytes that wait to be written. Beyond: nothing more is read, for what is read is answered.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// What a stream carries, one at a time.
#[derive(Debug)]
// A stanza is what nearly all of them are: boxing it would cost more than the room it takes.
#[allow(clippy::large_enum_variant)]
pub enum Item {
    /// The peer's header.
    Open(Box<StreamHeader>),
    /// A stanza, as it came.
    Stanza(Bytes, Head),
    /// Any other element.
    Element(Element),
    /// The peer's closing tag.
    Close,
}

/// What a turn has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes were read: look at [`Wire::next`].
    Read(usize),
    /// The peer sends no more: it is gone, unless it has said so before.
    Ended,
    /// Everything is written, and nothing of it is left in our buffers.
    Flushed,
}

/// Bytes in and out, as stream headers and elements.
#[derive(Debug)]
pub struct Wire<S> {
    io: S,
    framer: Framer,
    input: BytesMut,
    output: BytesMut,
    /// Bytes ever put, and how many of them have left.
    put: u64,
    flushed: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection at whose other end a stream header is next.
    pub fn new(io: S, limits: Limits) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self { io, framer: Framer::stream(limits), input, output, put: 0, flushed: 0 }
    }

    /// What is below.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// Other bounds, from the next element on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.framer.set_limits(limits);
    }

    /// A stream header comes next: after SASL.
    pub fn restart(&mut self) {
        self.framer.restart();
    }

    /// What is below, to be encrypted. `None` if the peer has sent anything more: that came in clear and must not be taken for what comes encrypted
    /// (RFC 6120 §5.3.1; bad-inputs S-026, B-070, B-074).
    pub fn into_plain(self) -> Option<S> {
        self.input.is_empty().then_some(self.io)
    }

    /// The next thing of what was read; `None`: more must be read.
    ///
    /// # Errors
    /// What to close the stream with. Afterwards there is nothing more.
    // It fails, and there may be more after it has found nothing: no iterator.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Item>, StreamError> {
        loop {
            match self.framer.scan(&self.input)? {
                Scan::More => return Ok(None),
                Scan::Space(taken) => self.input.advance(taken),
                Scan::Open(taken, header) => {
                    self.input.advance(taken);
                    return Ok(Some(Item::Open(header)));
                }
                Scan::Close(taken) => {
                    self.input.advance(taken);
                    return Ok(Some(Item::Close));
                }
                Scan::Element(taken, head) => {
                    let piece = self.input.split_to(taken).freeze();
                    return Ok(Some(match head.kind {
                        Kind::Other => Item::Element(self.framer.element(&piece)?),
                        _ => Item::Stanza(piece, head),
                    }));
                }
            }
        }
    }

    /// As if it had been read.
    #[cfg(test)]
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// After [`Wire::next`] has found nothing: whether something has begun whose end is still to come.
    pub fn is_amid(&self) -> bool {
        !self.input.is_empty()
    }

    /// These bytes are to be written; [`Wire::turn`] does it.
    pub fn put(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
        self.put += bytes.len() as u64;
    }

    /// How many bytes were put so far: what [`Wire::flushed`] will be when they have left.
    pub fn position(&self) -> u64 {
        self.put
    }

    /// How many of the bytes that were put have left our buffers.
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Whether the peer is slow in taking what we write.
    pub fn is_full(&self) -> bool {
        self.output.len() >= OUTPUT_BYTES_MAX
    }

    /// Writes what there is to write and reads, if `read` and the peer takes what we write. Comes back when either has got somewhere; never, if there is
    /// neither. Nothing is lost when it is dropped half-way.
    ///
    /// # Errors
    /// Those of the connection, which is of no more use.
    pub async fn turn(&mut self, read: bool) -> io::Result<Turn> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = self.poll_write(cx) {
                return Poll::Ready(done.map(|()| Turn::Flushed));
            }
            if !read || self.is_full() {
                return Poll::Pending;
            }
            self.input.reserve(READ_BYTES);
            let reading = pin!(self.io.read_buf(&mut self.input));
            let taken = ready!(reading.poll(cx))?;
            Poll::Ready(Ok(if taken == 0 { Turn::Ended } else { Turn::Read(taken) }))
        })
        .await
    }

    /// Ready when there was something to write and it is gone.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flushed == self.put {
            return Poll::Pending;
        }
        while !self.output.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.flushed = self.put;
        Poll::Ready(Ok(()))
    }

    /// Writes what there is, and no more than that: for where nothing else may happen meanwhile.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.flushed != self.put {
            self.turn(false).await?;
        }
        Ok(())
    }

    /// The end: what was put is written, our half is closed, and what the peer still sends is dropped until it closes its own (else it might lose our last
    /// words). Takes no longer than `patience`.
    pub async fn close(mut self, patience: Duration) {
        let closing = async {
            self.flush().await?;
            self.io.shutdown().await?;
            self.input.clear();
            while self.io.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection is over.
        let _ = timeout(patience, closing).await;
    }
}

/// The last bytes of a stream of ours: the error, if it ends with one, and the closing tag.
#[must_use]
pub fn farewell(error: Option<&StreamError>) -> Vec<u8> {
    let framing = xmpp::stream::header::Framing::Stream;
    match error {
        Some(error) => framing.error(error),
        None => framing.close().to_vec(),
    }
}

/// What an element that is neither stanza nor known gets: `invalid-namespace` for a stanza of another content namespace (RFC 6120 §4.9.3.10), else
/// `unsupported-stanza-type`.
#[must_use]
pub fn unknown(element: &Element) -> StreamError {
    let stanza = matches!(element.name(), "message" | "presence" | "iq");
    if stanza && matches!(element.ns(), ns::CLIENT | ns::COMPONENT) {
        StreamError::invalid_namespace()
    } else {
        StreamError::unsupported_stanza_type()
    }
}

/// Takes a stanza off a stream: as the router knows it, from a domain that was proved there, to one of ours. The bytes stay as they are but for the start
/// tag; their namespace, `jabber:server`, is the one that canonical stanzas leave out. COMPAT: the language of the stream is not added; servers say there what
/// they speak, not what the people behind them do.
///
/// # Errors
/// What to close the stream with (RFC 6120 §4.9.3): `not-authorized` before anything is proved, `invalid-from` from a domain that is not, or from which nothing may come
/// for the other, as from one of ours, `improper-addressing` without both addresses, `host-unknown` to a domain that is not ours.
pub fn stanza(
    piece: &[u8],
    head: &Head,
    proved: &Pairs,
    is_ours: impl Fn(&str) -> bool,
    may_arrive: impl Fn(&str, &str) -> bool,
) -> Result<Stanza, StreamError> {
    if proved.is_empty() {
        return Err(StreamError::not_authorized());
    }
    let from = head.from.and_then(|span| Jid::parse(&span.value(piece)?).ok());
    let from = from.ok_or_else(StreamError::improper_addressing)?;
    if !proved.has_sender(from.domain()) {
        return Err(StreamError::invalid_from());
    }
    let stanza = Stanza::receive(piece, head, &from, None).map_err(|reject| {
        let condition = match reject.error.condition {
            xmpp::Condition::JidMalformed => StreamCondition::ImproperAddressing,
            xmpp::Condition::PolicyViolation => StreamCondition::PolicyViolation,
            _ => StreamCondition::InvalidXml,
        };
        StreamError::new(condition)
    })?;
    match stanza.to() {
        None => Err(StreamError::improper_addressing()),
        Some(to) if !may_arrive(from.domain(), to.domain()) => Err(StreamError::invalid_from()),
        Some(to) if !is_ours(to.domain()) => Err(StreamError::host_unknown()),
        Some(_) => Ok(stanza),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::dialback::Pair;

    fn header() -> &'static [u8] {
        b"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback' version='1.0'>"
    }

    #[tokio::test]
    async fn pieces_come_out_whole_however_they_were_cut() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut wire = Wire::new(near, Limits::STANZA);
        let sender = tokio::spawn(async move {
            far.write_all(header()).await.expect("written");
            for byte in
                b" <message to='a.example'><body>x</body></message><db:result/></stream:stream>y"
            {
                far.write_all(&[*byte]).await.expect("written");
            }
            far
        });
        let mut seen = Vec::new();
        while !seen.ends_with(&["close".to_owned()]) {
            match wire.next().expect("good XML") {
                Some(Item::Open(header)) => seen.push(header.content_ns.clone()),
                Some(Item::Stanza(piece, _)) => {
                    seen.push(String::from_utf8(piece.to_vec()).expect("text"));
                }
                Some(Item::Element(element)) => seen.push(element.ns().to_owned()),
                Some(Item::Close) => seen.push("close".to_owned()),
                None => assert!(matches!(wire.turn(true).await, Ok(Turn::Read(_)))),
            }
        }
        let stanza = "<message to='a.example'><body>x</body></message>";
        assert_eq!(seen, ["jabber:server", stanza, "jabber:server:dialback", "close"]);
        drop(sender.await.expect("the sender ends"));
        while wire.next().expect("nothing more").is_none() {
            if wire.turn(true).await.expect("a connection") == Turn::Ended {
                return; // B-062: what came behind the closing tag was nothing.
            }
        }
        panic!("something behind the closing tag");
    }

    #[tokio::test]
    async fn what_is_put_is_flushed_when_the_peer_takes_it() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut wire = Wire::new(near, Limits::STANZA);
        wire.put(&[b'x'; 40]);
        assert_eq!((wire.position(), wire.flushed()), (40, 0));
        let turned = timeout(Duration::from_millis(20), wire.turn(true)).await;
        assert!(turned.is_err() && wire.flushed() == 0, "the peer has not taken it");
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.expect("read");
            all.len()
        });
        assert!(matches!(wire.turn(false).await, Ok(Turn::Flushed)));
        assert_eq!(wire.flushed(), 40);
        wire.put(b"bye");
        wire.close(Duration::from_secs(5)).await;
        assert_eq!(reader.await.expect("the reader ends"), 43);
    }

    #[test]
    fn who_may_send_what() {
        let mut pairs = Pairs::default();
        let mut framer = Framer::stream(Limits::STANZA);
        framer.scan(&header()[..21]).expect("a declaration");
        framer.scan(&header()[21..]).expect("a header");
        let mut take = |pairs: &Pairs, xml: &str| {
            let Ok(Scan::Element(_, head)) = framer.scan(xml.as_bytes()) else { panic!("{xml}") };
            let ours = |domain: &str| matches!(domain, "capulet.example" | "a.capulet.example");
            // One region's domain to another's, and to nothing else of ours.
            let may = |from: &str, to: &str| match from {
                "b.capulet.example" => to == "a.capulet.example",
                from => !ours(from),
            };
            stanza(xml.as_bytes(), &head, pairs, ours, may)
                .map(|stanza| String::from_utf8(stanza.bytes().to_vec()).expect("text"))
                .map_err(|error| error.condition.name())
        };
        let good = "<message from='romeo@montague.example/x' to='juliet@capulet.example'><body>ciao</body></message>";
        assert_eq!(take(&pairs, good), Err("not-authorized")); // B-196
        pairs.add(&Pair::new("montague.example", "capulet.example"));
        pairs.add(&Pair::new("b.capulet.example", "a.capulet.example"));
        assert!(take(&pairs, "<iq from='b.capulet.example' to='a.capulet.example'/>").is_ok());
        for (xml, expected) in [
            ("<iq from='b.capulet.example' to='capulet.example'/>", "invalid-from"),
            // B-193, B-194, B-197.
            ("<iq from='verona.example' to='capulet.example'/>", "invalid-from"),
            ("<iq from='capulet.example' to='capulet.example'/>", "invalid-from"),
            ("<iq from='chat.montague.example' to='capulet.example'/>", "invalid-from"),
            ("<iq from='example' to='capulet.example'/>", "invalid-from"),
            ("<iq from='montague.example'/>", "improper-addressing"),
            ("<iq from='montague.example' to=''/>", "improper-addressing"),
            ("<iq from='montague.example' to='@capulet.example'/>", "improper-addressing"),
            ("<iq to='capulet.example'/>", "improper-addressing"),
            ("<iq from='' to='capulet.example'/>", "improper-addressing"),
            ("<iq from='@' to='capulet.example'/>", "improper-addressing"),
            ("<iq from='montague.example' to='verona.example'/>", "host-unknown"),
        ] {
            assert_eq!(take(&pairs, xml), Err(expected), "{xml}");
        }
        assert_eq!(
            take(&pairs, good).as_deref(),
            Ok(
                "<message to='juliet@capulet.example' from='romeo@montague.example/x'><body>ciao</body></message>"
            )
        );
        let explicit = "<message xmlns='jabber:server' from='montague.example' to='CAPULET.example' xml:lang='en'><a:x xmlns:a='urn:x'/></message>";
        assert_eq!(
            take(&pairs, explicit).as_deref(),
            Ok(
                "<message xml:lang='en' to='capulet.example' from='montague.example'><a:x xmlns:a='urn:x'/></message>"
            )
        );
        // A prefix of the stream's root, and the content namespace by name: written anew.
        let leaning = "<iq from='montague.example' to='capulet.example' type='get' id='1'><db:x/><y xmlns='jabber:server'/></iq>";
        assert_eq!(
            take(&pairs, leaning).as_deref(),
            Ok(
                "<iq from='montague.example' to='capulet.example' type='get' id='1'><x xmlns='jabber:server:dialback'/><y/></iq>"
            )
        );
    }

    #[test]
    fn a_stanza_of_the_other_namespace_is_none() {
        let client = Element::new("message", ns::CLIENT);
        assert_eq!(unknown(&client), StreamError::invalid_namespace());
        let other = Element::new("message", "urn:x");
        assert_eq!(unknown(&other), StreamError::unsupported_stanza_type());
    }
}
