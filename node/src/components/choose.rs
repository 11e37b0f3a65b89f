//! Which of a component's connections gets a stanza. Pure. Called by the router with all rows of the domain, and on the receiving node with
//! its own. Nothing is filed for a component: if it is not connected, the sender hears it.

use std::cmp::Reverse;

use config::ComponentMode;
use global_distrib::rendezvous::weight;
use global_distrib::{Choice, Row};
use smallvec::smallvec;

/// `sender` is the sender's bare JID. Rows of nodes that have gone dark come last.
///
/// *Share* keeps to the region where the stanza entered: no ocean is crossed, and senders of one region do not wait for what others have
/// sent elsewhere. Where there is none in this region, the same other region serves all of it. Within a region the sender decides, so that a pair's stanzas stay in order,
/// and a connection that comes or goes moves only those senders that it takes or leaves.
pub fn choose<H: Clone, R: AsRef<str>>(
    sender: &str,
    mode: ComponentMode,
    rows: &[Row<H>],
    own_region: &str,
    region: impl Fn(&Row<H>) -> R,
) -> Choice<H> {
    let oldest = |row: &&Row<H>| (row.lit, Reverse((row.generation, row.full.clone())));
    let nearest = |row: &&Row<H>| {
        let of = region(row);
        let of = of.as_ref();
        let by_sender = weight(&[sender, row.full.as_str()]);
        (row.lit, of == own_region, weight(&[own_region, of]), by_sender)
    };
    let chosen = match mode {
        ComponentMode::Standby | ComponentMode::One => rows.iter().max_by_key(oldest),
        ComponentMode::Share => rows.iter().max_by_key(nearest),
    };
    match chosen.map(|row| (row.here(), row.there())) {
        Some((Some(here), _)) => Choice::Send { here: smallvec![here.clone()], there: smallvec![] },
        Some((None, Some(there))) => Choice::Send { here: smallvec![], there: smallvec![there] },
        _ => Choice::Nobody { file: false },
    }
}

#[cfg(test)]
mod tests {
    use global_distrib::Place;
    use replication::Hlc;
    use xmpp::jid::FullJid;

    use super::*;

    /// `a:3@eu` the third connection ever, in Europe; `a:3@eu?` its node is dark.
    fn rows(text: &str) -> Vec<Row<String>> {
        let row = |text: &str| {
            let (name, rest) = text.split_once(':').expect("name:generation@region");
            let (generation, region) = rest.split_once('@').expect("a region");
            let full = FullJid::parse(&format!("comp.chat.example/{name}")).expect("a JID");
            let place = Place::Here(format!("{name}@{}", region.trim_end_matches('?')));
            let generation = Hlc(generation.parse().expect("a number"));
            Row { lit: !region.ends_with('?'), ..Row::new(full, place, generation) }
        };
        text.split_whitespace().map(row).collect()
    }

    fn chosen(sender: &str, mode: ComponentMode, connected: &str) -> String {
        let region = |row: &Row<String>| {
            let at = row.here().and_then(|here| here.split_once('@')).expect("a region");
            at.1.to_owned()
        };
        match choose(sender, mode, &rows(connected), "eu", region) {
            Choice::Send { here, .. } => here[0].split('@').next().unwrap_or_default().to_owned(),
            Choice::Nobody { file: false } => "nobody".into(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_oldest_serves_and_the_others_stand_by() {
        for mode in [ComponentMode::Standby, ComponentMode::One] {
            for (connected, expected) in [
                ("", "nobody"),
                ("a:5@us", "a"),
                ("a:5@us b:3@eu c:9@ap", "b"),
                ("a:5@us b:5@eu", "a"),
                ("a:5@us b:3@eu?", "a"),
                ("a:5@us? b:3@eu?", "b"),
            ] {
                assert_eq!(chosen("romeo@chat.example", mode, connected), expected, "{connected}");
            }
        }
    }

    #[test]
    fn a_shared_one_serves_its_own_region_first() {
        let mode = ComponentMode::Share;
        for (connected, expected) in [
            ("", "nobody"),
            ("a:5@us", "a"),
            ("a:5@us b:7@eu", "b"),
            ("a:5@us b:7@eu?", "a"),
            ("a:5@us? b:7@eu?", "b"),
        ] {
            assert_eq!(chosen("romeo@chat.example", mode, connected), expected, "{connected}");
        }
    }

    #[test]
    fn senders_are_shared_and_few_move_when_one_is_gone() {
        let mode = ComponentMode::Share;
        let three = "a:1@eu b:2@eu c:3@eu";
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for n in 0..300 {
            let sender = format!("user{n}@chat.example");
            let before = chosen(&sender, mode, three);
            *counts.entry(before.clone()).or_default() += 1;
            let after = chosen(&sender, mode, "a:1@eu c:3@eu");
            assert!(before == "b" || before == after, "{sender}");
        }
        assert!(counts.len() == 3 && counts.values().all(|count| *count > 60), "{counts:?}");
        // Without one of their own, all of a region go to one other.
        let served = |n: usize| chosen(&format!("user{n}@x"), mode, "a:1@us b:2@ap");
        assert!((0..50).all(|n| served(n) == served(0)));
    }
}
