//! Room: once a second. Who went dark, what waited too long, whom we reach; and, on the metadata leader only, which region nobody
//! has reached for so long that it is declared down (blueprint §7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use replication::metadata::{Command, MetaState, RegionState};

use super::numbers::Numbers;
use super::{frame, light};
use crate::app::Node;
use crate::federation;
use crate::router;

/// How old a reach report may be to count.
const REPORT_MS_MAX: u64 = 5_000;

/// Runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut unreached: BTreeMap<String, u64> = BTreeMap::new();
    let mut numbers = Numbers::default();
    loop {
        tokio::select! {
            biased; // a tick too many, at the stop, harms nobody
            _ = every.tick() => {}
            () = node.stopped() => return,
        }
        let now = node.now_ms();
        let turns = node.geo.health.lock().tick(now);
        for turn in turns {
            light::turned(&node, turn);
        }
        for account in node.directory.due(now) {
            router::reopen(&node, &account);
        }
        node.geo.settle();
        node.geo.partings.tidy(|account| {
            node.directory.read(account.as_str(), |rows| !rows.is_empty()) == Some(true)
        });
        light::lost_on_the_way(&node);
        for (peer, orders) in node.geo.held.take_untold() {
            node.geo.tell_kept(peer, &orders);
        }
        node.moving.tick(&node);
        federation::tick(&node);
        report_reach(&node);
        numbers.show(&node, now);
        declare(&node, now, &mut unreached).await;
    }
}

fn report_reach(node: &Node) {
    let peers = node.geo.all_peers();
    let names: Vec<String> =
        peers.iter().filter(|peer| peer.link.is_up()).map(|peer| peer.name.to_string()).collect();
    let body = postcard::to_stdvec(&names).expect("names are plain values");
    for peer in &peers {
        peer.link.datagram(frame::REACH, &body);
    }
}

/// Who reaches a region now.
#[derive(Clone, Copy, Debug)]
enum Reached {
    Us,
    Others,
    /// With the time (ms) when that was first seen.
    NobodySince(u64),
}

/// What the leader's rule says of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Raise,
    Lower,
}

fn verdict(state: RegionState, reached: Reached, now: u64, down_after_ms: u64) -> Option<Verdict> {
    match (state, reached) {
        (RegionState::Down, Reached::Us) => Some(Verdict::Raise),
        (RegionState::Up | RegionState::Draining, Reached::NobodySince(since)) => {
            (now.saturating_sub(since) >= down_after_ms).then_some(Verdict::Lower)
        }
        // Down and not reached by us: it would fall again with the next look. Off: an operator's business alone.
        _ => None,
    }
}

/// On the leader: a region no live region has reached for `geo.down_after` is declared down; the metadata majority decides, because
/// a leader without one cannot commit. A region declared down that is reached again is declared up; one that an operator has
/// lowered is left alone.
async fn declare(node: &Arc<Node>, now: u64, unreached: &mut BTreeMap<String, u64>) {
    let me = node.geo.me.to_string();
    if node.metadata.leader().as_deref() != Some(me.as_str()) {
        unreached.clear();
        return;
    }
    let state = node.metadata.state();
    let fresh: Vec<(String, Vec<String>)> = {
        let reach = node.geo.reach.lock();
        let young = reach.iter().filter(|(_, (_, at))| now.saturating_sub(*at) <= REPORT_MS_MAX);
        young.map(|(name, (names, _))| (name.clone(), names.clone())).collect()
    };
    for (region, record) in &state.regions {
        if *region == *node.geo.me.region {
            // Declared down while nobody reached us, and leading again since: nobody else would say that we are back.
            if record.state == RegionState::Down {
                let command = Command::RegionReturned { region: region.clone() };
                tracing::warn!(?command, "the metadata leader declares itself");
                if let Err(error) = node.metadata.propose(command, Duration::from_secs(2)).await {
                    tracing::warn!(%error, "the declaration was not agreed on");
                }
            }
            continue;
        }
        let in_region =
            |name: &str| state.nodes.get(name).is_some_and(|node| node.region == *region);
        let reached_by_us =
            node.geo.all_peers().iter().any(|peer| in_region(&peer.name) && peer.link.is_up());
        let reached_by_others = fresh
            .iter()
            .any(|(by, names)| !in_region(by) && names.iter().any(|name| in_region(name)));
        let reached = match (reached_by_us, reached_by_others) {
            (true, _) => Reached::Us,
            (false, true) => Reached::Others,
            (false, false) => Reached::NobodySince(*unreached.entry(region.clone()).or_insert(now)),
        };
        let down_after = node.config.geo.down_after.as_millis() as u64;
        let command = match verdict(record.state, reached, now, down_after) {
            Some(Verdict::Raise) => Command::RegionReturned { region: region.clone() },
            Some(Verdict::Lower) => {
                Command::RegionState { region: region.clone(), state: RegionState::Down }
            }
            None => {
                if !matches!(reached, Reached::NobodySince(_)) || record.state.is_down() {
                    unreached.remove(region);
                }
                continue;
            }
        };
        unreached.remove(region);
        propose(node, command).await;
    }
    declare_nodes(node, &state, &fresh, now, unreached).await;
}

