//! One row: bytes in a state, and the answers that are right. Called by the tables, performed by [`perform`].
//!
//! What is heard is put into words: `SE x` a stream error, behind which the stream and the connection must end; `ST x/type` a stanza error,
//! which must carry the id of what it answers; `SASL x`, `SM x` failures; `result`, `message BODY`, `features` and so on for what is none.
//! A client that is bound asks a ping behind the bytes: what comes before its answer is all that comes, and the answer says that the
//! stream lives.

use crate::expect;
use crate::state::{At, Guest, House};
use crate::wire::{Heard, Road};
use pangaea_tests::client::Result;
use pangaea_tests::xml::{CLIENT, Element, STREAM};

const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
const SM: &str = "urn:xmpp:sm:3";
const MARKER: &str = "marker";

/// What is done, in order.
enum Turn {
    /// Bytes, with names filled in.
    Says(String),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Waits for an element of that name.
    Hears(&'static str),
}

/// See the room.
pub(crate) struct Row {
    id: &'static str,
    what: &'static str,
    at: At,
    turns: Vec<Turn>,
    expected: Vec<&'static str>,
    roads: &'static [Road],
}

impl Row {
    /// Nothing is expected yet: `""` is the word for that.
    pub(crate) fn new(id: &'static str, what: &'static str, at: At) -> Self {
        Self { id, what, at, turns: Vec::new(), expected: Vec::new(), roads: Road::ALL }
    }

    pub(crate) fn says(mut self, text: impl Into<String>) -> Self {
        self.turns.push(Turn::Says(text.into()));
        self
    }

    pub(crate) fn raw(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.turns.push(Turn::Raw(bytes.into()));
        self
    }

    pub(crate) fn hears(mut self, name: &'static str) -> Self {
        self.turns.push(Turn::Hears(name));
        self
    }

    pub(crate) fn on(mut self, roads: &'static [Road]) -> Self {
        self.roads = roads;
        self
    }

    /// Any one of these, and nothing else.
    pub(crate) fn gets(mut self, expected: &[&'static str]) -> Self {
        self.expected = expected.to_vec();
        self
    }

    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.id, self.what)
    }

    pub(crate) fn is_on(&self, road: Road) -> bool {
        self.roads.contains(&road)
    }
}

/// Performs a row on a road.
pub(crate) async fn perform(row: &Row, house: &House<'_>, road: Road) -> Result<()> {
    let mut guest = house.guest(road, row.at).await?;
    let mut said = String::new();
    for turn in &row.turns {
        match turn {
            Turn::Says(text) => {
                let text = house.fill(text, &guest);
                guest.wire.send(text.as_bytes()).await;
                said.push_str(&text);
            }
            Turn::Raw(bytes) => guest.wire.send(bytes).await,
            Turn::Hears(name) => {
                let element = guest.element().await?;
                expect(element.name == *name, || format!("expected {name}, heard {element}"))?;
            }
        }
    }
    judge(house, &mut guest, row.at, &said, &row.expected).await
}

/// Whether what comes now is one of these, and nothing else.
pub(crate) async fn judge(
    house: &House<'_>,
    guest: &mut Guest,
    at: At,
    said: &str,
    expected: &[&str],
) -> Result<()> {
    if at >= At::Bound {
        let marker = format!(
            "<iq type='get' id='{MARKER}' to='{}'><ping xmlns='urn:xmpp:ping'/></iq>",
            guest.domain
        );
        guest.wire.send(marker.as_bytes()).await;
    }
    // An answer that is waited for may come behind that to the ping: where nobody of an address is known, other regions are asked.
    let late = !expected.contains(&"");
    let heard = listen(guest, at, said, late).await?;
    let is_right = expected.iter().any(|expected| house.fill(expected, guest) == heard);
    expect(is_right, || format!("expected {}\n     got {heard}", expected.join(" | ")))
}

/// All that comes, in words.
async fn listen(guest: &mut Guest, at: At, said: &str, late: bool) -> Result<String> {
    let mut words: Vec<String> = Vec::new();
    let mut marked = false;
    loop {
        match guest.wire.hear().await? {
            // Ours to any of theirs: it says nothing about them.
            Heard::Open => {}
            Heard::Close => {
                // RFC 6120 §4.4: whoever closes the stream closes the connection.
                return match guest.wire.hear().await? {
                    Heard::End if words.is_empty() => Ok("closed".into()),
                    Heard::End => Ok(words.join(", ")),
                    other => Err(format!("behind the end of the stream: {other:?}")),
                };
            }
            Heard::End if words.is_empty() => return Ok("end".into()),
            Heard::End => return Err(format!("cut off behind {words:?}")),
            Heard::Element(element) => {
                if element.attr("id") == Some(MARKER) {
                    if late && words.is_empty() {
                        marked = true;
                        continue;
                    }
                    return Ok(words.join(", "));
                }
                // Counts of stream management come when they come.
                if element.ns == SM && matches!(element.name.as_str(), "a" | "r") {
                    continue;
                }
                let word = word(&element, said)?;
                let is_error = word.starts_with("SE ");
                words.push(word);
                // Not bound, there is one answer; behind an error the end is waited for.
                if (at < At::Bound || marked) && !is_error {
                    return Ok(words.join(", "));
                }
            }
        }
    }
}

fn condition(of: &Element, ns: &str) -> Result<String> {
    let mut conditions = of.children().filter(|child| child.ns == ns && child.name != "text");
    let first = conditions.next().ok_or_else(|| format!("no condition: {of}"))?;
    expect(conditions.next().is_none(), || format!("two conditions: {of}"))?;
    let extra = of.children().find(|child| child.ns != ns);
    Ok(extra.map_or(first.name.clone(), |extra| format!("{} {}", first.name, extra.name)))
}

/// An element in a word.
fn word(element: &Element, said: &str) -> Result<String> {
    let type_ = element.attr("type");
    if element.is("error", STREAM) {
        return Ok(format!("SE {}", condition(element, STREAMS)?));
    }
    if element.is("failure", "urn:ietf:params:xml:ns:xmpp-sasl") {
        let inside = element.children().next().ok_or("an empty failure")?;
        return Ok(format!("SASL {}", inside.name));
    }
    if element.is("failed", SM) {
        return Ok(format!("SM {}", condition(element, STANZAS)?));
    }
    if element.is_stanza() && type_ == Some("error") {
        let error = element.child("error", CLIENT).ok_or("an error without an error")?;
        let condition = condition(error, STANZAS)?;
        // RFC 6120 §8.1.3: the id comes back.
        let id = element.attr("id");
        let is_its_own = id.is_none_or(|id| said.contains(&format!("id='{id}'")));
        expect(is_its_own && (id.is_some() || !said.contains(" id='")), || {
            format!("an answer to something else: {element}")
        })?;
        let kind = error.attr("type").unwrap_or("?");
        return Ok(match condition.split_once(' ') {
            Some((condition, extra)) => format!("ST {condition}/{kind} {extra}"),
            None => format!("ST {condition}/{kind}"),
        });
    }
    Ok(match (element.name.as_str(), type_) {
        ("iq", Some("result")) => "result".into(),
        ("iq", Some(type_)) => format!("iq {type_} from {}", element.attr("from").unwrap_or("?")),
        ("message", _) => format!("message {}", element.body().unwrap_or_default()),
        ("presence", Some(type_)) => format!("presence {type_}"),
        (name, _) => name.to_owned(),
    })
}
