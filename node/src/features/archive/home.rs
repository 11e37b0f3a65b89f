//! The archive at the account's home: gives each message its place, keeps it once, keeps the archive within its bounds, and replaces what was
//! retracted by a tombstone (XEP-0424 §5).
//!
//! What is asked most (is there such an account, what is its last place) is remembered: this home is the only writer, and whatever
//! else changes an account's data comes by as a change ([`Known::forget`]).

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::future::try_join;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::Stanza;
use xmpp::xml::element::Element;

use super::item::{ARCHIVE, Item, PLACES, Uid, mark};
use super::prefs::{Keep, PREFS, Prefs};
use crate::app::Late;
use crate::features::blocking::record::{HEAD, PRIVACY};
use crate::features::blocking::{self, Traffic};
use crate::features::roster::record::{Contact, ROSTER};
use crate::homes::accounts::{self, ACCOUNTS};
use crate::homes::{Decision, HomeError, Reading, Tx};
use crate::storage::Page;

/// Name of the operation.
pub const OP: &str = "archive";
/// Accounts remembered; beyond it all are forgotten and asked for again.
const KNOWN_MAX: usize = 50_000;
/// So long after it began to remember an account a home looks whether it has what it is asked to file: a request is sent again, in the same words,
/// when the home's former life, or the home before it, died between its commit and its answer. Longer than a request may take.
const SURE_AFTER_MS: u64 = 60_000;
/// Items that go at once.
const TRIM_MAX: usize = 200;
/// So far back the message is looked for that a retraction names, among those with the same party.
const RETRACT_LOOK: usize = 500;

/// One message to be archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filing {
    /// The message.
    pub item: Item,
    /// Only if the other party is in the roster.
    pub if_contact: bool,
    /// It may have been filed before: nobody heard.
    pub again: bool,
    /// It retracts another (XEP-0424).
    pub retracts: bool,
}

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep these, in order, unless that was done already.
    File(Vec<Filing>),
    /// Nothing; when it is answered, what was filed before can be read where it was asked. Whether this one is there.
    Has(Option<Uid>),
    /// These are the account's preferences from now on.
    Prefer(Prefs),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Committed.
    Done,
    /// No such account: nothing was kept.
    NoAccount,
    /// Whether it is there.
    Has(bool),
}

/// Bounds of an archive, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Items of one account.
    pub items_max: u64,
    /// How old one may be, in milliseconds.
    pub age_max_ms: u64,
}

/// What the home remembers of an account's archive.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Since when, in the node's monotonic time.
    since_ms: u64,
    exists: bool,
    /// It may keep people away (XEP-0191).
    is_guarded: bool,
    /// It has said what it wants archived.
    has_prefs: bool,
    last: u64,
    items: u64,
    /// When the oldest was received; `None`: to be looked for.
    oldest_ms: Option<u64>,
}

impl Account {
    fn is_sure(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) >= SURE_AFTER_MS
    }
}

/// What the home remembers of all. Memory: about 100 bytes an account, [`KNOWN_MAX`] of them.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<String, Account>>);

impl Known {
    /// Something else has changed of that account.
    pub fn forget(&self, account: &str) {
        self.0.lock().remove(account);
    }

    fn get(&self, account: &str) -> Option<Account> {
        self.0.lock().get(account).copied()
    }

    fn set(&self, account: &str, known: Account) {
        let mut all = self.0.lock();
        if let Some(place) = all.get_mut(account) {
            *place = known;
            return;
        }
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(account.to_owned(), known);
    }
}

/// The operation.
pub struct ArchiveHome(pub Late);

