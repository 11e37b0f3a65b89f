//! One component's connection, from its first byte until it is known: header and handshake (XEP-0114 §3), or a stream like a client's, TLS and SASL, until its
//! first hostname is bound (XEP-0225, `sign_in`). From there on it is `connection`'s.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use xmpp::stream::error::StreamError;
use xmpp::stream::header::Framing;
use xmpp::xml::framer::{Framer, Limits, Scan};

use super::connection::{Connection, Host};
use super::handshake::{self, Handshake};
use super::hostname::Proved;
use super::sign_in::SignIn;
use crate::app::Node;
use crate::session::Seat;
use crate::transport::tcp::Accepted;
use crate::transport::{Buffer, Transport};

/// One accepted connection.
pub async fn serve(node: Arc<Node>, accepted: Accepted) {
    let _place = match Place::new(&node) {
        Some(place) => place,
        None => return, // Dropped, and thereby closed.
    };
    let Accepted { transport, peer, admission } = accepted;
    let before = Limits {
        element_bytes: short(node.config.limits.stanza_bytes_max_before_auth),
        ..Limits::PRE_AUTH
    };
    let mut door = Door {
        node: &node,
        transport: Some(transport),
        framer: Framer::stream(before),
        input: Buffer::new(),
        output: Buffer::new(),
        opened: None,
        sign_in: None,
        has_header: false,
    };
    let deadline = Instant::now() + node.config.components.handshake_deadline;
    let come = timeout_at(deadline, door.until_known()).await;
    let come = come.unwrap_or_else(|_| Err(Some(StreamError::connection_timeout())));
    let seat = match come {
        Ok(seat) => seat,
        Err(error) => return door.refuse(error).await,
    };
    tracing::info!(component = %seat.bare, %peer, "a component is connected");
    // Its place ends with it, whatever comes of the rest.
    let host = Host::new(&node, seat, peer);
    let Door { transport, mut framer, input, output, sign_in, .. } = door;
    let Some(transport) = transport else { return };
    drop(admission); // It has proved who it is, and is not counted among those at the door any more.
    framer.set_limits(Limits {
        element_bytes: short(node.config.components.stanza_bytes_max),
        ..Limits::STANZA
    });
    let proved = sign_in.and_then(|sign_in| sign_in.proved);
    let connection = Connection::new(&node, transport, framer, (input, output), host, proved);
    Box::new(connection).run().await;
}

fn short(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// One of `components.connections_max`.
struct Place(Arc<Node>);

impl Place {
    fn new(node: &Arc<Node>) -> Option<Place> {
        let admitted = node.components.admit(node.config.components.connections_max);
        admitted.then(|| {
            node.metrics.components.inc();
            Place(node.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.components.leave();
        self.0.metrics.components.dec();
        if std::thread::panicking() {
            self.0.metrics.panics.inc();
        }
    }
}

/// A connection that has not proved anything yet.
pub(super) struct Door<'a> {
    pub(super) node: &'a Arc<Node>,
    /// `None`: it was lost on the way to TLS.
    pub(super) transport: Option<Transport>,
    pub(super) framer: Framer,
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    /// And what it proves once it is right.
    opened: Option<(Handshake, Proved)>,
    /// Of a stream like a client's.
    pub(super) sign_in: Option<SignIn>,
    pub(super) has_header: bool,
}

impl Door<'_> {
    /// Until it has its place in the session table. `Err(None)`: it went away.
    async fn until_known(&mut self) -> Result<Arc<Seat>, Option<StreamError>> {
        loop {
            match self.framer.scan(self.input.filled()).map_err(Some)? {
                Scan::More => self.read().await?,
                Scan::Space(bytes) => self.input.consume(bytes),
                Scan::Close(_) => return Err(None),
                Scan::Open(bytes, header) if SignIn::is_for(&header) || self.sign_in.is_some() => {
                    self.input.consume(bytes);
                    self.open(header).await?;
                }
                Scan::Open(bytes, header) => {
                    self.input.consume(bytes);
                    let id = self.node.token();
                    let Node { components, domains, .. } = &**self.node;
                    let at = components.proved("");
                    let open =
                        Handshake::open(&header, &id, |domain| components.claim(domains, domain));
                    let open = open.map_err(Some)?;
                    self.say_header(open.domain.as_str(), &id);
                    let proved = Proved { host: open.domain.to_string(), ..at };
                    self.opened = Some((open, proved));
                }
                Scan::Element(bytes, _) => {
                    let element = self.framer.element(&self.input.filled()[..bytes]);
                    self.input.consume(bytes);
                    let element = element.map_err(Some)?;
                    if StreamError::is_one(&element) {
                        return Err(None);
                    }
                    if self.sign_in.is_some() {
                        match self.said(element).await? {
                            Some(seat) => return Ok(seat),
                            None => continue,
                        }
                    }
                    let opened = self.opened.as_ref();
                    let (opened, proved) =
                        opened.expect("the framer lets no element come before a header");
                    opened.check(&element).map_err(Some)?;
                    if self.node.is_leaving() {
                        return Err(Some(StreamError::system_shutdown()));
                    }
                    let seat =
                        super::bind(self.node, &opened.domain, None, proved).map_err(Some)?;
                    self.output.put(b"<handshake/>");
                    return Ok(seat);
                }
            }
        }
    }

    fn say_header(&mut self, from: &str, id: &str) {
        self.has_header = true;
        self.output.put(&handshake::header(from, id));
    }

    async fn read(&mut self) -> Result<(), Option<StreamError>> {
        let transport = self.transport.as_mut().ok_or(None)?;
        transport.write(&mut self.output).await.map_err(|_| None)?;
        match transport.read(&mut self.input).await {
            Ok(count) if count > 0 => Ok(()),
            _ => Err(None),
        }
    }

    /// RFC 6120 §4.9.1.1: an error of the header too comes behind a header of ours.
    async fn refuse(mut self, error: Option<StreamError>) {
        if error.is_some() && !self.has_header {
            let (from, id) = (self.node.domains.global.clone(), self.node.token());
            self.say_header(&from, &id);
        }
        match error {
            Some(error) => {
                self.node.metrics.components_refused.inc();
                tracing::info!(error = error.condition.name(), "a component is refused");
                self.output.put(&Framing::Stream.error(&error));
            }
            None if self.has_header => self.output.put(Framing::Stream.close()),
            None => {}
        }
        if let Some(transport) = self.transport {
            transport.close(self.output).await;
        }
    }
}
