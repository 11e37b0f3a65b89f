//! Messages on their way into archives: filed at each account's home in the order in which this node accepted them, many at once. What a client
//! was told is handled is safe: the receipt of a message is held until its homes have committed it, or, where a home cannot be
//! reached for a while, until it is written down here (an outbox of its own), and filed later.
//!
//! Bound: `archive.pending_bytes_max`. What a reachable home has not committed yet makes sessions wait ([`Queue::room`]); for homes that cannot be
//! reached half of it may wait, and beyond that a message is refused before it is taken ([`Queue::refuses`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use xmpp::jid::BareJid;

use super::home::{Answer, Filing, OP, Request};
use crate::app::Node;
use crate::homes::HomeError;
use crate::session::Receipt;
use crate::storage::StorageError;

/// Bytes of messages filed by one request: with what belongs to them they stay below what one change may hold.
const PART_BYTES: usize = 256 << 10;
/// Before a home that is busy is asked again.
const BUSY_RETRY: Duration = Duration::from_millis(5);
/// Before a home that cannot be reached is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// Filings gather so long, of all accounts together: one commit for many costs a fraction of many.
const GATHER_MS: u64 = 20;
/// And so long where many come: each commit writes a page for each account that it touches, however little is put there.
const GATHER_BUSY_MS: u64 = 100;
/// That many filings a second are many.
const BUSY_PER_SECOND: u64 = 400;
/// What a filing counts for besides its stanza.
const FILING_BYTES: usize = 200;

/// A filing that waits.
#[derive(Debug)]
struct Waiting {
    filing: Filing,
    /// Dropped when it is safe.
    receipt: Option<Receipt>,
    /// Its place in the outbox, if it was written there.
    stored: Option<u64>,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Its home could not be reached when it was asked last.
    is_stuck: bool,
}

/// See the room.
#[derive(Debug)]
pub struct Queue {
    lines: Mutex<HashMap<BareJid, Line>>,
    bytes: AtomicUsize,
    stuck_bytes: AtomicUsize,
    bytes_max: usize,
    full: AtomicBool,
    emptied: Notify,
    pace: Mutex<Pace>,
}

/// How many filings come.
#[derive(Debug, Default)]
struct Pace {
    /// Of the node's monotonic time.
    second: u64,
    /// In this one, until now.
    count: u64,
    /// In the last one.
    before: u64,
}

impl Pace {
    fn next(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.second {
            self.before = if second == self.second + 1 { self.count } else { 0 };
            (self.second, self.count) = (second, 0);
        }
    }
}

