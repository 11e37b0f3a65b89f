//! `pangaea migrate`: brings the database of a node up to this version. `run` does the same at start.

use std::path::PathBuf;

use config::{Config, Database};

use crate::storage;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea migrate --config /etc/pangaea/eu-0.toml

`pangaea run` migrates by itself; this is for those who want to do it, and see it done, before. Of several nodes of a region that do it
at the same time one does it, and the others wait.
A database that a newer version has written is refused and left as it is.")]
pub(super) struct Args {
    /// The configuration of the node
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    let config = Config::load(&args.config)?;
    super::small_runtime()?.block_on(migrate(&config))?;
    for database in std::iter::once(&config.storage.database).chain(&config.storage.partitions) {
        println!("{database} is of this version");
    }
    Ok(())
}

/// Opening a database brings it up to this version.
async fn migrate(config: &Config) -> miette::Result<()> {
    if let Database::Sqlite(file) = &config.storage.database
        && let Some(dir) = file.parent()
    {
        std::fs::create_dir_all(dir)
            .map_err(|cause| miette::miette!("cannot make {}: {cause}", dir.display()))?;
    }
    storage::open::migrate(&config.storage).await.map_err(|cause| miette::miette!("{cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_is_made_and_migrating_it_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[node]\nregion = \"eu\"\ndata_dir = \"data\"\n[domains]\nglobal = \"a.b\"\n\
                    [c2s]\ncertificate = \"c\"\nkey = \"k\"\n";
        let config = Config::parse(text, "test", dir.path()).unwrap();
        migrate(&config).await.unwrap();
        assert!(dir.path().join("data/pangaea.sqlite").exists());
        migrate(&config).await.unwrap();
    }
}