impl Decision for ArchiveHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    fn reads(&self, account: &BareJid, request: &[u8]) -> Vec<Reading> {
        let Some(node) = self.0.get() else { return Vec::new() };
        let known = node.archive.known.get(account.as_str());
        // Who is known well is not read for.
        if known.is_some_and(|known| known.is_sure(node.now_ms()) && !known.has_prefs) {
            return Vec::new();
        }
        let Ok(Request::File(filings)) = postcard::from_bytes(request) else { return Vec::new() };
        let mut reads = match known {
            Some(_) => Vec::new(),
            None => vec![(ACCOUNTS, String::new()), (PRIVACY, HEAD.to_owned())],
        };
        reads.push((PREFS, String::new()));
        reads.extend(filings.iter().map(|filing| (PLACES, filing.item.uid.to_string())));
        reads
    }

    async fn decide(
        &self,
        tx: &mut Tx,
        account: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        let node = self.0.get().ok_or(HomeError::Unreachable)?;
        let archive = &node.archive;
        let here = Here { known: &archive.known, bounds: archive.bounds, now_ms: node.now_ms() };
        decide(tx, account, request, here).await
    }
}

/// What an operation finds at its home.
#[derive(Clone, Copy)]
struct Here<'a> {
    known: &'a Known,
    bounds: Bounds,
    /// Monotonic.
    now_ms: u64,
}

async fn decide(
    tx: &mut Tx,
    account: &BareJid,
    request: Request,
    here: Here<'_>,
) -> Result<Answer, HomeError> {
    match request {
        Request::File(filings) => file(tx, account, filings, here).await,
        Request::Has(None) => Ok(Answer::Has(true)),
        Request::Has(Some(uid)) => {
            Ok(Answer::Has(tx.get(PLACES, &uid.to_string()).await?.is_some()))
        }
        Request::Prefer(prefs) => {
            if !accounts::exists(tx).await? {
                return Ok(Answer::NoAccount);
            }
            tx.put(PREFS, "", postcard::to_stdvec(&prefs).expect("a plain value"));
            Ok(Answer::Done)
        }
    }
}

async fn file(
    tx: &mut Tx,
    account: &BareJid,
    filings: Vec<Filing>,
    here: Here<'_>,
) -> Result<Answer, HomeError> {
    let all = here.known;
    let mut known = match all.get(account.as_str()) {
        // Whether it exists may have changed in the same transaction.
        Some(known) if ![ACCOUNTS, PRIVACY, PREFS].iter().any(|store| tx.is_touched(store)) => {
            known
        }
        _ => Account { since_ms: here.now_ms, ..look(tx).await? },
    };
    if !known.exists {
        all.forget(account.as_str());
        return Ok(Answer::NoAccount);
    }
    let unsure = |filing: &&Filing| filing.again || !known.is_sure(here.now_ms);
    let unsure = filings.iter().filter(unsure).map(|filing| (PLACES, filing.item.uid.to_string()));
    tx.read_ahead(unsure).await;
    // The node where a message entered may not have heard yet what the account wants.
    let prefs = if known.has_prefs { tx.get(PREFS, "").await? } else { None };
    let prefs = prefs.and_then(|bytes| postcard::from_bytes::<Prefs>(&bytes).ok());
    // A clock that is years ahead must not empty an archive: the home's and the other node's have to agree.
    let newest_ms = filings.iter().map(|filing| filing.item.at_ms).max().unwrap_or(0);
    let now_ms = tx.at().millis().min(newest_ms);
    for Filing { item, if_contact, again, retracts } in filings {
        if known.is_guarded && !item.sent && is_kept_away(tx, account, &item.with).await? {
            continue; // XEP-0313 §6.1: what was refused is not in the archive of who refused it.
        }
        let if_contact = match prefs.as_ref().map(|prefs| keep(prefs, &item.with)) {
            None => if_contact,
            Some(Keep::Yes) => false,
            Some(Keep::IfContact) => true,
            Some(Keep::No) => continue,
        };
        if if_contact && !is_contact(tx, &item.with).await? {
            continue;
        }
        let uid = item.uid.to_string();
        if (again || !known.is_sure(here.now_ms)) && tx.get(PLACES, &uid).await?.is_some() {
            continue;
        }
        if retracts {
            bury(tx, &item).await?;
        }
        known.last = tx.at().0.max(known.last + 1);
        if known.items == 0 {
            known.oldest_ms = Some(item.at_ms);
        }
        known.items += 1;
        tx.append(ARCHIVE, known.last, item.encode());
        tx.put(PLACES, uid, known.last.to_be_bytes().to_vec());
    }
    trim(tx, &mut known, here.bounds, now_ms).await?;
    all.set(account.as_str(), known);
    Ok(Answer::Done)
}

