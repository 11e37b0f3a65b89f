//! Room: what of one addressee's stanzas is still on the way, and whether a new one may go where the rules want it. Values only;
//! called by `mod` and `held` under the entry's lock (blueprint §5).
//!
//! The rule: while something is *unsettled* (it may still come back), a new stanza goes only to exactly the nodes the unsettled
//! ones went to. There each node refuses what follows a refused one (`admit`), so a later stanza is never taken where an earlier
//! one was not. Anything else waits until all is settled.

use replication::clock::Hlc;
use smallvec::SmallVec;
use xmpp::jid::BareJid;

use super::{Carrier, Row};
use crate::node_ix::NodeIx;

/// How long a session that lost its row may take to say what it leaves behind, milliseconds, if nothing is known to be with it
/// ([`Carrier::leaving_ms`]). Then order gives way to delivery.
pub(super) const LEAVING_MS_MAX: u64 = 5_000;

/// Where one stanza goes, and the numbers that settle it there: filled in by [`Carrier::carry`] through [`leave_trail`].
#[derive(Clone, Debug, Default)]
pub struct Trail {
    sent: Sent,
    newest: SmallVec<[(NodeIx, Hlc); 2]>,
}

type Sent = SmallVec<[(NodeIx, u64); 1]>;

impl Trail {
    pub(super) fn new<H>(rows: &[Row<H>], there: &[NodeIx]) -> Self {
        let newest = |node: &NodeIx| {
            let there = rows.iter().filter(|row| row.there() == Some(*node));
            (*node, there.map(|row| row.generation).max().unwrap_or(Hlc::ZERO))
        };
        Self { sent: Sent::new(), newest: there.iter().map(newest).collect() }
    }

    /// The newest of the addressee's rows at `node`. The frame carries it: the stanza is not for sessions bound later. Such a one
    /// may have had it at another node already; and if there is no other, the stanza comes back and finds its way anew.
    pub fn newest(&self, node: NodeIx) -> Hlc {
        self.newest
            .iter()
            .find(|(known, _)| *known == node)
            .map_or(Hlc::ZERO, |(_, newest)| *newest)
    }
}

/// Notes that a stanza was sent to `node`, and the number that [`Carrier::acked`] reaches when it is settled there.
/// For [`Carrier::carry`].
pub fn leave_trail(trail: &mut Trail, node: NodeIx, number: u64) {
    note(&mut trail.sent, node, number);
}

fn note(sent: &mut Sent, node: NodeIx, number: u64) {
    match sent.iter_mut().find(|(known, _)| *known == node) {
        Some(entry) => entry.1 = entry.1.max(number),
        None => sent.push((node, number)),
    }
}

/// The generation of a session of which nothing is known but that it has something of ours.
const UNKNOWN: Hlc = Hlc(u64::MAX);

/// A session that lost its row to a newer bind and has not yet said what it leaves behind.
#[derive(Debug)]
struct Leaving {
    /// `None`: a session of this node.
    node: Option<NodeIx>,
    /// Or [`UNKNOWN`].
    generation: Hlc,
    /// Until when it is waited for; set when somebody first does.
    until_ms: Option<u64>,
}

/// See the room. Kept an addressee; empty for one to whom nothing is sent.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// The number that settles the last thing sent to a node. A settled one is kept while there is a row, as a sign that the
    /// session there may have something of ours.
    trail: Sent,
    /// Where the unsettled ones went.
    span: SmallVec<[NodeIx; 1]>,
    /// And whether sessions of this node had them too.
    span_here: bool,
    /// The next one waits until all is settled, wherever it goes.
    settle: bool,
    #[expect(
        clippy::box_collection,
        reason = "almost always absent: eight bytes a user instead of 24"
    )]
    leaving: Option<Box<Vec<Leaving>>>,
}

impl Way {
    pub(super) fn is_clear(&self) -> bool {
        self.trail.is_empty() && self.leaving.is_none()
    }

