//! Entity capabilities (XEP-0115 1.6.0): what an entity says of itself, in one word that can be checked. Made for the server by the
//! features' list, read and checked for clients by whoever wants to know what they take.
//!
//! Deliberately absent: other hashes than SHA-1 (§5.1 makes it the one everybody has), the format without a hash (§7).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

use super::data_form::{Field, Form};
use super::disco::Info;
use crate::ns;
use crate::xml::element::Element;

/// What our own `node` attribute is: the software (§4).
pub const NODE: &str = "urn:pangaea";

/// `<c/>`, as far as it can be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Which software.
    pub node: String,
    /// The hash of what it says of itself.
    pub ver: String,
}

impl Caps {
    /// Ours.
    #[must_use]
    pub fn of(info: &Info) -> Caps {
        Caps { node: NODE.to_owned(), ver: ver(info) }
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> Element {
        Element::new("c", ns::CAPS)
            .with_attr("hash", "sha-1")
            .with_attr("node", &self.node)
            .with_attr("ver", &self.ver)
    }

    /// Reads `<c/>`; `None` if it is none, or its hash is another.
    #[must_use]
    pub fn parse(element: &Element) -> Option<Caps> {
        let is_ours = element.is("c", ns::CAPS) && element.attr("hash") == Some("sha-1");
        let owned = |name| element.attr(name).filter(|text| !text.is_empty()).map(str::to_owned);
        if is_ours { Some(Caps { node: owned("node")?, ver: owned("ver")? }) } else { None }
    }

    /// The disco node at which it can be looked up: `node#ver` (§6.2).
    #[must_use]
    pub fn disco_node(&self) -> String {
        format!("{}#{}", self.node, self.ver)
    }
}

/// The verification string (§5.1).
#[must_use]
pub fn ver(info: &Info) -> String {
    BASE64.encode(Sha1::digest(plain(info)))
}

/// What is hashed.
fn plain<'a>(info: &'a Info) -> String {
    let mut out = String::new();
    let mut add = |text: &str| {
        out.push_str(text);
        out.push('<');
    };
    let mut identities = info.identities.clone();
    identities.sort();
    for identity in &identities {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        let (lang, name) = (or_none(&identity.lang), or_none(&identity.name));
        add(&format!("{}/{}/{lang}/{name}", identity.category, identity.type_));
    }
    let mut features: Vec<&str> = info.features.iter().map(String::as_str).collect();
    features.sort_unstable();
    features.dedup();
    features.into_iter().for_each(&mut add);
    // §5.4: a form without a hidden FORM_TYPE is left out.
    let typed = |form: &'a Form| Some((form.form_type()?, form));
    let mut forms: Vec<(&str, &Form)> = info.forms.iter().filter_map(typed).collect();
    forms.sort_by_key(|(form_type, _)| *form_type);
    for (form_type, form) in forms {
        add(form_type);
        let named = |field: &'a Field| Some((field.var.as_deref()?, &field.values));
        let mut fields: Vec<_> = form.fields.iter().filter_map(named).collect();
        fields.sort();
        for (var, values) in fields.into_iter().filter(|(var, _)| *var != "FORM_TYPE") {
            add(var);
            let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.sort_unstable();
            values.into_iter().for_each(&mut add);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ver_of(children: &str) -> String {
        let xml = format!("<query xmlns='{}'>{children}</query>", ns::DISCO_INFO);
        let element = Element::parse(xml.as_bytes()).expect("well-formed");
        ver(&Info::parse(&element).expect("an answer"))
    }

    /// §5.2 and §5.3, word for word.
    #[test]
    fn the_examples_of_the_specification_come_out() {
        const FEATURES: &str = "<feature var='http://jabber.org/protocol/caps'/>\
            <feature var='http://jabber.org/protocol/disco#info'/>\
            <feature var='http://jabber.org/protocol/disco#items'/>\
            <feature var='http://jabber.org/protocol/muc'/>";
        let simple = "<identity category='client' name='Exodus 0.9.1' type='pc'/>";
        assert_eq!(ver_of(&format!("{FEATURES}{simple}")), "QgayPKawpkPSDYmwT/WM94uAlu0=");
        let complex = "<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>\
            <identity xml:lang='el' category='client' name='\u{3a8} 0.11' type='pc'/>\
            <x xmlns='jabber:x:data' type='result'>\
            <field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>\
            <field var='ip_version' type='text-multi'><value>ipv4</value><value>ipv6</value></field>\
            <field var='os'><value>Mac</value></field><field var='os_version'><value>10.5.1</value></field>\
            <field var='software'><value>Psi</value></field><field var='software_version'><value>0.11</value></field></x>";
        assert_eq!(ver_of(&format!("{complex}{FEATURES}")), "q07IKJEyjvHSyhy//CH0CxmKi8w=");
    }

    #[test]
    fn the_element_is_read_back_and_other_hashes_are_not() {
        let caps = Caps { node: "urn:x".into(), ver: "abc=".into() };
        let parsed = Element::parse(&caps.element().to_bytes()).expect("well-formed");
        assert_eq!(Caps::parse(&parsed), Some(caps.clone()));
        assert_eq!(caps.disco_node(), "urn:x#abc=");
        assert_eq!(Caps::parse(&caps.element().with_attr("hash", "md5")), None);
    }
}
