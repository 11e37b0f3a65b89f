//! A small HTTP/1.1 client for our own ports: one request a connection, a deadline, a bounded answer.
//!
//! Called by `cli::ctl`, `cli::user`, quickstart's wait for `/ready`, and by tests. Deliberately absent: TLS,
//! redirects, connection reuse.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Where to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Client {
    authority: String,
    authorization: Option<String>,
    deadline: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none of ours.
    #[error("{0:?} is not an address like http://127.0.0.1:5280")]
    Url(String),
    /// Nobody listens there.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// Somebody listens, and said nothing that is HTTP.
    #[error("no answer from {0}: {1}")]
    Answer(String, String),
    /// It took too long.
    #[error("no answer from {0} within {1:?}")]
    Deadline(String, Duration),
}

/// What came back.
#[derive(Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.status, self.text())
    }
}

impl Client {
    /// Of `http://HOST:PORT`, or `HOST:PORT`.
    ///
    /// # Errors
    /// It is neither, or it is `https`.
    pub fn new(url: &str) -> Result<Client, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(bad());
        }
        let host = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let authority = match host {
            Some(_) => authority.to_owned(),
            None if authority.contains(':') => return Err(bad()),
            None => format!("{authority}:80"),
        };
        Ok(Client { authority, authorization: None, deadline: Duration::from_secs(30) })
    }

    /// With HTTP Basic.
    #[must_use]
    pub fn with_user(mut self, account: &str, password: &str) -> Client {
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{account}:{password}"));
        self.authorization = Some(format!("Basic {encoded}"));
        self
    }

    /// With another deadline than 30 s.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// `host:port`
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Asks, with `body` as JSON if there is one.
    ///
    /// # Errors
    /// No answer; an answer of any status is none.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, ClientError> {
        match tokio::time::timeout(self.deadline, self.ask_now(method, path, body)).await {
            Ok(reply) => reply,
            Err(_) => Err(ClientError::Deadline(self.authority.clone(), self.deadline)),
        }
    }

    async fn ask_now(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, ClientError> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|cause| ClientError::Connect(self.authority.clone(), cause))?;
        let failed = |cause: &dyn fmt::Display| {
            ClientError::Answer(self.authority.clone(), cause.to_string())
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|cause| failed(&cause))?;
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|cause| failed(&cause))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|cause| failed(&cause))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|cause| failed(&cause))?
                .to_bytes();
            Ok(Reply { status, body })
        };
        tokio::pin!(exchange);
        tokio::select! {
            reply = &mut exchange => reply,
            // The connection may end first, its last bytes already handed over.
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(cause) => Err(failed(&cause)),
            },
        }
    }
}

/// `text` as one segment of a path, or one value of a query.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_with_or_without_the_scheme() {
        let check = |url: &str, authority: Option<&str>| {
            assert_eq!(Client::new(url).ok().map(|c| c.authority), authority.map(str::to_owned));
        };
        check("http://127.0.0.1:5280", Some("127.0.0.1:5280"));
        check("127.0.0.1:5280/", Some("127.0.0.1:5280"));
        check("http://eu.example", Some("eu.example:80"));
        check("https://eu.example", None);
        check("http://eu.example/path", None);
        check("", None);
    }

    #[test]
    fn what_would_break_a_path_is_escaped() {
        assert_eq!(escape("a b/ü@c.d"), "a%20b%2F%C3%BC@c.d");
    }
}
