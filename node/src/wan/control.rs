//! The steering port of quickstart: the WAN emulator and the nodes over HTTP (blueprint §8).
//!
//! `PUT /wan/{from}/{to}` changes one direction, `POST /wan/{from}/{to}/reset` closes the connections, `GET /wan`
//! shows all; `POST /nodes/{node}/start` and `/kill`, `GET /nodes`. On loopback and without a password: it is a tool
//! for tests.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use serde::Serialize;

use super::line::Change;
use super::{Seen, Wan};
use crate::admin::Refusal;

/// The processes that quickstart keeps.
pub trait Nodes: Send + Sync + 'static {
    /// Starts a node that is not running.
    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeSeen, Refusal>>;
    /// Kills a node that is running, as by `kill -9`, and waits until it is gone.
    fn kill<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeSeen, Refusal>>;
    /// Every node.
    fn seen(&self) -> Vec<NodeSeen>;
}

/// A node's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeSeen {
    /// `eu-0`
    pub node: String,
    /// Its process, while it runs.
    pub pid: Option<u32>,
}

#[derive(Clone)]
struct Steered {
    wan: Wan,
    nodes: Arc<dyn Nodes>,
}

/// Every path of the port.
pub fn router(wan: Wan, nodes: Arc<dyn Nodes>) -> Router {
    Router::new()
        .route("/wan", get(show))
        .route("/wan/{from}/{to}", put(change))
        .route("/wan/{from}/{to}/reset", post(reset))
        .route("/nodes", get(show_nodes))
        .route("/nodes/{node}/start", post(start))
        .route("/nodes/{node}/kill", post(kill))
        .with_state(Steered { wan, nodes })
}

type Reply<T> = Result<Json<T>, Refusal>;

async fn show(State(steered): State<Steered>) -> Json<Vec<Seen>> {
    Json(steered.wan.seen())
}

async fn change(
    State(steered): State<Steered>,
    Path((from, to)): Path<(String, String)>,
    body: Bytes,
) -> Reply<Vec<Seen>> {
    // Whatever the content type says: `curl -d` calls everything a form.
    let change: Change = serde_json::from_slice(&body)
        .map_err(|cause| Refusal::invalid(format!("not the JSON of a change: {cause}")))?;
    let seen = steered.wan.change(&from, &to, change);
    if seen.is_empty() { Err(no_line(&from, &to)) } else { Ok(Json(seen)) }
}

async fn reset(
    State(steered): State<Steered>,
    Path((from, to)): Path<(String, String)>,
) -> Reply<Vec<Seen>> {
    if !steered.wan.reset(&from, &to) {
        return Err(no_line(&from, &to));
    }
    Ok(Json(steered.wan.change(&from, &to, Change::default())))
}

fn no_line(from: &str, to: &str) -> Refusal {
    Refusal::not_found(format!("no line leads from {from} to {to}; GET /wan shows all"))
}

async fn show_nodes(State(steered): State<Steered>) -> Json<Vec<NodeSeen>> {
    Json(steered.nodes.seen())
}

async fn start(State(steered): State<Steered>, Path(node): Path<String>) -> Reply<NodeSeen> {
    steered.nodes.start(&node).await.map(Json)
}

async fn kill(State(steered): State<Steered>, Path(node): Path<String>) -> Reply<NodeSeen> {
    steered.nodes.kill(&node).await.map(Json)
}
