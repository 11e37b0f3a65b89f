//! XEP-0401 §5: the two commands that make invitations. What a command is, and all around it, is `features/adhoc`.

use futures_util::future::BoxFuture;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};
use xmpp::payload::date_time;
use xmpp::stanza::error::StanzaError;

use super::{Issued, Wish, issue, may_invite_to_register};
use crate::app::Node;
use crate::features::adhoc::command::{Asked, Command, Done, Who};

/// `urn:xmpp:invite#invite`: a contact, and an account where the inviter may give that.
pub(super) struct InviteContact;

impl Command for InviteContact {
    fn node(&self) -> &str {
        ns::INVITE
    }

    fn name(&self) -> &str {
        "Invite somebody"
    }

    fn who(&self) -> Who {
        Who::Users
    }

    fn form(&self) -> Option<Form> {
        None
    }

    fn run(&self, asked: Asked) -> BoxFuture<'static, Result<Done, StanzaError>> {
        Box::pin(async move {
            let owner = asked.by.bare();
            let register = may_invite_to_register(&asked.node, &owner);
            let wish = wish(&asked.node, owner, register, true, None);
            Ok(Done::form(&result(&issue(&asked.node, wish).await?)))
        })
    }
}

/// `urn:xmpp:invite#create-account`: an account, of a name that may be given.
pub(super) struct CreateAccount {
    /// As `invitations.accounts` says.
    pub(super) who: Who,
}

impl Command for CreateAccount {
    fn node(&self) -> &str {
        ns::CREATE_ACCOUNT
    }

    fn name(&self) -> &str {
        "Invite somebody to an account"
    }

    fn who(&self) -> Who {
        self.who
    }

    fn form(&self) -> Option<Form> {
        Some(
            Form::new(FormKind::Form)
                .with_title("An account for somebody")
                .with_instructions("Leave the name empty to let it be chosen.")
                .with_field(Field::empty("username", FieldKind::TextSingle).with_label("Username"))
                .with_field(
                    Field::new("roster-subscription", FieldKind::Boolean, "0")
                        .with_label("Become contacts"),
                ),
        )
    }

    fn run(&self, asked: Asked) -> BoxFuture<'static, Result<Done, StanzaError>> {
        Box::pin(async move {
            let username = asked.value("username").map(str::to_owned);
            let form = asked.form.as_ref();
            let contact = form.and_then(|form| form.flag("roster-subscription")).unwrap_or(false);
            let wish = wish(&asked.node, asked.by.bare(), true, contact, username);
            Ok(Done::form(&result(&issue(&asked.node, wish).await?)))
        })
    }
}

fn wish(
    node: &Node,
    owner: BareJid,
    register: bool,
    contact: bool,
    username: Option<String>,
) -> Wish {
    Wish { owner, register, contact, username, uses: 1, expire: node.config.invitations.expire }
}

/// §5.1: what the inviter passes on.
fn result(issued: &Issued) -> Form {
    let text =
        |var, label, value: &str| Field::new(var, FieldKind::TextSingle, value).with_label(label);
    let mut form = Form::typed(FormKind::Result, ns::INVITATION)
        .with_title("An invitation")
        .with_field(text("uri", "Invitation", &issued.uri));
    if let Some(url) = &issued.landing_url {
        form = form.with_field(text("landing-url", "Page about it", url));
    }
    form.with_field(text("expire", "Good until", &date_time::format(issued.invitation.expires)))
}
