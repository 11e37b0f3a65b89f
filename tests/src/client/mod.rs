//! The test client: one session of one user, over TCP with STARTTLS, direct TLS, or nothing at all.
//!
//! Called by [`crate::scenario`] and the end-to-end tests. Stands on [`crate::xml`] and [`crate::scram`]. RFC 6120 for
//! stream, SASL and binding; XEP-0198 for acknowledgement and resumption; XEP-0077 for registration.
//! Every wait has a deadline; what was said on the wire is kept and shown when a test fails.
//! Deliberately absent: automatic answers, save for `<r/>`. A play says itself what is answered.

mod negotiation;
mod reading;
mod stored;
mod strangers;

use crate::xml::{Element, Piece, escape};
pub use negotiation::{Endpoint, Security, trust};
use negotiation::{Io, Negotiation};
use reading::{Counters, Incoming, Reading};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::timeout_at;

const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
const REGISTER: &str = "jabber:iq:register";
const SM: &str = "urn:xmpp:sm:3";
const SASL2: &str = "urn:xmpp:sasl:2";
const BIND2: &str = "urn:xmpp:bind:0";

/// What went wrong, in words.
pub type Result<T> = std::result::Result<T, String>;

/// How long a client waits for what must come. `PANGAEA_TEST_PATIENCE` gives other seconds.
pub fn patience() -> Duration {
    let seconds =
        std::env::var("PANGAEA_TEST_PATIENCE").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    Duration::from_secs(seconds)
}

/// What was said on the wire, for the eyes of whoever reads a failure.
#[derive(Clone, Default)]
pub struct Transcript(Arc<Mutex<VecDeque<String>>>);

impl Transcript {
    const LINES_MAX: usize = 400;

    /// Writes a line down, with the time.
    pub fn note(&self, line: String) {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let at = START.get_or_init(Instant::now).elapsed();
        let mut lines = self.0.lock().expect("no one panics while writing a line");
        if lines.len() == Self::LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("{:8.3} {line}", at.as_secs_f64()));
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no one panics while writing a line").iter().cloned().collect()
    }
}

fn describe(piece: &Piece) -> String {
    match piece {
        Piece::Open(header) => format!("(stream header) {header}"),
        Piece::Element(element) => element.to_string(),
        Piece::Close => "</stream:stream>".into(),
    }
}

/// A connection that is bound: a reading task and something to write to.
struct Session {
    writer: Arc<AsyncMutex<WriteHalf<Box<dyn Io>>>>,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    reading: tokio::task::JoinHandle<()>,
}

/// Stream management as the client keeps it, across connections.
struct Sm {
    /// Given with `<enabled/>`, if the server can resume.
    id: Option<String>,
    sent: u32,
    unacked: VecDeque<(u32, String)>,
}

impl Sm {
    fn of(enabled: &Element) -> Self {
        let can_resume = matches!(enabled.attr("resume"), Some("true" | "1"));
        let id = enabled.attr("id").filter(|_| can_resume).map(Into::into);
        Self { id, sent: 0, unacked: VecDeque::new() }
    }
}

/// One session of one user.
pub struct Client {
    /// The name it has in a play, for messages to people.
    pub name: String,
    /// Where it connects.
    pub endpoint: Endpoint,
    /// The account's localpart.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The hash of the SCRAM mechanism it insists on.
    pub hash: Option<crate::scram::Hash>,
    /// Signs in with ANONYMOUS, and is called what the server says.
    pub is_guest: bool,
    /// Is no user but a component (XEP-0114) with this secret: its `user` is the first part of its domain, its endpoint's port one for components.
    pub component: Option<String>,
    /// The resource it asks for.
    pub resource: Option<String>,
    /// The full JID, once bound.
    pub jid: Option<String>,
    /// What was said.
    pub transcript: Transcript,
    session: Option<Session>,
    waiting: VecDeque<Element>,
    ended: Option<(bool, String)>,
    sm: Option<Sm>,
    counters: Arc<Counters>,
    answers_acks: Arc<AtomicBool>,
    ids: u32,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(
        name: &str,
        endpoint: Endpoint,
        user: &str,
        password: &str,
        resource: Option<&str>,
    ) -> Self {
        Self {
            name: name.into(),
            endpoint,
            user: user.into(),
            password: password.into(),
            hash: None,
            is_guest: false,
            component: None,
            resource: resource.map(Into::into),
            jid: None,
            transcript: Transcript::default(),
            session: None,
            waiting: VecDeque::new(),
            ended: None,
            sm: None,
            counters: Counters::new(),
            answers_acks: Arc::new(AtomicBool::new(true)),
            ids: 0,
        }
    }

    /// The bare JID; a component's domain.
    pub fn bare(&self) -> String {
        let at = if self.component.is_some() { '.' } else { '@' };
        format!("{}{at}{}", self.user, self.endpoint.domain)
    }

