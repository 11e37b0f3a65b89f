//! What becomes of a write whose outcome is not known: without a server, from what attempts come to.

use super::*;
use crate::storage::postgres::Postgres;

/// Of a server that nobody asks.
fn inner() -> Inner<Postgres> {
    let config = ServerConfig {
        url: "postgres://nobody@127.0.0.1:1/nothing".to_owned(),
        name: "db".to_owned(),
        connections: 2,
        timeout: Duration::from_secs(5),
        retry: Duration::from_secs(2),
        sync: true,
    };
    let options = Postgres::options(&config).unwrap();
    Inner {
        link: RwLock::new(Arc::new(Link::new(&config, options))),
        known: Mutex::default(),
        reading: Health::new("db".to_owned(), "reading"),
        writing: Health::new("db".to_owned(), "writing"),
    }
}

/// A turn that ended like this.
async fn ended(
    inner: &Inner<Postgres>,
    with: Result<(), Failed>,
) -> Result<Turn<()>, StorageError> {
    inner.turn(&inner.writing, &inner.link(), async { with }, failed_write).await
}

/// An error that is on no list.
fn unlisted() -> Failed {
    Failed::Sql(sqlx::Error::RowNotFound)
}

#[tokio::test(start_paused = true)]
async fn a_commit_in_doubt_is_not_given_up_whatever_the_server_says() {
    let inner = inner();
    let mut tries = Tries::new(inner.link().retry);
    // Longer than a write is tried again.
    for _ in 0..20 {
        let turn = ended(&inner, Err(unlisted())).await;
        assert!(!inner.is_written(turn, true, &mut tries).await.unwrap());
        assert!(!inner.writing.is_well(), "the operator is told");
    }
    let turn = ended(&inner, Err(Failed::Slow)).await;
    assert!(!inner.is_written(turn, true, &mut tries).await.unwrap());
    // What it says at last is an answer.
    let turn = ended(&inner, Ok(())).await;
    assert!(inner.is_written(turn, true, &mut tries).await.unwrap());
    assert!(inner.writing.is_well());
    let turn = ended(&inner, Err(StorageError::Superseded.into())).await;
    let over = inner.is_written(turn, true, &mut tries).await;
    assert!(matches!(over, Err(StorageError::Superseded)), "{over:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_doubt_is_refused_at_once_or_after_a_while() {
    let inner = inner();
    let mut tries = Tries::new(inner.link().retry);
    let turn = ended(&inner, Err(unlisted())).await;
    let refused = inner.is_written(turn, false, &mut tries).await;
    assert!(matches!(refused, Err(StorageError::Write(_))), "{refused:?}");
    let mut attempts = 0;
    let refused = loop {
        attempts += 1;
        let turn = ended(&inner, Err(Failed::Slow)).await;
        if let Err(error) = inner.is_written(turn, false, &mut tries).await {
            break error;
        }
    };
    assert!(attempts > 3 && !inner.writing.is_well(), "{attempts}");
    assert!(matches!(refused, StorageError::Unavailable { .. }), "{refused:?}");
}
