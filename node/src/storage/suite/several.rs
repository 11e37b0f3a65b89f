//! Three of each backend as one: `storage::partitioned`.

use std::sync::Arc;

use super::{new_database, open_memory, open_sqlite};
use crate::storage::{Storage, open, partitioned};

/// Over three of these, with slots in all of them.
async fn over_three<K>(each: [(Arc<dyn Storage>, K); 3]) -> (Arc<dyn Storage>, [K; 3]) {
    let [(main, a), (one, b), (two, c)] = each;
    (Arc::new(partitioned::tests::mixed(main, vec![one, two]).await), [a, b, c])
}

pub(super) async fn open_three_memories() -> (Arc<dyn Storage>, [(); 3]) {
    over_three([open_memory().await, open_memory().await, open_memory().await]).await
}

pub(super) async fn open_three_sqlites() -> (Arc<dyn Storage>, [tempfile::TempDir; 3]) {
    over_three([open_sqlite().await, open_sqlite().await, open_sqlite().await]).await
}

pub(super) async fn open_three_servers(variable: &str) -> (Arc<dyn Storage>, [(); 3]) {
    let one = async || {
        let config = new_database(variable).await;
        (open::one(&config, &config.database).await.unwrap(), ())
    };
    over_three([one().await, one().await, one().await]).await
}
