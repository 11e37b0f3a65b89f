//! XEP-0377 Blocking Command Reports, version 0.4.1: what a user says of an address when blocking it. Kept for the operator, the newest
//! `reports.kept_max` of the whole platform, and told to the addresses of `reports.forward_to`. Store `reports`: owner the global domain, an
//! archive, id the home's hybrid time, and under the key `count` how many it has. Written only at the home of that owner.
//! A report that does not add up is passed over: the block counts (§6). Left out: passing reports on to the domain they are about or to third
//! parties; whether the user agreed to that is kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use super::home::{Answer, What};
use super::record::{decode, encode};
use crate::app::Node;
use crate::homes::{Decision, HomeError, Tx};
use crate::router;
use crate::session::Seat;
use crate::storage::{Page, StorageError};

/// Name of the operation.
pub const OP: &str = "reports";
/// The reports.
pub const REPORTS: &str = "reports";
const COUNT: &str = "count";
/// Bytes of what a user writes, and of a reason or id; the rest is cut off.
const TEXT_BYTES_MAX: usize = 4096;
const WORD_BYTES_MAX: usize = 1023;
/// Messages that one report names.
const STANZAS_MAX: usize = 50;
const DAY_MS: u64 = 86_400_000;

/// What a user reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whom.
    pub jid: Jid,
    /// Why: a URN, `urn:xmpp:reporting:spam` for one.
    pub reason: String,
    /// In the user's own words.
    pub text: Option<String>,
    /// Messages that are meant (XEP-0359): by whom the id was given, and the id.
    pub stanzas: Vec<(String, String)>,
    /// The user agrees that the domain it is about is told.
    pub report_origin: bool,
    /// And others.
    pub third_party: bool,
}

/// A report as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Who reports.
    pub by: BareJid,
    /// What.
    pub report: Report,
}

impl Report {
    /// Reads a `<report/>` about that address (§4, §5, §6); `None` if it gives no reason.
    pub fn read(jid: &Jid, element: &Element) -> Option<Self> {
        let reason = element.attr("reason").filter(|reason| !reason.is_empty())?;
        let text = element.child("text", ns::REPORTING).map(Element::text);
        let ids = element.children().filter(|child| child.is("stanza-id", ns::STANZA_ID));
        let id = |child: &Element| Some((word(child.attr("by")?), word(child.attr("id")?)));
        Some(Self {
            jid: jid.clone(),
            reason: word(reason),
            text: text.map(|text| cut(text.trim(), TEXT_BYTES_MAX)).filter(|text| !text.is_empty()),
            stanzas: ids.filter_map(id).take(STANZAS_MAX).collect(),
            report_origin: element.has_child("report-origin", ns::REPORTING),
            third_party: element.has_child("third-party", ns::REPORTING),
        })
    }

    fn element(&self) -> Element {
        let text = |text: &String| Element::new("text", ns::REPORTING).with_text(text);
        let ids = self.stanzas.iter().map(|(by, id)| {
            Element::new("stanza-id", ns::STANZA_ID).with_attr("by", by).with_attr("id", id)
        });
        let flags = [("report-origin", self.report_origin), ("third-party", self.third_party)];
        let flags = flags.into_iter().filter(|(_, on)| *on);
        Element::new("report", ns::REPORTING)
            .with_attr("reason", &self.reason)
            .with_children(ids)
            .with_children(self.text.as_ref().map(text))
            .with_children(flags.map(|(name, _)| Element::new(name, ns::REPORTING)))
    }
}

