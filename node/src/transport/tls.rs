//! Transport: where TLS ends. Certificates by server name, the handshake, and records in and out.
//!
//! Called by `Transport` and by `app.rs` (which builds the [`TlsAcceptor`] and reloads it on SIGHUP). Calls rustls, driven by hand: the
//! ClientHello is read first and the identity chosen from a snapshot of the store, so that what `tls-server-end-point` hashes
//! (RFC 5929 §4.1) is the certificate that was really shown. TLS 1.2 (with extended master secret only: RFC 9266 §4.2) and
//! 1.3; tickets on, early data off.
//!
//! Deliberately absent: trust. A client certificate, where one is asked for, is proved to be the client's (its signature is checked)
//! and handed up as it is; whether SASL EXTERNAL believes it is decided there. Shared ticket keys across nodes: not yet.

use std::collections::HashMap;
use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage, ProducesTickets};
use rustls::{ServerConfig, ServerConnection};
use s2s::anybody::Anybody;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::buffer::Buffer;

/// The time a client has for its handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// What rustls may hold of records that the socket did not take yet.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// XEP-0368 §4.
const ALPN_CLIENT: &[u8] = b"xmpp-client";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer went away, or the socket failed.
    #[error("the connection failed during the handshake: {0}")]
    Io(#[from] io::Error),
    /// What the peer sent is no TLS that we speak. The alert has been sent.
    #[error("the handshake failed: {0}")]
    Tls(#[from] rustls::Error),
    /// [`HANDSHAKE_DEADLINE`] has passed.
    #[error("the handshake took too long")]
    Deadline,
    /// The transport is encrypted already, or is no socket.
    #[error("TLS can only be started on a plain connection")]
    NotPlain,
    /// A certificate or key cannot be used; the text says which and why.
    #[error("{0}")]
    Certificate(String),
}

/// What a handshake settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// Keying material of label `EXPORTER-Channel-Binding`, empty context (RFC 9266).
    pub exporter: Option<[u8; 32]>,
    /// Whether it is TLS 1.3, else 1.2.
    pub tls13: bool,
    /// RFC 5929 §4.1: the hash of our certificate. None where that hash is undefined (Ed25519).
    pub end_point: Option<Vec<u8>>,
    /// The application protocol agreed on, `xmpp-client` or none.
    pub alpn: Option<Vec<u8>>,
    /// The client's certificate and those it sent along (DER), the first proved to be its own but not judged. Empty: it has none.
    pub client_certificates: Vec<Vec<u8>>,
    /// The server name the client asked for.
    pub server_name: Option<String>,
}

/// A certificate chain (leaf first) and its key.
#[derive(Debug)]
pub struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Pair {
    /// From PEM text.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] when it holds no certificate or no key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| TlsError::Certificate(format!("certificate chain: {error}")))?;
        if chain.is_empty() {
            return Err(TlsError::Certificate("certificate chain: no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Certificate(format!("private key: {error}")))?;
        Ok(Self { chain, key })
    }

    /// From two PEM files.
    ///
    /// # Errors
    /// [`TlsError::Certificate`], naming the file.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| TlsError::Certificate(format!("{}: {error}", path.display())))
        };
        Self::from_pem(&read(chain)?, &read(key)?).map_err(|error| {
            TlsError::Certificate(format!("{} / {}: {error}", chain.display(), key.display()))
        })
    }
}

/// Which of the two doors a connection came through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    StartTls,
    Direct,
}

/// One certificate, ready to be shown.
struct Identity {
    start_tls: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// A whole set of identities; replaced as a whole.
struct Certificates {
    /// Lower-case names, `*.example` among them, to an index.
    by_name: HashMap<String, usize>,
    identities: Vec<Arc<Identity>>,
}

impl Certificates {
    /// The certificate for that name; the first of all for no name or an unknown one: the client is the one to complain, and says
    /// it better than an alert does.
    fn pick(&self, server_name: Option<&str>) -> Arc<Identity> {
        let found = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            let name = name.trim_end_matches('.');
            self.by_name.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.by_name.get(&format!("*.{parent}"))
            })
        });
        self.identities[found.copied().unwrap_or(0)].clone()
    }
}

