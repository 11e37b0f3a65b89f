//! XEP-0133 §4.23: a sentence to everybody who is online, in every region: a headline from the server to each available resource. It is
//! sent behind the answer, in portions, so that nobody waits for it.

use std::sync::Arc;

use xmpp::jid::Jid;
use xmpp::payload::data_form::{Field, FieldKind};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use super::{AdminCommand, node};
use crate::app::Node;
use crate::features::adhoc::command::{Asked, Done, Note, bad_payload};
use crate::router;

/// Resources that are told before others have their turn.
const PORTION: usize = 100;

/// Those here.
pub(super) fn commands() -> Vec<AdminCommand> {
    vec![AdminCommand {
        node: node!("announce"),
        name: "Send an announcement to online users",
        fields: Some(|| {
            let subject = Field::empty("subject", FieldKind::TextSingle).with_label("Subject");
            let text =
                Field::empty("announcement", FieldKind::TextMulti).with_label("Announcement");
            vec![subject, text.required()]
        }),
        run: |asked| Box::pin(announce(asked)),
    }]
}

async fn announce(asked: Asked) -> Result<Done, StanzaError> {
    let lines = asked.form.as_ref().map_or(&[][..], |form| form.values("announcement"));
    let text = lines.join("\n");
    if text.trim().is_empty() {
        return Err(bad_payload("announcement is missing."));
    }
    let message = Stanza::message(None, Some(&asked.node.server), Type::Headline)
        .with_text_child("subject", asked.value("subject").unwrap_or("Announcement"))
        .with_text_child("body", &text)
        .build();
    let node = asked.node.clone();
    let mut to = Vec::new();
    node.directory.for_each(|row| {
        if row.available {
            to.push(Jid::from(&row.full));
        }
    });
    let said = format!("It goes to {} devices.", to.len());
    tokio::spawn(send(node, message, to));
    Ok(Done::note(Note::Info, said))
}

async fn send(node: Arc<Node>, message: Stanza, to: Vec<Jid>) {
    for portion in to.chunks(PORTION) {
        for jid in portion {
            router::route(&node, message.with_to(jid));
        }
        tokio::task::yield_now().await;
    }
}
