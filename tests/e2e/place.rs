//! Where the end-to-end tests find a server: a platform of three regions, or a server of others that stands for all of them.

use pangaea_tests::client::{Client, Endpoint, Result};
use pangaea_tests::platform::{Door, Platform};
use pangaea_tests::reference::{Reference, Which};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A domain and the ways into its regions.
pub(crate) struct Place {
    pub(crate) domain: String,
    pub(crate) starttls: BTreeMap<String, Endpoint>,
    pub(crate) tls: BTreeMap<String, Endpoint>,
    pub(crate) ca: PathBuf,
    /// The HTTP port of each region, if there is one.
    pub(crate) http: BTreeMap<String, u16>,
    /// The port on which WAN and nodes are steered, if they can be.
    pub(crate) control: Option<u16>,
}

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

impl Place {
    pub(crate) fn of(platform: &Platform) -> Result<Self> {
        let ways = |door| -> Result<BTreeMap<String, Endpoint>> {
            REGIONS
                .iter()
                .map(|r| Ok(((*r).to_owned(), platform.endpoint(platform.region(r), door)?)))
                .collect()
        };
        Ok(Self {
            domain: platform.plan.domain.clone(),
            starttls: ways(Door::StartTls)?,
            tls: ways(Door::DirectTls)?,
            ca: platform.dir.join("ca.pem"),
            http: REGIONS
                .iter()
                .map(|r| ((*r).to_owned(), platform.port(platform.region(r), 280)))
                .collect(),
            control: Some(platform.base + 900),
        })
    }

    /// The way in for a foreign client: direct TLS where there is such a port.
    pub(crate) fn endpoint(&self, region: &str) -> &Endpoint {
        self.tls.get(region).unwrap_or(&self.starttls[region])
    }
}

/// A server of others with the accounts that quickstart would have made, as far as the tests use them.
pub(crate) async fn at_reference(which: Which) -> Result<(Reference, Place)> {
    let reference = Reference::start(which).await?;
    let endpoint = reference.endpoint()?;
    for number in 0..40 {
        Client::new(
            "operator",
            endpoint.clone(),
            &format!("user{number}"),
            &format!("pw{number}"),
            None,
        )
        .register()
        .await?;
    }
    let place = Place {
        domain: endpoint.domain.clone(),
        starttls: REGIONS.iter().map(|r| ((*r).to_owned(), endpoint.clone())).collect(),
        tls: BTreeMap::new(),
        ca: reference.ca(),
        http: BTreeMap::new(),
        control: None,
    };
    Ok((reference, place))
}
