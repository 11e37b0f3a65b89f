//! Who is connected where, and what follows from it: the policy of the geo layer. JIDs yes, XML no; no socket, no clock, no
//! randomness: everything takes `now` and gives values back (blueprint §4, §5; `docs/architecture.md`).

pub mod gateway;
pub mod health;
pub mod home;
pub mod nearest;
pub mod node_ix;
pub mod park;
pub mod rendezvous;
pub mod session_table;

pub use node_ix::{NodeIx, Nodes};
pub use park::Mark;
pub use session_table::{
    Bound, Carrier, Choice, Directory, Hashing, Outcome, ParkLimits, Place, Refusal, RouteEntry,
    Row, Shows, Taken, Trail, Unbound, leave_trail,
};
