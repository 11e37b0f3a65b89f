//! A whole platform of real processes: `pangaea quickstart` in a directory of its own, on ports of its own.
//!
//! Called by the test binaries. Knows the contract of quickstart (ports, accounts, steering over HTTP) and nothing of the
//! inside. The binary is `$PANGAEA_BIN`, or stands where cargo puts it. Dropped, it stops everything it started, by process id.

use crate::client::{Client, Endpoint, Result, Security, patience, trust};
use crate::http;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TCP, STARTTLS.
    StartTls,
    /// TLS from the first byte.
    DirectTls,
}

/// What quickstart is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of the regions, in order.
    pub regions: Vec<String>,
    /// One-way delay between regions.
    pub wan: String,
    /// The global domain.
    pub domain: String,
    /// How many `userN` there are.
    pub users: u32,
    /// The server with the regions' databases; without one they are files.
    pub database: Option<String>,
    /// Nodes of each region.
    pub nodes: u16,
    /// The Redis with the regions' registries.
    pub redis: Option<String>,
    /// The port on loopback of the name server that is asked for other domains; without one, the system's.
    pub dns: Option<u16>,
    /// The authority, certificate and key, that signs for it and that it trusts; without one, its own.
    pub ca: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            regions: ["eu", "us", "ap"].map(Into::into).into(),
            wan: "0ms".into(),
            domain: "pangaea.localhost".into(),
            users: 100,
            database: None,
            nodes: 1,
            redis: None,
            dns: None,
            ca: None,
        }
    }
}

/// A running platform.
pub struct Platform {
    /// What was asked for.
    pub plan: Plan,
    /// The base of all ports.
    pub base: u16,
    /// Where certificates, logs and data are.
    pub dir: PathBuf,
    kept: Option<tempfile::TempDir>,
    child: Child,
    output: Arc<Mutex<VecDeque<String>>>,
}

/// Where the server's binary is.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PANGAEA_BIN") {
        return Ok(path.into());
    }
    // A test binary stands in TARGET/PROFILE/deps, the server in TARGET/PROFILE.
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let path = here.ancestors().nth(2).ok_or("the test binary stands nowhere")?.join("pangaea");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is not there: build it, or run tests/run", path.display()))
    }
}

const OFFSETS: [u16; 5] = [222, 223, 269, 347, 280];

/// A base whose ports are all free at this moment.
fn free_base(regions: usize, nodes: u16) -> Result<u16> {
    let mut random = [0u8; 2];
    for _ in 0..200 {
        getrandom::fill(&mut random).map_err(|e| e.to_string())?;
        // Below the range from which the kernel takes ports for outgoing connections.
        let base = 10_000 + (u16::from_le_bytes(random) % 180) * 100;
        if (0..usize::from(nodes)).all(|node| Platform::is_free(base + 10 * node as u16, regions)) {
            return Ok(base);
        }
    }
    Err("no free ports".into())
}

fn port_of(base: u16, region: usize, node: usize, offset: u16) -> u16 {
    base + 1000 * u16::try_from(region).expect("few regions")
        + 10 * u16::try_from(node).expect("few nodes")
        + offset
}

/// `eu-1`: its region, and its number there.
fn parts_of(node: &str) -> Result<(&str, usize)> {
    let (region, number) = node.rsplit_once('-').ok_or("a node is called eu-0")?;
    Ok((region, number.parse().map_err(|_| "a node is called eu-0")?))
}

impl Platform {
    /// Starts a platform in a fresh directory and waits for `ready`.
    ///
    /// # Errors
    /// When it does not get ready; its logs are in the words.
    pub async fn start(plan: Plan) -> Result<Self> {
        let base = free_base(plan.regions.len(), plan.nodes)?;
        Self::start_at(plan, base).await
    }

    /// Are all ports of a base free at this moment?
    pub fn is_free(base: u16, regions: usize) -> bool {
        let ports =
            (0..regions).flat_map(|i| OFFSETS.map(|o| port_of(base, i, 0, o))).chain([base + 900]);
        ports.into_iter().all(|p| std::net::TcpListener::bind(("127.0.0.1", p)).is_ok())
    }

