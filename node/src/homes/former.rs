//! What a former home brings too late: which of it the new home may still take. Pure; held by the writer.
//!
//! When a home moves, entries that the former one had committed and not yet shipped arrive under an epoch that has ended
//! (blueprint §7). If nothing of that owner has been written under the new epoch, taking them in, as changes of our own,
//! is what the move should have waited for. If something has, only what cannot collide (items of archives) is taken.
//!
//! So the new home remembers whose data it has written since. That memory ends with the process and is bounded; where it
//! may be incomplete the answer is "written".

use std::collections::{HashMap, VecDeque};

use replication::{SHARDS, shard_of};

use super::FIRST_EPOCH;

/// Owners remembered. Beyond that the oldest one's whole shard counts as written.
const OWNERS_MAX: usize = 65_536;

/// Whose data has been written under which epoch.
pub(super) struct Former {
    /// The newest epoch under which anything of a shard was written here: kept in storage.
    written: Vec<u64>,
    /// Under this epoch we do not know of whom.
    unsure: Vec<u64>,
    owners: HashMap<String, u64>,
    order: VecDeque<String>,
}

impl Former {
    /// What storage remembers; nothing is known of owners.
    pub(super) fn new(stored: Option<Vec<u8>>) -> Former {
        let stored = stored.and_then(|bytes| postcard::from_bytes::<Vec<u64>>(&bytes).ok());
        let written = stored.filter(|all| all.len() == SHARDS).unwrap_or(vec![0; SHARDS]);
        let unsure = written.clone();
        Former { written, unsure, owners: HashMap::new(), order: VecDeque::new() }
    }

    /// An owner's data is about to be written. True if [`Former::stored`] must be stored first. Homes that have never
    /// moved cost nothing.
    pub(super) fn writes(&mut self, owner: &str, epoch: u64) -> bool {
        if epoch <= FIRST_EPOCH {
            return false;
        }
        if self.owners.insert(owner.to_owned(), epoch).is_none() {
            self.order.push_back(owner.to_owned());
        }
        if self.order.len() > OWNERS_MAX
            && let Some(oldest) = self.order.pop_front()
            && let Some(epoch) = self.owners.remove(&oldest)
        {
            let unsure = &mut self.unsure[usize::from(shard_of(&oldest))];
            *unsure = (*unsure).max(epoch);
        }
        let written = &mut self.written[usize::from(shard_of(owner))];
        let news = *written < epoch;
        *written = (*written).max(epoch);
        news
    }

    /// Is it certain that nothing of this owner's has been written under this epoch?
    pub(super) fn untouched(&self, owner: &str, epoch: u64) -> bool {
        epoch > FIRST_EPOCH
            && self.unsure[usize::from(shard_of(owner))] < epoch
            && self.owners.get(owner) != Some(&epoch)
    }

    /// What must outlive the process.
    pub(super) fn stored(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.written).expect("numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROMEO: &str = "romeo@chat.example";
    const JULIET: &str = "juliet@chat.example";

    #[test]
    fn an_owner_is_untouched_until_written_in_the_new_epoch() {
        let mut former = Former::new(None);
        assert!(!former.untouched(ROMEO, FIRST_EPOCH));
        assert!(!former.writes(ROMEO, FIRST_EPOCH));
        assert!(former.untouched(ROMEO, 2));
        assert!(former.writes(ROMEO, 2), "the first of its shard is stored");
        assert!(!former.writes(ROMEO, 2));
        assert!(!former.untouched(ROMEO, 2) && former.untouched(JULIET, 2));
        assert!(former.untouched(ROMEO, 3));
    }

    #[test]
    fn after_a_restart_a_written_shard_counts_as_written_for_all() {
        let mut former = Former::new(None);
        former.writes(ROMEO, 2);
        let former = Former::new(Some(former.stored()));
        assert!(!former.untouched(ROMEO, 2));
        assert!(former.untouched(JULIET, 2), "another shard");
        assert!(former.untouched(ROMEO, 3));
    }

    #[test]
    fn an_owner_that_is_forgotten_counts_as_written() {
        let mut former = Former::new(None);
        former.writes(ROMEO, 2);
        for i in 0..OWNERS_MAX {
            former.writes(&format!("user{i}@chat.example"), 2);
        }
        assert!(!former.untouched(ROMEO, 2));
        assert!(former.owners.len() <= OWNERS_MAX && former.order.len() <= OWNERS_MAX);
    }
}
