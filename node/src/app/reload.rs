//! A running node takes its configuration again: on `SIGHUP`, and when an operator says so (`pangaea ctl reload`). Certificates of clients are
//! read again in any case; of the file what can change does ([`config::reload`]). Everything that can fail is done before anything is applied: a
//! file that is wrong, or names one that is, changes nothing.

use std::sync::Arc;

use config::reload::{Reread, Source};
use config::{Config, ConfigError, Delegation};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use xmpp::stream::error::StreamError;

use super::{Node, build};
use crate::admin::Reloaded;
use crate::components;
use crate::federation;
use crate::router::{Named, perform};
use crate::service::{self, Running};

/// Reads how much is to be logged; in words why it cannot be. `None`: something else says how much is.
pub type ReadFilter = Box<dyn Fn(&str) -> Result<Option<SetFilter>, String> + Send>;

/// Puts that in force.
pub type SetFilter = Box<dyn FnOnce() + Send>;

/// What a node needs to take its configuration again.
pub struct Reload {
    /// The file.
    pub source: Source,
    /// The log.
    pub read_filter: ReadFilter,
    /// Something comes whenever it shall.
    pub asked: mpsc::Receiver<()>,
}

/// See the room.
#[derive(Default)]
pub struct Reloading(Mutex<Option<(Source, ReadFilter)>>);

/// Begins: from now on the node can take its configuration again, and does when it is asked.
pub(super) async fn follow(node: Arc<Node>, reload: Reload) {
    let Reload { source, read_filter, mut asked } = reload;
    *node.reloading.0.lock() = Some((source, read_filter));
    while asked.recv().await.is_some() {
        match now(&node).await {
            Ok(done) => tracing::info!(
                applied = done.applied.join(" "),
                needs_restart = done.needs_restart.join(" "),
                refused = done.refused.join("; "),
                certificates = done.certificates,
                "the configuration was read again"
            ),
            Err(why) => tracing::error!("the configuration stays as it was: {why}"),
        }
    }
}

/// Takes it again, on a thread that may read files.
///
/// # Errors
/// In words why not; then nothing has changed.
pub(super) async fn now(node: &Arc<Node>) -> Result<Reloaded, String> {
    let node = node.clone();
    let done = tokio::task::spawn_blocking(move || take(&node)).await;
    done.map_err(|error| error.to_string())?
}

