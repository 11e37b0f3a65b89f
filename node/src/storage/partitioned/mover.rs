//! Slots move from one database to another while everything runs: some at a time, page by page, no faster than half of the time.
//!
//! From the beginning of a move on its slots' changes are written to both. What is there already is then copied: each page is read and written while
//! nothing else writes and both have followed the log, so that no page overwrites what is newer. When all is there the map is changed: from that
//! moment on the slots are read where they are now. Other nodes look at the map about once a second, so for a while (`Settings::hold`) changes are
//! written where the slots were, too; then the old rows are removed.
//!
//! After a crash what had arrived has arrived, what was under way begins anew, and the rest follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use replication::{Change, Entry, Hlc, Store};
use tokio::sync::RwLockWriteGuard;
use tokio::time::Instant;

use super::map::{MAIN, Moving, View, slot_of};
use super::{Partitioned, Shared};
use crate::storage::{Page, Position, Shelf, StorageError, Trouble};

/// The region under whose name copied rows are written.
const MOVE: &str = "~move";
/// Shelves looked at in one go.
const SHELVES: usize = 500;
/// Shelves copied in one go.
const TOGETHER: usize = 32;
/// Items of an archive in one page.
const ITEMS: usize = 100;
/// How long a page waits, with everything else, for the partitions to have followed the log.
const STILL: Duration = Duration::from_millis(300);
/// How often it waits for that before the slots begin anew.
const STILL_MAX: usize = 200;
/// Before slots begin anew.
const AGAIN: Duration = Duration::from_secs(1);

/// How far it is, inside.
pub(super) struct Progress {
    /// The main database, without secrets.
    pub(super) main: String,
    began: Option<Instant>,
    moved: usize,
    rows: u64,
    bytes: u64,
    is_cleaning: bool,
    trouble: Option<String>,
    /// Until when slots are written where they were.
    held: BTreeMap<u8, Instant>,
}

impl Progress {
    pub(super) fn new(main: String) -> Progress {
        Progress {
            main,
            began: None,
            moved: 0,
            rows: 0,
            bytes: 0,
            is_cleaning: false,
            trouble: None,
            held: BTreeMap::new(),
        }
    }
}

/// How far a rebalance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moves {
    /// Whether one goes on.
    pub is_running: bool,
    /// Slots that have arrived since it began, or since this node goes on with it.
    pub moved: usize,
    /// Slots that have yet to.
    pub left: usize,
    /// Rows copied.
    pub rows: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// All have arrived; where they were, the old rows are being removed.
    pub is_cleaning: bool,
    /// Since when.
    pub seconds: u64,
    /// What keeps it from going on now.
    pub trouble: Option<String>,
}

/// Why a rebalance does not begin.
#[derive(Debug, thiserror::Error)]
pub enum NotMoved {
    /// Nothing would be left.
    #[error("there is no partition {0}")]
    Unknown(u8),
    /// Another node of the region writes.
    #[error("another node of the region writes its databases: ask there")]
    Elsewhere,
    /// The map cannot be written now.
    #[error("{0}")]
    Storage(#[from] StorageError),
}

impl Partitioned {
    /// Begins to spread the slots evenly over the partitions, but for these; over none: back into the main database. How many have to move. One
    /// that is under way goes on towards the new goal.
    ///
    /// # Errors
    /// See [`NotMoved`].
    pub async fn rebalance(&self, without: &[u8]) -> Result<usize, NotMoved> {
        let shared = &self.shared;
        let all = 1..=shared.view().map.partitions;
        if let Some(unknown) = without.iter().find(|number| !all.contains(number)) {
            return Err(NotMoved::Unknown(*unknown));
        }
        let mut goal: Vec<u8> = all.filter(|number| !without.contains(number)).collect();
        if goal.is_empty() {
            goal.push(MAIN);
        }
        if !shared.is_writer.load(Ordering::Acquire) {
            return Err(NotMoved::Elsewhere);
        }
        let to_move = {
            let _still = shared.alone().await;
            let mut map = shared.view().map.clone();
            map.goal = Some(goal);
            map.version += 1;
            let to_move = map.to_move();
            shared.publish(map).await?;
            to_move
        };
        go_on(shared);
        Ok(to_move)
    }

