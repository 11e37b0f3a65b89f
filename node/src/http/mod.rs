//! The HTTP port: `/health`, `/ready`, `/metrics`, and the admin API of `admin` beside them.
//!
//! Called by `app`: [`bind`] early (a taken port is told before anything else starts), [`router`] with the node's
//! operator, [`serve`] until the stop signal. WebSocket and BOSH will be merged into the same router.
//!
//! Deliberately absent: TLS (a proxy ends it, or the port stays on loopback), HTTP/2.

mod bounded;
pub mod client;
pub(crate) mod outgoing;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::{self, Operator};
use crate::metrics::Metrics;

#[derive(Clone)]
struct Shown {
    operator: Arc<dyn Operator>,
    metrics: Arc<Metrics>,
}

/// Listens on every address of `http.listen`.
///
/// # Errors
/// The address that cannot be had, and why.
pub async fn bind(addresses: &[SocketAddr]) -> std::io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.map_err(|cause| {
            std::io::Error::new(cause.kind(), format!("http.listen {address}: {cause}"))
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Every path of the port. `admins` are the accounts of `admin.accounts`.
pub fn router(operator: Arc<dyn Operator>, metrics: Arc<Metrics>, admins: &[String]) -> Router {
    let api = admin::router(operator.clone(), admins);
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(numbers))
        .with_state(Shown { operator, metrics })
        .merge(api)
        .merge(nothing())
}

/// No path: 404.
pub fn nothing() -> Router {
    Router::new().fallback(|| async { (StatusCode::NOT_FOUND, "nothing here\n") })
}

/// Serves until `stop` is true (or its sender is gone), then finishes what is under way. At most `connections_max`
/// connections a listener; a further one waits in the kernel.
///
/// # Errors
/// A listener that fails for good.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    connections_max: usize,
    stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let servers = listeners.into_iter().map(|listener| {
        let mut stop = stop.clone();
        let listener = bounded::Bounded::new(listener, connections_max);
        axum::serve(listener, router.clone())
            .with_graceful_shutdown(async move {
                let _ = stop.wait_for(|stop| *stop).await;
            })
            .into_future()
    });
    futures_util::future::try_join_all(servers).await.map(drop)
}

/// The process is alive: it answers.
async fn health() -> &'static str {
    "ok\n"
}

/// 200 when this node serves and knows the others, else 503 with the reasons.
async fn ready(State(shown): State<Shown>) -> Response {
    let ready = shown.operator.ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

async fn numbers(State(shown): State<Shown>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], shown.metrics.text()).into_response()
}
