//! What a domain stream may bring us that it should not, and what it gets: rows as in `bad_input`, on the port of servers.
//!
//! A row is how far a stranger has come, what it says then, and the answers that are right. `SE x` is a stream error, behind which the stream and the
//! connection end; `SASL x` a failure; `DB x` an answer of dialback, with its type or the condition of its error. Where the stream lives on, the
//! stranger asks about a key behind the row: what comes before that is answered is all that comes (`""`: nothing). `streams` are the rows of how it begins
//! (A, B), `xml` those of what is in it (A), `proofs` those of who one is (H), `certificates` and `requests` those that are no rows.

pub(crate) mod certificates;
mod proofs;
pub(crate) mod requests;
mod streams;
mod xml;

use crate::authority::{Kind, Name, Paper};
use crate::stranger::home::{Home, Manners, Verdict};
use crate::stranger::{DIALBACK, Heard, Line, SASL};
use crate::{World, expect};
use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::xml::{Element, STREAM};
use std::time::Duration;
use tokio::sync::Mutex;

/// Proved by a certificate, and by dialback.
pub(crate) const EVIL: &str = "evil.lab";
pub(crate) const CALLER: &str = "caller.lab";
/// Says of every key that it is wrong.
pub(crate) const DENIER: &str = "denier.lab";
const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
const MARKER: &str = "marker";

/// How far a stranger has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// Connected.
    Fresh,
    /// A stream in clear, features are read.
    Open,
    /// The same inside TLS, with a certificate that it signed itself, as `caller.lab`.
    Caller,
    /// The same with a good one, as `evil.lab`.
    Secured,
    /// SASL EXTERNAL has succeeded, the new header is still to come.
    Signed,
    /// That has come too: it may send from `evil.lab`.
    Proved,
    /// By dialback it may send from `caller.lab`.
    Dialed,
}

enum Turn {
    Says(String),
    Raw(Vec<u8>),
}

/// See the room.
pub(crate) struct Row {
    id: &'static str,
    what: &'static str,
    at: At,
    turns: Vec<Turn>,
    expected: Vec<&'static str>,
    /// The first answer is all that is waited for: it takes its time, or the stream is another behind it.
    is_alone: bool,
}

impl Row {
    pub(crate) fn new(id: &'static str, what: &'static str, at: At) -> Self {
        Self { id, what, at, turns: Vec::new(), expected: Vec::new(), is_alone: false }
    }

    /// Text, with `${us}`, `${friend}` and `${header}` filled in.
    pub(crate) fn says(mut self, text: impl Into<String>) -> Self {
        self.turns.push(Turn::Says(text.into()));
        self
    }

    pub(crate) fn raw(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.turns.push(Turn::Raw(bytes.into()));
        self
    }

    /// No question is asked behind it.
    pub(crate) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Any one of these, and nothing else.
    pub(crate) fn gets(mut self, expected: &[&'static str]) -> Self {
        self.expected = expected.to_vec();
        self
    }
}

/// Whom the rows are tried on, and who stands behind them.
pub(crate) struct Target<'a> {
    pub(crate) world: &'a World,
    pub(crate) us: String,
    pub(crate) port: u16,
    friend: Mutex<Client>,
    friend_bare: String,
    pub(crate) good: Paper,
    pub(crate) own: Paper,
    _homes: [Home; 3],
}

