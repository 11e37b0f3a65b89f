//! Features: what their tests share.

use bytes::Bytes;
use xmpp::jid::Jid;
use xmpp::stanza::Stanza;

use crate::feature::{Iq, Target};

/// An iq from romeo@example.org/orchard with id `i1`, as the router hands it to the features: `to` is the server (`example.org`) or
/// a bare JID.
pub(crate) fn iq(type_: &str, to: &str, payload: &str) -> Iq {
    let text = format!(
        "<iq to='{to}' from='romeo@example.org/orchard' id='i1' type='{type_}'>{payload}</iq>"
    );
    let stanza = Stanza::parse(Bytes::from(text)).expect("an iq");
    let account = Jid::parse(to).expect("a JID").bare();
    let target = match account.local() {
        None => Target::Server,
        Some(local) => Target::Account { own: local == "romeo", account },
    };
    Iq { stanza, target }
}
