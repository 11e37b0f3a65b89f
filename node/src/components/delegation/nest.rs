//! XEP-0355 §7.2: what the server, or an account, says of delegated namespaces is what their components say, each at a node of its own; what we would say of
//! them ourselves is left out. A component is asked when it appears, by every node; what it says is kept until it has been asked again, and of two questions only
//! the newer one counts.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::disco::Info;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use super::{Asked, Nested, is_pseudo, payload};
use crate::app::Node;
use crate::router;

/// There is a connection of a component, here or elsewhere.
pub(in crate::components) fn appeared(node: &Arc<Node>, component: &BareJid) {
    for namespace in node.components.delegations.of(component).filter(|of| !is_pseudo(of)) {
        for of in payload::nodes(namespace) {
            ask(node, component, of);
        }
    }
}

fn ask(node: &Arc<Node>, component: &BareJid, of: String) {
    let asked = Asked::own(node, &of);
    let query = Element::new("query", ns::DISCO_INFO).with_attr("node", &of);
    let to = Jid::from(component);
    let request = Stanza::iq_get(Some(&node.server), Some(&to), &asked.id, query);
    let (node, component) = (node.clone(), component.clone());
    tokio::spawn(async move {
        router::route(&node, request);
        let (node, id) = (node.clone(), asked.id.clone());
        let answer = asked.answer(&component).await.filter(|said| said.type_() == Type::Result);
        let info = answer.and_then(|said| Info::parse(&said.child("query", ns::DISCO_INFO)?));
        if let Some(Nested { newest, said }) =
            node.components.delegations.nested.lock().get_mut(&of)
            && *newest == id
        {
            *said = info;
        }
    });
}

/// What the server (or an account: `bare`) says, with what components say of their namespaces in place of what we do.
pub fn nested(node: &Node, mut info: Info, bare: bool) -> Info {
    let all = &node.components.delegations;
    for (namespace, delegated) in all.by_namespace.iter().filter(|(of, _)| !is_pseudo(of)) {
        info.features.retain(|feature| !is_of(feature, namespace));
        info.forms.retain(|form| !form.form_type().is_some_and(|form| is_of(form, namespace)));
        if !super::super::is_connected(node, &delegated.to) {
            continue;
        }
        let of = &payload::nodes(namespace)[usize::from(bare)];
        let said = all.nested.lock().get(of).and_then(|nested| nested.said.clone());
        let Some(said) = said else { continue };
        for identity in said.identities {
            if !info.identities.contains(&identity) {
                info.identities.push(identity);
            }
        }
        info = info.with_features(said.features.iter().map(String::as_str));
        info.forms.extend(said.forms);
    }
    info
}

/// Whether a feature is that namespace, or a part of it (`namespace#part`).
fn is_of(feature: &str, namespace: &str) -> bool {
    let rest = feature.strip_prefix(namespace);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['#', ':', '/', '+']))
}