    /// As [`Self::start`], at a port base of one's own choice.
    ///
    /// # Errors
    /// When it does not get ready; its logs are in the words.
    pub async fn start_at(plan: Plan, base: u16) -> Result<Self> {
        let kept = tempfile::Builder::new()
            .prefix("pangaea-tests-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        let dir = kept.path().to_owned();
        Self::launch(plan, base, dir, Some(kept)).await
    }

    /// As [`Self::start`], in a directory that somebody else keeps.
    ///
    /// # Errors
    /// When it does not get ready; its logs are in the words.
    pub async fn start_in(plan: Plan, dir: &Path) -> Result<Self> {
        let base = free_base(plan.regions.len(), plan.nodes)?;
        Self::launch(plan, base, dir.to_owned(), None).await
    }

    async fn launch(
        plan: Plan,
        base: u16,
        dir: PathBuf,
        kept: Option<tempfile::TempDir>,
    ) -> Result<Self> {
        let mut child = Command::new(binary()?)
            .arg("quickstart")
            .args(["--regions", &plan.regions.join(",")])
            .args(["--port-base", &base.to_string()])
            .args(["--domain", &plan.domain])
            .args(["--wan", &plan.wan])
            .args(["--users", &plan.users.to_string()])
            .args(plan.database.iter().flat_map(|url| ["--database", url]))
            .args(["--nodes", &plan.nodes.to_string()])
            .args(plan.redis.iter().flat_map(|url| ["--redis", url]))
            .args(plan.dns.iter().flat_map(|port| ["--dns".into(), format!("127.0.0.1:{port}")]))
            .args(plan.ca.iter().flat_map(|file| ["--ca".as_ref(), file.as_os_str()]))
            .arg("--dir")
            .arg(&dir)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("quickstart: {e}"))?;
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let (told, mut ready) = tokio::sync::watch::channel(false);
        let told = Arc::new(told);
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        tokio::spawn(collect(stdout, output.clone(), Some(told)));
        tokio::spawn(collect(stderr, output.clone(), None));
        let mut platform = Self { plan, base, dir, kept, child, output };
        let limit = Duration::from_secs(60);
        let waited = tokio::select! {
            got = tokio::time::timeout(limit, ready.wait_for(|r| *r)) => match got {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err("quickstart closed its output before it was ready".to_owned()),
                Err(_) => Err(format!("quickstart is not ready after {} s", limit.as_secs())),
            },
            status = platform.child.wait() => Err(format!("quickstart ended: {status:?}")),
        };
        match waited {
            Ok(()) => Ok(platform),
            Err(e) => Err(format!("{e}\n{}", platform.logs())),
        }
    }

    /// Stops everything as an operator would (SIGTERM) and starts it again on the same directory and ports.
    ///
    /// # Errors
    /// When it does not end, or does not get ready again.
    pub async fn start_again(mut self) -> Result<Self> {
        self.stop().await?;
        let (plan, base, dir) = (self.plan.clone(), self.base, self.dir.clone());
        let kept = self.kept.take();
        drop(self);
        Self::launch(plan, base, dir, kept).await
    }

