//! Plays in text: who says what, and what the others must hear. In the manner of Prosody's *scansion*.
//!
//! [`text`] reads a `.scn` file into a [`Play`], [`pattern`] says whether a stanza is the one that was expected, [`stage`]
//! performs. `tests/scenarios/README.md` is the manual. Every play is performed twice: with everybody at one region's
//! node, and with the clients spread over the regions. The play does not know which.

pub mod pattern;
pub mod stage;
pub mod text;

pub use stage::{Placement, Theatre, perform};
pub use text::Play;

/// The namespace of what a pattern may say beyond plain XML: `scn:strict`, `scn:absent`.
pub const NS: &str = "urn:pangaea:scenario";
