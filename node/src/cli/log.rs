//! The log of a running node: `tracing` to standard error, as `[log]` says. `PANGAEA_LOG` wins over `log.filter`.

use std::io::IsTerminal;

use config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging. A filter that is not understood is an error, not silence.
pub(super) fn start(log: &Log) -> miette::Result<()> {
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
        .with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
