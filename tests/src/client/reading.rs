//! The task that reads a bound stream, and what it counts for XEP-0198. Started by [`super::Client`].

use super::negotiation::Io;
use super::{BIND2, SASL2, SM, Transcript, describe};
use crate::xml::{CLIENT, COMPONENT, Element, Piece, StreamReader};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

/// What the reading task hands over.
pub(super) enum Incoming {
    Element(Element),
    /// The stream was closed with its end tag, or the connection just ended; with the reason.
    Ended {
        cleanly: bool,
        why: String,
    },
}

/// What the reading task counts for stream management; it outlives a connection.
pub(super) struct Counters {
    /// Set by `<enabled/>`: from there on stanzas count.
    pub(super) on: AtomicBool,
    pub(super) handled: AtomicU32,
    pub(super) acked: watch::Sender<u32>,
}

impl Counters {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            on: AtomicBool::new(false),
            handled: AtomicU32::new(0),
            acked: watch::Sender::new(0),
        })
    }
}

/// The task that reads a bound stream, answers `<r/>`, counts, and hands on all else.
pub(super) struct Reading {
    pub(super) who: String,
    pub(super) transcript: Transcript,
    pub(super) writer: Arc<AsyncMutex<WriteHalf<Box<dyn Io>>>>,
    pub(super) answers_acks: Arc<AtomicBool>,
    pub(super) counters: Arc<Counters>,
    pub(super) to: mpsc::UnboundedSender<Incoming>,
}

impl Reading {
    pub(super) async fn run(
        self,
        mut io: ReadHalf<Box<dyn Io>>,
        mut reader: StreamReader,
        mut pieces: VecDeque<Piece>,
    ) {
        let mut buffer = vec![0u8; 16 * 1024];
        let mut cleanly = false;
        let why = 'reading: loop {
            while let Some(piece) = pieces.pop_front() {
                self.transcript.note(format!("{} ← {}", self.who, describe(&piece)));
                match piece {
                    Piece::Element(element) => {
                        self.element(element.renamed(COMPONENT, CLIENT)).await;
                    }
                    Piece::Open(_) => break 'reading "a second stream header".to_owned(),
                    Piece::Close => cleanly = true,
                }
            }
            match io.read(&mut buffer).await {
                Ok(0) if cleanly => break "the server closed it".into(),
                Ok(0) => break "the connection was closed without an end tag".into(),
                Ok(n) => match reader.feed(&buffer[..n]) {
                    Ok(more) => pieces.extend(more),
                    Err(e) => break e,
                },
                Err(_) if cleanly => break "the server closed it".into(),
                Err(e) => break e.to_string(),
            }
        };
        self.transcript.note(format!("{} ← (end: {why})", self.who));
        let _ = self.to.send(Incoming::Ended { cleanly, why });
    }

    async fn element(&self, element: Element) {
        let counting = self.counters.on.load(Ordering::Acquire);
        if element.is("r", SM) {
            if counting && self.answers_acks.load(Ordering::Acquire) {
                let answer = format!(
                    "<a xmlns='{SM}' h='{}'/>",
                    self.counters.handled.load(Ordering::Acquire)
                );
                self.transcript.note(format!("{} → {answer}", self.who));
                let mut writer = self.writer.lock().await;
                let _ = writer.write_all(answer.as_bytes()).await;
                let _ = writer.flush().await;
            }
            return;
        }
        if element.is("a", SM) {
            if let Some(h) = element.attr("h").and_then(|h| h.parse().ok()) {
                self.counters.acked.send_replace(h);
            }
            return;
        }
        let bound = element.child("bound", BIND2).filter(|_| element.is("success", SASL2));
        if element.is("enabled", SM) || bound.is_some_and(|b| b.child("enabled", SM).is_some()) {
            self.counters.on.store(true, Ordering::Release);
        }
        let counts = counting && element.is_stanza();
        let _ = self.to.send(Incoming::Element(element));
        if counts {
            self.counters.handled.fetch_add(1, Ordering::AcqRel);
        }
    }
}