    /// Whether a session of this node has lost its row and not ended yet.
    pub(super) fn is_leaving_here(&self) -> bool {
        self.leaving.iter().flat_map(|all| all.iter()).any(|leaving| leaving.node.is_none())
    }

    /// Whether nothing is unsettled.
    pub(super) fn is_settled<H, S>(&self, carrier: &impl Carrier<H, S>) -> bool {
        self.open(carrier).next().is_none()
    }

    fn open<H, S>(&self, carrier: &impl Carrier<H, S>) -> impl Iterator<Item = (NodeIx, u64)> {
        self.trail.iter().copied().filter(|(node, number)| carrier.acked(*node) < *number)
    }

    /// Whether something at that node is unsettled.
    pub(super) fn is_open<H, S>(&self, node: NodeIx, carrier: &impl Carrier<H, S>) -> bool {
        self.open(carrier).any(|(known, _)| known == node)
    }

    /// Forgets what is settled and of no more use.
    pub(super) fn tidy<H, S>(
        &mut self,
        rows: &[Row<H>],
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) {
        self.give_up_leaving(now_ms);
        self.trail.retain(|(node, number)| {
            carrier.acked(*node) < *number || rows.iter().any(|row| row.there() == Some(*node))
        });
    }

    /// What must be settled, and by when the sessions that are leaving are given up. Empty and `None`: nothing to wait for.
    pub(super) fn waits_for<H, S>(
        &self,
        carrier: &impl Carrier<H, S>,
    ) -> (SmallVec<[(NodeIx, u64); 2]>, Option<u64>) {
        let until =
            self.leaving.iter().flat_map(|all| all.iter()).filter_map(|one| one.until_ms).max();
        (self.open(carrier).collect(), until)
    }

    /// Whether a stanza for these places has to wait.
    pub(super) fn blocks<H, S>(
        &mut self,
        to: &BareJid,
        here: &[H],
        there: &[NodeIx],
        now_ms: u64,
        carrier: &impl Carrier<H, S>,
    ) -> bool {
        for one in self.leaving.iter_mut().flat_map(|all| all.iter_mut()) {
            one.until_ms.get_or_insert_with(|| now_ms + carrier.leaving_ms(one.node, to));
        }
        self.give_up_leaving(now_ms);
        if self.leaving.is_some() {
            return true;
        }
        if self.is_settled(carrier) {
            self.settle = false;
            return false;
        }
        self.settle
            || here.is_empty() == self.span_here
            || there.len() != self.span.len()
            || !there.iter().all(|node| self.span.contains(node))
    }

