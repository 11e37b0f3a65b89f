//! What must hold: one file a promise, each with its sentence from docs/consistency.md on top. A seed is played once and all are asked.

pub mod accounts_linearizable;
pub mod acknowledged_is_durable;
pub mod archived;
pub mod bounded;
pub mod duplicates_bounded;
pub mod handed_out;
pub mod heals_alone;
pub mod no_phantom;
pub mod no_silent_drop;
pub mod not_too_early;
pub mod one_owner;
pub mod other_domains;
pub mod pair_order;
pub mod presence_converges;
pub mod tables_converge;

use crate::end::End;
use crate::people::journal::Journal;

/// A promise.
pub struct Promise {
    /// Its file's name.
    pub name: &'static str,
    /// How it is broken, if it is.
    pub check: fn(&Journal, &End) -> Vec<String>,
}

/// All of them.
pub const ALL: &[Promise] = &[
    Promise { name: "acknowledged_is_durable", check: acknowledged_is_durable::check },
    Promise { name: "duplicates_bounded", check: duplicates_bounded::check },
    Promise { name: "pair_order", check: pair_order::check },
    Promise { name: "no_phantom", check: no_phantom::check },
    Promise { name: "no_silent_drop", check: no_silent_drop::check },
    Promise { name: "not_too_early", check: not_too_early::check },
    Promise { name: "handed_out", check: handed_out::check },
    Promise { name: "one_owner", check: one_owner::check },
    Promise { name: "tables_converge", check: tables_converge::check },
    Promise { name: "presence_converges", check: presence_converges::check },
    Promise { name: "accounts_linearizable", check: accounts_linearizable::check },
    Promise { name: "other_domains", check: other_domains::check },
    Promise { name: "archived", check: archived::check },
    Promise { name: "bounded", check: bounded::check },
    Promise { name: "heals_alone", check: heals_alone::check },
];
