//! Prosody in the platform's place: a scenario that a mature server fails is a scenario that is wrong.
//!
//! Called by the scenario runner with `PANGAEA_TEST_AGAINST=prosody`. Needs Debian's `prosody` and `openssl`. One process
//! on loopback, in a directory of its own, stopped by its process id. Deliberately absent: regions.

use crate::client::{Endpoint, Result, Security, patience, trust};
use std::process::Stdio;
use std::time::Instant;
use tokio::process::{Child, Command};

/// A running Prosody.
pub struct Prosody {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

const DOMAIN: &str = "pangaea.localhost";

impl Prosody {
    /// Writes a configuration and certificates, starts, waits until the port answers.
    ///
    /// # Errors
    /// When a tool is missing or the server does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pangaea-prosody-")
            .tempdir()
            .map_err(|e| e.to_string())?;
        let at = dir.path();
        let run = |script: &str| -> Result<()> {
            let done =
                std::process::Command::new("sh").arg("-ec").arg(script).current_dir(at).output();
            let done = done.map_err(|e| e.to_string())?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            if done.status.success() { Ok(()) } else { Err(said) }
        };
        run(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-authority \
               -keyout ca.key -out ca.pem 2>&1
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={DOMAIN} -keyout host.key -out host.csr 2>&1
             printf 'subjectAltName=DNS:{DOMAIN},DNS:anon.{DOMAIN}\\nbasicConstraints=CA:FALSE\\n' > ext
             openssl x509 -req -in host.csr -CA ca.pem -CAkey ca.key -days 2 -extfile ext -out host.crt 2>&1
             mkdir data"
        ))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .map_err(|e| e.to_string())?
            .port();
        let configuration = format!(
            r#"run_as_root = true
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
s2s_ports = {{ }}
data_path = "{at}/data"
pidfile = "{at}/prosody.pid"
log = {{ {{ levels = {{ min = "info" }}, to = "file", filename = "{at}/prosody.log" }} }}
modules_enabled = {{ "roster", "saslauth", "tls", "disco", "carbons", "blocklist", "version", "time", "ping", "register",
  "offline", "smacks", "uptime" }}
modules_disabled = {{ "s2s" }}
allow_registration = true
authentication = "internal_hashed"
smacks_hibernation_time = 20
VirtualHost "{DOMAIN}"
ssl = {{ key = "{at}/host.key", certificate = "{at}/host.crt" }}
VirtualHost "anon.{DOMAIN}"
authentication = "anonymous"
ssl = {{ key = "{at}/host.key", certificate = "{at}/host.crt" }}
"#,
            at = at.display()
        );
        std::fs::write(at.join("prosody.cfg.lua"), configuration).map_err(|e| e.to_string())?;
        let child = Command::new("prosody")
            .arg("--config")
            .arg(at.join("prosody.cfg.lua"))
            .arg("-F")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("prosody: {e}"))?;
        let deadline = Instant::now() + patience();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(at.join("prosody.log")).unwrap_or_default();
                return Err(format!("prosody does not listen\n{log}"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(Self { dir, port, child })
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
    pub fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}
