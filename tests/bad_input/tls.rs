//! B, STARTTLS and TLS: RFC 6120 §5, RFC 7590, XEP-0368. No rows: here it matters when bytes come, not only which.

use crate::expect;
use crate::state::{At, House};
use crate::wire::{Bytes, Heard, Road, Wire, tls, usual};
use pangaea_tests::client::{Result, Security, patience, trust};
use pangaea_tests::harness::Test;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

pub(crate) fn tests<'a>(house: &'a House<'a>) -> Vec<Test<'a>> {
    vec![
        Test::new("starttls::B-073 starttls inside TLS", || inside(house)),
        Test::new("starttls::B-073 starttls twice", || twice(house)),
        Test::new("starttls::B-074 a space before the handshake", || before_handshake(house, b" ")),
        Test::new("starttls::B-074 a stanza before the handshake", || {
            before_handshake(house, b"<message to='a@b'><body>x</body></message>")
        }),
        Test::new("starttls::S-026 a stanza in one segment with starttls", || injected(house)),
        Test::new("tls::B-076 another protocol by ALPN", || alpn(house)),
        Test::new("tls::B-077 an unknown server name", || server_name(house)),
        Test::new("tls::B-080 a handshake byte by byte", || slowly(house)),
        Test::new("tls::0368 no handshake at all", || no_handshake(house)),
    ]
}

async fn inside(house: &House<'_>) -> Result<()> {
    let mut guest = house.guest(Road::Tls, At::Open).await?;
    guest.wire.send(STARTTLS.as_bytes()).await;
    let error = guest.element().await?;
    let condition = error.children().next().map(|child| child.name.clone()).unwrap_or_default();
    expect(matches!(condition.as_str(), "unsupported-stanza-type" | "policy-violation"), || {
        error.to_string()
    })
}

/// STARTTLS has been agreed on, in clear.
async fn agreed(house: &House<'_>) -> Result<(TcpStream, Arc<rustls::ClientConfig>, String)> {
    let endpoint = house.platform.endpoint(0, pangaea_tests::platform::Door::StartTls)?;
    let Security::StartTls(config) = endpoint.security else { return Err("no STARTTLS".into()) };
    let mut tcp =
        TcpStream::connect(("127.0.0.1", endpoint.port)).await.map_err(|e| e.to_string())?;
    let header = format!(
        "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' {}>",
        usual(&endpoint.domain)
    );
    tcp.write_all(header.as_bytes()).await.map_err(|e| e.to_string())?;
    read_to(&mut tcp, "</stream:features>").await?;
    tcp.write_all(STARTTLS.as_bytes()).await.map_err(|e| e.to_string())?;
    read_to(&mut tcp, "<proceed").await?;
    Ok((tcp, config, endpoint.domain))
}

async fn read_to(tcp: &mut TcpStream, what: &str) -> Result<()> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(what) {
        let read = timeout(patience(), tcp.read(&mut buffer)).await;
        let count =
            read.map_err(|_| format!("{what} does not come"))?.map_err(|e| e.to_string())?;
        expect(count > 0, || format!("closed before {what}: {text}"))?;
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(())
}

/// Nothing but a TLS alert, perhaps, and the end.
async fn ends(mut tcp: TcpStream) -> Result<()> {
    let mut all = Vec::new();
    let read = timeout(patience(), tcp.read_to_end(&mut all)).await;
    read.map_err(|_| "the connection stays open")?.unwrap_or_default();
    let is_alert = all.is_empty() || all[0] == 21;
    expect(is_alert, || format!("in clear: {}", String::from_utf8_lossy(&all)))
}

async fn twice(house: &House<'_>) -> Result<()> {
    let (tcp, config, domain) = agreed(house).await?;
    let mut wire = Bytes::new(Box::new(tls(tcp, config, &domain).await?));
    let header = wire.header(&usual(&domain));
    wire.send(&header).await;
    wire.send(STARTTLS.as_bytes()).await;
    loop {
        match wire.hear().await? {
            Heard::Element(error) if error.name == "error" => return Ok(()),
            Heard::Element(proceed) if proceed.name == "proceed" => {
                return Err("TLS in TLS".into());
            }
            Heard::End => return Err("closed without a word".into()),
            _ => {}
        }
    }
}

async fn before_handshake(house: &House<'_>, bytes: &[u8]) -> Result<()> {
    let (mut tcp, ..) = agreed(house).await?;
    tcp.write_all(bytes).await.map_err(|e| e.to_string())?;
    // What looks like the beginning of a handshake behind it helps nobody.
    tcp.write_all(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0]).await.map_err(|e| e.to_string())?;
    ends(tcp).await
}

async fn injected(house: &House<'_>) -> Result<()> {
    let mut guest = house.guest(Road::Plain, At::Open).await?;
    let text = format!("{STARTTLS}<message to='a@b'><body>x</body></message>");
    guest.wire.send(text.as_bytes()).await;
    loop {
        match guest.wire.hear().await {
            Ok(Heard::Element(proceed)) if proceed.name == "proceed" => {}
            Ok(Heard::End) => return Ok(()),
            other => return Err(format!("{other:?}")),
        }
    }
}

async fn alpn(house: &House<'_>) -> Result<()> {
    let endpoint = house.endpoint(0, Road::Tls)?;
    let ca = house.platform.dir.join("ca.pem");
    let mut config = (*trust(&ca, false)?).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await.map_err(|e| e.to_string())?;
    match tls(tcp, Arc::new(config), &endpoint.domain).await {
        Err(_) => Ok(()),
        Ok(_) => Err("the handshake succeeds".into()),
    }
}

/// The certificate is not believed, the name is not checked: the server answers with the certificate it has, and knows no such host.
async fn server_name(house: &House<'_>) -> Result<()> {
    let endpoint = house.endpoint(0, Road::Tls)?;
    let Security::Direct(config) = endpoint.security else { return Err("no direct TLS".into()) };
    let tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await.map_err(|e| e.to_string())?;
    // Either an alert, or a certificate that is not for that name: the client's check fails then.
    match tls(tcp, config, "verona.example").await {
        Err(_) => Ok(()),
        Ok(_) => Err("a certificate for a name that is not ours".into()),
    }
}

/// Every write is one byte.
struct Drip<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Drip<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Drip<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn slowly(house: &House<'_>) -> Result<()> {
    let endpoint = house.endpoint(0, Road::Tls)?;
    let Security::Direct(config) = endpoint.security else { return Err("no direct TLS".into()) };
    let tcp = TcpStream::connect(("127.0.0.1", endpoint.port)).await.map_err(|e| e.to_string())?;
    tcp.set_nodelay(true).map_err(|e| e.to_string())?;
    let stream = tls(Drip(tcp), config, &endpoint.domain).await?;
    let mut wire = Bytes::new(Box::new(stream));
    let header = wire.header(&usual(&endpoint.domain));
    wire.send(&header).await;
    match wire.hear().await? {
        Heard::Open => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// XMPP in clear where TLS should begin.
async fn no_handshake(house: &House<'_>) -> Result<()> {
    let endpoint = house.endpoint(0, Road::Tls)?;
    let mut tcp =
        TcpStream::connect(("127.0.0.1", endpoint.port)).await.map_err(|e| e.to_string())?;
    tcp.write_all(b"<?xml version='1.0'?><stream:stream>").await.map_err(|e| e.to_string())?;
    ends(tcp).await
}
