//! Changes to SQL, many rows a statement. Called by the backend inside its transactions.
//!
//! One statement costs about as much as ten more rows in it, so puts and appends are gathered; whatever could overtake
//! them (a delete of the same key) writes out what was gathered first. Maps and archives are different tables, so only
//! `Clear`, which touches both, orders one against the other.

use std::sync::{Arc, LazyLock};

use replication::Change;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, SqlitePool};

use crate::storage::to_sql;

/// Rows a statement takes; what is left over goes in the next smaller size. Few sizes, so few prepared statements.
const SIZES: [usize; 3] = [100, 10, 1];

/// One INSERT per size for each table: index 0 kv, 1 archive, 2 durable_log, 3 outbox.
static INSERTS: LazyLock<[[Arc<str>; 3]; 4]> = LazyLock::new(|| {
    let insert = |table: &str, columns: &str| {
        let values = columns.split(',').map(|_| "?").collect::<Vec<_>>().join(",");
        SIZES.map(|rows| {
            let row = format!("({values}),").repeat(rows);
            let row = row.trim_end_matches(',');
            Arc::from(format!("INSERT OR REPLACE INTO {table} ({columns}) VALUES {row}"))
        })
    };
    [
        insert("kv", "store, owner, key, value"),
        insert("archive", "store, owner, id, value"),
        insert("durable_log", "seq, shard, epoch, entry"),
        insert("outbox", "node, place, row"),
    ]
});

/// One DELETE per size, of rows of one node's outbox.
static REMOVES: LazyLock<[Arc<str>; 3]> = LazyLock::new(|| {
    SIZES.map(|rows| {
        let places = vec!["?"; rows].join(",");
        Arc::from(format!("DELETE FROM outbox WHERE node = ? AND place IN ({places})"))
    })
});

/// One row to be inserted, by table.
pub(super) enum Insert<'a> {
    /// kv: store, owner, key, value.
    Value(&'a str, &'a str, &'a str, &'a [u8]),
    /// archive: store, owner, id, value.
    Item(&'a str, &'a str, u64, &'a [u8]),
    /// durable_log: sequence number, shard, epoch, encoded entry.
    Log(u64, u8, u64, Vec<u8>),
    /// outbox: node, place, row.
    Out(&'a str, u64, Vec<u8>),
}

/// Inserts rows of one table.
pub(super) async fn insert(
    conn: &mut SqliteConnection,
    rows: &mut Vec<Insert<'_>>,
) -> Result<(), sqlx::Error> {
    let mut rest = rows.drain(..);
    for (place, size) in SIZES.into_iter().enumerate() {
        while rest.len() >= size {
            let table = match rest.as_slice().first() {
                Some(Insert::Value(..)) => 0,
                Some(Insert::Item(..)) => 1,
                Some(Insert::Log(..)) => 2,
                Some(Insert::Out(..)) => 3,
                None => return Ok(()),
            };
            let sql = Arc::clone(&INSERTS[table][place]);
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for row in rest.by_ref().take(size) {
                query = match row {
                    Insert::Value(store, owner, key, value) => {
                        query.bind(store).bind(owner).bind(key).bind(value)
                    }
                    Insert::Item(store, owner, id, value) => {
                        query.bind(store).bind(owner).bind(to_sql(id)).bind(value)
                    }
                    Insert::Log(seq, shard, epoch, entry) => {
                        query.bind(seq as i64).bind(i64::from(shard)).bind(epoch as i64).bind(entry)
                    }
                    Insert::Out(node, place, row) => query.bind(node).bind(to_sql(place)).bind(row),
                };
            }
            query.execute(&mut *conn).await?;
        }
    }
    Ok(())
}

/// Makes the changes, in their order as far as order matters.
pub(super) async fn change(
    conn: &mut SqliteConnection,
    changes: impl Iterator<Item = &Change>,
) -> Result<(), sqlx::Error> {
    let mut values = Vec::new();
    let mut items = Vec::new();
    for change in changes {
        match change {
            Change::Put { store, owner, key, value } => {
                values.push(Insert::Value(store.as_str(), owner, key, value));
            }
            Change::Append { store, owner, id, value } => {
                items.push(Insert::Item(store.as_str(), owner, *id, value));
            }
            Change::Delete { store, owner, key } => {
                insert(conn, &mut values).await?;
                sqlx::query("DELETE FROM kv WHERE store = ? AND owner = ? AND key = ?")
                    .bind(store.as_str())
                    .bind(owner.as_str())
                    .bind(key.as_str())
                    .execute(&mut *conn)
                    .await?;
            }
            Change::Remove { store, owner, id } => {
                insert(conn, &mut items).await?;
                sqlx::query("DELETE FROM archive WHERE store = ? AND owner = ? AND id = ?")
                    .bind(store.as_str())
                    .bind(owner.as_str())
                    .bind(to_sql(*id))
                    .execute(&mut *conn)
                    .await?;
            }
            Change::Trim { store, owner, upto } => {
                insert(conn, &mut items).await?;
                trim(conn, store.as_str(), owner, *upto).await?;
            }
            Change::Clear { store, owner } => {
                insert(conn, &mut values).await?;
                insert(conn, &mut items).await?;
                sqlx::query("DELETE FROM kv WHERE store = ? AND owner = ?")
                    .bind(store.as_str())
                    .bind(owner.as_str())
                    .execute(&mut *conn)
                    .await?;
                trim(conn, store.as_str(), owner, u64::MAX).await?;
            }
        }
    }
    insert(conn, &mut values).await?;
    insert(conn, &mut items).await
}

/// One node's outbox: rows in, rows out, one transaction.
pub(super) async fn outbox(
    writer: &SqlitePool,
    node: &str,
    put: Vec<(u64, Vec<u8>)>,
    remove: Vec<u64>,
) -> Result<(), sqlx::Error> {
    let mut conn = writer.acquire().await?;
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    let mut rows = put.into_iter().map(|(order, row)| Insert::Out(node, order, row)).collect();
    insert(&mut tx, &mut rows).await?;
    let mut rest = remove.as_slice();
    for (place, size) in SIZES.into_iter().enumerate() {
        while let Some((orders, more)) = rest.split_at_checked(size) {
            rest = more;
            let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&REMOVES[place]))).bind(node);
            for order in orders {
                query = query.bind(to_sql(*order));
            }
            query.execute(&mut *tx).await?;
        }
    }
    tx.commit().await
}

async fn trim(
    conn: &mut SqliteConnection,
    store: &str,
    owner: &str,
    upto: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM archive WHERE store = ? AND owner = ? AND id <= ?")
        .bind(store)
        .bind(owner)
        .bind(to_sql(upto))
        .execute(conn)
        .await
        .map(drop)
}
