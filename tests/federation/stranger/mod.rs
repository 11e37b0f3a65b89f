//! A server of the tests' own that keeps no rules: streams between domains as bytes that go and pieces that come, from either end.
//!
//! `Line` is a stream that it opens to somebody; [`home`] is where others come. TLS is believed whoever shows what: what is judged here is what the
//! other side believes.

pub(crate) mod home;

use crate::authority::Paper;
use crate::expect;
use pangaea_tests::client::{Result, patience};
use pangaea_tests::xml::{Element, Piece, STREAM, StreamReader, escape};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) const SERVER: &str = "jabber:server";
pub(crate) const DIALBACK: &str = "jabber:server:dialback";
pub(crate) const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
pub(crate) const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
pub(crate) const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
pub(crate) const EXTERNAL: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>";

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What comes.
#[derive(Debug)]
pub(crate) enum Heard {
    Open(Element),
    Element(Element),
    /// The end of the stream.
    Close,
    /// The end of the connection.
    End,
}

/// One connection.
pub(crate) struct Line {
    io: Box<dyn Io>,
    reader: StreamReader,
    pieces: VecDeque<Piece>,
    /// The certificate that the other side has shown.
    pub(crate) shown: Option<CertificateDer<'static>>,
}

/// A stream header with these attributes besides the namespaces.
pub(crate) fn header(attributes: &str) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='{SERVER}' xmlns:db='{DIALBACK}' xmlns:stream='{STREAM}' {attributes}>"
    )
}

pub(crate) fn usual(from: &str, to: &str) -> String {
    format!("from='{}' to='{}' version='1.0'", escape(from), escape(to))
}

impl Line {
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        Self { io, reader: StreamReader::new(), pieces: VecDeque::new(), shown: None }
    }

    pub(crate) async fn connect(port: u16) -> Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await;
        let tcp = tcp.map_err(|e| format!("port {port}: {e}"))?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self::new(Box::new(tcp)))
    }

    /// TLS from here on, as the one that connects, showing that certificate.
    pub(crate) async fn secure(self, paper: Option<&Paper>, name: &str) -> Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
        let connected = TlsConnector::from(connecting(paper)?).connect(name, self.io);
        let tls = timeout(patience(), connected).await.map_err(|_| "TLS takes too long")?;
        let tls = tls.map_err(|e| format!("TLS: {e}"))?;
        let shown = tls.get_ref().1.peer_certificates().and_then(|all| all.first().cloned());
        Ok(Self { shown: shown.map(CertificateDer::into_owned), ..Self::new(Box::new(tls)) })
    }

    /// TLS from here on, as the one that was called.
    pub(crate) async fn accept(self, config: Arc<rustls::ServerConfig>) -> Result<Self> {
        let accepted = TlsAcceptor::from(config).accept(self.io);
        let tls = timeout(patience(), accepted).await.map_err(|_| "TLS takes too long")?;
        let tls = tls.map_err(|e| format!("TLS: {e}"))?;
        let shown = tls.get_ref().1.peer_certificates().and_then(|all| all.first().cloned());
        Ok(Self { shown: shown.map(CertificateDer::into_owned), ..Self::new(Box::new(tls)) })
    }

    /// Bytes as they are. Whether anybody still reads them is not asked.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(patience(), self.io.write_all(bytes.as_ref())).await;
        let _ = self.io.flush().await;
    }

    pub(crate) async fn hear(&mut self) -> Result<Heard> {
        self.hear_within(patience()).await
    }

    /// The next piece.
    pub(crate) async fn hear_within(&mut self, within: Duration) -> Result<Heard> {
        let mut buffer = vec![0u8; 16_384];
        loop {
            match self.pieces.pop_front() {
                Some(Piece::Open(header)) => return Ok(Heard::Open(header)),
                Some(Piece::Element(element)) => return Ok(Heard::Element(element)),
                Some(Piece::Close) => return Ok(Heard::Close),
                None => {}
            }
            let read = timeout(within, self.io.read(&mut buffer)).await;
            match read.map_err(|_| "nothing came")? {
                // A reset, or TLS cut short: the end all the same.
                Ok(0) | Err(_) => return Ok(Heard::End),
                Ok(n) => self.pieces.extend(self.reader.feed(&buffer[..n])?),
            }
        }
    }

    pub(crate) async fn element(&mut self) -> Result<Element> {
        match self.hear().await? {
            Heard::Element(element) => Ok(element),
            other => Err(format!("expected an element, heard {other:?}")),
        }
    }

    /// A stream header comes next, from either side.
    pub(crate) fn restart(&mut self) {
        self.reader = StreamReader::new();
        self.pieces.clear();
    }

    /// Opens the stream, or opens it anew: what the other side's header says, and its features.
    pub(crate) async fn open(&mut self, from: &str, to: &str) -> Result<(Element, Element)> {
        self.restart();
        self.send(header(&usual(from, to))).await;
        let open = match self.hear().await? {
            Heard::Open(open) => open,
            other => return Err(format!("expected a stream header, heard {other:?}")),
        };
        let features = self.element().await?;
        expect(features.is("features", STREAM), || format!("no features: {features}"))?;
        Ok((open, features))
    }

    /// Connects, opens, STARTTLS, opens: how far everybody comes.
    pub(crate) async fn secured(
        port: u16,
        (from, to): (&str, &str),
        paper: Option<&Paper>,
    ) -> Result<(Self, Element, Element)> {
        let mut line = Self::connect(port).await?;
        line.open(from, to).await?;
        line.send(STARTTLS).await;
        let proceed = line.element().await?;
        expect(proceed.is("proceed", TLS), || format!("starttls is answered {proceed}"))?;
        let mut line = line.secure(paper, to).await?;
        let (open, features) = line.open(from, to).await?;
        Ok((line, open, features))
    }

    /// SASL EXTERNAL to its end.
    pub(crate) async fn external(&mut self, from: &str, to: &str) -> Result<Element> {
        self.send(EXTERNAL).await;
        let success = self.element().await?;
        expect(success.is("success", SASL), || format!("EXTERNAL is answered {success}"))?;
        Ok(self.open(from, to).await?.1)
    }

    /// Asks for a pair of domains by dialback; what the answer says.
    pub(crate) async fn dialback(&mut self, from: &str, to: &str, key: &str) -> Result<Element> {
        self.send(format!("<db:result from='{from}' to='{to}'>{key}</db:result>")).await;
        let answer = self.element().await?;
        expect(answer.is("result", DIALBACK), || format!("db:result is answered {answer}"))?;
        Ok(answer)
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let all = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, all)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let all = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, all)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn connecting(paper: Option<&Paper>) -> Result<Arc<rustls::ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let config = match paper {
        Some(paper) => config
            .with_client_auth_cert(paper.chain()?, paper.private_key()?)
            .map_err(|e| e.to_string())?,
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

pub(crate) fn accepting(paper: &Paper) -> Result<Arc<rustls::ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(Arc::new(Gullible(provider)))
        .with_single_cert(paper.chain()?, paper.private_key()?)
        .map_err(|e| e.to_string())?;
    // Whoever names a protocol must name this one (XEP-0368).
    config.alpn_protocols = vec![b"xmpp-server".to_vec()];
    Ok(Arc::new(config))
}
