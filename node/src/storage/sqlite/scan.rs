//! All rows in order, and a range of them replaced: what a snapshot reads at the home and writes at a replica.

use std::collections::BTreeSet;

use sqlx::{Connection, Row as _, SqliteConnection, SqlitePool};

use super::write::{self, Insert};
use super::{failed_write, may_write};
use crate::storage::{Place, Replace, Row, Shelf, StorageError, from_sql, row_bytes, to_sql};

/// Rows asked for at once.
const SLICE: i64 = 128;

/// A page of rows after a place. Empty only at the end of both tables.
pub(super) async fn rows(
    pool: &SqlitePool,
    after: Option<Place>,
    bytes_max: usize,
) -> Result<Vec<Row>, sqlx::Error> {
    let mut page = match &after {
        Some(Place::Item(..)) => Vec::new(),
        after => values(pool, after.as_ref()).await?,
    };
    if page.is_empty() {
        let after = after.filter(|after| matches!(after, Place::Item(..)));
        page = items(pool, after.as_ref()).await?;
    }
    let mut bytes = 0;
    let fits = page.iter().take_while(|row| {
        bytes += row_bytes(row);
        bytes <= bytes_max
    });
    let fits = fits.count().max(1);
    page.truncate(fits);
    Ok(page)
}

/// The first shelves after one.
pub(super) async fn shelves(
    pool: &SqlitePool,
    after: Option<Shelf>,
    max: usize,
) -> Result<Vec<Shelf>, sqlx::Error> {
    const VALUES: &str = "SELECT DISTINCT store, owner FROM kv WHERE (store, owner) > (?, ?) \
         ORDER BY store, owner LIMIT ?";
    const ITEMS: &str = "SELECT DISTINCT store, owner FROM archive WHERE (store, owner) > (?, ?) \
         ORDER BY store, owner LIMIT ?";
    let mut found = Vec::new();
    for (is_archive, sql) in [(false, VALUES), (true, ITEMS)] {
        let (store, owner) = match &after {
            Some(after) if after.is_archive && !is_archive => continue,
            Some(after) if after.is_archive == is_archive => (&*after.store, &*after.owner),
            // No store is "".
            _ => ("", ""),
        };
        let left = max - found.len();
        let rows = sqlx::query(sql)
            .bind(store)
            .bind(owner)
            .bind(i64::try_from(left).unwrap_or(i64::MAX))
            .fetch_all(pool)
            .await?;
        for row in rows {
            let (store, owner) = (row.try_get(0)?, row.try_get(1)?);
            found.push(Shelf { is_archive, store, owner });
        }
    }
    Ok(found)
}

async fn values(pool: &SqlitePool, after: Option<&Place>) -> Result<Vec<Row>, sqlx::Error> {
    let query = match after {
        Some(Place::Value(store, owner, key)) => sqlx::query(
            "SELECT store, owner, key, value FROM kv WHERE (store, owner, key) > (?, ?, ?) \
             ORDER BY store, owner, key LIMIT +?",
        )
        .bind(store.as_str())
        .bind(owner.as_str())
        .bind(key.as_str()),
        _ => sqlx::query(
            "SELECT store, owner, key, value FROM kv ORDER BY store, owner, key LIMIT +?",
        ),
    };
    let rows = query.bind(SLICE).fetch_all(pool).await?;
    let row = |row: sqlx::sqlite::SqliteRow| {
        Ok((Place::Value(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?), row.try_get(3)?))
    };
    rows.into_iter().map(row).collect()
}

async fn items(pool: &SqlitePool, after: Option<&Place>) -> Result<Vec<Row>, sqlx::Error> {
    let query = match after {
        Some(Place::Item(store, owner, id)) => sqlx::query(
            "SELECT store, owner, id, value FROM archive WHERE (store, owner, id) > (?, ?, ?) \
             ORDER BY store, owner, id LIMIT +?",
        )
        .bind(store.as_str())
        .bind(owner.as_str())
        .bind(to_sql(*id)),
        _ => sqlx::query(
            "SELECT store, owner, id, value FROM archive ORDER BY store, owner, id LIMIT +?",
        ),
    };
    let rows = query.bind(SLICE).fetch_all(pool).await?;
    let row = |row: sqlx::sqlite::SqliteRow| {
        let id = from_sql(row.try_get(2)?);
        Ok((Place::Item(row.try_get(0)?, row.try_get(1)?, id), row.try_get(3)?))
    };
    rows.into_iter().map(row).collect()
}

