//! Pages of the log and of archives. Called by `mod.rs`, over its reads.

use super::driver::{Driver, RowOf, Value};
use super::{Inner, failed_read};
use crate::storage::paging::{Paging, SLICE};
use crate::storage::{LogPage, Page, StorageError, from_sql, to_sql};

impl<D: Driver> Inner<D> {
    pub(super) async fn read_log(
        &self,
        after: u64,
        bytes_max: usize,
    ) -> Result<LogPage, StorageError> {
        const SQL: &str = "SELECT seq, entry FROM durable_log WHERE seq > ? ORDER BY seq LIMIT ?";
        let mut paging = Paging::new(after, bytes_max);
        loop {
            let last = i64::try_from(paging.last()).unwrap_or(i64::MAX);
            let rows = self.read(SQL, &[Value::Int(last), Value::Int(SLICE as i64)]).await?;
            for row in &rows {
                let seq = D::int(row, 0).map_err(failed_read)?;
                let encoded = D::bytes(row, 1).map_err(failed_read)?.unwrap_or_default();
                if !paging.take(seq, &encoded)? {
                    return Ok(paging.end());
                }
            }
            if rows.len() < SLICE {
                return Ok(paging.end());
            }
        }
    }

    pub(super) async fn archive(
        &self,
        store: &str,
        owner: &str,
        page: Page,
    ) -> Result<Vec<(u64, Vec<u8>)>, StorageError> {
        const OLDEST: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? ORDER BY id LIMIT ?";
        const NEWEST: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND id >= ? AND id <= ? ORDER BY id DESC LIMIT ?";
        const OLDEST_MARKED: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND mark = ? AND id >= ? AND id <= ? ORDER BY id LIMIT ?";
        const NEWEST_MARKED: &str = "SELECT id, value FROM archive WHERE store = ? AND owner = ? \
             AND mark = ? AND id >= ? AND id <= ? ORDER BY id DESC LIMIT ?";
        let Some(values) = of_page(store, owner, &page) else { return Ok(Vec::new()) };
        let sql = match (page.newest, page.mark.is_some()) {
            (false, false) => OLDEST,
            (true, false) => NEWEST,
            (false, true) => OLDEST_MARKED,
            (true, true) => NEWEST_MARKED,
        };
        let rows = self.read(sql, &values).await?;
        let mut found = rows.iter().map(numbered::<D>).collect::<Result<Vec<_>, _>>()?;
        if page.newest {
            found.reverse();
        }
        Ok(found)
    }
}

/// What a page of an archive is asked with; None: nothing can be in it.
pub(super) fn of_page<'a>(
    store: &'a str,
    owner: &'a str,
    page: &'a Page,
) -> Option<Vec<Value<'a>>> {
    let from = page.after.map_or(Some(0), |after| after.checked_add(1))?;
    let to = page.before.map_or(Some(u64::MAX), |before| before.checked_sub(1))?;
    let mut values = vec![Value::Text(store), Value::Text(owner)];
    values.extend(page.mark.as_ref().map(|mark| Value::Bytes(mark)));
    let max = i64::try_from(page.max).unwrap_or(i64::MAX);
    values.extend([Value::Int(to_sql(from)), Value::Int(to_sql(to)), Value::Int(max)]);
    Some(values)
}

/// A row of an id and a value.
pub(super) fn numbered<D: Driver>(row: &RowOf<D>) -> Result<(u64, Vec<u8>), StorageError> {
    let row = || Ok((from_sql(D::int(row, 0)?), D::bytes(row, 1)?.unwrap_or_default()));
    row().map_err(failed_read)
}
