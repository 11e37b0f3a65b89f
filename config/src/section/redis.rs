//! `[redis]`: the region's Redis (or Valkey), in which its nodes find each other and write down who is connected where. Off without `url`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::{FromToml, HostPort, describe};

/// The `[redis]` section. `lease` is at least three times `beat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Where it is; without it a region has only the nodes it is told of, and rows are kept in the nodes alone.
    pub url: Option<RedisUrl>,
    /// Sentinels to ask where the master is; the host of `url` is then the master's name.
    pub sentinels: Vec<String>,
    /// What the sentinels want to hear.
    pub sentinel_password: Option<Password>,
    /// Whether `url` is a node of a Redis Cluster.
    pub cluster: bool,
    /// Whom the certificates of `rediss://` are from, PEM; by default, who this machine trusts.
    pub authority: Option<PathBuf>,
    /// What its keys begin with, in braces; by default `pangaea:REGION`.
    pub prefix: String,
    /// How long a node that says nothing counts as alive.
    pub lease: Duration,
    /// How often a node says that it is, and looks who else is there.
    pub beat: Duration,
    /// How long changes of rows wait for others, to be written together.
    pub gather: Duration,
    /// How long one command may take, or a connection.
    pub timeout: Duration,
    /// The longest pause before connecting again.
    pub retry_max: Duration,
    /// Changed rows that wait to be written. More: they are forgotten, and all rows are written anew.
    pub queue_max: usize,
    /// Rows a second, when all are written anew or a dead node's are removed.
    pub rows_per_second: u32,
    /// Changes that the log of them keeps, roughly.
    pub log_entries_max: usize,
}

impl Redis {
    /// None, and everything else as it is by default.
    pub fn none(prefix: &str) -> Redis {
        Redis {
            url: None,
            sentinels: Vec::new(),
            sentinel_password: None,
            cluster: false,
            authority: None,
            prefix: prefix.to_owned(),
            lease: LEASE,
            beat: BEAT,
            gather: GATHER,
            timeout: TIMEOUT,
            retry_max: RETRY_MAX,
            queue_max: QUEUE_MAX,
            rows_per_second: ROWS_PER_SECOND,
            log_entries_max: LOG_ENTRIES_MAX,
        }
    }
}

const LEASE: Duration = Duration::from_secs(10);
const BEAT: Duration = Duration::from_secs(1);
const GATHER: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(5);
const QUEUE_MAX: usize = 100_000;
const ROWS_PER_SECOND: u32 = 20_000;
const LOG_ENTRIES_MAX: usize = 100_000;

/// What nobody is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// What it is.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…` over TLS; the same with `valkey://` and `valkeys://`. Shown without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// What a text names, if it names a Redis.
    pub fn parse(url: &str) -> Option<RedisUrl> {
        let (scheme, rest) = url.split_once("://")?;
        let is_one = matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys");
        let url = RedisUrl(url.to_owned());
        (is_one && !rest.contains(char::is_whitespace) && !url.host().is_empty()).then_some(url)
    }

    /// All of it, to connect with.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("rediss:") || self.0.starts_with("valkeys:")
    }

    /// The host alone: with sentinels, the master's name.
    pub fn host(&self) -> &str {
        let place = self.place();
        let place = place.split(['/', '?', '#']).next().unwrap_or_default();
        match place.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => place,
        }
    }

    /// What follows user and password.
    fn place(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, place)| place)
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.split(':').next().unwrap_or_default();
        let place = self.place().split(['?', '#']).next().unwrap_or_default();
        write!(f, "{scheme}://{place}")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromToml for RedisUrl {
    fn expected() -> String {
        "the URL of a Redis: \"redis://HOST:PORT\", or \"rediss://USER:PASSWORD@HOST:PORT/DB\" with TLS"
            .to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        // Perhaps with a password: it is not repeated.
        let url = value.as_str().ok_or_else(|| describe(value))?;
        // As the examples show that there is none.
        let none = url.is_empty().then(RedisUrl::stand_in);
        none.or_else(|| RedisUrl::parse(url)).ok_or_else(|| "another text".to_owned())
    }
    fn stand_in() -> Self {
        RedisUrl(String::new())
    }
}

