//! I12. *Memory, queues and connections stay within their limits, whatever happens:* looked at every simulated second.

use crate::end::End;
use crate::people::journal::Journal;
use crate::play::Play;

/// A look at a running world.
pub fn look(play: &mut Play) {
    let mut wrong = Vec::new();
    for host in &play.hosts {
        let Some(node) = host.node() else { continue };
        let limits = &node.config.limits;
        let (_, bytes) = node.directory.parked();
        if bytes > limits.parked_bytes_max {
            wrong.push(format!("{} holds {bytes} bytes in gates", host.name));
        }
        for peer in node.geo.all_peers() {
            let bytes = peer.link.stats().unacked_bytes;
            // Both lanes have the bound.
            if bytes > 2 * node.config.link.queue_bytes_max as u64 {
                wrong.push(format!("{} keeps {bytes} bytes for {}", host.name, peer.name));
            }
        }
    }
    let most = play.devices.len() * 40 + play.hosts.len() * play.hosts.len() * 8;
    if play.net.connections() > most {
        wrong.push(format!("there are {} connections", play.net.connections()));
    }
    for what in wrong {
        let now = play.now;
        play.journal.is_wrong("bounded", format!("{what} at {now}"));
    }
}

/// See [`look`].
pub fn check(_: &Journal, _: &End) -> Vec<String> {
    Vec::new()
}
