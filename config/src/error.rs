//! What is said when a configuration is wrong: file, line, column, key, what was expected, what was found.
//!
//! Made by `table` and `check`, shown by `node::cli` through miette. One [`ConfigError`] carries every problem of the
//! file, in the order of the file.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// One thing that is wrong, with its place.
#[derive(Debug)]
pub struct Problem {
    /// The key in full, as in `c2s.listen[0]`; empty when the file is no TOML at all.
    pub key: String,
    /// What would have been right, in words.
    pub expected: String,
    /// What is there instead, in words; empty when that says nothing more.
    pub found: String,
    /// What may help, if anything.
    pub help: Option<String>,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    span: Range<usize>,
    source: Option<NamedSource<String>>,
}

impl Problem {
    pub(crate) fn new(
        text: &str,
        key: String,
        span: Range<usize>,
        expected: String,
        found: String,
    ) -> Self {
        let before = &text[..span.start.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem {
            key,
            expected,
            found,
            help: None,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span,
            source: None,
        }
    }

    pub(crate) fn with_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}", self.line)?;
        if !self.key.is_empty() {
            write!(out, ", {}", self.key)?;
        }
        write!(out, ": expected {}", self.expected)?;
        if !self.found.is_empty() {
            write!(out, ", found {}", self.found)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = if self.found.is_empty() { "here".to_owned() } else { self.found.clone() };
        Some(Box::new(std::iter::once(LabeledSpan::new(
            Some(label),
            self.span.start,
            self.span.len(),
        ))))
    }
}

/// Everything that is wrong with one configuration file. Never empty, unless the file could not be read.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
    unreadable: Option<String>,
}

impl ConfigError {
    pub(crate) fn unreadable(file: &Path, cause: &std::io::Error) -> Self {
        ConfigError {
            file: file.display().to_string(),
            problems: Vec::new(),
            unreadable: Some(cause.to_string()),
        }
    }

    pub(crate) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.start);
        for problem in &mut problems {
            problem.source = Some(NamedSource::new(file, text.to_owned()).with_language("toml"));
        }
        ConfigError { file: file.to_owned(), problems, unreadable: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cause) = &self.unreadable {
            return write!(out, "cannot read the configuration {}: {cause}", self.file);
        }
        match self.problems.len() {
            1 => write!(out, "one problem in {}", self.file),
            n => write!(out, "{n} problems in {}", self.file),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = if self.unreadable.is_some() {
            "name another file with --config FILE; `pangaea quickstart` writes examples"
        } else {
            "config/examples/*.toml explain every key"
        };
        Some(Box::new(help))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}
