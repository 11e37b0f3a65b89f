//! A domain with people: ours in its regions, or a peer's. Called by all tests that need somebody at each end.

use pangaea_tests::client::{Client, Endpoint, Result};
use pangaea_tests::platform::{Door, Platform};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use tokio::sync::Mutex;

pub(crate) struct Site {
    pub(crate) domain: String,
    /// The domain of its rooms.
    pub(crate) rooms: Option<String>,
    /// One for each region.
    pub(crate) ways: Vec<Endpoint>,
    /// Where its server says what it writes to others, if that may be another order than the one in which people wrote.
    pub(crate) log: Option<PathBuf>,
    registers: bool,
    there: Mutex<HashSet<u32>>,
}

impl Site {
    pub(crate) fn new(
        domain: &str,
        rooms: Option<String>,
        ways: Vec<Endpoint>,
        registers: bool,
    ) -> Self {
        Self { domain: domain.into(), rooms, ways, log: None, registers, there: Mutex::default() }
    }

    /// Our own: people are there already.
    pub(crate) fn of(platform: &Platform) -> Result<Self> {
        let ways: Result<Vec<_>> = (0..platform.plan.regions.len())
            .map(|region| platform.endpoint(region, Door::StartTls))
            .collect();
        Ok(Self::new(&platform.plan.domain, None, ways?, false))
    }

    /// The bare JID of somebody.
    pub(crate) fn bare(&self, number: u32) -> String {
        format!("user{number}@{}", self.domain)
    }

    /// Somebody by number, whose account is there, not connected yet. Regions are counted round.
    pub(crate) async fn user(&self, number: u32, way: usize, resource: &str) -> Result<Client> {
        let (user, password) = (format!("user{number}"), format!("pw{number}"));
        let way = self.ways[way % self.ways.len()].clone();
        let name = format!("{user}@{}/{resource}", self.domain);
        let client = Client::new(&name, way, &user, &password, Some(resource));
        if self.registers && self.there.lock().await.insert(number) {
            client.register().await?;
        }
        Ok(client)
    }

    /// The same, online and available.
    pub(crate) async fn online(&self, number: u32, way: usize, resource: &str) -> Result<Client> {
        let mut client = self.user(number, way, resource).await?;
        client.connect().await?;
        client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
        client.send("<presence/>").await?;
        client.ping().await?;
        Ok(client)
    }

    /// In which order its server has written what is numbered `n0`, `n1`, … for `reader`, a bare JID.
    ///
    /// Prosody's order (0.12) is not quite its writers': it counts a stream as its way from its authentication on, and what it had queued meanwhile it writes
    /// when it has the features of the restarted stream. What comes between the two is written before the queue. Its log says it.
    pub(crate) fn wrote(&self, reader: &str) -> Result<Order> {
        let Some(log) = &self.log else { return Ok(Order(None)) };
        let log = std::fs::read(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut places = BTreeMap::new();
        for line in String::from_utf8_lossy(&log).lines() {
            let Some((_, written)) = line.split_once("Sending[s2s") else { continue };
            let Some((_, stanza)) = written.split_once("]: <message ") else { continue };
            let value = |name| Some(stanza.split_once(name)?.1.split_once('\'')?.0);
            let number = value("id='n").and_then(|number| number.parse().ok());
            let to = value("to='").and_then(|to| to.split('/').next());
            if let Some(number) = number.filter(|_| to == Some(reader)) {
                let next = places.len();
                places.entry(number).or_insert(next);
            }
        }
        Ok(Order(Some(places)))
    }
}

/// In which order a server has written numbered messages to its streams. `None`: in that of their numbers.
pub(crate) struct Order(Option<BTreeMap<u64, usize>>);

impl Order {
    /// Holds what has come against it.
    pub(crate) fn verdict(&self, came: &[u64]) -> Result<()> {
        let place = |number: u64| match &self.0 {
            Some(places) => places.get(&number).copied(),
            None => Some(number as usize),
        };
        if let Some(number) = came.iter().find(|number| place(**number).is_none()) {
            return Err(format!("{number} came and was not written"));
        }
        let wrong: Vec<_> = came.windows(2).filter(|two| place(two[1]) < place(two[0])).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("out of order: {wrong:?}")),
        }
    }
}
