//! Why a link could not be made, or ended: one enum for the crate, one variant for each way. Made by `tls` and `link`, logged by
//! `link::links`, which also counts refusals. Not here: errors of sending ([`LinkFull`](crate::link::LinkFull)), which are part of flow control.

use std::io;

use crate::link::FrameError;

/// Why a connection between two nodes could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The TCP connection could not be opened.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Where we dialled.
        address: String,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Reading or writing failed, or the other side closed.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// TLS settings or a certificate of ours cannot be used.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A PEM text does not hold what it should.
    #[error("PEM: {0}")]
    Pem(String),
    /// A step of the handshake took longer than allowed.
    #[error("handshake not finished in time")]
    Deadline,
    /// Nothing was heard for too long.
    #[error("nothing heard for too long")]
    Silent,
    /// The other side's XML was not what the handshake expects.
    #[error("handshake: {0}")]
    Handshake(String),
    /// The other side ended the stream with an error.
    #[error("refused by the other side: {0}")]
    Peer(String),
    /// We do not accept this peer.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// A frame broke the protocol.
    #[error("frame: {0}")]
    Frame(#[from] FrameError),
    /// A newer connection of the same peer took the place of this one, the peer was forgotten, or the node shuts down.
    #[error("replaced or closed by us")]
    Closed,
}

/// Why a peer is refused. Each is logged and counted; none is retried with other settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No peer with this certificate is known.
    #[error("unknown certificate")]
    UnknownCertificate,
    /// The certificate belongs to another peer than the one named in the stream or the hello.
    #[error("the certificate belongs to another node")]
    WrongName,
    /// It wanted to reach another node than this one.
    #[error("not the node that was called")]
    WrongAddressee,
    /// No version of the link protocol in common.
    #[error("no common version")]
    Version,
    /// The node with the greater name must not dial.
    #[error("the other side dials between these two")]
    Direction,
    /// It says it received what was never sent, or gave up what it had acknowledged.
    #[error("its account of what was received cannot be true")]
    Resume,
    /// Too many handshakes at once.
    #[error("too many handshakes at once")]
    Busy,
}
