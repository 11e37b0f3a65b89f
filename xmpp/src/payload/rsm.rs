//! Result set management (XEP-0059): which part of a long answer is wanted, and which one it is. Called by archives, pubsub, rooms.
//!
//! Deliberately absent: paging by `<index/>` (§2.6), which no archive of ours can do without counting; it is refused as §2.6 allows.

use crate::ns;
use crate::xml::element::Element;

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// At most so many; 0 asks for the count alone (§2.7). `None`: the responder's choice.
    pub max: Option<u32>,
    /// Items after this one.
    pub after: Option<String>,
    /// Items before this one, the last of them; `Some("")`: the last of all (§2.5).
    pub before: Option<String>,
}

/// Why a `<set/>` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSet {
    /// `<max/>` is no number.
    Max,
    /// `<index/>`: not possible here (`feature-not-implemented`, §2.6).
    Index,
}

impl Wanted {
    /// Reads the `<set/>` in a request; without one, everything from the start is wanted.
    ///
    /// # Errors
    /// [`BadSet`].
    pub fn of(request: &Element) -> Result<Wanted, BadSet> {
        let Some(set) = request.child("set", ns::RSM) else { return Ok(Wanted::default()) };
        let text = |name: &str| set.child(name, ns::RSM).map(Element::text);
        if set.has_child("index", ns::RSM) {
            return Err(BadSet::Index);
        }
        let max = text("max").map(|max| max.trim().parse().map_err(|_| BadSet::Max)).transpose()?;
        // An empty <after/> is the beginning.
        let after = text("after").filter(|after| !after.is_empty());
        Ok(Wanted { max, after, before: text("before") })
    }
}

/// What an answer holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Ids of the first and the last item; `None` when there is no item in it.
    pub ends: Option<(String, String)>,
    /// How many items there are in all.
    pub count: Option<u64>,
    /// How many of them stand before the first of these, where that is known.
    pub index: Option<u64>,
}

impl Given {
    /// The `<set/>`.
    #[must_use]
    pub fn element(&self) -> Element {
        let leaf = |name: &str, text: &str| Element::new(name, ns::RSM).with_text(text);
        let mut set = Element::new("set", ns::RSM);
        if let Some((first, last)) = &self.ends {
            let index = self.index.map(|index| index.to_string());
            set.push_child(leaf("first", first).with_attr_opt("index", index.as_deref()));
            set.push_child(leaf("last", last));
        }
        if let Some(count) = self.count {
            set.push_child(leaf("count", &count.to_string()));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(set: &str) -> Result<Wanted, BadSet> {
        let xml = format!("<query xmlns='urn:xmpp:mam:2'>{set}</query>");
        Wanted::of(&Element::parse(xml.as_bytes()).expect("well-formed"))
    }

    #[test]
    fn what_is_wanted_is_read() {
        let set =
            |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(wanted(""), Ok(Wanted::default()));
        for (inner, expected) in [
            ("", Wanted::default()),
            ("<max>10</max>", Wanted { max: Some(10), ..Wanted::default() }),
            ("<max>0</max>", Wanted { max: Some(0), ..Wanted::default() }),
            ("<after>x</after>", Wanted { after: some("x"), ..Wanted::default() }),
            ("<after/>", Wanted::default()),
            ("<before/>", Wanted { before: some(""), ..Wanted::default() }),
            (
                "<max> 3 </max><before>y</before>",
                Wanted { max: Some(3), before: some("y"), after: None },
            ),
        ] {
            assert_eq!(wanted(&set(inner)), Ok(expected), "{inner}");
        }
        for (inner, expected) in [
            ("<max>ten</max>", BadSet::Max),
            ("<max>-1</max>", BadSet::Max),
            ("<max/>", BadSet::Max),
            ("<max>99999999999</max>", BadSet::Max),
            ("<max>10</max><index>371</index>", BadSet::Index),
        ] {
            assert_eq!(wanted(&set(inner)), Err(expected), "{inner}");
        }
    }

    #[test]
    fn what_is_given_is_written() {
        let ends = Some(("a".to_owned(), "b".to_owned()));
        let text = |given: Given| String::from_utf8(given.element().to_bytes()).expect("text");
        let all = text(Given { ends: ends.clone(), count: Some(2), index: None });
        assert!(all.contains("<first>a</first><last>b</last><count>2</count>"), "{all}");
        let at = text(Given { ends, count: None, index: Some(0) });
        assert!(at.contains("<first index='0'>a</first><last>b</last>"), "{at}");
        let none = text(Given::default());
        assert!(!none.contains("first") && !none.contains("count"), "{none}");
    }
}
