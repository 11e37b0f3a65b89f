//! What quickstart keeps in its directory: the authority, certificates, configurations, and what the directory is of.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::plan::{Dialled, Plan};
use crate::certs::{self, Authority};

/// Says what a directory was made for: a later start with other regions or another domain is refused.
const MADE_FOR: &str = "quickstart.json";

#[derive(Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct MadeFor {
    domain: String,
    regions: Vec<String>,
}

/// Makes the directory and the certificates, as far as they are not there.
pub(super) fn prepare(dir: &Path, plan: &Plan, ca: Option<&Path>) -> miette::Result<()> {
    fs::create_dir_all(dir).map_err(|cause| failed("make", dir, &cause))?;
    same_as_before(dir, plan)?;
    if ca.is_none() && plan.nodes.iter().all(|node| has_leaf(dir, &node.name, None)) {
        return Ok(());
    }
    let authority = authority(dir, ca)?;
    for node in &plan.nodes {
        if has_leaf(dir, &node.name, Some(authority.certificate())) {
            continue;
        }
        let leaf = authority.issue(&plan.names()).map_err(|cause| miette::miette!("{cause}"))?;
        write_secret(&dir.join(format!("{}.key", node.name)), &leaf.key)?;
        write(&dir.join(format!("{}.pem", node.name)), &leaf.chain)?;
    }
    Ok(())
}

/// Whether a node has a key and a certificate of `authority`, or of that in the directory.
fn has_leaf(dir: &Path, node: &str, authority: Option<&str>) -> bool {
    let read = |name: String| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let authority = authority.map_or_else(|| read("ca.pem".to_owned()), str::to_owned);
    !authority.is_empty()
        && read(format!("{node}.pem")).ends_with(&authority)
        && dir.join(format!("{node}.key")).exists()
}

fn same_as_before(dir: &Path, plan: &Plan) -> miette::Result<()> {
    let file = dir.join(MADE_FOR);
    let now = MadeFor { domain: plan.domain.clone(), regions: plan.regions.clone() };
    let Ok(text) = fs::read_to_string(&file) else {
        let text = serde_json::to_string(&now).expect("our own values are JSON");
        return write(&file, &(text + "\n"));
    };
    let before: MadeFor = serde_json::from_str(&text)
        .map_err(|cause| miette::miette!("{}: {cause}", file.display()))?;
    if before == now {
        return Ok(());
    }
    Err(miette::miette!(
        help = "name another --dir, or remove this one to start afresh",
        "{} was made for --regions {} --domain {}",
        dir.display(),
        before.regions.join(","),
        before.domain
    ))
}

/// The authority of the directory, or the one that was brought; its certificate is then `ca.pem`.
fn authority(dir: &Path, brought: Option<&Path>) -> miette::Result<Authority> {
    let own = dir.join("ca.pem");
    let own_key = dir.join("ca.key");
    let (file, key) = match brought {
        Some(file) => (file.to_owned(), key_of(file, dir)),
        None => (own.clone(), own_key.clone()),
    };
    if brought.is_none() && !own.exists() {
        let authority = Authority::new("Pangaea quickstart test authority")
            .map_err(|cause| miette::miette!("{cause}"))?;
        write_secret(&own_key, &authority.key())?;
        write(&own, authority.certificate())?;
        return Ok(authority);
    }
    let read = |file: &Path| fs::read_to_string(file).map_err(|cause| failed("read", file, &cause));
    let authority = Authority::from_pem(&read(&file)?, &read(&key)?, &key.display().to_string())
        .map_err(|cause| {
            miette::miette!(
                help = "an authority is a certificate and its private key, PEM, in one file, in X.pem and X.key, or in X.pem and X-key.pem",
                "{cause}"
            )
        })?;
    if brought.is_some()
        && fs::read_to_string(&own).ok().as_deref() != Some(authority.certificate())
    {
        let _ = fs::remove_file(&own_key);
        write(&own, authority.certificate())?;
    }
    Ok(authority)
}