impl Queue {
    /// An empty one.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            lines: Mutex::default(),
            bytes: AtomicUsize::new(0),
            stuck_bytes: AtomicUsize::new(0),
            bytes_max,
            full: AtomicBool::new(false),
            emptied: Notify::new(),
            pace: Mutex::default(),
        }
    }

    /// Whether those who send have to wait. One load.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Until there is room.
    pub async fn room(&self) {
        while self.is_full() {
            let emptied = self.emptied.notified();
            if self.is_full() {
                emptied.await;
            }
        }
    }

    /// Whether nothing more is taken for that account: its home cannot be reached, and much waits for such homes.
    pub fn refuses(&self, account: &BareJid) -> bool {
        self.stuck_bytes.load(Ordering::Acquire) > self.bytes_max / 2
            && self.lines.lock().get(account).is_some_and(|line| line.is_stuck)
    }

    /// Messages that wait, in bytes.
    pub fn depth(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether nothing waits for that account.
    pub fn is_settled(&self, account: &BareJid) -> bool {
        !self.lines.lock().contains_key(account)
    }

    fn add(&self, bytes: usize) {
        let all = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let stuck = self.stuck_bytes.load(Ordering::Acquire);
        // What waits for homes that cannot be reached makes nobody wait.
        if all.saturating_sub(stuck) > self.bytes_max / 2 {
            self.full.store(true, Ordering::Release);
        }
    }

    fn take(&self, bytes: usize) {
        let all = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        let stuck = self.stuck_bytes.load(Ordering::Acquire);
        if self.is_full() && all.saturating_sub(stuck) < self.bytes_max / 4 {
            self.full.store(false, Ordering::Release);
            self.emptied.notify_waiters();
        }
    }

    /// Until when what comes now is gathered, from now on, in milliseconds.
    fn gather_ms(&self, now_ms: u64) -> u64 {
        let mut pace = self.pace.lock();
        pace.next(now_ms);
        let is_busy = pace.before.max(pace.count) >= BUSY_PER_SECOND;
        let gather = if is_busy { GATHER_BUSY_MS } else { GATHER_MS };
        gather - now_ms % gather
    }

    /// One more has come.
    fn count(&self, now_ms: u64) {
        let mut pace = self.pace.lock();
        pace.next(now_ms);
        pace.count += 1;
    }

    /// Puts it in its line. Whether the line is new and somebody has to work on it.
    fn push(&self, account: &BareJid, waiting: Waiting) -> bool {
        let bytes = weight(&waiting.filing);
        self.add(bytes);
        let mut lines = self.lines.lock();
        let (line, is_new) = match lines.get_mut(account) {
            Some(line) => (line, false),
            None => (lines.entry(account.clone()).or_default(), true),
        };
        if line.is_stuck {
            self.stuck_bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        line.bytes += bytes;
        line.waiting.push(waiting);
        is_new
    }

    /// The next part of a line; `None`: nothing is left, and the line is gone.
    fn part(&self, account: &BareJid) -> Option<Vec<Filing>> {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(account)?;
        if line.waiting.is_empty() {
            lines.remove(account);
            return None;
        }
        let mut bytes = 0;
        let fits = line.waiting.iter().take_while(|waiting| {
            let first = bytes == 0;
            bytes += weight(&waiting.filing);
            first || bytes <= PART_BYTES
        });
        Some(fits.map(|waiting| waiting.filing.clone()).collect())
    }

    /// The first `count` of a line are safe. Where they stand in the outbox, and whether the line is over.
    fn done(&self, account: &BareJid, count: usize) -> (Vec<u64>, bool) {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(account) else { return (Vec::new(), true) };
        let done: Vec<Waiting> = line.waiting.drain(..count).collect();
        let bytes = done.iter().map(|waiting| weight(&waiting.filing)).sum();
        line.bytes -= bytes;
        self.unstick(line, bytes);
        let is_over = line.waiting.is_empty();
        if is_over {
            lines.remove(account);
        }
        drop(lines);
        self.take(bytes);
        let stored = done.iter().filter_map(|waiting| waiting.stored).collect();
        (stored, is_over) // And the receipts are dropped.
    }

    /// The home answers again; `less` have left the line meanwhile.
    fn unstick(&self, line: &mut Line, less: usize) {
        if std::mem::take(&mut line.is_stuck) {
            self.stuck_bytes.fetch_sub(line.bytes + less, Ordering::AcqRel);
        }
    }

    /// The home cannot be reached, and may have done what it was asked.
    fn is_stuck(&self, account: &BareJid, unsure: usize) {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(account) else { return };
        if !std::mem::replace(&mut line.is_stuck, true) {
            self.stuck_bytes.fetch_add(line.bytes, Ordering::AcqRel);
        }
        line.waiting.iter_mut().take(unsure).for_each(|waiting| waiting.filing.again = true);
        drop(lines);
        self.take(0);
    }

    /// What is to be written down, with the places it gets there.
    fn to_store(&self, account: &BareJid, mut place: impl FnMut() -> u64) -> Vec<(u64, Vec<u8>)> {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(account) else { return Vec::new() };
        let unstored = line.waiting.iter_mut().filter(|waiting| waiting.stored.is_none());
        unstored
            .map(|waiting| {
                let place = *waiting.stored.insert(place());
                (place, row(account, &waiting.filing))
            })
            .collect()
    }

    /// They are (`true`), or they are not.
    fn stored(&self, account: &BareJid, places: &[u64], written: bool) {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(account) else { return };
        let mut receipts = Vec::new();
        for waiting in &mut line.waiting {
            if waiting.stored.is_some_and(|place| places.contains(&place)) {
                if written {
                    receipts.extend(waiting.receipt.take());
                } else {
                    waiting.stored = None;
                }
            }
        }
        drop(lines);
        drop(receipts);
    }
}

fn weight(filing: &Filing) -> usize {
    filing.item.stanza.len() + FILING_BYTES
}

fn row(account: &BareJid, filing: &Filing) -> Vec<u8> {
    postcard::to_stdvec(&(account.as_str(), filing)).expect("strings, numbers and bytes")
}

/// The name of a node's outbox for archives.
pub fn outbox_of(node: &str) -> String {
    format!("{node}/archive")
}

fn outbox(node: &Node) -> String {
    outbox_of(&node.geo.me.to_string())
}

/// Takes a message in.
pub fn file(node: &Arc<Node>, account: BareJid, filing: Filing, receipt: Option<Receipt>) {
    enter(node, account, Waiting { filing, receipt, stored: None });
}

fn enter(node: &Arc<Node>, account: BareJid, waiting: Waiting) {
    node.archive.queue.count(node.now_ms());
    if node.archive.queue.push(&account, waiting) {
        tokio::spawn(work(node.clone(), account));
    }
}

/// Takes up what a former life has written down.
///
/// # Errors
/// The disk cannot be read: then the node must not start, for it would forget what it has promised.
pub async fn load(node: &Arc<Node>) -> Result<(), StorageError> {
    for (place, bytes) in node.storage.outbox(&outbox(node)).await? {
        let Some((account, filing)) = read(place, &bytes) else { continue };
        enter(node, account, Waiting { filing, receipt: None, stored: Some(place) });
    }
    Ok(())
}

/// What is left of an earlier life, of ours or of a node that has fallen: it may have been filed.
fn read(place: u64, bytes: &[u8]) -> Option<(BareJid, Filing)> {
    let read = postcard::from_bytes::<(String, Filing)>(bytes).ok();
    let read = read.and_then(|(account, filing)| Some((BareJid::parse(&account).ok()?, filing)));
    let Some((account, mut filing)) = read else {
        tracing::error!(place, "a message for an archive cannot be read; it stays in the outbox");
        return None;
    };
    filing.again = true;
    Some((account, filing))
}

/// Takes up what a node of our region wrote down that has fallen: into our own outbox first, and then out of `outbox`.
///
/// # Errors
/// What storage says; some of it may be filed twice then, and is known the second time.
pub async fn inherit(node: &Arc<Node>, outbox: &str) -> Result<(), StorageError> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut filings = Vec::new();
    for (place, bytes) in node.storage.outbox(outbox).await? {
        let Some((account, filing)) = read(place, &bytes) else { continue };
        let own = node.ledger.next_order();
        ours.push((own, bytes));
        theirs.push(place);
        filings.push((account, filing, own));
    }
    node.storage.outbox_write(&self::outbox(node), ours, Vec::new()).await?;
    node.storage.outbox_write(outbox, Vec::new(), theirs).await?;
    for (account, filing, own) in filings {
        enter(node, account, Waiting { filing, receipt: None, stored: Some(own) });
    }
    Ok(())
}

