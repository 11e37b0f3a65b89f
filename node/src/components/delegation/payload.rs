//! XEP-0355 on the wire: values only. What a component is told of its delegations (§4.2), how a request is wrapped for it, what of its answer is
//! believed (§4.3).

use config::Delegation;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::payload::forward;
use xmpp::stanza::{Builder, Kind, Stanza, Type};
use xmpp::xml::element::Element;

/// §7.2: the nodes at which a component says what belongs to a namespace, of the server and of an account.
pub(super) fn nodes(namespace: &str) -> [String; 2] {
    ["::", ":bare:"].map(|of| format!("{}{of}{namespace}", ns::DELEGATION))
}

/// §4.2: what it is told when it connects.
pub(in crate::components) fn advertised(
    server: &Jid,
    component: &Jid,
    all: &[Delegation],
) -> Stanza {
    let delegated = all.iter().map(|one| {
        let attribute =
            |name: &String| Element::new("attribute", ns::DELEGATION).with_attr("name", name);
        Element::new("delegated", ns::DELEGATION)
            .with_attr("namespace", &one.namespace)
            .with_children(one.attributes.iter().map(attribute))
    });
    let delegation = Element::new("delegation", ns::DELEGATION).with_children(delegated);
    Stanza::message(Some(component), Some(server), Type::Normal).with_child(delegation).build()
}

/// §4.3: the request, for the component that answers it.
pub(super) fn wrapped(server: &Jid, component: &Jid, id: &str, request: &Stanza) -> Stanza {
    let mut xml = b"<delegation xmlns='urn:xmpp:delegation:2'>".to_vec();
    forward::write(&mut xml, request, None);
    xml.extend_from_slice(b"</delegation>");
    Builder::new(Kind::Iq, Type::Set, Some(server), Some(component)).id(id).with_xml(&xml).build()
}

/// §4.3: what the component answers to the request. `None`: its answer is an error, or it is no answer to that (to whom it is, from whom, its id).
pub(super) fn unwrapped(answer: &Stanza, request: &Stanza) -> Option<Stanza> {
    if answer.type_() != Type::Result {
        return None;
    }
    let delegation = answer.child("delegation", ns::DELEGATION)?;
    let inner = forward::parse(delegation.child("forwarded", ns::FORWARD)?)?.stanza;
    let inner = Stanza::from_element(&inner).ok()?;
    let is_answer = inner.kind() == Kind::Iq
        && matches!(inner.type_(), Type::Result | Type::Error)
        && inner.id() == request.id()
        && inner.to() == request.from();
    let own = || request.from().map(Jid::bare_str);
    let is_his = match (inner.from(), request.to()) {
        (None, _) => true,
        (Some(from), Some(to)) => from == to,
        (Some(from), None) => Some(from.as_str()) == own(),
    };
    match request.to() {
        _ if !is_answer || !is_his => None,
        Some(to) => Some(inner.with_from(to)),
        None => Some(inner),
    }
}
