//! Where others come to the stranger: its domains' server, which does what its manners are and writes down what it was told.

use super::{DIALBACK, Heard, Line, SASL, SERVER, TLS, accepting, header, usual};
use crate::authority::Paper;
use pangaea_tests::client::Result;
use pangaea_tests::dns::Dns;
use pangaea_tests::xml::Element;
use rustls::pki_types::CertificateDer;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

const OFFERED: &str = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>";
const PATIENCE: Duration = Duration::from_secs(120);

/// What it answers when it is asked about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    Invalid,
    Error,
    /// For another stream than was asked about.
    Elsewhere,
    Silence,
}

/// What it does.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// Offers STARTTLS.
    pub(crate) starttls: bool,
    /// Sent in clear in one piece with `<proceed/>`.
    pub(crate) injects: &'static str,
    /// TLS from the first byte (XEP-0368).
    pub(crate) direct: bool,
    /// Says nothing at all.
    pub(crate) mute: bool,
    /// Closes when TLS stands.
    pub(crate) leaves_after_tls: bool,
    /// Offers EXTERNAL, and is content with it.
    pub(crate) external: bool,
    /// Is content with dialback; does not even look.
    pub(crate) dialback: bool,
    pub(crate) verdict: Verdict,
    /// Sent behind the features under TLS.
    pub(crate) adds: &'static str,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            starttls: true,
            injects: "",
            direct: false,
            mute: false,
            leaves_after_tls: false,
            external: true,
            dialback: true,
            verdict: Verdict::Valid,
            adds: "",
        }
    }
}

/// A stanza that came, and by whom.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) stanza: Element,
    /// The certificate of the node that brought it.
    pub(crate) from: Option<CertificateDer<'static>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// When somebody connected.
    connected: Vec<Instant>,
    /// What was heard in clear, or before anything was agreed on.
    unproved: Vec<String>,
}

struct Inside {
    manners: Manners,
    seen: Mutex<Seen>,
    tls: Arc<rustls::ServerConfig>,
    came: mpsc::UnboundedSender<Came>,
}

/// A running one.
pub(crate) struct Home {
    pub(crate) port: u16,
    inside: Arc<Inside>,
    came: tokio::sync::Mutex<mpsc::UnboundedReceiver<Came>>,
    task: JoinHandle<()>,
}

impl Home {
    /// Starts it, and tells the name server where these domains are.
    pub(crate) async fn start(
        dns: &Dns,
        domains: &[&str],
        paper: &Paper,
        manners: Manners,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        let (sender, came) = mpsc::unbounded_channel();
        let inside = Arc::new(Inside {
            manners,
            seen: Mutex::default(),
            tls: accepting(paper)?,
            came: sender,
        });
        for domain in domains {
            dns.serve(domain, &[port]);
        }
        let task = tokio::spawn(listen(listener, inside.clone()));
        Ok(Self { port, inside, came: came.into(), task })
    }

    /// When somebody connected, so far.
    pub(crate) fn connected(&self) -> Vec<Instant> {
        self.inside.seen.lock().expect("nobody panics with it").connected.clone()
    }

    /// What was heard where nothing should be said.
    pub(crate) fn unproved(&self) -> Vec<String> {
        self.inside.seen.lock().expect("nobody panics with it").unproved.clone()
    }

    /// The next stanza that comes.
    pub(crate) async fn next(&self, within: Duration) -> Result<Came> {
        let next = tokio::time::timeout(within, async { self.came.lock().await.recv().await });
        next.await.map_err(|_| "no stanza came")?.ok_or("nobody listens any more".into())
    }