    /// The full JID; what it would be, before binding.
    pub fn full(&self) -> String {
        if self.component.is_some() {
            return self.bare();
        }
        self.jid.clone().unwrap_or_else(|| {
            format!("{}/{}", self.bare(), self.resource.as_deref().unwrap_or("?"))
        })
    }

    /// Has it a connection it believes in?
    pub fn is_connected(&self) -> bool {
        self.session.is_some() && self.ended.is_none()
    }

    /// Makes the account, before authentication (XEP-0077 §3.1), on a connection of its own.
    ///
    /// # Errors
    /// When registration is not offered or is refused.
    pub async fn register(&self) -> Result<()> {
        let who = format!("{} (registering)", self.name);
        let (mut stream, _) = Negotiation::start(&self.endpoint, &who, &self.transcript).await?;
        stream
            .send(&format!(
                "<iq type='get' id='r1' to='{}'><query xmlns='{REGISTER}'/></iq>",
                self.endpoint.domain
            ))
            .await?;
        let form = stream.element().await?;
        if form.attr("type") != Some("result") {
            return Err(format!("registration is not offered: {form}"));
        }
        stream
            .send(&format!(
                "<iq type='set' id='r2' to='{}'><query xmlns='{REGISTER}'><username>{}</username><password>{}</password></query></iq>",
                self.endpoint.domain,
                escape(&self.user),
                escape(&self.password)
            ))
            .await?;
        let answer = stream.element().await?;
        if answer.attr("type") != Some("result") || answer.attr("id") != Some("r2") {
            return Err(format!("registration refused: {answer}"));
        }
        let _ = stream.send("</stream:stream>").await;
        Ok(())
    }

    /// Logs in and binds; a component makes its handshake.
    ///
    /// # Errors
    /// When any step of it is refused or takes too long.
    pub async fn connect(&mut self) -> Result<()> {
        if let Some(secret) = self.component.clone() {
            let (port, domain) = (self.endpoint.port, self.bare());
            let who = (self.name.as_str(), &self.transcript);
            let stream = Negotiation::as_component(port, who, &domain, &secret).await?;
            self.sm = None;
            self.waiting.clear();
            self.run(stream);
            return Ok(());
        }
        let mut stream = self.authenticated().await?.0;
        let resource = match &self.resource {
            Some(resource) => format!("<resource>{}</resource>", escape(resource)),
            None => String::new(),
        };
        stream
            .send(&format!("<iq type='set' id='bind'><bind xmlns='{BIND}'>{resource}</bind></iq>"))
            .await?;
        let bound = stream.element().await?;
        let jid = bound.child("bind", BIND).and_then(|b| b.child("jid", BIND)).map(Element::text);
        let Some(jid) = jid.filter(|_| bound.attr("type") == Some("result")) else {
            return Err(format!("binding failed: {bound}"));
        };
        if self.is_guest {
            self.user = jid.split('@').next().unwrap_or_default().to_owned();
        }
        if !jid.starts_with(&format!("{}/", self.bare())) {
            return Err(format!("bound to somebody else: {jid}"));
        }
        self.jid = Some(jid);
        self.sm = None;
        self.waiting.clear();
        self.counters = Counters::new();
        self.run(stream);
        Ok(())
    }

    async fn authenticated(&mut self) -> Result<(Negotiation, Element)> {
        let (mut stream, features) =
            Negotiation::start(&self.endpoint, &self.name, &self.transcript).await?;
        if self.is_guest {
            stream.authenticate_as_guest(&features).await?;
        } else {
            stream.authenticate(&features, &self.user, &self.password, self.hash).await?;
        }
        let features = stream.open(&self.endpoint.domain).await?;
        Ok((stream, features))
    }

    /// From here on a task reads.
    fn run(&mut self, stream: Negotiation) {
        let Negotiation { io, reader, pieces, .. } = stream;
        let (read, write) = tokio::io::split(io);
        let writer = Arc::new(AsyncMutex::new(write));
        let (to, incoming) = mpsc::unbounded_channel();
        let reading = tokio::spawn(
            Reading {
                who: self.name.clone(),
                transcript: self.transcript.clone(),
                writer: writer.clone(),
                answers_acks: self.answers_acks.clone(),
                counters: self.counters.clone(),
                to,
            }
            .run(read, reader, pieces),
        );
        self.ended = None;
        self.session = Some(Session { writer, incoming, reading });
    }

    fn session(&mut self) -> Result<&mut Session> {
        let name = &self.name;
        self.session.as_mut().ok_or_else(|| format!("{name} is not connected"))
    }

