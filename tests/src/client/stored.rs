//! What waits for somebody who was away. Called by the tests that add up what became of messages.

use super::{Client, Result, SM};
use crate::xml::Element;

/// What a client says to itself.
const WORD: &str = "what was stored came before this";

impl Client {
    /// Goes, with all that it has acknowledged, and comes anew: which bodies had been stored for it. They are those before a word of its
    /// own to itself, for what is new waits behind them. It is gone then.
    ///
    /// # Errors
    /// When it cannot sign in, or does not hear itself in time.
    pub async fn stored(&mut self) -> Result<Vec<String>> {
        if self.is_connected() {
            if self.sm.is_some() {
                // What it has it has, and is stored for nobody.
                let h = self.handled();
                self.send_raw(&format!("<a xmlns='{SM}' h='{h}'/>")).await?;
            }
            self.disconnect().await?;
        }
        self.connect().await?;
        self.send("<presence/>").await?;
        let to = self.bare();
        self.send(&format!("<message to='{to}' type='chat'><body>{WORD}</body></message>")).await?;
        self.wait_for("its own word", |e| e.body().as_deref() == Some(WORD)).await?;
        let stored = self.drain().iter().filter_map(Element::body).collect();
        self.disconnect().await?;
        Ok(stored)
    }
}
