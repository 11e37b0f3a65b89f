//! Room: streams that other domains open to us.

mod external;
pub mod machine;
mod management;
mod pairing;
pub mod turns;

#[cfg(test)]
mod tests;
