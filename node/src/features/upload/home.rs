//! What an account has, at its home: the one writer of quotas. Store `upload`: a map, key the file's token, value a [`Record`]. What is past is
//! dropped when the account asks for the next slot, so there are never more than `upload.account_files_max`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::homes::{Decision, HomeError, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "upload";
/// The records.
pub const UPLOAD: &str = "upload";

const DAY_S: u64 = 86_400;

/// One file, or one that is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its bytes.
    pub size: u64,
    /// When the slot was given, in seconds since 1970.
    pub since_s: u64,
    /// Until when it is kept; of a file that has not come, until when it may.
    pub until_s: u64,
    /// The region that has it.
    pub region: String,
    /// Until when it is kept once it has come; none when it has.
    pub then_s: Option<u64>,
}

/// What an account may have, as the asker's configuration says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes altogether.
    pub bytes_max: u64,
    /// Bytes of one day.
    pub day_bytes_max: u64,
    /// Files.
    pub files_max: usize,
}

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// May this file come?
    Reserve {
        /// Its token.
        token: String,
        /// What is to be known of it; its times are the asker's.
        record: Record,
        /// How much there may be.
        limits: Limits,
    },
    /// It has.
    Arrived {
        /// Its token.
        token: String,
    },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is noted.
    Noted,
    /// No such account.
    NoAccount,
    /// Too much; when to try again, in seconds since 1970.
    Full(u64),
    /// Nothing is known of it (any more).
    Unknown,
}

/// The operation.
pub struct UploadHome;

impl Decision for UploadHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    async fn decide(
        &self,
        tx: &mut Tx,
        _: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        decide(tx, request).await
    }
}

async fn decide(tx: &mut Tx, request: Request) -> Result<Answer, HomeError> {
    match request {
        Request::Reserve { token, record, limits } => {
            if !accounts::exists(tx).await? {
                return Ok(Answer::NoAccount);
            }
            let mut records = BTreeMap::new();
            for (key, value) in tx.map(UPLOAD).await? {
                match postcard::from_bytes::<Record>(&value) {
                    Ok(known) if known.until_s > record.since_s => {
                        records.insert(key, known);
                    }
                    _ => tx.delete(UPLOAD, key),
                }
            }
            if records.contains_key(&token) {
                return Ok(Answer::Noted); // Asked twice: its answer was lost.
            }
            if let Some(retry_s) = full(&records, &record, limits) {
                return Ok(Answer::Full(retry_s));
            }
            tx.put(UPLOAD, token, postcard::to_stdvec(&record).expect("a plain value"));
            Ok(Answer::Noted)
        }
        Request::Arrived { token } => {
            let known = tx.get(UPLOAD, &token).await?;
            let known = known.and_then(|value| postcard::from_bytes::<Record>(&value).ok());
            let Some(mut record) = known else { return Ok(Answer::Unknown) };
            if let Some(then_s) = record.then_s.take() {
                record.until_s = then_s;
                tx.put(UPLOAD, token, postcard::to_stdvec(&record).expect("a plain value"));
            }
            Ok(Answer::Noted)
        }
    }
}

/// When there will be room for one more, if there is none now.
fn full(records: &BTreeMap<String, Record>, new: &Record, limits: Limits) -> Option<u64> {
    let all = |record: &Record| (record.until_s, record.size, 1);
    let everything = room(records.values().map(all), new.size, limits.bytes_max, limits.files_max);
    let of_day = records.values().filter(|record| record.since_s + DAY_S > new.since_s);
    let of_day = of_day.map(|record| (record.since_s + DAY_S, record.size, 1));
    let today = room(of_day, new.size, limits.day_bytes_max, usize::MAX);
    everything.max(today)
}

