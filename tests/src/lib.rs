//! What the tests that cross crates share: a platform of real processes, a small XMPP client, plays in text.
//!
//! Nothing here links the server's own crates. The judge reads the wire with a strict parser written by others
//! (`rxml`), so a server that sends what it should not is caught by the first client that listens.
//!
//! * [`platform`] starts `pangaea quickstart`, knows its ports, steers its WAN, stops it;
//! * [`database`] starts PostgreSQL and MariaDB, [`redis`] Redis and Sentinel, [`slow`] makes the way there slow;
//! * [`dns`] is a name server that lies on demand;
//! * [`reference`] starts a mature server in its place, to prove the tests themselves;
//! * [`client`] is the test client; [`xml`] and [`scram`] are what it stands on;
//! * [`scenario`] reads and plays `tests/scenarios/*.scn`;
//! * [`harness`] runs named tests and prints what became of them;
//! * [`ledger`] counts serial numbers: nothing lost, nothing doubled, nothing out of order.

pub mod client;
pub mod database;
pub mod disk;
pub mod dns;
pub mod harness;
pub mod http;
pub mod ledger;
pub mod platform;
pub mod redis;
pub mod reference;
pub mod scenario;
pub mod scram;
pub mod slow;
pub mod xml;
