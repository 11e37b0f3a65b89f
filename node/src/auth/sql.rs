//! Auth: a database of somebody else's, read by a query of the operator's that finds the account's row.
//!
//! The names in braces become parameters of the statement: nothing a client says is pasted into it. What a column is for follows from its
//! name. From passwords that are kept as they are SCRAM keys are made for each exchange, with salts that stay the same for an account
//! while this process lives. Calls `theirs`, which is SQLite, PostgreSQL or MySQL. Deliberately absent: writing.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use config::{PasswordFormat, Sql as Settings};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use subtle::ConstantTimeEq;
use xmpp::jid::BareJid;
use xmpp::sasl::{Credentials, Hash, Password, SALT_BYTES, ScramKeys, Secret};

use super::gate::Gate;
use super::theirs::{Columns, Theirs};
use super::{Abilities, Backend, Said};

/// [`Backend`] over SQL.
#[derive(Clone)]
pub struct Sql(Arc<Inner>);

struct Inner {
    database: Theirs,
    query: String,
    parameters: Vec<Parameter>,
    format: PasswordFormat,
    /// For the salts of keys that are made of plain passwords.
    secret: [u8; 32],
    gate: Gate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    User,
    Domain,
    Account,
}

/// What a row says.
struct Found {
    stored: Stored,
    disabled: bool,
    expired: bool,
}

enum Stored {
    /// Of PLAIN and bcrypt.
    Text(Password),
    Keys(ScramKeys),
    /// Known, and no password will do.
    Nothing,
}

impl Sql {
    /// As configured. Nothing is opened before the first question.
    ///
    /// # Errors
    /// In words: the URL cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let database = Theirs::new(settings.url.expose(), &settings.bounds)?;
        let (query, parameters) = statement(&settings.query, |number| database.parameter(number));
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system has random numbers");
        Ok(Self(Arc::new(Inner {
            database,
            query,
            parameters,
            format: settings.format,
            secret,
            gate: Gate::new("sql", &settings.bounds),
        })))
    }
}

/// `{user}`, `{domain}` and `{account}` as parameters, and which each of them is.
fn statement(query: &str, written: impl Fn(usize) -> String) -> (String, Vec<Parameter>) {
    let names = [
        ("{user}", Parameter::User),
        ("{domain}", Parameter::Domain),
        ("{account}", Parameter::Account),
    ];
    let (mut out, mut parameters, mut rest) = (String::new(), Vec::new(), query);
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match names.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, parameter)) => {
                parameters.push(*parameter);
                out.push_str(&written(parameters.len()));
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    (out, parameters)
}

impl Inner {
    fn hash(&self) -> Option<Hash> {
        match self.format {
            PasswordFormat::Plain | PasswordFormat::Bcrypt => None,
            PasswordFormat::ScramSha1 => Some(Hash::Sha1),
            PasswordFormat::ScramSha256 => Some(Hash::Sha256),
            PasswordFormat::ScramSha512 => Some(Hash::Sha512),
        }
    }

    /// `Err`: it cannot be asked now.
    async fn find(&self, account: &BareJid) -> Result<Option<Found>, ()> {
        let look = async {
            let value = |parameter: &Parameter| match parameter {
                Parameter::User => account.local().unwrap_or_default().to_owned(),
                Parameter::Domain => account.domain().to_owned(),
                Parameter::Account => account.to_string(),
            };
            let values = self.parameters.iter().map(value).collect();
            let rows = self.database.rows(&self.query, values).await?;
            match rows.as_slice() {
                [] => Ok(None),
                [row] => self.read(row).map(Some),
                _ => Err("there are several rows for one account".to_owned()),
            }
        };
        self.gate.pass(look).await.ok_or(())
    }

    fn read(&self, row: &Columns) -> Result<Found, String> {
        let stored = match self.hash() {
            None => row.text("password")?.map(|password| Stored::Text(Password::new(password))),
            Some(hash) => {
                let bytes = |column: &str| match row.text(column)? {
                    None => Ok(None),
                    Some(text) => BASE64
                        .decode(text.trim())
                        .map(Some)
                        .map_err(|_| format!("column {column} is not base64")),
                };
                let keys = (bytes("stored_key")?, bytes("server_key")?, bytes("salt")?);
                match keys {
                    (Some(stored_key), Some(server_key), Some(salt)) => {
                        let iterations = row
                            .text("iterations")?
                            .and_then(|number| number.trim().parse::<u32>().ok())
                            .filter(|number| *number > 0)
                            .ok_or("column iterations: no number")?;
                        if stored_key.len() != hash.digest_bytes() {
                            return Err("column stored_key is of another hash".to_owned());
                        }
                        let (stored_key, server_key) =
                            (Secret::new(stored_key), Secret::new(server_key));
                        let keys = ScramKeys { hash, salt, iterations, stored_key, server_key };
                        Some(Stored::Keys(keys))
                    }
                    _ => None,
                }
            }
        };
        Ok(Found {
            stored: stored.unwrap_or(Stored::Nothing),
            disabled: row.flag("disabled"),
            expired: row.flag("expired"),
        })
    }

