//! What changes come to in the end, as values: ranges that go, keys that go, keys that are put. Pure.
//!
//! A statement costs a way to the server and back, so a transaction of a thousand changes must not be a thousand statements. Of each key
//! only the last change counts; a range that goes takes with it what was put before. So the ranges go first, then all the rest can be done in
//! any order, in one statement of each kind, and in the order of the keys, in which two transactions cannot lock each other out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use replication::Change;

use super::driver::{Bulk, Column};
use super::name;
use crate::storage::{Place, Row, to_sql};

/// The effect of changes.
#[derive(Debug, Default)]
pub(super) struct Effect<'a> {
    /// By store and owner.
    cleared: BTreeSet<(&'a str, &'a str)>,
    /// By store and owner: up to which id.
    trimmed: BTreeMap<(&'a str, &'a str), u64>,
    /// By store, owner, key; None: gone.
    values: BTreeMap<(&'a str, &'a str, &'a str), Option<&'a [u8]>>,
    /// By store, owner, id; None: gone.
    items: BTreeMap<(&'a str, &'a str, u64), Option<&'a [u8]>>,
}

impl<'a> Effect<'a> {
    /// Of changes, in their order.
    pub(super) fn of(changes: impl Iterator<Item = &'a Change>) -> Effect<'a> {
        let mut effect = Effect::default();
        for change in changes {
            effect.add(change);
        }
        effect
    }

    /// Of a range that is replaced.
    pub(super) fn of_rows(gone: &'a [Place], rows: &'a [Row]) -> Effect<'a> {
        let mut effect = Effect::default();
        let gone = gone.iter().map(|place| (place, None));
        for (place, value) in gone.chain(rows.iter().map(|(place, value)| (place, Some(&**value))))
        {
            match place {
                Place::Value(store, owner, key) => {
                    effect.values.insert((store, owner, key), value);
                }
                Place::Item(store, owner, id) => {
                    effect.items.insert((store, owner, *id), value);
                }
            }
        }
        effect
    }

    fn add(&mut self, change: &'a Change) {
        let store = change.store().as_str();
        match change {
            Change::Put { owner, key, value, .. } => {
                self.values.insert((store, owner, key), Some(value));
            }
            Change::Delete { owner, key, .. } => {
                self.values.insert((store, owner, key), None);
            }
            Change::Append { owner, id, value, .. } => {
                self.items.insert((store, owner, *id), Some(value));
            }
            Change::Remove { owner, id, .. } => {
                self.items.insert((store, owner, *id), None);
            }
            Change::Trim { owner, upto, .. } => self.trim(store, owner, *upto),
            Change::Clear { owner, .. } => {
                let before = self.values.range((store, owner.as_str(), "")..);
                let of_owner = before.take_while(|((s, o, _), _)| *s == store && o == owner);
                let before: Vec<_> = of_owner.map(|(place, _)| *place).collect();
                for place in &before {
                    self.values.remove(place);
                }
                self.cleared.insert((store, owner));
                self.trim(store, owner, u64::MAX);
            }
        }
    }

    fn trim(&mut self, store: &'a str, owner: &'a str, upto: u64) {
        let before = self.items.range((store, owner, 0)..=(store, owner, upto));
        let before: Vec<_> = before.map(|(place, _)| *place).collect();
        for place in &before {
            self.items.remove(place);
        }
        let trimmed = self.trimmed.entry((store, owner)).or_default();
        *trimmed = upto.max(*trimmed);
    }

