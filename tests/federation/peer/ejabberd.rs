//! What ejabberd is told. Erlang's resolver is told in a file of its own what to ask; it runs under `erl` itself, without a node name.
//! Its archive is in Mnesia, which grows slower with each message: it is kept for those only who ask for it.

use super::{Lot, Proof};
use pangaea_tests::reference::ejabberd_libraries;
use std::io::Result;
use tokio::process::Command;

pub(super) fn command(lot: &Lot<'_>) -> Result<Command> {
    let Lot { c2s, s2s, dns, domain, .. } = lot;
    let at = lot.at.display();
    let trusted = match lot.proof {
        Proof::External => format!("ca_file: \"{at}/trusted.pem\"\n"),
        Proof::Dialback => String::new(),
    };
    let configuration = format!(
        r#"hosts: ["{domain}"]
loglevel: info
log_burst_limit_count: 100000
certfiles: ["{at}/host.pem"]
{trusted}s2s_use_starttls: required
s2s_access: all
s2s_max_retry_delay: 1
listen:
  - port: {c2s}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    starttls_required: true
  - port: {s2s}
    ip: "127.0.0.1"
    module: ejabberd_s2s_in
    max_stanza_size: 524288
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
disable_sasl_mechanisms: [SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS, X-OAUTH2]
registration_timeout: infinity
shaper_rules:
  max_user_sessions: 10
  max_user_offline_messages: 5000
modules:
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_last: {{}}
  mod_mam:
    default: never
  mod_muc:
    host: "rooms.{domain}"
    access: all
    access_create: all
    default_room_options:
      mam: false
  mod_offline:
    access_max_user_messages: max_user_offline_messages
  mod_ping: {{}}
  mod_pubsub:
    plugins: [flat, pep]
  mod_register:
    access: all
    welcome_message: {{}}
  mod_roster:
    versioning: true
  mod_s2s_dialback: {{}}
  mod_stream_mgmt:
    resume_timeout: 20
  mod_time: {{}}
  mod_vcard:
    search: false
  mod_version: {{}}
"#
    );
    std::fs::write(lot.at.join("ejabberd.yml"), configuration)?;
    let names = format!(
        "{{hosts_file, \"\"}}.\n{{resolv_conf, \"\"}}.\n{{nameserver, {{127,0,0,1}}, {dns}}}.\n{{lookup, [file, dns]}}.\n{{cache_size, 0}}.\n"
    );
    std::fs::write(lot.at.join("inetrc"), names)?;
    let mut command = Command::new("erl");
    command
        .args(["-noinput", "-mnesia", "dir"])
        .arg(format!("\"{at}/data\""))
        .args(["-s", "ejabberd"])
        .env("ERL_INETRC", lot.at.join("inetrc"))
        .env("EJABBERD_CONFIG_PATH", lot.at.join("ejabberd.yml"))
        .env("EJABBERD_LOG_PATH", lot.at.join("server.log"))
        .env("ERL_CRASH_DUMP", "/dev/null")
        .env("ERL_LIBS", ejabberd_libraries());
    Ok(command)
}
