//! The trace of one seed: who did what, when, in words. Off when thousands of seeds are played; on for the one that is told.
//! What the servers log is part of it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::life::Life;

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub struct Story(Option<Arc<Mutex<String>>>);

impl Story {
    /// One that is written down.
    pub fn told() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether anybody listens.
    pub fn is_told(&self) -> bool {
        self.0.is_some()
    }

    /// Something happened.
    pub fn tell(&self, at_ms: u64, what: impl FnOnce() -> String) {
        if let Some(text) = &self.0 {
            let _ = writeln!(text.lock(), "{:>7}.{:03}  {}", at_ms / 1000, at_ms % 1000, what());
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.0.as_ref().map(|text| text.lock().clone()).unwrap_or_default()
    }
}

thread_local! {
    /// Whose code runs on this thread just now.
    static RUNNING: RefCell<Option<(String, Arc<Life>)>> = const { RefCell::new(None) };
}

/// Until this is dropped, what is logged on this thread is this node's word.
pub struct Speaking;

impl Speaking {
    /// Begins.
    pub fn of(name: &str, life: &Arc<Life>) -> Self {
        RUNNING.with(|running| *running.borrow_mut() = Some((name.to_owned(), life.clone())));
        Self
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        RUNNING.with(|running| *running.borrow_mut() = None);
    }
}

/// Puts the servers' log into the story.
pub struct Scribe {
    story: Story,
}

impl Scribe {
    /// Into this one.
    pub fn new(story: Story) -> Self {
        Self { story }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
            && ["node", "s2s", "global_distrib", "replication"]
                .iter()
                .any(|ours| metadata.target().split("::").next() == Some(ours))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        RUNNING.with(|running| {
            if let Some((name, life)) = &*running.borrow() {
                self.story
                    .tell(life.now(), || format!("  {name}: {}{}", line.message, line.fields));
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
