//! What the scribe of a region has applied, told to the region's other nodes, in order: they share its database, so nothing is written by
//! them, but their caches, their sessions' roster pushes and their requests hang on it.
//!
//! Every node keeps the newest of it, in bytes bounded by [`RING_BYTES_MAX`]: the scribe to feed the others, the others for the case that they are
//! the next scribe. A node that has been away says what it has seen; if the feed does not reach back so far, it takes all rows for changed. Called
//! by the writer and the appliers at the scribe, by `Homes::fed` at the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use config::canary::{Canary, sings};
use parking_lot::Mutex;
use replication::{Change, Entry};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::apply::row_change;
use super::wire::{decode, encode};
use super::{AppliedAt, Shared, Unsent};
use crate::storage::Position;
use crate::told::Told;

/// Bytes of what was applied that a node keeps.
const RING_BYTES_MAX: usize = 8 << 20;
/// About how many bytes go into one message, and into one item. A single entry or row may have more, up to what one operation may change: with
/// that too a message fits into one frame of a link.
const MESSAGE_BYTES: usize = 64 << 10;
/// Messages of the scribe that may wait here; if more come, the scribe is asked to begin anew from what was seen.
const INBOX_MAX: usize = 1024;
/// Bytes of rows that are taken for changed at once.
const PAGE_BYTES: usize = 256 << 10;

/// One thing that was applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Item {
    /// Entries of a region's log, ours or another's, up to a position.
    Entries { region: String, position: Position, entries: Vec<Entry> },
    /// Rows of a whole copy.
    Copied(Vec<Change>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Item::Entries { entries, .. } => entries.iter().map(Entry::bytes).sum::<usize>() + 64,
            Item::Copied(changes) => changes.iter().map(Change::bytes).sum::<usize>() + 64,
        }
    }
}

/// Seen of each region's log.
pub(super) type Seen = BTreeMap<String, Position>;

/// What the nodes of a region say to each other.
#[derive(Debug, Serialize, Deserialize)]
enum Message {
    /// To the scribe: feed me. I have seen what this term's scribe numbered so, and of each log so much.
    From { term: u64, number: u64, seen: Seen },
    /// What comes next, numbered from there.
    Items { term: u64, first: u64, items: Vec<Item> },
    /// It does not reach back so far: take everything for changed; what follows is numbered from there, and you have seen so much then.
    Missed { term: u64, next: u64, seen: Seen },
}

/// The newest of what was applied here.
#[derive(Default)]
struct Ring {
    items: VecDeque<Arc<Item>>,
    bytes: usize,
    /// The number of the first of them.
    first: u64,
    /// Of each region's log: where the first of its items begins. Everything from there on is here.
    floor: Seen,
    /// And where the last one ends.
    seen: Seen,
}

impl Ring {
    fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    fn push(&mut self, item: Item) {
        if let Item::Entries { region, position, .. } = &item {
            let before = self.seen.insert(region.clone(), *position);
            self.floor.entry(region.clone()).or_insert(before.unwrap_or_default());
        }
        self.bytes += item.bytes();
        self.items.push_back(Arc::new(item));
        while self.bytes > RING_BYTES_MAX {
            let Some(item) = self.items.pop_front() else { break };
            self.first += 1;
            self.bytes -= item.bytes();
            if let Item::Entries { region, position, .. } = &*item {
                self.floor.insert(region.clone(), *position);
            }
        }
    }

    /// A log is at another place now, without what lies between.
    fn jumps(&mut self, region: &str, position: Position) {
        self.seen.insert(region.to_owned(), position);
        self.floor.insert(region.to_owned(), position);
    }

    /// The number from which somebody has to be fed who has seen so much; None: it is not here any more.
    fn reaches(&self, seen: &Seen) -> Option<u64> {
        for (region, now) in &self.seen {
            let theirs = seen.get(region).copied().unwrap_or_default();
            let floor = self.floor.get(region).copied().unwrap_or_default();
            // A floor that is nowhere: everything there ever was is here.
            let reaches = theirs == *now
                || (floor.log == 0 && [0, now.log].contains(&theirs.log))
                || (floor.log == now.log && theirs.log == now.log && theirs.seq >= floor.seq);
            if !reaches {
                return None;
            }
        }
        let is_news = |item: &Arc<Item>| match &**item {
            Item::Entries { region, position, .. } => seen
                .get(region)
                .is_none_or(|seen| seen.log != position.log || seen.seq < position.seq),
            Item::Copied(_) => true,
        };
        let skip = self.items.iter().position(is_news).unwrap_or(self.items.len());
        Some(self.first + skip as u64)
    }

