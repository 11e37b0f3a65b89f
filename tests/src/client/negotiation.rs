//! A stream from the first byte to the end of SASL: TCP, TLS, headers, features, SCRAM. Called by [`super::Client`].

use super::{Result, Transcript, describe, patience};
use crate::scram::{Hash, Scram};
use crate::xml::{CLIENT, COMPONENT, Element, Piece, STREAM, StreamReader, escape};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha1::{Digest as _, Sha1};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;

const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";

/// How a connection is secured.
#[derive(Clone)]
pub enum Security {
    /// Not at all: loopback only.
    Plain,
    /// `<starttls/>`, then TLS.
    StartTls(Arc<rustls::ClientConfig>),
    /// TLS from the first byte (XEP-0368).
    Direct(Arc<rustls::ClientConfig>),
}

/// Where to connect, as whose domain.
#[derive(Clone)]
pub struct Endpoint {
    /// The domain the stream is opened to, and the name the certificate must carry.
    pub domain: String,
    /// The port on loopback.
    pub port: u16,
    /// How the connection is secured.
    pub security: Security,
}

/// Trust in exactly the authorities of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn trust(ca: &Path, alpn: bool) -> Result<Arc<rustls::ClientConfig>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).map_err(|e| format!("{}: {e}", ca.display()))?
    {
        let certificate = certificate.map_err(|e| format!("{}: {e}", ca.display()))?;
        roots.add(certificate).map_err(|e| format!("{}: {e}", ca.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if alpn {
        config.alpn_protocols = vec![b"xmpp-client".to_vec()];
    }
    Ok(Arc::new(config))
}

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream while it is negotiated: one thing after the other.
pub(super) struct Negotiation {
    pub(super) io: Box<dyn Io>,
    pub(super) reader: StreamReader,
    pub(super) pieces: VecDeque<Piece>,
    deadline: tokio::time::Instant,
    who: String,
    transcript: Transcript,
}

impl Negotiation {
    pub(super) async fn start(
        endpoint: &Endpoint,
        who: &str,
        transcript: &Transcript,
    ) -> Result<(Self, Element)> {
        Self::start_as(endpoint, who, transcript, None).await
    }

    /// As [`Self::start`], saying `from` whom (RFC 6120 §4.7.1), which is for protected streams.
    pub(super) async fn start_as(
        endpoint: &Endpoint,
        who: &str,
        transcript: &Transcript,
        from: Option<&str>,
    ) -> Result<(Self, Element)> {
        let mut this = Self::reach(endpoint.port, who, transcript).await?;
        match &endpoint.security {
            Security::Plain => {}
            Security::Direct(config) => this.tls(config, &endpoint.domain).await?,
            Security::StartTls(config) => {
                let features = this.open(&endpoint.domain).await?;
                features.child("starttls", TLS).ok_or("STARTTLS is not offered")?;
                this.send(&format!("<starttls xmlns='{TLS}'/>")).await?;
                let answer = this.element().await?;
                if !answer.is("proceed", TLS) {
                    return Err(format!("STARTTLS answered with {answer}"));
                }
                this.tls(config, &endpoint.domain).await?;
            }
        }
        let features = this.open_as(&endpoint.domain, from).await?;
        Ok((this, features))
    }

    async fn reach(port: u16, who: &str, transcript: &Transcript) -> Result<Self> {
        let deadline = tokio::time::Instant::now() + patience();
        let tcp = timeout_at(deadline, TcpStream::connect(("127.0.0.1", port)))
            .await
            .map_err(|_| format!("port {port} does not answer"))?
            .map_err(|e| format!("port {port}: {e}"))?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self {
            io: Box::new(tcp),
            reader: StreamReader::new(),
            pieces: VecDeque::new(),
            deadline,
            who: who.into(),
            transcript: transcript.clone(),
        })
    }

    /// The stream of a component (XEP-0114 §3), up to the end of its handshake.
    pub(super) async fn as_component(
        port: u16,
        (who, transcript): (&str, &Transcript),
        domain: &str,
        secret: &str,
    ) -> Result<Self> {
        let mut this = Self::reach(port, who, transcript).await?;
        let to = escape(domain);
        this.send(&format!(
            "<stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAM}' to='{to}'>"
        ))
        .await?;
        let id = match this.piece().await? {
            Piece::Open(header) if header.is("stream", STREAM) => {
                header.attr("id").unwrap_or_default().to_owned()
            }
            other => return Err(format!("expected a stream header, got {other:?}")),
        };
        let hash = Sha1::digest(format!("{id}{secret}").as_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        this.send(&format!("<handshake>{hash}</handshake>")).await?;
        match this.element().await {
            Ok(answer) if answer.is("handshake", COMPONENT) => Ok(this),
            Ok(answer) => Err(format!("refused: {answer}")),
            Err(error) => Err(format!("refused: {error}")),
        }
    }

    async fn tls(&mut self, config: &Arc<rustls::ClientConfig>, domain: &str) -> Result<()> {
        let name = rustls::pki_types::ServerName::try_from(domain.to_owned())
            .map_err(|e| e.to_string())?;
        let (placeholder, _) = tokio::io::duplex(1);
        let plain = std::mem::replace(&mut self.io, Box::new(placeholder));
        let connect = TlsConnector::from(config.clone()).connect(name, plain);
        let tls = timeout_at(self.deadline, connect).await.map_err(|_| "TLS takes too long")?;
        self.io = Box::new(tls.map_err(|e| format!("TLS: {e}"))?);
        Ok(())
    }

    /// Opens (or restarts) the stream and waits for the features.
    pub(super) async fn open(&mut self, domain: &str) -> Result<Element> {
        self.open_as(domain, None).await
    }

    async fn open_as(&mut self, domain: &str, from: Option<&str>) -> Result<Element> {
        let from = from.map(|from| format!(" from='{}'", escape(from))).unwrap_or_default();
        self.reader = StreamReader::new();
        self.pieces.clear();
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{CLIENT}' xmlns:stream='{STREAM}' to='{}'{from} version='1.0' \
             xml:lang='en'>",
            escape(domain)
        ))
        .await?;
        match self.piece().await? {
            Piece::Open(header) if header.is("stream", STREAM) => {
                if header.attr("from") != Some(domain) {
                    return Err(format!("the stream header is not from {domain}: {header}"));
                }
                if header.attr("id").is_none_or(str::is_empty) {
                    return Err(format!("the stream header has no id: {header}"));
                }
            }
            other => return Err(format!("expected a stream header, got {other:?}")),
        }
        let features = self.element().await?;
        if features.is("features", STREAM) {
            Ok(features)
        } else {
            Err(format!("expected features, got {features}"))
        }
    }

    pub(super) async fn send(&mut self, text: &str) -> Result<()> {
        self.transcript.note(format!("{} → {text}", self.who));
        self.io.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
        self.io.flush().await.map_err(|e| e.to_string())
    }

    async fn piece(&mut self) -> Result<Piece> {
        let mut buffer = [0u8; 4096];
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                self.transcript.note(format!("{} ← {}", self.who, describe(&piece)));
                return Ok(piece);
            }
            let read = timeout_at(self.deadline, self.io.read(&mut buffer)).await;
            let n =
                read.map_err(|_| "the negotiation takes too long")?.map_err(|e| e.to_string())?;
            if n == 0 {
                return Err("the server closed the connection during negotiation".into());
            }
            self.pieces.extend(self.reader.feed(&buffer[..n])?);
        }
    }

    pub(super) async fn element(&mut self) -> Result<Element> {
        match self.piece().await? {
            Piece::Element(element) if element.is("error", STREAM) => {
                Err(format!("stream error: {element}"))
            }
            Piece::Element(element) => Ok(element),
            Piece::Open(_) => Err("a second stream header".into()),
            Piece::Close => Err("the server closed the stream".into()),
        }
    }

    /// ANONYMOUS, which must be all that is offered (XEP-0175).
    pub(super) async fn authenticate_as_guest(&mut self, features: &Element) -> Result<()> {
        let mechanisms =
            features.child("mechanisms", SASL).ok_or(format!("no mechanisms in {features}"))?;
        let offered: Vec<String> = mechanisms.children().map(Element::text).collect();
        if offered != ["ANONYMOUS"] {
            return Err(format!("guests are offered {offered:?}"));
        }
        self.send(&format!("<auth xmlns='{SASL}' mechanism='ANONYMOUS'/>")).await?;
        let mut answer = self.element().await?;
        if answer.is("challenge", SASL) {
            // For the trace information, which there is none of (RFC 4505 §2).
            self.send(&format!("<response xmlns='{SASL}'>=</response>")).await?;
            answer = self.element().await?;
        }
        if answer.is("success", SASL) {
            Ok(())
        } else {
            Err(format!("login as a guest refused: {answer}"))
        }
    }

    pub(super) async fn authenticate(
        &mut self,
        features: &Element,
        user: &str,
        password: &str,
        hash: Option<Hash>,
    ) -> Result<()> {
        let mechanisms =
            features.child("mechanisms", SASL).ok_or(format!("no mechanisms in {features}"))?;
        let offered: Vec<String> = mechanisms.children().map(Element::text).collect();
        let usual = [Hash::Sha256, Hash::Sha1];
        let hash = usual
            .into_iter()
            .filter(|_| hash.is_none())
            .chain(hash)
            .find(|h| offered.iter().any(|o| o == h.mechanism()))
            .ok_or(format!("no SCRAM among {offered:?}"))?;
        let mut scram = Scram::new(hash, user, password);
        let first = BASE64_STANDARD.encode(scram.first());
        self.send(&format!("<auth xmlns='{SASL}' mechanism='{}'>{first}</auth>", hash.mechanism()))
            .await?;
        let mut checked = false;
        loop {
            let answer = self.element().await?;
            let text = BASE64_STANDARD.decode(answer.text().trim()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            if answer.is("failure", SASL) {
                return Err(format!("login as {user} refused: {answer}"));
            } else if answer.is("challenge", SASL) && !text.starts_with("v=") {
                let last = BASE64_STANDARD.encode(scram.last(&text)?);
                self.send(&format!("<response xmlns='{SASL}'>{last}</response>")).await?;
            } else if answer.is("challenge", SASL) {
                scram.check(&text)?;
                checked = true;
                self.send(&format!("<response xmlns='{SASL}'/>")).await?;
            } else if answer.is("success", SASL) {
                return if checked { Ok(()) } else { scram.check(&text) };
            } else {
                return Err(format!("unexpected during SASL: {answer}"));
            }
        }
    }
}
