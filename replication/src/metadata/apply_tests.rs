//! Commands one by one, and whatever is commanded: homes pass on, epochs grow, nothing changes twice, the state stays sound.

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
    assert_eq!(reply.moved.len(), before.homes.iter().filter(|home| home.region == "eu").count());
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
    let pin =
        Command::Pin { account: account.clone(), to: "us".into(), replicas: vec![], epoch: None };
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
