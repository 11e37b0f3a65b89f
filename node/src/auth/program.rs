//! Auth: a program of the operator's that stays and answers over its pipes, as ejabberd's `extauth` does it: two bytes of length, then
//! `auth:user:domain:password` or `isuser:user:domain`; the answer `0 2 0 1` is yes and `0 2 0 0` no.
//!
//! So many processes as may answer at once, started when they are needed. One that fails, or does not answer in time, is killed, and
//! another one takes its place; if it fails at its first question, not before a pause. Deliberately absent: `setpass`, `tryregister`
//! and `removeuser`, for these accounts are not ours to change.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use config::Program as Settings;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use super::gate::Gate;
use super::{Abilities, Backend, Said};

/// How long no new process is started after one that failed at its first question.
const PAUSE: Duration = Duration::from_secs(1);

/// [`Backend`] over pipes.
#[derive(Clone)]
pub struct Program(Arc<Inner>);

struct Inner {
    command: Vec<String>,
    gate: Gate,
    /// Those that wait for a question: at most as many as may answer at once.
    idle: Mutex<Vec<Process>>,
    not_before: Mutex<Option<Instant>>,
}

/// One process; killed when dropped.
struct Process {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    is_proved: bool,
}

impl Program {
    /// As configured.
    pub fn new(settings: &Settings) -> Self {
        Self(Arc::new(Inner {
            command: settings.command.clone(),
            gate: Gate::new("program", &settings.bounds),
            idle: Mutex::default(),
            not_before: Mutex::default(),
        }))
    }
}

impl Inner {
    fn process(&self) -> Result<Process, String> {
        if let Some(process) = self.idle.lock().pop() {
            return Ok(process);
        }
        if self.not_before.lock().is_some_and(|time| Instant::now() < time) {
            return Err("the program has just failed".to_owned());
        }
        let (program, arguments) = self.command.split_first().ok_or("there is no command")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| {
            self.pause();
            format!("{program}: {error}")
        })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = input.zip(output).ok_or("the program has no pipes")?;
        Ok(Process { _child: child, input, output, is_proved: false })
    }

    fn pause(&self) {
        *self.not_before.lock() = Some(Instant::now() + PAUSE);
    }

    /// Asks several questions of one process until one is answered with yes: which.
    async fn ask(&self, questions: &[String]) -> Result<Option<usize>, String> {
        let mut process = self.process()?;
        // Should the time be over before the answer is there, the pause begins all the same.
        let mut failing = Failing { inner: self, is_new: !process.is_proved };
        let mut found = None;
        for (at, question) in questions.iter().enumerate() {
            if process.ask(question).await.map_err(|error| error.to_string())? {
                found = Some(at);
                break;
            }
        }
        failing.is_new = false;
        process.is_proved = true;
        self.idle.lock().push(process);
        Ok(found)
    }
}

/// A process that has answered nothing yet.
struct Failing<'a> {
    inner: &'a Inner,
    is_new: bool,
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if self.is_new {
            self.inner.pause();
        }
    }
}

impl Process {
    async fn ask(&mut self, question: &str) -> std::io::Result<bool> {
        let odd = || std::io::Error::other("the program's answer is none");
        let length = u16::try_from(question.len())
            .map_err(|_| std::io::Error::other("the question is too long"))?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend_from_slice(question.as_bytes());
        self.input.write_all(&message).await?;
        self.input.flush().await?;
        let mut answer = [0; 4];
        self.output.read_exact(&mut answer).await?;
        match answer {
            [0, 2, 0, 1] => Ok(true),
            [0, 2, 0, 0] => Ok(false),
            _ => Err(odd()),
        }
    }
}

fn isuser(account: &BareJid) -> String {
    format!("isuser:{}:{}", account.local().unwrap_or_default(), account.domain())
}

