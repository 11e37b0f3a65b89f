//! `[limits]`: every bound of the server in one place. Each says what happens when it is reached.

use std::time::Duration;

use toml::de::DeValue;

use crate::table::Table;
use crate::value::{FromToml, Size, describe};

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run. 0: as often as one likes.
    pub per_second: u32,
    /// So many at once, after silence.
    pub burst: u32,
}

/// What happens to a session that sends faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateExceeded {
    /// It is read from more slowly: what it sends waits in its connection.
    Wait,
    /// It ends with `policy-violation`.
    Close,
}

impl FromToml for RateExceeded {
    fn expected() -> String {
        "\"wait\" or \"close\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("wait") => Ok(RateExceeded::Wait),
            Some("close") => Ok(RateExceeded::Close),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        RateExceeded::Wait
    }
}

/// The `[limits]` section. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One stanza from a client. Beyond: the stream is closed with `policy-violation`.
    pub stanza_bytes_max: usize,
    /// One element from somebody who has not authenticated. Beyond: the stream is closed with `policy-violation`.
    pub stanza_bytes_max_before_auth: usize,
    /// Client connections of this node, sessions that wait to be resumed included. Beyond: a new connection is
    /// closed at once.
    pub connections_max: usize,
    /// Connections of each HTTP listener. Beyond: a new one waits until another is closed.
    pub http_connections_max: usize,
    /// Connections from one IP address that have not authenticated. Beyond: a new one is closed at once.
    pub unauthenticated_per_address_max: usize,
    /// Sessions of one account in all regions together. Beyond: the new resource is refused with `resource-constraint`.
    pub sessions_per_account_max: usize,
    /// Bytes waiting for one session. From three quarters on presence is dropped; beyond: a message or an iq request is
    /// answered with `resource-constraint`. With stream management the session ends when as much is unacknowledged.
    pub mailbox_bytes_max: usize,
    /// Entries of one roster. Beyond: the roster set is refused with `resource-constraint`.
    pub roster_items_max: usize,
    /// Bytes of the name of a roster entry, and of each of its groups. Beyond: the roster set is refused with `not-acceptable`.
    pub roster_name_bytes_max: usize,
    /// Groups of one roster entry. Beyond: the roster set is refused with `not-acceptable`.
    pub roster_groups_max: usize,
    /// Bytes of a subscription request, which is kept until it is answered. Beyond: it goes without what it says.
    pub subscription_bytes_max: usize,
    /// Addresses that one session has sent presence to, which hear of its end (rooms, for the most part). Beyond: the one that was written to first
    /// does not.
    pub directed_presence_max: usize,
    /// Privacy lists of one account (XEP-0016). Beyond: a new one, or the first block, is refused with `resource-constraint`.
    pub privacy_lists_max: usize,
    /// Items of one privacy list, the block list (XEP-0191) among them. Beyond: a change is refused with `resource-constraint`.
    pub privacy_items_max: usize,
    /// Messages kept for one offline account. Beyond: the sender gets `service-unavailable` (RFC 6121 §8.5.2).
    pub offline_messages_max: usize,
    /// One vCard (XEP-0054), picture included. Beyond: the set is refused with `policy-violation`.
    pub vcard_bytes_max: usize,
    /// What one account keeps in private XML storage (XEP-0049), all together. Beyond: the set is refused with
    /// `resource-constraint`.
    pub private_bytes_max: usize,
    /// Commands (XEP-0050) whose form is being filled in, of this node. Beyond: the oldest is forgotten.
    pub command_sessions_max: usize,
    /// How long that may take. Beyond: `session-expired`.
    pub command_timeout: Duration,
    /// How long a lost session can be resumed (XEP-0198). Beyond: it ends and what it had not acknowledged is routed
    /// again.
    pub sm_timeout: Duration,
    /// Lost sessions of one account that wait on one node to be resumed. Beyond: the one that was lost first ends, as if its time were over.
    pub sm_lost_per_account_max: usize,
    /// Sessions that nobody resumed in time and whose count of handled stanzas is remembered. Beyond: the oldest is forgotten, and its
    /// client is not told.
    pub sm_expired_max: usize,
    /// Stanzas sent and not acknowledged by one session. Beyond: it ends with `resource-constraint`, and
    /// what was not acknowledged is routed again.
    pub sm_queue_max: usize,
    /// Stanzas held back from one client that is inactive (XEP-0352). Beyond: all of them are sent to it.
    pub inactive_held_max: usize,
    /// Their bytes. Beyond: the same.
    pub inactive_held_bytes_max: usize,
    /// Bytes of stanzas parked until it is known where their addressees are. Beyond: the sender gets
    /// `resource-constraint`.
    pub parked_bytes_max: usize,
    /// Stanzas parked for one addressee. Beyond: the sender gets `resource-constraint`.
    pub parked_stanzas_per_address_max: usize,
    /// Bytes of messages this node has accepted from clients with stream management and nobody has kept yet. Beyond: the sender
    /// gets `resource-constraint`.
    pub unsettled_bytes_max: usize,
    /// The same of one session, counted in stanzas. Beyond: nothing more is read from it until half of them are settled.
    pub unsettled_per_session_max: usize,
    /// Sessions that begin on this node, those that are resumed not waited for. Beyond: the client waits, signed in, for its turn.
    pub sign_ins: Rate,
    /// Clients that wait so. Beyond: the stream is closed with `resource-constraint`.
    pub sign_ins_waiting_max: usize,
    /// What one session sends. Beyond: see `rate_exceeded`.
    pub stanzas: Rate,
    /// Presence of one session. Beyond: see `rate_exceeded`.
    pub presence: Rate,
    /// Roster sets and subscription stanzas of one session. Beyond: see `rate_exceeded`.
    pub roster_changes: Rate,
    /// What happens beyond these.
    pub rate_exceeded: RateExceeded,
    /// Route-log entries kept for regions that lag behind. Beyond: such a region gets a full copy instead.
    pub route_log_entries_max: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The size of one stanza. No less than 10,000 bytes (RFC 6120 §13.12); no more than what goes, as it came and with what is written beside it, into one frame of a