    /// The next that has this id; others are forgotten.
    pub(crate) async fn wait_for(&self, id: &str, within: Duration) -> Result<Came> {
        let deadline = Instant::now() + within;
        loop {
            let came = self.next(deadline.saturating_duration_since(Instant::now())).await;
            let came = came.map_err(|e| format!("{e} (waiting for {id})"))?;
            if came.stanza.attr("id") == Some(id) {
                return Ok(came);
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, inside: Arc<Inside>) {
    // With the task its connections end.
    let mut lines = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let inside = inside.clone();
        inside.seen.lock().expect("nobody panics with it").connected.push(Instant::now());
        lines.spawn(async move {
            // How a connection ends is the other side's business.
            let _ = serve(tcp, &inside).await;
        });
        while lines.try_join_next().is_some() {}
    }
}

/// Opens its side of a stream, with these features.
async fn answer_header(line: &mut Line, features: &str) -> Result<(String, String)> {
    let open = match line.hear_within(PATIENCE).await? {
        Heard::Open(open) => open,
        other => return Err(format!("expected a stream header, heard {other:?}")),
    };
    let named = |name| open.attr(name).unwrap_or_default().to_owned();
    let (peer, me) = (named("from"), named("to"));
    let id = format!("stranger-{:?}", Instant::now()).replace([' ', '{', '}', ':', ','], "");
    let features = format!("<stream:features>{features}</stream:features>");
    line.send(header(&format!("{} id='{id}'", usual(&me, &peer))) + &features).await;
    Ok((me, peer))
}

async fn serve(tcp: TcpStream, inside: &Inside) -> Result<()> {
    let manners = inside.manners.clone();
    let mut line = Line::new(Box::new(tcp));
    if manners.mute {
        while !matches!(line.hear_within(PATIENCE).await?, Heard::End) {}
        return Ok(());
    }
    let note = |what: &Heard| {
        let mut seen = inside.seen.lock().expect("nobody panics with it");
        seen.unproved.push(format!("{what:?}"));
    };
    if manners.direct {
        return secured(line.accept(inside.tls.clone()).await?, inside).await;
    }
    if !manners.starttls {
        answer_header(&mut line, OFFERED).await?;
        loop {
            match line.hear_within(PATIENCE).await? {
                Heard::End => return Ok(()),
                what => note(&what),
            }
        }
    }
    answer_header(&mut line, &format!("<starttls xmlns='{TLS}'><required/></starttls>")).await?;
    loop {
        match line.hear_within(PATIENCE).await? {
            Heard::Element(element) if element.is("starttls", TLS) => break,
            Heard::End => return Ok(()),
            what => note(&what),
        }
    }
    line.send(format!("<proceed xmlns='{TLS}'/>{}", manners.injects)).await;
    secured(line.accept(inside.tls.clone()).await?, inside).await
}

/// The rest, inside TLS.
async fn secured(mut line: Line, inside: &Inside) -> Result<()> {
    let manners = &inside.manners;
    let note = |what: &Heard| {
        let mut seen = inside.seen.lock().expect("nobody panics with it");
        seen.unproved.push(format!("{what:?}"));
    };
    if manners.leaves_after_tls {
        return Ok(());
    }
    let mechanisms =
        format!("<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>");
    let offered = if manners.external { mechanisms } else { String::new() } + OFFERED;
    answer_header(&mut line, &offered).await?;
    line.send(manners.adds).await;
    let mut proved = false;
    loop {
        match line.hear_within(PATIENCE).await? {
            Heard::Element(element) if element.is("auth", SASL) && manners.external => {
                line.send(format!("<success xmlns='{SASL}'/>")).await;
                line.restart();
                answer_header(&mut line, "").await?;
                proved = true;
            }
            Heard::Element(element) if element.ns == DIALBACK => {
                proved |= dialed(&mut line, &element, manners).await;
            }
            Heard::Element(stanza) if stanza.ns == SERVER && proved => {
                let from = line.shown.clone();
                let _ = inside.came.send(Came { stanza, from });
            }
            Heard::End => return Ok(()),
            Heard::Close => line.send("</stream:stream>").await,
            what => note(&what),
        }
    }
}

/// What is said about dialback; whether the other side may send now.
async fn dialed(line: &mut Line, element: &Element, manners: &Manners) -> bool {
    let named = |name| element.attr(name).unwrap_or_default();
    let back = format!("from='{}' to='{}'", named("to"), named("from"));
    if element.name == "result" && element.attr("type").is_none() {
        if manners.dialback {
            line.send(format!("<db:result {back} type='valid'/>")).await;
        }
        return manners.dialback;
    }
    if element.name == "verify" && element.attr("type").is_none() {
        let id = named("id");
        match manners.verdict {
            Verdict::Valid => {
                line.send(format!("<db:verify {back} id='{id}' type='valid'/>")).await
            }
            Verdict::Invalid => {
                line.send(format!("<db:verify {back} id='{id}' type='invalid'/>")).await;
            }
            Verdict::Elsewhere => {
                line.send(format!("<db:verify {back} id='{id}x' type='valid'/>")).await;
            }
            Verdict::Error => {
                let error = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
                let answer =
                    format!("<db:verify {back} id='{id}' type='error'>{error}</db:verify>");
                line.send(answer).await;
            }
            Verdict::Silence => {}
        }
    }
    false
}
