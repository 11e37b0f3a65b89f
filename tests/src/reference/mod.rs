//! A mature server in the platform's place: a scenario that it fails is a scenario that is wrong, or says why.
//!
//! Called by the test binaries with `PANGAEA_TEST_AGAINST=prosody` or `=ejabberd`. Needs Debian's package of that name
//! (and `prosody-modules`), and `openssl`. One process on loopback, in a directory of its own, stopped by its process id.
//! What a server is told is in [`prosody`] and [`ejabberd`]. Deliberately absent: regions.

mod ejabberd;
mod prosody;

pub use ejabberd::libraries as ejabberd_libraries;

use crate::client::{Client, Endpoint, Result, Security, patience, trust};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Child;

/// A server that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// <https://prosody.im>, in Lua.
    Prosody,
    /// <https://www.ejabberd.im>, in Erlang.
    Ejabberd,
}

impl Which {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Prosody, Self::Ejabberd];

    /// The one that `PANGAEA_TEST_AGAINST` names, if it names one.
    ///
    /// # Errors
    /// When it names something else.
    pub fn wanted() -> Result<Option<Self>> {
        let Ok(name) = std::env::var("PANGAEA_TEST_AGAINST") else { return Ok(None) };
        let found = Self::ALL.into_iter().find(|which| which.name() == name);
        found.map(Some).ok_or(format!("PANGAEA_TEST_AGAINST={name}: nobody knows that server"))
    }

    /// What it pushes besides, by namespace: passed over for whoever is to receive no such push.
    pub fn habits(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Prosody => &[],
            Self::Ejabberd => &ejabberd::HABITS,
        }
    }

    /// What it is called: as a package, and in the plays.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prosody => "prosody",
            Self::Ejabberd => "ejabberd",
        }
    }
}

/// A running server of others.
pub struct Reference {
    which: Which,
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

const DOMAIN: &str = "pangaea.localhost";

/// What a configuration is written from.
struct Site<'a> {
    at: &'a Path,
    c2s: u16,
    http: u16,
    socks: u16,
}

impl Reference {
    /// Writes a configuration and certificates, starts, waits until the port answers, makes the administrator.
    ///
    /// # Errors
    /// When a tool is missing or the server does not come up.
    pub async fn start(which: Which) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pangaea-reference-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        let at = dir.path();
        certificates(at)?;
        let [c2s, http, socks] = free_ports()?;
        let site = Site { at, c2s, http, socks };
        let mut command = match which {
            Which::Prosody => prosody::command(&site),
            Which::Ejabberd => ejabberd::command(&site),
        }
        .map_err(|e| e.to_string())?;
        let log = std::fs::File::create(at.join("output.log")).map_err(|e| e.to_string())?;
        let mut child = command
            .current_dir(at)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{}: {e}", which.name()))?;
        let deadline = Instant::now() + patience() * 3;
        while tokio::net::TcpStream::connect(("127.0.0.1", c2s)).await.is_err() {
            let ended = child.try_wait().map_err(|e| e.to_string())?;
            if Instant::now() > deadline || ended.is_some() {
                return Err(format!("{} does not listen\n{}", which.name(), logs(at)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let reference = Self { which, dir, port: c2s, child };
        // What quickstart makes, too.
        Client::new("operator", reference.endpoint()?, "admin", "wonderland", None)
            .register()
            .await
            .map_err(|e| format!("{e}\n{}", logs(reference.dir.path())))?;
        Ok(reference)
    }

    /// Which server it is.
    pub fn which(&self) -> Which {
        self.which
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let security = Security::StartTls(trust(&self.ca(), false)?);
        Ok(Endpoint { domain: DOMAIN.into(), port: self.port, security })
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Leaves the directory where it is, for who wants to read the logs (`PANGAEA_TEST_KEEP`).
    pub fn finish(mut self) {
        if std::env::var_os("PANGAEA_TEST_KEEP").is_some() {
            let _ = self.child.start_kill();
            println!("kept: {}", self.dir.keep().display());
        }
    }
}

/// An authority in `ca.pem`, and what it signed for the domain in `host.crt`, `host.key` and, both together, `host.pem`.
fn certificates(at: &Path) -> Result<()> {
    let script = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-authority \
           -keyout ca.key -out ca.pem 2>&1
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={DOMAIN} -keyout host.key -out host.csr 2>&1
         printf 'subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}\\nbasicConstraints=CA:FALSE\\n' > ext
         openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out host.crt 2>&1
         cat host.crt host.key > host.pem
         mkdir data"
    );
    let done = std::process::Command::new("sh").arg("-ec").arg(script).current_dir(at).output();
    let done = done.map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() { Ok(()) } else { Err(said) }
}

/// Ports that are free at this moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // Held until all are found, so that they differ.
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        *port = listener.local_addr().map_err(|e| e.to_string())?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn logs(at: &Path) -> String {
    ["output.log", "server.log"]
        .map(|name| std::fs::read_to_string(at.join(name)).unwrap_or_default())
        .concat()
}
