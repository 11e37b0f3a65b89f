//! The first accounts: one database made once, and copied for each node before its first start, to a file or to a server.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use config::Database;
use xmpp::BareJid;
use xmpp::sasl::{Hash, SALT_BYTES, ScramKeys};

use super::plan::Plan;
use crate::homes::META_GENESIS;
use crate::homes::accounts::{Account, genesis_accounts};
use crate::storage::{self, Replace, StorageError};

/// PBKDF2 rounds of the test accounts: the least that clients accept (RFC 7677 §4), so that many are made soon.
const ITERATIONS: u32 = 4_096;

/// Makes `DIR/genesis.sqlite` with `accounts`, unless it is there, and gives a copy to every region that has no
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
        fs::rename(&unfinished, &genesis)
            .map_err(|cause| miette::miette!("cannot write {}: {cause}", genesis.display()))?;
    }
    let in_file = |region: &str| plan.database(region).is_none();
    for node in plan.nodes.iter().filter(|node| node.index == 0 && in_file(&node.region)) {
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

/// Where the regions' databases are on a server: makes those that are missing, and puts what is in `DIR/genesis.sqlite` into each that
/// has not been begun.
pub(super) async fn fill_databases(dir: &Path, plan: &Plan) -> miette::Result<()> {
    for region in &plan.regions {
        let Some((database, name)) = plan.database(region) else { continue };
        let failed = |cause: &dyn std::fmt::Display| miette::miette!("{database}: {cause}");
        match &database {
            Database::Postgres(url) => storage::postgres::create(url.expose(), &name).await,
            Database::Mysql(url) => storage::mysql::create(url.expose(), &name).await,
            Database::Sqlite(_) => Ok(false),
        }
        .map_err(|cause| failed(&cause))?;
        fill(&dir.join("genesis.sqlite"), &database).await.map_err(|cause| failed(&cause))?;
    }
    Ok(())
}

async fn fill(genesis: &Path, database: &Database) -> Result<(), StorageError> {
    let to = storage::open::open(&config::Storage::of(database.clone())).await?;
    if to.meta(META_GENESIS).await?.is_none() && to.log_head().await? == 0 {
        let from =
            storage::open::open(&config::Storage::of(Database::Sqlite(genesis.into()))).await?;
        let mut after = None;
        loop {
            let rows = from.rows(after.clone(), 1 << 20).await?;
            let Some((last, _)) = rows.last() else { break };
            let last = Some(last.clone());
            let from = after.take();
            to.replace(Replace { from, to: last.clone(), owned: &|_| true, rows }).await?;
            after = last;
        }
        // Last: before, it has not been begun.
        if let Some(id) = from.meta(META_GENESIS).await? {
            to.set_meta(META_GENESIS, id).await?;
        }
        from.close().await;
    }
    to.close().await;
    Ok(())
}

/// The accounts (bare JID, password) in a new database at `file`.
async fn write_accounts(file: &Path, accounts: &[(String, String)]) -> miette::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = accounts.chunks(accounts.len().div_ceil(threads).max(1));
    let made: Vec<miette::Result<Vec<(BareJid, Account)>>> = std::thread::scope(|scope| {
        let makers: Vec<_> = parts
            .map(|part| {
                scope.spawn(move || {
                    part.iter().map(|(name, password)| account(name, password)).collect()
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().expect("making keys does not panic")).collect()
    });
    let made: Vec<Vec<(BareJid, Account)>> = made.into_iter().collect::<miette::Result<_>>()?;
    let failed = |cause| miette::miette!("cannot make {}: {cause}", file.display());
    genesis_accounts(file, made.into_iter().flatten()).await.map(drop).map_err(failed)
}

fn account(name: &str, password: &str) -> miette::Result<(BareJid, Account)> {
    let failed = |cause: &dyn std::fmt::Display| miette::miette!("account {name}: {cause}");
    let bare = BareJid::parse(name).map_err(|cause| failed(&cause))?;
    let keys = |hash| {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|cause| failed(&cause))?;
        ScramKeys::derive(hash, password, &salt, ITERATIONS).map_err(|cause| failed(&cause))
    };
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let account = Account {
        scram_sha1: keys(Hash::Sha1)?,
        scram_sha256: keys(Hash::Sha256)?,
        scram_sha512: keys(Hash::Sha512)?,
        created: u64::try_from(created).unwrap_or(u64::MAX),
        disabled: false,
    };
    Ok((bare, account))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sqlite::{Sqlite, SqliteConfig};

    #[tokio::test]
    async fn every_account_can_log_in_with_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("genesis");
        let accounts =
            ["alice", "bob", "user0"].map(|name| (format!("{name}@a.b"), format!("pw {name}")));
        write_accounts(&file, &accounts).await.unwrap();
        let copy = dir.path().join("copy");
        fs::copy(&file, &copy).unwrap();
        let storage = Sqlite::open(SqliteConfig::new(&copy)).await.unwrap();
        for (name, password) in &accounts {
            let bare = BareJid::parse(name).unwrap();
            let account = Account::load(&storage, &bare).await.unwrap().expect("it is there");
            assert!(account.scram_sha1.verify(password) && account.scram_sha256.verify(password));
        }
    }
}
