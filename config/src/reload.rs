//! A configuration that is read again while its node runs: what of it changed, and what of that can take effect without a restart.
//!
//! Called by `node::app::reload`. The file is compared with the one in force key by key, in its own words; what cannot change while the node
//! runs keeps its old value, and the whole is read and checked as any configuration is. So what is said to be applied is what is applied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::{Config, ConfigError};

/// Sections and keys that take effect at once: they are read where they are used. Everything else needs a restart.
pub const LIVE: &[&str] = &[
    "archive.page_max",
    "archive.preferences_max",
    "c2s.allow_plain_without_tls",
    "c2s.auth_attempts_max",
    "c2s.auth_deadline",
    "c2s.certificate",
    "c2s.certificates",
    "c2s.key",
    "c2s.see_other_host",
    "clients",
    "components.component",
    "components.connections_max",
    "components.connections_per_region_max",
    "components.delegated_asker_max",
    "components.delegated_component_max",
    "components.delegated_deadline",
    "components.delegated_max",
    "components.handshake_deadline",
    "components.hostnames_max",
    "components.keepalive",
    "components.queue_bytes_max",
    "components.queue_items_max",
    "components.secret",
    "components.stanza_bytes_max",
    "components.unhandled_max",
    "domains.anon",
    "domains.proxy",
    "domains.pubsub",
    "domains.rooms",
    "domains.upload",
    "external_services",
    "invitations.expire",
    "invitations.landing_url",
    "invitations.open_max",
    "limits.connections_max",
    "limits.inactive_held_bytes_max",
    "limits.inactive_held_max",
    "limits.mailbox_bytes_max",
    "limits.offline_messages_max",
    "limits.presence_burst",
    "limits.presence_per_second",
    "limits.privacy_items_max",
    "limits.privacy_lists_max",
    "limits.private_bytes_max",
    "limits.rate_exceeded",
    "limits.roster_changes_burst",
    "limits.roster_changes_per_second",
    "limits.roster_groups_max",
    "limits.roster_items_max",
    "limits.roster_name_bytes_max",
    "limits.sessions_per_account_max",
    "limits.sign_ins_burst",
    "limits.sign_ins_per_second",
    "limits.sign_ins_waiting_max",
    "limits.sm_expired_max",
    "limits.sm_queue_max",
    "limits.sm_timeout",
    "limits.stanza_bytes_max",
    "limits.stanza_bytes_max_before_auth",
    "limits.stanzas_burst",
    "limits.stanzas_per_second",
    "limits.unsettled_per_session_max",
    "limits.vcard_bytes_max",
    "log.filter",
    "node.drain_rate",
    "node.drain_to",
    "push.include_body",
    "push.include_sender",
    "push.options_bytes_max",
    "push.placeholder_body",
    "push.registrations_max",
    "redis",
    "registration",
    "reports",
    "s2s.ack_within",
    "s2s.blocklist",
    "s2s.bytes_per_second",
    "s2s.dns",
    "s2s.dnssec",
    "s2s.idle_after",
    "s2s.negotiate_within",
    "s2s.pairs_per_stream_max",
    "s2s.policy",
    "s2s.posh",
    "s2s.queue_bytes_max",
    "s2s.queue_for",
    "s2s.queue_items_max",
    "s2s.queued_bytes_max",
    "s2s.resume_within",
    "s2s.retry_first",
    "s2s.retry_max",
    "s2s.revoked",
    "s2s.see_other_host",
    "s2s.stanza_bytes_max",
    "s2s.streams_max",
    "s2s.streams_per_domain_max",
    "s2s.trust",
    "s2s.unacked_max",
    "s2s.unhandled_max",
    "s2s.unproved_per_address_max",
    "s2s.verifications_max",
    "storage.connections",
    "storage.database",
    "storage.partitions",
    "storage.retry",
    "storage.timeout",
];

/// Sections of the services that have a name in `[domains]`: what a service begins with when it gets that, or does without when it loses it, takes effect; what
/// is new for one that keeps its name, even if that is another, needs a restart.
pub const OF_SERVICES: &[&str] = &["proxy", "upload"];

/// The file of a running node, and what of it is in force.
#[derive(Clone, Debug)]
pub struct Source {
    file: PathBuf,
    table: Table,
}

/// What came of reading it again.
#[derive(Debug)]
pub struct Reread {
    /// What is in force from now on, if it is applied.
    pub source: Source,
    /// The same, as it is read.
    pub config: Config,
    /// Keys that changed and take effect.
    pub applied: Vec<String>,
    /// Keys that changed and keep their old value until the node is started again.
    pub needs_restart: Vec<String>,
}

