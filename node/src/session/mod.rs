//! Session: one task a connection. (The task itself: being written.)

pub mod mailbox;
pub mod wheel;