/// What is to be remembered, from the database.
async fn look(tx: &Tx) -> Result<Account, HomeError> {
    let newest = tx.archive(ARCHIVE, Page::before(None, 1));
    let (newest, items) = try_join(newest, tx.archive_len(ARCHIVE)).await?;
    Ok(Account {
        since_ms: 0,
        exists: accounts::exists(tx).await?,
        is_guarded: blocking::has_default(tx).await?,
        has_prefs: tx.get(PREFS, "").await?.is_some(),
        last: newest.first().map_or(0, |(id, _)| *id),
        items,
        oldest_ms: None,
    })
}

fn keep(prefs: &Prefs, with: &str) -> Keep {
    Jid::parse(with).map_or(Keep::No, |with| prefs.keep(&with))
}

async fn is_kept_away(tx: &Tx, account: &BareJid, with: &str) -> Result<bool, HomeError> {
    let Ok(with) = Jid::parse(with) else { return Ok(false) };
    blocking::is_blocked(tx, account, &with, Traffic::Message).await
}

async fn is_contact(tx: &Tx, with: &str) -> Result<bool, HomeError> {
    let Ok(with) = Jid::parse(with) else { return Ok(false) };
    let record = tx.get(ROSTER, with.bare_str()).await?;
    Ok(record.and_then(|bytes| Contact::decode(&bytes)).is_some_and(|contact| contact.listed))
}

/// Takes away what is beyond the bounds, oldest first.
async fn trim(
    tx: &mut Tx,
    known: &mut Account,
    bounds: Bounds,
    now_ms: u64,
) -> Result<(), HomeError> {
    let most = bounds.items_max;
    let beyond = if known.items > most + most / 100 {
        usize::try_from(known.items - most).unwrap_or(TRIM_MAX).min(TRIM_MAX)
    } else {
        0
    };
    let is_old = |at_ms: u64| at_ms.saturating_add(bounds.age_max_ms) < now_ms;
    // What the oldest is, is not known after a start.
    let look = bounds.age_max_ms < u64::MAX && known.oldest_ms.is_none_or(is_old);
    if beyond == 0 && !look {
        return Ok(());
    }
    let oldest = tx.archive(ARCHIVE, Page::after(None, TRIM_MAX + 1)).await?;
    let mut upto = None;
    known.oldest_ms = None;
    for (place, (id, bytes)) in oldest.iter().enumerate() {
        let item = Item::decode(bytes);
        let at_ms = item.as_ref().map_or(0, |item| item.at_ms);
        if place >= TRIM_MAX || (place >= beyond && !is_old(at_ms)) {
            known.oldest_ms = Some(at_ms);
            break;
        }
        if let Some(item) = item {
            tx.delete(PLACES, item.uid.to_string());
        }
        known.items = known.items.saturating_sub(1);
        upto = Some(*id);
    }
    if let Some(upto) = upto {
        tx.trim(ARCHIVE, upto);
    }
    Ok(())
}

