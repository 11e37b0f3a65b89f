//! Payloads that two or more features share, one specification a file. Called by features, the router and sessions.
//!
//! Small ones are made and read as [`Element`](crate::Element)s; those that carry a whole stanza ([`forward`],
//! [`carbons`]) take its bytes as they are. Deliberately absent: what a single feature needs alone; it has it in its folder.

pub mod caps;
pub mod carbons;
pub mod data_form;
pub mod date_time;
pub mod delay;
pub mod disco;
pub mod forward;
pub mod importance;
pub mod rsm;
pub mod stanza_id;
