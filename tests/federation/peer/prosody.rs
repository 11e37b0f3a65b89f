//! What Prosody is told. Its resolver (libunbound) refuses to ask a server on loopback unless it is told that it may.

use super::{Lot, Proof};
use std::io::Result;
use tokio::process::Command;

pub(super) fn command(lot: &Lot<'_>) -> Result<Command> {
    let Lot { c2s, s2s, dns, domain, .. } = lot;
    let at = lot.at.display();
    let secure = lot.proof == Proof::External;
    let configuration = format!(
        r#"run_as_root = true
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
s2s_ports = {{ {s2s} }}
http_ports = {{ }}
https_ports = {{ }}
data_path = "{at}/data"
pidfile = "{at}/prosody.pid"
log = {{ {{ levels = {{ min = "debug" }}, to = "file", filename = "{at}/server.log" }} }}
unbound = {{
  resolvconf = false, hoststxt = false, forward = {{ "127.0.0.1@{dns}" }},
  options = {{ ["do-not-query-localhost:"] = "no" }},
}}
ssl = {{ key = "{at}/host.key", certificate = "{at}/host.crt", cafile = "{at}/trusted.pem", capath = "{at}/data" }}
s2s_secure_auth = {secure}
s2s_require_encryption = true
modules_enabled = {{
  "roster", "saslauth", "tls", "dialback", "disco", "carbons", "version", "time", "ping", "register", "offline", "smacks", "mam", "pep",
  "vcard_legacy", "s2s_bidi", "lastactivity",
}}
allow_registration = true
registration_invite_only = false
authentication = "internal_hashed"
archive_expires_after = "never"
VirtualHost "{domain}"
Component "rooms.{domain}" "muc"
modules_enabled = {{ "muc_mam" }}
"#
    );
    std::fs::write(lot.at.join("prosody.cfg.lua"), configuration)?;
    let mut command = Command::new("prosody");
    command.arg("--config").arg(lot.at.join("prosody.cfg.lua")).arg("-F");
    Ok(command)
}