    /// Writes text as it is. Not counted by stream management.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn send_raw(&mut self, text: &str) -> Result<()> {
        self.transcript.note(format!("{} → {text}", self.name));
        let writer = self.session()?.writer.clone();
        let mut writer = writer.lock().await;
        writer.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
        writer.flush().await.map_err(|e| e.to_string())
    }

    /// Sends one stanza, counted.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn send(&mut self, stanza: &str) -> Result<()> {
        if let Some(sm) = &mut self.sm {
            sm.sent += 1;
            sm.unacked.push_back((sm.sent, stanza.into()));
            let acked = *self.counters.acked.borrow();
            while sm.unacked.front().is_some_and(|(n, _)| *n <= acked) {
                sm.unacked.pop_front();
            }
        }
        self.send_raw(stanza).await
    }

    /// The next element, stanza or not, within the usual patience.
    ///
    /// # Errors
    /// When nothing comes, or the stream has ended.
    pub async fn receive(&mut self) -> Result<Element> {
        self.receive_within(patience()).await
    }

    /// The next element, within a time of its own.
    ///
    /// # Errors
    /// When nothing comes, or the stream has ended.
    pub async fn receive_within(&mut self, within: Duration) -> Result<Element> {
        if let Some(element) = self.waiting.pop_front() {
            return Ok(element);
        }
        self.fresh(tokio::time::Instant::now() + within).await
    }

    async fn fresh(&mut self, deadline: tokio::time::Instant) -> Result<Element> {
        if let Some((_, why)) = &self.ended {
            return Err(format!("{}'s stream has ended: {why}", self.name));
        }
        let name = self.name.clone();
        let incoming = &mut self.session()?.incoming;
        match timeout_at(deadline, incoming.recv()).await {
            Err(_) => Err(format!("{name} waited and nothing came")),
            Ok(Some(Incoming::Element(element))) => {
                if element.is("success", SASL2) {
                    self.succeeded(&element);
                }
                Ok(element)
            }
            Ok(Some(Incoming::Ended { cleanly, why })) => {
                self.ended = Some((cleanly, why.clone()));
                Err(format!("{name}'s stream has ended: {why}"))
            }
            Ok(None) => Err(format!("{name}'s reader is gone")),
        }
    }

    /// Puts an element back to be received again, first.
    pub fn put_back(&mut self, element: Element) {
        self.waiting.push_front(element);
    }

    /// Waits for the first element that fits; what came before it stays to be received.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn wait_for(
        &mut self,
        what: &str,
        fits: impl Fn(&Element) -> bool,
    ) -> Result<Element> {
        self.wait_for_within(patience(), what, fits).await
    }

    /// As [`Self::wait_for`], within a time of its own.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn wait_for_within(
        &mut self,
        within: Duration,
        what: &str,
        fits: impl Fn(&Element) -> bool,
    ) -> Result<Element> {
        if let Some(at) = self.waiting.iter().position(&fits) {
            return Ok(self.waiting.remove(at).expect("the position was just found"));
        }
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let element =
                self.fresh(deadline).await.map_err(|e| format!("{e} (waiting for {what})"))?;
            if fits(&element) {
                return Ok(element);
            }
            self.waiting.push_back(element);
        }
    }

    /// Sends an iq and waits for its answer, result or error.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub async fn iq(&mut self, type_: &str, to: Option<&str>, payload: &str) -> Result<Element> {
        self.ids += 1;
        let id = format!("q{}", self.ids);
        let to = to.map(|t| format!(" to='{}'", escape(t))).unwrap_or_default();
        self.send(&format!("<iq type='{type_}' id='{id}'{to}>{payload}</iq>")).await?;
        self.wait_for("the answer to an iq", |e| {
            e.name == "iq"
                && e.attr("id") == Some(&id)
                && matches!(e.attr("type"), Some("result" | "error"))
        })
        .await
    }

    /// Asks the server itself and waits: what it had to do before has been begun by then.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub async fn ping(&mut self) -> Result<()> {
        let domain = self.endpoint.domain.clone();
        self.iq("get", Some(&domain), "<ping xmlns='urn:xmpp:ping'/>").await.map(|_| ())
    }

    /// Turns stream management on (XEP-0198 §3), asking for resumption or not.
    ///
    /// # Errors
    /// When the server does not enable it.
    pub async fn enable_sm(&mut self, resume: bool) -> Result<()> {
        let resume = if resume { " resume='true'" } else { "" };
        self.send_raw(&format!("<enable xmlns='{SM}'{resume}/>")).await?;
        // The counting begins with <enabled/>: the reading task counts from there by itself.
        let answer =
            self.wait_for("<enabled/>", |e| e.ns == SM && e.name != "r" && e.name != "a").await?;
        if !answer.is("enabled", SM) {
            return Err(format!("stream management refused: {answer}"));
        }
        self.sm = Some(Sm::of(&answer));
        Ok(())
    }

    /// Can what was enabled be resumed?
    pub fn can_resume(&self) -> bool {
        self.sm.as_ref().is_some_and(|s| s.id.is_some())
    }

    /// Leaves the server's `<r/>` unanswered from now on, or answers again.
    pub fn answer_acks(&self, answer: bool) {
        self.answers_acks.store(answer, Ordering::Release);
    }

    /// Asks for an acknowledgement until all that was sent is acknowledged.
    ///
    /// # Errors
    /// When the server does not take responsibility in time.
    pub async fn wait_acked(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + patience();
        let mut told = self.counters.acked.subscribe();
        loop {
            let sm = self.sm.as_ref().ok_or("stream management is off")?;
            let (sent, acked) = (sm.sent, *told.borrow_and_update());
            if acked == sent {
                return Ok(());
            }
            if acked > sent {
                return Err(format!("the server acknowledged {acked} of {sent}"));
            }
            self.send_raw(&format!("<r xmlns='{SM}'/>")).await?;
            let pause = (tokio::time::Instant::now() + Duration::from_millis(500)).min(deadline);
            let _ = timeout_at(pause, told.changed()).await;
            if tokio::time::Instant::now() >= deadline {
                return Err(format!(
                    "{}: {} of {sent} acknowledged, no more",
                    self.name,
                    *told.borrow()
                ));
            }
        }
    }

    /// Connects anew and resumes the old stream (XEP-0198 §5); resends what was not acknowledged.
    ///
    /// # Errors
    /// When the server does not resume; the element it answered with is in the words.
    pub async fn resume(&mut self) -> Result<()> {
        let (mut stream, _) = self.authenticated().await?;
        self.cut().await;
        let counters = &self.counters;
        let sm = self.sm.as_mut().ok_or("stream management was never on")?;
        let id = sm.id.clone().ok_or("the server gave no id to resume with")?;
        let handled = counters.handled.load(Ordering::Acquire);
        stream
            .send(&format!("<resume xmlns='{SM}' previd='{}' h='{handled}'/>", escape(&id)))
            .await?;
        let answer = stream.element().await?;
        if !answer.is("resumed", SM) {
            return Err(format!("not resumed: {answer}"));
        }
        let h: u32 =
            answer.attr("h").and_then(|h| h.parse().ok()).ok_or(format!("no h in {answer}"))?;
        let before = counters.acked.send_replace(h);
        if h > sm.sent || h < before {
            return Err(format!(
                "resumed with h={h}, sent {}, acknowledged before {before}",
                sm.sent
            ));
        }
        while sm.unacked.front().is_some_and(|(n, _)| *n <= h) {
            sm.unacked.pop_front();
        }
        let again: Vec<String> = sm.unacked.iter().map(|(_, s)| s.clone()).collect();
        self.run(stream);
        for stanza in again {
            self.send_raw(&stanza).await?;
        }
        Ok(())
    }

    /// Ends the stream as RFC 6120 §4.4 has it and waits for the server to end its own.
    ///
    /// # Errors
    /// When the server does not close in time.
    pub async fn disconnect(&mut self) -> Result<()> {
        if self.is_connected() {
            self.send_raw("</stream:stream>").await?;
        }
        self.sm = None;
        self.wait_end().await?;
        self.session = None;
        Ok(())
    }

    /// Waits until the server has ended the stream; elements before that stay to be received.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_end(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + patience();
        loop {
            if self.ended.is_some() {
                return Ok(());
            }
            match self.fresh(deadline).await {
                Ok(element) => self.waiting.push_back(element),
                Err(_) if self.ended.is_some() => return Ok(()),
                Err(e) => return Err(format!("{e} (waiting for the end of the stream)")),
            }
        }
    }

    /// Did the server end the stream with its end tag?
    pub fn ended_cleanly(&self) -> bool {
        self.ended.as_ref().is_some_and(|(cleanly, _)| *cleanly)
    }

    /// Drops the connection in the middle of whatever it was doing: no end tag, no TLS close. What had arrived and was
    /// counted stays to be received.
    pub async fn cut(&mut self) {
        if let Some(mut session) = self.session.take() {
            self.transcript.note(format!("{} cuts the connection", self.name));
            session.reading.abort();
            let _ = (&mut session.reading).await;
            while let Ok(incoming) = session.incoming.try_recv() {
                if let Incoming::Element(element) = incoming {
                    self.waiting.push_back(element);
                }
            }
        }
        self.ended = None;
    }

    /// All that has come and was not asked for yet, without waiting.
    pub fn drain(&mut self) -> Vec<Element> {
        if let Some(session) = &mut self.session {
            while let Ok(incoming) = session.incoming.try_recv() {
                match incoming {
                    Incoming::Element(element) => self.waiting.push_back(element),
                    Incoming::Ended { cleanly, why } => self.ended = Some((cleanly, why)),
                }
            }
        }
        self.waiting.drain(..).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.reading.abort();
        }
    }
}
