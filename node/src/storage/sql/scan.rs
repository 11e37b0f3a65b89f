//! All rows in order, and a range of them replaced: what a snapshot reads at the home and writes at a replica.
//!
//! Where one store's, then one owner's rows end, the next question goes on: each is one range of the primary key, which both servers read
//! straight from it (MySQL does not for `(store, owner, name) > (…)`).

use std::collections::BTreeSet;

use super::driver::{Driver, RowOf, Value};
use super::{Inner, failed_read, name};
use crate::storage::{Place, Replace, Row, Shelf, StorageError, from_sql, row_bytes, to_sql};

/// Rows asked for at once.
const SLICE: usize = 128;
/// Places without what is there.
const PLACES_SLICE: usize = 1000;

/// The three ranges behind a place: of its owner, of its store, of all stores.
struct Ranges {
    owner: &'static str,
    store: &'static str,
    all: &'static str,
}

const VALUES: Ranges = Ranges {
    owner: "SELECT store, owner, COALESCE(whole_name, name), value FROM kv \
        WHERE store = ? AND owner = ? AND name > ? ORDER BY name LIMIT ?",
    store: "SELECT store, owner, COALESCE(whole_name, name), value FROM kv \
        WHERE store = ? AND owner > ? ORDER BY owner, name LIMIT ?",
    all: "SELECT store, owner, COALESCE(whole_name, name), value FROM kv \
        WHERE store > ? ORDER BY store, owner, name LIMIT ?",
};
const ITEMS: Ranges = Ranges {
    owner: "SELECT store, owner, id, value FROM archive \
        WHERE store = ? AND owner = ? AND id > ? ORDER BY id LIMIT ?",
    store: "SELECT store, owner, id, value FROM archive \
        WHERE store = ? AND owner > ? ORDER BY owner, id LIMIT ?",
    all: "SELECT store, owner, id, value FROM archive \
        WHERE store > ? ORDER BY store, owner, id LIMIT ?",
};
const VALUE_PLACES: Ranges = Ranges {
    owner: "SELECT store, owner, COALESCE(whole_name, name) FROM kv \
        WHERE store = ? AND owner = ? AND name > ? ORDER BY name LIMIT ?",
    store: "SELECT store, owner, COALESCE(whole_name, name) FROM kv \
        WHERE store = ? AND owner > ? ORDER BY owner, name LIMIT ?",
    all: "SELECT store, owner, COALESCE(whole_name, name) FROM kv \
        WHERE store > ? ORDER BY store, owner, name LIMIT ?",
};
const ITEM_PLACES: Ranges = Ranges {
    owner: "SELECT store, owner, id FROM archive \
        WHERE store = ? AND owner = ? AND id > ? ORDER BY id LIMIT ?",
    store: "SELECT store, owner, id FROM archive \
        WHERE store = ? AND owner > ? ORDER BY owner, id LIMIT ?",
    all: "SELECT store, owner, id FROM archive \
        WHERE store > ? ORDER BY store, owner, id LIMIT ?",
};

/// A page of rows after a place. Empty only at the end of both tables.
pub(super) async fn rows<D: Driver>(
    inner: &Inner<D>,
    after: Option<Place>,
    bytes_max: usize,
) -> Result<Vec<Row>, StorageError> {
    let row = |row: &RowOf<D>, place: Place| {
        Ok((place, D::bytes(row, 3).map_err(failed_read)?.unwrap_or_default()))
    };
    let mut page = match &after {
        Some(Place::Item(..)) => Vec::new(),
        after => behind(inner, &VALUES, after.as_ref(), value_place::<D>, row, SLICE).await?,
    };
    if page.is_empty() {
        let after = after.filter(|after| matches!(after, Place::Item(..)));
        page = behind(inner, &ITEMS, after.as_ref(), item_place::<D>, row, SLICE).await?;
    }
    let mut bytes = 0;
    let fits = page.iter().take_while(|row| {
        bytes += row_bytes(row);
        bytes <= bytes_max
    });
    let fits = fits.count().max(1);
    page.truncate(fits);
    Ok(page)
}