    /// How far it is.
    pub fn moves(&self) -> Moves {
        let view = self.shared.view();
        let moves = self.shared.moves.lock();
        Moves {
            is_running: self.shared.mover.lock().as_ref().is_some_and(|task| !task.is_finished()),
            moved: moves.moved,
            left: view.map.to_move(),
            rows: moves.rows,
            bytes: moves.bytes,
            is_cleaning: moves.is_cleaning,
            seconds: moves.began.map_or(0, |began| began.elapsed().as_secs()),
            trouble: moves.trouble.clone(),
        }
    }
}

/// Goes on with what a former life, or an operator, has begun.
pub(super) fn go_on(shared: &Arc<Shared>) {
    let view = shared.view();
    if view.map.goal.is_none() && view.map.left.is_empty() && view.map.moving.is_none() {
        return;
    }
    let mut mover = shared.mover.lock();
    if mover.as_ref().is_none_or(|task| task.is_finished()) {
        shared.moves.lock().begin(&view, shared.settings.hold);
        *mover = Some(tokio::spawn(run(shared.clone())));
    }
}

impl Progress {
    fn begin(&mut self, view: &View, hold: Duration) {
        let until = Instant::now() + hold;
        let held = view.map.left.iter().map(|(slot, _)| (*slot, until)).collect();
        let main = std::mem::take(&mut self.main);
        *self = Progress { began: Some(Instant::now()), held, ..Progress::new(main) };
    }
}

async fn run(shared: Arc<Shared>) {
    loop {
        match step(&shared).await {
            Ok(true) => shared.moves.lock().trouble = None,
            Ok(false) | Err(StorageError::Superseded | StorageError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "slots are not moved now");
                shared.moves.lock().trouble = Some(error.to_string());
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// One group of slots, or the rows they have left. False: it is done.
async fn step(shared: &Shared) -> Result<bool, StorageError> {
    let map = shared.view().map.clone();
    let moving = match map.moving.clone() {
        // Of a former life, or of an attempt that failed.
        Some(moving) => moving,
        None => match map.next() {
            Some(moving) => moving,
            None => {
                clean(shared).await?;
                let _still = shared.alone().await;
                let mut map = shared.view().map.clone();
                if map.to_move() > 0 {
                    return Ok(true);
                }
                if map.goal.take().is_some() {
                    map.version += 1;
                    shared.publish(map).await?;
                    tracing::info!("all slots are where they shall be");
                }
                return Ok(false);
            }
        },
    };
    // Where they come from nobody may read them any more.
    released(shared, &moving.slots).await;
    begin(shared, &moving).await?;
    tracing::info!(slots = ?moving.slots, from = moving.from, to = moving.to, "slots are moving");
    remove(shared, moving.to, &moving.slots, true).await?;
    copy(shared, &moving).await?;
    arrive(shared, &moving).await?;
    Ok(true)
}

/// Waits until these slots are no longer written where they were before.
async fn released(shared: &Shared, slots: &[u8]) {
    let until = {
        let moves = shared.moves.lock();
        slots.iter().filter_map(|slot| moves.held.get(slot)).max().copied()
    };
    if let Some(until) = until {
        tokio::time::sleep_until(until).await;
    }
}

async fn begin(shared: &Shared, moving: &Moving) -> Result<(), StorageError> {
    let _still = shared.alone().await;
    let mut map = shared.view().map.clone();
    if map.moving.is_none() {
        map.begin(moving.clone());
        let is_new = !shared.view().is_written(moving.to);
        shared.publish(map).await?;
        if is_new && moving.to != MAIN {
            let part = &shared.parts[usize::from(moving.to) - 1];
            part.begins(shared.head.load(Ordering::SeqCst)).await;
        }
    }
    Ok(())
}

async fn arrive(shared: &Shared, moving: &Moving) -> Result<(), StorageError> {
    let _still = still(shared, moving).await?;
    let mut map = shared.view().map.clone();
    map.arrive();
    let mut is_held: BTreeMap<u8, Instant> = shared.moves.lock().held.clone();
    let until = Instant::now() + shared.settings.hold;
    is_held.extend(moving.slots.iter().map(|slot| (*slot, until)));
    shared.publish(map).await?;
    let mut moves = shared.moves.lock();
    moves.held = is_held;
    moves.moved += moving.slots.len();
    Ok(())
}

/// Nothing is written from here on, and both have all that was.
async fn still<'s>(
    shared: &'s Shared,
    moving: &Moving,
) -> Result<RwLockWriteGuard<'s, ()>, StorageError> {
    for _ in 0..STILL_MAX {
        let guard = shared.alone().await;
        let until = Instant::now() + STILL;
        for number in [moving.from, moving.to].into_iter().filter(|number| *number != MAIN) {
            shared.parts[usize::from(number) - 1].settled(until).await;
        }
        if shared.is_in_sync(moving.from) && shared.is_in_sync(moving.to) {
            return Ok(guard);
        }
        drop(guard);
        tokio::time::sleep(STILL).await;
    }
    Err(StorageError::Unavailable {
        name: format!("partition {} or {}", moving.from, moving.to),
        trouble: Trouble::Slow,
        cause: "it does not follow the log".to_owned(),
    })
}

/// All rows of these slots, from where they are to where they are going.
async fn copy(shared: &Shared, moving: &Moving) -> Result<(), StorageError> {
    let mut after = None;
    loop {
        let page = shared.at(moving.from).shelves(after.take(), SHELVES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let of = |shelf: &Shelf| is_of(shelf, &moving.slots);
        let shelves: Vec<Shelf> = page.into_iter().filter(of).collect();
        for together in shelves.chunks(TOGETHER) {
            copy_shelves(shared, moving, together).await?;
        }
    }
}

fn is_of(shelf: &Shelf, slots: &[u8]) -> bool {
    slots.iter().any(|slot| usize::from(*slot) == slot_of(&shelf.owner))
}

async fn copy_shelves(
    shared: &Shared,
    moving: &Moving,
    shelves: &[Shelf],
) -> Result<(), StorageError> {
    let from = shared.at(moving.from);
    let mut open: Vec<(&Shelf, Option<u64>)> = shelves.iter().map(|shelf| (shelf, None)).collect();
    while !open.is_empty() {
        let _still = still(shared, moving).await?;
        let began = Instant::now();
        let pages = open.iter().map(|(shelf, after)| async move {
            let (store, owner) = (&shelf.store, &shelf.owner);
            if !shelf.is_archive {
                let values = from.map(store, owner).await?.into_iter();
                let put = |(key, value)| Change::Put {
                    store: named(store),
                    owner: owner.clone(),
                    key,
                    value,
                };
                return Ok((None, values.map(put).collect::<Vec<_>>()));
            }
            let items = from.archive(store, owner, Page::after(*after, ITEMS)).await?;
            let more = if items.len() == ITEMS { items.last().map(|(id, _)| *id) } else { None };
            let append = |(id, value)| Change::Append {
                store: named(store),
                owner: owner.clone(),
                id,
                value,
            };
            Ok::<_, StorageError>((more, items.into_iter().map(append).collect()))
        });
        let pages = try_join_all(pages).await?;
        let (mut changes, mut next) = (Vec::new(), Vec::new());
        for ((shelf, _), (more, page)) in open.iter().zip(pages) {
            next.extend(more.map(|more| (*shelf, Some(more))));
            changes.extend(page);
        }
        open = next;
        {
            let mut moves = shared.moves.lock();
            moves.rows += changes.len() as u64;
            moves.bytes += changes.iter().map(|change| change.bytes() as u64).sum::<u64>();
        }
        write(shared, moving.to, changes).await?;
        drop(_still);
        pace(began).await;
    }
    Ok(())
}

fn named(store: &str) -> Store {
    Store(std::borrow::Cow::Owned(store.to_owned()))
}

async fn write(shared: &Shared, to: u8, changes: Vec<Change>) -> Result<(), StorageError> {
    if changes.is_empty() {
        return Ok(());
    }
    let entry = Entry { seq: 0, shard: 0, epoch: 0, at: Hlc::ZERO, changes };
    shared.at(to).apply(MOVE, Position::default(), vec![entry]).await
}

/// As long a pause as the work was.
async fn pace(began: Instant) {
    tokio::time::sleep(began.elapsed().max(Duration::from_millis(1))).await;
}

/// Removes what stands of these slots in one database. `is_target`: they are written there already; what goes comes again.
async fn remove(
    shared: &Shared,
    number: u8,
    slots: &[u8],
    is_target: bool,
) -> Result<(), StorageError> {
    let storage = shared.at(number);
    let mut after = None;
    loop {
        let page = storage.shelves(after.take(), SHELVES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for shelf in page.iter().filter(|shelf| is_of(shelf, slots)) {
            loop {
                let began = Instant::now();
                let _same = if is_target { Some(shared.alone().await) } else { None };
                let (store, owner) = (&shelf.store, &shelf.owner);
                let changes: Vec<Change> = if shelf.is_archive {
                    let items = storage.archive(store, owner, Page::after(None, ITEMS)).await?;
                    let upto = items.last().map(|(upto, _)| *upto);
                    let trim =
                        |upto| Change::Trim { store: named(store), owner: owner.clone(), upto };
                    upto.map(trim).into_iter().collect()
                } else {
                    let values = storage.map(store, owner).await?.into_iter();
                    let delete = |(key, _)| Change::Delete {
                        store: named(store),
                        owner: owner.clone(),
                        key,
                    };
                    values.map(delete).collect()
                };
                if changes.is_empty() {
                    break;
                }
                write(shared, number, changes).await?;
                drop(_same);
                pace(began).await;
            }
        }
    }
}

/// Removes what slots have left behind, when nobody can be reading it any more.
async fn clean(shared: &Shared) -> Result<(), StorageError> {
    let left = shared.view().map.left.clone();
    if left.is_empty() {
        return Ok(());
    }
    shared.moves.lock().is_cleaning = true;
    let slots: Vec<u8> = left.iter().map(|(slot, _)| *slot).collect();
    released(shared, &slots).await;
    // From here on they are written only where they are.
    {
        let _still = shared.alone().await;
        let map = shared.view().map.clone();
        let mut view = View::new(map);
        for (slot, from) in &left {
            let also = &mut view.also[usize::from(*slot)];
            *also = also.filter(|also| also != from);
        }
        *shared.view.write() = Arc::new(view);
        shared.moves.lock().held.clear();
    }
    let mut places: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for (slot, from) in &left {
        places.entry(*from).or_default().push(*slot);
    }
    for (from, slots) in places {
        remove(shared, from, &slots, false).await?;
    }
    let _still = shared.alone().await;
    let mut map = shared.view().map.clone();
    map.left.retain(|one| !left.contains(one));
    map.version += 1;
    shared.publish(map).await?;
    shared.moves.lock().is_cleaning = false;
    Ok(())
}
