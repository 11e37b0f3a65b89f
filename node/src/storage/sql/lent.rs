//! A connection of the pool for one piece of work: within the time allowed, given back only if it is sound.
//!
//! A read has that time for its statement, a transaction for all of its statements together: a server that is slow with each is slow. What is big
//! has more: a statement that has to be divided ([`ROWS_MAX`], [`BYTES_MAX`]) has the same once more for each further part. Migrations do not
//! come here.
//!
//! Whatever went wrong on it, or was given up in the middle (a transaction that was not ended, an answer that did not come in time), ends
//! with the connection: the server then rolls back what was open.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use sqlx::Pool;
use sqlx::pool::PoolConnection;
use tokio::time::{Instant, timeout_at};

use super::driver::{Bulk, BulkRead, Column, Conn, Driver, Found, RowOf, Value};
use super::write::Failed;

/// Rows in one statement, and about how many bytes: servers bound what they take at once.
const ROWS_MAX: usize = 1000;
const BYTES_MAX: usize = 4 << 20;

/// One.
pub(super) struct Lent<D: Driver> {
    /// None: while it is being dropped.
    conn: Option<PoolConnection<D::Db>>,
    time: Time,
    is_sound: bool,
}

/// The time that is allowed.
#[derive(Debug, Clone, Copy)]
struct Time {
    /// For one statement.
    each: Duration,
    /// When the transaction that is open has to be over.
    until: Option<Instant>,
}

impl Time {
    fn new(each: Duration) -> Time {
        Time { each, until: None }
    }

    /// A transaction begins. `is_patient`: each of its statements has the time of one.
    fn begin(&mut self, is_patient: bool) {
        self.until = (!is_patient).then(|| Instant::now() + self.each);
    }

    /// It has to do more than one statement takes.
    fn more(&mut self) {
        self.until = self.until.map(|until| until + self.each);
    }

    async fn limit<T>(
        self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failed> {
        let until = self.until.unwrap_or_else(|| Instant::now() + self.each);
        match timeout_at(until, work).await {
            Ok(done) => done.map_err(Failed::Sql),
            Err(_) => Err(Failed::Slow),
        }
    }
}

impl<D: Driver> Lent<D> {
    /// Waits for a connection; the pool says how long.
    pub(super) async fn of(pool: &Pool<D::Db>, each: Duration) -> Result<Lent<D>, Failed> {
        let conn = Some(pool.acquire().await.map_err(Failed::Sql)?);
        Ok(Lent { conn, time: Time::new(each), is_sound: true })
    }

    fn conn(&mut self) -> &mut Conn<D> {
        self.conn.as_mut().expect("it is there until it is dropped")
    }

    /// Begins a transaction; only [`Lent::commit`] makes the connection sound again. `is_patient`: it is not bounded as a whole.
    pub(super) async fn begin(&mut self, is_patient: bool) -> Result<(), Failed> {
        self.is_sound = false;
        self.time.begin(is_patient);
        self.time.limit(D::simple(self.conn(), "BEGIN")).await
    }

    /// Ends it.
    pub(super) async fn commit(&mut self) -> Result<(), Failed> {
        self.time.limit(D::simple(self.conn(), "COMMIT")).await?;
        self.is_sound = true;
        self.time = Time::new(self.time.each);
        Ok(())
    }

    /// In a transaction.
    pub(super) async fn run(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<(), Failed> {
        self.time.limit(D::run(self.conn(), sql, values)).await
    }

    /// In a transaction.
    pub(super) async fn select(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<RowOf<D>>, Failed> {
        self.time.limit(D::select(self.conn(), sql, values)).await
    }

    /// In a transaction: all rows, in as many statements as that takes.
    pub(super) async fn bulk(&mut self, bulk: Bulk, columns: &[Column<'_>]) -> Result<(), Failed> {
        let rows = columns.first().map_or(0, Column::len);
        let mut from = 0;
        while from < rows {
            if from > 0 {
                self.time.more();
            }
            let part = part(columns, from..rows);
            from = part.end;
            self.time.limit(D::bulk(self.conn(), bulk, columns, part)).await?;
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
        let found = self.time.limit(D::bulk_select(self.conn(), bulk, columns)).await?;
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

    /// A statement that takes that long.
    async fn statement(time: Time, seconds: u64) -> bool {
        let work = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        };
        match time.limit(work).await {
            Ok(()) => true,
            Err(Failed::Slow) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_is_bounded_as_a_whole() {
        let mut time = Time::new(Duration::from_secs(5));
        // Reads, one after the other.
        assert!(statement(time, 3).await && statement(time, 3).await && !statement(time, 6).await);
        time.begin(false);
        assert!(statement(time, 3).await);
        let began = Instant::now();
        assert!(!statement(time, 3).await, "with the first it is too long");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        // Much to do.
        time.begin(false);
        assert!(statement(time, 3).await);
        time.more();
        assert!(statement(time, 6).await && !statement(time, 2).await);
        // What must be known.
        time.begin(true);
        time.more();
        assert!(statement(time, 4).await && statement(time, 4).await && !statement(time, 6).await);
    }

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
