//! XEP-0133 Service Administration, version 1.2: what administrators (`admin.accounts`) do by command (`features/adhoc`). The commands on
//! accounts are in `accounts`, numbers and lists in `lists`, the announcement in `announce`; each calls what the admin API calls. A
//! session is ended where it is, in whatever region: the account's home gives the sign (`home`), and every region follows it. So it is
//! with accounts that are disabled.
//!
//! Active is who shows presence on some device, idle who is connected and shows none.
//!
//! Left out: passwords that can be read (none is kept), blacklists and whitelists, message of the day, welcome message, editing the list
//! of administrators (it is configuration), restart and shutdown (`pangaea` is stopped by its supervisor); of the statistics stanzas and
//! logins in time; e-mail address and names of a new user.

mod accounts;
mod announce;
pub mod home;
mod lists;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use replication::durable_log::Change;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;

use self::home::ENDED;
use crate::admin::{Refusal, RefusalKind};
use crate::feature::{Ctx, Feature, Flow, Interests};
use crate::features::adhoc::command::{Asked, Command, Done, Who, bad_payload};
use crate::homes::accounts::{ACCOUNTS, Account};
use crate::router::perform;

/// The FORM_TYPE of every form here.
const FORM: &str = "http://jabber.org/protocol/admin";

/// See the room.
pub struct AdminFeature;

impl Feature for AdminFeature {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn interests(&self) -> Interests {
        Interests { changes: &[ACCOUNTS, ENDED], ..Interests::default() }
    }

    fn commands(&self) -> Vec<Arc<dyn Command>> {
        let all = [accounts::commands(), lists::commands(), announce::commands()];
        all.into_iter().flatten().map(|command| Arc::new(command) as Arc<dyn Command>).collect()
    }

    /// Sessions that are to end, here as in every region.
    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        let Change::Put { store, owner, key, value } = change else { return Flow::Next };
        let seats = || perform::seats_of(ctx.node, owner);
        if store.as_str() == ACCOUNTS {
            if Account::decode(value).is_ok_and(|account| account.disabled) {
                seats().iter().for_each(|seat| perform::close(seat, StreamError::not_authorized()));
            }
        } else if !snapshot {
            let mut seats = seats();
            seats.retain(|seat| key.is_empty() || seat.full.resource() == key);
            let error = StreamError::policy_violation().with_text("closed by an administrator");
            seats.iter().for_each(|seat| perform::close(seat, error.clone()));
        }
        Flow::Next
    }
}

/// What runs when the form is there.
type Run = fn(Asked) -> BoxFuture<'static, Result<Done, StanzaError>>;

/// One command for administrators.
struct AdminCommand {
    node: &'static str,
    name: &'static str,
    fields: Option<fn() -> Vec<Field>>,
    run: Run,
}

impl Command for AdminCommand {
    fn node(&self) -> &str {
        self.node
    }

    fn name(&self) -> &str {
        self.name
    }

    fn who(&self) -> Who {
        Who::Administrators
    }

    fn form(&self) -> Option<Form> {
        let fields = self.fields?();
        let form = Form::typed(FormKind::Form, FORM)
            .with_title(self.name)
            .with_instructions("Fill out this form, please.");
        Some(fields.into_iter().fold(form, Form::with_field))
    }

    fn run(&self, asked: Asked) -> BoxFuture<'static, Result<Done, StanzaError>> {
        tracing::info!(by = %asked.by, command = self.node, "an administrator's command");
        (self.run)(asked)
    }
}

/// `http://jabber.org/protocol/admin#…`
macro_rules! node {
    ($short:literal) => {
        concat!("http://jabber.org/protocol/admin#", $short)
    };
}
use node;

/// A form of results.
fn result() -> Form {
    Form::typed(FormKind::Result, FORM)
}

fn one_account() -> Field {
    Field::empty("accountjid", FieldKind::JidSingle).with_label("The account").required()
}

fn some_accounts() -> Field {
    Field::empty("accountjids", FieldKind::JidMulti).with_label("The accounts").required()
}

/// What the operator's desk refuses, for an XMPP client (§6).
fn refused(refusal: Refusal) -> StanzaError {
    let error = match refusal.kind {
        RefusalKind::Invalid => return bad_payload(&refusal.message),
        RefusalKind::Conflict => StanzaError::conflict(),
        RefusalKind::NotFound => StanzaError::item_not_found(),
        RefusalKind::Unavailable => StanzaError::remote_server_timeout(),
        RefusalKind::Unsupported => StanzaError::feature_not_implemented(),
        RefusalKind::Unauthorized => StanzaError::forbidden(),
        RefusalKind::Failed => StanzaError::internal_server_error(),
    };
    error.with_text(&refusal.message)
}
