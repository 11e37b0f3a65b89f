//! Room: the entry of one bare JID. Plain state under the entry's lock.

use smallvec::SmallVec;
use xmpp::jid::FullJid;

use super::row::Row;
use super::way::Way;
use crate::node_ix::NodeIx;
use crate::park::Gate;

/// See the room.
#[derive(Debug)]
pub(super) struct User<H, S> {
    pub(super) rows: SmallVec<[Row<H>; 1]>,
    pub(super) way: Way,
    pub(super) gate: Option<Box<Gate<S>>>,
    /// Rows of other nodes that lost to a newer one of the same full JID. Their nodes end those sessions as soon as they hear of it;
    /// but if the newer one is gone before they do, there is nothing to hear, and the older one stands.
    #[expect(
        clippy::box_collection,
        reason = "almost always absent: eight bytes a user instead of 24"
    )]
    pub(super) shadows: Option<Box<Vec<Row<H>>>>,
}

impl<H, S> Default for User<H, S> {
    fn default() -> Self {
        Self { rows: SmallVec::new(), way: Way::default(), gate: None, shadows: None }
    }
}

impl<H, S> User<H, S> {
    pub(super) fn is_idle(&self) -> bool {
        self.rows.is_empty() && self.gate.is_none() && self.way.is_clear() && self.shadows.is_none()
    }

    /// Whether somebody must look at it again ([`super::Directory::reopen`]).
    pub(super) fn is_pending(&self) -> bool {
        self.gate.is_some() || self.rows.is_empty() && !self.way.is_clear()
    }

    /// Keeps a row that lost, if it is another node's newest for this full JID. Whether it was not known before.
    pub(super) fn shadow(&mut self, row: Row<H>) -> bool {
        let Some(node) = row.there() else { return false };
        let same = |known: &Row<H>| known.full == row.full && known.there() == Some(node);
        let all = self.rows.iter().chain(self.shadows.iter().flat_map(|all| all.iter()));
        if all.filter(|known| same(known)).any(|known| known.generation >= row.generation) {
            return false;
        }
        self.unshadow(Some(node), &row.full);
        self.shadows.get_or_insert_default().push(row);
        true
    }

    /// A node has a newer row of this full JID.
    pub(super) fn unshadow(&mut self, node: Option<NodeIx>, full: &FullJid) {
        self.end_shadow(|known| known.full == *full && known.there() == node);
    }

    pub(super) fn end_shadow(&mut self, mut ended: impl FnMut(&Row<H>) -> bool) {
        let Some(shadows) = &mut self.shadows else { return };
        shadows.retain(|known| !ended(known));
        if shadows.is_empty() {
            self.shadows = None;
        }
    }

    /// The row of this full JID is gone: the newest of those that lost to it takes its place.
    pub(super) fn promote(&mut self, full: &FullJid) {
        let Some(shadows) = &mut self.shadows else { return };
        let of_full = shadows.iter().enumerate().filter(|(_, known)| known.full == *full);
        if let Some((at, _)) = of_full.max_by_key(|(_, known)| known.generation) {
            let row = shadows.swap_remove(at);
            self.way.stays(row.there(), row.generation);
            self.rows.push(Row { emerged: true, ..row });
        }
        if shadows.is_empty() {
            self.shadows = None;
        }
    }
}
