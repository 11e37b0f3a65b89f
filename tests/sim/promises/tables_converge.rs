//! I7. *All regions agree on who is connected where:* once all is quiet every node has the same session table.

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(_: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    let Some(first) = end.tables.first() else { return broken };
    for (table, host) in end.tables.iter().zip(&end.hosts).skip(1) {
        let names: std::collections::BTreeSet<&String> = first.keys().chain(table.keys()).collect();
        for name in names {
            let (ours, theirs) = (first.get(name), table.get(name));
            if ours != theirs {
                broken
                    .push(format!("{name}: {} has {ours:?}, {host} has {theirs:?}", end.hosts[0]));
            }
        }
    }
    broken
}