impl Source {
    /// Reads and checks `file`, as [`Config::load`] does, and remembers it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(file: &Path) -> Result<(Config, Source), ConfigError> {
        let (config, table) = read(file)?;
        Ok((config, Source { file: file.to_owned(), table }))
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// As [`Config::load`]; what is in force stays.
    pub fn reread(&self) -> Result<Reread, ConfigError> {
        self.reread_but(&[], &[])
    }

    /// The same, where these keys need a restart though others of their kind do not.
    ///
    /// # Errors
    /// As [`Source::reread`].
    pub fn reread_holding(&self, keys: &[&str]) -> Result<Reread, ConfigError> {
        self.reread_but(keys, &[])
    }

    /// The same, and with what is in force of these sections whatever the file says now.
    ///
    /// # Errors
    /// As [`Source::reread`].
    pub fn reread_but(&self, held: &[&str], sections: &[&str]) -> Result<Reread, ConfigError> {
        let (_, mut new) = read(&self.file)?;
        for section in sections {
            match self.table.get(*section) {
                Some(old) => drop(new.insert((*section).to_owned(), old.clone())),
                None => drop(new.remove(*section)),
            }
        }
        let of = |held: &[&str]| {
            let merged = merge(&self.table, &new, held);
            let text = toml::to_string(&merged.0).expect("what was TOML can be written as TOML");
            (parse(&text, &self.file), merged)
        };
        let (mut config, mut merged) = of(held);
        if config.is_err() {
            // The file is good, so a name needs what has to wait for a restart (an address to listen at): then it waits too.
            (config, merged) = of(&[held, &["domains"], OF_SERVICES].concat());
        }
        let (config, (table, applied, needs_restart)) = (config?, merged);
        let source = Source { file: self.file.clone(), table };
        Ok(Reread { source, config, applied, needs_restart })
    }
}

fn read(file: &Path) -> Result<(Config, Table), ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|cause| ConfigError::unreadable(file, &cause))?;
    let config = parse(&text, file)?;
    let table = text.parse().expect("what was read as TOML once is TOML");
    Ok((config, table))
}

fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
    Config::parse(text, &file.display().to_string(), &base)
}

/// What is in force after `new` came; which keys changed with effect, and which, with those that are held, without.
fn merge(old: &Table, new: &Table, held: &[&str]) -> (Table, Vec<String>, Vec<String>) {
    let (mut merged, mut applied, mut needs_restart) = (old.clone(), Vec::new(), Vec::new());
    let is_named = |table: &Table, service: &str| {
        table.get("domains").and_then(|domains| domains.get(service)).is_some()
    };
    let goes_on = |service: &str| is_named(old, service) && is_named(new, service);
    let mut take = |into: &mut Table, key: &str, path: String, value: Option<&Value>| {
        if into.get(key) == value {
            return;
        }
        let section = path.split('.').next().unwrap_or_default();
        let is_live = LIVE.contains(&path.as_str())
            || LIVE.contains(&section)
            || OF_SERVICES.contains(&section) && !goes_on(section);
        if !is_live || held.contains(&path.as_str()) || held.contains(&section) {
            needs_restart.push(path);
            return;
        }
        match value {
            Some(value) => drop(into.insert(key.to_owned(), value.clone())),
            None => drop(into.remove(key)),
        }
        applied.push(path);
    };
    for section in keys(old, new) {
        let nothing = Value::Table(Table::new());
        let (was, is) = (old.get(section), new.get(section));
        match (was.unwrap_or(&nothing), is.unwrap_or(&nothing)) {
            (Value::Table(was), Value::Table(is)) => {
                let mut inside = was.clone();
                for key in keys(was, is) {
                    take(&mut inside, key, format!("{section}.{key}"), is.get(key));
                }
                if !inside.is_empty() || old.contains_key(section) {
                    merged.insert(section.to_owned(), Value::Table(inside));
                }
            }
            _ => take(&mut merged, section, section.to_owned(), is),
        }
    }
    (merged, applied, needs_restart)
}

