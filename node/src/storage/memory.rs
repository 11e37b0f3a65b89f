//! Storage in ordered maps: for tests, simulations and a node that keeps nothing. Called through [`Storage`].
//!
//! One lock, never held over an await, makes every write atomic. "Durable" here means: as long as the value lives.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::canary::{Canary, sings};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::RwLock;
use replication::{Change, Entry};

use super::{
    Answer, LogPage, Page, Place, Position, Renewal, Replace, Row, Scribe, Shelf, Storage,
    StorageError, changes, check_order, row_bytes,
};

/// Everything in memory. `Memory::default()` is empty.
#[derive(Debug, Default)]
pub struct Memory {
    tables: Arc<RwLock<Tables>>,
    /// The term in which this handle writes; 0: it has never taken the pen.
    pen: AtomicU64,
    /// How often it was told to connect anew: it has no connections, and counts that.
    renewals: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Tables {
    rows: BTreeMap<Place, Vec<u8>>,
    log: BTreeMap<u64, Entry>,
    applied: BTreeMap<String, Position>,
    meta: BTreeMap<String, Vec<u8>>,
    outbox: BTreeMap<(String, u64), Vec<u8>>,
    scribe: Option<Scribe>,
}

impl Tables {
    /// Whether somebody who took the pen in that term may write.
    fn may_write(&self, pen: u64) -> Result<(), StorageError> {
        let term = self.scribe.as_ref().map_or(0, |scribe| scribe.term);
        let may = pen == 0 || pen == term || sings(Canary::SleeperWrites);
        if may { Ok(()) } else { Err(StorageError::Superseded) }
    }

    fn values_of(&self, store: &str, owner: &str) -> impl Iterator<Item = (&str, &Vec<u8>)> {
        let first = Place::Value(store.to_owned(), owner.to_owned(), String::new());
        self.rows.range(first..).map_while(move |(place, value)| match place {
            Place::Value(s, o, key) if s == store && o == owner => Some((key.as_str(), value)),
            _ => None,
        })
    }

    fn items_of(
        &self,
        store: &str,
        owner: &str,
        from: u64,
        to: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, &Vec<u8>)> {
        let place = |id| Place::Item(store.to_owned(), owner.to_owned(), id);
        // An inverted range would panic; nothing lies in it.
        let bounds = if from <= to { Some(place(from)..=place(to)) } else { None };
        bounds.into_iter().flat_map(|bounds| self.rows.range(bounds)).filter_map(
            |(place, value)| match place {
                Place::Item(_, _, id) => Some((*id, value)),
                Place::Value(..) => None,
            },
        )
    }

    fn check(&self, entries: &[Entry]) -> Result<(), StorageError> {
        if sings(Canary::SleeperWrites) {
            // Whoever has slept does not know where the log ends: this would refuse nearly all that the pen is there to refuse.
            return Ok(());
        }
        check_order(self.log.last_key_value().map_or(0, |(seq, _)| *seq), entries)
    }

    fn change(&mut self, change: &Change) {
        let value = |store: &str, owner: &String, key: &String| {
            Place::Value(store.to_owned(), owner.clone(), key.clone())
        };
        let item =
            |store: &str, owner: &String, id| Place::Item(store.to_owned(), owner.clone(), id);
        let store = change.store().as_str();
        match change {
            Change::Put { owner, key, value: bytes, .. } => {
                self.rows.insert(value(store, owner, key), bytes.clone());
            }
            Change::Delete { owner, key, .. } => {
                self.rows.remove(&value(store, owner, key));
            }
            Change::Append { owner, id, value: bytes, .. } => {
                self.rows.insert(item(store, owner, *id), bytes.clone());
            }
            Change::Remove { owner, id, .. } => {
                self.rows.remove(&item(store, owner, *id));
            }
            Change::Clear { owner, .. } => {
                let keys: Vec<String> =
                    self.values_of(store, owner).map(|(key, _)| key.to_owned()).collect();
                for key in keys {
                    self.rows.remove(&value(store, owner, &key));
                }
                self.trim(store, owner, u64::MAX);
            }
            Change::Trim { owner, upto, .. } => self.trim(store, owner, *upto),
        }
    }

    fn trim(&mut self, store: &str, owner: &str, upto: u64) {
        let ids: Vec<u64> = self.items_of(store, owner, 0, upto).map(|(id, _)| id).collect();
        for id in ids {
            self.rows.remove(&Place::Item(store.to_owned(), owner.to_owned(), id));
        }
    }

