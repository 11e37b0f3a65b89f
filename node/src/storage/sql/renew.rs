//! Other connections to the same database while it is used: another address, another password, more of them.
//!
//! That it is the same is known by the facts that it keeps about itself: the name of its log, or whose partition it is. And it must have all that
//! was committed: a stand-in that followed at its leisure may lack what was acknowledged. What is under way on the old connections ends there; what
//! fails there is tried again on the new ones, as after any other loss of a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::ConnectOptions;
use tokio::time::timeout;

use super::driver::{Driver, Value};
use super::write::Write;
use super::{Inner, Link, ServerConfig};
use crate::storage::{Renewal, StorageError};

/// The facts by which a database is known.
const FACTS: [&str; 2] = ["log", "partition"];

/// What is known of the database in use.
#[derive(Debug, Default)]
pub(super) struct Known {
    facts: BTreeMap<&'static str, Vec<u8>>,
    /// The newest entry that was committed here.
    head: u64,
}

impl Known {
    /// A fact was read.
    pub(super) fn fact(&mut self, name: &str, value: &[u8]) {
        if let Some(fact) = FACTS.into_iter().find(|fact| *fact == name) {
            self.facts.insert(fact, value.to_vec());
        }
    }

    /// Something was written.
    pub(super) fn written(&mut self, write: &Write) {
        match write {
            Write::Meta { name, value } => self.fact(name, value),
            Write::Home { entries, .. } => {
                self.head = entries.last().map_or(self.head, |last| self.head.max(last.seq));
            }
            _ => {}
        }
    }
}

pub(super) async fn renew<D: Driver>(
    inner: &Arc<Inner<D>>,
    storage: &config::Storage,
) -> Result<Renewal, StorageError> {
    let refuse = |why: String| StorageError::NotTheSame {
        name: storage.database.to_string(),
        used: inner.reading.name(),
        why,
    };
    let url =
        D::url(&storage.database).ok_or_else(|| refuse("it is of another kind".to_owned()))?;
    let config = ServerConfig::of(storage, url);
    let options = D::options(&config).map_err(|error| refuse(error.to_string()))?;
    let looked = timeout(config.timeout * 2, look::<D>(&options)).await;
    let looked = looked.map_err(|_| refuse(format!("no answer in {:?}", config.timeout * 2)))?;
    let found = looked.map_err(|error| refuse(error.to_string()))?;
    {
        let known = inner.known.lock();
        if known.facts.is_empty() {
            return Err(refuse("nothing is known yet of the one in use".to_owned()));
        }
        if let Some((fact, _)) =
            known.facts.iter().find(|(fact, value)| found.facts.get(*fact) != Some(value))
        {
            let what = if found.facts.contains_key(fact) { "another" } else { "no" };
            return Err(refuse(format!("it is another database: its {fact} is {what} one")));
        }
        if found.head < known.head {
            let (has, head) = (found.head, known.head);
            return Err(refuse(format!(
                "it lacks changes that were acknowledged: its log ends with {has}, not {head}"
            )));
        }
    }
    let inner = inner.clone();
    Ok(Box::new(move || {
        let name = config.name.clone();
        *inner.link.write() = Arc::new(Link::new(&config, options));
        inner.reading.renewed(name.clone());
        inner.writing.renewed(name.clone());
        tracing::info!(database = %name, "the database has new connections");
    }))
}

/// What a database says of itself, over one connection of its own.
async fn look<D: Driver>(options: &super::Options<D>) -> Result<Known, sqlx::Error> {
    use sqlx::Connection;
    let mut conn = options.connect().await?;
    let mut found = Known::default();
    for name in FACTS {
        let values = [Value::Text(name)];
        let rows = D::select(&mut conn, "SELECT value FROM meta WHERE name = ?", &values).await?;
        if let Some(row) = rows.first()
            && let Some(value) = D::bytes(row, 0)?
        {
            found.fact(name, &value);
        }
    }
    let rows = D::select(&mut conn, "SELECT seq FROM log_head WHERE one = 1", &[]).await?;
    found.head = rows.first().map_or(Ok(0), |row| D::int(row, 0))? as u64;
    conn.close().await?;
    Ok(found)
}
