//! XEP-0356 §8: a component that connects hears of the sessions that have shown themselves before. Each node tells of its own, and all of them begin at once; so
//! each goes by the room that there is: it waits while the mailbox of the connection is half full, and asks the node that has the connection about
//! that after every [`WINDOW`]. What a connection would not get, because another one of the component is chosen for it, is not told again.
//! Called by `components::appeared`, and by `geo` for what other nodes ask.

use std::sync::Arc;
use std::time::Duration;

use config::{ComponentMode, WatchedPresence};
use global_distrib::{Choice, NodeIx, Row};
use xmpp::jid::FullJid;

use super::Watchers;
use crate::app::Node;
use crate::components::row_for;
use crate::geo::{frame, light};
use crate::router;
use crate::session::Seat;

/// Presence that is on the way to another node when that is asked whether there is room for more.
const WINDOW: usize = 64;
/// Before it is looked again whether there is.
const LOOK: Duration = Duration::from_millis(20);
/// How long another node may take to answer; one that does not is told more slowly.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// There is a connection of a component, here or elsewhere.
pub(in crate::components) fn appeared(node: &Arc<Node>, full: &FullJid) {
    let Watchers(all) = node.components.watchers();
    let component = full.bare();
    let watches = |watcher: &&super::Watcher| {
        watcher.component == component && watcher.presence != WatchedPresence::None
    };
    let Some(watcher) = all.iter().find(watches) else { return };
    let mode = node.config.components.mode_of(component.as_str());
    // One that stands by hears nothing, whoever sends it.
    if mode != ComponentMode::Share && !is_chosen(node, full, "") {
        return;
    }
    let (node, full, to) = (node.clone(), full.clone(), watcher.address.clone());
    tokio::spawn(async move {
        // Of an account that has it for a contact it hears twice.
        for (told, seat) in light::available_here(&node).into_iter().enumerate() {
            if !has_room(&node, &full, told).await {
                return;
            }
            if is_chosen(&node, &full, seat.bare.as_str()) {
                seat.tell_presence(|presence| router::route(&node, presence.stanza.with_to(&to)));
            }
            if told % WINDOW == WINDOW - 1 {
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Whether that connection gets what this account sends.
fn is_chosen(node: &Node, full: &FullJid, sender: &str) -> bool {
    let chosen = |rows: &[Row<Arc<Seat>>]| {
        let Choice::Send { here, there } = row_for(node, full.domain(), sender, rows) else {
            return false;
        };
        let its = rows.iter().find(|row| row.full == *full);
        its.is_some_and(|row| match row.there() {
            Some(ix) => there.contains(&ix),
            None => here.iter().any(|seat| seat.full == *full),
        })
    };
    node.directory.read(full.bare_str(), chosen).unwrap_or(false)
}

/// Where a connection is. One whose node is silent is nowhere: it hears all of it when that is back.
enum Place {
    Here(Arc<Seat>),
    There(NodeIx),
}

fn place(node: &Node, full: &FullJid) -> Option<Place> {
    let of = |row: &Row<Arc<Seat>>| {
        let here = || row.here().cloned().map(Place::Here);
        row.there().map(Place::There).or_else(here)
    };
    let is_it = |row: &&Row<Arc<Seat>>| row.lit && row.full == *full;
    let of = |rows: &[Row<Arc<Seat>>]| rows.iter().find(is_it).and_then(of);
    node.directory.read(full.bare_str(), of).flatten()
}

/// Until there is room; `false`: the connection is gone, or its node is silent.
async fn has_room(node: &Arc<Node>, full: &FullJid, told: usize) -> bool {
    loop {
        let room = match place(node, full) {
            None => return false,
            Some(Place::Here(seat)) => is_roomy(node, &seat),
            Some(Place::There(_)) if !told.is_multiple_of(window(node)) => true,
            Some(Place::There(ix)) => is_roomy_there(node, ix, full).await,
        };
        if room {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn window(node: &Node) -> usize {
    WINDOW.min(node.config.components.queue_items_max / 8).max(1)
}

/// Whether less than half of what may wait for it does: presence is dropped from three quarters on.
fn is_roomy(node: &Node, seat: &Seat) -> bool {
    let (depth, most) = (seat.mailbox.depth(), &node.config.components);
    depth.items <= most.queue_items_max / 2 && depth.bytes <= most.queue_bytes_max / 2
}

/// The same of a connection of another node. It has all that was sent to it before when it answers.
async fn is_roomy_there(node: &Arc<Node>, ix: NodeIx, full: &FullJid) -> bool {
    let body = full.as_str().as_bytes().to_vec();
    let send = |id| node.geo.send_value(ix, frame::ROOM, &frame::Call { id, body }).is_some();
    match node.geo.calls.call(Some(ix), ANSWER_WITHIN, send).await {
        Ok(answer) => answer == [1],
        Err(error) => {
            tracing::debug!(component = %full, %error, "nobody says whether there is room");
            error == crate::geo::calls::CallError::TimedOut
        }
    }
}

/// Another node asks whether a connection of this one has room for more; the answer. One that is gone has none: the other node asks until it knows that too.
pub fn room(node: &Arc<Node>, asked: &[u8]) -> Vec<u8> {
    let full = std::str::from_utf8(asked).ok().and_then(|text| FullJid::parse(text).ok());
    let place = full.and_then(|full| place(node, &full));
    let has = match place {
        Some(Place::Here(seat)) => is_roomy(node, &seat),
        _ => false,
    };
    vec![u8::from(has)]
}

#[cfg(test)]
mod tests {
    use global_distrib::health::Turn;
    use replication::Hlc;

    use super::*;
    use crate::components::tests::{CONFIG, elsewhere};
    use crate::testing::House;

    #[tokio::test]
    async fn nobody_waits_for_room_at_a_silent_node() {
        let house = House::with(CONFIG).await;
        tokio::time::pause();
        let full = FullJid::parse("irc.chat.example/there").expect("a JID");
        let there = elsewhere(&house, &full, Hlc::new(house.node.wall_ms(), 0));
        // Another one would be asked behind so many.
        assert!(has_room(&house.node, &full, 1).await);
        light::turned(&house.node, Turn::WentDark(there));
        for told in [0, 1] {
            let waits = has_room(&house.node, &full, told);
            let has = tokio::time::timeout(Duration::from_secs(60), waits).await;
            assert!(!has.expect("nothing is waited for"));
        }
        light::turned(&house.node, Turn::CameBack(there));
        assert!(has_room(&house.node, &full, 1).await);
    }
}