    /// Gives up the sessions that took too long to say goodbye.
    fn give_up_leaving(&mut self, now_ms: u64) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.retain(|one| one.until_ms.is_none_or(|until| now_ms < until));
        if leaving.is_empty() {
            self.leaving = None;
        }
    }

    /// A stanza set out. `first`: nothing was unsettled before.
    pub(super) fn went(&mut self, Trail { sent, .. }: Trail, here: bool, first: bool) {
        if sent.is_empty() {
            return;
        }
        // A link was full: from now on less is common to all that is on the way.
        self.settle |= !first && sent.len() < self.span.len();
        self.span_here = here;
        self.span = sent.iter().map(|(node, _)| *node).collect();
        for (node, number) in sent {
            note(&mut self.trail, node, number);
        }
    }

    /// A node refused something, and so refuses what follows: nothing more until all is settled.
    pub(super) fn refused(&mut self) {
        self.settle = true;
    }

    /// A row is gone by its own node's word. What its session gives back comes before `fence`.
    pub(super) fn row_gone(&mut self, node: NodeIx, fence: u64) {
        if let Some(entry) = self.trail.iter_mut().find(|(known, _)| *known == node) {
            entry.1 = entry.1.max(fence);
        }
    }

    /// Whether sessions of that node may have something of ours.
    pub(super) fn may_be_at(&self, node: NodeIx) -> bool {
        self.trail.iter().any(|(known, _)| *known == node)
    }

    /// Sessions of that node have something that was not sent there: an earlier life of ours sent it, or it went along with a session. What they have
    /// given back until now comes before `fence`. What is newer waits wherever it goes: not all that may come back has been there.
    pub(super) fn held_there(&mut self, node: NodeIx, fence: u64) {
        self.settle = true;
        note(&mut self.trail, node, fence);
    }

    /// The same, and there is no row that would say whose they are: they are ending, or their rows are still on the way.
    pub(super) fn leaves_unknown(&mut self, node: NodeIx) {
        self.leaves_surely(Some(node), UNKNOWN);
    }

    /// Whether there are any of [`Self::leaves_unknown`].
    pub(super) fn has_unknown(&self, node: NodeIx) -> bool {
        let unknown = |one: &Leaving| one.node == Some(node) && one.generation == UNKNOWN;
        self.leaving.iter().flat_map(|all| all.iter()).any(unknown)
    }

    /// They are known by now, or have nothing any more. True when there were any.
    pub(super) fn knows(&mut self, node: NodeIx) -> bool {
        let any = self.has_unknown(node);
        if any {
            self.stays(Some(node), UNKNOWN);
        }
        any
    }

    /// A row lost to a newer bind; its session will end, and then say so.
    pub(super) fn leaves(&mut self, node: Option<NodeIx>, generation: Hlc) {
        if node.is_none_or(|node| self.may_be_at(node)) {
            self.leaves_surely(node, generation);
        }
    }

    /// The same of one that is known to have something of ours.
    pub(super) fn leaves_surely(&mut self, node: Option<NodeIx>, generation: Hlc) {
        let mut known = self.leaving.iter().flat_map(|all| all.iter());
        if !known.any(|one| one.node == node && one.generation == generation) {
            self.leaving.get_or_insert_default().push(Leaving { node, generation, until_ms: None });
        }
    }

    /// A row that had lost has its place back: its session is not leaving.
    pub(super) fn stays(&mut self, node: Option<NodeIx>, generation: Hlc) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.retain(|one| one.node != node || one.generation != generation);
        if leaving.is_empty() {
            self.leaving = None;
        }
    }

    /// A session has ended, here or on `node`. True when it was one of those waited for.
    pub(super) fn left(
        &mut self,
        node: Option<NodeIx>,
        generation: Hlc,
        fence: impl FnOnce(NodeIx) -> u64,
    ) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        let one = |one: &Leaving| one.node == node && one.generation == generation;
        let Some(at) = leaving.iter().position(one) else { return false };
        leaving.swap_remove(at);
        if leaving.is_empty() {
            self.leaving = None;
        }
        if let Some(node) = node {
            note(&mut self.trail, node, fence(node));
        }
        true
    }

    /// The other node of which a session of that generation is leaving.
    pub(super) fn leaving_there(&self, generation: Hlc) -> Option<NodeIx> {
        let mut all = self.leaving.iter().flat_map(|all| all.iter());
        all.find(|one| one.generation == generation).and_then(|one| one.node)
    }

    /// Nothing comes back from that node any more.
    pub(super) fn forget(&mut self, node: NodeIx) {
        self.trail.retain(|(known, _)| *known != node);
        self.forget_leaving(node);
    }

    /// Sessions of that node are not waited for much longer. True when there are any.
    pub(super) fn hurry(&mut self, node: NodeIx, now_ms: u64) -> bool {
        let mut any = false;
        for one in self.leaving.iter_mut().flat_map(|all| all.iter_mut()) {
            if one.node == Some(node) {
                let until = now_ms + LEAVING_MS_MAX;
                one.until_ms = Some(one.until_ms.map_or(until, |known| known.min(until)));
                any = true;
            }
        }
        any
    }

    /// Sessions of that node are not waited for any more. True when there were any.
    pub(super) fn forget_leaving(&mut self, node: NodeIx) -> bool {
        let Some(leaving) = &mut self.leaving else { return false };
        let before = leaving.len();
        leaving.retain(|one| one.node != Some(node));
        let forgotten = leaving.len() < before;
        if leaving.is_empty() {
            self.leaving = None;
        }
        forgotten
    }
}