fn keys<'a>(old: &'a Table, new: &'a Table) -> BTreeSet<&'a str> {
    old.keys().chain(new.keys()).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "[node]\nregion = 'eu'\ndata_dir = 'd'\n[domains]\nglobal = 'x'\n[c2s]\ncertificate = 'c'\nkey = 'k'\n\
        [limits]\nroster_items_max = 5\nparked_bytes_max = '1MiB'\n";

    fn reread(after: &str) -> Result<Reread, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, BEFORE).expect("written");
        let (_, source) = Source::load(&file).expect("good");
        std::fs::write(&file, after).expect("written");
        source.reread()
    }

    #[test]
    fn what_can_change_does_and_what_cannot_is_named() {
        let after = BEFORE
            .replace("roster_items_max = 5", "vcard_bytes_max = '100KiB'")
            .replace("1MiB", "2MiB")
            .replace("'k'", "'other'")
            + "[registration]\nenabled = true\n[[external_services]]\ntype = 'stun'\nhost = 'h'\n[http]\nlisten = ['127.0.0.1:1']\n";
        let done = reread(&after).unwrap_or_else(|error| panic!("{error:?}"));
        let applied = [
            "c2s.key",
            "external_services",
            "limits.roster_items_max",
            "limits.vcard_bytes_max",
            "registration.enabled",
        ];
        assert_eq!(done.applied, applied);
        assert_eq!(done.needs_restart, ["http.listen", "limits.parked_bytes_max"]);
        let limits = &done.config.limits;
        assert_eq!((limits.roster_items_max, limits.vcard_bytes_max), (2_000, 100 << 10));
        assert_eq!(limits.parked_bytes_max, 1 << 20, "it keeps its value");
        assert!(done.config.registration.enabled && done.config.http.listen[0].port() == 5280);
        assert!(done.config.c2s.key.ends_with("other"));
    }

    #[test]
    fn a_service_begins_with_its_section_and_one_that_goes_on_keeps_it() {
        let upload = "[upload]\nurl = 'http://a'\n[http]\nlisten = ['127.0.0.1:1']\n";
        let port = BEFORE.to_owned() + "[http]\nlisten = ['127.0.0.1:1']\n";
        let named = |text: &str, name: &str| {
            text.replace("global = 'x'\n", &format!("global = 'x'\nupload = '{name}'\n"))
        };
        let between = |before: &str, after: &str| {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("node.toml");
            std::fs::write(&file, before).expect("written");
            let (_, source) = Source::load(&file).expect("good");
            std::fs::write(&file, after).expect("written");
            source.reread().unwrap_or_else(|error| panic!("{error:?}"))
        };
        let on = named(&(BEFORE.to_owned() + upload), "u.x");
        let done = between(&port, &on);
        assert_eq!(done.applied, ["domains.upload", "upload.url"]);
        assert_eq!(done.config.upload.url.as_deref(), Some("http://a"));
        // Another name, and other settings: those wait.
        let other = on.replace("u.x", "f.x").replace("//a", "//b");
        let done = between(&on, &other);
        assert_eq!(
            (done.applied, done.needs_restart),
            (vec!["domains.upload".into()], vec!["upload.url".into()])
        );
        assert_eq!(done.config.domains.upload.as_deref(), Some("f.x"));
        assert_eq!(done.config.upload.url.as_deref(), Some("http://a"), "it keeps its value");
        let done = between(&on, &port);
        assert_eq!(done.applied, ["domains.upload", "upload.url"]);
        assert!(done.needs_restart.is_empty() && done.config.domains.upload.is_none());
    }

    #[test]
    fn a_name_that_needs_what_waits_for_a_restart_waits_too() {
        let deaf = BEFORE.to_owned() + "[http]\nlisten = []\n";
        let hears = deaf.replace("listen = []", "listen = ['127.0.0.1:1']");
        let named = hears.replace("global = 'x'\n", "global = 'x'\nupload = 'u.x'\nanon = 'a.x'\n");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("node.toml");
        std::fs::write(&file, &deaf).expect("written");
        let (_, source) = Source::load(&file).expect("good");
        std::fs::write(&file, named.replace("max = 5", "max = 6")).expect("written");
        let done = source.reread().unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(done.applied, ["limits.roster_items_max"]);
        assert_eq!(done.needs_restart, ["domains.anon", "domains.upload", "http.listen"]);
        assert_eq!((done.config.domains.upload, done.config.limits.roster_items_max), (None, 6));
    }

    #[test]
    fn a_file_that_is_as_it_was_changes_nothing_and_one_that_is_wrong_is_refused() {
        let done = reread(&format!("# a comment\n{BEFORE}")).expect("good");
        assert!(done.applied.is_empty() && done.needs_restart.is_empty());
        for wrong in [format!("{BEFORE}no_such_key = 1\n"), format!("{BEFORE}["), String::new()] {
            assert!(reread(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_live_key_is_a_key() {
        for example in ["one-node", "three-regions"] {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{example}.toml"));
            let text = std::fs::read_to_string(path).expect("an example");
            let mut lines = text.lines().map(|line| line.trim_start_matches(['#', '[']));
            for live in LIVE {
                let last = live.rsplit('.').next().unwrap_or_default();
                let named = |line: &str| {
                    let rest = line.strip_prefix(*live).or(line.strip_prefix(last));
                    rest.is_some_and(|rest| rest.starts_with([' ', ']']))
                };
                assert!(lines.clone().any(named), "{live} in {example}");
            }
            assert!(lines.next().is_some());
        }
    }
}