    /// Items from there, in about one message.
    fn page(&self, from: u64) -> Option<Vec<Arc<Item>>> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let mut bytes = 0;
        let mut page = Vec::new();
        for item in self.items.iter().skip(skip) {
            bytes += item.bytes();
            if bytes > MESSAGE_BYTES && !page.is_empty() {
                break;
            }
            page.push(item.clone());
        }
        Some(page)
    }
}

/// One node that is fed.
struct Reader {
    said: Arc<Mutex<Option<(u64, u64, Seen)>>>,
    wake: Arc<Notify>,
    room: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Both ends: what is fed from here, and what is heard from the scribe.
#[derive(Default)]
pub(super) struct Feed {
    /// Whether the region has other nodes at all.
    company: std::sync::atomic::AtomicBool,
    ring: Mutex<Ring>,
    news: Told<u64>,
    readers: Mutex<HashMap<String, Reader>>,
    /// The scribe that feeds us: its term, the next number, and the way to the task that takes it in.
    fed: Mutex<Option<Fed>>,
}

struct Fed {
    by: String,
    term: u64,
    next: u64,
    queue: mpsc::Sender<Message>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Whether somebody may have to be fed. Until then nothing is kept.
    pub(super) fn has_company(&self, has: bool) {
        self.company.store(has, std::sync::atomic::Ordering::Release);
    }

    /// What is seen of each log when the node starts.
    pub(super) fn begin(&self, seen: Seen) {
        let mut ring = self.ring.lock();
        ring.floor = seen.clone();
        ring.seen = seen;
    }

    /// What this node has seen of each log.
    pub(super) fn seen(&self) -> Seen {
        self.ring.lock().seen.clone()
    }

    fn push(&self, items: impl FnOnce() -> Vec<Item>, region: Option<(&str, Position)>) {
        let mut ring = self.ring.lock();
        if self.company.load(std::sync::atomic::Ordering::Acquire) {
            items().into_iter().for_each(|item| ring.push(item));
            let next = ring.next();
            drop(ring);
            self.news.set(next);
        } else if let Some((region, position)) = region {
            ring.jumps(region, position);
        }
    }

    /// These entries of a region's log are applied, up to there: the place of the last of them. Each part of them has a position of its own, for
    /// whoever has seen one takes another with the same for a repetition.
    pub(super) fn entries(
        &self,
        region: &str,
        position: Position,
        entries: &[Entry],
        silent: &[&str],
    ) {
        let item = |entries: Vec<Entry>| {
            let seq = entries.last().map_or(position.seq, |last| last.seq);
            let position = Position { seq, ..position };
            Item::Entries { region: region.to_owned(), position, entries }
        };
        let items = || {
            let entries = entries.iter().map(|entry| quiet(entry, silent));
            cut(entries, Entry::bytes).into_iter().map(item).collect()
        };
        self.push(items, Some((region, position)));
    }

    /// These rows of a whole copy are written, or gone.
    pub(super) fn copied(&self, changes: &[Change]) {
        let items = || cut(changes.iter().cloned(), Change::bytes).into_iter().map(Item::Copied);
        self.push(|| items().collect(), None);
    }

    /// A whole copy has brought a region's log to there.
    pub(super) fn jumps(&self, region: &str, position: Position) {
        self.ring.lock().jumps(region, position);
    }

    /// Nobody is fed from here any more.
    pub(super) fn stop(&self) {
        self.readers.lock().drain().for_each(|(_, reader)| reader.task.abort());
    }

