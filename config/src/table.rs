//! Reading a TOML table key by key, noting every problem instead of stopping at the first.
//!
//! Called by every section. A reader method always gives back a value: what the file says, or the default, or (when
//! a problem was noted) a stand-in that nobody will see, because [`Document::finish`] then refuses the whole file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Problem};
use crate::value::{FromToml, describe};

/// One file: its text, its tables, and what has been found out about it.
pub(crate) struct Document<'t> {
    text: &'t str,
    name: &'t str,
    base: PathBuf,
    table: Spanned<DeTable<'t>>,
    notes: RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    problems: Vec<Problem>,
    keys: Vec<String>,
    spans: BTreeMap<String, Range<usize>>,
}

impl<'t> Document<'t> {
    /// Parses the TOML itself; a syntax error ends here, all of them at once.
    pub(crate) fn read(
        text: &'t str,
        name: &'t str,
        base: &Path,
    ) -> Result<Document<'t>, ConfigError> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Document {
                text,
                name,
                base: base.to_owned(),
                table,
                notes: RefCell::default(),
            });
        }
        let problems = errors
            .into_iter()
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                let found = error.message().replace('\n', ", ");
                Problem::new(text, String::new(), span, "valid TOML".to_owned(), found)
            })
            .collect();
        Err(ConfigError::new(name, text, problems))
    }

    pub(crate) fn root(&self) -> Table<'_> {
        Table {
            document: self,
            path: String::new(),
            table: Some(self.table.get_ref()),
            span: 0..0,
            asked: RefCell::default(),
        }
    }

    /// Notes that the value of `key` (in full) cannot be right, for a reason only the whole shows.
    pub(crate) fn refuse(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) {
        let span = self.span_of(key);
        self.note(key.to_owned(), span, expected.into(), found.into(), None);
    }

    /// The place of `key`, or of the nearest table around it that is there.
    fn span_of(&self, key: &str) -> Range<usize> {
        let notes = self.notes.borrow();
        let mut key = key;
        loop {
            if let Some(span) = notes.spans.get(key) {
                return span.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return 0..0,
            }
        }
    }

    fn note(
        &self,
        key: String,
        span: Range<usize>,
        expected: String,
        found: String,
        help: Option<String>,
    ) {
        let problem = Problem::new(self.text, key, span, expected, found).with_help(help);
        self.notes.borrow_mut().problems.push(problem);
    }

    /// Every key asked for so far, in full.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.notes.borrow().keys.clone()
    }

    pub(crate) fn finish(self) -> Result<(), ConfigError> {
        let notes = self.notes.into_inner();
        if notes.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::new(self.name, self.text, notes.problems))
        }
    }
}

