//! `[domains]`: the names this node answers for. Only `global` must be there; a service without a name is off.

use toml::de::DeValue;

use crate::table::Table;
use crate::value::{DomainName, FromToml, describe};

/// How what one region's own domain sends to another's gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionalTraffic {
    /// As between strangers: by DNS, a stream and a certificate.
    Federation,
    /// Inside the system, as everything else that is ours.
    Link,
}

impl FromToml for RegionalTraffic {
    fn expected() -> String {
        "\"federation\" or \"link\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("federation") => Ok(RegionalTraffic::Federation),
            Some("link") => Ok(RegionalTraffic::Link),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        RegionalTraffic::Federation
    }
}

/// The `[domains]` section. All names are in lower case and differ from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// The domain served by every region.
    pub global: String,
    /// The domain served by this region alone: its name below the global domain.
    pub regional: Option<String>,
    /// How regions' own domains speak to each other. The same in all regions.
    pub regional_traffic: RegionalTraffic,
    /// Anonymous users (SASL ANONYMOUS).
    pub anon: Option<String>,
    /// Rooms (XEP-0045).
    pub rooms: Option<String>,
    /// Publish-subscribe (XEP-0060).
    pub pubsub: Option<String>,
    /// Files (XEP-0363).
    pub upload: Option<String>,
    /// Bytestreams (XEP-0065).
    pub proxy: Option<String>,
}

impl Domains {
    /// The name of a region's own domain, if it has one.
    #[must_use]
    pub fn regional_of(&self, region: &str) -> String {
        format!("{region}.{}", self.global)
    }

    /// Every name with its key, `global` first.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, &str)> {
        let others = [
            ("regional", &self.regional),
            ("anon", &self.anon),
            ("rooms", &self.rooms),
            ("pubsub", &self.pubsub),
            ("upload", &self.upload),
            ("proxy", &self.proxy),
        ];
        let mut all = vec![("global", self.global.as_str())];
        all.extend(others.iter().filter_map(|(key, name)| Some((*key, name.as_deref()?))));
        all
    }
}

pub(crate) fn read(table: &Table<'_>) -> Domains {
    let optional = |key| table.optional::<DomainName>(key).map(|name| name.0);
    let domains = Domains {
        global: table.required::<DomainName>("global").0,
        regional: optional("regional"),
        regional_traffic: table.value("regional_traffic", RegionalTraffic::Federation),
        anon: optional("anon"),
        rooms: optional("rooms"),
        pubsub: optional("pubsub"),
        upload: optional("upload"),
        proxy: optional("proxy"),
    };
    let all = domains.all();
    for (at, (key, name)) in all.iter().enumerate() {
        let earlier = all[..at].iter().find(|(_, other)| other == name);
        if let (Some((other, _)), false) = (earlier, name.is_empty()) {
            table.refuse(
                key,
                "a name of its own",
                format!("{name:?}, which is the name of `{other}` too"),
            );
        }
    }
    domains
}
