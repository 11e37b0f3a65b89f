//! What only the whole shows: defaults that come from another section, and values that do not fit each other.
//!
//! Called once by `Config::parse`, after every section has been read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::table::Document;
use crate::{AuthBackend, Config, Database, Durability};

/// Fills in the defaults that one section takes from another.
pub(crate) fn complete(config: &mut Config) {
    let or = |path: &mut std::path::PathBuf, default: &Path| {
        if path.as_os_str().is_empty() {
            *path = default.to_owned();
        }
    };
    if let Database::Sqlite(file) = &mut config.storage.database {
        or(file, &config.node.data_dir.join("pangaea.sqlite"));
    }
    or(&mut config.metadata.dir, &config.node.data_dir.join("metadata"));
    if config.redis.prefix.is_empty() {
        config.redis.prefix = format!("pangaea:{}", config.node.region);
    }
    or(&mut config.upload.dir, &config.node.data_dir.join("upload"));
    or(&mut config.s2s.certificate, &config.c2s.certificate);
    or(&mut config.s2s.key, &config.c2s.key);
}

/// Notes everything that does not fit.
pub(crate) fn whole(config: &Config, document: &Document<'_>) {
    plain_only_on_loopback(config, document);
    every_listener_once(config, document);
    a_region_has_its_own_name(config, document);
    no_service_has_a_regions_name(config, document);
    certificate_with_key(config, document);
    admins_at_home(config, document);
    names_are_taken_elsewhere(config, document);
    peers(config, document);
    uploads(config, document);
    components(config, document);
}

/// The region whose own domain that is, if it is one's.
fn region_of(config: &Config, name: &str) -> Option<String> {
    let region = name.strip_suffix(&config.domains.global)?.strip_suffix('.')?;
    config.regions().into_iter().find(|known| *known == *region)
}

/// A region's own domain is nobody else's.
fn no_service_has_a_regions_name(config: &Config, document: &Document<'_>) {
    for (key, name) in config.domains.all() {
        let region = region_of(config, name).filter(|_| !["global", "regional"].contains(&key));
        if let Some(region) = region {
            let found = format!("{name:?}, the name of the region {region}");
            document.refuse(&format!("domains.{key}"), "a name of its own", found);
        }
    }
}

/// A component's domain is nobody else's.
fn components(config: &Config, document: &Document<'_>) {
    let ours = config.domains.all();
    let all = &config.components.component;
    for (at, component) in all.iter().enumerate().filter(|(_, one)| !one.domain.is_empty()) {
        let name = &component.domain;
        let of_region = || region_of(config, name).map(|region| format!("the region {region}"));
        let taken = ours.iter().find(|(_, domain)| domain == name);
        let taken = taken.map(|(key, _)| format!("domains.{key}")).or_else(of_region);
        let taken = taken.or_else(|| {
            let earlier = all[..at].iter().any(|other| other.domain == *name);
            earlier.then(|| "another component".to_owned())
        });
        if let Some(whose) = taken {
            let key = format!("components.component[{at}].domain");
            document.refuse(&key, "a name of its own", format!("{name:?}, the name of {whose}"));
        }
        for (of, delegation) in component.delegations.iter().enumerate() {
            let namespace = &delegation.namespace;
            let same = |other: &crate::Delegation| other.namespace == *namespace;
            let before = component.delegations[..of].iter();
            let mut before = before.chain(all[..at].iter().flat_map(|other| &other.delegations));
            if before.any(same) {
                let key = format!("components.component[{at}].delegation[{of}].namespace");
                document.refuse(
                    &key,
                    "a namespace that is delegated once",
                    format!("{namespace:?} again"),
                );
            }
        }
    }
}

/// All regions know each other's domains, and who is on them, without being told.
fn a_region_has_its_own_name(config: &Config, document: &Document<'_>) {
    let named = config.domains.regional.as_ref().filter(|name| !name.is_empty());
    let expected = config.domains.regional_of(&config.node.region);
    let is_known = !config.domains.global.is_empty() && !config.node.region.is_empty();
    if let Some(name) = named.filter(|name| is_known && **name != expected) {
        document.refuse("domains.regional", format!("{expected:?}"), format!("{name:?}"));
    }
}

fn uploads(config: &Config, document: &Document<'_>) {
    let on = config.domains.upload.is_some();
    if on && config.http.listen.is_empty() {
        document.refuse("domains.upload", "an address in http.listen with it", "none");
    }
    let first = config.http.listen.first().filter(|address| address.ip().is_unspecified());
    if let (true, None, Some(first)) = (on, &config.upload.url, first) {
        let expected = "the address at which clients reach http.listen, which says no host";
        document.refuse("upload.url", expected, format!("nothing, and {first}"));
    }
    if on && config.upload.key.is_none() && !config.peers.is_empty() {
        document.refuse("upload.key", "a key, the same in every node", "none");
    }
}

