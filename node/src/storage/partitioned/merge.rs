//! Lists over all databases, in order, each row from the one where it is read: others may have it too, from before it moved or from while it moves.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::map::View;
use crate::storage::{Answer, Place, Row, Shelf, Storage, StorageError, row_bytes};

/// The least that a page of one database is asked for.
const BYTES_MIN: usize = 16 << 10;

type Readers = [(u8, Arc<dyn Storage>)];

/// What comes from one database.
struct Source<'a, T, C> {
    number: u8,
    storage: &'a dyn Storage,
    waiting: VecDeque<T>,
    after: Option<C>,
    is_over: bool,
}

/// How one list is read.
trait List: Sync {
    /// What is listed.
    type Item: Send;
    /// After which to go on.
    type Cursor: Clone + Send;
    /// How they come in order; those of one owner come as their database has them.
    type Key<'a>: Ord;

    fn read<'a>(
        &'a self,
        of: &'a dyn Storage,
        after: Option<Self::Cursor>,
    ) -> Answer<'a, Vec<Self::Item>>;
    fn cursor(item: &Self::Item) -> Self::Cursor;
    fn owner(item: &Self::Item) -> &str;
    fn key(item: &Self::Item) -> Self::Key<'_>;
    /// How much of the page it takes.
    fn weight(item: &Self::Item) -> usize;
    /// How much that may be.
    fn most(&self) -> usize;
    /// Whether fewer do as well.
    fn may_be_short(&self) -> bool;
}

async fn merged<L: List>(
    list: &L,
    view: &View,
    readers: &Readers,
    after: Option<L::Cursor>,
) -> Result<Vec<L::Item>, StorageError> {
    let mut sources: Vec<Source<'_, L::Item, L::Cursor>> = readers
        .iter()
        .map(|(number, storage)| Source {
            number: *number,
            storage: &**storage,
            waiting: VecDeque::new(),
            after: after.clone(),
            is_over: false,
        })
        .collect();
    let (mut found, mut weight) = (Vec::new(), 0);
    loop {
        let more = sources.iter_mut().map(|source| fill(list, view, source));
        try_join_all(more).await?;
        // Until one has to be read on: what it has next may come before what the others have.
        while sources.iter().all(|source| source.is_over || !source.waiting.is_empty()) {
            let heads = sources.iter().enumerate();
            let heads =
                heads.filter_map(|(at, source)| Some((L::key(source.waiting.front()?), at)));
            let Some((_, at)) = heads.min() else { return Ok(found) };
            weight += sources[at].waiting.front().map_or(0, L::weight);
            if weight > list.most() && !found.is_empty() {
                return Ok(found);
            }
            found.extend(sources[at].waiting.pop_front());
        }
        if list.may_be_short() && !found.is_empty() {
            return Ok(found);
        }
    }
}

async fn fill<L: List>(
    list: &L,
    view: &View,
    source: &mut Source<'_, L::Item, L::Cursor>,
) -> Result<(), StorageError> {
    while source.waiting.is_empty() && !source.is_over {
        let page = list.read(source.storage, source.after.clone()).await?;
        match page.last() {
            None => source.is_over = true,
            Some(last) => source.after = Some(L::cursor(last)),
        }
        let number = source.number;
        source.waiting.extend(page.into_iter().filter(|item| view.at(L::owner(item)) == number));
    }
    Ok(())
}

struct Rows {
    each: usize,
    bytes_max: usize,
}

impl List for Rows {
    type Item = Row;
    type Cursor = Place;
    type Key<'a> = (bool, &'a str, &'a str);

    fn read<'a>(&'a self, of: &'a dyn Storage, after: Option<Place>) -> Answer<'a, Vec<Row>> {
        of.rows(after, self.each)
    }

    fn cursor((place, _): &Row) -> Place {
        place.clone()
    }

    fn owner((place, _): &Row) -> &str {
        place.owner()
    }

    fn key((place, _): &Row) -> (bool, &str, &str) {
        match place {
            Place::Value(store, owner, _) => (false, store, owner),
            Place::Item(store, owner, _) => (true, store, owner),
        }
    }

    fn weight(row: &Row) -> usize {
        row_bytes(row)
    }

    fn most(&self) -> usize {
        self.bytes_max
    }

    fn may_be_short(&self) -> bool {
        true
    }
}

/// [`Storage::rows`].
pub(super) async fn rows(
    view: &View,
    readers: &Readers,
    after: Option<Place>,
    bytes_max: usize,
) -> Result<Vec<Row>, StorageError> {
    let each = (bytes_max / readers.len()).max(BYTES_MIN.min(bytes_max));
    merged(&Rows { each, bytes_max }, view, readers, after).await
}

struct Owners<'o> {
    store: &'o str,
    max: usize,
}

impl List for Owners<'_> {
    type Item = String;
    type Cursor = String;
    type Key<'a> = &'a str;

    fn read<'a>(&'a self, of: &'a dyn Storage, after: Option<String>) -> Answer<'a, Vec<String>> {
        Box::pin(async move { of.owners(self.store, after.as_deref(), self.max).await })
    }

    fn cursor(owner: &String) -> String {
        owner.clone()
    }

    fn owner(owner: &String) -> &str {
        owner
    }

    fn key(owner: &String) -> &str {
        owner
    }

    fn weight(_: &String) -> usize {
        1
    }

    fn most(&self) -> usize {
        self.max
    }

    fn may_be_short(&self) -> bool {
        false
    }
}

/// [`Storage::owners`].
pub(super) async fn owners(
    view: &View,
    readers: &Readers,
    store: &str,
    after: Option<&str>,
    max: usize,
) -> Result<Vec<String>, StorageError> {
    if max == 0 {
        return Ok(Vec::new());
    }
    merged(&Owners { store, max }, view, readers, after.map(str::to_owned)).await
}

struct Shelves(usize);

impl List for Shelves {
    type Item = Shelf;
    type Cursor = Shelf;
    type Key<'a> = &'a Shelf;

    fn read<'a>(&'a self, of: &'a dyn Storage, after: Option<Shelf>) -> Answer<'a, Vec<Shelf>> {
        of.shelves(after, self.0)
    }

    fn cursor(shelf: &Shelf) -> Shelf {
        shelf.clone()
    }

    fn owner(shelf: &Shelf) -> &str {
        &shelf.owner
    }

    fn key(shelf: &Shelf) -> &Shelf {
        shelf
    }

    fn weight(_: &Shelf) -> usize {
        1
    }

    fn most(&self) -> usize {
        self.0
    }

    fn may_be_short(&self) -> bool {
        false
    }
}

/// [`Storage::shelves`].
pub(super) async fn shelves(
    view: &View,
    readers: &Readers,
    after: Option<Shelf>,
    max: usize,
) -> Result<Vec<Shelf>, StorageError> {
    if max == 0 {
        return Ok(Vec::new());
    }
    merged(&Shelves(max), view, readers, after).await
}