/// Of things that go at their times: when the last of those has gone that must.
fn room(
    things: impl Iterator<Item = (u64, u64, usize)>,
    size: u64,
    bytes_max: u64,
    count_max: usize,
) -> Option<u64> {
    let mut things: Vec<_> = things.collect();
    things.sort_unstable();
    let mut bytes = things.iter().map(|(_, size, _)| size).sum::<u64>().saturating_add(size);
    let mut count = things.len() + 1;
    let mut at = None;
    for (goes_s, size, _) in things {
        if bytes <= bytes_max && count <= count_max {
            break;
        }
        bytes -= size;
        count -= 1;
        at = Some(goes_s);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 100, day_bytes_max: 60, files_max: 4 };

    fn record(size: u64, since_s: u64) -> Record {
        let (region, until_s) = ("eu".into(), since_s + 300);
        Record { size, since_s, until_s, region, then_s: Some(since_s + 30 * DAY_S) }
    }

    async fn reserve(tx: &mut Tx, token: &str, size: u64, now_s: u64) -> Answer {
        let (token, record) = (token.to_owned(), record(size, now_s));
        let answer = decide(tx, Request::Reserve { token, record, limits: LIMITS }).await;
        tx.changed();
        answer.expect("decided")
    }

    async fn arrived(tx: &mut Tx, token: &str) -> Answer {
        let answer = decide(tx, Request::Arrived { token: token.to_owned() }).await;
        tx.changed();
        answer.expect("decided")
    }

    #[tokio::test]
    async fn who_is_no_account_has_no_files() {
        let mut tx = Tx::of("romeo@chat.example");
        assert_eq!(reserve(&mut tx, "a", 1, 0).await, Answer::NoAccount);
    }

    #[tokio::test]
    async fn a_quota_is_full_until_something_goes() {
        let mut tx = Tx::of("romeo@chat.example");
        tx.put(accounts::ACCOUNTS, "", vec![1]);
        let day = DAY_S;
        assert_eq!(reserve(&mut tx, "a", 50, 10).await, Answer::Noted);
        assert_eq!(reserve(&mut tx, "a", 50, 10).await, Answer::Noted, "the same again");
        assert_eq!(arrived(&mut tx, "a").await, Answer::Noted);
        // Of the day: until `a` is a day old.
        assert_eq!(reserve(&mut tx, "b", 20, 20).await, Answer::Full(10 + day));
        assert_eq!(reserve(&mut tx, "b", 50, 10 + day).await, Answer::Noted);
        assert_eq!(arrived(&mut tx, "b").await, Answer::Noted);
        // Altogether: until `a` goes, which is later than a day.
        assert_eq!(reserve(&mut tx, "c", 1, 20 + 2 * day).await, Answer::Full(10 + 30 * day));
        assert_eq!(reserve(&mut tx, "c", 1, 10 + 30 * day).await, Answer::Noted);
    }

    #[tokio::test]
    async fn a_slot_that_is_not_used_is_given_back() {
        let mut tx = Tx::of("romeo@chat.example");
        tx.put(accounts::ACCOUNTS, "", vec![1]);
        assert_eq!(reserve(&mut tx, "a", 60, 0).await, Answer::Noted);
        assert_eq!(reserve(&mut tx, "b", 60, 299).await, Answer::Full(DAY_S));
        assert_eq!(reserve(&mut tx, "b", 60, 300).await, Answer::Noted);
        assert_eq!(arrived(&mut tx, "a").await, Answer::Unknown);
        assert_eq!(arrived(&mut tx, "b").await, Answer::Noted);
        assert_eq!(arrived(&mut tx, "b").await, Answer::Noted, "its answer was lost");
    }

    #[tokio::test]
    async fn many_small_files_are_too_many() {
        let mut tx = Tx::of("romeo@chat.example");
        tx.put(accounts::ACCOUNTS, "", vec![1]);
        for token in ["a", "b", "c", "d"] {
            assert_eq!(reserve(&mut tx, token, 1, 0).await, Answer::Noted);
        }
        assert_eq!(reserve(&mut tx, "e", 1, 5).await, Answer::Full(300));
    }
}