fn plain_only_on_loopback(config: &Config, document: &Document<'_>) {
    let open = config.c2s.listen.iter().find(|address| !address.ip().is_loopback());
    if let (true, Some(open)) = (config.c2s.allow_plain_without_tls, open) {
        document.refuse(
            "c2s.allow_plain_without_tls",
            "false, unless every address of c2s.listen is a loopback address",
            format!("true, with {open}"),
        );
    }
}

fn every_listener_once(config: &Config, document: &Document<'_>) {
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    let listeners = [
        ("c2s.listen", &config.c2s.listen),
        ("c2s.listen_tls", &config.c2s.listen_tls),
        ("s2s.listen", &config.s2s.listen),
        ("s2s.listen_tls", &config.s2s.listen_tls),
        ("http.listen", &config.http.listen),
        ("components.listen", &config.components.listen),
        ("proxy.listen", &config.proxy.listen),
    ];
    let used = |key: &str| key != "proxy.listen" || config.domains.proxy.is_some();
    for (key, addresses) in listeners.into_iter().filter(|(key, _)| used(key)) {
        for address in addresses.iter().filter(|address| address.port() != 0) {
            if let Some(other) = seen.insert(*address, key) {
                document.refuse(
                    key,
                    "an address that nothing else listens on",
                    format!("{address}, taken by {other}"),
                );
            }
        }
    }
}

fn certificate_with_key(config: &Config, document: &Document<'_>) {
    let certificate = config.s2s.certificate == config.c2s.certificate;
    let key = config.s2s.key == config.c2s.key;
    if certificate != key {
        let missing = if key { "s2s.key" } else { "s2s.certificate" };
        document.refuse(missing, "both s2s.certificate and s2s.key, or neither", "one of them");
    }
}

fn admins_at_home(config: &Config, document: &Document<'_>) {
    for account in &config.admin.accounts {
        let domain = account.split_once('@').map_or("", |(_, domain)| domain);
        let ours =
            domain == config.domains.global || config.domains.regional.as_deref() == Some(domain);
        if !ours && !config.domains.global.is_empty() {
            document.refuse(
                "admin.accounts",
                format!("accounts of {}", config.domains.global),
                format!("{account:?}"),
            );
        }
    }
}

/// Whoever registers a name first would have it, also when it is somebody's in another backend.
fn names_are_taken_elsewhere(config: &Config, document: &Document<'_>) {
    let elsewhere = config.auth.backends.iter().any(|backend| *backend != AuthBackend::Internal);
    if config.registration.enabled && elsewhere {
        document.refuse(
            "registration.enabled",
            "false, where [[auth.backends]] has others than \"internal\"",
            "true",
        );
    }
}

fn peers(config: &Config, document: &Document<'_>) {
    let mut names = vec![config.node_name()];
    let mut raft_ids = vec![config.metadata.raft_id];
    let mut fingerprints = Vec::new();
    for (at, peer) in config.peers.iter().enumerate() {
        let key = |key: &str| format!("peers[{at}].{key}");
        if peer.region.is_empty() {
            continue; // Already noted.
        }
        let name = peer.name();
        if names.contains(&name) {
            let found = if names[0] == name {
                format!("{name}, which is this node")
            } else {
                format!("{name} again")
            };
            document.refuse(&key("region"), "another node than those named before", found);
        }
        names.push(name);
        if raft_ids.contains(&peer.raft_id) {
            document.refuse(
                &key("raft_id"),
                "a number that no other node has (this node's is metadata.raft_id)",
                format!("{} again", peer.raft_id),
            );
        }
        raft_ids.push(peer.raft_id);
        if peer.fingerprint.0 != [0; 32] && fingerprints.contains(&peer.fingerprint) {
            document.refuse(
                &key("fingerprint"),
                "a certificate of its own",
                "the fingerprint of another peer".to_owned(),
            );
        }
        fingerprints.push(peer.fingerprint);
    }
    if config.geo.durability == Durability::TwoRegions
        && config.peers.iter().all(|peer| peer.region == config.node.region)
    {
        document.refuse(
            "geo.durability",
            "another region among [[peers]], or \"one-region\"",
            "\"two-regions\", and there is one",
        );
    }
    let no_voter = !config.metadata.voter && config.peers.iter().all(|peer| !peer.voter);
    // With a Redis, those who vote may be found there.
    if no_voter && config.redis.url.is_none() {
        document.refuse("metadata.voter", "true, here or for some peer", "nobody who votes");
    }
    if !config.peers.is_empty() && config.s2s.listen.is_empty() {
        document.refuse("s2s.listen", "an address where the peers connect", "none");
    }
}
