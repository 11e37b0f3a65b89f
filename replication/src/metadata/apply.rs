//! Applying a command to the state: pure, deterministic, all or nothing.
//!
//! Called by the Raft state machine (`machine.rs`) for every committed entry, and by tests and simulators directly. It
//! reads no clock and no random number; the same commands give the same state on every node (blueprint §7).

use std::collections::BTreeSet;

use super::types::*;

impl MetaState {
    /// Applies one command. On an error nothing has changed. `version` grows by one if anything changed.
    pub fn apply(&mut self, command: &Command) -> Result<CommandReply, CommandError> {
        if self.version == 0 && !matches!(command, Command::Genesis(_)) {
            return Err(CommandError::NotFounded);
        }
        let mut moved = Vec::new();
        let changed = match command {
            Command::Genesis(first) => self.found(first)?,
            Command::NodeUp { name, record } => self.node_up(name, record)?,
            Command::NodeVoter { name, voter } => {
                let record = self
                    .nodes
                    .get_mut(name)
                    .ok_or_else(|| CommandError::UnknownNode(name.clone()))?;
                replace(&mut record.voter, *voter)
            }
            Command::NodeRemove { name } => {
                self.fallen.remove(name);
                self.nodes.remove(name).is_some()
            }
            Command::NodeFallen { name, incarnation } => self.node_fallen(name, *incarnation)?,
            Command::NodeReturned { name, incarnation } => {
                let is_known = self.fallen.get(name) == Some(incarnation);
                is_known && self.fallen.remove(name).is_some()
            }
            Command::Dialback { secret } => {
                let is_first = self.dialback.is_none();
                self.dialback.get_or_insert_with(|| secret.clone());
                is_first
            }
            Command::RegionAdd { region } => self.region_add(region)?,
            Command::RegionState { region, state } => {
                self.region_state_set(region, *state, &mut moved)?
            }
            Command::RegionRemove { region } => self.region_remove(region)?,
            Command::DomainAdd { name, domain } => {
                if let DomainKind::Regional(region) = &domain.kind {
                    self.known(region)?;
                }
                self.domains.insert(name.clone(), domain.clone()).as_ref() != Some(domain)
            }
            Command::DomainRemove { name } => self.domains.remove(name).is_some(),
            Command::MoveHome { shard, to, epoch } => {
                self.move_home(*shard, to, *epoch, &mut moved)?
            }
            Command::Pin { account, to, replicas, epoch } => {
                self.pin(account, to, replicas, *epoch)?
            }
            Command::Unpin { account } => self.unpin(account)?,
            Command::RegionReturned { region } => match self.known(region)?.state {
                RegionState::Down => self.region_state_set(region, RegionState::Up, &mut moved)?,
                _ => false,
            },
            Command::CaughtUp { home, replica } => {
                self.known(home)?;
                self.known(replica)?;
                let replica = self.regions.get_mut(replica).expect("known above");
                replica.state == RegionState::Up && replica.behind.remove(home)
            }
        };
        self.version += u64::from(changed);
        Ok(CommandReply { version: self.version, changed, moved })
    }

    fn found(&mut self, first: &MetaState) -> Result<bool, CommandError> {
        if self.version != 0 {
            return Err(CommandError::AlreadyFounded);
        }
        let known = |region: &String| first.regions.contains_key(region);
        let sound = !first.regions.is_empty()
            && first.homes.len() == SHARDS
            && first
                .homes
                .iter()
                .chain(first.pins.values())
                .all(|home| known(&home.region) && home.replicas.iter().all(known))
            && first.nodes.values().all(|node| known(&node.region));
        if !sound {
            return Err(CommandError::BadGenesis);
        }
        *self = MetaState { version: 0, ..first.clone() };
        Ok(true)
    }

