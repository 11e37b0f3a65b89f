//! Room: which region writes an account's durable data (blueprint §1 *home*, §7). Pure look-ups in the metadata state.
//! Called by the node's homes and by the operator's `ctl home`. Absent on purpose: moving a home (metadata does), sending requests.

use replication::metadata::MetaState;
pub use replication::shard_of;

/// Where an account is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomePlace {
    /// The shard of the account, 0 to 255.
    pub shard: u8,
    /// The writing region.
    pub region: String,
    /// Its term as home; writes carry it.
    pub epoch: u64,
}

/// The home of `bare`: its own pin (data residency) if it has one, else its shard's. `None` before genesis.
pub fn home_of(state: &MetaState, bare: &str) -> Option<HomePlace> {
    let home = state.home_of(bare)?;
    Some(HomePlace { shard: shard_of(bare), region: home.region.clone(), epoch: home.epoch })
}
