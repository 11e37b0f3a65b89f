//! `pangaea check`: is this configuration right? Says `ok` and what the node would do, or all that is wrong.
//!
//! Calls `config`, and looks whether the certificates and what the backends of `auth` need are there; starts and changes nothing.

use std::fmt::Write as _;
use std::path::PathBuf;

use config::Config;

use crate::auth::sources;
use crate::certs;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea check --config /etc/pangaea/eu-0.toml

Prints `ok` and a summary, or every problem with its line, its key and what was expected; then the
exit code is 1. Files that the configuration names and that are not there are told as notes.")]
pub(super) struct Args {
    /// The configuration, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    let config = Config::load(&args.config)?;
    println!("ok\n{}", summary(&config).trim_end());
    for note in notes(&config) {
        println!("note: {note}");
    }
    Ok(())
}

fn summary(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let listed = |addresses: &[std::net::SocketAddr]| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if addresses.is_empty() { "nowhere".to_owned() } else { addresses.join(" ") }
    };
    line("node", format!("{}, data in {}", config.node_name(), config.node.data_dir.display()));
    let domains: Vec<String> =
        config.domains.all().iter().map(|(key, name)| format!("{name} ({key})")).collect();
    line("domains", domains.join(", "));
    line("clients", format!("STARTTLS {}", listed(&config.c2s.listen)));
    line("", format!("TLS      {}", listed(&config.c2s.listen_tls)));
    line("servers", listed(&config.s2s.listen));
    line("federation", federation(&config.s2s));
    line("http", listed(&config.http.listen));
    let kinds: Vec<&str> = config.auth.backends.iter().map(config::AuthBackend::kind).collect();
    line("sign-in", kinds.join(", then "));
    let peers: Vec<String> = config
        .peers
        .iter()
        .map(|peer| {
            let voter = if peer.voter { "" } else { ", learner" };
            format!("{} at {}{voter}", peer.name(), peer.address)
        })
        .collect();
    line(
        "peers",
        if peers.is_empty() { "none: one node alone".to_owned() } else { peers.join(", ") },
    );
    let admins = &config.admin.accounts;
    line("admins", if admins.is_empty() { "nobody".to_owned() } else { admins.join(", ") });
    line("storage", config.storage.database.to_string());
    for (at, partition) in config.storage.partitions.iter().enumerate() {
        line("", format!("partition {}: {partition}", at + 1));
    }
    text
}

fn federation(s2s: &config::S2s) -> String {
    if !s2s.federation {
        return "off: other servers' domains are not found".to_owned();
    }
    let dns: Vec<String> = s2s.dns.iter().map(ToString::to_string).collect();
    let dns = if dns.is_empty() { "of the system".to_owned() } else { dns.join(" ") };
    let tls = match s2s.listen_tls.as_slice() {
        [] => String::new(),
        all => format!(
            ", direct TLS {}",
            all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        ),
    };
    format!("on, DNS {dns}{tls}")
}

/// What is not wrong in the file, and would keep the node from starting all the same.
fn notes(config: &Config) -> Vec<String> {
    let mut pairs = vec![
        ("c2s".to_owned(), &config.c2s.certificate, &config.c2s.key),
        ("s2s".to_owned(), &config.s2s.certificate, &config.s2s.key),
    ];
    for (at, one) in config.c2s.certificates.iter().enumerate() {
        pairs.push((format!("c2s.certificates[{at}]"), &one.certificate, &one.key));
    }
    pairs.dedup_by(|a, b| (a.1, a.2) == (b.1, b.2));
    let mut notes = Vec::new();
    if !config.peers.is_empty() && config.s2s.advertised().is_none() {
        notes.push(
            "s2s.advertise: not set, and s2s.listen has wildcards alone: only nodes that have this one among their \
             [[peers]] can dial it"
                .to_owned(),
        );
    }
    for (section, certificate, key) in pairs {
        if let Err(cause) = certs::read_chain(certificate) {
            notes.push(format!("{section}.certificate: {cause}"));
        }
        if let Err(cause) = certs::read_key(key) {
            notes.push(format!("{section}.key: {cause}"));
        }
    }
    if config.s2s.federation {
        let unusable = s2s::federation::net::unusable(&config.s2s).into_iter();
        notes.extend(unusable.map(|(key, why)| format!("{key}: {why}")));
        let policies = s2s::federation::policy::Policies::read(&config.s2s);
        notes.extend(policies.err().map(|why| format!("s2s.blocklist: {why}")));
    }
    notes.extend(sources::notes(&config.auth, &config.domains.global));
    notes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_summary_names_what_an_operator_looks_for_and_notes_what_is_missing() {
        let text = include_str!("../../../config/examples/three-regions.toml");
        let config = Config::parse(text, "example", Path::new("/nowhere")).unwrap();
        let summary = summary(&config);
        for part in [
            "eu-0",
            "chat.example (global)",
            "us-0 at us0.chat.example:5269",
            "0.0.0.0:5222",
            "on, DNS of the system",
        ] {
            assert!(summary.contains(part), "{part} is missing in:\n{summary}");
        }
        // Whether the system has authorities depends on where this runs.
        let notes_of = |config: &Config| {
            let all = notes(config).into_iter().filter(|note| !note.starts_with("s2s.trust"));
            all.collect::<Vec<_>>()
        };
        assert_eq!(notes_of(&config).len(), 8, "{:?}", notes(&config));
        assert!(notes_of(&config)[7].starts_with("s2s.blocklist"), "{:?}", notes(&config));
        let text = text.replace("\nadvertise = ", "\n#advertise = ");
        let config = Config::parse(&text, "example", Path::new("/nowhere")).unwrap();
        assert!(notes(&config)[0].starts_with("s2s.advertise"), "{:?}", notes(&config));
        let text = include_str!("../../../config/examples/authentication.toml");
        let config = Config::parse(text, "example", Path::new("/nowhere")).unwrap();
        let summary = super::summary(&config);
        assert!(summary.contains("internal, then sql, then ldap, then ldap, then jwt, then http"));
        let missing: Vec<String> =
            notes(&config).into_iter().filter(|note| note.starts_with("auth.")).collect();
        assert_eq!(missing.len(), 4, "{missing:?}");
        assert!(missing[0].starts_with("auth.backends[2] (ldap): /nowhere/directory-ca.pem"));
    }
}
