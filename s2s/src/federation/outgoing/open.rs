//! Room `federation::outgoing`: one attempt to reach a domain: found, connected, negotiated. Called by `driver` and `verify`, under their deadline; drives
//! `machine`'s values over a connection that `way` made.
//!
//! Servers of the domain are tried in their order: one that cannot be talked with is left out, and the next is tried at once. A redirection is followed
//! once (RFC 6120 §4.9.3.19). Dropping it half-way closes the connection.

use std::time::Duration;

use tokio::time::Instant;
use xmpp::xml::framer::Limits;

use super::failure::Failure;
use super::machine::{Dial, Established, Input, Machine, Output, Terms, farewell};
use super::way::{Io, Way, elsewhere};
use crate::federation::dialback::Pair;
use crate::federation::net::Target;
use crate::federation::net::targets::Security;
use crate::federation::wire::{Item, Turn, Wire};
use xmpp::StreamError;

/// How long the last words to a peer may take.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Reaches the peer of a pair.
pub(super) async fn open(
    way: &dyn Way,
    pair: &Pair,
    terms: Terms,
    secret: Option<[u8; 32]>,
    deadline: Instant,
) -> Result<(Wire<Io>, Established), Failure> {
    let all = async {
        let mut targets = way.find(&pair.to).await?;
        let (mut terms, mut is_redirected) = (terms, false);
        loop {
            let (io, target) = way.connect(&targets, deadline).await?;
            let dial = Dial { pair: pair.clone(), terms, direct_tls: None, secret };
            let failure = match negotiate(way, io, &target, dial).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            tracing::debug!(to = pair.to, %target, %failure, "no stream");
            match failure {
                Failure::Elsewhere(host) if !is_redirected => {
                    is_redirected = true;
                    targets = elsewhere(way, &host).await?;
                }
                // It had its chance, and could not go on with dialback on the same stream.
                Failure::External(_) if terms.external && terms.dialback => terms.external = false,
                failure if failure.is_of_this_server() && targets.len() > 1 => {
                    targets.retain(|other| *other != target);
                }
                failure => return Err(failure),
            }
        }
    };
    tokio::time::timeout_at(deadline, all).await.unwrap_or(Err(Failure::Deadline))
}

/// Drives the machine over a connection.
async fn negotiate(
    way: &dyn Way,
    mut io: Io,
    target: &Target,
    mut dial: Dial,
) -> Result<(Wire<Io>, Established), Failure> {
    let (pair, judged) = (dial.pair.clone(), dial.terms.judges());
    if target.security == Security::DirectTls {
        let (encrypted, proved) =
            way.encrypt(io, &pair.from, &pair.to, Security::DirectTls, judged).await?;
        (io, dial.direct_tls) = (encrypted, Some(proved));
    }
    let mut wire = Wire::new(io, Limits::PRE_AUTH);
    let (mut machine, mut outputs) = Machine::new(dial)?;
    loop {
        let mut encrypt = false;
        for output in outputs.drain(..) {
            match output {
                Output::Send(bytes) => wire.put(&bytes),
                Output::Restart => wire.restart(),
                Output::StartTls => encrypt = true,
                Output::Established(established) => return Ok((wire, *established)),
                Output::Failed(failure) => {
                    wire.put(&farewell(&failure));
                    // Nobody waits for it.
                    tokio::spawn(wire.close(FAREWELL));
                    return Err(failure);
                }
            }
        }
        let input = if encrypt {
            let bare = wire.into_plain().ok_or_else(|| {
                Failure::Protocol(StreamError::policy_violation().with_text("bytes before TLS"))
            })?;
            let (encrypted, proved) =
                way.encrypt(bare, &pair.from, &pair.to, Security::StartTls, judged).await?;
            wire = Wire::new(encrypted, Limits::PRE_AUTH);
            Input::Tls { proved }
        } else {
            next(&mut wire).await
        };
        outputs = machine.handle(input);
    }
}

/// The next thing that the peer says.
async fn next(wire: &mut Wire<Io>) -> Input {
    loop {
        match wire.next() {
            Ok(Some(Item::Open(header))) => return Input::Open(header),
            Ok(Some(Item::Element(element))) => return Input::Element(element),
            Ok(Some(Item::Stanza(..))) => return Input::Broken(StreamError::not_authorized()),
            Ok(Some(Item::Close)) => return Input::Closed,
            Err(error) => return Input::Broken(error),
            Ok(None) => match wire.turn(true).await {
                Ok(Turn::Ended) => return Input::Lost("the connection ended".to_owned()),
                Ok(Turn::Read(_) | Turn::Flushed) => {}
                Err(error) => return Input::Lost(error.to_string()),
            },
        }
    }
}