    fn made(&self, account: &BareJid, password: &Password, hash: Hash) -> Credentials {
        let salt = Hash::Sha256.hmac(&self.secret, &[account.as_str().as_bytes()]);
        // Made anew for each exchange: few rounds, for nobody keeps them.
        let rounds = crate::homes::accounts::ITERATIONS;
        match ScramKeys::derive(hash, password.expose(), &salt[..SALT_BYTES], rounds) {
            Ok(keys) => Credentials::Keys(keys),
            Err(_) => Credentials::Unknown,
        }
    }
}

impl Found {
    /// Once the password is known to be right, or not.
    fn said(&self, right: bool) -> Said {
        match (right, self.disabled, self.expired) {
            (false, _, _) => Said::Wrong,
            (true, true, _) => Said::Disabled,
            (true, false, true) => Said::Expired,
            (true, false, false) => Said::Right,
        }
    }
}

impl Backend for Sql {
    fn name(&self) -> &'static str {
        "sql"
    }

    fn abilities(&self) -> Abilities {
        let hashes = match self.0.format {
            PasswordFormat::Plain => &Hash::STRONGEST_FIRST[..],
            PasswordFormat::Bcrypt => &[],
            PasswordFormat::ScramSha1 => &[Hash::Sha1],
            PasswordFormat::ScramSha256 => &[Hash::Sha256],
            PasswordFormat::ScramSha512 => &[Hash::Sha512],
        };
        Abilities { passwords: true, hashes, ..Abilities::default() }
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            let found = match inner.find(&account).await {
                Err(()) => return Said::Down,
                Ok(None) => return Said::Unknown,
                Ok(Some(found)) => found,
            };
            let right = match &found.stored {
                Stored::Nothing => Some(false),
                Stored::Text(stored) if inner.format == PasswordFormat::Plain => {
                    let same = stored.expose().as_bytes().ct_eq(password.expose().as_bytes());
                    Some(same.into())
                }
                Stored::Text(stored) => {
                    let stored = stored.clone();
                    let verify = move || bcrypt::verify(password.expose(), stored.expose());
                    inner.gate.pass(on_a_thread(move || verify().map_err(|e| e.to_string()))).await
                }
                Stored::Keys(keys) => {
                    let keys = keys.clone();
                    let verify = move || Ok(keys.verify(password.expose()));
                    inner.gate.pass(on_a_thread(verify)).await
                }
            };
            right.map_or(Said::Down, |right| found.said(right))
        }
        .boxed()
    }

    fn knows(&self, account: &BareJid) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            match inner.find(&account).await {
                Err(()) => Said::Down,
                Ok(None) => Said::Unknown,
                Ok(Some(_)) => Said::Right,
            }
        }
        .boxed()
    }

    fn keys(&self, account: &BareJid, hash: Hash) -> BoxFuture<'static, Credentials> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            let found = match inner.find(&account).await {
                Err(()) => return Credentials::Unavailable,
                Ok(None) => return Credentials::Unknown,
                Ok(Some(found)) => found,
            };
            let keys = match found.stored {
                Stored::Keys(keys) if keys.hash == hash => keys,
                Stored::Text(password) if inner.format == PasswordFormat::Plain => {
                    let (of, maker) = (account.clone(), inner.clone());
                    let make = move || Ok(maker.made(&of, &password, hash));
                    match inner.gate.pass(on_a_thread(make)).await {
                        None => return Credentials::Unavailable,
                        Some(Credentials::Keys(keys)) => keys,
                        Some(_) => return Credentials::Unknown,
                    }
                }
                _ => return Credentials::Unknown,
            };
            match (found.disabled, found.expired) {
                (true, _) => Credentials::Disabled(keys),
                (false, true) => Credentials::Expired(keys),
                (false, false) => Credentials::Keys(keys),
            }
        }
        .boxed()
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use sqlx::mysql::MySqlPool;
    use sqlx::postgres::PgPool;
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

    use super::super::gate::tests::bounds;
    use super::*;
    use crate::storage::{mysql, postgres};

    async fn database(setup: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("theirs.sqlite");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.expect("made");
        sqlx::raw_sql(AssertSqlSafe(setup.to_owned())).execute(&pool).await.expect(setup);
        pool.close().await;
        (dir, format!("sqlite://{}", file.display()))
    }

    fn sql(url: &str, query: &str, format: PasswordFormat) -> Sql {
        let (url, query) = (config::DatabaseUrl::new(url.to_owned()), query.to_owned());
        Sql::new(&Settings { url, query, format, bounds: bounds() }).expect("usable")
    }

    fn jid(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@capulet.example")).expect("a JID")
    }

    async fn says(sql: &Sql, name: &str, password: &str) -> Said {
        sql.password(&jid(name), Password::new(password)).await
    }

    #[test]
    fn names_in_braces_are_parameters() {
        let (text, parameters) =
            statement("SELECT '{x}' WHERE u = {user} AND d = {domain} OR a={account}{", |n| {
                format!("${n}")
            });
        assert_eq!(text, "SELECT '{x}' WHERE u = $1 AND d = $2 OR a=$3{");
        assert_eq!(parameters, [Parameter::User, Parameter::Domain, Parameter::Account]);
    }

    #[tokio::test]
    async fn plain_passwords_answer_and_make_keys() {
        let (_dir, url) = database(
            "CREATE TABLE people (name TEXT, pass TEXT, banned BOOLEAN, old TEXT);
             INSERT INTO people VALUES ('juliet', 'r0m30', 0, NULL), ('tybalt', 'x', 1, 'no'),
               ('rosaline', 'x', NULL, 'yes'), ('nurse', NULL, 0, ''), ('paris', 'a', 0, ''), ('paris', 'b', 0, '')",
        )
        .await;
        plain_passwords(&url).await;
    }

    /// Of a table `people`.
    async fn plain_passwords(url: &str) {
        let query = "SELECT pass AS password, banned AS disabled, old AS expired FROM people WHERE name = {user}";
        let sql = sql(url, query, PasswordFormat::Plain);
        for (name, password, expected) in [
            ("juliet", "r0m30", Said::Right),
            ("juliet", "R0m30", Said::Wrong),
            ("tybalt", "x", Said::Disabled),
            ("tybalt", "y", Said::Wrong),
            ("rosaline", "x", Said::Expired),
            ("nurse", "x", Said::Wrong),
            ("paris", "a", Said::Down),
            ("x;or(1=1)--", "x", Said::Unknown),
        ] {
            assert_eq!(says(&sql, name, password).await, expected, "{name}");
        }
        for hash in Hash::STRONGEST_FIRST {
            let keys = async || match sql.keys(&jid("juliet"), hash).await {
                Credentials::Keys(keys) => keys,
                other => panic!("{other:?}"),
            };
            let (one, two) = (keys().await, keys().await);
            assert!(one.hash == hash && one.verify("r0m30") && one.salt == two.salt);
        }
        for (name, expected) in
            [("nurse", Said::Right), ("nobody", Said::Unknown), ("paris", Said::Down)]
        {
            assert_eq!(sql.knows(&jid(name)).await, expected);
        }
        let keys = async |name: &str| sql.keys(&jid(name), Hash::Sha1).await;
        assert!(matches!(keys("tybalt").await, Credentials::Disabled(_)));
        assert!(matches!(keys("rosaline").await, Credentials::Expired(_)));
        assert!(matches!(keys("nobody").await, Credentials::Unknown));
        assert!(matches!(keys("paris").await, Credentials::Unavailable));
    }

    const PEOPLE: &str = "INSERT INTO people VALUES ('juliet', 'r0m30', false, NULL), ('tybalt', 'x', true, 'no'),
        ('rosaline', 'x', NULL, 'yes'), ('nurse', NULL, false, ''), ('paris', 'a', false, ''), ('paris', 'b', false, '')";

    #[tokio::test]
    #[ignore = "needs a server: tests/databases/main.rs"]
    async fn plain_passwords_answer_in_postgresql() {
        let url = std::env::var("PANGAEA_TEST_POSTGRES").expect("the URL of a server");
        let Some(config::Database::Postgres(url)) = config::Database::parse(&url) else {
            panic!("it is of PostgreSQL")
        };
        postgres::create(url.expose(), "theirs").await.expect("made");
        let url = url.with_name("theirs");
        let pool = PgPool::connect(url.expose()).await.expect("there");
        let setup = "DROP TABLE IF EXISTS people;
             CREATE TABLE people (name varchar(20), pass text, banned boolean, old char(3), at timestamp DEFAULT now())";
        let people = PEOPLE.replace("people VALUES", "people (name, pass, banned, old) VALUES");
        for sql in [setup, &people] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.expect(sql);
        }
        // What may be in the row beside: a time.
        plain_passwords(url.expose()).await;
        let query = "SELECT *, pass AS password FROM people WHERE name = {user}";
        let sql = sql(url.expose(), query, PasswordFormat::Plain);
        assert_eq!(says(&sql, "juliet", "r0m30").await, Said::Right);
        let query = "INSERT INTO people (name) VALUES ({user}) RETURNING pass AS password";
        let sql = super::tests::sql(url.expose(), query, PasswordFormat::Plain);
        assert_eq!(says(&sql, "mallory", "x").await, Said::Down, "nothing is written");
    }

    #[tokio::test]
    #[ignore = "needs a server: tests/databases/main.rs"]
    async fn plain_passwords_answer_in_mysql() {
        let url = std::env::var("PANGAEA_TEST_MYSQL").expect("the URL of a server");
        let Some(config::Database::Mysql(url)) = config::Database::parse(&url) else {
            panic!("it is of MySQL")
        };
        mysql::create(url.expose(), "theirs").await.expect("made");
        let url = url.with_name("theirs");
        let pool = MySqlPool::connect(url.expose()).await.expect("there");
        let setup = "DROP TABLE IF EXISTS people;
             CREATE TABLE people (name varchar(20), pass varbinary(99), banned boolean, old char(3), at timestamp NULL)";
        let people = PEOPLE.replace("people VALUES", "people (name, pass, banned, old) VALUES");
        for sql in [setup, &people] {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.expect(sql);
        }
        plain_passwords(url.expose()).await;
    }

    #[tokio::test]
    async fn hashed_passwords_answer() {
        let hashed = bcrypt::hash("r0m30", 4).expect("hashes");
        let (_dir, url) = database(&format!(
            "CREATE TABLE users (account TEXT, password TEXT);
             INSERT INTO users VALUES ('juliet@capulet.example', '{hashed}'), ('nurse@capulet.example', 'odd')"
        ))
        .await;
        let query = "SELECT password FROM users WHERE account = {account}";
        let sql = sql(&url, query, PasswordFormat::Bcrypt);
        assert!(sql.abilities().hashes.is_empty());
        assert_eq!(says(&sql, "juliet", "r0m30").await, Said::Right);
        assert_eq!(says(&sql, "juliet", "x").await, Said::Wrong);
        assert_eq!(says(&sql, "nurse", "x").await, Said::Down);
        assert_eq!(says(&sql, "nobody", "x").await, Said::Unknown);
    }

    #[tokio::test]
    async fn keys_of_another_server_answer() {
        let keys =
            ScramKeys::derive(Hash::Sha256, "r0m30", b"0123456789abcdef", 4096).expect("keys");
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        let (_dir, url) = database(&format!(
            "CREATE TABLE scram (u TEXT, stored_key TEXT, server_key TEXT, salt TEXT, iterations INTEGER);
             INSERT INTO scram VALUES ('juliet', '{}', '{}', '{}', 4096)",
            text(keys.stored_key.expose()),
            text(keys.server_key.expose()),
            text(&keys.salt)
        ))
        .await;
        let sql = sql(&url, "SELECT * FROM scram WHERE u = {user}", PasswordFormat::ScramSha256);
        assert_eq!(says(&sql, "juliet", "r0m30").await, Said::Right);
        assert_eq!(says(&sql, "juliet", "x").await, Said::Wrong);
        let found = async |hash| sql.keys(&jid("juliet"), hash).await;
        assert!(matches!(found(Hash::Sha256).await, Credentials::Keys(k) if k.salt == keys.salt));
        assert!(matches!(found(Hash::Sha1).await, Credentials::Unknown));
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_down() {
        let query = "SELECT password FROM users WHERE name = {user}";
        let sql = sql("sqlite:///nowhere/at/all.sqlite", query, PasswordFormat::Plain);
        assert_eq!(says(&sql, "juliet", "r0m30").await, Said::Down);
    }
}
