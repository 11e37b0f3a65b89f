//! A client's road to the server as bytes that go and pieces that come. Called by `state` and `row`.

use futures_util::future::BoxFuture;
use pangaea_tests::client::{Endpoint, Result, Security, patience};
use pangaea_tests::xml::{CLIENT, Element, Piece, STREAM, StreamReader, escape};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// TCP as it is.
    Plain,
    /// TLS from the first byte.
    Tls,
}

impl Road {
    pub(crate) const ALL: &'static [Road] = &[Road::Plain, Road::Tls];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Road::Plain => "tcp",
            Road::Tls => "tls",
        }
    }
}

/// What comes.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A stream header.
    Open,
    Element(Element),
    /// The end of the stream.
    Close,
    /// The end of the connection.
    End,
}

/// One connection.
pub(crate) trait Wire: Send {
    /// Bytes as they are. Whether anybody still reads them is not asked.
    fn send<'a>(&'a mut self, bytes: &'a [u8]) -> BoxFuture<'a, ()>;

    /// The next piece, within the usual patience.
    fn hear(&mut self) -> BoxFuture<'_, Result<Heard>>;

    /// A stream header comes next, from either side.
    fn restart(&mut self);

    /// A stream header with these attributes besides the namespaces.
    fn header(&self, attributes: &str) -> Vec<u8>;
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream: TCP or TLS.
pub(crate) struct Bytes {
    io: Box<dyn Io>,
    reader: StreamReader,
    pieces: VecDeque<Piece>,
}

impl Bytes {
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        Self { io, reader: StreamReader::new(), pieces: VecDeque::new() }
    }

    /// Connects, with TLS if that is how this endpoint is secured from the first byte.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await;
        let tcp = tcp.map_err(|e| format!("port {}: {e}", endpoint.port))?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        match &endpoint.security {
            Security::Direct(config) => {
                Ok(Self::new(Box::new(tls(tcp, config.clone(), &endpoint.domain).await?)))
            }
            _ => Ok(Self::new(Box::new(tcp))),
        }
    }
}

/// A handshake under a server name.
pub(crate) async fn tls<T: Io>(
    tcp: T,
    config: Arc<rustls::ClientConfig>,
    name: &str,
) -> Result<impl Io + use<T>> {
    let name =
        rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
    let connected = timeout(patience(), TlsConnector::from(config).connect(name, tcp)).await;
    connected.map_err(|_| "TLS takes too long")?.map_err(|e| format!("TLS: {e}"))
}

impl Wire for Bytes {
    fn send<'a>(&'a mut self, bytes: &'a [u8]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // A server that has seen enough may have closed; what it said is still to be heard.
            let _ = timeout(patience(), self.io.write_all(bytes)).await;
            let _ = self.io.flush().await;
        })
    }

    fn hear(&mut self) -> BoxFuture<'_, Result<Heard>> {
        Box::pin(async move {
            let mut buffer = [0u8; 16_384];
            loop {
                match self.pieces.pop_front() {
                    Some(Piece::Open(_)) => return Ok(Heard::Open),
                    Some(Piece::Element(element)) => return Ok(Heard::Element(element)),
                    Some(Piece::Close) => return Ok(Heard::Close),
                    None => {}
                }
                let read = timeout(patience(), self.io.read(&mut buffer)).await;
                match read.map_err(|_| "nothing came")? {
                    Ok(0) => return Ok(Heard::End),
                    // A reset, or TLS cut short: the end all the same.
                    Err(_) => return Ok(Heard::End),
                    Ok(n) => self.pieces.extend(self.reader.feed(&buffer[..n])?),
                }
            }
        })
    }

    fn restart(&mut self) {
        self.reader = StreamReader::new();
        self.pieces.clear();
    }

    fn header(&self, attributes: &str) -> Vec<u8> {
        format!(
            "<?xml version='1.0'?><stream:stream xmlns='{CLIENT}' xmlns:stream='{STREAM}' {attributes}>"
        )
        .into_bytes()
    }
}

/// The usual attributes of a header to that domain.
pub(crate) fn usual(domain: &str) -> String {
    format!("to='{}' version='1.0' xml:lang='en'", escape(domain))
}
