//! How connections between nodes come about: over TCP with TLS and the whole XML stream, or over a bare road, where whoever dials is
//! believed and only the hello is said. The bare road is the simulator's: everything from the hello on is the same code.
//! Called by `links`.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::PeerId;
use crate::error::LinkError;
use crate::tls::{Pins, TlsIdentity};

/// Bytes in and out.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Opens connections that need no proof of who is at the other end.
pub trait Dialer: Send + Sync + 'static {
    /// A connection to that node, or why there is none.
    fn connect(&self, to: &PeerId) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// See the module.
pub enum Road {
    /// The certificate and key of this node.
    Tls(TlsIdentity),
    /// What opens connections. [`Links::accept_bare`](super::Links::accept_bare) takes them at the other end.
    Bare(Arc<dyn Dialer>),
}

/// What accepting over TLS needs; on a bare road nothing is accepted that way.
pub(super) struct Secured {
    pub(super) accepting: Option<Arc<ServerConfig>>,
    pub(super) pins: Pins,
}

impl Secured {
    pub(super) fn new(road: &Road) -> Result<Self, LinkError> {
        let pins = Pins::default();
        let accepting = match road {
            Road::Tls(identity) => Some(identity.accepting(&pins)?),
            Road::Bare(_) => None,
        };
        Ok(Self { accepting, pins })
    }
}
