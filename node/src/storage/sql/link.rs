//! The connections to a server: two bounded pools, so that a storm of reads never makes commits wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::sync::Semaphore;

use super::driver::Driver;
use super::lent::Lent;
use super::write::Failed;
use super::{Options, ServerConfig};

/// The connections in use.
pub(super) struct Link<D: Driver> {
    pub(super) readers: Pool<D::Db>,
    pub(super) writers: Pool<D::Db>,
    /// SELECTs of the loader at once: half of the readers are for others.
    pub(super) loads: Arc<Semaphore>,
    pub(super) timeout: Duration,
    pub(super) retry: Duration,
}

impl<D: Driver> Link<D> {
    pub(super) fn new(config: &ServerConfig, options: Options<D>) -> Link<D> {
        let connections = config.connections.max(2);
        let write = (connections / 3).max(1);
        let loads = usize::try_from((connections - write).div_ceil(2)).unwrap_or(1);
        Link {
            loads: Arc::new(Semaphore::new(loads)),
            readers: pool::<D>(connections - write, config.timeout, options.clone()),
            writers: pool::<D>(write, config.timeout, options),
            timeout: config.timeout,
            retry: config.retry,
        }
    }
}

/// A pool, whose connections are made when they are needed.
fn pool<D: Driver>(connections: u32, timeout: Duration, options: Options<D>) -> Pool<D::Db> {
    PoolOptions::<D::Db>::new()
        .max_connections(connections)
        .idle_timeout(Duration::from_secs(300))
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(timeout)
        .after_connect(|conn, _| {
            async move {
                for sql in D::GREETING {
                    D::simple(conn, sql).await?;
                }
                Ok(())
            }
            .boxed()
        })
        .connect_lazy_with(options)
}

impl<D: Driver> Link<D> {
    pub(super) async fn reader(&self) -> Result<Lent<D>, Failed> {
        Lent::of(&self.readers, self.timeout).await
    }
}