/// The first shelves after one.
pub(super) async fn shelves<D: Driver>(
    inner: &Inner<D>,
    after: Option<Shelf>,
    max: usize,
) -> Result<Vec<Shelf>, StorageError> {
    // Within a store, and in the stores behind it: see the top of the file.
    const TABLES: [(bool, [&str; 2]); 2] = [
        (
            false,
            [
                "SELECT DISTINCT store, owner FROM kv WHERE store = ? AND owner > ? \
                 ORDER BY store, owner LIMIT ?",
                "SELECT DISTINCT store, owner FROM kv WHERE store > ? ORDER BY store, owner LIMIT ?",
            ],
        ),
        (
            true,
            [
                "SELECT DISTINCT store, owner FROM archive WHERE store = ? AND owner > ? \
                 ORDER BY store, owner LIMIT ?",
                "SELECT DISTINCT store, owner FROM archive WHERE store > ? \
                 ORDER BY store, owner LIMIT ?",
            ],
        ),
    ];
    let mut found: Vec<Shelf> = Vec::new();
    for (is_archive, [inside, behind]) in TABLES {
        if !is_archive && after.as_ref().is_some_and(|after| after.is_archive) {
            continue;
        }
        let after = after.as_ref().filter(|after| after.is_archive == is_archive);
        let mut take = |rows: Vec<RowOf<D>>| {
            for row in &rows {
                let text = |at| D::text(row, at).map_err(failed_read);
                found.push(Shelf { is_archive, store: text(0)?, owner: text(1)? });
            }
            Ok::<i64, StorageError>((max - found.len()) as i64)
        };
        let mut left = take(Vec::new())?;
        if let Some(after) = after {
            let values = [Value::Text(&after.store), Value::Text(&after.owner), Value::Int(left)];
            left = take(inner.read(inside, &values).await?)?;
        }
        if left > 0 {
            // No store is "".
            let store = Value::Text(after.map_or("", |after| &after.store));
            take(inner.read(behind, &[store, Value::Int(left)]).await?)?;
        }
        if found.len() >= max {
            break;
        }
    }
    Ok(found)
}

/// What goes, what comes, and what is empty afterwards. Nobody else writes to those owners' rows meanwhile.
pub(super) async fn replaced<D: Driver>(
    inner: &Inner<D>,
    replace: Replace<'_>,
) -> Result<(Vec<Place>, Vec<Row>, Vec<Place>), StorageError> {
    let Replace { from, to, owned, rows } = replace;
    let mut gone = Vec::new();
    let only = |_: &RowOf<D>, place: Place| Ok(place);
    let is_beyond = |place: &Place| to.as_ref().is_some_and(|to| place > to);
    let mut after = from.clone();
    if !matches!(after, Some(Place::Item(..))) {
        loop {
            let ranges = &VALUE_PLACES;
            let place = value_place::<D>;
            let page = behind(inner, ranges, after.as_ref(), place, only, PLACES_SLICE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            let is_over = is_beyond(last);
            gone.extend(page);
            if is_over {
                break;
            }
        }
    }
    if !matches!(to, Some(Place::Value(..))) {
        after = from.filter(|from| matches!(from, Place::Item(..)));
        loop {
            let ranges = &ITEM_PLACES;
            let place = item_place::<D>;
            let page = behind(inner, ranges, after.as_ref(), place, only, PLACES_SLICE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            let is_over = is_beyond(last);
            gone.extend(page);
            if is_over {
                break;
            }
        }
    }
    gone.retain(|place| !is_beyond(place) && owned(place.owner()));
    let mut rows = rows;
    rows.retain(|(place, _)| owned(place.owner()));
    let stays: BTreeSet<&Place> = rows.iter().map(|(place, _)| place).collect();
    gone.retain(|place| !stays.contains(place));
    let empty = gone.clone();
    Ok((gone, rows, empty))
}

fn value_place<D: Driver>(row: &RowOf<D>) -> Result<Place, sqlx::Error> {
    let key = name::key(D::bytes(row, 2)?.unwrap_or_default())?;
    Ok(Place::Value(D::text(row, 0)?, D::text(row, 1)?, key))
}

fn item_place<D: Driver>(row: &RowOf<D>) -> Result<Place, sqlx::Error> {
    Ok(Place::Item(D::text(row, 0)?, D::text(row, 1)?, from_sql(D::int(row, 2)?)))
}

/// The rows behind a place (all: None), at most so many.
async fn behind<D: Driver, T>(
    inner: &Inner<D>,
    ranges: &Ranges,
    after: Option<&Place>,
    place: fn(&RowOf<D>) -> Result<Place, sqlx::Error>,
    keep: impl Fn(&RowOf<D>, Place) -> Result<T, StorageError>,
    max: usize,
) -> Result<Vec<T>, StorageError> {
    let mut found = Vec::new();
    let mut take = |rows: Vec<RowOf<D>>| {
        for row in &rows {
            found.push(keep(row, place(row).map_err(failed_read)?)?);
        }
        Ok::<i64, StorageError>((max - found.len()) as i64)
    };
    let indexed;
    let (store, owner, last) = match after {
        None => {
            // No store is "".
            let rows = inner.read(ranges.all, &[Value::Text(""), Value::Int(max as i64)]).await?;
            take(rows)?;
            return Ok(found);
        }
        Some(Place::Value(store, owner, key)) => {
            indexed = name::indexed(key);
            (store, owner, Value::Bytes(&indexed))
        }
        Some(Place::Item(store, owner, id)) => (store, owner, Value::Int(to_sql(*id))),
    };
    let (store, owner) = (Value::Text(store), Value::Text(owner));
    let values = [store, owner, last, Value::Int(max as i64)];
    let left = take(inner.read(ranges.owner, &values).await?)?;
    if left > 0 {
        let left = take(inner.read(ranges.store, &[store, owner, Value::Int(left)]).await?)?;
        if left > 0 {
            take(inner.read(ranges.all, &[store, Value::Int(left)]).await?)?;
        }
    }
    Ok(found)
}
