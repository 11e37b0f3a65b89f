//! Who owns a session while it moves from one node to another, as values: what each side has heard, and what follows. No links, no
//! clocks; `give` and `take` do what is said here.
//!
//! The rule: the node that gives keeps the whole session until the node that takes says that it has it. The link between them is ordered
//! and loses nothing while both processes live, so one of three things comes: *took*, *declined*, or the end of the other's life.
//!
//! ```text
//!  gives                                    takes
//!  (its own)                                asked ──── deadline ───→ given up
//!     │ asked: state is sent                  │                          │
//!  offered ────────── capsule ──────────────→ │ it has it                │ capsule: declined
//!     ├─ took ←────────────────────────────── holds                    (nothing)
//!     │    → theirs: it lets go of all that was in the capsule
//!     └─ declined, or the other's life is over → its own again
//! ```

/// The session, at the node that had it, after its state was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giver {
    /// Its state is on the way to another node. Nobody is served by this one: neither its client nor whoever asks for it.
    Offered,
    /// The other node has it.
    Theirs,
    /// It was not taken, and sleeps here as before.
    Own,
}

/// What the giver hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The other node has the session.
    Took,
    /// It does not want it.
    Declined,
    /// That node's process is over, or counts as that: whatever it has taken went with it.
    Over,
}

impl Giver {
    /// The state that follows. Only an offer can be answered: what is said twice, or too late, changes nothing.
    #[must_use]
    pub(super) fn hears(self, answer: Answer) -> Self {
        match (self, answer) {
            (Self::Offered, Answer::Took) => Self::Theirs,
            (Self::Offered, Answer::Declined | Answer::Over) => Self::Own,
            (settled, _) => settled,
        }
    }
}

/// The session, at the node that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taker {
    /// The other node has been asked.
    Asked,
    /// It was not worth waiting for; the answer may still come.
    GivenUp,
    /// It has the session.
    Holds,
    /// It has not, and nothing more is to come.
    Nothing,
}

/// What the taker hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The whole state of the session. It can be had here.
    Capsule,
    /// The other node does not give it.
    Refused,
    /// It did not answer in time.
    Deadline,
    /// The other node's process is over.
    Over,
}

/// What the taker says to the other node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// See [`Answer::Took`].
    Took,
    /// See [`Answer::Declined`].
    Declined,
}

