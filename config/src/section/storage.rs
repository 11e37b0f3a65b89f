//! `[storage]`: the region's database.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::{FromToml, describe};

/// The `[storage]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Where it is.
    pub database: Database,
    /// More databases, over which the accounts are spread. Their order stays; a new one comes last.
    pub partitions: Vec<Database>,
    /// When a commit counts as done.
    pub sync: Sync,
    /// Connections of a node to a database server, all together; what needs one more waits.
    pub connections: u32,
    /// How long a database server may take for a read or a whole change, or to let a connection in.
    pub timeout: Duration,
    /// How long a change is tried again when the server is away, slow, read-only or full; then it is refused with `resource-constraint`.
    pub retry: Duration,
}

impl Storage {
    /// A database with all else as it is by default.
    pub fn of(database: Database) -> Storage {
        Storage {
            database,
            partitions: Vec::new(),
            sync: Sync::Full,
            connections: CONNECTIONS,
            timeout: TIMEOUT,
            retry: RETRY,
        }
    }
}

const PARTITIONS_MAX: usize = 64;
const CONNECTIONS: u32 = 8;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than who asks a home waits for its answer.
const RETRY: Duration = Duration::from_secs(2);

/// A database, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// `sqlite:FILE`; by default `pangaea.sqlite` in the data directory. Made when it is not there.
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST:PORT/NAME`, with `?sslmode=verify-full` for TLS.
    Postgres(DatabaseUrl),
    /// `mysql://USER:PASSWORD@HOST:PORT/NAME`, with `?ssl-mode=VERIFY_IDENTITY` for TLS. MariaDB too.
    Mysql(DatabaseUrl),
}

/// The URL of a database on a server. Shown without its password, and without what follows a question mark.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// A URL, whatever it says.
    pub fn new(url: String) -> DatabaseUrl {
        DatabaseUrl(url)
    }

    /// All of it, to connect with.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The database's name; empty if it names none.
    pub fn name(&self) -> &str {
        let url = self.0.split('?').next().unwrap_or_default();
        let host = url.split_once("://").map_or(url, |(_, host)| host);
        host.split_once('/').map_or("", |(_, name)| name)
    }

    /// The same with another database of that server.
    pub fn with_name(&self, name: &str) -> DatabaseUrl {
        let (url, asked) = self.0.split_once('?').map_or((&*self.0, None), |(u, a)| (u, Some(a)));
        let named = self.name().len();
        let host = url[..url.len() - named].trim_end_matches('/');
        let asked = asked.map(|asked| format!("?{asked}")).unwrap_or_default();
        DatabaseUrl(format!("{host}/{name}{asked}"))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0.split('?').next().unwrap_or_default();
        match url.split_once("://") {
            Some((scheme, rest)) => {
                write!(f, "{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
            }
            None => f.write_str(url),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(file) => write!(f, "{}", file.display()),
            Database::Postgres(url) | Database::Mysql(url) => url.fmt(f),
        }
    }
}

impl Database {
    /// What a URL names, if it names a database.
    pub fn parse(url: &str) -> Option<Database> {
        let server = || Some(DatabaseUrl::new(url.to_owned()));
        let (scheme, rest) = url.split_once(':')?;
        match scheme {
            "sqlite" => {
                let file = rest.strip_prefix("//").unwrap_or(rest);
                (!file.is_empty()).then(|| Database::Sqlite(file.into()))
            }
            "postgres" | "postgresql" if rest.starts_with("//") => server().map(Database::Postgres),
            "mysql" | "mariadb" if rest.starts_with("//") => server().map(Database::Mysql),
            _ => None,
        }
    }
}

impl FromToml for Database {
    fn expected() -> String {
        "the URL of a database: \"sqlite:FILE\", \"postgres://…\" or \"mysql://…\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        // Perhaps with a password: it is not repeated.
        let url = value.as_str().ok_or_else(|| describe(value))?;
        Database::parse(url).ok_or_else(|| "another text".to_owned())
    }
    fn stand_in() -> Self {
        Database::Sqlite(PathBuf::new())
    }
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When it is on the disk: survives a power cut.
    Full,
    /// When the operating system (PostgreSQL: the server) has it: survives a crash of the process.
    Normal,
}

impl FromToml for Sync {
    fn expected() -> String {
        "\"full\" or \"normal\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("full") => Ok(Sync::Full),
            Some("normal") => Ok(Sync::Normal),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        Sync::Full
    }
}

pub(crate) fn read(table: &Table<'_>) -> Storage {
    // Joined to node.data_dir by `check` when it is left out.
    let database = match table.value("database", Database::stand_in()) {
        Database::Sqlite(file) if !file.as_os_str().is_empty() => {
            Database::Sqlite(table.base().join(file))
        }
        database => database,
    };
    let partitions = table.value("partitions", Vec::new());
    let partitions: Vec<Database> = partitions
        .into_iter()
        .map(|partition| match partition {
            Database::Sqlite(file) => Database::Sqlite(table.base().join(file)),
            server => server,
        })
        .collect();
    if partitions.len() > PARTITIONS_MAX {
        table.refuse("partitions", "64 databases at most", "more");
    }
    if partitions
        .iter()
        .enumerate()
        .any(|(at, one)| partitions[..at].contains(one) || *one == database)
    {
        table.refuse(
            "partitions",
            "databases that are not each other, nor storage.database",
            "one twice",
        );
    }
    let times = "a time from 100ms to 10m";
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
    Storage {
        partitions,
        sync: table.value("sync", Sync::Full),
        connections: table.between("connections", CONNECTIONS, 2, 1000, "a number from 2 to 1000"),
        timeout: table.between("timeout", TIMEOUT, least, most, times),
        retry: table.between("retry", RETRY, least, most, times),
        ..Storage::of(database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password_and_takes_another_name() {
        let Some(Database::Postgres(url)) =
            Database::parse("postgres://me:se@cret@db:5432/pangaea?sslmode=require")
        else {
            panic!("it is one")
        };
        assert_eq!(url.to_string(), "postgres://db:5432/pangaea");
        assert_eq!(format!("{url:?}"), "\"postgres://db:5432/pangaea\"");
        assert_eq!(url.name(), "pangaea");
        let other = url.with_name("pangaea_eu");
        assert_eq!(other.expose(), "postgres://me:se@cret@db:5432/pangaea_eu?sslmode=require");
        let Some(Database::Mysql(url)) = Database::parse("mariadb://root@[::1]") else {
            panic!("it is one")
        };
        assert_eq!((url.name(), url.with_name("x").expose()), ("", "mariadb://root@[::1]/x"));
        assert_eq!(Database::parse("sqlite:///a/b"), Some(Database::Sqlite("/a/b".into())));
        assert_eq!(Database::parse("sqlite:data/b"), Some(Database::Sqlite("data/b".into())));
        assert_eq!(Database::parse("redis://h"), None);
        assert_eq!(Database::parse("sqlite:"), None);
    }
}