fn word(text: &str) -> String {
    cut(text, WORD_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> String {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

/// What is asked of the reports' home.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    kept: Vec<Kept>,
    /// `reports.kept_max` of the asker.
    max: u32,
}

/// The operation.
pub struct ReportsHome;

impl Decision for ReportsHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = ();

    async fn decide(&self, tx: &mut Tx, _: &BareJid, request: Request) -> Result<(), HomeError> {
        keep(tx, request).await
    }
}

async fn keep(tx: &mut Tx, Request { kept, max }: Request) -> Result<(), HomeError> {
    let count = tx.get(REPORTS, COUNT).await?;
    let mut count: u64 = count.map(|bytes| decode(&bytes)).transpose()?.unwrap_or(0);
    for (id, one) in (tx.at().0..).zip(&kept) {
        tx.append(REPORTS, id, encode(one));
        count += 1;
    }
    // The oldest make room.
    let beyond = count.saturating_sub(u64::from(max));
    if beyond > 0 {
        let oldest = Page::after(None, usize::try_from(beyond).unwrap_or(usize::MAX));
        if let Some((last, _)) = tx.archive(REPORTS, oldest).await?.last() {
            tx.trim(REPORTS, *last);
            count -= beyond;
        }
    }
    tx.put(REPORTS, COUNT, encode(&count));
    Ok(())
}

/// Takes what a user reports, as much as one user may a day; who reports more is not told, for the block is done.
pub(super) fn take(node: &Arc<Node>, seat: &Arc<Seat>, mut reports: Vec<Report>) {
    let (node, seat) = (node.clone(), seat.clone());
    tokio::spawn(async move {
        let now = node.wall_ms();
        let count = u32::try_from(reports.len()).unwrap_or(u32::MAX);
        let what = What::Report(count, now / DAY_MS, node.config.reports.per_account_per_day);
        let taken = match super::asked(&node, &seat, what).await {
            Ok(Answer::Reports(taken)) => taken,
            Ok(_) => 0,
            Err(error) => {
                tracing::warn!(account = %seat.bare, %error, "what a user reports is not kept");
                return;
            }
        };
        if taken < count {
            tracing::info!(account = %seat.bare, "reports more than it may in a day");
            reports.truncate(taken as usize);
        }
        let kept = |report| Kept { at_ms: now, by: seat.bare.clone(), report };
        let kept: Vec<Kept> = reports.into_iter().map(kept).collect();
        if kept.is_empty() {
            return;
        }
        forward(&node, &kept);
        let request = Request { kept, max: node.config.reports.kept_max };
        let owner = owner(&node);
        let done: Result<(), HomeError> = node.homes.exchange(&owner, OP, &request).await;
        if let Err(error) = done {
            tracing::warn!(account = %seat.bare, %error, "what a user reports is not kept");
        }
    });
}

fn owner(node: &Node) -> BareJid {
    BareJid::new(None, &node.domains.global).expect("the configuration's domain is one")
}

/// Tells those who want to hear of it at once.
fn forward(node: &Arc<Node>, kept: &[Kept]) {
    let from = Jid::from(&owner(node));
    for to in &node.config.reports.forward_to {
        let Ok(to) = Jid::parse(to) else { continue };
        for Kept { by, report, .. } in kept {
            let mut body =
                format!("{by} has blocked and reported {}: {}", report.jid, report.reason);
            if let Some(text) = &report.text {
                body = format!("{body}\n{text}");
            }
            let item = Element::new("item", ns::BLOCKING)
                .with_attr("jid", report.jid.as_str())
                .with_child(report.element());
            let message = Stanza::message(Some(&to), Some(&from), Type::Normal)
                .id(&node.token())
                .with_text_child("body", &body)
                .with_child(Element::new("block", ns::BLOCKING).with_child(item))
                .build();
            router::route(node, message);
        }
    }
}

/// The newest reports kept here, newest first.
///
/// # Errors
/// The storage cannot be read.
pub async fn newest(node: &Node, max: usize) -> Result<Vec<Kept>, StorageError> {
    let owner = owner(node);
    let page = node.storage.archive(REPORTS, owner.as_str(), Page::before(None, max)).await?;
    page.iter().rev().map(|(_, bytes)| decode(bytes)).collect()
}

impl Kept {
    /// When, as people read it.
    pub fn at(&self) -> String {
        date_time::format(self.at_ms)
    }
}
