//! The way from a TCP connection to a link: s2s stream, STARTTLS, mutual TLS, SASL EXTERNAL, the hello (RFC 6120 §4–6, XEP-0178 §3; blueprint §6).
//! Called by `links`, once for each connection, under its deadline; calls `tls`, `xmpp`'s framer and `negotiate`'s values.
//!
//! The dialling side does not wait where it knows the answer (in the spirit of XEP-0305): five round trips, that of TCP included. Absent: other
//! features, other mechanisms, federation with foreign domains.

use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use xmpp::xml::framer::{Framer, Limits, Scan, StreamHeader};
use xmpp::xml::write::escape_attr;
use xmpp::{Element, StreamCondition, StreamError, ns};

use super::PeerId;
use super::negotiate::{self, Hello};
use crate::error::{LinkError, Refusal};
use crate::tls::{Fingerprint, Pins};

const READ_BYTES: usize = 4096;

/// Bytes in and out, as stream headers and elements.
pub(super) struct XmlStream<S> {
    io: S,
    framer: Framer,
    buffer: BytesMut,
    /// Our header is out, so that a stream error may follow.
    opened: bool,
}

enum Item {
    Open(Box<StreamHeader>),
    Element(Element),
}

impl<S: AsyncRead + AsyncWrite + Unpin> XmlStream<S> {
    fn new(io: S) -> Self {
        Self {
            io,
            framer: Framer::stream(Limits::PRE_AUTH),
            buffer: BytesMut::new(),
            opened: false,
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }

    async fn next(&mut self) -> Result<Item, LinkError> {
        loop {
            match self
                .framer
                .scan(&self.buffer)
                .map_err(|e| LinkError::Handshake(e.condition.name().to_owned()))?
            {
                Scan::More => {
                    self.buffer.reserve(READ_BYTES);
                    if self.io.read_buf(&mut self.buffer).await? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                }
                Scan::Space(taken) => drop(self.buffer.split_to(taken)),
                Scan::Close(_) => return Err(LinkError::Peer("stream closed".to_owned())),
                Scan::Open(taken, header) => {
                    let _ = self.buffer.split_to(taken);
                    return Ok(Item::Open(header));
                }
                Scan::Element(taken, _) => {
                    let piece = self.buffer.split_to(taken);
                    let element = self
                        .framer
                        .element(&piece)
                        .map_err(|e| LinkError::Handshake(e.condition.name().to_owned()))?;
                    return match StreamError::from_element(&element) {
                        Some(error) => Err(LinkError::Peer(error.condition.name().to_owned())),
                        None => Ok(Item::Element(element)),
                    };
                }
            }
        }
    }

    async fn header(&mut self) -> Result<StreamHeader, LinkError> {
        match self.next().await? {
            Item::Open(header)
                if header.content_ns == ns::SERVER
                    && header.version.is_some_and(|v| v >= (1, 0)) =>
            {
                Ok(*header)
            }
            _ => Err(LinkError::Handshake("s2s stream header expected".to_owned())),
        }
    }

    async fn element(&mut self, name: &str, ns: &str) -> Result<Element, LinkError> {
        match self.next().await? {
            Item::Element(element) if element.is(name, ns) => Ok(element),
            Item::Element(element) => Err(LinkError::Handshake(format!(
                "<{}/> where <{name}/> was expected",
                element.name()
            ))),
            Item::Open(_) => {
                Err(LinkError::Handshake(format!("stream header where <{name}/> was expected")))
            }
        }
    }

    /// The accepting side's answer to a stream header: is it for us, from whom it should be, and then our header and features.
    async fn answer(
        &mut self,
        header: &StreamHeader,
        me: &PeerId,
        peer: Option<&PeerId>,
        feature: Element,
    ) -> Result<(), LinkError> {
        let from = header.from.as_deref().unwrap_or_default();
        let mut out = open(me, from, true);
        if header.to.as_deref() != Some(&me.to_string()) {
            return Err(Refusal::WrongAddressee.into());
        }
        if peer.is_some_and(|peer| peer.to_string() != from) {
            return Err(Refusal::WrongName.into());
        }
        out.extend_from_slice(b"<stream:features>");
        feature.write(&mut out);
        out.extend_from_slice(b"</stream:features>");
        self.opened = true;
        self.send(&out).await
    }

    /// Tells the other side why it is refused, and closes. As far as the connection still allows.
    pub(super) async fn refuse(&mut self, cause: &LinkError) {
        let condition = match cause {
            LinkError::Refused(Refusal::WrongAddressee) => StreamCondition::HostUnknown,
            LinkError::Refused(Refusal::Version) => StreamCondition::UnsupportedVersion,
            LinkError::Refused(Refusal::Busy) => StreamCondition::ResourceConstraint,
            LinkError::Refused(Refusal::Direction) => StreamCondition::PolicyViolation,
            LinkError::Refused(_) => StreamCondition::NotAuthorized,
            LinkError::Handshake(_) => StreamCondition::BadFormat,
            LinkError::Deadline => StreamCondition::ConnectionTimeout,
            LinkError::Closed => StreamCondition::Conflict,
            _ => return,
        };
        let mut out = if self.opened {
            Vec::new()
        } else {
            format!("{DECLARATION}{ROOT} version='1.0'>").into_bytes()
        };
        out.extend_from_slice(
            &StreamError::new(condition).with_text(&cause.to_string()).to_bytes(),
        );
        out.extend_from_slice(b"</stream:stream>");
        if self.send(&out).await.is_ok() {
            let _ = self.io.shutdown().await;
        }
    }

    /// What is below, and what was read beyond the handshake.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.buffer)
    }
}

