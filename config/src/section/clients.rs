//! `[clients]`: what is kept of the clients that people sign in with: their tokens (XEP-0484) and the list people see (XEP-0494).

use std::time::Duration;

use crate::table::Table;

/// The `[clients]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Whether clients may have tokens to sign in with instead of the password.
    pub tokens: bool,
    /// How long a token is good: a client that is away for longer needs the password again.
    pub token_lifetime: Duration,
    /// A token older than this is replaced when it is used.
    pub token_rotation: Duration,
    /// Clients kept of one account. Beyond: the one that was away longest is forgotten, and with it its token.
    pub per_account_max: usize,
    /// A client without a token that was away for so long is forgotten.
    pub forgotten_after: Duration,
    /// Whether another password ends the account's other sessions, with `reset`. Its tokens end with the old one in any case.
    pub password_ends_sessions: bool,
    /// How exactly it is kept when a client was last seen.
    pub seen_every: Duration,
    /// Whether the names of software and device are kept.
    pub keep_user_agent: bool,
}

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn read(table: &Table<'_>) -> Clients {
    let time = |key, default: Duration, least: Duration, words: &str| {
        table.between(key, default, least, 3650 * DAY, words)
    };
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let from_a_minute = "a duration from \"1m\" to \"3650d\"";
    let clients = Clients {
        tokens: table.value("tokens", true),
        token_lifetime: time("token_lifetime", 21 * DAY, minute, from_a_minute),
        token_rotation: time("token_rotation", DAY, second, "a duration from \"1s\" to \"3650d\""),
        per_account_max: table.between(
            "per_account_max",
            100,
            1,
            10_000,
            "a number from 1 to 10000",
        ),
        forgotten_after: time("forgotten_after", 90 * DAY, minute, from_a_minute),
        password_ends_sessions: table.value("password_ends_sessions", true),
        seen_every: time("seen_every", 60 * minute, minute, from_a_minute),
        keep_user_agent: table.value("keep_user_agent", true),
    };
    if clients.token_rotation >= clients.token_lifetime {
        table.refuse(
            "token_rotation",
            "less than token_lifetime".to_owned(),
            format!("{} s", clients.token_rotation.as_secs()),
        );
    }
    clients
}
