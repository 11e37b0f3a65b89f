//! Room: names made small. Every node this process knows gets an index; rows and trails carry two bytes instead of a name.
//! Called by the session table and by the node's router. Absent on purpose: addresses, liveness (`health`), links.

use std::collections::HashMap;

use parking_lot::RwLock;

/// A node's index in this process. Never leaves the process, never persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u16);

/// Both directions between names (`eu-0`) and indices. Grows with the number of distinct node names ever seen,
/// at most 65,535 (more is a refusal, not a panic).
#[derive(Debug, Default)]
pub struct Nodes {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: HashMap<String, NodeIx>,
    names: Vec<String>,
}

impl Nodes {
    /// The index of `name`, made on first sight. `None` only when 65,535 names are taken.
    pub fn index(&self, name: &str) -> Option<NodeIx> {
        if let Some(found) = self.inner.read().by_name.get(name) {
            return Some(*found);
        }
        let mut inner = self.inner.write();
        if let Some(found) = inner.by_name.get(name) {
            return Some(*found);
        }
        let ix = NodeIx(u16::try_from(inner.names.len()).ok()?);
        inner.names.push(name.to_owned());
        inner.by_name.insert(name.to_owned(), ix);
        Some(ix)
    }

    /// The name behind an index made here.
    pub fn name(&self, ix: NodeIx) -> Option<String> {
        self.inner.read().names.get(usize::from(ix.0)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_index() {
        let nodes = Nodes::default();
        let eu = nodes.index("eu-0").expect("room");
        let us = nodes.index("us-0").expect("room");
        assert_ne!(eu, us);
        assert_eq!(nodes.index("eu-0"), Some(eu));
        assert_eq!(nodes.name(us).as_deref(), Some("us-0"));
    }
}
