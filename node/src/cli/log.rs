//! The log of a running node: `tracing` to standard error, as `[log]` says. `PANGAEA_LOG` wins over `log.filter`, also when that changes.

use std::io::IsTerminal;

use config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::app::{ReadFilter, SetFilter};

/// The environment's word.
const OVERRULES: &str = "PANGAEA_LOG";

/// Starts logging, and gives back how to log more or less. A filter that is not understood is an error, not silence.
pub(super) fn start(log: &Log) -> miette::Result<ReadFilter> {
    let said = std::env::var(OVERRULES);
    let overruled = said.is_ok();
    let (filter, origin) = match said {
        Ok(filter) => (filter, "the environment variable PANGAEA_LOG"),
        Err(_) => (log.filter.clone(), "log.filter"),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|cause| {
        miette::miette!(
            help = "a level, as in \"info\", or levels by target, as in \"info,s2s=debug\"",
            "{origin} is {filter:?}: {cause}"
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where no line can be written there is no room for a word about that either: it would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    Ok(match log.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            read(overruled, move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            read(overruled, move |filter| handle.reload(filter))
        }
    })
}

/// Reads filters, which `reload` puts in force unless they are overruled.
fn read(
    overruled: bool,
    reload: impl Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Clone + Send + 'static,
) -> ReadFilter {
    Box::new(move |filter| {
        if overruled {
            return Ok(None);
        }
        let filter = EnvFilter::try_new(filter)
            .map_err(|cause| format!("log.filter is {filter:?}: {cause}"))?;
        let reload = reload.clone();
        let set = move || {
            if let Err(error) = reload(filter) {
                // Only if there is no log any more.
                tracing::error!(%error, "log.filter is not in force");
            }
        };
        Ok(Some(Box::new(set) as SetFilter))
    })
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;
    use tracing_subscriber::reload::Layer;

    use super::*;

    #[test]
    fn a_filter_is_in_force_once_it_is_set_and_a_wrong_one_cannot_be() {
        let (_layer, handle) = Layer::<_, Registry>::new(EnvFilter::new("info"));
        let in_force = || handle.with_current(ToString::to_string).expect("it is there");
        let set = handle.clone();
        let read_filter = read(false, move |filter| set.reload(filter));
        let why = read_filter("s2s=loudly").err().expect("wrong");
        assert!(why.contains("s2s=loudly"), "{why}");
        let set_filter = read_filter("info,s2s=debug").expect("good").expect("not overruled");
        assert!(!in_force().contains("s2s"), "only read");
        set_filter();
        assert!(in_force().contains("s2s=debug"));
        let set = handle.clone();
        let overruled = read(true, move |filter| set.reload(filter));
        assert!(overruled("trace").expect("nobody asks").is_none());
    }
}