/// Where the key of a brought authority is: in the same file, or beside it.
fn key_of(file: &Path, dir: &Path) -> PathBuf {
    if fs::read_to_string(file).is_ok_and(|text| text.contains("PRIVATE KEY-----")) {
        return file.to_owned();
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let beside = [
        file.with_extension("key"),
        file.with_file_name(format!("{stem}-key.pem")),
        dir.join("ca-key"),
    ];
    beside.into_iter().find(|one| one.exists()).unwrap_or_else(|| file.to_owned())
}

/// Writes every node's configuration.
pub(super) fn write_configs(dir: &Path, plan: &Plan, dialled: &Dialled) -> miette::Result<()> {
    let mut fingerprints = BTreeMap::new();
    for node in &plan.nodes {
        let fingerprint = certs::fingerprint_of(&dir.join(format!("{}.pem", node.name)))
            .map_err(|cause| miette::miette!("{cause}"))?;
        fingerprints.insert(node.name.clone(), fingerprint);
    }
    for node in &plan.nodes {
        let text = plan.config(node, dialled, &fingerprints);
        // With the key of uploads, and perhaps a database's password.
        write_secret(&dir.join(format!("{}.toml", node.name)), &text)?;
    }
    Ok(())
}

fn failed(what: &str, file: &Path, cause: &std::io::Error) -> miette::Report {
    miette::miette!("cannot {what} {}: {cause}", file.display())
}

fn write(file: &Path, text: &str) -> miette::Result<()> {
    fs::write(file, text).map_err(|cause| failed("write", file, &cause))
}

/// Writes what only the owner may read.
fn write_secret(file: &Path, text: &str) -> miette::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|cause| failed("write", file, &cause))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Args;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> Plan {
        let words = std::iter::once("quickstart").chain(line.split_whitespace());
        Plan::new(&Line::parse_from(words).args).unwrap()
    }

    #[test]
    fn a_second_start_keeps_everything_and_other_regions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        prepare(dir, &plan(""), None).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let before = (read("ca.pem"), read("eu-0.pem"), read("eu-0.key"));
        prepare(dir, &plan("--port-base 7000"), None).unwrap();
        assert_eq!(before, (read("ca.pem"), read("eu-0.pem"), read("eu-0.key")));
        let error = prepare(dir, &plan("--regions eu,us"), None).unwrap_err();
        assert!(error.to_string().contains("was made for --regions eu,us,ap"), "{error}");
        write_configs(dir, &plan(""), &Dialled::new()).unwrap();
        for node in ["eu-0", "us-0", "ap-0"] {
            config::Config::load(&dir.join(format!("{node}.toml"))).unwrap();
        }
    }

    #[test]
    fn a_brought_authority_signs_in_place_of_the_own_one() {
        let dir = tempfile::tempdir().unwrap();
        let brought = dir.path().join("mine.pem");
        let authority = Authority::new("Mine").unwrap();
        fs::write(&brought, authority.certificate()).unwrap();
        let own = dir.path().join("own");
        assert!(prepare(&own, &plan(""), Some(&brought)).is_err(), "the key is missing");
        fs::write(dir.path().join("mine.key"), authority.key()).unwrap();
        prepare(&own, &plan(""), None).unwrap();
        prepare(&own, &plan(""), Some(&brought)).unwrap();
        let chain = fs::read_to_string(own.join("us-0.pem")).unwrap();
        let ca = fs::read_to_string(own.join("ca.pem")).unwrap();
        assert!(chain.ends_with(&ca));
        assert!(!own.join("ca.key").exists(), "the key of the one before is of no use");
        prepare(&own, &plan(""), None).unwrap();
        assert_eq!(ca, Authority::from_pem(&ca, &authority.key(), "x").unwrap().certificate());
    }
}