/// XEP-0424 §5: what is retracted by its author is replaced by a tombstone; the retraction itself is kept too.
async fn bury(tx: &mut Tx, retraction: &Item) -> Result<(), HomeError> {
    let Some(element) = parsed(&retraction.stanza).map(|stanza| stanza.element()) else {
        return Ok(());
    };
    let retract = element.child("retract", ns::RETRACT);
    let Some(target) = retract.and_then(|retract| retract.attr("id")) else { return Ok(()) };
    let page = Page { mark: Some(mark(&retraction.with)), ..Page::before(None, RETRACT_LOOK) };
    let bare = |jid: &str| jid.split('/').next().map(str::to_owned);
    for (id, bytes) in tx.archive(ARCHIVE, page).await?.into_iter().rev() {
        let Some(mut item) = Item::decode(&bytes) else { continue };
        if item.sent != retraction.sent || bare(&item.with) != bare(&retraction.with) {
            continue;
        }
        let Some(stanza) = parsed(&item.stanza) else { continue };
        let is_meant = stanza.id().as_deref() == Some(target)
            || xmpp::payload::stanza_id::origin_id(&stanza).as_deref() == Some(target);
        if !is_meant || stanza.has_child("retract", ns::RETRACT) {
            continue;
        }
        if let Some(stone) = tombstone(&stanza, element.attr("id"), retraction.at_ms) {
            item.stanza = stone.bytes().to_vec();
            tx.append(ARCHIVE, id, item.encode());
        }
        return Ok(());
    }
    Ok(())
}

fn parsed(stanza: &[u8]) -> Option<Stanza> {
    Stanza::parse(Bytes::copy_from_slice(stanza)).ok()
}

