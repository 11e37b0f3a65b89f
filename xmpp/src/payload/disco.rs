//! Service discovery payloads (XEP-0030), with the extensions of XEP-0128. Called by the disco feature and services.

use super::data_form::Form;
use crate::ns;
use crate::xml::element::Element;

/// What an entity is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Such as `server`.
    pub category: String,
    /// Such as `im`.
    pub type_: String,
    /// The language of the name.
    pub lang: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
}

impl Identity {
    /// An identity of the registry (<https://xmpp.org/registrar/disco-categories.html>).
    #[must_use]
    pub fn new(category: &str, type_: &str, name: Option<&str>) -> Identity {
        Identity {
            category: category.to_owned(),
            type_: type_.to_owned(),
            lang: None,
            name: name.map(str::to_owned),
        }
    }
}

/// The answer to a disco#info request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The node that was asked about.
    pub node: Option<String>,
    /// What it is; at least one in an answer.
    pub identities: Vec<Identity>,
    /// What it can do, each once.
    pub features: Vec<String>,
    /// Extended information (XEP-0128).
    pub forms: Vec<Form>,
}

impl Info {
    /// The same with one more identity.
    #[must_use]
    pub fn with_identity(mut self, category: &str, type_: &str, name: Option<&str>) -> Info {
        self.identities.push(Identity::new(category, type_, name));
        self
    }

    /// The same with more features; what is there already is not repeated.
    #[must_use]
    pub fn with_features<'a>(mut self, features: impl IntoIterator<Item = &'a str>) -> Info {
        for feature in features {
            if !self.features.iter().any(|known| known == feature) {
                self.features.push(feature.to_owned());
            }
        }
        self
    }

    /// The same with a form.
    #[must_use]
    pub fn with_form(mut self, form: Form) -> Info {
        self.forms.push(form);
        self
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> Element {
        let identities = self.identities.iter().map(|identity| {
            Element::new("identity", ns::DISCO_INFO)
                .with_attr("category", &identity.category)
                .with_attr("type", &identity.type_)
                .with_attr_opt("xml:lang", identity.lang.as_deref())
                .with_attr_opt("name", identity.name.as_deref())
        });
        let features = self
            .features
            .iter()
            .map(|var| Element::new("feature", ns::DISCO_INFO).with_attr("var", var));
        Element::new("query", ns::DISCO_INFO)
            .with_attr_opt("node", self.node.as_deref())
            .with_children(identities)
            .with_children(features)
            .with_children(self.forms.iter().map(Form::element))
    }

    /// Reads an answer, leaving out what is malformed in it; `None` if it is none.
    #[must_use]
    pub fn parse(element: &Element) -> Option<Info> {
        if !element.is("query", ns::DISCO_INFO) {
            return None;
        }
        let mut info = Info { node: element.attr("node").map(str::to_owned), ..Info::default() };
        for child in element.children() {
            match (child.ns(), child.name()) {
                (ns::DISCO_INFO, "identity") => {
                    if let (Some(category), Some(type_)) =
                        (child.attr("category"), child.attr("type"))
                    {
                        let identity = Identity::new(category, type_, child.attr("name"));
                        let lang = child.attr("xml:lang").map(str::to_owned);
                        info.identities.push(Identity { lang, ..identity });
                    }
                }
                (ns::DISCO_INFO, "feature") => {
                    info.features.extend(child.attr("var").map(str::to_owned))
                }
                (ns::DATA_FORMS, _) => info.forms.extend(Form::parse(child).ok()),
                _ => {}
            }
        }
        Some(info)
    }
}

/// One entity or node that belongs to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its address.
    pub jid: String,
    /// Its node.
    pub node: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
}

/// The answer to a disco#items request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    /// The node that was asked about.
    pub node: Option<String>,
    /// What belongs to it.
    pub items: Vec<Item>,
}

impl Items {
    /// The same with one more entity.
    #[must_use]
    pub fn with_item(mut self, jid: &str, node: Option<&str>, name: Option<&str>) -> Items {
        self.items.push(Item {
            jid: jid.to_owned(),
            node: node.map(str::to_owned),
            name: name.map(str::to_owned),
        });
        self
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> Element {
        let items = self.items.iter().map(|item| {
            Element::new("item", ns::DISCO_ITEMS)
                .with_attr("jid", &item.jid)
                .with_attr_opt("node", item.node.as_deref())
                .with_attr_opt("name", item.name.as_deref())
        });
        Element::new("query", ns::DISCO_ITEMS)
            .with_attr_opt("node", self.node.as_deref())
            .with_children(items)
    }

    /// Reads an answer, leaving out items without an address; `None` if it is none.
    #[must_use]
    pub fn parse(element: &Element) -> Option<Items> {
        if !element.is("query", ns::DISCO_ITEMS) {
            return None;
        }
        let mut items = Items { node: element.attr("node").map(str::to_owned), ..Items::default() };
        for child in element.children().filter(|child| child.is("item", ns::DISCO_ITEMS)) {
            if let Some(jid) = child.attr("jid") {
                items = items.with_item(jid, child.attr("node"), child.attr("name"));
            }
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::data_form::{Field, FieldKind, FormKind};

    #[test]
    fn info_is_read_back_as_it_was_written_and_lists_a_feature_once() {
        let form =
            Form::typed(FormKind::Result, "http://jabber.org/network/serverinfo").with_field(
                Field::new("abuse-addresses", FieldKind::ListMulti, "mailto:abuse@a.example"),
            );
        let info = Info { node: Some("n".into()), ..Info::default() }
            .with_identity("server", "im", Some("Pangaea"))
            .with_identity("pubsub", "pep", None)
            .with_features([ns::PING, ns::DISCO_INFO, ns::PING])
            .with_form(form);
        assert_eq!(info.features, [ns::PING, ns::DISCO_INFO]);
        let element = Element::parse(&info.element().to_bytes()).expect("well-formed");
        assert_eq!(Info::parse(&element), Some(info));
        assert_eq!(Items::parse(&element), None);
    }

    #[test]
    fn items_are_read_back_as_they_were_written() {
        let items = Items::default().with_item("muc.a.example", None, Some("Rooms")).with_item(
            "a.example",
            Some("commands"),
            None,
        );
        assert_eq!(
            Items::parse(&Element::parse(&items.element().to_bytes()).expect("well-formed")),
            Some(items)
        );
    }

    #[test]
    fn what_is_malformed_is_left_out() {
        let xml = "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client'/><feature/>\
                   <feature var='a'/><x xmlns='jabber:x:data'/></query>";
        let info =
            Info::parse(&Element::parse(xml.as_bytes()).expect("well-formed")).expect("an answer");
        assert_eq!((info.identities.len(), info.features.len(), info.forms.len()), (0, 1, 0));
    }
}