    fn node_up(&mut self, name: &str, record: &NodeRecord) -> Result<bool, CommandError> {
        self.known(&record.region)?;
        if let Some((owner, _)) =
            self.nodes.iter().find(|(other, node)| *other != name && node.raft_id == record.raft_id)
        {
            return Err(CommandError::RaftIdTaken {
                raft_id: record.raft_id,
                owner: owner.clone(),
            });
        }
        let known = self.nodes.get(name);
        if let Some(known) = known.filter(|known| known.incarnation > record.incarnation) {
            return Err(CommandError::StaleIncarnation {
                name: name.into(),
                known: known.incarnation,
            });
        }
        let mut record =
            NodeRecord { voter: known.is_some_and(|known| known.voter), ..record.clone() };
        if let Some(known) = known.filter(|_| record.address.is_empty()) {
            record.address.clone_from(&known.address);
        }
        if known == Some(&record) {
            return Ok(false);
        }
        if self.fallen.get(name).is_some_and(|fallen| *fallen < record.incarnation) {
            self.fallen.remove(name);
        }
        self.nodes.insert(name.into(), record);
        Ok(true)
    }

    fn region_add(&mut self, region: &Region) -> Result<bool, CommandError> {
        match self.regions.get(&region.name) {
            Some(known) if Region { behind: BTreeSet::new(), ..known.clone() } == *region => {
                return Ok(false);
            }
            Some(_) => return Err(CommandError::RegionExists(region.name.clone())),
            None => {}
        }
        let region = Region { behind: self.regions.keys().cloned().collect(), ..region.clone() };
        self.regions.insert(region.name.clone(), region.clone());
        // Who is away now does not get what it will write.
        for other in self.regions.values_mut().filter(|other| other.state.is_down()) {
            other.behind.insert(region.name.clone());
        }
        for home in &mut self.homes {
            home.replicas.push(region.name.clone());
        }
        Ok(true)
    }

    fn region_state_set(
        &mut self,
        name: &str,
        state: RegionState,
        moved: &mut Vec<u8>,
    ) -> Result<bool, CommandError> {
        let known = self.known(name)?.state;
        if state.is_down()
            && !self
                .regions
                .values()
                .any(|other| other.name != name && other.state == RegionState::Up)
        {
            return Err(CommandError::LastRegion(name.into()));
        }
        if known == RegionState::Off && state == RegionState::Down {
            return Ok(false); // The operator's word stays.
        }
        let region = self.regions.get_mut(name).expect("known above");
        let mut changed = replace(&mut region.state, state);
        if state.is_down() {
            let heir = |home: &Home| {
                (home.region == name).then(|| self.heir(home).map(str::to_owned)).flatten()
            };
            let of_shards: Vec<Option<String>> = self.homes.iter().map(heir).collect();
            let of_pins: Vec<Option<String>> = self.pins.values().map(heir).collect();
            let pass_on = |(home, heir): (&mut Home, Option<String>)| {
                let moves = heir.is_some();
                if let Some(heir) = heir {
                    home.region = heir;
                    home.epoch += 1;
                }
                moves
            };
            for (shard, home) in (0u8..=255).zip(self.homes.iter_mut().zip(of_shards)) {
                if pass_on(home) {
                    moved.push(shard);
                }
            }
            for home in self.pins.values_mut().zip(of_pins) {
                changed |= pass_on(home);
            }
            // What the others write from now on it does not have.
            let others: BTreeSet<String> =
                self.regions.keys().filter(|other| *other != name).cloned().collect();
            let region = self.regions.get_mut(name).expect("known above");
            changed |= replace(&mut region.behind, others);
        }
        Ok(changed || !moved.is_empty())
    }

    fn region_remove(&mut self, name: &str) -> Result<bool, CommandError> {
        let Some(region) = self.regions.get(name) else { return Ok(false) };
        let in_use = !region.state.is_down()
            || self.nodes.values().any(|node| node.region == name)
            || self.homes.iter().chain(self.pins.values()).any(|home| home.region == name)
            || self.domains.values().any(
                |domain| matches!(&domain.kind, DomainKind::Regional(region) if region == name),
            );
        if in_use {
            return Err(CommandError::RegionInUse(name.into()));
        }
        self.regions.remove(name);
        for region in self.regions.values_mut() {
            region.behind.remove(name);
        }
        for home in self.homes.iter_mut().chain(self.pins.values_mut()) {
            home.replicas.retain(|replica| replica != name);
        }
        Ok(true)
    }

