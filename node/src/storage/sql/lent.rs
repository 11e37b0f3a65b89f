//! A connection of the pool for one piece of work: every statement within the time allowed, given back only if it is sound.
//!
//! Whatever went wrong on it, or was given up in the middle (a transaction that was not ended, an answer that did not come in time), ends
//! with the connection: the server then rolls back what was open.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::time::timeout;

use super::driver::{Bulk, BulkRead, Column, Conn, Driver, Found, RowOf, Value};
use super::write::Failed;

/// Rows in one statement, and about how many bytes: servers bound what they take at once.
const ROWS_MAX: usize = 1000;
const BYTES_MAX: usize = 4 << 20;

/// One.
pub(super) struct Lent<D: Driver> {
    /// None: while it is being dropped.
    conn: Option<PoolConnection<D::Db>>,
    each: Duration,
    is_sound: bool,
}

impl<D: Driver> Lent<D> {
    /// Waits for a connection; the pool says how long.
    pub(super) async fn of(pool: &Pool<D::Db>, each: Duration) -> Result<Lent<D>, Failed> {
        let conn = Some(pool.acquire().await.map_err(Failed::Sql)?);
        Ok(Lent { conn, each, is_sound: true })
    }

    fn conn(&mut self) -> &mut Conn<D> {
        self.conn.as_mut().expect("it is there until it is dropped")
    }

    async fn timed<T>(
        each: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failed> {
        match timeout(each, work).await {
            Ok(done) => done.map_err(Failed::Sql),
            Err(_) => Err(Failed::Slow),
        }
    }

    /// Begins a transaction; only [`Lent::commit`] makes the connection sound again.
    pub(super) async fn begin(&mut self) -> Result<(), Failed> {
        self.is_sound = false;
        Self::timed(self.each, D::simple(self.conn(), "BEGIN")).await
    }

    /// Ends it.
    pub(super) async fn commit(&mut self) -> Result<(), Failed> {
        Self::timed(self.each, D::simple(self.conn(), "COMMIT")).await?;
        self.is_sound = true;
        Ok(())
    }

    /// In a transaction.
    pub(super) async fn run(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<(), Failed> {
        Self::timed(self.each, D::run(self.conn(), sql, values)).await
    }

    /// In a transaction.
    pub(super) async fn select(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<RowOf<D>>, Failed> {
        Self::timed(self.each, D::select(self.conn(), sql, values)).await
    }

    /// In a transaction: all rows, in as many statements as that takes.
    pub(super) async fn bulk(&mut self, bulk: Bulk, columns: &[Column<'_>]) -> Result<(), Failed> {
        let rows = columns.first().map_or(0, Column::len);
        let mut from = 0;
        while from < rows {
            let part = part(columns, from..rows);
            from = part.end;
            Self::timed(self.each, D::bulk(self.conn(), bulk, columns, part)).await?;
        }
        Ok(())
    }

    /// One read, without a transaction.
    pub(super) async fn read(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<RowOf<D>>, Failed> {
        self.is_sound = false;
        let rows = self.select(sql, values).await?;
        self.is_sound = true;
        Ok(rows)
    }

    /// Many reads at once, without a transaction.
    pub(super) async fn bulk_read(
        &mut self,
        bulk: BulkRead,
        columns: &[Column<'_>],
    ) -> Result<Vec<Found>, Failed> {
        self.is_sound = false;
        let found = Self::timed(self.each, D::bulk_select(self.conn(), bulk, columns)).await?;
        self.is_sound = true;
        Ok(found)
    }
}

impl<D: Driver> Drop for Lent<D> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && !self.is_sound
        {
            drop(conn.detach());
        }
    }
}

impl Column<'_> {
    /// How many rows.
    pub(in crate::storage) fn len(&self) -> usize {
        match self {
            Column::Ints(rows) => rows.len(),
            Column::Texts(rows) => rows.len(),
            Column::Bytes(rows) => rows.len(),
            Column::Maybe(rows) => rows.len(),
        }
    }

    fn bytes(&self, row: usize) -> usize {
        match self {
            Column::Ints(_) => 8,
            Column::Texts(rows) => rows[row].len(),
            Column::Bytes(rows) => rows[row].len(),
            Column::Maybe(rows) => rows[row].map_or(0, <[u8]>::len),
        }
    }
}

/// As many of the first rows as one statement takes; at least one.
fn part(columns: &[Column<'_>], rows: Range<usize>) -> Range<usize> {
    let mut bytes = 0;
    let fits = rows.clone().take(ROWS_MAX).take_while(|row| {
        bytes += columns.iter().map(|column| column.bytes(*row)).sum::<usize>();
        bytes <= BYTES_MAX
    });
    let fits = fits.count().max(1);
    rows.start..rows.start + fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_takes_so_many_rows_and_bytes_and_always_one() {
        let big = vec![0; BYTES_MAX / 2 + 1];
        let columns = [Column::Bytes(vec![&big, &big, &[]]), Column::Ints(vec![1, 2, 3])];
        assert_eq!(part(&columns, 0..3), 0..1);
        assert_eq!(part(&columns, 1..3), 1..3);
        let huge = vec![0; BYTES_MAX + 1];
        assert_eq!(part(&[Column::Bytes(vec![&huge])], 0..1), 0..1);
        assert_eq!(part(&[Column::Ints(vec![0; 2500])], 0..2500), 0..1000);
    }
}
