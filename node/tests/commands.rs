//! The real program, as an operator meets it: exit codes, what it prints, what is left when it is gone.
//!
//! What a platform does for its users is tested in the crate `tests`; here it is the processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn pangaea(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pangaea")).args(words).output().expect("the program is built")
}

/// Runs to its end; standard output and standard error.
fn said(words: &[&str], code: i32) -> (String, String) {
    let output = pangaea(words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{out}\n{err}");
    (out, err)
}

/// A base whose ports (one region) nobody uses now, and no other test of this file is given.
fn free_base() -> u16 {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = 20_000 + 2_000 * (CALLS.fetch_add(1, Ordering::Relaxed) % 5);
    (start..start + 1_000)
        .find(|base| [222, 223, 269, 280, 347, 900].iter().all(|offset| free(base + offset)))
        .expect("some ports are free")
}

/// Starts quickstart with one region and waits for `ready`. What it printed before.
#[expect(clippy::zombie_processes, reason = "the caller waits; a panic ends the test anyway")]
fn quickstart(dir: &Path, base: u16) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pangaea"))
        .args(["quickstart", "--regions", "eu", "--users", "1"])
        .args(["--port-base", &base.to_string()])
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let mut printed = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    loop {
        let mut line = String::new();
        let n = lines.read_line(&mut line).expect("text");
        assert!(n > 0, "quickstart ended:\n{printed}{}", log(dir));
        if line == "ready\n" {
            // Keeps the pipe, so that the last words of quickstart have somewhere to go.
            child.stdout = Some(lines.into_inner());
            return (child, printed);
        }
        printed += &line;
    }
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("eu-0.log")).unwrap_or_default()
}

fn pid(dir: &Path) -> u32 {
    let text = fs::read_to_string(dir.join("eu-0.pid")).expect("the node runs");
    text.trim().parse().expect("a number")
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

/// Whether a process is there and is more than an entry that nobody has collected yet.
fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn check_says_ok_or_names_the_line_and_the_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("eu-0.toml");
    let name = file.display().to_string();
    let good = "[node]\nregion = \"eu\"\ndata_dir = \"d\"\n[domains]\nglobal = \"chat.example\"\n\
                [c2s]\ncertificate = \"c.pem\"\nkey = \"c.key\"\n";
    fs::write(&file, good).expect("written");
    let (out, _) = said(&["check", "--config", &name], 0);
    assert!(out.starts_with("ok\n"), "{out}");
    assert!(out.contains("note: c2s.certificate"), "{out}");
    fs::write(&file, good.replace("\"eu\"", "7") + "[geo]\nhold = \"soon\"\n").expect("written");
    let (out, err) = said(&["check", "--config", &name], 1);
    assert_eq!(out, "");
    for part in ["2 problems", "line 2, node.region", "line 10, geo.hold", "\"500ms\"", "\"soon\""]
    {
        assert!(err.contains(part), "{part} is missing in:\n{err}");
    }
    let (_, err) = said(&["run", "--config", &name], 1);
    assert!(err.contains("geo.hold"), "{err}");
    said(&["check"], 2);
}

#[test]
fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = free_base();
    let _taken = TcpListener::bind(("127.0.0.1", base + 269)).expect("free a moment ago");
    let (base_text, dir) = (base.to_string(), dir.path().display().to_string());
    let words = ["quickstart", "--regions", "eu", "--port-base", &base_text, "--dir", &dir];
    let (_, err) = said(&words, 1);
    assert!(err.contains(&format!("port {} (eu-0, servers and links)", base + 269)), "{err}");
}

#[test]
fn quickstart_stops_everything_and_starts_again_from_what_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (mut child, printed) = quickstart(dir, free_base());
    assert!(printed.contains("accounts    alice, bob"), "{printed}");
    let node = pid(dir);
    assert!(is_alive(node));
    let authority = fs::read(dir.join("ca.pem")).expect("written");
    signal("TERM", child.id());
    assert!(child.wait().expect("it ends").success(), "{}", log(dir));
    assert!(!is_alive(node));
    assert!(!dir.join("eu-0.pid").exists());
    let (mut child, _) = quickstart(dir, free_base());
    assert_eq!(fs::read(dir.join("ca.pem")).expect("still there"), authority);
    signal("INT", child.id());
    assert!(child.wait().expect("it ends").success(), "{}", log(dir));
}

#[test]
fn a_node_ends_when_quickstart_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut child, _) = quickstart(dir.path(), free_base());
    let node = pid(dir.path());
    child.kill().expect("kill -9");
    child.wait().expect("it ends");
    until("the node's end", || !is_alive(node));
}

#[test]
fn a_node_takes_its_configuration_again_while_it_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let base = free_base();
    let (mut child, _) = quickstart(dir, base);
    let file = dir.join("eu-0.toml");
    let before = fs::read_to_string(&file).expect("written by quickstart");
    let url = format!("http://127.0.0.1:{}", base + 280);
    let reload = || {
        let admin = ["--user", "admin@pangaea.localhost", "--password", "wonderland"];
        said(&[&["ctl", "--url", &url][..], &admin, &["reload"]].concat(), 0).0
    };
    assert!(reload().ends_with("the configuration is as it was\n"));
    let after = format!("{before}\n[reports]\nkept_max = 7\n[push]\nremembered_max = 77\n");
    fs::write(&file, &after).expect("written");
    let said = reload();
    assert!(said.contains("applied: reports.kept_max\n"), "{said}");
    assert!(said.contains("needs a restart: push.remembered_max\n"), "{said}");
    fs::write(&file, format!("{after}no_such_key = 1\n")).expect("written");
    signal("HUP", pid(dir));
    until("the refusal", || log(dir).contains("push.no_such_key"));
    fs::write(&file, &before).expect("written");
    signal("HUP", pid(dir));
    until("the old values", || log(dir).matches("the configuration was read again").count() > 0);
    signal("TERM", child.id());
    assert!(child.wait().expect("it ends").success(), "{}", log(dir));
}
