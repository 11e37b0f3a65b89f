//! A database server of one's own: PostgreSQL or MariaDB, as Debian packs them, on a free port of loopback, in a directory of its own.
//!
//! Called by the `databases` tests. No service of the system is started or touched. It syncs its disk as it does by default. As root it runs as
//! `nobody`, for neither server likes root. It can be killed, paused, made read-only, and its disk filled if it has one of its own; dropped, it is
//! stopped, by the ids of its processes.

use crate::client::{Result, patience};
use crate::disk::Disk;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `postgresql`.
    Postgres,
    /// Debian's `mariadb-server-core`.
    MariaDb,
}

/// Who `nobody` is in Debian.
const NOBODY: u32 = 65534;

/// The size of a disk of a server's own, MiB: what it makes of itself, and a little more.
const DISK_MIB: u32 = 512;

/// A running server. Its user is `pangaea`, the password `secret`.
pub struct Server {
    kind: Kind,
    port: u16,
    dir: Place,
    child: Child,
}

enum Place {
    Dir(tempfile::TempDir),
    Disk(Disk),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Place::Dir(dir) => dir.path(),
            Place::Disk(disk) => disk.path(),
        }
    }
}

impl Server {
    /// Makes it and starts it.
    ///
    /// # Errors
    /// When a program is missing, or it does not come up.
    pub async fn start(kind: Kind) -> Result<Self> {
        let mut named = tempfile::Builder::new();
        let dir = named.prefix("pangaea-database-").tempdir().map_err(|e| e.to_string())?;
        Self::start_in(kind, Place::Dir(dir)).await
    }