    /// The way to a node has room again.
    pub(super) fn room(&self, node: &str) {
        if let Some(reader) = self.readers.lock().get(node) {
            reader.room.notify_one();
        }
    }
}

/// In order, in parts of about a message's bytes, of one thing at least.
fn cut<T>(all: impl Iterator<Item = T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for one in all {
        let more = size(&one);
        if bytes + more > MESSAGE_BYTES && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(one);
    }
    parts.push(part);
    parts
}

/// The same without values that nobody follows.
fn quiet(entry: &Entry, silent: &[&str]) -> Entry {
    let mut entry = entry.clone();
    for change in &mut entry.changes {
        if let Change::Append { store, value, .. } | Change::Put { store, value, .. } = change
            && silent.contains(&store.as_str())
        {
            *value = Vec::new();
        }
    }
    entry
}

/// A message of another node of the region has come.
pub(super) fn heard(shared: &Arc<Shared>, from: &str, bytes: &[u8]) {
    let Some(message) = decode::<Message>(bytes) else {
        tracing::warn!(from, "a message of the feed that cannot be read was dropped");
        return;
    };
    match message {
        Message::From { term, number, seen } if shared.pen.is_held() => {
            let mut readers = shared.feed.readers.lock();
            let reader = readers.entry(from.to_owned()).or_insert_with(|| {
                let (said, wake, room) =
                    (Arc::default(), Arc::new(Notify::new()), Arc::new(Notify::new()));
                let feeding = Feeding {
                    shared: shared.clone(),
                    node: from.to_owned(),
                    said: Arc::clone(&said),
                    wake: Arc::clone(&wake),
                    room: Arc::clone(&room),
                };
                Reader { said, wake, room, task: tokio::spawn(feeding.run()) }
            });
            *reader.said.lock() = Some((term, number, seen));
            reader.wake.notify_one();
        }
        Message::From { .. } => tracing::debug!(from, "it takes us for the scribe"),
        message => {
            let fed = shared.feed.fed.lock();
            let Some(fed) = fed.as_ref().filter(|fed| fed.by == from) else { return };
            if fed.queue.try_send(message).is_err() {
                tracing::warn!(from, "what the scribe feeds comes too fast; asked for again");
                drop(shared.sink.send_feed(from, ask(fed, shared)));
            }
        }
    }
}

/// That node is the region's scribe: it is asked to feed us, from what we have seen.
pub(super) fn follow(shared: &Arc<Shared>, scribe: &str) {
    let mut fed = shared.feed.fed.lock();
    if fed.as_ref().is_none_or(|fed| fed.by != scribe) {
        let (queue, messages) = mpsc::channel(INBOX_MAX);
        let task = tokio::spawn(take(shared.clone(), scribe.to_owned(), messages));
        let new = Fed { by: scribe.to_owned(), term: 0, next: 0, queue, task };
        if let Some(former) = fed.replace(new) {
            former.task.abort();
        }
    }
    if let Some(fed) = &*fed {
        tracing::info!(scribe, "follows the region's scribe");
        if shared.sink.send_feed(scribe, ask(fed, shared)).is_err() {
            tracing::warn!(
                scribe,
                "no room to ask the scribe; asked again when its link is made anew"
            );
        }
    }
}

/// This node writes itself from now on.
pub(super) fn unfollow(shared: &Shared) {
    if let Some(former) = shared.feed.fed.lock().take() {
        former.task.abort();
    }
}

fn ask(fed: &Fed, shared: &Shared) -> Vec<u8> {
    encode(&Message::From { term: fed.term, number: fed.next, seen: shared.feed.seen() })
}

/// Feeds one node, at the scribe.
struct Feeding {
    shared: Arc<Shared>,
    node: String,
    said: Arc<Mutex<Option<(u64, u64, Seen)>>>,
    wake: Arc<Notify>,
    room: Arc<Notify>,
}

impl Feeding {
    async fn run(self) {
        let news = self.shared.feed.news.clone();
        let mut next: Option<u64> = None;
        loop {
            let known = news.get();
            let said = self.said.lock().take();
            if let Some((term, number, seen)) = said {
                let (from, missed) = self.begin(term, number, &seen);
                next = Some(from);
                if let Some(missed) = missed {
                    let node = &self.node;
                    tracing::warn!(node, "has been away for longer than the feed reaches back");
                    self.send(encode(&missed)).await;
                }
                continue;
            }
            if let Some(from) = next {
                let page = self.shared.feed.ring.lock().page(from);
                match page {
                    Some(page) if !page.is_empty() => {
                        next = Some(from + page.len() as u64);
                        let term = self.shared.pen.term().unwrap_or(0);
                        let items = page.iter().map(|item| Item::clone(item)).collect();
                        let message = Message::Items { term, first: from, items };
                        if !self.send(encode(&message)).await {
                            let (from, missed) = self.missed(&self.shared.feed.ring.lock());
                            next = Some(from);
                            self.send(encode(&missed)).await;
                        }
                        continue;
                    }
                    Some(_) => {}
                    // So slow that what it needs is gone: it says what it has seen when it finds the gap.
                    None => {
                        next = Some(self.shared.feed.ring.lock().first);
                        continue;
                    }
                }
            }
            tokio::select! {
                biased; // either way the next turn looks at both
                () = self.wake.notified() => {}
                () = news.until(|now| *now != known) => {}
            }
        }
    }

