//! What a simulation takes the place of: chance, time, the network, disks, Raft's agreement. Everything else is the real code.

pub mod abroad;
pub mod chance;
pub mod council;
pub mod disk;
pub mod host;
pub mod life;
pub mod net;
pub mod story;
pub mod wire;
