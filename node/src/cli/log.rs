//! The log of a running node: `tracing` to standard error, as `[log]` says. `PANGAEA_LOG` wins over `log.filter`, also when that changes.

use std::io::IsTerminal;

use config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::app::SetFilter;

/// Starts logging, and gives back how to log more or less. A filter that is not understood is an error, not silence.
pub(super) fn start(log: &Log) -> miette::Result<SetFilter> {
    let (filter, origin) = match std::env::var("PANGAEA_LOG") {
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
            set(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            set(move |filter| handle.reload(filter))
        }
    })
}

fn set(
    reload: impl Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send + 'static,
) -> SetFilter {
    Box::new(move |filter| {
        if std::env::var_os("PANGAEA_LOG").is_some() {
            return Ok(());
        }
        let filter = EnvFilter::try_new(filter)
            .map_err(|cause| format!("log.filter is {filter:?}: {cause}"))?;
        reload(filter).map_err(|error| error.to_string())
    })
}