impl Backend for Program {
    fn name(&self) -> &'static str {
        "program"
    }

    fn abilities(&self) -> Abilities {
        Abilities { passwords: true, ..Abilities::default() }
    }

    fn knows(&self, account: &BareJid) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            let question = isuser(&account);
            match inner.gate.pass(inner.ask(&[question])).await {
                Some(Some(_)) => Said::Right,
                Some(None) => Said::Unknown,
                None => Said::Down,
            }
        }
        .boxed()
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            // A localpart has no colon (RFC 7622 §3.3.1); the password is the rest, whatever is in it.
            let (user, domain) = (account.local().unwrap_or_default(), account.domain());
            let questions =
                [format!("auth:{user}:{domain}:{}", password.expose()), isuser(&account)];
            match inner.gate.pass(inner.ask(&questions)).await {
                Some(Some(0)) => Said::Right,
                Some(Some(_)) => Said::Wrong,
                Some(None) => Said::Unknown,
                None => Said::Down,
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::bounds;
    use super::*;

    /// Juliet's password is `r0m30:`; the process says who it is with paris, is silent with mercutio, and ends with tybalt.
    const PROGRAM: &str = r#"
import os, sys, struct
while True:
    head = sys.stdin.buffer.read(2)
    if len(head) < 2:
        break
    asked = sys.stdin.buffer.read(struct.unpack('>H', head)[0]).decode().split(':', 3)
    if asked[1] == 'tybalt':
        sys.exit(1)
    if asked[1] == 'mercutio':
        continue
    if asked[1] == 'odd':
        sys.stdout.buffer.write(b'yes!')
        sys.stdout.buffer.flush()
        continue
    yes = asked[:2] == ['isuser', 'juliet'] or asked == ['auth', 'juliet', 'capulet.example', 'r0m30:']
    sys.stdout.buffer.write(struct.pack('>HH', 2, int(yes)))
    sys.stdout.buffer.flush()
"#;

    fn program(command: &[&str], timeout: Duration) -> Program {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Program::new(&Settings { command, bounds: config::Bounds { timeout, ..bounds() } })
    }

    async fn says(program: &Program, name: &str, password: &str) -> Said {
        let account = BareJid::parse(&format!("{name}@capulet.example")).expect("a JID");
        program.password(&account, Password::new(password)).await
    }

    #[tokio::test]
    async fn a_program_answers_and_stays() {
        let program = program(&["python3", "-c", PROGRAM], Duration::from_secs(20));
        assert_eq!(says(&program, "juliet", "r0m30:").await, Said::Right);
        let first = program.0.idle.lock().first().and_then(|process| process._child.id());
        assert_eq!(says(&program, "juliet", "r0m30").await, Said::Wrong);
        assert_eq!(says(&program, "nobody", "r0m30:").await, Said::Unknown);
        for (name, expected) in [("juliet", Said::Right), ("nobody", Said::Unknown)] {
            let account = BareJid::parse(&format!("{name}@capulet.example")).expect("a JID");
            assert_eq!(program.knows(&account).await, expected);
        }
        let still = program.0.idle.lock().first().and_then(|process| process._child.id());
        assert!(first.is_some() && first == still);
        // One that ends, or says something else, is replaced.
        for name in ["tybalt", "odd"] {
            assert_eq!(says(&program, name, "x").await, Said::Down);
            assert_eq!(says(&program, "juliet", "r0m30:").await, Said::Right);
        }
        let both = tokio::join!(says(&program, "juliet", "x"), says(&program, "juliet", "r0m30:"));
        assert_eq!(both, (Said::Wrong, Said::Right));
        assert!(program.0.idle.lock().len() <= 2);
    }

    #[tokio::test]
    async fn a_program_that_is_silent_is_killed_and_replaced_after_a_pause() {
        let program = program(&["python3", "-c", PROGRAM], Duration::from_millis(300));
        assert_eq!(says(&program, "mercutio", "x").await, Said::Down);
        assert!(program.0.idle.lock().is_empty());
        // Fresh ones are not tried in a hurry.
        assert_eq!(says(&program, "juliet", "r0m30:").await, Said::Down);
        assert!(program.0.not_before.lock().is_some());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_down() {
        let program = program(&["/nowhere/at/all"], Duration::from_secs(5));
        assert_eq!(says(&program, "juliet", "r0m30:").await, Said::Down);
        assert_eq!(says(&program, "juliet", "r0m30:").await, Said::Down);
    }
}