/// Files what waits for an account, until nothing does.
async fn work(node: Arc<Node>, account: BareJid) {
    let queue = &node.archive.queue;
    loop {
        tokio::time::sleep(Duration::from_millis(queue.gather_ms(node.now_ms()))).await;
        let Some(part) = queue.part(&account) else { return };
        let count = part.len();
        let request = Request::File(part);
        let asked = node.homes.exchange::<_, Answer>(&account, OP, &request);
        let mut asked = std::pin::pin!(asked);
        let answer = loop {
            // Who waits for it to be safe does not wait longer than that.
            match timeout(node.config.geo.outbox_after, &mut asked).await {
                Ok(answer) => break answer,
                // Our own home writes to the same disk: nothing is gained there by writing it twice.
                Err(_) if node.homes.is_home(account.as_str()) => {}
                Err(_) => store(&node, &account).await,
            }
        };
        match answer {
            Err(error @ (HomeError::Unreachable | HomeError::NotHome { .. } | HomeError::Busy)) => {
                if matches!(error, HomeError::Busy) {
                    // It was not even begun.
                    tokio::time::sleep(BUSY_RETRY).await;
                } else {
                    queue.is_stuck(&account, count);
                    store(&node, &account).await;
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            // A home of an earlier version may be of this one soon.
            Err(
                error @ (HomeError::Storage(_) | HomeError::Unavailable(_) | HomeError::Unknown(_)),
            ) => {
                tracing::error!(%account, %error, "the archive was not written");
                queue.is_stuck(&account, count);
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Ok(Answer::Done) => {
                node.metrics.archived.inc_by(count as u64);
            }
            Ok(Answer::NoAccount) => {}
            // It will not be taken the next time either.
            Ok(Answer::Has(_)) | Err(HomeError::Refused(_) | HomeError::Metadata(_)) => {
                tracing::error!(%account, count, "messages were refused by the archive");
            }
        }
        let (stored, is_over) = queue.done(&account, count);
        if !stored.is_empty() {
            // Should it stay there, it is filed again after a restart, and known.
            let gone = node.storage.outbox_write(&outbox(&node), Vec::new(), stored).await;
            if let Err(error) = gone {
                tracing::warn!(%error, "what was archived stays in the outbox");
            }
        }
        if is_over {
            return;
        }
    }
}

/// Writes down what waits for an account, so that its senders need not wait. Where two regions are asked for, they do: the home sees to that.
async fn store(node: &Arc<Node>, account: &BareJid) {
    if node.config.geo.durability == config::Durability::TwoRegions {
        return;
    }
    let rows = node.archive.queue.to_store(account, || node.ledger.next_order());
    if rows.is_empty() {
        return;
    }
    let places: Vec<u64> = rows.iter().map(|(place, _)| *place).collect();
    let written = node.storage.outbox_write(&outbox(node), rows, Vec::new()).await;
    if let Err(error) = &written {
        tracing::error!(%error, "what waits for an archive was not written down; its senders wait");
    }
    node.archive.queue.stored(account, &places, written.is_ok());
}

/// Until nothing waits for an account any more, at most until then. Whether that is so.
pub async fn settled(node: &Arc<Node>, account: &BareJid, deadline: Instant) -> bool {
    const LOOK: Duration = Duration::from_millis(2);
    while !node.archive.queue.is_settled(account) {
        if timeout_at(deadline, tokio::time::sleep(LOOK)).await.is_err() {
            return false;
        }
    }
    true
}

/// Writes down everything that waits, before a node stops.
pub async fn flush(node: &Arc<Node>) {
    let accounts: Vec<BareJid> = node.archive.queue.lines.lock().keys().cloned().collect();
    for account in accounts {
        store(node, &account).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::archive::item::{Item, Uid};

    const STANZA: usize = 100 - FILING_BYTES % 100;

    fn account(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@chat.example")).expect("a JID")
    }

    fn waiting(order: u64) -> Waiting {
        let (with, stanza) = ("romeo@chat.example".to_owned(), vec![b'x'; STANZA]);
        let item = Item { uid: Uid { order, salt: 1 }, at_ms: 0, with, sent: true, stanza };
        let filing = Filing { item, if_contact: false, again: false, retracts: false };
        Waiting { filing, receipt: None, stored: None }
    }

    fn size() -> usize {
        weight(&waiting(0).filing)
    }

    #[test]
    fn a_line_is_worked_on_once_and_goes_when_it_is_empty() {
        let (queue, juliet) = (Queue::new(1 << 20), account("juliet"));
        assert!(queue.push(&juliet, waiting(1)));
        assert!(!queue.push(&juliet, waiting(2)));
        assert_eq!(queue.part(&juliet).map(|part| part.len()), Some(2));
        assert!(!queue.push(&juliet, waiting(3)));
        assert_eq!(queue.done(&juliet, 2), (Vec::new(), false));
        assert_eq!(queue.part(&juliet).map(|part| part[0].item.uid.order), Some(3));
        assert_eq!(queue.done(&juliet, 1), (Vec::new(), true));
        assert_eq!((queue.depth(), queue.is_settled(&juliet)), (0, true));
        assert!(queue.push(&juliet, waiting(4)));
    }

    #[test]
    fn where_many_come_they_are_gathered_longer() {
        let queue = Queue::new(1 << 20);
        assert_eq!(queue.gather_ms(7_005), 15);
        (0..BUSY_PER_SECOND).for_each(|n| queue.count(7_005 + n));
        assert_eq!(queue.gather_ms(7_405), 95);
        assert_eq!(queue.gather_ms(8_010), 90, "the last second counts");
        assert_eq!(queue.gather_ms(9_010), 10);
        (0..BUSY_PER_SECOND).for_each(|_| queue.count(9_500));
        assert_eq!(queue.gather_ms(11_010), 10, "long ago");
    }

    #[test]
    fn who_sends_waits_for_homes_that_answer_and_not_for_those_that_do_not() {
        let (queue, juliet, nurse) = (Queue::new(40 * size()), account("juliet"), account("nurse"));
        queue.push(&juliet, waiting(0));
        queue.is_stuck(&juliet, 1);
        for order in 1..=20 {
            assert!(!queue.refuses(&juliet), "{order}");
            queue.push(&juliet, waiting(order));
        }
        // Half of the bound waits for a home that cannot be reached: nothing more for that one, and nobody else notices.
        assert!(queue.refuses(&juliet) && !queue.refuses(&nurse) && !queue.is_full());
        for order in 0..=20 {
            assert!(!queue.is_full(), "{order}");
            queue.push(&nurse, waiting(order));
        }
        assert!(queue.is_full());
        assert_eq!(queue.done(&nurse, 21), (Vec::new(), true));
        assert!(!queue.is_full());
        // The home answers again.
        assert_eq!(queue.done(&juliet, 1), (Vec::new(), false));
        assert!(!queue.refuses(&juliet));
        assert_eq!(queue.done(&juliet, 20), (Vec::new(), true));
        assert_eq!((queue.depth(), queue.stuck_bytes.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn what_a_home_may_have_done_is_asked_for_as_such() {
        let (queue, juliet) = (Queue::new(1 << 20), account("juliet"));
        queue.push(&juliet, waiting(1));
        let asked = queue.part(&juliet).expect("a part");
        queue.push(&juliet, waiting(2));
        queue.is_stuck(&juliet, asked.len());
        let again = queue.part(&juliet).expect("a part");
        assert_eq!(again.iter().map(|filing| filing.again).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_waits_is_written_down_once_and_removed_when_it_is_filed() {
        let (queue, juliet) = (Queue::new(1 << 20), account("juliet"));
        queue.push(&juliet, waiting(1));
        queue.push(&juliet, waiting(2));
        let mut next = 10;
        let mut place = || {
            next += 1;
            next
        };
        let rows = queue.to_store(&juliet, &mut place);
        assert_eq!(rows.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [11, 12]);
        queue.push(&juliet, waiting(3));
        assert_eq!(queue.to_store(&juliet, &mut place).len(), 1);
        // The disk took the first two only.
        queue.stored(&juliet, &[11, 12], true);
        queue.stored(&juliet, &[13], false);
        assert_eq!(queue.to_store(&juliet, &mut place).len(), 1);
        assert_eq!(queue.done(&juliet, 3), (vec![11, 12, 14], true));
    }
}
