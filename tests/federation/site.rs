//! A domain with people: ours in its regions, or a peer's. Called by all tests that need somebody at each end.

use pangaea_tests::client::{Client, Endpoint, Result};
use pangaea_tests::platform::{Door, Platform};
use std::collections::HashSet;
use tokio::sync::Mutex;

pub(crate) struct Site {
    pub(crate) domain: String,
    /// The domain of its rooms.
    pub(crate) rooms: Option<String>,
    /// One for each region.
    pub(crate) ways: Vec<Endpoint>,
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
        Self { domain: domain.into(), rooms, ways, registers, there: Mutex::default() }
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
}