/// The message without what it said.
fn tombstone(message: &Stanza, by: Option<&str>, at_ms: u64) -> Option<Stanza> {
    let mut element = message.element();
    element.retain_children(|child| child.is("origin-id", ns::STANZA_ID));
    element.push_child(
        Element::new("retracted", ns::RETRACT)
            .with_attr_opt("id", by)
            .with_attr("stamp", &date_time::format(at_ms)),
    );
    Stanza::from_element(&element).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { items_max: 100, age_max_ms: u64::MAX };

    fn here(known: &Known, bounds: Bounds) -> Here<'_> {
        Here { known, bounds, now_ms: 0 }
    }

    fn juliet() -> BareJid {
        BareJid::parse("juliet@chat.example").expect("a JID")
    }

    fn tx() -> Tx {
        let mut tx = Tx::of("juliet@chat.example");
        tx.put(ACCOUNTS, "", b"there".to_vec());
        let _ = tx.changed();
        tx
    }

    fn filing(order: u64, payload: &str) -> Filing {
        let with = "romeo@chat.example/x".to_owned();
        let stanza = format!("<message id='m{order}' type='chat'>{payload}</message>").into_bytes();
        let item = Item { uid: Uid { order, salt: 1 }, at_ms: order, with, sent: false, stanza };
        Filing { item, if_contact: false, again: false, retracts: payload.contains("<retract ") }
    }

    async fn texts(tx: &Tx) -> Vec<String> {
        let items = tx.archive(ARCHIVE, Page::after(None, 1_000)).await.expect("memory");
        let stanzas = items.iter().map(|(_, bytes)| Item::decode(bytes).expect("an item").stanza);
        stanzas.map(|stanza| String::from_utf8(stanza).expect("text")).collect()
    }

    #[tokio::test]
    async fn each_is_kept_once_and_in_order() {
        let (mut tx, known) = (tx(), Known::default());
        let batch = |orders: &[u64], again| {
            let filings = orders.iter().map(|order| Filing { again, ..filing(*order, "") });
            Request::File(filings.collect())
        };
        let done = decide(&mut tx, &juliet(), batch(&[1, 2], false), here(&known, BOUNDS)).await;
        assert_eq!(done, Ok(Answer::Done));
        let _ = tx.changed();
        let done = decide(&mut tx, &juliet(), batch(&[2, 3], true), here(&known, BOUNDS)).await;
        assert_eq!(done, Ok(Answer::Done));
        let kept = texts(&tx).await;
        assert_eq!(kept.len(), 3);
        assert!(kept.iter().zip(1..).all(|(text, order)| text.contains(&format!("'m{order}'"))));
        // In the same words, to a home that has just begun.
        let done = decide(&mut tx, &juliet(), batch(&[3], false), here(&known, BOUNDS)).await;
        assert_eq!(done, Ok(Answer::Done));
        assert_eq!(texts(&tx).await.len(), 3);
        let has = |order| Request::Has(Some(Uid { order, salt: 1 }));
        for (order, there) in [(1, true), (3, true), (4, false)] {
            let answer = decide(&mut tx, &juliet(), has(order), here(&known, BOUNDS)).await;
            assert_eq!(answer, Ok(Answer::Has(there)));
        }
    }

    #[tokio::test]
    async fn an_account_that_goes_in_the_same_transaction_is_not_written_to() {
        let (mut tx, known) = (tx(), Known::default());
        let one = |order| Request::File(vec![filing(order, "")]);
        assert_eq!(
            decide(&mut tx, &juliet(), one(1), here(&known, BOUNDS)).await,
            Ok(Answer::Done)
        );
        let _ = tx.changed();
        tx.clear(ACCOUNTS);
        tx.clear(ARCHIVE);
        let _ = tx.changed();
        let answer = decide(&mut tx, &juliet(), one(2), here(&known, BOUNDS)).await;
        assert_eq!(answer, Ok(Answer::NoAccount));
        assert!(tx.changed().is_empty());
    }

    #[tokio::test]
    async fn the_oldest_go_with_their_names_when_there_are_too_many() {
        let (mut tx, known) = (tx(), Known::default());
        let batch = Request::File((1..=102).map(|order| filing(order, "")).collect());
        assert_eq!(decide(&mut tx, &juliet(), batch, here(&known, BOUNDS)).await, Ok(Answer::Done));
        let kept = texts(&tx).await;
        assert_eq!(kept.len(), 100);
        assert!(kept[0].contains("'m3'"));
        let places = tx.map(PLACES).await.expect("memory");
        assert_eq!(places.len(), 100);
    }

    #[tokio::test]
    async fn what_is_too_old_goes_when_both_clocks_say_so() {
        let (mut tx, known) = (tx(), Known::default());
        let bounds = Bounds { age_max_ms: 10, ..BOUNDS };
        let batch = |orders: &[u64]| Request::File(orders.iter().map(|n| filing(*n, "")).collect());
        let kept = async |tx: &mut Tx, orders: &[u64]| {
            let done = decide(tx, &juliet(), batch(orders), here(&known, bounds)).await;
            assert_eq!(done, Ok(Answer::Done));
            let _ = tx.changed();
            texts(tx).await.len()
        };
        assert_eq!(kept(&mut tx, &[1, 5]).await, 2);
        // The home's clock stands at zero: nothing is old.
        assert_eq!(kept(&mut tx, &[100]).await, 3);
        let mut tx = tx.at_ms(1_000);
        assert_eq!(kept(&mut tx, &[14]).await, 3);
        assert_eq!(kept(&mut tx, &[200]).await, 1);
    }

    #[tokio::test]
    async fn what_its_author_retracts_becomes_a_tombstone() {
        let (mut tx, known) = (tx(), Known::default());
        let said = "<body>secret</body><origin-id xmlns='urn:xmpp:sid:0' id='o1'/>";
        let retract = "<retract xmlns='urn:xmpp:message-retract:1' id='o1'/><body>gone</body>";
        let mut others = filing(2, retract);
        others.item.with = "tybalt@chat.example/x".into();
        let batch = vec![filing(1, said), others];
        let done = decide(&mut tx, &juliet(), Request::File(batch), here(&known, BOUNDS)).await;
        assert_eq!(done, Ok(Answer::Done));
        assert!(texts(&tx).await[0].contains("secret"), "only its author may");
        let _ = tx.changed();
        let batch = Request::File(vec![filing(3, retract)]);
        assert_eq!(decide(&mut tx, &juliet(), batch, here(&known, BOUNDS)).await, Ok(Answer::Done));
        let kept = texts(&tx).await;
        assert_eq!(kept.len(), 3);
        assert!(!kept[0].contains("secret"), "{}", kept[0]);
        assert!(kept[0].contains("<retracted") && kept[0].contains("id='m3'"), "{}", kept[0]);
        assert!(kept[0].contains("o1"), "{}", kept[0]);
        assert!(kept[2].contains("retract"));
    }
}