    fn replace(&mut self, replace: Replace<'_>) -> Vec<Place> {
        let mut gone: Vec<Place> = self
            .after(replace.from.clone())
            .map(|(place, _)| place)
            .take_while(|place| replace.to.as_ref().is_none_or(|to| *place <= to))
            .filter(|place| (replace.owned)(place.owner()))
            .cloned()
            .collect();
        for place in &gone {
            self.rows.remove(place);
        }
        self.rows.extend(replace.rows.into_iter().filter(|row| (replace.owned)(row.0.owner())));
        gone.retain(|place| !self.rows.contains_key(place));
        gone
    }

    fn after(&self, place: Option<Place>) -> impl Iterator<Item = (&Place, &Vec<u8>)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range((from, Bound::Unbounded))
    }
}

impl Memory {
    /// The same tables for another node.
    pub fn shared(&self) -> Memory {
        Memory { tables: Arc::clone(&self.tables), ..Memory::default() }
    }

    /// How often a renewal of it was done.
    pub fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    /// The tables, for a write that was asked for now.
    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Tables) -> Result<T, StorageError> + Send + 'static,
    ) -> Answer<'_, T> {
        let pen = self.pen.load(Ordering::Acquire);
        async move {
            let mut tables = self.tables.write();
            tables.may_write(pen)?;
            write(&mut tables)
        }
        .boxed()
    }

    fn read<T: Send + 'static>(&self, read: impl FnOnce(&Tables) -> T) -> Answer<'_, T> {
        ready(Ok(read(&self.tables.read()))).boxed()
    }
}