const DECLARATION: &str = "<?xml version='1.0'?>";
const ROOT: &str =
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'";

/// A stream header of ours.
fn open(me: &PeerId, to: &str, with_id: bool) -> Vec<u8> {
    let mut out = format!("{DECLARATION}{ROOT} version='1.0' xml:lang='en' from='").into_bytes();
    escape_attr(&mut out, &me.to_string());
    out.extend_from_slice(b"' to='");
    escape_attr(&mut out, to);
    if with_id {
        // Nothing is derived from it; it only has to differ (RFC 6120 §4.7.3).
        out.extend_from_slice(format!("' id='{:016x}", super::links::random()).as_bytes());
    }
    out.extend_from_slice(b"'>");
    out
}

fn tls_refusal(e: std::io::Error) -> LinkError {
    let cause = e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Refusal::UnknownCertificate.into()
        }
        _ => e.into(),
    }
}

/// Dials: from a fresh connection to where the hello is due.
///
/// # Errors
/// Any of the handshake's. The connection is of no more use then.
pub(super) async fn dial<S>(
    io: S,
    me: &PeerId,
    peer: &PeerId,
    tls: Arc<ClientConfig>,
) -> Result<XmlStream<TlsStream<S>>, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut xml = XmlStream::new(io);
    let header = open(me, &peer.to_string(), false);
    xml.send(&[&header[..], b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"].concat())
        .await?;
    xml.header().await?;
    xml.element("features", ns::STREAM).await?;
    xml.element("proceed", ns::TLS).await?;
    let name = ServerName::try_from("link.invalid").expect("a DNS name"); // the pin decides, not the name
    let io = TlsConnector::from(tls).connect(name, plain(xml)?).await.map_err(tls_refusal)?;

    let mut xml = XmlStream::new(TlsStream::Client(io));
    let auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";
    xml.send(&[&header[..], auth, &header[..]].concat()).await?;
    xml.header().await?;
    xml.element("features", ns::STREAM).await?;
    xml.element("success", ns::SASL).await?;
    xml.framer.restart();
    xml.header().await?;
    let features = xml.element("features", ns::STREAM).await?;
    let feature = features.child("link", ns::LINK).ok_or(Refusal::Version)?;
    negotiate::common_version(feature)?;
    Ok(xml)
}

/// Accepts: from a fresh connection to where the hello is due. Also tells whose it is, by its certificate.
///
/// # Errors
/// Any of the handshake's. The other side has been told, as far as possible.
pub(super) async fn accept<S>(
    io: S,
    me: &PeerId,
    tls: Arc<ServerConfig>,
    pins: &Pins,
) -> Result<(XmlStream<TlsStream<S>>, PeerId), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut xml = XmlStream::new(io);
    if let Err(cause) = accept_plain(&mut xml, me).await {
        xml.refuse(&cause).await;
        return Err(cause);
    }
    let io = TlsAcceptor::from(tls).accept(plain(xml)?).await.map_err(tls_refusal)?;
    let leaf = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| Fingerprint::of_der(leaf));
    let mut xml = XmlStream::new(TlsStream::Server(io));
    match accept_secure(&mut xml, me, leaf.and_then(|print| pins.owner(&print))).await {
        Ok(peer) => Ok((xml, peer)),
        Err(cause) => {
            xml.refuse(&cause).await;
            Err(cause)
        }
    }
}

