//! `pangaea migrate`: brings the database of a node up to this version. `run` does the same at start.

use std::path::PathBuf;

use config::Config;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea migrate --config /etc/pangaea/eu-0.toml

`pangaea run` migrates by itself; this is for those who want to do it, and see it done, before.")]
pub(super) struct Args {
    /// The configuration of the node
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    let config = Config::load(&args.config)?;
    Err(miette::miette!("no migrations for {} in this version", config.storage.sqlite.display()))
}
