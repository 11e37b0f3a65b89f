//! I6. *When I sign in with the same resource again, here or in another region, the older session is closed and the newer one stays:* once
//! all is quiet each full JID has one row, at the node that holds its stream, and no node counts a session it has not.

use crate::end::End;
use crate::people::journal::Journal;

/// See the module.
pub fn check(_: &Journal, end: &End) -> Vec<String> {
    let mut broken = Vec::new();
    for online in end.online.values() {
        for (table, host) in end.tables.iter().zip(&end.hosts) {
            match table.get(&online.full) {
                None => broken.push(format!("{host} does not know of {}", online.full)),
                Some(row) if row.host != end.hosts[online.host] => broken.push(format!(
                    "{host} believes {} to be at {}, but it is at {}",
                    online.full, row.host, end.hosts[online.host]
                )),
                Some(_) => {}
            }
        }
    }
    for (host, (rows, counted)) in end.hosts.iter().zip(&end.sessions) {
        let streams = end.online.values().filter(|online| end.hosts[online.host] == *host).count();
        if *rows != streams || *counted != streams as i64 {
            broken.push(format!("{host} has {rows} rows of its own and counts {counted} sessions, for {streams} streams"));
        }
    }
    broken
}
