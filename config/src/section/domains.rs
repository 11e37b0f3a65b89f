//! `[domains]`: the names this node answers for. Only `global` must be there; a service without a name is off.

use crate::table::Table;
use crate::value::DomainName;

/// The `[domains]` section. All names are in lower case and differ from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// The domain served by every region.
    pub global: String,
    /// The domain served by this region alone.
    pub regional: Option<String>,
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
