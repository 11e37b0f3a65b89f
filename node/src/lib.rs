//! The server, as a library: listeners, sessions, router, features, storage. `main.rs` is a few lines over it.

pub mod session;
pub mod transport;