    /// From which number it is fed, and what it is told before.
    fn begin(&self, term: u64, number: u64, seen: &Seen) -> (u64, Option<Message>) {
        let ring = self.shared.feed.ring.lock();
        let ours = self.shared.pen.term().unwrap_or(0);
        let goes_on = term == ours && (ring.first..=ring.next()).contains(&number);
        match if goes_on { Some(number) } else { ring.reaches(seen) } {
            Some(from) => (from, None),
            None => {
                let (from, missed) = self.missed(&ring);
                (from, Some(missed))
            }
        }
    }

    /// From which number it is fed that cannot be fed what it needs, and what it is told before.
    fn missed(&self, ring: &Ring) -> (u64, Message) {
        let term = self.shared.pen.term().unwrap_or(0);
        let (next, seen) = (ring.next(), ring.seen.clone());
        (next, Message::Missed { term, next, seen })
    }

    /// False: no link takes so long a message.
    async fn send(&self, mut bytes: Vec<u8>) -> bool {
        loop {
            let (room, length) = (self.room.notified(), bytes.len());
            match self.shared.sink.send_feed(&self.node, bytes) {
                Ok(()) => return true,
                Err(Unsent::Full(back)) => bytes = back,
                Err(Unsent::TooLong) => {
                    let node = &self.node;
                    tracing::error!(
                        node,
                        length,
                        "a message of the feed is longer than a link takes"
                    );
                    return false;
                }
            }
            // Whoever says where it stands meanwhile is answered when there is room.
            room.await;
        }
    }
}

/// Takes in what the scribe feeds, until it is another.
async fn take(shared: Arc<Shared>, scribe: String, mut messages: mpsc::Receiver<Message>) {
    while let Some(message) = messages.recv().await {
        match message {
            Message::Items { term, first, items } => {
                let next = first + items.len() as u64;
                {
                    let mut fed = shared.feed.fed.lock();
                    let Some(fed) = fed.as_mut().filter(|fed| fed.by == scribe) else { return };
                    if fed.term == term && first > fed.next {
                        tracing::warn!(
                            scribe,
                            expected = fed.next,
                            first,
                            "a gap in what it feeds"
                        );
                        drop(shared.sink.send_feed(&scribe, ask(fed, &shared)));
                        continue;
                    }
                    (fed.term, fed.next) = (term, next);
                }
                if !sings(Canary::ReaderStarves) {
                    items.into_iter().for_each(|item| tell(&shared, item));
                }
            }
            Message::Missed { term, next, seen } => {
                tracing::warn!(scribe, "too much was missed: everything counts as changed");
                everything(&shared).await;
                for (region, position) in seen {
                    shared.feed.jumps(&region, position);
                    shared.followed(&region).set(position);
                }
                if let Some(fed) = shared.feed.fed.lock().as_mut().filter(|fed| fed.by == scribe) {
                    (fed.term, fed.next) = (term, next);
                }
            }
            Message::From { .. } => {}
        }
    }
}

/// One item: whoever hangs on it hears of it, unless that was so before.
fn tell(shared: &Shared, item: Item) {
    match item {
        Item::Entries { region, position, mut entries } => {
            let seen = shared.feed.seen().get(&region).copied().unwrap_or_default();
            if seen.log == position.log {
                entries.retain(|entry| entry.seq > seen.seq);
                if position.seq <= seen.seq {
                    return;
                }
            }
            shared.learn(&region, position, &entries);
        }
        Item::Copied(changes) => {
            shared.applied.copied(&changes);
            shared.feed.copied(&changes);
        }
    }
}

/// All rows there are count as changed.
pub(super) async fn everything(shared: &Shared) {
    let mut after = None;
    loop {
        match shared.storage.rows(after.clone(), PAGE_BYTES).await {
            Ok(rows) => {
                let Some((last, _)) = rows.last() else { return };
                after = Some(last.clone());
                let changes: Vec<Change> = rows.into_iter().map(row_change).collect();
                shared.applied.copied(&changes);
            }
            Err(error) => {
                tracing::error!(%error, "the rows that may have changed were not read; tried again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

impl Shared {
    /// Entries of a log that somebody has committed, told to those here who hang on them, kept for other nodes, and shown to requests that
    /// wait for them.
    pub(super) fn learn(&self, region: &str, position: Position, entries: &[Entry]) {
        let origin = AppliedAt { local_home: *region == *self.config.region };
        self.storage.heard((!origin.local_home).then_some(region), position, entries);
        for entry in entries.iter().filter(|entry| !entry.changes.is_empty()) {
            self.applied.applied(origin, &entry.changes);
        }
        self.feed.entries(region, position, entries, self.config.silent);
        self.followed(region).set(position);
    }
}

#[cfg(test)]
mod tests;