    /// The same, on a disk of its own. `None`: who runs the tests may not mount one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on_small_disk(kind: Kind) -> Result<Option<Self>> {
        match Disk::mount(DISK_MIB)? {
            Some(disk) => Self::start_in(kind, Place::Disk(disk)).await.map(Some),
            None => Ok(None),
        }
    }

    async fn start_in(kind: Kind, dir: Place) -> Result<Self> {
        if is_root() {
            let nobody = Some(NOBODY);
            std::os::unix::fs::chown(dir.path(), nobody, nobody).map_err(|e| e.to_string())?;
        }
        let at = dir.path();
        let made = make_certificate(at).and_then(|()| match kind {
            Kind::Postgres => make_postgres(at),
            Kind::MariaDb => make_mariadb(at),
        });
        made.map_err(|e| format!("{kind:?} cannot be made: {e}"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .map_err(|e| e.to_string())?
            .port();
        let child = spawn(kind, at, port)?;
        let mut server = Self { kind, port, dir, child };
        server.wait().await?;
        Ok(server)
    }

    /// Where it is, without the name of a database.
    pub fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Postgres => "postgres",
            Kind::MariaDb => "mysql",
        };
        format!("{scheme}://pangaea:secret@127.0.0.1:{}", self.port)
    }

    /// What a URL asks for to have TLS, and a certificate of the server's own authority.
    pub fn with_tls(&self) -> String {
        let authority = self.dir.path().join("ca.pem");
        match self.kind {
            Kind::Postgres => format!("sslmode=verify-full&sslrootcert={}", authority.display()),
            Kind::MariaDb => format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={}", authority.display()),
        }
    }

    /// kill -9, all of it.
    pub fn kill(&mut self) {
        for pid in self.pids() {
            signal("KILL", pid);
        }
        let _ = self.child.wait();
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(self.kind, self.dir.path(), self.port)?;
        self.wait().await
    }

    /// It answers nothing any more, and closes nothing.
    pub fn pause(&self) {
        self.pids().into_iter().for_each(|pid| signal("STOP", pid));
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.pids().into_iter().for_each(|pid| signal("CONT", pid));
    }

    /// It takes no more changes, or does again: a moment later, of which it says nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn read_only(&self, yes: bool) -> Result<()> {
        match self.kind {
            Kind::Postgres => {
                // As a stand-in does; also for connections that are there.
                let on = if yes { "on" } else { "off" };
                let file = self.dir.path().join("data/postgresql.auto.conf");
                let text = format!("default_transaction_read_only = {on}\n");
                std::fs::write(&file, text).map_err(|e| e.to_string())?;
                signal("HUP", self.child.id());
            }
            Kind::MariaDb => {
                // An event of the server's own reads this table every second: there is no client here to say it.
                let text = if yes { "1" } else { "0" };
                let file = self.dir.path().join("read_only");
                std::fs::write(&file, text).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// Its disk, if it has one of its own.
    pub fn disk(&self) -> Option<&Disk> {
        match &self.dir {
            Place::Disk(disk) => Some(disk),
            Place::Dir(_) => None,
        }
    }

    /// If it has not survived what was done to it.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_again_if_it_ended(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => self.start_again().await,
        }
    }

    /// The seconds of processor time that it has used.
    pub fn cpu_seconds(&self) -> f64 {
        self.pids().into_iter().filter_map(cpu_seconds).sum()
    }

    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + patience() * 3;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{:?} ended: {status}\n{}", self.kind, self.log()));
            }
            let log = self.log();
            let said = match self.kind {
                Kind::Postgres => "database system is ready to accept connections",
                Kind::MariaDb => "ready for connections",
            };
            if log.contains(said) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{:?} is not ready\n{log}", self.kind));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it said in this life.
    pub fn log(&self) -> String {
        std::fs::read(self.dir.path().join("log"))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// From a moment later on its log has every statement.
    ///
    /// # Errors
    /// When it cannot be told, or is not PostgreSQL.
    pub fn log_statements(&self) -> Result<()> {
        if self.kind != Kind::Postgres {
            return Err("only PostgreSQL is told so".to_owned());
        }
        let file = self.dir.path().join("data/postgresql.auto.conf");
        std::fs::write(&file, "log_statement = 'all'\n").map_err(|e| e.to_string())?;
        signal("HUP", self.child.id());
        Ok(())
    }

    /// The statements in its log, each from its first word on.
    pub fn statements(&self) -> Vec<String> {
        // "statement: …", or "execute name: …".
        let statement = |line: &str| {
            let (_, said) = line.split_once("LOG:  ")?;
            let (how, text) = said.split_once(": ")?;
            let is_one = how == "statement" || how.starts_with("execute ");
            is_one.then(|| text.trim_start().to_owned())
        };
        self.log().lines().filter_map(statement).collect()
    }

    /// The server, and those it has made.
    fn pids(&self) -> Vec<u32> {
        let parent = self.child.id();
        let of_parent =
            |pid: &u32| stat(*pid).is_some_and(|fields| fields[1] == parent.to_string());
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        std::iter::once(parent).chain(all.filter(of_parent)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.go_on();
        // PostgreSQL: at once, without waiting for those who are connected.
        signal("INT", self.child.id());
        if self.kind == Kind::MariaDb {
            signal("TERM", self.child.id());
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

/// What `/proc` says of a process, from its state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Its name, in parentheses, may be anything.
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Processor time of a process, in hundredths as Linux counts them.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let fields = stat(pid)?;
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    })
}

fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

/// A command that runs as somebody who may do nothing.
fn command(program: impl AsRef<std::ffi::OsStr>, at: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(at).env("HOME", at).stdin(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn run(mut command: Command) -> Result<()> {
    let done = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = [done.stdout, done.stderr].concat();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

fn make_certificate(at: &Path) -> Result<()> {
    let mut script = command("sh", at);
    script.arg("-ec").arg(
        "key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
         openssl req -x509 $key -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem
         openssl req $key -subj /CN=database -keyout host.key -out host.csr
         printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
         openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out host.pem",
    );
    run(script)
}

/// PostgreSQL's programs are not in the path.
fn postgres_program(name: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map_err(|_| "it is not installed")?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|v| v.path().join("bin").join(name))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| format!("there is no {name}"))
}

fn make_postgres(at: &Path) -> Result<()> {
    std::fs::write(at.join("password"), "secret\n").map_err(|e| e.to_string())?;
    let mut initdb = command(postgres_program("initdb")?, at);
    initdb.args(["-D", "data", "-U", "pangaea", "--auth=scram-sha-256", "--pwfile=password"]);
    initdb.args(["-E", "UTF8", "--locale=C", "--no-sync"]);
    run(initdb)
}

/// As `mariadb-install-db` does it, which wants the clients' package.
fn make_mariadb(at: &Path) -> Result<()> {
    let data = at.join("data");
    let mut script = command("sh", at);
    script.arg("-ec").arg(
        "mkdir -p data/mysql
         { printf 'USE mysql;\\nSET @auth_root_socket=NULL;\\n'
           cd /usr/share/mysql
           cat mysql_system_tables.sql mysql_performance_tables.sql mysql_system_tables_data.sql
         } | PATH=$PATH:/usr/sbin mariadbd --no-defaults --bootstrap --datadir=\"$0\"",
    );
    script.arg(&data);
    run(script)?;
    let file = at.join("read_only");
    std::fs::write(&file, "0").map_err(|e| e.to_string())?;
    // As a user of a database it obeys `read_only`; who has all privileges would not.
    let init = format!(
        "CREATE USER IF NOT EXISTS 'pangaea'@'%' IDENTIFIED BY 'secret';
GRANT ALL ON `%`.* TO 'pangaea'@'%';
CREATE USER IF NOT EXISTS 'root'@'localhost';
GRANT ALL ON *.* TO 'root'@'localhost' WITH GRANT OPTION;
CREATE DATABASE IF NOT EXISTS tests;
SET GLOBAL event_scheduler = ON;
CREATE OR REPLACE DEFINER='root'@'localhost' EVENT tests.look ON SCHEDULE EVERY 1 SECOND DO SET GLOBAL read_only = TRIM(LOAD_FILE('{}')) = '1';
",
        file.display()
    );
    std::fs::write(at.join("init.sql"), init).map_err(|e| e.to_string())
}

fn spawn(kind: Kind, at: &Path, port: u16) -> Result<Child> {
    let log = std::fs::File::create(at.join("log")).map_err(|e| e.to_string())?;
    let mut server = match kind {
        Kind::Postgres => {
            let mut server = command(postgres_program("postgres")?, at);
            server.args([
                "-D",
                "data",
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
            ]);
            server.arg("-c").arg(format!("unix_socket_directories={}", at.display()));
            let (cert, key) = ("ssl_cert_file=../host.pem", "ssl_key_file=../host.key");
            server.args(["-c", "ssl=on", "-c", cert, "-c", key]);
            // By default its log may grow to more than a small disk holds.
            server.args(["-c", "min_wal_size=64MB", "-c", "max_wal_size=128MB"]);
            server
        }
        Kind::MariaDb => {
            let there = Path::new("/usr/sbin/mariadbd");
            let program = if there.exists() { there } else { Path::new("mariadbd") };
            let mut server = command(program, at);
            let at = at.display();
            server.arg("--no-defaults").arg(format!("--datadir={at}/data"));
            server.args([format!("--port={port}"), "--bind-address=127.0.0.1".to_owned()]);
            server.args([format!("--socket={at}/socket"), format!("--pid-file={at}/pid")]);
            server.args([format!("--init-file={at}/init.sql"), "--skip-name-resolve".to_owned()]);
            server.args([format!("--ssl-cert={at}/host.pem"), format!("--ssl-key={at}/host.key")]);
            server
        }
    };
    let both = log.try_clone().map_err(|e| e.to_string())?;
    server.stdout(log).stderr(both).spawn().map_err(|e| format!("{kind:?}: {e}"))
}