/// Certificates that are good to be shown: for [`TlsAcceptor::reload`].
pub struct Ready(Certificates);

/// The certificates and the rules of TLS for clients. Cloning it shares it; [`TlsAcceptor::reload`] is seen by the next handshake.
#[derive(Clone)]
pub struct TlsAcceptor {
    current: Arc<RwLock<Arc<Certificates>>>,
    tickets: Arc<dyn ProducesTickets>,
    ask_clients: bool,
}

impl TlsAcceptor {
    /// `pairs`: at least one; the first is the one for unknown names. `ask_clients`: whether clients are offered to show a certificate.
    ///
    /// # Errors
    /// [`TlsError::Certificate`]: none given, or a key that does not fit its certificate.
    pub fn new(pairs: Vec<Pair>, ask_clients: bool) -> Result<Self, TlsError> {
        let tickets = rustls::crypto::ring::Ticketer::new()?;
        let certificates = build(pairs, &tickets, ask_clients)?;
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(certificates))), tickets, ask_clients })
    }

    /// Others, that are not shown yet.
    ///
    /// # Errors
    /// As for [`TlsAcceptor::new`].
    pub fn ready(&self, pairs: Vec<Pair>) -> Result<Ready, TlsError> {
        build(pairs, &self.tickets, self.ask_clients).map(Ready)
    }

    /// Replaces all certificates. Connections that exist keep theirs.
    pub fn reload(&self, ready: Ready) {
        *self.current.write() = Arc::new(ready.0);
    }
}

impl std::fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TlsAcceptor({} certificates)", self.current.read().identities.len())
    }
}

fn build(
    pairs: Vec<Pair>,
    tickets: &Arc<dyn ProducesTickets>,
    ask_clients: bool,
) -> Result<Certificates, TlsError> {
    if pairs.is_empty() {
        return Err(TlsError::Certificate("no certificate for the c2s listeners".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut certificates = Certificates { by_name: HashMap::new(), identities: Vec::new() };
    for (index, pair) in pairs.into_iter().enumerate() {
        let leaf = pair.chain[0].clone();
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|error| TlsError::Certificate(format!("certificate {index}: {error}")))?;
        let end_point = end_point(&leaf, &parsed);
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    certificates.by_name.entry(name.to_ascii_lowercase()).or_insert(index);
                }
            }
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = if ask_clients {
            builder.with_client_cert_verifier(Arc::new(Anybody::new(&provider)))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder
            .with_single_cert(pair.chain, pair.key)
            .map_err(|error| TlsError::Certificate(format!("certificate {index}: {error}")))?;
        config.ticketer = tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        config.require_ems = true;
        let mut direct = config.clone();
        direct.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
        certificates.identities.push(Arc::new(Identity {
            start_tls: Arc::new(config),
            direct: Arc::new(direct),
            end_point,
        }));
    }
    Ok(certificates)
}

/// RFC 5929 §4.1: the certificate, hashed as its signature was; MD5 and SHA-1 are replaced by SHA-256.
fn end_point(leaf: &[u8], parsed: &X509Certificate<'_>) -> Option<Arc<[u8]>> {
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // md5, sha1, sha256 with RSA; ecdsa with SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(leaf).as_slice().into()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Some(Sha384::digest(leaf).as_slice().into())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Some(Sha512::digest(leaf).as_slice().into())
        }
        _ => None,
    }
}

/// One encrypted connection.
pub(super) struct TlsStream {
    socket: TcpStream,
    tls: ServerConnection,
    end_point: Option<Arc<[u8]>>,
}