fn take(node: &Arc<Node>) -> Result<Reloaded, String> {
    let mut state = node.reloading.0.lock();
    let (source, read_filter) =
        state.as_mut().ok_or("this node was not started from a configuration file")?;
    let said = |error: ConfigError| {
        let problems = error.problems.iter().map(|problem| format!("; {problem}"));
        format!("{error}{}", problems.collect::<String>())
    };
    let mut reread = source.reread().map_err(said)?;
    let held = held(&reread.config, &node.config);
    if !held.is_empty() {
        reread = source.reread_holding(&held).map_err(said)?;
    }
    // Whether the databases are the same is asked of them. What is in force is what the connections use: both change below, or neither.
    let (reread, renewal, mut refused) = if reread.config.storage == node.config.storage {
        (reread, None, Vec::new())
    } else {
        let renewal = node.storage.renew(&reread.config.storage);
        match tokio::runtime::Handle::current().block_on(renewal) {
            Ok(renewal) => (reread, Some(renewal), Vec::new()),
            Err(why) => {
                let reread = source.reread_but(&held, &["storage"]).map_err(said)?;
                (reread, None, vec![format!("storage: {why}")])
            }
        }
    };
    let Reread { source: in_force, config, mut applied, mut needs_restart } = reread;
    let pairs = build::client_pairs(&config).map_err(|error| error.to_string())?;
    let certificates = pairs.len();
    let pairs = node.tls.ready(pairs).map_err(|error| error.to_string())?;
    let streams = federation::streams::read_again(node, &config);
    let streams = streams.map_err(|error| error.to_string())?;
    let is_another = config.log.filter != node.config.log.filter;
    let filter = is_another.then(|| read_filter(&config.log.filter)).transpose()?;
    let known = build::read_components(&config).map_err(|error| error.to_string())?;
    let services = service::begin_anew(node, &config).map_err(|error| error.to_string())?;
    let mut named = Named::new(&config, services.services().hosts());
    let before = &node.domains.named;
    let is_new = |name: &&str| before.names().all(|other| other != *name);
    let is_taken = |name: &&str| node.domains.elsewhere.contains(*name);
    if let Some(name) = named.names().filter(is_new).find(is_taken) {
        return Err(format!("{name} is the name of a region"));
    }
    named.remember(before);
    let other_names = named != **before;
    let other_secrets = node.components.has_other_secrets(&known);
    let other_components = other_secrets || config.components != node.config.components;
    let is_changed = !applied.is_empty();
    let has_room = (!is_changed || node.config.has_room())
        && (!(other_components || other_names) || node.components.has_room());
    if !has_room {
        return Err("it has changed too often in the life of this node: start it again".into());
    }
    // The links show one certificate in all their life: other nodes know its fingerprint.
    if build::link_fingerprint(&config).is_ok_and(|found| found != node.fingerprint)
        && !needs_restart.iter().any(|key| key == "s2s.certificate")
    {
        needs_restart.push("s2s.certificate".to_owned());
    }
    // Everything is read. From here on nothing can fail.
    node.tls.reload(pairs);
    match filter {
        Some(Some(set_filter)) => set_filter(),
        Some(None) => {
            applied.retain(|key| key != "log.filter");
            refused.push("log.filter: PANGAEA_LOG is set, and wins".to_owned());
        }
        None => {}
    }
    if let Some(renewal) = renewal {
        renewal();
    }
    let components = config.components.clone();
    let guests = node.domains.named.anon.clone();
    let mut ended = Running::default();
    let replace = || {
        if other_names {
            ended = services.replace(node);
            let replaced = node.domains.named.replace(named);
            assert!(replaced, "names change no more often than the configuration");
        }
        let replaced = !is_changed || node.config.replace(config);
        assert!(replaced, "there was room, and nobody else reloads meanwhile");
    };
    match other_components || other_names {
        true => components::reload(node, known, &components, replace),
        false => replace(),
    }
    if !guests.is_empty() && !node.domains.has_guests(&guests) {
        end_sessions(node, &guests);
    }
    tokio::runtime::Handle::current().block_on(ended.shutdown());
    if is_changed {
        node.offer_again();
        node.turnstile.set_rate(node.config.limits.sign_ins);
        node.registry.reloaded();
    }
    // In a file that the configuration names.
    if other_secrets && !applied.iter().any(|key| key.starts_with("components.")) {
        applied.push("components.component".to_owned());
    }
    if let Some(streams) = streams {
        federation::streams::reload(node, streams);
    }
    *source = in_force;
    Ok(Reloaded { applied, needs_restart, refused, certificates })
}

/// Nobody signs in at that domain any more: who has (`Node::bind`) leaves.
fn end_sessions(node: &Node, domain: &str) {
    let mut seats = Vec::new();
    node.directory.for_each(|row| seats.extend(row.here().cloned()));
    for seat in seats.iter().filter(|seat| seat.bare.domain() == domain) {
        perform::close(seat, StreamError::host_gone());
    }
}

/// Keys that keep their value until a restart, though others like them need none.
fn held(new: &Config, old: &Config) -> Vec<&'static str> {
    fn delegated(config: &Config) -> Vec<(&String, &Vec<Delegation>)> {
        let all = config.components.component.iter().map(|one| (&one.domain, &one.delegations));
        all.filter(|(_, delegations)| !delegations.is_empty()).collect()
    }
    let mut held = Vec::new();
    // Partitions are opened by a start. What else is new of storage need not wait for one.
    if new.storage.partitions.len() != old.storage.partitions.len() {
        held.push("storage.partitions");
    }
    // What is delegated the server advertises from its start on.
    if delegated(new) != delegated(old) {
        held.push("components.component");
    }
    held
}

#[cfg(test)]
mod tests;
