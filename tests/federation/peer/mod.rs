//! A server that others wrote, which federates: one process on loopback, in a directory of its own, stopped by its process id.
//!
//! What each is told is in [`prosody`] and [`ejabberd`]. They ask the tests' own name server; each has a domain, rooms below it, in-band registration.
//! With a certificate of the tests' authority, which it trusts, it speaks SASL EXTERNAL (XEP-0178); with one that it signed itself, and trust in nobody,
//! dialback inside TLS (XEP-0220). No name is written into a file of the machine: targets of SRV records are `localhost`.

mod ejabberd;
mod prosody;

use crate::authority::{Authority, Kind, Name, Paper};
use crate::site::Site;
use pangaea_tests::client::{Endpoint, Result, Security, patience, trust};
use pangaea_tests::dns::Dns;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

pub(crate) use pangaea_tests::reference::Which;

/// How it shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A certificate that all trust: SASL EXTERNAL.
    External,
    /// One that it signed itself: dialback.
    Dialback,
}

impl Proof {
    pub(crate) const ALL: [Self; 2] = [Self::External, Self::Dialback];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Dialback => "dialback",
        }
    }
}

/// What a configuration is written from.
struct Lot<'a> {
    at: &'a Path,
    domain: &'a str,
    proof: Proof,
    dns: u16,
    c2s: u16,
    s2s: u16,
}

/// A running one.
pub(crate) struct Peer {
    pub(crate) which: Which,
    pub(crate) proof: Proof,
    pub(crate) domain: String,
    pub(crate) s2s: u16,
    c2s: u16,
    dns: u16,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

/// Ports that are free at this moment, and not among those from which connections go out: they must be free again after a restart.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut random = [0u8; 2];
    for _ in 0..1000 {
        if held.len() == N {
            break;
        }
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        let port = 28_500 + u16::from_le_bytes(random) % 4000;
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
    }
    let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
    ports.try_into().map_err(|_| "no free ports".into())
}

impl Peer {
    /// Starts one, and tells the name server where it is.
    pub(crate) async fn start(
        which: Which,
        proof: Proof,
        authority: &Authority,
        dns: &Dns,
    ) -> Result<Self> {
        let below = if proof == Proof::External { "lab" } else { "alone.lab" };
        let domain = format!("{}.{below}", which.name());
        let dir = tempfile::Builder::new()
            .prefix("pangaea-peer-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        paper(authority, proof, &domain)?.write(dir.path(), "host")?;
        let trusted = match proof {
            Proof::External => authority.file.clone(),
            Proof::Dialback => dir.path().join("host.crt"),
        };
        std::fs::copy(trusted, dir.path().join("trusted.pem")).map_err(|e| e.to_string())?;
        std::fs::create_dir(dir.path().join("data")).map_err(|e| e.to_string())?;
        let [c2s, s2s] = free_ports()?;
        dns.serve(&domain, &[s2s]);
        dns.serve(&format!("rooms.{domain}"), &[s2s]);
        let mut peer = Self { which, proof, domain, s2s, c2s, dns: dns.port(), dir, child: None };
        peer.launch().await?;
        Ok(peer)
    }

    /// Starts it again on what was there.
    pub(crate) async fn launch(&mut self) -> Result<()> {
        let lot = Lot {
            at: self.dir.path(),
            domain: &self.domain,
            proof: self.proof,
            dns: self.dns,
            c2s: self.c2s,
            s2s: self.s2s,
        };
        let mut command = match self.which {
            Which::Prosody => prosody::command(&lot),
            Which::Ejabberd => ejabberd::command(&lot),
        }
        .map_err(|e| e.to_string())?;
        self.child = Some(spawn(&mut command, lot.at, self.which.name())?);
        // Erlang's takes a dozen seconds of both cores where nothing else runs.
        let deadline = Instant::now() + patience() * 12;
        for port in [self.c2s, self.s2s] {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                let child = self.child.as_mut().expect("it was just started");
                let ended = child.try_wait().map_err(|e| e.to_string())?;
                if let Some(status) = ended {
                    return Err(format!("{} has ended: {status}\n{}", self.domain, self.log()));
                }
                if Instant::now() > deadline {
                    return Err(format!("{} does not listen\n{}", self.domain, self.log()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Ends it as its operator would, and waits for that.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id().ok_or("it has ended already")?.to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status().await;
        let ended = tokio::time::timeout(patience() * 2, child.wait()).await;
        ended.map_err(|_| format!("{} does not end", self.domain))?.map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Its people, and the way to it.
    pub(crate) fn site(&self) -> Result<Site> {
        let security = Security::StartTls(trust(&self.trusted(), false)?);
        let way = Endpoint { domain: self.domain.clone(), port: self.c2s, security };
        let rooms = Some(format!("rooms.{}", self.domain));
        let mut site = Site::new(&self.domain, rooms, vec![way], true);
        if self.which == Which::Prosody {
            site.log = Some(self.dir.path().join("server.log"));
        }
        Ok(site)
    }

    fn trusted(&self) -> PathBuf {
        self.dir.path().join("trusted.pem")
    }

    /// The end of what it said.
    pub(crate) fn log(&self) -> String {
        let read = |name| {
            std::fs::read(self.dir.path().join(name))
                .map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let text = ["output.log", "server.log"].map(|n| read(n).unwrap_or_default()).concat();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// It has shown, and was shown, who each is in the way that it was made for. (More domains on a stream that a certificate has proved may come by
    /// dialback: XEP-0344.)
    pub(crate) async fn has_proved(&self) -> Result<()> {
        let (external, dialback) = match self.which {
            Which::Prosody => {
                ("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'", "dialback key on outgoing")
            }
            Which::Ejabberd => (" s2s EXTERNAL authentication", " s2s dialback authentication"),
        };
        // ejabberd writes its log when it finds the time.
        let deadline = Instant::now() + patience();
        loop {
            let text = std::fs::read(self.dir.path().join("server.log")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let said = |word: &str| {
                let mut lines = text.lines().filter(|l| l.contains("s2s") && l.contains(word));
                lines.any(|line| !line.contains("Failed"))
            };
            match self.proof {
                Proof::External if said(external) => return Ok(()),
                Proof::Dialback if said(external) => {
                    return Err(format!("{}: EXTERNAL was content", self.domain));
                }
                Proof::Dialback if said(dialback) => return Ok(()),
                _ if Instant::now() > deadline => {
                    return Err(format!("{}: nothing was proved so", self.domain));
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends it; with `PANGAEA_TEST_KEEP` its directory stays, for who wants to read the logs.
    pub(crate) fn finish(mut self) {
        if std::env::var_os("PANGAEA_TEST_KEEP").is_some() {
            self.child = None;
            println!("kept, {}: {}", self.domain, self.dir.keep().display());
        }
    }
}

fn spawn(command: &mut Command, at: &Path, name: &str) -> Result<Child> {
    let log = std::fs::File::create(at.join("output.log")).map_err(|e| e.to_string())?;
    command
        .current_dir(at)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{name}: {e}"))
}

fn paper(authority: &Authority, proof: Proof, domain: &str) -> Result<Paper> {
    match proof {
        Proof::External => authority.for_domain(domain),
        Proof::Dialback => {
            let rooms = format!("rooms.{domain}");
            authority.issue(Kind::SelfSigned, domain, &[Name::Dns(domain), Name::Dns(&rooms)])
        }
    }
}