impl<'a> Target<'a> {
    /// `friend` is somebody of ours who is online, to whom lies are addressed.
    pub(crate) async fn new(
        world: &'a World,
        us: &str,
        port: u16,
        friend: Client,
    ) -> Result<Target<'a>> {
        let good = world.authority.for_domain(EVIL)?;
        let own = world.authority.issue(Kind::SelfSigned, CALLER, &[Name::Dns(CALLER)])?;
        let denies = Manners { verdict: Verdict::Invalid, ..Manners::default() };
        let homes = [
            Home::start(&world.dns, &[EVIL, "below.evil.lab"], &good, Manners::default()).await?,
            Home::start(&world.dns, &[CALLER], &own, Manners::default()).await?,
            Home::start(&world.dns, &[DENIER], &own, denies).await?,
        ];
        Ok(Self {
            world,
            us: us.into(),
            port,
            friend_bare: friend.bare(),
            friend: Mutex::new(friend),
            good,
            own,
            _homes: homes,
        })
    }

    /// As whom the stranger comes.
    fn name(at: At) -> &'static str {
        if matches!(at, At::Caller | At::Dialed) { CALLER } else { EVIL }
    }

    pub(crate) fn fill(&self, text: &str, at: At) -> String {
        text.replace("${us}", &self.us)
            .replace("${friend}", &self.friend_bare)
            .replace("${header}", &crate::stranger::usual(Self::name(at), &self.us))
    }

    pub(crate) async fn line(&self, at: At) -> Result<Line> {
        let from = Self::name(at);
        let names = (from, &*self.us);
        let line = match at {
            At::Fresh => Line::connect(self.port).await?,
            At::Open => {
                let mut line = Line::connect(self.port).await?;
                line.open(from, &self.us).await?;
                line
            }
            At::Caller => Line::secured(self.port, names, Some(&self.own)).await?.0,
            At::Secured => Line::secured(self.port, names, Some(&self.good)).await?.0,
            At::Signed => {
                let mut line = Line::secured(self.port, names, Some(&self.good)).await?.0;
                line.send(crate::stranger::EXTERNAL).await;
                let success = line.element().await?;
                expect(success.is("success", SASL), || success.to_string())?;
                line.restart();
                line
            }
            At::Proved => {
                let mut line = Line::secured(self.port, names, Some(&self.good)).await?.0;
                line.external(from, &self.us).await?;
                line
            }
            At::Dialed => {
                let mut line = Line::secured(self.port, names, Some(&self.own)).await?.0;
                let answer = line.dialback(from, &self.us, "key").await?;
                expect(answer.attr("type") == Some("valid"), || answer.to_string())?;
                line
            }
        };
        Ok(line)
    }

    /// Performs one.
    async fn perform(&self, row: &Row) -> Result<()> {
        let mut line = self.line(row.at).await?;
        for turn in &row.turns {
            match turn {
                Turn::Says(text) => line.send(self.fill(text, row.at)).await,
                Turn::Raw(bytes) => line.send(bytes).await,
            }
        }
        let is_asked = row.at >= At::Caller && row.at != At::Signed && !row.is_alone;
        let got = self.listen(&mut line, row.at, is_asked).await?;
        expect(row.expected.contains(&&*got), || {
            format!("expected {}\n     got {got}", row.expected.join(" | "))
        })
    }

    /// All that comes, in words.
    async fn listen(&self, line: &mut Line, at: At, is_asked: bool) -> Result<String> {
        if is_asked {
            let marker = "<db:verify from='evil.lab' to='${us}' id='marker'>wrong</db:verify>";
            line.send(self.fill(marker, at)).await;
        }
        let mut words: Vec<String> = Vec::new();
        loop {
            match line.hear_within(patience() * 3).await? {
                Heard::Open(_) => {}
                Heard::Close => {
                    return match line.hear().await? {
                        Heard::End if words.is_empty() => Ok("closed".into()),
                        Heard::End => Ok(words.join(", ")),
                        other => Err(format!("behind the end of the stream: {other:?}")),
                    };
                }
                Heard::End if words.is_empty() => return Ok("end".into()),
                Heard::End => return Err(format!("cut off behind {words:?}")),
                Heard::Element(element) if element.attr("id") == Some(MARKER) => {
                    return Ok(words.join(", "));
                }
                Heard::Element(element) => {
                    let word = word(&element);
                    let is_error = word.starts_with("SE ");
                    words.push(word);
                    if !is_asked && !is_error {
                        return Ok(words.join(", "));
                    }
                }
            }
        }
    }

    /// What the friend has heard: what was said honestly, and no lie.
    async fn heard(&self) -> Result<()> {
        let mut friend = self.friend.lock().await;
        // Of the last honest word: behind it, nothing of theirs is on the way any more.
        let within = Duration::from_secs(20);
        let last = |e: &Element| e.body().as_deref() == Some("the last word");
        let mut line = self.line(At::Proved).await?;
        let text = format!(
            "<message from='x@{EVIL}' to='{}'><body>the last word</body></message>",
            self.friend_bare
        );
        line.send(text).await;
        friend.wait_for_within(within, "the last word", last).await?;
        let lies: Vec<String> = friend
            .drain()
            .iter()
            .filter(|e| e.name == "message" || e.name == "presence")
            .filter(|e| !e.attr("from").is_some_and(|from| from.starts_with(&self.friend_bare)))
            .filter(|e| !e.body().is_some_and(|text| text.starts_with("honest")))
            .map(ToString::to_string)
            .collect();
        expect(lies.is_empty(), || format!("came through: {lies:?}"))
    }
}

fn condition(of: &Element, ns: &str) -> String {
    let condition = of.children().find(|child| child.ns == ns && child.name != "text");
    condition.map_or("?".into(), |condition| condition.name.clone())
}

/// An element in a word.
fn word(element: &Element) -> String {
    if element.is("error", STREAM) {
        return format!("SE {}", condition(element, STREAMS));
    }
    if element.is("failure", SASL) {
        let inside = element.children().find(|child| child.ns == SASL);
        return format!("SASL {}", inside.map_or("?", |inside| &inside.name));
    }
    if element.ns == DIALBACK {
        let type_ = element.attr("type").unwrap_or("none");
        if type_ != "error" {
            return format!("DB {type_}");
        }
        let error = element.children().find(|child| child.name == "error");
        let condition =
            error.map_or("?".into(), |e| condition(e, "urn:ietf:params:xml:ns:xmpp-stanzas"));
        return format!("DB {condition}");
    }
    element.name.clone()
}

/// All rows, on one target.
pub(crate) fn tests<'a>(target: &'a Target<'a>) -> Vec<Test<'a>> {
    let tables = [streams::rows(), xml::rows(), proofs::rows()];
    let rows = tables.into_iter().flatten().map(|row| {
        let name = format!("attacks::{} {}", row.id, row.what);
        Test::new(name, move || async move { target.perform(&row).await })
    });
    rows.collect()
}

/// Behind all others: whoever was lied to has heard no lie.
pub(crate) fn last<'a>(target: &'a Target<'a>) -> Vec<Test<'a>> {
    vec![Test::new("attacks::nothing of it came through", || target.heard())]
}