/// One table of the file, or one that is not there and has nothing but defaults.
pub(crate) struct Table<'d> {
    document: &'d Document<'d>,
    path: String,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'d> Table<'d> {
    /// The table `[name]` under this one. Its unknown keys are refused when it is dropped.
    pub(crate) fn section(&self, name: &'static str) -> Table<'d> {
        let (table, span) = match self.find(name) {
            None => (None, 0..0),
            Some((span, value)) => match value.get_ref() {
                DeValue::Table(table) => (Some(table), span),
                other => {
                    self.refuse(name, format!("a table, [{name}]"), describe(other));
                    (None, span)
                }
            },
        };
        Table {
            document: self.document,
            path: self.full(name),
            table,
            span,
            asked: RefCell::default(),
        }
    }

    /// The tables `[[name]]` under this one, in order.
    pub(crate) fn sections(&self, name: &'static str) -> Vec<Table<'d>> {
        let Some((_, value)) = self.find(name) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.refuse(name, format!("a list of tables, [[{name}]]"), describe(value.get_ref()));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let path = format!("{}[{index}]", self.full(name));
            self.document.notes.borrow_mut().spans.insert(path.clone(), item.span());
            let DeValue::Table(table) = item.get_ref() else {
                self.document.note(
                    path,
                    item.span(),
                    format!("a table, [[{name}]]"),
                    describe(item.get_ref()),
                    None,
                );
                continue;
            };
            tables.push(Table {
                document: self.document,
                path,
                table: Some(table),
                span: item.span(),
                asked: RefCell::default(),
            });
        }
        tables
    }

    /// The value of `key`, or `default` when it is not there.
    pub(crate) fn value<T: FromToml>(&self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The value of `key`, which must be there.
    pub(crate) fn required<T: FromToml>(&self, key: &'static str) -> T {
        if self.find(key).is_none() {
            let help = if self.table.is_none() {
                format!("the section [{}] is missing", self.path)
            } else {
                format!("add: {key} = …")
            };
            self.document.note(
                self.full(key),
                self.span.clone(),
                T::expected(),
                "nothing: the key is missing".to_owned(),
                Some(help),
            );
        }
        self.optional(key).unwrap_or_else(T::stand_in)
    }

    /// The value of `key`, if it is there.
    pub(crate) fn optional<T: FromToml>(&self, key: &'static str) -> Option<T> {
        self.ask(key);
        let (span, value) = self.find(key)?;
        match T::from_toml(value.get_ref()) {
            Ok(value) => Some(value),
            Err(found) => {
                self.document.note(self.full(key), span, T::expected(), found, None);
                Some(T::stand_in())
            }
        }
    }

    /// As [`Table::value`], but refused below `least` or above `most`.
    pub(crate) fn between<T: FromToml + PartialOrd + Copy>(
        &self,
        key: &'static str,
        default: T,
        least: T,
        most: T,
        words: &str,
    ) -> T {
        let value = self.value(key, default);
        if value < least || value > most {
            // A stand-in is not out of bounds: the first problem is enough.
            let noted = self.full(key);
            if !self.document.notes.borrow().problems.iter().any(|p| p.key == noted) {
                let found = self.find(key).map(|(_, v)| describe(v.get_ref())).unwrap_or_default();
                self.refuse(key, words, found);
            }
        }
        value
    }

    /// A path; a relative one is joined to the directory of the file.
    pub(crate) fn path(&self, key: &'static str, default: Option<PathBuf>) -> PathBuf {
        match default {
            Some(default) => self.optional_path(key).unwrap_or(default),
            None => self.base().join(self.required::<PathBuf>(key)),
        }
    }

    /// A path that may be left out.
    pub(crate) fn optional_path(&self, key: &'static str) -> Option<PathBuf> {
        Some(self.base().join(self.optional::<PathBuf>(key)?))
    }

    /// The directory that relative paths start from.
    pub(crate) fn base(&self) -> &Path {
        &self.document.base
    }

    /// Notes that the value of `key` cannot be right.
    pub(crate) fn refuse(
        &self,
        key: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.document.refuse(&self.full(key), expected, found);
    }

    /// Notes every key that nobody asked for: a table does it when it is dropped.
    fn refuse_the_rest(&self) {
        let Some(table) = self.table else { return };
        let mut known = self.asked.borrow().clone();
        known.sort_unstable();
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let help = closest(name, &known).map(|near| format!("did you mean `{near}`?"));
            self.document.note(
                self.full(name),
                key.span(),
                format!("one of {}", known.join(", ")),
                format!("`{name}`, which is no key here"),
                help,
            );
        }
    }

    fn ask(&self, key: &'static str) {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
            let full = self.full(key);
            self.document.notes.borrow_mut().keys.push(full);
        }
    }

    fn find(&self, key: &'static str) -> Option<(Range<usize>, &'d Spanned<DeValue<'d>>)> {
        {
            let mut asked = self.asked.borrow_mut();
            if !asked.contains(&key) {
                asked.push(key);
            }
        }
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref().as_ref() == key)?;
        self.document.notes.borrow_mut().spans.insert(self.full(key), value.span());
        Some((value.span(), value))
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        self.refuse_the_rest();
    }
}

/// The known key most like `name`, if any is alike.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|key| (distance(name, key), *key))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