    fn move_home(
        &mut self,
        shard: u8,
        to: &str,
        epoch: Option<u64>,
        moved: &mut Vec<u8>,
    ) -> Result<bool, CommandError> {
        self.up(to)?;
        let home = self.homes.get_mut(usize::from(shard)).ok_or(CommandError::NotFounded)?;
        if home.region == to {
            return Ok(false);
        }
        has_not_moved(home, epoch)?;
        if !home.replicas.iter().any(|replica| replica == to) {
            return Err(CommandError::NotReplica { shard, to: to.into() });
        }
        // The former home has everything: it inherits first.
        let former = std::mem::replace(&mut home.region, to.into());
        home.replicas.retain(|replica| *replica != to && *replica != former);
        home.replicas.splice(0..0, [to.to_owned(), former.clone()]);
        home.epoch += 1;
        moved.push(shard);
        self.behind_too(&former, to);
        Ok(true)
    }

    /// Who is behind a home is behind the region to which some of it has moved.
    fn behind_too(&mut self, former: &str, home: &str) {
        for region in self.regions.values_mut().filter(|region| region.name != home) {
            if region.behind.contains(former) {
                region.behind.insert(home.to_owned());
            }
        }
    }

    fn node_fallen(&mut self, name: &str, incarnation: u64) -> Result<bool, CommandError> {
        let record = self.nodes.get(name).ok_or_else(|| CommandError::UnknownNode(name.into()))?;
        if record.incarnation != incarnation {
            return Ok(false); // It lives another life by now.
        }
        let stands = |other: &str, known: &NodeRecord| {
            other != name && known.region == record.region && !self.fallen.contains_key(other)
        };
        if !self.nodes.iter().any(|(other, known)| stands(other, known)) {
            return Err(CommandError::LastNode(name.into()));
        }
        Ok(self.fallen.insert(name.into(), incarnation) != Some(incarnation))
    }

    fn pin(
        &mut self,
        account: &str,
        to: &str,
        replicas: &[String],
        epoch: Option<u64>,
    ) -> Result<bool, CommandError> {
        self.up(to)?;
        if let Some(region) = self.region_of(account) {
            return Err(CommandError::OfRegion { account: account.into(), region: region.into() });
        }
        let former = self.home_of(account).ok_or(CommandError::NotFounded)?.region.clone();
        let mut copies = vec![to.to_owned()];
        // The former home has everything: it inherits first, if it may keep a copy.
        let first = replicas.iter().filter(|replica| **replica == former);
        for replica in first.chain(replicas) {
            self.known(replica)?;
            if !copies.contains(replica) {
                copies.push(replica.clone());
            }
        }
        let known = self.home_of(account).ok_or(CommandError::NotFounded)?;
        let was_pinned = self.pins.contains_key(account);
        if was_pinned && known.region == to && known.replicas == copies {
            return Ok(false);
        }
        has_not_moved(&known, epoch)?;
        let bytes: usize = self.pins.keys().map(String::len).sum();
        if !was_pinned && bytes + account.len() > PINS_BYTES_MAX {
            return Err(CommandError::TooManyPins);
        }
        let shard_epoch = self.home(shard_of(account)).map_or(0, |home| home.epoch);
        let pin =
            Home { region: to.into(), epoch: known.epoch.max(shard_epoch) + 1, replicas: copies };
        self.pins.insert(account.into(), pin);
        self.behind_too(&former, to);
        Ok(true)
    }

    fn unpin(&mut self, account: &str) -> Result<bool, CommandError> {
        let pin =
            self.pins.remove(account).ok_or_else(|| CommandError::NotPinned(account.into()))?;
        let home = &mut self.homes[usize::from(shard_of(account))];
        home.epoch = home.epoch.max(pin.epoch) + 1;
        Ok(true)
    }

    fn known(&self, region: &str) -> Result<&Region, CommandError> {
        self.regions.get(region).ok_or_else(|| CommandError::UnknownRegion(region.into()))
    }

    fn up(&self, region: &str) -> Result<(), CommandError> {
        match self.known(region)?.state {
            RegionState::Up => Ok(()),
            _ => Err(CommandError::RegionNotUp(region.into())),
        }
    }
}

/// Whoever wants a home to move says in which epoch it knew it: a command that was repeated late moves nothing on.
fn has_not_moved(home: &Home, epoch: Option<u64>) -> Result<(), CommandError> {
    if epoch.is_none_or(|epoch| epoch == home.epoch) {
        return Ok(());
    }
    Err(CommandError::HasMoved { region: home.region.clone(), epoch: home.epoch })
}

/// Sets a value; answers whether it was another.
fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
