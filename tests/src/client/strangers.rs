//! A client on a stream where nobody has signed in yet: what it says there is said raw, by a play or a test. What the server makes of it
//! in SASL2 (XEP-0388) is noticed: then the client is what it would be after connecting.

use super::negotiation::Negotiation;
use super::{BIND2, Client, Counters, Result, SASL2, SM, Sm};
use crate::xml::Element;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

impl Client {
    /// Opens a stream, saying from whom, and no more: the features are there to be received, and what is sent raw goes to the server as it
    /// is. When it tells of success in SASL2 (XEP-0388) with a resource bound, the client is what it would be after
    /// [`Self::connect`].
    ///
    /// # Errors
    /// When there is no stream.
    pub async fn open_named_stream(&mut self) -> Result<()> {
        let from = self.bare();
        let start =
            Negotiation::start_as(&self.endpoint, &self.name, &self.transcript, Some(&from));
        let (stream, features) = start.await?;
        self.jid = None;
        self.sm = None;
        self.counters = Counters::new();
        self.run(stream);
        self.waiting = VecDeque::from([features]);
        Ok(())
    }

    /// Opens a stream and stays a stranger.
    ///
    /// # Errors
    /// When there is no stream.
    pub async fn open_stream(&mut self) -> Result<()> {
        let (stream, _) = Negotiation::start(&self.endpoint, &self.name, &self.transcript).await?;
        self.sm = None;
        self.waiting.clear();
        self.counters = Counters::new();
        self.run(stream);
        Ok(())
    }

    /// What it has counted of what the server has sent, for a resumption.
    pub fn handled(&self) -> u32 {
        self.counters.handled.load(Ordering::Acquire)
    }

    pub(super) fn succeeded(&mut self, success: &Element) {
        let jid = success.child("authorization-identifier", SASL2).map(Element::text);
        self.jid = jid.filter(|jid| jid.contains('/')).or(self.jid.take());
        let bound = success.child("bound", BIND2);
        if let Some(enabled) = bound.and_then(|bound| bound.child("enabled", SM)) {
            self.sm = Some(Sm::of(enabled));
        }
    }
}
