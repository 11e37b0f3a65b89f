//! `kind = "sql"`: a database of somebody else's, read by a query of the operator's.

use super::{Bounds, bounds};
use crate::table::Table;
use crate::value::{OneOf, Words};
use crate::{Database, DatabaseUrl};

/// One database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// `sqlite:///path/of/file`, `postgres://USER:PASSWORD@HOST:PORT/NAME` or `mysql://…`; TLS as in `storage.database`.
    pub url: DatabaseUrl,
    /// Finds one row for `{user}` at `{domain}` (or `{account}`, the bare JID), or none. Of its columns these are read: `password`, or
    /// `stored_key`, `server_key`, `salt` and `iterations`; `disabled` and `expired`, if they are there.
    pub query: String,
    /// How the password is kept.
    pub format: PasswordFormat,
    /// Its bounds.
    pub bounds: Bounds,
}

/// How a password is kept in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordFormat {
    /// As it is.
    Plain,
    /// `$2b$…` in `password`.
    Bcrypt,
    /// SCRAM-SHA-1 keys: `stored_key`, `server_key` and `salt` in base64, `iterations` a number.
    ScramSha1,
    /// SCRAM-SHA-256 keys.
    ScramSha256,
    /// SCRAM-SHA-512 keys.
    ScramSha512,
}

impl Words for PasswordFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("plain", PasswordFormat::Plain),
        ("bcrypt", PasswordFormat::Bcrypt),
        ("scram-sha-1", PasswordFormat::ScramSha1),
        ("scram-sha-256", PasswordFormat::ScramSha256),
        ("scram-sha-512", PasswordFormat::ScramSha512),
    ];
}

pub(super) fn read(table: &Table<'_>) -> Sql {
    let sql = Sql {
        url: DatabaseUrl::new(table.required("url")),
        query: table.required("query"),
        format: table.required::<OneOf<PasswordFormat>>("format").0,
        bounds: bounds(table, 8),
    };
    let url = sql.url.expose();
    if !url.is_empty() && Database::parse(url).is_none() {
        table.refuse(
            "url",
            "the URL of a database: \"sqlite:///path/of/file\", \"postgres://…\" or \"mysql://…\"",
            "another",
        );
    }
    let names_account = sql.query.contains("{user}") || sql.query.contains("{account}");
    if !sql.query.is_empty() && !names_account {
        table.refuse("query", "a query with {user} or {account} in it", "neither in it");
    }
    sql
}
