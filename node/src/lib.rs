//! The server, as a library: listeners, sessions, router, features, storage. `main.rs` is a few lines over it.

pub mod admin;
pub mod app;
pub mod auth;
pub mod certs;
pub mod cli;
pub mod components;
pub mod feature;
pub mod features;
pub mod federation;
pub mod geo;
pub mod homes;
pub mod http;
pub mod metrics;
pub mod outbox;
pub mod pie;
pub mod registry;
pub mod router;
pub mod service;
pub mod session;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;
mod told;
pub mod transport;
pub mod wan;