    /// Sends SIGTERM and waits until quickstart and all its nodes are gone.
    ///
    /// # Errors
    /// When something is still alive after the usual patience.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        signal("TERM", pid);
        let ended = tokio::time::timeout(patience() * 2, self.child.wait()).await;
        ended.map_err(|_| "quickstart does not end on SIGTERM")?.map_err(|e| e.to_string())?;
        let alive = self.node_pids();
        if alive.is_empty() {
            Ok(())
        } else {
            Err(format!("quickstart ended, nodes {alive:?} did not"))
        }
    }

    /// The number of a region.
    ///
    /// # Panics
    /// When there is no such region.
    pub fn region(&self, name: &str) -> usize {
        self.plan
            .regions
            .iter()
            .position(|r| r == name)
            .unwrap_or_else(|| panic!("no region {name}"))
    }

    /// The port of a service of node 0 of a region, by the contract's formula.
    pub fn port(&self, region: usize, offset: u16) -> u16 {
        port_of(self.base, region, 0, offset)
    }

    /// The port of a service of any node of a region.
    pub fn port_of(&self, region: usize, node: usize, offset: u16) -> u16 {
        port_of(self.base, region, node, offset)
    }

    /// Where clients of a region connect.
    ///
    /// # Errors
    /// When the test authority's certificate cannot be read.
    pub fn endpoint(&self, region: usize, door: Door) -> Result<Endpoint> {
        let ca = self.dir.join("ca.pem");
        let (offset, security) = match door {
            Door::StartTls => (222, Security::StartTls(trust(&ca, false)?)),
            Door::DirectTls => (223, Security::Direct(trust(&ca, true)?)),
        };
        Ok(Endpoint { domain: self.plan.domain.clone(), port: self.port(region, offset), security })
    }

    /// Where clients of any node connect, with STARTTLS.
    ///
    /// # Errors
    /// When the test authority's certificate cannot be read, or there is no such node.
    pub fn endpoint_of(&self, node: &str) -> Result<Endpoint> {
        let (region, _) = parts_of(node)?;
        let port = self.port_at(node, 222)?;
        Ok(Endpoint { port, ..self.endpoint(self.region(region), Door::StartTls)? })
    }

    /// The port of a service of any node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn port_at(&self, node: &str, offset: u16) -> Result<u16> {
        let (region, number) = parts_of(node)?;
        Ok(self.port_of(self.region(region), number, offset))
    }

    /// A client for one of the accounts that quickstart makes.
    ///
    /// # Errors
    /// When the test authority's certificate cannot be read.
    pub fn user(&self, number: u32, region: usize, resource: &str) -> Result<Client> {
        let (user, password) = (format!("user{number}"), format!("pw{number}"));
        let name = format!("{user}/{resource}");
        Ok(Client::new(
            &name,
            self.endpoint(region, Door::StartTls)?,
            &user,
            &password,
            Some(resource),
        ))
    }

    /// As [`Self::user`], at any node of a region.
    ///
    /// # Errors
    /// When the test authority's certificate cannot be read.
    pub fn user_at(&self, number: u32, at: (usize, usize), resource: &str) -> Result<Client> {
        let (user, password) = (format!("user{number}"), format!("pw{number}"));
        let port = self.port_of(at.0, at.1, 222);
        let endpoint = Endpoint { port, ..self.endpoint(at.0, Door::StartTls)? };
        let name = format!("{user}/{resource}");
        Ok(Client::new(&name, endpoint, &user, &password, Some(resource)))
    }

    async fn steer(&self, method: Method, path: &str, body: Option<Value>) -> Result<String> {
        let (status, text) =
            http::request(self.base + 900, method, path, body.map(|b| b.to_string())).await?;
        if (200..300).contains(&status) {
            Ok(text)
        } else {
            Err(format!("{path}: {status} {text}"))
        }
    }

    /// Sets one direction of the WAN, e.g. `{"delay_ms":80}`.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn wan(&self, from: &str, to: &str, how: Value) -> Result<()> {
        self.steer(Method::PUT, &format!("/wan/{from}/{to}"), Some(how)).await.map(|_| ())
    }

    /// Cuts or heals both directions between two regions.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn cut(&self, a: &str, b: &str, cut: bool) -> Result<()> {
        self.wan(a, b, json!({"cut": cut})).await?;
        self.wan(b, a, json!({"cut": cut})).await
    }

    /// Closes the connections that run from one region to another.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn reset(&self, from: &str, to: &str) -> Result<()> {
        self.steer(Method::POST, &format!("/wan/{from}/{to}/reset"), None).await.map(|_| ())
    }

    /// All settings of the WAN.
    ///
    /// # Errors
    /// When the emulator does not answer in JSON.
    pub async fn wan_shown(&self) -> Result<Value> {
        serde_json::from_str(&self.steer(Method::GET, "/wan", None).await?)
            .map_err(|e| e.to_string())
    }

    /// kill -9.
    ///
    /// # Errors
    /// When quickstart refuses.
    pub async fn kill(&self, node: &str) -> Result<()> {
        self.steer(Method::POST, &format!("/nodes/{node}/kill"), None).await.map(|_| ())
    }

    /// Sends SIGTERM to one node and waits until its process has ended.
    ///
    /// # Errors
    /// When there is no such process, or it does not end in time.
    pub async fn stop_node(&self, node: &str) -> Result<()> {
        let path = self.dir.join(format!("{node}.pid"));
        let pid = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let pid: u32 = pid.trim().parse().map_err(|_| format!("{node} has no pid"))?;
        signal("TERM", pid);
        let deadline = Instant::now() + patience() * 2;
        // Quickstart removes the file when it has seen the end.
        while runs_in(pid, &self.dir) || path.exists() {
            if Instant::now() > deadline {
                return Err(format!("{node} does not end on SIGTERM"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Starts a killed node again and waits until it says it is ready.
    ///
    /// # Errors
    /// When quickstart refuses or the node does not get ready.
    pub async fn start_node(&self, node: &str) -> Result<()> {
        self.launch_node(node).await?;
        self.wait_ready(node, |status, _| status == 200).await
    }

    /// Starts a killed node again and waits for nothing.
    ///
    /// # Errors
    /// When quickstart refuses.
    pub async fn launch_node(&self, node: &str) -> Result<()> {
        self.steer(Method::POST, &format!("/nodes/{node}/start"), None).await.map(|_| ())
    }

    /// Waits until what a node answers on `/ready`, its status and its reasons, fits.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn wait_ready(&self, node: &str, fits: impl Fn(u16, &str) -> bool) -> Result<()> {
        let (region, index) = node.rsplit_once('-').ok_or("a node is called eu-0")?;
        let index = index.parse().map_err(|_| "a node is called eu-0")?;
        let port = self.port_of(self.region(region), index, 280);
        let deadline = Instant::now() + patience() * 3;
        loop {
            match http::request(port, Method::GET, "/ready", None).await {
                Ok((status, reasons)) if fits(status, &reasons) => return Ok(()),
                other if Instant::now() > deadline => {
                    return Err(format!("{node} is not ready: {other:?}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The sum of one of a region's numbers over the lines that carry a label, as in `way="offline"`.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn metric(&self, region: usize, name: &str, label: &str) -> Result<f64> {
        sum(self.port(region, 280), name, label).await
    }

    /// Waits until one of these sums is at least so much: a node looks at most of its numbers once a second.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_metric(
        &self,
        region: usize,
        name: &str,
        label: &str,
        least: f64,
    ) -> Result<()> {
        wait_sum(self.port(region, 280), name, label, least).await
    }

    /// As [`Self::wait_metric`], of any node.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn wait_metric_of(
        &self,
        node: &str,
        name: &str,
        label: &str,
        least: f64,
    ) -> Result<()> {
        wait_sum(self.port_at(node, 280)?, name, label, least).await
    }

    /// The number of the node that writes a region's database.
    ///
    /// # Errors
    /// When nobody does in time.
    pub async fn scribe(&self, region: usize) -> Result<usize> {
        let deadline = Instant::now() + patience();
        loop {
            for node in 0..usize::from(self.plan.nodes) {
                let port = self.port_of(region, node, 280);
                let asked = http::request(port, Method::GET, "/metrics", None).await;
                let Ok((_, text)) = asked else { continue };
                let mut lines = text.lines();
                if lines.any(|line| line.starts_with("pangaea_scribe{") && line.ends_with(" 1")) {
                    return Ok(node);
                }
            }
            if Instant::now() > deadline {
                return Err("nobody writes the database".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What an operator asks of a node with `pangaea ctl`, and the answer as JSON.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn ctl(&self, node: &str, words: &[&str]) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(["ctl", "--json"])
            .args(words)
            .env("PANGAEA_URL", format!("http://127.0.0.1:{}", self.port_at(node, 280)?))
            .env("PANGAEA_USER", format!("admin@{}", self.plan.domain))
            .env("PANGAEA_PASSWORD", "wonderland")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
    }

    /// The end of quickstart's output and of every node's log.
    pub fn logs(&self) -> String {
        let mut text = String::from("--- quickstart said:\n");
        for line in self.output.lock().expect("no one panics while holding a line").iter() {
            text.push_str(&format!("{line}\n"));
        }
        for path in self.files("log") {
            let content = std::fs::read(&path).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            text.push_str(&format!("--- {}:\n", path.file_name().unwrap_or_default().display()));
            for line in &lines[lines.len().saturating_sub(40)..] {
                text.push_str(&format!("{line}\n"));
            }
        }
        text
    }

    /// Lines of the nodes' logs that speak of a panic: a bug, whatever else passes.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for path in self.files("log") {
            let content = std::fs::read(&path).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().display().to_string();
            let content = String::from_utf8_lossy(&content).into_owned();
            let said = content.lines().filter(|l| l.contains("panicked at"));
            found.extend(said.map(|l| format!("{name}: {l}")));
        }
        found
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|x| x == extension))
            .collect();
        files.sort();
        files
    }

    /// Nodes of this platform that are alive: their pid file names a process that was started on this directory.
    fn node_pids(&self) -> Vec<u32> {
        self.files("pid")
            .iter()
            .filter_map(|p| std::fs::read_to_string(p).ok()?.trim().parse().ok())
            .filter(|pid| runs_in(*pid, &self.dir))
            .collect()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            signal("TERM", pid);
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.start_kill();
        }
        for pid in self.node_pids() {
            signal("KILL", pid);
        }
        if std::env::var_os("PANGAEA_TEST_KEEP").is_some()
            && let Some(kept) = self.kept.take()
        {
            println!("kept: {}", kept.keep().display());
        }
    }
}

async fn sum(port: u16, name: &str, label: &str) -> Result<f64> {
    let (_, text) = http::request(port, Method::GET, "/metrics", None).await?;
    let lines = text.lines().filter(|l| l.starts_with(&format!("{name}{{")) && l.contains(label));
    Ok(lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

async fn wait_sum(port: u16, name: &str, label: &str, least: f64) -> Result<()> {
    let deadline = Instant::now() + patience();
    loop {
        match sum(port, name, label).await? {
            enough if enough >= least => return Ok(()),
            less if Instant::now() > deadline => {
                return Err(format!("{name} {label} is {less}, not {least}"));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn signal(name: &str, pid: u32) {
    let _ =
        std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

fn runs_in(pid: u32, dir: &Path) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*dir.to_string_lossy())
}

async fn collect(
    from: impl tokio::io::AsyncRead + Unpin,
    output: Arc<Mutex<VecDeque<String>>>,
    ready: Option<Arc<tokio::sync::watch::Sender<bool>>>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "ready"
            && let Some(ready) = &ready
        {
            ready.send_replace(true);
        }
        let mut output = output.lock().expect("no one panics while holding a line");
        if output.len() == 200 {
            output.pop_front();
        }
        output.push_back(line);
    }
}
