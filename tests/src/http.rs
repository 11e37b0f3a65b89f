//! One HTTP request on loopback, for steering the platform. Called by [`crate::platform`].

use crate::client::{Result, patience};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;

/// Sends one request and gives status and body.
///
/// # Errors
/// When nobody answers in time, or not in HTTP.
pub async fn request(
    port: u16,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<(u16, String)> {
    let what = format!("{method} {path} on port {port}");
    let exchange = async {
        let tcp =
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
            .await
            .map_err(|e| e.to_string())?;
        let driving = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("127.0.0.1:{port}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        driving.abort();
        Ok::<_, String>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(patience(), exchange)
        .await
        .map_err(|_| format!("{what}: no answer"))?
        .map_err(|e| format!("{what}: {e}"))
}