impl FromToml for Password {
    fn expected() -> String {
        "a password, in quotes".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        let text = value.as_str().ok_or_else(|| describe(value))?;
        Ok(Password(text.to_owned()))
    }
    fn stand_in() -> Self {
        Password(String::new())
    }
}

pub(crate) fn read(table: &Table<'_>) -> Redis {
    let ms = Duration::from_millis;
    let time = |key, default, least: Duration, most: Duration, words| {
        table.between(key, default, least, most, words)
    };
    let minute = "a duration from \"100ms\" to \"10m\"";
    let (least, most) = (ms(100), Duration::from_secs(600));
    let redis = Redis {
        url: table.optional("url").filter(|url: &RedisUrl| !url.0.is_empty()),
        sentinels: table
            .value::<Vec<HostPort>>("sentinels", Vec::new())
            .into_iter()
            .map(|sentinel| sentinel.0)
            .collect(),
        sentinel_password: table
            .optional("sentinel_password")
            .filter(|password: &Password| !password.0.is_empty()),
        cluster: table.value("cluster", false),
        authority: table.optional_path("authority"),
        // With the region's name by `check` when it is left out.
        prefix: table.value("prefix", String::new()),
        lease: time("lease", LEASE, least, most, minute),
        beat: time("beat", BEAT, least, most, minute),
        gather: time("gather", GATHER, ms(1), ms(1_000), "a duration from \"1ms\" to \"1s\""),
        timeout: time("timeout", TIMEOUT, least, most, minute),
        retry_max: time("retry_max", RETRY_MAX, least, most, minute),
        queue_max: table.between(
            "queue_max",
            QUEUE_MAX,
            1_000,
            100_000_000,
            "a number from 1000 to 100000000",
        ),
        rows_per_second: table.between(
            "rows_per_second",
            ROWS_PER_SECOND,
            100,
            1_000_000,
            "a number from 100 to 1000000",
        ),
        log_entries_max: table.between(
            "log_entries_max",
            LOG_ENTRIES_MAX,
            100,
            100_000_000,
            "a number from 100 to 100000000",
        ),
    };
    if redis.lease < redis.beat * 3 {
        table.refuse(
            "lease",
            format!("at least three times the beat, {:?}", redis.beat * 3),
            format!("{:?}", redis.lease),
        );
    }
    if redis.prefix.contains(['{', '}']) || redis.prefix.contains(char::is_whitespace) {
        table.refuse("prefix", "a text without braces and blanks", format!("{:?}", redis.prefix));
    }
    if redis.cluster && !redis.sentinels.is_empty() {
        table.refuse(
            "cluster",
            "false, or no sentinels: a cluster has none",
            "true, and sentinels",
        );
    }
    redis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_password() {
        let check = |url: &str, shown: &str, host: &str, tls: bool| {
            let parsed = RedisUrl::parse(url).expect(url);
            assert_eq!((parsed.to_string().as_str(), parsed.host()), (shown, host));
            assert_eq!((parsed.is_tls(), parsed.expose()), (tls, url));
            assert_eq!(format!("{parsed:?}"), format!("{shown:?}"));
        };
        check("redis://h", "redis://h", "h", false);
        check("rediss://me:se@cret@h:7000/2", "rediss://h:7000/2", "h", true);
        check("redis://:secret@mymaster/0?protocol=resp3", "redis://mymaster/0", "mymaster", false);
        check("valkeys://[::1]:6379", "valkeys://[::1]:6379", "[::1]", true);
        for wrong in ["redis://", "http://h", "redis:h", "redis://a b", ""] {
            assert_eq!(RedisUrl::parse(wrong), None, "{wrong}");
        }
        assert_eq!(format!("{:?}", Password("secret".to_owned())), "…");
    }
}