    /// The names of the keys, as they are indexed; to be handed to [`Effect::statements`].
    pub(super) fn names(&self) -> Vec<Cow<'a, [u8]>> {
        self.values.keys().map(|(_, _, key)| name::indexed(key)).collect()
    }

    /// What is to be done, in this order, each with its columns.
    pub(super) fn statements<'n>(
        &'n self,
        names: &'n [Cow<'a, [u8]>],
    ) -> Vec<(Bulk, Vec<Column<'n>>)> {
        let mut statements = Vec::new();
        if !self.cleared.is_empty() {
            let (stores, owners) = self.cleared.iter().copied().unzip();
            statements
                .push((Bulk::ClearValues, vec![Column::Texts(stores), Column::Texts(owners)]));
        }
        if !self.trimmed.is_empty() {
            let (stores, owners) = self.trimmed.keys().copied().unzip();
            let upto = self.trimmed.values().map(|upto| to_sql(*upto)).collect();
            let columns = vec![Column::Texts(stores), Column::Texts(owners), Column::Ints(upto)];
            statements.push((Bulk::TrimItems, columns));
        }
        let (mut stores, mut owners, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut put = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (((store, owner, key), value), name) in self.values.iter().zip(names) {
            match value {
                None => {
                    stores.push(*store);
                    owners.push(*owner);
                    gone.push(&**name);
                }
                Some(value) => {
                    put.0.push(*store);
                    put.1.push(*owner);
                    put.2.push(&**name);
                    put.3.push(name::whole(key));
                    put.4.push(*value);
                }
            }
        }
        if !gone.is_empty() {
            let columns = vec![Column::Texts(stores), Column::Texts(owners), Column::Bytes(gone)];
            statements.push((Bulk::DeleteValues, columns));
        }
        if !put.0.is_empty() {
            let columns = vec![
                Column::Texts(put.0),
                Column::Texts(put.1),
                Column::Bytes(put.2),
                Column::Maybe(put.3),
                Column::Bytes(put.4),
            ];
            statements.push((Bulk::PutValues, columns));
        }
        self.items_into(&mut statements);
        statements
    }

    fn items_into<'n>(&'n self, statements: &mut Vec<(Bulk, Vec<Column<'n>>)>) {
        let (mut stores, mut owners, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut put = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((store, owner, id), value) in &self.items {
            match value {
                None => {
                    stores.push(*store);
                    owners.push(*owner);
                    gone.push(to_sql(*id));
                }
                Some(value) => {
                    put.0.push(*store);
                    put.1.push(*owner);
                    put.2.push(to_sql(*id));
                    put.3.push(*value);
                }
            }
        }
        if !gone.is_empty() {
            let columns = vec![Column::Texts(stores), Column::Texts(owners), Column::Ints(gone)];
            statements.push((Bulk::DeleteItems, columns));
        }
        if !put.0.is_empty() {
            let columns = vec![
                Column::Texts(put.0),
                Column::Texts(put.1),
                Column::Ints(put.2),
                Column::Bytes(put.3),
            ];
            statements.push((Bulk::PutItems, columns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_in_the_end_is_done_and_ranges_go_first() {
        let (store, owner) = (|| "s".into(), || "o".to_owned());
        let put = |key: &str, value: &str| Change::Put {
            store: store(),
            owner: owner(),
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
        };
        let append = |id| Change::Append { store: store(), owner: owner(), id, value: vec![] };
        let changes = [
            put("a", "before the range goes"),
            append(1),
            Change::Clear { store: store(), owner: owner() },
            put("b", "1"),
            put("b", "2"),
            put("c", "1"),
            Change::Delete { store: store(), owner: owner(), key: "c".to_owned() },
            append(5),
            Change::Trim { store: store(), owner: owner(), upto: 5 },
            append(4),
            Change::Remove { store: store(), owner: owner(), id: 9 },
        ];
        let effect = Effect::of(changes.iter());
        let names = effect.names();
        let statements = effect.statements(&names);
        let kinds: Vec<Bulk> = statements.iter().map(|(bulk, _)| *bulk).collect();
        use Bulk::*;
        let expected = [ClearValues, TrimItems, DeleteValues, PutValues, DeleteItems, PutItems];
        assert_eq!(kinds, expected);
        let check = |at: usize, column: usize, expected: &str| {
            assert_eq!(format!("{:?}", statements[at].1[column]), expected);
        };
        check(1, 2, &format!("Ints([{}])", to_sql(u64::MAX)));
        check(2, 2, "Bytes([[99]])");
        check(3, 4, "Bytes([[50]])");
        check(4, 2, &format!("Ints([{}])", to_sql(9)));
        check(5, 2, &format!("Ints([{}])", to_sql(4)));
    }
}