/// Dials over a road where nobody lies: the stream headers alone.
///
/// # Errors
/// Those of the road, and a header that is none.
pub(super) async fn dial_bare<S>(
    io: S,
    me: &PeerId,
    peer: &PeerId,
) -> Result<XmlStream<S>, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut xml = XmlStream::new(io);
    xml.opened = true;
    xml.send(&open(me, &peer.to_string(), false)).await?;
    xml.header().await?;
    Ok(xml)
}

/// Accepts over such a road. `known` finds the peer by its name.
///
/// # Errors
/// Those of the road; a peer that is not known, or wanted somebody else.
pub(super) async fn accept_bare<S>(
    io: S,
    me: &PeerId,
    known: impl Fn(&str) -> Option<PeerId>,
) -> Result<(XmlStream<S>, PeerId), LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut xml = XmlStream::new(io);
    let header = xml.header().await?;
    let from = header.from.as_deref().unwrap_or_default();
    let peer = known(from).ok_or(Refusal::UnknownCertificate)?;
    if header.to.as_deref() != Some(&me.to_string()) {
        return Err(Refusal::WrongAddressee.into());
    }
    if peer >= *me {
        return Err(Refusal::Direction.into());
    }
    xml.opened = true;
    xml.send(&open(me, from, false)).await?;
    Ok((xml, peer))
}

async fn accept_plain<S: AsyncRead + AsyncWrite + Unpin>(
    xml: &mut XmlStream<S>,
    me: &PeerId,
) -> Result<(), LinkError> {
    let header = xml.header().await?;
    xml.answer(
        &header,
        me,
        None,
        Element::new("starttls", ns::TLS).with_child(Element::new("required", ns::TLS)),
    )
    .await?;
    xml.element("starttls", ns::TLS).await?;
    xml.send(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await
}

async fn accept_secure<S: AsyncRead + AsyncWrite + Unpin>(
    xml: &mut XmlStream<S>,
    me: &PeerId,
    owner: Option<PeerId>,
) -> Result<PeerId, LinkError> {
    let peer = owner.ok_or(Refusal::UnknownCertificate)?; // taken off the list during the handshake
    let header = xml.header().await?;
    let mechanisms = Element::new("mechanisms", ns::SASL)
        .with_child(Element::new("mechanism", ns::SASL).with_text("EXTERNAL"));
    xml.answer(&header, me, Some(&peer), mechanisms).await?;
    let auth = xml.element("auth", ns::SASL).await?;
    if auth.attr("mechanism") != Some("EXTERNAL") {
        return Err(LinkError::Handshake("only EXTERNAL is offered".to_owned()));
    }
    xml.send(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>").await?;
    xml.framer.restart();
    let header = xml.header().await?;
    xml.answer(&header, me, Some(&peer), negotiate::feature()).await?;
    if peer >= *me {
        return Err(Refusal::Direction.into());
    }
    Ok(peer)
}

/// Leaves the plain stream. Bytes that came before TLS must not be taken for bytes inside it (RFC 6120 §5.3.1).
fn plain<S>(xml: XmlStream<S>) -> Result<S, LinkError> {
    if xml.buffer.is_empty() {
        Ok(xml.io)
    } else {
        Err(LinkError::Handshake("bytes before TLS".to_owned()))
    }
}

/// Says `hello` first, and reads the answer of `peer`.
pub(super) async fn hello_dialling<S>(
    xml: &mut XmlStream<S>,
    hello: &Hello,
    peer: &PeerId,
) -> Result<Hello, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    xml.send(&hello.element().to_bytes()).await?;
    Hello::read(&xml.element("link", ns::LINK).await?, peer)
}

/// Reads the hello of `peer`, and answers with `hello`.
pub(super) async fn hello_accepting<S>(
    xml: &mut XmlStream<S>,
    hello: &Hello,
    peer: &PeerId,
) -> Result<Hello, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let theirs = Hello::read(&xml.element("link", ns::LINK).await?, peer)?;
    xml.send(&Hello { version: theirs.version, ..hello.clone() }.element().to_bytes()).await?;
    Ok(theirs)
}