/// link and one entry of the durable log: else a stanza that is taken could not be brought to another node, or be kept.
pub(crate) fn stanza_bytes(table: &Table<'_>, key: &'static str, default: usize) -> usize {
    let (least, most) = (Size(10_000), Size(512 * KIB));
    table.between(key, Size(default), least, most, "a size from 10000 bytes to \"512KiB\"").0
}

pub(crate) fn read(table: &Table<'_>) -> Limits {
    let size = |key, default: usize, least: usize| {
        let most = Size(16 << 30);
        let words = format!("a size from {least} bytes to \"16GiB\"");
        table.between(key, Size(default), Size(least), most, &words).0
    };
    // What is kept in one piece must fit into one entry of the durable log.
    let between = |key, default: usize, most: usize| {
        let words = format!("a size from 1024 bytes to {} bytes", most);
        table.between(key, Size(default), Size(KIB), Size(most), &words).0
    };
    let count = |key, default: usize| {
        table.between(key, default, 1, 1_000_000_000, "a number from 1 to 1000000000")
    };
    let rate = |per_second_key, per_second, burst_key, burst| Rate {
        per_second: table.between(
            per_second_key,
            per_second,
            0,
            1_000_000,
            "a number from 0 to 1000000",
        ),
        burst: table.between(burst_key, burst, 1, 100_000_000, "a number from 1 to 100000000"),
    };
    let limits = Limits {
        stanza_bytes_max: stanza_bytes(table, "stanza_bytes_max", 256 * KIB),
        stanza_bytes_max_before_auth: stanza_bytes(table, "stanza_bytes_max_before_auth", 16 * KIB),
        connections_max: count("connections_max", 1_000_000),
        http_connections_max: count("http_connections_max", 10_000),
        unauthenticated_per_address_max: count("unauthenticated_per_address_max", 1_000),
        sessions_per_account_max: count("sessions_per_account_max", 64),
        mailbox_bytes_max: size("mailbox_bytes_max", 4 * MIB, 64 * KIB),
        roster_items_max: count("roster_items_max", 2_000),
        roster_name_bytes_max: size("roster_name_bytes_max", 1_023, 64),
        roster_groups_max: count("roster_groups_max", 64),
        subscription_bytes_max: size("subscription_bytes_max", 4 * KIB, 256),
        directed_presence_max: count("directed_presence_max", 1_000),
        privacy_lists_max: count("privacy_lists_max", 20),
        privacy_items_max: count("privacy_items_max", 1_000),
        offline_messages_max: count("offline_messages_max", 1_000),
        vcard_bytes_max: between("vcard_bytes_max", 192 * KIB, 320 * KIB),
        private_bytes_max: between("private_bytes_max", 512 * KIB, 4 * MIB),
        command_sessions_max: count("command_sessions_max", 1_000),
        command_timeout: table.between(
            "command_timeout",
            Duration::from_secs(600),
            Duration::from_secs(1),
            Duration::from_secs(86_400),
            "a duration from \"1s\" to \"1d\"",
        ),
        sm_timeout: table.between(
            "sm_timeout",
            Duration::from_secs(300),
            Duration::from_secs(1),
            Duration::from_secs(86_400),
            "a duration from \"1s\" to \"1d\"",
        ),
        sm_lost_per_account_max: count("sm_lost_per_account_max", 16),
        sm_expired_max: count("sm_expired_max", 2_000),
        sm_queue_max: count("sm_queue_max", 5_000),
        inactive_held_max: count("inactive_held_max", 256),
        inactive_held_bytes_max: size("inactive_held_bytes_max", 256 * KIB, KIB),
        parked_bytes_max: size("parked_bytes_max", 64 * MIB, 64 * KIB),
        parked_stanzas_per_address_max: count("parked_stanzas_per_address_max", 1_000),
        unsettled_bytes_max: size("unsettled_bytes_max", 256 * MIB, 64 * KIB),
        unsettled_per_session_max: count("unsettled_per_session_max", 1_000),
        sign_ins: rate("sign_ins_per_second", 500, "sign_ins_burst", 2_000),
        sign_ins_waiting_max: count("sign_ins_waiting_max", 10_000),
        stanzas: rate("stanzas_per_second", 20_000, "stanzas_burst", 100_000),
        presence: rate("presence_per_second", 100, "presence_burst", 1_000),
        roster_changes: rate("roster_changes_per_second", 200, "roster_changes_burst", 2_000),
        rate_exceeded: table.value("rate_exceeded", RateExceeded::Wait),
        route_log_entries_max: count("route_log_entries_max", 1_000_000),
    };
    if limits.mailbox_bytes_max < limits.stanza_bytes_max {
        table.refuse(
            "mailbox_bytes_max",
            format!("at least stanza_bytes_max, {} bytes", limits.stanza_bytes_max),
            format!("{} bytes", limits.mailbox_bytes_max),
        );
    }
    limits
}
