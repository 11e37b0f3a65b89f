//! The simulator: three to five real nodes in one process, on a simulated network, clock and disk, and everything that befalls them from one
//! seed. What it checks are the promises of docs/consistency.md.
//!
//! * `plan` what a seed stands for · `play` one seed from start to end · `end` what the world looks like then
//! * `world/` what takes the place of the real world · `people/` clients and what they saw · `promises/` one file a promise
//!
//! A failing seed is told as a story by `PANGAEA_SEED=<n> cargo test -p pangaea-sim --test seeds`.

pub mod end;
pub mod people;
pub mod plan;
pub mod play;
pub mod promises;
pub mod world;