/// Deletes the owned rows of the range and inserts the given ones, in one transaction. Which owners are owned is known
/// outside of SQL only, so the range is read first.
pub(super) async fn replace(
    pool: &SqlitePool,
    pen: u64,
    replace: Replace<'_>,
) -> Result<Vec<Place>, StorageError> {
    let mut conn = pool.acquire().await.map_err(failed_write)?;
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed_write)?;
    may_write(&mut tx, pen).await?;
    let gone = replace_in(&mut tx, replace).await.map_err(failed_write)?;
    tx.commit().await.map_err(failed_write)?;
    Ok(gone)
}

async fn replace_in(
    tx: &mut SqliteConnection,
    replace: Replace<'_>,
) -> Result<Vec<Place>, sqlx::Error> {
    let within = |place: &Place| {
        replace.from.as_ref().is_none_or(|from| place > from)
            && replace.to.as_ref().is_none_or(|to| place <= to)
    };
    // Keys only, without an upper bound in SQL where the range ends in the other table or at the very end.
    let from_value = match &replace.from {
        None => Some((String::new(), String::new(), String::new())),
        Some(Place::Value(s, o, k)) => Some((s.clone(), o.clone(), k.clone())),
        Some(Place::Item(..)) => None,
    };
    let mut gone = Vec::new();
    if let Some((store, owner, key)) = from_value {
        let rows = match &replace.to {
            Some(Place::Value(to_store, to_owner, to_key)) => sqlx::query(
                "SELECT store, owner, key FROM kv WHERE (store, owner, key) >= (?, ?, ?) \
                 AND (store, owner, key) <= (?, ?, ?)",
            )
            .bind(store)
            .bind(owner)
            .bind(key)
            .bind(to_store.as_str())
            .bind(to_owner.as_str())
            .bind(to_key.as_str()),
            _ => sqlx::query(
                "SELECT store, owner, key FROM kv WHERE (store, owner, key) >= (?, ?, ?)",
            )
            .bind(store)
            .bind(owner)
            .bind(key),
        };
        for row in rows.fetch_all(&mut *tx).await? {
            gone.push(Place::Value(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
    }
    if !matches!(&replace.to, Some(Place::Value(..))) {
        let (store, owner, id) = match &replace.from {
            Some(Place::Item(store, owner, id)) => (store.as_str(), owner.as_str(), *id),
            _ => ("", "", 0),
        };
        let rows = match &replace.to {
            Some(Place::Item(to_store, to_owner, to_id)) => sqlx::query(
                "SELECT store, owner, id FROM archive WHERE (store, owner, id) >= (?, ?, ?) \
                 AND (store, owner, id) <= (?, ?, ?)",
            )
            .bind(store)
            .bind(owner)
            .bind(to_sql(id))
            .bind(to_store.as_str())
            .bind(to_owner.as_str())
            .bind(to_sql(*to_id)),
            _ => sqlx::query(
                "SELECT store, owner, id FROM archive WHERE (store, owner, id) >= (?, ?, ?)",
            )
            .bind(store)
            .bind(owner)
            .bind(to_sql(id)),
        };
        for row in rows.fetch_all(&mut *tx).await? {
            let id = from_sql(row.try_get(2)?);
            gone.push(Place::Item(row.try_get(0)?, row.try_get(1)?, id));
        }
    }
    gone.retain(|place| within(place) && (replace.owned)(place.owner()));
    for place in &gone {
        let query = match place {
            Place::Value(store, owner, key) => {
                sqlx::query("DELETE FROM kv WHERE store = ? AND owner = ? AND key = ?")
                    .bind(store.as_str())
                    .bind(owner.as_str())
                    .bind(key.as_str())
            }
            Place::Item(store, owner, id) => {
                sqlx::query("DELETE FROM archive WHERE store = ? AND owner = ? AND id = ?")
                    .bind(store.as_str())
                    .bind(owner.as_str())
                    .bind(to_sql(*id))
            }
        };
        query.execute(&mut *tx).await?;
    }
    let (mut values, mut items) = (Vec::new(), Vec::new());
    for (place, value) in &replace.rows {
        match place {
            _ if !(replace.owned)(place.owner()) => {}
            Place::Value(store, owner, key) => values.push(Insert::Value(store, owner, key, value)),
            Place::Item(store, owner, id) => items.push(Insert::Item(store, owner, *id, value)),
        }
    }
    write::insert(tx, &mut values).await?;
    write::insert(tx, &mut items).await?;
    let stays: BTreeSet<&Place> = replace.rows.iter().map(|(place, _)| place).collect();
    gone.retain(|place| !stays.contains(place));
    Ok(gone)
}
