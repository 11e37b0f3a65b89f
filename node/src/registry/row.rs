//! Room: what the registry writes down, as text that an operator can read with `redis-cli`: session rows, entries of their log, records of nodes.
//! Plain values; called by everything else of the registry. Nothing here knows a socket.

use global_distrib::{RouteEntry, Shows};
use replication::Hlc;
use replication::metadata::NodeRecord;
use serde::{Deserialize, Serialize};
use xmpp::jid::FullJid;

/// One life of a node: `eu-0 1764338400123`. A row counts while the lease of its node names this life.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The node's name.
    pub node: String,
    /// Which life of it.
    pub incarnation: u64,
}

impl Life {
    /// As it is written down.
    pub fn text(&self) -> String {
        format!("{} {}", self.node, self.incarnation)
    }

    /// What was written down.
    pub fn parse(text: &str) -> Option<Life> {
        let (node, incarnation) = text.split_once(' ')?;
        Some(Life { node: node.to_owned(), incarnation: incarnation.parse().ok()? })
    }
}

/// A session row, as Redis has it: `NODE INCARNATION WRITING GENERATION PRIORITY SHOWS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Who holds the connection.
    pub life: Life,
    /// The how-manieth full writing of that life it belongs to: what an earlier one left over goes.
    pub writing: u64,
    /// When it was bound.
    pub generation: Hlc,
    /// Its presence.
    pub shows: Shows,
}

impl StoredRow {
    /// As it is written down. The generation has a fixed width, so that texts compare as numbers do.
    pub fn text(&self) -> String {
        let Shows { priority, available, hidden } = self.shows;
        let shows = match (available, hidden) {
            (false, _) => "connected",
            (true, false) => "available",
            (true, true) => "invisible",
        };
        let (life, writing) = (self.life.text(), self.writing);
        format!("{life} {writing} {} {priority} {shows}", generation(self.generation))
    }

    /// What was written down.
    pub fn parse(text: &str) -> Option<StoredRow> {
        let mut words = text.split(' ');
        let node = words.next()?.to_owned();
        let incarnation = words.next()?.parse().ok()?;
        let writing = words.next()?.parse().ok()?;
        let generation = parse_generation(words.next()?)?;
        let priority = words.next()?.parse().ok()?;
        let (available, hidden) = match words.next()? {
            "connected" => (false, false),
            "available" => (true, false),
            "invisible" => (true, true),
            _ => return None,
        };
        let shows = Shows { priority, available, hidden };
        Some(StoredRow { life: Life { node, incarnation }, writing, generation, shows })
    }
}

/// A generation, in sixteen hexadecimal digits.
pub fn generation(generation: Hlc) -> String {
    format!("{:016x}", generation.0)
}

fn parse_generation(text: &str) -> Option<Hlc> {
    u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(Hlc)
}

/// What one entry of the log says of a full JID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// `b ROW JID`: its row is this one from now on.
    Is(FullJid, StoredRow),
    /// `u NODE INCARNATION GENERATION JID`: that row is gone.
    Gone(FullJid, Life, Hlc),
}

impl Told {
    /// What the log says. A resource may hold blanks, so the JID is the rest of the line.
    pub fn parse(text: &str) -> Option<Told> {
        let (kind, rest) = text.split_once(' ')?;
        let words = if kind == "b" { 6 } else { 3 };
        let at = rest.match_indices(' ').nth(words - 1)?.0;
        let (said, jid) = (&rest[..at], FullJid::parse(&rest[at + 1..]).ok()?);
        match kind {
            "b" => Some(Told::Is(jid, StoredRow::parse(said)?)),
            "u" => {
                let (life, generation) = said.rsplit_once(' ')?;
                Some(Told::Gone(jid, Life::parse(life)?, parse_generation(generation)?))
            }
            _ => None,
        }
    }
}

/// A change of a row of this node that waits to be written down; the last one of a full JID says all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there, like this.
    Is(Hlc, Shows),
    /// That generation of it is gone.
    Gone(Hlc),
}

impl Change {
    /// What an entry of our own route log says of whom.
    pub fn of(entry: &RouteEntry) -> Option<(&FullJid, Change)> {
        match entry {
            RouteEntry::Bind { full, generation, priority, available, hidden }
            | RouteEntry::Update { full, generation, priority, available, hidden } => {
                let shows = Shows { priority: *priority, available: *available, hidden: *hidden };
                Some((full, Change::Is(*generation, shows)))
            }
            RouteEntry::Unbind { full, generation }
            | RouteEntry::Passed { full, generation, .. } => {
                Some((full, Change::Gone(*generation)))
            }
            RouteEntry::SnapshotBegin | RouteEntry::SnapshotEnd => None,
        }
    }

    /// Of which bind.
    pub fn generation(&self) -> Hlc {
        match self {
            Change::Is(generation, _) | Change::Gone(generation) => *generation,
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// As metadata keeps it.
    #[serde(flatten)]
    pub node: NodeRecord,
    /// The version of the program.
    pub version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StoredRow {
        let shows = Shows { priority: -3, available: true, hidden: false };
        let life = Life { node: "eu-0".into(), incarnation: 17 };
        StoredRow { life, writing: 2, generation: Hlc(0xabc), shows }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let text = row().text();
        assert_eq!(text, "eu-0 17 2 0000000000000abc -3 available");
        assert_eq!(StoredRow::parse(&text), Some(row()));
        for shows in ["connected", "invisible"] {
            let text = format!("eu-0 17 2 0000000000000abc 0 {shows}");
            assert_eq!(StoredRow::parse(&text).map(|row| row.text()), Some(text));
        }
        for wrong in
            ["", "eu-0 17", "eu-0 x 2 0000000000000abc 0 available", "eu-0 1 2 abc 0 available"]
        {
            assert_eq!(StoredRow::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_entry_names_a_jid_whose_resource_has_blanks() {
        let jid = FullJid::parse("romeo@chat.example/at the balcony").unwrap();
        let text = format!("b {} {jid}", row().text());
        assert_eq!(Told::parse(&text), Some(Told::Is(jid.clone(), row())));
        let text = format!("u eu-0 17 0000000000000abc {jid}");
        assert_eq!(Told::parse(&text), Some(Told::Gone(jid, row().life, Hlc(0xabc))));
        for wrong in ["", "b x", "u eu-0 17 0000000000000abc nobody", "v a b c d@e/f"] {
            assert_eq!(Told::parse(wrong), None, "{wrong}");
        }
    }
}
