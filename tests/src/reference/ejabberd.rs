//! What ejabberd is told: every module for what the plays show. It runs under `erl` itself, without a node name: nothing of
//! Erlang's distribution is started, and no other user is needed. Channel binding is off: of TLS 1.3 version 23.01 knows none.

use super::{DOMAIN, Site};
use std::io::Result;
use tokio::process::Command;

/// It pushes what changed to every available resource, one that did not ask for it too, and lists of blocked users also as
/// privacy lists.
pub(super) const HABITS: [(&str, &str); 4] = [
    ("jabber:iq:privacy", "<iq type='set'><query xmlns='jabber:iq:privacy'/></iq>"),
    ("urn:xmpp:blocking", "<iq type='set'><block xmlns='urn:xmpp:blocking'/></iq>"),
    ("urn:xmpp:blocking", "<iq type='set'><unblock xmlns='urn:xmpp:blocking'/></iq>"),
    ("jabber:iq:roster", "<iq type='set'><query xmlns='jabber:iq:roster'/></iq>"),
];

pub(super) fn command(site: &Site<'_>) -> Result<Command> {
    let Site { c2s, http, socks, .. } = site;
    let at = site.at.display();
    let configuration = format!(
        r#"hosts: ["{DOMAIN}", "anon.{DOMAIN}"]
loglevel: info
certfiles: ["{at}/host.pem"]
ca_file: "{at}/ca.pem"
listen:
  - port: {c2s}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    max_stanza_size: 262144
    starttls_required: true
  - port: {http}
    ip: "127.0.0.1"
    module: ejabberd_http
    request_handlers:
      /upload: mod_http_upload
auth_method: internal
auth_password_format: scram
auth_scram_hash: sha256
disable_sasl_mechanisms: [SCRAM-SHA-1-PLUS, SCRAM-SHA-256-PLUS, SCRAM-SHA-512-PLUS, X-OAUTH2]
registration_timeout: infinity
host_config:
  "anon.{DOMAIN}":
    auth_method: anonymous
    anonymous_protocol: sasl_anon
    disable_sasl_mechanisms: [PLAIN, X-OAUTH2]
    modules:
      mod_caps: {{}}
      mod_carboncopy: {{}}
      mod_disco: {{}}
      mod_ping: {{}}
      mod_roster: {{}}
      mod_time: {{}}
      mod_version: {{}}
acl:
  admin:
    user: ["admin@{DOMAIN}"]
  local:
    user_regexp: ""
access_rules:
  admin:
    allow: admin
  configure:
    allow: admin
  local:
    allow: local
  nobody:
    deny: all
s2s_access: nobody
shaper_rules:
  max_user_sessions: 10
  max_user_offline_messages: 100
modules:
  mod_adhoc: {{}}
  mod_admin_extra: {{}}
  mod_announce:
    access: admin
  mod_blocking: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_configure: {{}}
  mod_disco:
    server_info:
      - modules: all
        name: abuse-addresses
        urls: ["mailto:abuse@{DOMAIN}"]
      - modules: all
        name: admin-addresses
        urls: ["mailto:admin@{DOMAIN}"]
  mod_http_upload:
    host: "upload.{DOMAIN}"
    docroot: "{at}/data/upload"
    put_url: "http://127.0.0.1:{http}/upload"
    max_size: 104857600
  mod_last: {{}}
  mod_mam:
    default: always
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_proxy65:
    host: "proxy.{DOMAIN}"
    ip: "127.0.0.1"
    port: {socks}
  mod_pubsub:
    plugins: [flat, pep]
  mod_push: {{}}
  mod_register:
    access: all
    welcome_message: {{}}
  mod_roster:
    versioning: true
  mod_sic: {{}}
  mod_stream_mgmt:
    resend_on_timeout: if_offline
    resume_timeout: 20
  mod_stun_disco:
    secret: "a secret of theirs"
    services:
      - host: 127.0.0.1
        port: 3478
        type: stun
        transport: udp
      - host: 127.0.0.1
        port: 3478
        type: turn
        transport: udp
  mod_time: {{}}
  mod_vcard:
    search: false
  mod_vcard_xupdate: {{}}
  mod_version: {{}}
"#
    );
    std::fs::write(site.at.join("ejabberd.yml"), configuration)?;
    let mut command = Command::new("erl");
    command
        .args(["-noinput", "-mnesia", "dir"])
        .arg(format!("\"{at}/data\""))
        .args(["-s", "ejabberd"])
        .env("EJABBERD_CONFIG_PATH", site.at.join("ejabberd.yml"))
        .env("EJABBERD_LOG_PATH", site.at.join("server.log"))
        .env("ERL_CRASH_DUMP", "/dev/null")
        .env("ERL_LIBS", libraries());
    Ok(command)
}

/// Where Debian puts what ejabberd is made of.
pub fn libraries() -> &'static str {
    const PLACES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
    let has_it = |place: &&str| {
        std::fs::read_dir(place).is_ok_and(|mut entries| {
            entries
                .any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("ejabberd-")))
        })
    };
    PLACES.iter().find(|place| has_it(place)).unwrap_or(&PLACES[0])
}
