//! `[push]`: notifications at the app servers of people's devices (XEP-0357).

use crate::table::Table;
use crate::value::Size;

/// The `[push]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Whether an app server is told who has sent a message.
    pub include_sender: bool,
    /// Whether it is told what the message says.
    pub include_body: bool,
    /// What it is told instead; empty: nothing.
    pub placeholder_body: String,
    /// Devices of one account. Beyond: the one that was registered longest ago is forgotten.
    pub registrations_max: u32,
    /// The publish options of one device. Beyond: the registration is refused with `not-acceptable`.
    pub options_bytes_max: usize,
    /// Pushes that a home remembers, so that no device is told of a message twice. Beyond: the oldest is forgotten.
    pub remembered_max: usize,
}

pub(crate) fn read(table: &Table<'_>) -> Push {
    let (least, most) = (Size(0), Size(64 << 10));
    let words = "a size from 0 to \"64KiB\"";
    Push {
        include_sender: table.value("include_sender", false),
        include_body: table.value("include_body", false),
        placeholder_body: table.value("placeholder_body", "New Message!".to_owned()),
        registrations_max: table.between("registrations_max", 5, 1, 100, "a number from 1 to 100"),
        options_bytes_max: table.between("options_bytes_max", Size(4 << 10), least, most, words).0,
        remembered_max: table.between(
            "remembered_max",
            100_000,
            1,
            1_000_000_000,
            "a number from 1 to 1000000000",
        ),
    }
}