/// The server's side of a handshake.
pub(super) async fn accept(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
    start: Start,
) -> Result<Box<TlsStream>, TlsError> {
    tokio::time::timeout(HANDSHAKE_DEADLINE, handshake(socket, acceptor, start))
        .await
        .unwrap_or(Err(TlsError::Deadline))
}

async fn handshake(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
    start: Start,
) -> Result<Box<TlsStream>, TlsError> {
    let mut hello = Acceptor::default();
    let accepted = loop {
        socket.readable().await?;
        match hello.read_tls(&mut Now(&socket)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        }
        match hello.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut Now(&socket));
                return Err(error.into());
            }
        }
    };
    let certificates = acceptor.current.read().clone();
    let identity = certificates.pick(accepted.client_hello().server_name());
    let config = match start {
        Start::StartTls => &identity.start_tls,
        Start::Direct => &identity.direct,
    };
    let mut tls = accepted.into_connection(config.clone()).map_err(|(error, mut alert)| {
        let _ = alert.write_all(&mut Now(&socket));
        error
    })?;
    tls.set_buffer_limit(Some(PENDING_BYTES_MAX));
    let mut stream = Box::new(TlsStream { socket, tls, end_point: identity.end_point.clone() });
    loop {
        std::future::poll_fn(|cx| stream.poll_flush(cx)).await?;
        if !stream.tls.is_handshaking() {
            return Ok(stream);
        }
        if std::future::poll_fn(|cx| stream.poll_records(cx)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

impl TlsStream {
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Decrypted bytes, or the end, may be waiting where no socket will ever tell.
        match self.tls.reader().fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.poll_read_ready(cx)
            }
            _ => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Buffer,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut count = 0;
            loop {
                let mut reader = self.tls.reader();
                match reader.fill_buf() {
                    Ok([]) => return Poll::Ready(Ok(count)),
                    Ok(plain) => {
                        if !into.make_room() {
                            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                        }
                        into.put(plain);
                        let taken = plain.len();
                        reader.consume(taken);
                        count += taken;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The peer ended without close_notify, or has failed before: what was read comes first.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Poll::Ready(Ok(count));
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            ready!(self.poll_records(cx))?;
        }
    }

    /// Takes records from the socket and decrypts them; 0 at the end of the stream. A violation is answered with its alert.
    fn poll_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_read_ready(cx))?;
        let read = self.tls.read_tls(&mut Waiting { socket: &mut self.socket, cx });
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let processed = self.tls.process_new_packets();
        // Answers to key updates, and alerts: they go when they can, and with the next write if they cannot now.
        let flushed = self.poll_flush(cx);
        match (processed, flushed) {
            (Err(error), _) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
            (Ok(_), Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Ok(_), _) => Poll::Ready(Ok(count)),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffer,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_flush(cx))?;
            if from.is_empty() {
                from.release_if_empty();
                return Poll::Ready(Ok(()));
            }
            match self.tls.writer().write(from.filled())? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => from.consume(count),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Waiting { socket: &mut self.socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.send_close_notify(); // only once, however often it is called
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    pub(super) fn info(&self) -> TlsInfo {
        TlsInfo {
            exporter: self
                .tls
                .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]))
                .ok(),
            tls13: self.tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3),
            end_point: self.end_point.as_ref().map(|hash| hash.to_vec()),
            alpn: self.tls.alpn_protocol().map(<[u8]>::to_vec),
            client_certificates: self
                .tls
                .peer_certificates()
                .map(|chain| chain.iter().map(|one| one.to_vec()).collect())
                .unwrap_or_default(),
            server_name: self.tls.server_name().map(str::to_owned),
        }
    }
}

/// The socket as rustls wants it, when whoever polls is to be woken.
struct Waiting<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Waiting<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        or_would_block(Pin::new(&mut *self.socket).poll_read(self.cx, &mut into))?;
        Ok(into.filled().len())
    }
}

impl Write for Waiting<'_, '_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write(self.cx, from))
    }

    fn write_vectored(&mut self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, from))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket as rustls wants it, when nobody waits.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
