//! Bugs that can be put back, one at a time, to prove that the simulator finds them: a build switch (the feature `canary`, which only
//! `tests/sim` asks for). Without it [`sings`] is false, known to the compiler, and nothing of this is in the program.
//!
//! Here because every crate of the server may call `config`, and none of the others may be called by all.

/// A bug of ours, or one that we nearly made. Each is one condition in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// Nobody is asked whether the addressee is connected elsewhere: what is known here is believed at once (parking without a mark).
    JudgedAtOnce,
    /// `h` counts a message before anybody is responsible for it.
    HandledAtOnce,
    /// The outbox says that it has written what it has not.
    OutboxForgets,
    /// What comes back is put behind what is newer.
    ReturnedBehind,
    /// The end of a session takes the row of the one that replaced it.
    UnbindsNewer,
    /// What a client had not acknowledged ends with its session.
    UnackedForgotten,
    /// A node that has refused one stanza takes the next of the same sender.
    TakesBehindRefused,
    /// What a node had that died is not routed anew.
    DeadNodeKeeps,
    /// A link that breaks takes its peer for somebody new.
    LinkForgetsPeer,
    /// The order of binds follows the wall clock, wherever that jumps.
    ClockFollowsWall,
    /// A node that another has superseded as scribe of their region goes on writing.
    SleeperWrites,
    /// A session that moves leaves behind what its client had not acknowledged.
    CapsuleEmpty,
    /// A node that gives a session away keeps it, too.
    GiverKeeps,
    /// A node does not follow what the scribe of its region feeds it.
    ReaderStarves,
    /// What a dead node had for other domains is not sent again.
    GatewayForgets,
    /// A pair of a sender and a domain changes its gateway while something of it is on the way.
    PairWanders,
}

#[cfg(feature = "canary")]
thread_local! {
    static PUT_BACK: std::cell::Cell<Option<Canary>> = const { std::cell::Cell::new(None) };
}

/// Puts a bug back on this thread, or (`None`) takes it away.
#[cfg(feature = "canary")]
pub fn put_back(canary: Option<Canary>) {
    PUT_BACK.set(canary);
}

/// Whether this bug is put back.
#[inline(always)]
pub fn sings(canary: Canary) -> bool {
    #[cfg(feature = "canary")]
    return PUT_BACK.get() == Some(canary);
    #[cfg(not(feature = "canary"))]
    {
        let _ = canary;
        false
    }
}
