//! A look at an account's home: what the home had committed when it was asked is in the replica here afterwards. For reads that must not
//! be behind what the asker knows from elsewhere (a friend says "look at my new picture", and his region is further than ours).
//!
//! An operation that changes nothing, and whose answer is waited for like any other. Bound in time, for it is a courtesy: a home
//! that does not answer is not waited for, and the replica, which may be old then, says what it has.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;
use xmpp::BareJid;

use super::{HomeError, HomeOp, Homes, Tx};

/// Name of the operation.
const OP: &str = "look";
/// How long a home may take: two journeys round the world, and its queue.
const WITHIN: Duration = Duration::from_secs(1);

/// The operation.
pub struct LookHome;

impl HomeOp for LookHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        _: &'a mut Tx,
        _: &'a BareJid,
        _: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

/// Reads that follow see what the home had been asked to do before, if it answers in time. Also where the home is here: what it was asked
/// may not be committed yet.
pub async fn look(homes: &Homes, account: &BareJid) {
    match timeout(WITHIN, homes.request(account, OP, Vec::new())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%account, %error, "its home cannot be asked"),
        Err(_) => tracing::debug!(%account, "its home does not answer in time"),
    }
}
