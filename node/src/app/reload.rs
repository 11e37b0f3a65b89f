//! A running node takes its configuration again: on `SIGHUP`, and when an operator says so (`pangaea ctl reload`). Certificates of clients are
//! read again in any case; of the file what can change does ([`config::reload`]). Everything is read before anything is applied: a file that
//! is wrong changes nothing.

use std::sync::Arc;

use config::reload::{Reread, Source};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Node, build};
use crate::admin::Reloaded;
use crate::federation;

/// Sets how much is logged; in words why it cannot be.
pub type SetFilter = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// What a node needs to take its configuration again.
pub struct Reload {
    /// The file.
    pub source: Source,
    /// The log.
    pub set_filter: SetFilter,
    /// Something comes whenever it shall.
    pub asked: mpsc::Receiver<()>,
}

/// See the room.
#[derive(Default)]
pub struct Reloading(Mutex<Option<(Source, SetFilter)>>);

/// Begins: from now on the node can take its configuration again, and does when it is asked.
pub(super) async fn follow(node: Arc<Node>, reload: Reload) {
    let Reload { source, set_filter, mut asked } = reload;
    *node.reloading.0.lock() = Some((source, set_filter));
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

fn take(node: &Node) -> Result<Reloaded, String> {
    let mut state = node.reloading.0.lock();
    let (source, set_filter) =
        state.as_mut().ok_or("this node was not started from a configuration file")?;
    let reread = source.reread().map_err(|error| {
        let problems = error.problems.iter().map(|problem| format!("; {problem}"));
        format!("{error}{}", problems.collect::<String>())
    })?;
    // Whether the databases are the same is asked of them, before anything is applied.
    let (reread, renewal, refused) = if reread.config.storage == node.config.storage {
        (reread, None, Vec::new())
    } else {
        let renewal = node.storage.renew(&reread.config.storage);
        match tokio::runtime::Handle::current().block_on(renewal) {
            Ok(renewal) => (reread, Some(renewal), Vec::new()),
            Err(why) => {
                let reread =
                    source.reread_without(&["storage"]).map_err(|error| error.to_string())?;
                (reread, None, vec![format!("storage: {why}")])
            }
        }
    };
    let Reread { source: in_force, config, applied, mut needs_restart } = reread;
    let pairs = build::client_pairs(&config).map_err(|error| error.to_string())?;
    let certificates = pairs.len();
    let streams = federation::streams::read(&config).map_err(|error| error.to_string())?;
    // The links show one certificate in all their life: other nodes know its fingerprint.
    if build::link_fingerprint(&config).is_ok_and(|found| found != node.fingerprint)
        && !needs_restart.iter().any(|key| key == "s2s.certificate")
    {
        needs_restart.push("s2s.certificate".to_owned());
    }
    node.tls.reload(pairs).map_err(|error| error.to_string())?;
    if config.log.filter != node.config.log.filter {
        set_filter(&config.log.filter)?;
    }
    if !applied.is_empty() {
        if !node.config.replace(config) {
            return Err("it has changed too often in the life of this node: start it again".into());
        }
        node.offer_again();
        node.registry.reloaded();
    }
    federation::streams::reload(node, streams).map_err(|error| error.to_string())?;
    if let Some(renewal) = renewal {
        renewal();
    }
    *source = in_force;
    Ok(Reloaded { applied, needs_restart, refused, certificates })
}