/// The same for single nodes, where their region has others: one that nobody has reached for `geo.node_down_after` has fallen, and stands
/// again when it is reached.
async fn declare_nodes(
    node: &Arc<Node>,
    state: &MetaState,
    fresh: &[(String, Vec<String>)],
    now: u64,
    unreached: &mut BTreeMap<String, u64>,
) {
    let me = node.geo.me.to_string();
    let after = node.config.geo.node_down_after.as_millis() as u64;
    for (name, record) in &state.nodes {
        let fallen = state.fallen.get(name);
        let others = state.nodes.iter().filter(|(other, known)| {
            *other != name && known.region == record.region && !state.fallen.contains_key(*other)
        });
        let is_reached = *name == me
            || node.geo.peer_named(name).is_some_and(|peer| peer.link.is_up())
            || fresh.iter().any(|(by, names)| by != name && names.contains(name));
        if is_reached || others.count() == 0 || state.region_state(&record.region).is_down() {
            unreached.remove(name);
            // Reached by us: it would fall again with the next look otherwise.
            let by_us =
                *name == me || node.geo.peer_named(name).is_some_and(|peer| peer.link.is_up());
            if let Some(incarnation) = fallen.filter(|_| by_us) {
                let (name, incarnation) = (name.clone(), *incarnation);
                propose(node, Command::NodeReturned { name, incarnation }).await;
            }
            continue;
        }
        let since = *unreached.entry(name.clone()).or_insert(now);
        if fallen.is_none() && now.saturating_sub(since) >= after {
            let (name, incarnation) = (name.clone(), record.incarnation);
            propose(node, Command::NodeFallen { name, incarnation }).await;
        }
    }
}

async fn propose(node: &Node, command: Command) {
    tracing::warn!(?command, "the metadata leader declares");
    if let Err(error) = node.metadata.propose(command, Duration::from_secs(2)).await {
        tracing::warn!(%error, "the declaration was not agreed on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_lowers_whom_nobody_reaches_and_raises_only_whom_it_lowered() {
        use Reached::{NobodySince, Others, Us};
        use RegionState::{Down, Draining, Off, Up};
        let cases = [
            (Up, Us, None),
            (Up, Others, None),
            (Up, NobodySince(41), None),
            (Up, NobodySince(40), Some(Verdict::Lower)),
            (Draining, Us, None),
            (Draining, NobodySince(40), Some(Verdict::Lower)),
            (Down, Us, Some(Verdict::Raise)),
            (Down, Others, None),
            (Down, NobodySince(0), None),
            (Off, Us, None),
            (Off, Others, None),
            (Off, NobodySince(0), None),
        ];
        for (state, reached, expected) in cases {
            assert_eq!(verdict(state, reached, 100, 60), expected, "{state} {reached:?}");
        }
    }
}