impl Storage for Memory {
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>> {
        let place = Place::Value(store.to_owned(), owner.to_owned(), key.to_owned());
        self.read(|tables| tables.rows.get(&place).cloned())
    }

    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>> {
        self.read(|tables| {
            let values = tables.values_of(store, owner);
            values.map(|(key, value)| (key.to_owned(), value.clone())).collect()
        })
    }

    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.read(|tables| {
            let (Some(from), Some(to)) = (
                page.after.map_or(Some(0), |after| after.checked_add(1)),
                page.before.map_or(Some(u64::MAX), |before| before.checked_sub(1)),
            ) else {
                return Vec::new();
            };
            let items = tables.items_of(store, owner, from, to);
            let items = items.filter(|(id, value)| page.has(*id, value));
            let items = items.map(|(id, value)| (id, value.clone()));
            if page.newest {
                let mut found: Vec<_> = items.rev().take(page.max).collect();
                found.reverse();
                found
            } else {
                items.take(page.max).collect()
            }
        })
    }

    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64> {
        Box::pin(async move { Ok(self.archive(store, owner, page).await?.len() as u64) })
    }

    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64> {
        self.read(|tables| tables.items_of(store, owner, 0, u64::MAX).count() as u64)
    }

    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>> {
        self.read(|tables| {
            let first =
                Place::Value(store.to_owned(), after.unwrap_or("").to_owned(), String::new());
            let mut found: Vec<String> = Vec::new();
            for place in tables.rows.range(first..).map(|(place, _)| place) {
                match place {
                    Place::Value(s, owner, _) if s == store => {
                        if found.last() != Some(owner) && Some(owner.as_str()) != after {
                            if found.len() == max {
                                break;
                            }
                            found.push(owner.clone());
                        }
                    }
                    _ => break,
                }
            }
            found
        })
    }

    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()> {
        self.write(move |tables| {
            tables.check(&entries)?;
            changes(&entries).for_each(|change| tables.change(change));
            tables.log.extend(entries.into_iter().map(|entry| (entry.seq, entry)));
            Ok(())
        })
    }

    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()> {
        self.write(move |tables| {
            tables.check(&entries)?;
            here.iter().for_each(|change| tables.change(change));
            tables.log.extend(entries.into_iter().map(|entry| (entry.seq, entry)));
            Ok(())
        })
    }

    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()> {
        let home = home.to_owned();
        self.write(move |tables| {
            changes(&entries).for_each(|change| tables.change(change));
            tables.applied.insert(home, position);
            Ok(())
        })
    }

    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>> {
        self.read(|tables| tables.applied.get(home).copied())
    }

    fn positions(&self) -> Answer<'_, Vec<(String, Position)>> {
        self.read(|tables| tables.applied.clone().into_iter().collect())
    }

    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage> {
        self.read(|tables| {
            let head = tables.log.last_key_value().map_or(0, |(seq, _)| *seq);
            if after >= head {
                return LogPage::Entries(Vec::new());
            }
            if !tables.log.contains_key(&(after + 1)) {
                return LogPage::Trimmed;
            }
            let mut bytes = 0;
            let mut page = Vec::new();
            for entry in tables.log.range(after + 1..).map(|(_, entry)| entry) {
                bytes += entry.bytes();
                if bytes > bytes_max && !page.is_empty() {
                    break;
                }
                page.push(entry.clone());
            }
            LogPage::Entries(page)
        })
    }

    fn log_head(&self) -> Answer<'_, u64> {
        self.read(|tables| tables.log.last_key_value().map_or(0, |(seq, _)| *seq))
    }

    fn log_trim(&self, upto: u64) -> Answer<'_, ()> {
        self.write(move |tables| {
            let head = tables.log.last_key_value().map_or(0, |(seq, _)| *seq);
            tables.log = tables.log.split_off(&upto.saturating_add(1).min(head));
            Ok(())
        })
    }

    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>> {
        self.read(|tables| {
            let mut bytes = 0;
            let mut page = Vec::new();
            for (place, value) in tables.after(after) {
                let row = (place.clone(), value.clone());
                bytes += row_bytes(&row);
                if bytes > bytes_max && !page.is_empty() {
                    break;
                }
                page.push(row);
            }
            page
        })
    }

    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>> {
        self.read(|tables| {
            let mut found: Vec<Shelf> = Vec::new();
            for place in tables.rows.keys() {
                let (is_archive, store, owner) = match place {
                    Place::Value(store, owner, _) => (false, store.clone(), owner.clone()),
                    Place::Item(store, owner, _) => (true, store.clone(), owner.clone()),
                };
                let shelf = Shelf { is_archive, store, owner };
                if after.as_ref().is_none_or(|after| shelf > *after) && found.last() != Some(&shelf)
                {
                    found.push(shelf);
                    if found.len() == max {
                        break;
                    }
                }
            }
            found
        })
    }

    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>> {
        let pen = self.pen.load(Ordering::Acquire);
        async move {
            let mut tables = self.tables.write();
            tables.may_write(pen)?;
            Ok(tables.replace(replace))
        }
        .boxed()
    }

    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>> {
        self.read(|tables| {
            let from = (node.to_owned(), 0)..=(node.to_owned(), u64::MAX);
            let rows = tables.outbox.range(from);
            rows.map(|((_, order), row)| (*order, row.clone())).collect()
        })
    }

    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()> {
        async move {
            let mut tables = self.tables.write();
            let key = |order| (node.to_owned(), order);
            tables.outbox.extend(put.into_iter().map(|(order, row)| (key(order), row)));
            for order in remove {
                tables.outbox.remove(&key(order));
            }
            Ok(())
        }
        .boxed()
    }

    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.write(move |tables| {
            let of = (from.clone(), 0)..=(from, u64::MAX);
            let rows: Vec<_> = tables.outbox.extract_if(of, |_, _| true).collect();
            tables
                .outbox
                .extend(rows.into_iter().map(|((_, order), row)| ((to.clone(), order), row)));
            Ok(())
        })
    }

    fn scribe(&self) -> Answer<'_, Option<Scribe>> {
        self.read(|tables| tables.scribe.clone())
    }

    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool> {
        async move {
            let mut tables = self.tables.write();
            let known = tables.scribe.as_ref().map_or(0, |scribe| scribe.term);
            if known != former {
                return Ok(false);
            }
            tables.scribe = Some(Scribe { term, node: node.to_owned(), beat: 0 });
            self.pen.store(term, Ordering::Release);
            Ok(true)
        }
        .boxed()
    }

    fn beat(&self) -> Answer<'_, ()> {
        self.write(|tables| {
            if let Some(scribe) = &mut tables.scribe {
                scribe.beat += 1;
            }
            Ok(())
        })
    }

    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        self.read(|tables| tables.meta.get(key).cloned())
    }

    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()> {
        let key = key.to_owned();
        self.write(move |tables| {
            tables.meta.insert(key, value);
            Ok(())
        })
    }

    fn renew<'a>(&'a self, _: &'a config::Storage) -> Answer<'a, Renewal> {
        let renewals = self.renewals.clone();
        let renew = move || {
            renewals.fetch_add(1, Ordering::AcqRel);
        };
        ready(Ok(Box::new(renew) as Renewal)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
