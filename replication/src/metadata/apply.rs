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

/// Sets a value; answers whether it was another.
/// Whoever wants a home to move says in which epoch it knew it: a command that was repeated late moves nothing on.
fn has_not_moved(home: &Home, epoch: Option<u64>) -> Result<(), CommandError> {
    if epoch.is_none_or(|epoch| epoch == home.epoch) {
        return Ok(());
    }
    Err(CommandError::HasMoved { region: home.region.clone(), epoch: home.epoch })
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(region: &str, raft_id: u64, incarnation: u64) -> NodeRecord {
        NodeRecord {
            region: region.into(),
            node: 0,
            raft_id,
            address: "127.0.0.1:5269".into(),
            fingerprint: "ab".into(),
            voter: false,
            incarnation,
        }
    }

    fn founded() -> MetaState {
        let mut state = MetaState::default();
        let first = MetaState::genesis(
            [Region::up("eu"), Region::up("us"), Region::up("ap")],
            [("eu-0".to_owned(), node("eu", 1, 0))],
            [("chat.example".to_owned(), Domain { kind: DomainKind::Global })],
        );
        state.apply(&Command::Genesis(Box::new(first))).expect("a sound genesis");
        state
    }

    fn region(name: &str, state: RegionState) -> Command {
        Command::RegionState { region: name.into(), state }
    }

    #[test]
    fn genesis_happens_once_and_first() {
        let mut state = MetaState::default();
        assert_eq!(state.apply(&region("eu", RegionState::Down)), Err(CommandError::NotFounded));
        assert_eq!(state.apply(&Command::Genesis(Box::default())), Err(CommandError::BadGenesis));
        let mut state = founded();
        assert_eq!(state.version, 1);
        let again = Command::Genesis(Box::new(state.clone()));
        assert_eq!(state.apply(&again), Err(CommandError::AlreadyFounded));
    }

    #[test]
    fn the_homes_of_a_region_that_goes_down_pass_to_the_first_live_replica() {
        let mut state = founded();
        state.apply(&region("us", RegionState::Draining)).expect("known");
        let before = state.clone();
        let reply = state.apply(&region("eu", RegionState::Down)).expect("others are up");
        assert_eq!(
            reply.moved.len(),
            before.homes.iter().filter(|home| home.region == "eu").count()
        );
        for (was, is) in before.homes.iter().zip(&state.homes) {
            if was.region == "eu" {
                assert_eq!((is.region.as_str(), is.epoch), ("ap", was.epoch + 1)); // us is draining
            } else {
                assert_eq!(was, is);
            }
        }
    }

    #[test]
    fn a_region_that_comes_back_inherits_last_until_each_home_says_that_it_has_caught_up() {
        let mut state = founded();
        let names: Vec<String> = state.homes[0].replicas.clone();
        let [home, next, third] = [0, 1, 2].map(|at| names[at].as_str());
        let heir = |state: &MetaState| state.heir(&state.homes[0]).map(str::to_owned);
        state.apply(&region(third, RegionState::Up)).expect("known");
        assert_eq!(heir(&state).as_deref(), Some(next));
        state.apply(&region(next, RegionState::Down)).expect("others are up");
        let caught_up = Command::CaughtUp { home: home.into(), replica: next.into() };
        assert!(!state.apply(&caught_up).expect("known").changed, "it is down");
        state.apply(&region(next, RegionState::Up)).expect("known");
        assert_eq!(heir(&state).as_deref(), Some(third), "it may lack the end of the log");
        state.apply(&region(third, RegionState::Draining)).expect("known");
        assert_eq!(heir(&state).as_deref(), Some(next), "better than nobody");
        state.apply(&region(third, RegionState::Up)).expect("known");
        assert!(state.apply(&caught_up).expect("known").changed);
        assert_eq!(heir(&state).as_deref(), Some(next));
        state.apply(&region(home, RegionState::Down)).expect("others are up");
        assert_eq!(state.homes[0].region, next);
    }

    #[test]
    fn a_region_that_comes_back_gets_nothing_back_by_itself() {
        let mut state = founded();
        state.apply(&region("eu", RegionState::Down)).expect("others are up");
        let homes = state.homes.clone();
        state.apply(&region("eu", RegionState::Up)).expect("known");
        assert_eq!(state.homes, homes);
        let reply = state
            .apply(&Command::MoveHome { shard: 0, to: "eu".into(), epoch: None })
            .expect("up, and a replica");
        assert!(reply.changed);
        assert_eq!(state.homes[0].epoch, homes[0].epoch + 1);
    }

    #[test]
    fn what_an_operator_lowered_only_an_operator_raises() {
        let returned = Command::RegionReturned { region: "eu".into() };
        let (down, off) = (RegionState::Down, RegionState::Off);
        // From which state, by what, to which.
        let cases = [
            (down, returned.clone(), RegionState::Up),
            (off, returned.clone(), off),
            (RegionState::Draining, returned, RegionState::Draining),
            (down, region("eu", off), off),
            (off, region("eu", down), off),
            (off, region("eu", RegionState::Up), RegionState::Up),
            (off, region("eu", RegionState::Draining), RegionState::Draining),
        ];
        for (from, command, to) in cases {
            let mut state = founded();
            state.apply(&region("eu", from)).expect("others are up");
            let homes = state.homes.clone();
            let reply = state.apply(&command).expect("known");
            assert_eq!((state.region_state("eu"), reply.changed), (to, from != to), "{command:?}");
            assert_eq!(state.homes, homes);
            assert_eq!(to.is_down(), !state.live_regions().any(|region| region == "eu"));
        }
        let mut state = founded();
        let reply = state.apply(&region("eu", off)).expect("others are up");
        assert!(!reply.moved.is_empty() && state.homes.iter().all(|home| home.region != "eu"));
        let nobody = Command::RegionReturned { region: "mars".into() };
        assert_eq!(state.apply(&nobody), Err(CommandError::UnknownRegion("mars".into())));
    }

    #[test]
    fn who_is_on_a_regions_own_domain_has_its_home_there_for_ever() {
        let mut state = founded();
        for (name, kind) in [
            ("chat.example", DomainKind::Global),
            ("eu.chat.example", DomainKind::Regional("eu".into())),
            // However it is called, metadata's word counts.
            ("asia.example", DomainKind::Regional("ap".into())),
        ] {
            let command = Command::DomainAdd { name: name.into(), domain: Domain { kind } };
            state.apply(&command).expect("its region is known");
        }
        let places = |state: &MetaState| {
            let home = |bare: String| {
                let home = state.home_of(&bare).expect("founded");
                (home.region.clone(), home.epoch, home.replicas.len())
            };
            ["a", "b", "c", "d", "e"].map(|name| {
                ["eu.chat.example", "us.chat.example", "asia.example"]
                    .map(|domain| home(format!("{name}@{domain}")))
            })
        };
        let theirs = ["eu", "us", "ap"].map(|region| (region.to_owned(), 1, 3));
        assert_eq!(places(&state), [(); 5].map(|()| theirs.clone()));
        assert_eq!(state.home_of("eu.chat.example").expect("founded").region, "eu");
        // Nothing moves it: not the fall of the region, not its shard's move, not a pin.
        state.apply(&region("eu", RegionState::Down)).expect("others are up");
        for shard in 0..=255 {
            let command = Command::MoveHome { shard, to: "us".into(), epoch: None };
            state.apply(&command).expect("up, and a replica");
        }
        let account = "a@eu.chat.example".to_owned();
        let pin = Command::Pin {
            account: account.clone(),
            to: "us".into(),
            replicas: vec![],
            epoch: None,
        };
        let refused = CommandError::OfRegion { account, region: "eu".into() };
        assert_eq!(state.apply(&pin), Err(refused));
        assert_eq!(places(&state), [(); 5].map(|()| theirs.clone()));
        // Everybody else goes by shards, also below a name that only looks like it.
        for other in ["a@chat.example", "a@mars.chat.example", "a@eu.example", "a@eu"] {
            assert_eq!(
                (state.region_of(other), &*state.home_of(other).expect("founded").region),
                (None, "us")
            );
        }
        assert_eq!(MetaState::default().home_of("a@eu.chat.example"), None);
    }

    #[test]
    fn pins_are_bounded_and_one_that_is_may_still_move() {
        let mut state = founded();
        let pin = |n: usize, to: &str| {
            let account = format!("{}{n}@chat.example", "x".repeat(1000));
            Command::Pin { account, to: to.into(), replicas: vec![], epoch: None }
        };
        let most = (0..1000).find(|n| state.apply(&pin(*n, "eu")).is_err()).expect("a bound");
        let bytes: usize = state.pins.keys().map(String::len).sum();
        assert!((PINS_BYTES_MAX - 1020..=PINS_BYTES_MAX).contains(&bytes), "{most} pins");
        assert_eq!(state.apply(&pin(most, "eu")), Err(CommandError::TooManyPins));
        state.apply(&pin(0, "us")).expect("it is pinned already");
        let Command::Pin { account, .. } = pin(1, "eu") else { unreachable!() };
        state.apply(&Command::Unpin { account }).expect("it is pinned");
        state.apply(&pin(most, "eu")).expect("there is room again");
    }

    #[test]
    fn the_last_region_cannot_be_declared_down() {
        let mut state = founded();
        state.apply(&region("eu", RegionState::Down)).expect("others are up");
        state.apply(&region("us", RegionState::Down)).expect("one is up");
        assert_eq!(
            state.apply(&region("ap", RegionState::Down)),
            Err(CommandError::LastRegion("ap".into()))
        );
    }

    #[test]
    fn a_command_applied_twice_changes_nothing_the_second_time() {
        let mut state = founded();
        let commands = [
            region("eu", RegionState::Down),
            Command::MoveHome { shard: 9, to: "us".into(), epoch: None },
            Command::NodeUp { name: "us-0".into(), record: node("us", 2, 7) },
            Command::NodeVoter { name: "us-0".into(), voter: true },
            Command::NodeUp { name: "us-0".into(), record: node("us", 2, 7) },
            Command::DomainAdd {
                name: "us.example".into(),
                domain: Domain { kind: DomainKind::Regional("us".into()) },
            },
            Command::Pin {
                account: "juliet@chat.example".into(),
                to: "us".into(),
                replicas: vec!["ap".into()],
                epoch: None,
            },
            Command::NodeRemove { name: "eu-0".into() },
            Command::RegionRemove { region: "eu".into() },
        ];
        for command in commands {
            state.apply(&command).expect("allowed");
            let before = state.clone();
            assert!(!state.apply(&command).expect("still allowed").changed, "{command:?}");
            assert_eq!(state, before);
        }
        assert!(state.nodes["us-0"].voter, "a restart does not take the vote away");
    }

    #[test]
    fn a_node_cannot_take_anothers_raft_id_nor_an_old_incarnation() {
        let mut state = founded();
        let up = |name: &str, record| Command::NodeUp { name: name.into(), record };
        let taken = state.apply(&up("us-0", node("us", 1, 5)));
        assert_eq!(taken, Err(CommandError::RaftIdTaken { raft_id: 1, owner: "eu-0".into() }));
        state.apply(&up("eu-0", node("eu", 1, 5))).expect("its own");
        let stale = state.apply(&up("eu-0", node("eu", 1, 4)));
        assert_eq!(stale, Err(CommandError::StaleIncarnation { name: "eu-0".into(), known: 5 }));
    }

    #[test]
    fn a_node_that_does_not_know_its_address_leaves_the_one_that_is_known() {
        let mut state = founded();
        let record = NodeRecord { address: String::new(), ..node("eu", 1, 5) };
        let up = Command::NodeUp { name: "eu-0".into(), record };
        state.apply(&up).expect("its own");
        assert_eq!(state.nodes["eu-0"].address, "127.0.0.1:5269");
        assert!(!state.apply(&up).expect("again").changed);
    }

    #[test]
    fn a_pinned_account_leaves_its_shard_and_comes_back_with_a_higher_epoch() {
        let mut state = founded();
        let account = "juliet@chat.example";
        state
            .apply(&Command::Pin {
                account: account.into(),
                to: "us".into(),
                replicas: vec![],
                epoch: None,
            })
            .expect("us is up");
        let pinned = state.home_of(account).expect("founded").into_owned();
        assert_eq!((pinned.region.as_str(), pinned.replicas.len(), pinned.epoch), ("us", 1, 2));
        state.apply(&Command::Unpin { account: account.into() }).expect("is pinned");
        assert!(state.home_of(account).expect("founded").epoch > pinned.epoch);
    }

    fn commands() -> impl Strategy<Value = Command> {
        let name = || {
            prop_oneof![
                Just("eu".to_owned()),
                Just("us".to_owned()),
                Just("ap".to_owned()),
                Just("sa".to_owned())
            ]
        };
        let state = prop_oneof![
            Just(RegionState::Up),
            Just(RegionState::Draining),
            Just(RegionState::Down),
            Just(RegionState::Off)
        ];
        prop_oneof![
            4 => (name(), state).prop_map(|(region, state)| Command::RegionState { region, state }),
            2 => (any::<u8>(), name(), proptest::option::of(0u64..4)).prop_map(|(shard, to, epoch)| Command::MoveHome { shard, to, epoch }),
            1 => name().prop_map(|name| Command::RegionAdd { region: Region::up(name) }),
            1 => name().prop_map(|region| Command::RegionRemove { region }),
            1 => (name(), name()).prop_map(|(to, other)| Command::Pin { account: "a@b".into(), to, replicas: vec![other], epoch: None }),
            1 => Just(Command::Unpin { account: "a@b".into() }),
            1 => name().prop_map(|region| Command::RegionReturned { region }),
            1 => (name(), name()).prop_map(|(home, replica)| Command::CaughtUp { home, replica }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_commanded_the_state_stays_sound(commands in proptest::collection::vec(commands(), 0..60)) {
            let (mut state, mut twin) = (founded(), founded());
            for command in &commands {
                let before = state.clone();
                let result = state.apply(command);
                prop_assert_eq!(&result, &twin.apply(command));
                prop_assert_eq!(&state, &twin);
                match &result {
                    Err(_) => prop_assert_eq!(&state, &before),
                    Ok(reply) => prop_assert_eq!(reply.changed, state != before),
                }
                for (was, is) in before.homes.iter().zip(&state.homes) {
                    prop_assert!(is.epoch >= was.epoch);
                    prop_assert!(is.region == was.region || is.epoch > was.epoch);
                    prop_assert!(is.replicas.contains(&is.region));
                    prop_assert!(state.regions.contains_key(&is.region));
                }
                if let (Some(was), Some(is)) = (before.home_of("a@b"), state.home_of("a@b")) {
                    prop_assert!(is.region == was.region || is.epoch > was.epoch);
                }
                let was_down = matches!(command, Command::RegionState { state, .. } if state.is_down());
                let serves = state.regions.values().any(|region| region.state == RegionState::Up);
                prop_assert!(serves || !was_down || result.is_err());
            }
        }
    }
}
