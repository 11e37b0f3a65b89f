//! `[geo]`: where this region is, and how long it waits for the others (blueprint §5 to §7).

use std::time::Duration;

use crate::table::Table;
use crate::value::{FromToml, describe};

/// The `[geo]` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Geo {
    /// How long a stanza may wait for a region that cannot be reached; then it bounces with `remote-server-timeout`.
    pub hold: Duration,
    /// How long a link may be down until the users behind it are shown as unavailable. `link.silent_after` goes before it.
    pub dead_after: Duration,
    /// Silence after which the metadata majority declares a region down and moves its homes.
    pub down_after: Duration,
    /// Silence after which the metadata majority takes a node for dead whose region has others: what it had promised is taken over, and nobody waits
    /// for it any more.
    pub node_down_after: Duration,
    /// How old a message may grow that nobody has kept yet, until it is written to the outbox so that its sender need not wait.
    pub outbox_after: Duration,
    /// Degrees north and east, for choosing the nearest region.
    pub place: Option<(f64, f64)>,
    /// When a message counts as safe.
    pub durability: Durability,
}

/// When a message counts as safe, and is acknowledged to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Durable at the sender's region, or taken by whoever it was handed to.
    OneRegion,
    /// On disk in two regions, or taken by whoever it was handed to. A change is answered when the region that would become home in its home's stead
    /// has it, so the loss of a region loses nothing that was answered; and while that region is away and not declared down, changes fail.
    TwoRegions,
}

impl FromToml for Durability {
    fn expected() -> String {
        "\"one-region\" or \"two-regions\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("one-region") => Ok(Durability::OneRegion),
            Some("two-regions") => Ok(Durability::TwoRegions),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        Durability::OneRegion
    }
}

pub(crate) fn read(table: &Table<'_>) -> Geo {
    let seconds = |key, default| {
        table.between(
            key,
            Duration::from_secs(default),
            Duration::from_secs(1),
            Duration::from_secs(86_400),
            "a duration from \"1s\" to \"1d\"",
        )
    };
    let geo = Geo {
        hold: seconds("hold", 60),
        dead_after: seconds("dead_after", 8),
        down_after: seconds("down_after", 60),
        node_down_after: seconds("node_down_after", 5),
        outbox_after: table.between(
            "outbox_after",
            Duration::from_millis(200),
            Duration::from_millis(1),
            Duration::from_secs(10),
            "a duration from \"1ms\" to \"10s\"",
        ),
        place: place(table),
        durability: table.value("durability", Durability::OneRegion),
    };
    if geo.down_after < geo.dead_after {
        table.refuse(
            "down_after",
            format!("at least dead_after, {:?}", geo.dead_after),
            format!("{:?}", geo.down_after),
        );
    }
    geo
}

fn place(table: &Table<'_>) -> Option<(f64, f64)> {
    const EXPECTED: &str = "latitude and longitude in degrees, as in [50.1, 8.7]";
    let place: Vec<f64> = table.optional("place")?;
    match place[..] {
        [north, east] if north.abs() <= 90.0 && east.abs() <= 180.0 => Some((north, east)),
        // An empty list is what stands in after a problem, and written out it is one.
        [] => None,
        _ => {
            table.refuse("place", EXPECTED, format!("{place:?}"));
            None
        }
    }
}
