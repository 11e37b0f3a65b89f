//! `pangaea run`: one node, from its configuration to a graceful stop.
//!
//! Calls `config` for the configuration and `app::run` for everything else. The first SIGINT or SIGTERM stops the
//! node gracefully, within `node.drain_deadline` and what the last writings take (`app::END_WITHIN`); a second one ends it at once.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use config::Config;
use config::reload::Source;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::app::{END_WITHIN, Reload};

/// What the process waits for an orderly end to say that it has ended.
const GRACE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea run --config /etc/pangaea/eu-0.toml
  PANGAEA_LOG=info,s2s=debug pangaea run --config eu-0.toml

SIGINT or SIGTERM stops the node gracefully; a second one ends it at once.
SIGHUP has it read certificates and configuration again, as `pangaea ctl reload` does.
`pangaea quickstart` writes configurations to start from; config/examples/ explains every key.")]
pub(super) struct Args {
    /// The configuration, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop gracefully when standard input ends, so that a node never outlives the one that started it
    #[arg(long, hide = true)]
    watch_stdin: bool,
}

pub(super) fn main(args: Args) -> miette::Result<()> {
    let (config, source) = Source::load(&args.config)?;
    let read_filter = super::log::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| miette::miette!("the runtime does not start: {cause}"))?;
    let done = runtime.block_on(async {
        let stop = stop_signal(args.watch_stdin)?;
        let reload = Reload { source, read_filter, asked: reload_signal()? };
        Box::pin(until_stopped(config, reload, stop)).await
    });
    // What still runs (a blocking read, a timer) does not hold the process up.
    runtime.shutdown_background();
    done
}

/// The server, which drains when `stop` becomes true; if it does not end in time, it is ended.
async fn until_stopped(
    config: Config,
    reload: Reload,
    mut stop: watch::Receiver<bool>,
) -> miette::Result<()> {
    let name = config.node_name();
    let deadline = config.node.drain_deadline + END_WITHIN + GRACE;
    let too_long = {
        let mut stop = stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
            tokio::time::sleep(deadline).await;
        }
    };
    stop.mark_unchanged();
    tokio::select! {
        done = serve(config, reload, stop) => done,
        () = too_long => Err(miette::miette!("{name} did not stop within {deadline:?}: ended")),
    }
}

/// The node itself. The one line that joins the commands to the server.
async fn serve(config: Config, reload: Reload, stop: watch::Receiver<bool>) -> miette::Result<()> {
    Box::pin(crate::app::run(config, reload, stop))
        .await
        .map_err(|cause| miette::miette!("{cause}"))
}

/// Something for each SIGHUP, or for several that came at once.
fn reload_signal() -> miette::Result<mpsc::Receiver<()>> {
    let (ask, asked) = mpsc::channel(1);
    let failed = |cause| miette::miette!("signals cannot be watched: {cause}");
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that waits already will see this change too.
            let _ = ask.try_send(());
        }
    });
    Ok(asked)
}

/// True once SIGINT or SIGTERM came, or standard input ended if that is watched. A second signal ends the process.
pub(super) fn stop_signal(watch_stdin: bool) -> miette::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let failed = |cause| miette::miette!("signals cannot be watched: {cause}");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    if watch_stdin {
        let stop = stop.clone();
        // A thread, not a task: nothing can cancel a read of standard input, and the process must not wait for it.
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while std::io::stdin().read(&mut buffer).is_ok_and(|n| n > 0) {}
            stop.send_replace(true);
        });
    }
    tokio::spawn(async move {
        for second in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if second {
                std::process::exit(130);
            }
            stop.send_replace(true);
        }
    });
    Ok(stopped)
}
