//! What SQLite says, as what storage says: the disk is full, the file takes no changes, somebody else holds it. <https://sqlite.org/rescode.html>

use sqlx::Error;

use crate::storage::{StorageError, Trouble};

/// The one database there is has no name that anybody would need.
const NAME: &str = "of this node (SQLite)";

pub(crate) fn failed_read(cause: Error) -> StorageError {
    or_else(cause, |cause| StorageError::Read(cause.into()))
}

pub(crate) fn failed_write(cause: Error) -> StorageError {
    or_else(cause, |cause| StorageError::Write(cause.into()))
}

fn or_else(cause: Error, other: impl FnOnce(Error) -> StorageError) -> StorageError {
    let trouble = match &cause {
        Error::Database(said) => said.code().and_then(|code| trouble(code.parse().ok()?)),
        Error::PoolTimedOut => Some(Trouble::Slow),
        _ => None,
    };
    match trouble {
        Some(trouble) => {
            StorageError::Unavailable { name: NAME.to_owned(), trouble, cause: cause.to_string() }
        }
        None => other(cause),
    }
}

/// An extended result code.
fn trouble(code: u32) -> Option<Trouble> {
    const SHARED_MEMORY_SIZE: u32 = 4874;
    Some(match (code, code & 0xff) {
        // The last: there is no room for what its processes share.
        (_, 13) | (SHARED_MEMORY_SIZE, _) => Trouble::Full,
        (_, 8) => Trouble::ReadOnly,
        (_, 5 | 6) => Trouble::Slow,
        (_, 7) => Trouble::Crowded,
        // An error of the disk (a quota is one, too), a file that cannot be opened.
        (_, 10 | 14) => Trouble::Gone,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;

    #[test]
    fn codes_say_what_may_pass() {
        assert_eq!(trouble(13), Some(Trouble::Full));
        assert_eq!(trouble(4874), Some(Trouble::Full));
        assert_eq!(trouble(1032), Some(Trouble::ReadOnly));
        assert_eq!(trouble(517), Some(Trouble::Slow));
        assert_eq!(trouble(778), Some(Trouble::Gone));
        assert_eq!(trouble(11), None, "a damaged file does not get better");
    }

    #[tokio::test]
    async fn a_full_disk_is_said_to_be_full() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.expect("memory");
        for text in ["CREATE TABLE t (v)", "PRAGMA max_page_count = 4"] {
            sqlx::query(text).execute(&mut conn).await.expect("a small database");
        }
        let large = sqlx::query("INSERT INTO t VALUES (zeroblob(100000))");
        let error = failed_write(large.execute(&mut conn).await.expect_err("no room"));
        assert!(
            matches!(error, StorageError::Unavailable { trouble: Trouble::Full, .. }),
            "{error}"
        );
        let wrong = sqlx::query("INSERT INTO t VALUES (1, 2)");
        let error = failed_write(wrong.execute(&mut conn).await.expect_err("no such column"));
        assert!(matches!(error, StorageError::Write(_)), "{error}");
    }
}
