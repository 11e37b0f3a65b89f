//! A peer that changes its manners and cuts its connections, from a seed: whatever it does, each stanza is delivered or has failed, once, and those of a pair
//! arrive for the first time in the order in which they were sent.

use std::time::Duration;

use super::world::{Connect, Find, Manners, World};
use super::{limits, message, message_from, ticket, timers};
use crate::federation::{Limits, Timers};

const STANZAS: u64 = 400;

/// xorshift64*: the same seed, the same course.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn is(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn manners(chance: &mut Chance, arrived: usize) -> Manners {
    let mut at = arrived;
    let cuts = (0..chance.below(4)).map(|_| {
        at += 1 + chance.below(60) as usize;
        at
    });
    Manners {
        cuts: cuts.collect(),
        find: if chance.is(10) { Find::Unknown } else { Find::Found },
        connect: match chance.below(10) {
            0 => Connect::Silent,
            1 => Connect::Refuses,
            _ => Connect::Accepts,
        },
        external: chance.is(70),
        sm: chance.is(80),
        resume: chance.is(70),
        bidi: chance.is(50),
        takes_more: chance.is(60),
        eager: chance.is(20),
        closes_after_tls: chance.is(10),
        mute: chance.is(10),
        behind: if chance.is(20) { 3 } else { 0 },
        proved: chance.is(80),
        ..Manners::default()
    }
}

async fn run(seed: u64) -> (usize, usize, usize) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let first = manners(&mut chance, 0);
    let world = World::new(first);
    let limits = Limits { unacked_max: 50, ..limits() };
    let timers = Timers { queue: Duration::from_secs(9), ack: Duration::from_secs(5), ..timers() };
    let outgoing = world.outgoing_with(limits, timers);
    let mut order = 0;
    while order < STANZAS {
        for _ in 0..=chance.below(40) {
            let stanza = match order % 3 {
                0 => {
                    message_from(order, "garden@rooms.capulet.example/j", "romeo@montague.example")
                }
                _ => message(order, "romeo@montague.example"),
            };
            outgoing.send(ticket(order), stanza).expect("there is room");
            order += 1;
        }
        tokio::time::sleep(Duration::from_millis(chance.below(8_000))).await;
        let arrived = world.seen.lock().arrived.len();
        *world.manners.lock() = manners(&mut chance, arrived);
    }
    *world.manners.lock() = Manners::default();
    let ends = |seen: &super::world::Seen| seen.delivered.len() + seen.failed.len();
    world.until("all ended", |seen| ends(seen) >= order as usize).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let seen = world.seen.lock();
    let mut ended: Vec<u64> = seen.delivered.clone();
    ended.extend(seen.failed.iter().map(|(order, _)| *order));
    ended.sort_unstable();
    assert!(ended.iter().copied().eq(0..order), "seed {seed}: each ends once");
    let mut known = std::collections::HashSet::new();
    let firsts: Vec<u64> =
        seen.arrived.iter().map(|(n, _)| *n).filter(|n| known.insert(*n)).collect();
    for rooms in [true, false] {
        let of_pair: Vec<u64> = firsts.iter().copied().filter(|n| (n % 3 == 0) == rooms).collect();
        assert!(of_pair.is_sorted(), "seed {seed}: {of_pair:?}");
    }
    let failed: Vec<u64> = seen.failed.iter().map(|(n, _)| *n).collect();
    for rooms in [true, false] {
        let of_pair: Vec<u64> = failed.iter().copied().filter(|n| (n % 3 == 0) == rooms).collect();
        assert!(of_pair.is_sorted(), "seed {seed}: errors {of_pair:?}");
    }
    assert_eq!(outgoing.queued_bytes(), 0, "seed {seed}");
    (seen.resumed, seen.failed.len(), seen.arrived.len() - firsts.len())
}

#[tokio::test(start_paused = true)]
async fn each_stanza_ends_once_and_in_order_whatever_the_peer_does() {
    let mut sums = (0, 0, 0);
    for seed in 0..60 {
        let (resumed, failed, again) = run(seed).await;
        sums = (sums.0 + resumed, sums.1 + failed, sums.2 + again);
    }
    // How often anything fails is a matter of the jitter: in some runs hardly ever.
    assert!(sums.0 > 10 && sums.1 > 0 && sums.2 > 10, "too little happened: {sums:?}");
}