impl Taker {
    /// The state that follows, and what is said. Every capsule is answered, once.
    #[must_use]
    pub(super) fn hears(self, word: Word) -> (Self, Option<Say>) {
        match (self, word) {
            (Self::Asked, Word::Capsule) => (Self::Holds, Some(Say::Took)),
            (Self::Asked, Word::Refused | Word::Over) => (Self::Nothing, None),
            (Self::Asked, Word::Deadline) => (Self::GivenUp, None),
            (Self::GivenUp, Word::Capsule) => (Self::Nothing, Some(Say::Declined)),
            (Self::GivenUp, Word::Refused | Word::Over) => (Self::Nothing, None),
            (settled, _) => (settled, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// Two nodes and the two directions of the link between them.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct World {
        /// 0: has not been asked yet.
        giver: u8,
        taker: u8,
        to_giver: VecDeque<u8>,
        to_taker: VecDeque<u8>,
        giver_lives: bool,
        taker_lives: bool,
        /// The living one has heard of the other's end.
        told: bool,
        /// The taker's connection is there, and it has not asked yet.
        will_ask: bool,
    }

    const UNASKED: u8 = 0;
    const ASK: u8 = 9;

    const GIVERS: [Giver; 3] = [Giver::Offered, Giver::Theirs, Giver::Own];
    const TAKERS: [Taker; 4] = [Taker::Asked, Taker::GivenUp, Taker::Holds, Taker::Nothing];

    fn giver(at: u8) -> Giver {
        GIVERS[usize::from(at - 1)]
    }

    fn of_giver(state: Giver) -> u8 {
        GIVERS.iter().position(|known| *known == state).map_or(0, |at| at as u8 + 1)
    }

    fn of_taker(state: Taker) -> u8 {
        TAKERS.iter().position(|known| *known == state).map_or(0, |at| at as u8)
    }

    impl World {
        /// The giver serves the session: nobody has asked, or it has it back.
        fn at_giver(&self) -> bool {
            self.giver_lives && (self.giver == UNASKED || giver(self.giver) == Giver::Own)
        }

        fn at_taker(&self) -> bool {
            self.taker_lives && TAKERS[usize::from(self.taker)] == Taker::Holds
        }

        fn giver_hears(&mut self, answer: Answer) {
            if self.giver != UNASKED {
                self.giver = of_giver(giver(self.giver).hears(answer));
            }
        }

        fn taker_hears(&mut self, word: Word) {
            let (state, say) = TAKERS[usize::from(self.taker)].hears(word);
            self.taker = of_taker(state);
            if self.giver_lives {
                self.to_giver.extend(say.map(|say| u8::from(say == Say::Declined)));
            }
        }

        /// Everything that may happen next.
        fn next(&self) -> Vec<World> {
            let mut all = Vec::new();
            let mut add = |change: &dyn Fn(&mut World)| {
                let mut next = self.clone();
                change(&mut next);
                all.push(next);
            };
            if self.will_ask && self.taker_lives && self.giver_lives {
                add(&|world| {
                    world.will_ask = false;
                    world.to_giver.push_back(ASK);
                });
            }
            if self.giver_lives && !self.to_giver.is_empty() {
                add(&|world| match world.to_giver.pop_front() {
                    // Asked: it gives the session, or refuses to.
                    Some(ASK) if world.giver == UNASKED => {
                        world.giver = of_giver(Giver::Offered);
                        if world.taker_lives {
                            world.to_taker.push_back(0);
                        }
                    }
                    Some(0) => world.giver_hears(Answer::Took),
                    Some(1) => world.giver_hears(Answer::Declined),
                    _ => {}
                });
                if self.to_giver.front() == Some(&ASK) {
                    add(&|world| {
                        world.to_giver.pop_front();
                        if world.taker_lives {
                            world.to_taker.push_back(1);
                        }
                    });
                }
            }
            if self.taker_lives && !self.to_taker.is_empty() {
                add(&|world| {
                    let word = match world.to_taker.pop_front() {
                        Some(0) => Word::Capsule,
                        _ => Word::Refused,
                    };
                    world.taker_hears(word);
                });
            }
            if self.taker_lives && !self.will_ask && TAKERS[usize::from(self.taker)] == Taker::Asked
            {
                add(&|world| world.taker_hears(Word::Deadline));
            }
            // A process may end at any moment; what it was sent and what it had sent and is still on the way goes with it. The other hears of
            // it later.
            if self.giver_lives && self.taker_lives {
                for giver_dies in [true, false] {
                    add(&|world| {
                        world.giver_lives = !giver_dies;
                        world.taker_lives = giver_dies;
                        if giver_dies {
                            world.to_giver.clear();
                        } else {
                            world.to_taker.clear();
                        }
                    });
                }
            } else if !self.told {
                add(&|world| {
                    world.told = true;
                    // What had not arrived by then does not.
                    world.to_giver.clear();
                    world.to_taker.clear();
                    if world.giver_lives {
                        world.giver_hears(Answer::Over);
                    } else {
                        world.taker_hears(Word::Over);
                    }
                });
            }
            all
        }
    }

    #[test]
    fn in_every_order_of_things_one_node_owns_the_session() {
        let mut seen = BTreeSet::new();
        let mut open = vec![World {
            giver: UNASKED,
            taker: of_taker(Taker::Asked),
            to_giver: VecDeque::new(),
            to_taker: VecDeque::new(),
            giver_lives: true,
            taker_lives: true,
            told: false,
            will_ask: true,
        }];
        let mut ends = BTreeSet::new();
        while let Some(world) = open.pop() {
            if !seen.insert(world.clone()) {
                continue;
            }
            assert!(!(world.at_giver() && world.at_taker()), "two have it: {world:?}");
            let next = world.next();
            // Nothing is on the way any more: what there is now stays.
            if world.to_giver.is_empty() && world.to_taker.is_empty() && !world.will_ask {
                let both = world.giver_lives && world.taker_lives;
                let waits = both && TAKERS[usize::from(world.taker)] == Taker::Asked;
                if both && !waits {
                    assert!(world.at_giver() || world.at_taker(), "nobody has it: {world:?}");
                }
                if world.giver_lives && world.told && giver(world.giver.max(1)) != Giver::Theirs {
                    assert!(world.at_giver(), "the one that is left has it: {world:?}");
                }
                ends.insert((
                    world.giver_lives,
                    world.taker_lives,
                    world.at_giver(),
                    world.at_taker(),
                ));
            }
            open.extend(next);
        }
        // All that can come of it does come of it.
        for end in [
            (true, true, true, false),
            (true, true, false, true),
            (true, false, true, false),
            (true, false, false, false), // Taken, and gone with who took it: its ledger's other nodes see to the rest.
            (false, true, false, true),
            (false, true, false, false),
        ] {
            assert!(ends.contains(&end), "{end:?} never happened");
        }
        assert!(seen.len() > 50, "{}", seen.len());
    }

    #[test]
    fn what_comes_too_late_changes_nothing() {
        for settled in [Giver::Theirs, Giver::Own] {
            for answer in [Answer::Took, Answer::Declined, Answer::Over] {
                assert_eq!(settled.hears(answer), settled);
            }
        }
        for settled in [Taker::Holds, Taker::Nothing] {
            for word in [Word::Capsule, Word::Refused, Word::Deadline, Word::Over] {
                assert_eq!(settled.hears(word), (settled, None));
            }
        }
    }
}
