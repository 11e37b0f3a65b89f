//! The node processes of quickstart: started, watched, killed, and stopped together.
//!
//! Each child is kept by one task. A child stops gracefully when its standard input ends, and so it does when this
//! process dies, however it dies. Deliberately absent: starting again by itself, which would hide crashes from tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, watch};

use super::plan::Plan;
use crate::admin::Refusal;
use crate::wan::control::{NodeSeen, Nodes};

/// How long the nodes may take to stop gracefully before they are killed.
const STOP_DEADLINE: Duration = Duration::from_secs(8);
/// Lines of a log that are shown when a node does not start.
const TAIL_LINES: usize = 12;

/// All children.
pub(super) struct Children {
    program: PathBuf,
    dir: PathBuf,
    names: Vec<String>,
    running: Arc<Mutex<BTreeMap<String, Running>>>,
    /// Whether an end that nobody asked for is told.
    announce: Arc<AtomicBool>,
}

struct Running {
    pid: u32,
    /// Dropped to stop the child gracefully.
    stdin: Option<ChildStdin>,
    kill: Arc<Notify>,
    ended: watch::Receiver<bool>,
}

impl Children {
    pub(super) fn new(dir: &Path, plan: &Plan) -> miette::Result<Children> {
        let program = std::env::current_exe()
            .map_err(|cause| miette::miette!("cannot find this program itself: {cause}"))?;
        Ok(Children {
            program,
            dir: dir.to_owned(),
            names: plan.nodes.iter().map(|node| node.name.clone()).collect(),
            running: Arc::default(),
            announce: Arc::default(),
        })
    }

    /// Starts one node that is not running.
    pub(super) async fn start(&self, node: &str) -> miette::Result<NodeSeen> {
        self.spawn(node).map_err(|refusal| miette::miette!("{}", refusal.message))
    }

    fn spawn(&self, node: &str) -> Result<NodeSeen, Refusal> {
        if !self.names.iter().any(|name| name == node) {
            return Err(self.unknown(node));
        }
        let mut running = self.running.lock();
        if running.contains_key(node) {
            return Err(Refusal::conflict(format!("{node} is running")));
        }
        let failed = |cause: std::io::Error| Refusal::failed(format!("{node}: {cause}"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_of(node))
            .map_err(failed)?;
        let mut child = Command::new(&self.program)
            .arg("run")
            .arg("--config")
            .arg(self.file(node, "toml"))
            .arg("--watch-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Ctrl-C is for this process, which then stops the children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        let pid_file = self.file(node, "pid");
        fs::write(&pid_file, format!("{pid}\n")).map_err(failed)?;
        let (ended, has_ended) = watch::channel(false);
        let kill = Arc::new(Notify::new());
        let stdin = child.stdin.take();
        running
            .insert(node.to_owned(), Running { pid, stdin, kill: kill.clone(), ended: has_ended });
        let keeper = Keeper {
            node: node.to_owned(),
            pid_file,
            running: self.running.clone(),
            announce: self.announce.clone(),
        };
        tokio::spawn(async move {
            let (status, asked) = until_end(child, &kill).await;
            keeper.has_ended(status, asked);
            let _ = ended.send(true);
        });
        Ok(NodeSeen { node: node.to_owned(), pid: Some(pid) })
    }

    async fn kill_now(&self, node: &str) -> Result<NodeSeen, Refusal> {
        if !self.names.iter().any(|name| name == node) {
            return Err(self.unknown(node));
        }
        let mut ended = {
            let running = self.running.lock();
            let Some(child) = running.get(node) else {
                return Err(Refusal::conflict(format!("{node} is not running")));
            };
            child.kill.notify_one();
            child.ended.clone()
        };
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(NodeSeen { node: node.to_owned(), pid: None })
    }

    fn unknown(&self, node: &str) -> Refusal {
        Refusal::not_found(format!("there is no node {node}, only {}", self.names.join(", ")))
    }

    /// From now on an end that nobody asked for is told on standard error.
    pub(super) fn announce_deaths(&self) {
        self.announce.store(true, Ordering::Relaxed);
    }

    /// A node that should be running and is not.
    pub(super) fn dead(&self) -> Option<String> {
        let running = self.running.lock();
        self.names.iter().find(|name| !running.contains_key(*name)).cloned()
    }

    /// Where a node's log is.
    pub(super) fn log_of(&self, node: &str) -> PathBuf {
        self.file(node, "log")
    }

    fn file(&self, node: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{node}.{extension}"))
    }

    /// The last lines of a node's log.
    pub(super) fn log_tail(&self, node: &str) -> String {
        let text = fs::read(self.log_of(node)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Stops every child: gracefully, and after the deadline by force.
    pub(super) async fn stop_all(&self) {
        self.announce.store(false, Ordering::Relaxed);
        let (kills, ends): (Vec<_>, Vec<_>) = self
            .running
            .lock()
            .values_mut()
            .map(|child| {
                child.stdin = None;
                (child.kill.clone(), child.ended.clone())
            })
            .unzip();
        let all_ended = |ends: Vec<watch::Receiver<bool>>| {
            join_all(ends.into_iter().map(|mut ended| async move {
                let _ = ended.wait_for(|ended| *ended).await;
            }))
        };
        if tokio::time::timeout(STOP_DEADLINE, all_ended(ends.clone())).await.is_err() {
            eprintln!("pangaea: nodes did not stop within {STOP_DEADLINE:?}: killed");
            kills.iter().for_each(|kill| kill.notify_one());
            all_ended(ends).await;
        }
    }
}

/// Waits for the end of a child, or brings it about. Whether it was asked for.
async fn until_end(mut child: Child, kill: &Notify) -> (Option<ExitStatus>, bool) {
    tokio::select! {
        status = child.wait() => (status.ok(), false),
        () = kill.notified() => {
            let _ = child.start_kill();
            (child.wait().await.ok(), true)
        }
    }
}

/// What is done when a child has ended.
struct Keeper {
    node: String,
    pid_file: PathBuf,
    running: Arc<Mutex<BTreeMap<String, Running>>>,
    announce: Arc<AtomicBool>,
}

impl Keeper {
    fn has_ended(&self, status: Option<ExitStatus>, asked: bool) {
        let ended = self.running.lock().remove(&self.node);
        let _ = fs::remove_file(&self.pid_file);
        if !asked && self.announce.load(Ordering::Relaxed) {
            let status = status.map(|status| status.to_string()).unwrap_or_default();
            let pid = ended.map(|child| child.pid).unwrap_or_default();
            eprintln!("pangaea: {} (pid {pid}) ended: {status}", self.node);
        }
    }
}

impl Nodes for Children {
    fn start<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeSeen, Refusal>> {
        Box::pin(async move { self.spawn(node) })
    }

    fn kill<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeSeen, Refusal>> {
        Box::pin(self.kill_now(node))
    }

    fn seen(&self) -> Vec<NodeSeen> {
        let running = self.running.lock();
        self.names
            .iter()
            .map(|node| NodeSeen {
                node: node.clone(),
                pid: running.get(node).map(|child| child.pid),
            })
            .collect()
    }
}
