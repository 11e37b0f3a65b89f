//! The people of a simulation: their devices, what these do, and the journal of it all.

pub mod device;
mod ears;
pub mod journal;

/// The resources a user's devices have, in order.
pub const RESOURCES: [&str; 3] = ["phone", "laptop", "tablet"];

/// The number of a device.
pub fn number_of(user: usize, resource: &str) -> Option<usize> {
    let at = RESOURCES.iter().position(|known| *known == resource)?;
    Some(user * RESOURCES.len() + at)
}
