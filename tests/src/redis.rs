//! A Redis of one's own, as Debian packs it: on a free port of loopback, in a directory of its own; with TLS and a password, as a replica of another,
//! or as a sentinel, which is the same program.
//!
//! Called by the `redis` tests. No service of the system is started or touched. It can be killed, started again empty, paused; dropped, it is
//! stopped, by the id of its process.

use crate::client::{Result, patience};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The password of those that want one.
pub const PASSWORD: &str = "secret";

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but Redis.
    Plain,
    /// TLS alone, with a certificate of an authority of its own, and a password.
    Tls,
    /// A cluster of one.
    Cluster,
    /// A replica of the one on that port.
    ReplicaOf(u16),
    /// Looks after the one on that port, which it calls `master`: alone it decides, within a second or two.
    SentinelOf(u16),
}

/// A running one.
pub struct Redis {
    kind: Kind,
    port: u16,
    dir: tempfile::TempDir,
    child: Child,
}

impl Redis {
    /// Makes it and starts it.
    ///
    /// # Errors
    /// When the program is missing, or does not come up.
    pub async fn start(kind: Kind) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pangaea-redis-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        if kind == Kind::Tls {
            make_certificate(dir.path())?;
        }
        let port = free_port()?;
        let child = spawn(kind, dir.path(), port)?;
        let mut redis = Self { kind, port, dir, child };
        redis.wait().await?;
        if kind == Kind::Cluster {
            redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await?;
            let deadline = Instant::now() + patience();
            while !redis.cli(&["CLUSTER", "INFO"]).await?.contains(&"cluster_state:ok".to_owned()) {
                if Instant::now() > deadline {
                    return Err(format!("the cluster is not ready\n{}", redis.log()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(redis)
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How it is named in a configuration.
    pub fn url(&self) -> String {
        match self.kind {
            Kind::Tls => format!("rediss://:{PASSWORD}@127.0.0.1:{}", self.port),
            _ => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// The authority of its certificate.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`Self::kill`]: with nothing in it.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(self.kind, self.dir.path(), self.port)?;
        self.wait().await
    }

    /// It answers nothing any more, and closes nothing.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
    }

    /// What `redis-cli` says to a command, in lines.
    ///
    /// # Errors
    /// When it does not answer, or not well.
    pub async fn cli(&self, words: &[&str]) -> Result<Vec<String>> {
        let mut cli = tokio::process::Command::new("redis-cli");
        cli.args(["-e", "-p", &self.port.to_string()]).kill_on_drop(true);
        if self.kind == Kind::Tls {
            cli.args(["-a", PASSWORD, "--no-auth-warning", "--tls", "--cacert"]);
            cli.arg(self.authority());
        }
        let asked = cli.args(words).stdin(Stdio::null()).output();
        let said = tokio::time::timeout(patience(), asked).await;
        let said = said.map_err(|_| format!("redis-cli {words:?}: no answer"))?;
        let said = said.map_err(|e| format!("redis-cli: {e}"))?;
        let text = String::from_utf8_lossy(&said.stdout).replace('\r', "");
        if said.status.success() {
            return Ok(text.lines().map(str::to_owned).collect());
        }
        Err(format!("redis-cli {words:?}: {text}{}", String::from_utf8_lossy(&said.stderr)))
    }

    /// How often each command was carried out, those that scripts call too, without what this asks itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn calls(&self) -> Result<BTreeMap<String, u64>> {
        let mut calls = BTreeMap::new();
        for line in self.cli(&["INFO", "commandstats"]).await? {
            let Some((name, numbers)) =
                line.strip_prefix("cmdstat_").and_then(|l| l.split_once(':'))
            else {
                continue;
            };
            let count = numbers.split(',').next().and_then(|n| n.strip_prefix("calls="));
            let count = count.and_then(|n| n.parse().ok()).ok_or_else(|| line.clone())?;
            if !["info", "command", "command|docs", "auth"].contains(&name) {
                calls.insert(name.to_owned(), count);
            }
        }
        Ok(calls)
    }

    /// The full JIDs whose rows are there, by the sets of who wrote them.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn rows(&self, region: &str) -> Result<Vec<String>> {
        let lives = self.cli(&["HKEYS", &format!("{{pangaea:{region}}}:lives")]).await?;
        let mut rows = Vec::new();
        for life in lives.iter().filter(|life| !life.is_empty()) {
            let set = self.cli(&["SMEMBERS", &format!("{{pangaea:{region}}}:s:{life}")]).await?;
            rows.extend(set.into_iter().filter(|full| !full.is_empty()));
        }
        rows.sort();
        Ok(rows)
    }

    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + patience();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{:?} ended: {status}\n{}", self.kind, self.log()));
            }
            if self.cli(&["PING"]).await.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{:?} is not ready\n{}", self.kind, self.log()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it said in this life.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> Result<u16> {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    bound.map(|at| at.port()).map_err(|e| e.to_string())
}

fn make_certificate(at: &Path) -> Result<()> {
    let done = Command::new("sh")
        .current_dir(at)
        .arg("-ec")
        .arg(
            "key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
             openssl req -x509 $key -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem
             openssl req $key -subj /CN=redis -keyout host.key -out host.csr
             printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
             openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out host.pem",
        )
        .output()
        .map_err(|e| format!("openssl: {e}"))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(()) } else { Err(said) }
}

fn spawn(kind: Kind, at: &Path, port: u16) -> Result<Child> {
    let (port, own) = (port.to_string(), "127.0.0.1");
    let mut text = format!("bind {own}\nprotected-mode no\nsave \"\"\nappendonly no\n");
    match kind {
        Kind::Plain => text += &format!("port {port}\n"),
        Kind::Tls => {
            text += &format!(
                "port 0\ntls-port {port}\ntls-cert-file host.pem\ntls-key-file host.key\ntls-ca-cert-file ca.pem\n\
                 tls-auth-clients no\nrequirepass {PASSWORD}\n"
            );
        }
        Kind::Cluster => {
            text += &format!("port {port}\ncluster-enabled yes\ncluster-port {}\n", free_port()?);
        }
        Kind::ReplicaOf(master) => {
            text += &format!("port {port}\nreplicaof {own} {master}\nrepl-diskless-sync-delay 0\n");
        }
        Kind::SentinelOf(master) => {
            text = format!(
                "bind {own}\nprotected-mode no\nport {port}\nsentinel monitor master {own} {master} 1\n\
                 sentinel down-after-milliseconds master 1000\nsentinel failover-timeout master 3000\n"
            );
        }
    }
    let file = at.join("redis.conf");
    // A sentinel writes down there what it has found out.
    if !file.exists() {
        std::fs::write(&file, text).map_err(|e| e.to_string())?;
    }
    let log = std::fs::File::create(at.join("log")).map_err(|e| e.to_string())?;
    let both = log.try_clone().map_err(|e| e.to_string())?;
    let mut server = Command::new("redis-server");
    server.current_dir(at).arg(&file).stdin(Stdio::null()).stdout(log).stderr(both);
    if matches!(kind, Kind::SentinelOf(_)) {
        server.arg("--sentinel");
    }
    server.spawn().map_err(|e| format!("redis-server: {e}"))
}
