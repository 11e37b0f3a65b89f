//! Requests to other people's HTTP servers, `http` and `https`: one connection a request, bodies streamed both ways. The caller sets deadlines.
//!
//! Called by uploads, for the bucket and for other regions, and by `auth::http`. Deliberately absent: redirects, connection reuse, HTTP/2, proxies.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::request;
use axum::http::{Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long connecting may take, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Who asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outgoing {
    /// Authorities, PEM.
    ca: Arc<PathBuf>,
    tls: Arc<OnceLock<TlsConnector>>,
}

impl Outgoing {
    /// Who believes the authorities in this file; it is read when the first `https` address comes.
    pub(crate) fn new(ca: PathBuf) -> Outgoing {
        Outgoing { ca: Arc::new(ca), tls: Arc::default() }
    }

    /// Reads the authorities now, for whoever wants to hear at once that they cannot be read.
    ///
    /// # Errors
    /// There is no such file, or no authority in it.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.connector().map(drop)
    }

    /// Asks `url` followed by `path` (which begins with a slash, and may have a query).
    ///
    /// # Errors
    /// No connection, or no answer; an answer of any status is none.
    pub(crate) async fn send(
        &self,
        url: &str,
        path: &str,
        request: request::Builder,
        body: Body,
    ) -> io::Result<Response<Incoming>> {
        let (secure, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://").unwrap_or(url)),
        };
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = host_port(authority, secure)?;
        let request = request.uri(format!("{base}{path}")).header(header::HOST, authority);
        let request = request.body(body).map_err(io::Error::other)?;
        let connect = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            if !secure {
                return Ok::<Box<dyn Stream>, io::Error>(Box::new(stream));
            }
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(self.connector()?.connect(name, stream).await?))
        };
        let stream = timeout(CONNECT_WITHIN, connect).await??;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(io::Error::other)?;
        // Ends when the answer has been read, or both halves were dropped.
        tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "an outgoing HTTP connection");
            }
        });
        sender.send_request(request).await.map_err(io::Error::other)
    }

    fn connector(&self) -> io::Result<&TlsConnector> {
        if let Some(connector) = self.tls.get() {
            return Ok(connector);
        }
        let named = |cause: &dyn std::fmt::Display| {
            io::Error::other(format!("{}: {cause}", self.ca.display()))
        };
        let mut roots = RootCertStore::empty();
        let all =
            CertificateDer::pem_file_iter(self.ca.as_path()).map_err(|cause| named(&cause))?;
        roots.add_parsable_certificates(all.flatten());
        if roots.is_empty() {
            return Err(named(&"no authority in it"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| TlsConnector::from(Arc::new(config))))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Host, without the brackets of an IPv6 address, and port.
fn host_port(authority: &str, secure: bool) -> io::Result<(&str, u16)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{authority:?} is no host"));
    let default = if secure { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
        _ => (authority, default),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err(bad()) } else { Ok((host, port)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_host_and_port() {
        for (authority, secure, expected) in [
            ("a.example", false, Some(("a.example", 80))),
            ("a.example", true, Some(("a.example", 443))),
            ("127.0.0.1:5280", false, Some(("127.0.0.1", 5280))),
            ("[::1]:9", true, Some(("::1", 9))),
            ("[::1]", true, Some(("::1", 443))),
            ("a:x", true, None),
            (":80", true, None),
        ] {
            assert_eq!(host_port(authority, secure).ok(), expected, "{authority}");
        }
    }
}
