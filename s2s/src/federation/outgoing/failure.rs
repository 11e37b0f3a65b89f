//! Room `federation::outgoing`: why a stream to another domain could not be made, or ended, and what that means for what waits. Made by `machine` and
//! `driver`, judged by `pool`.
//!
//! What the senders are told (RFC 6120 §8.3.3): `remote-server-not-found` when the domain is definitely not there, `not-allowed` when our policy forbids it
//! ("sending to entities at a blacklisted domain", §8.3.3.10), `internal-server-error` when our dialback key is called wrong and `remote-server-timeout`
//! when the request is refused (XEP-0220 §2.1.1): those at once. Everything else may pass, and is tried again until the time of each stanza is over:
//! then `remote-server-timeout`.

use std::fmt;

use xmpp::sasl::Failure as SaslFailure;
use xmpp::stanza::error::{Condition, StanzaError};
use xmpp::{StreamCondition, StreamError};

use crate::federation::dialback::DialbackError;

/// Why there is no stream, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Our policy says no.
    Forbidden,
    /// The domain is definitely not there; in words.
    NotFound(String),
    /// It could not be found or reached this time; in words.
    Unreachable(String),
    /// It took longer than it may.
    Deadline,
    /// The connection broke; in words.
    Cut(String),
    /// The peer closed the stream.
    Closed,
    /// TLS is required, and it does not offer it, or refuses it.
    TlsNotOffered,
    /// The handshake failed; in words.
    Tls(String),
    /// Its certificate must prove its domain, and does not.
    Unproved,
    /// It offers nothing that our policy and our certificate allow.
    NoWay,
    /// EXTERNAL failed, and dialback is no way either.
    External(SaslFailure),
    /// We do not know the key of our dialback keys yet.
    NoSecret,
    /// It calls our dialback key wrong.
    Invalid,
    /// It refuses the dialback request.
    Refused(DialbackError),
    /// It sends us to another host.
    Elsewhere(String),
    /// It ended the stream with this error.
    Peer(StreamError),
    /// It broke the rules; this is what it is told.
    Protocol(StreamError),
    /// It did not acknowledge, or take bytes, for too long.
    Silent,
    /// Nothing was carried for long, or we are closing.
    Done,
}

/// What a failure means for what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It waits on, and the domain is tried again.
    Retry,
    /// It is refused, now.
    Refuse(StanzaError),
    /// It is refused, and so is what comes in the next moments.
    Gone(StanzaError),
}

impl Failure {
    /// What becomes of what waits.
    pub(super) fn verdict(&self) -> Verdict {
        let error = |condition| StanzaError::new(condition).with_text(&self.to_string());
        match self {
            Failure::Forbidden => Verdict::Refuse(error(Condition::NotAllowed)),
            Failure::NotFound(_) => Verdict::Gone(error(Condition::RemoteServerNotFound)),
            Failure::Peer(peer)
                if matches!(
                    peer.condition,
                    StreamCondition::HostUnknown | StreamCondition::HostGone
                ) =>
            {
                Verdict::Gone(error(Condition::RemoteServerNotFound))
            }
            Failure::Invalid => Verdict::Refuse(error(Condition::InternalServerError)),
            Failure::Refused(_) => Verdict::Refuse(error(Condition::RemoteServerTimeout)),
            _ => Verdict::Retry,
        }
    }

    /// Whether a pair that was refused on the stream of another may do better on one of its own, where a certificate can speak for it.
    pub(super) fn may_pass_alone(&self) -> bool {
        use DialbackError::*;
        match self {
            Failure::Refused(error) => matches!(
                error,
                NotAuthorized | PolicyViolation | NotAcceptable | NotAllowed | ResourceConstraint
            ),
            other => other.verdict() == Verdict::Retry,
        }
    }

    /// Whether another server of the same domain may do better, right away.
    pub(super) fn is_of_this_server(&self) -> bool {
        match self {
            Failure::Cut(_)
            | Failure::Closed
            | Failure::TlsNotOffered
            | Failure::Tls(_)
            | Failure::Unproved
            | Failure::NoWay
            | Failure::Protocol(_) => true,
            Failure::Peer(error) => matches!(
                error.condition,
                StreamCondition::SystemShutdown
                    | StreamCondition::ResourceConstraint
                    | StreamCondition::InternalServerError
            ),
            _ => false,
        }
    }
}

/// What the sender of a stanza that waited too long is told.
pub(super) fn too_late(last: Option<&str>) -> StanzaError {
    let error = StanzaError::remote_server_timeout();
    match last {
        Some(last) => error.with_text(last),
        None => error,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Forbidden => f.write_str("communication with this domain is not allowed"),
            Failure::NotFound(words)
            | Failure::Unreachable(words)
            | Failure::Cut(words)
            | Failure::Tls(words) => f.write_str(words),
            Failure::Deadline => f.write_str("the other server did not answer in time"),
            Failure::Closed => f.write_str("the other server closed the stream"),
            Failure::TlsNotOffered => f.write_str("the other server does not offer TLS"),
            Failure::Unproved => {
                f.write_str("the certificate of the other server does not prove its domain")
            }
            Failure::NoWay => {
                f.write_str("the other server offers neither EXTERNAL nor dialback that we may use")
            }
            Failure::External(failure) => write!(f, "the other server refuses EXTERNAL: {failure}"),
            Failure::NoSecret => f.write_str("dialback is not ready yet"),
            Failure::Invalid => f.write_str("the other server calls our dialback key wrong"),
            Failure::Refused(error) => {
                write!(f, "the other server refuses dialback: {}", error.name())
            }
            Failure::Elsewhere(host) => write!(f, "the other server sends us to {host}"),
            Failure::Peer(error) => {
                write!(f, "the other server ended the stream: {}", error.condition.name())
            }
            Failure::Protocol(error) => {
                write!(f, "the other server broke the protocol: {}", error.condition.name())
            }
            Failure::Silent => f.write_str("the other server does not acknowledge"),
            Failure::Done => f.write_str("nothing to send"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_senders_are_told_and_when() {
        let now = |failure: Failure| match failure.verdict() {
            Verdict::Retry => "later".to_owned(),
            Verdict::Refuse(error) => error.condition.name().to_owned(),
            Verdict::Gone(error) => format!("{}, remembered", error.condition.name()),
        };
        let peer = |condition| Failure::Peer(StreamError::new(condition));
        let refused = Failure::Refused(DialbackError::ItemNotFound);
        let cases = [
            (Failure::Forbidden, "not-allowed"),
            (Failure::NotFound(String::new()), "remote-server-not-found, remembered"),
            (peer(StreamCondition::HostUnknown), "remote-server-not-found, remembered"),
            (peer(StreamCondition::HostGone), "remote-server-not-found, remembered"),
            (peer(StreamCondition::SystemShutdown), "later"),
            (Failure::Invalid, "internal-server-error"),
            (refused, "remote-server-timeout"),
            (Failure::TlsNotOffered, "later"),
            (Failure::Unproved, "later"),
            (Failure::Unreachable(String::new()), "later"),
            (Failure::Deadline, "later"),
        ];
        for (failure, expected) in cases {
            assert_eq!(now(failure.clone()), expected, "{failure:?}");
        }
    }
}
