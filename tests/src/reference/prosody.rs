//! What Prosody is told: every module for what the plays show. Modules that are not installed it passes over with a word in
//! its log; those of the community are Debian's `prosody-modules`. Its modules for SASL2 want a younger Prosody than Debian's 0.12.

use super::{DOMAIN, Site};
use std::io::Result;
use tokio::process::Command;

pub(super) fn command(site: &Site<'_>) -> Result<Command> {
    let Site { c2s, http, socks, .. } = site;
    let at = site.at.display();
    let configuration = format!(
        r#"run_as_root = true
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
s2s_ports = {{ }}
http_ports = {{ {http} }}
http_interfaces = {{ "127.0.0.1" }}
https_ports = {{ }}
proxy65_ports = {{ {socks} }}
proxy65_interfaces = {{ "127.0.0.1" }}
http_external_url = "http://127.0.0.1:{http}/"
data_path = "{at}/data"
pidfile = "{at}/prosody.pid"
log = {{ {{ levels = {{ min = "info" }}, to = "file", filename = "{at}/server.log" }} }}
plugin_paths = {{ "/usr/lib/prosody/modules" }}
admins = {{ "admin@{DOMAIN}" }}
modules_enabled = {{
  -- Its own.
  "roster", "saslauth", "tls", "disco", "carbons", "blocklist", "version", "time", "ping", "register", "offline", "smacks",
  "uptime", "mam", "csi_simple", "pep", "vcard_legacy", "private", "lastactivity", "adhoc", "admin_adhoc",
  "external_services", "server_contact_info", "invites", "invites_adhoc", "invites_register",
  -- The community's.
  "cloud_notify", "privacy_lists", "ipcheck",
}}
modules_disabled = {{ "s2s" }}
allow_registration = true
registration_invite_only = false
allow_user_invites = true
authentication = "internal_hashed"
password_hash = "SHA-256"
smacks_hibernation_time = 20
archive_expires_after = "never"
contact_info = {{ abuse = {{ "mailto:abuse@{DOMAIN}" }}, admin = {{ "mailto:admin@{DOMAIN}" }} }}
external_services = {{
  {{ type = "stun", transport = "udp", host = "127.0.0.1", port = 3478 }},
  {{ type = "turn", transport = "udp", host = "127.0.0.1", port = 3478, secret = "a secret of theirs" }},
}}
VirtualHost "{DOMAIN}"
ssl = {{ key = "{at}/host.key", certificate = "{at}/host.crt" }}
VirtualHost "anon.{DOMAIN}"
authentication = "anonymous"
ssl = {{ key = "{at}/host.key", certificate = "{at}/host.crt" }}
Component "upload.{DOMAIN}" "http_file_share"
http_file_share_size_limit = 104857600
http_file_share_daily_quota = 1048576000
Component "proxy.{DOMAIN}" "proxy65"
proxy65_address = "127.0.0.1"
"#
    );
    std::fs::write(site.at.join("prosody.cfg.lua"), configuration)?;
    let mut command = Command::new("prosody");
    command.arg("--config").arg(site.at.join("prosody.cfg.lua")).arg("-F");
    Ok(command)
}
