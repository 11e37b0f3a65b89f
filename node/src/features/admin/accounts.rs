//! XEP-0133 §4.1 to §4.10: commands on accounts. What concerns one account fails as a whole; of several, each has its own sentence.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::data_form::{Field, FieldKind};
use xmpp::payload::date_time;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use super::{AdminCommand, node, one_account, refused, result, some_accounts};
use crate::admin::{Operator, Refusal};
use crate::app::{Node, operator, unread};
use crate::features::adhoc::command::{Asked, Done, Note, bad_payload};
use crate::features::last;
use crate::homes::accounts::{Account, set_disabled};
use crate::router::perform;

/// Accounts of one command; beyond it `bad-payload`.
const ACCOUNTS_MAX: usize = 100;

/// Those here.
pub(super) fn commands() -> Vec<AdminCommand> {
    let several = || vec![some_accounts()];
    let command = |node, name, run| AdminCommand { node, name, fields: Some(several), run };
    vec![
        AdminCommand {
            node: node!("add-user"),
            name: "Add a user",
            fields: Some(|| vec![one_account(), secret("password"), secret("password-verify")]),
            run: |asked| Box::pin(add(asked)),
        },
        command(node!("delete-user"), "Delete users", |asked| {
            each(asked, |node, account| Box::pin(delete(node, account)))
        }),
        command(node!("disable-user"), "Disable users", |asked| {
            each(asked, |node, account| Box::pin(disable(node, account, true)))
        }),
        command(node!("reenable-user"), "Re-enable users", |asked| {
            each(asked, |node, account| Box::pin(disable(node, account, false)))
        }),
        command(node!("end-user-session"), "End sessions of users", |asked| {
            each(asked, |node, account| Box::pin(end_sessions(node, account)))
        }),
        AdminCommand {
            node: node!("change-user-password"),
            name: "Change a user's password",
            fields: Some(|| vec![one_account(), secret("password").required()]),
            run: |asked| Box::pin(change_password(asked)),
        },
        command(node!("get-user-roster"), "Get users' rosters", |asked| {
            each(asked, |node, account| Box::pin(roster(node, account)))
        }),
        command(node!("get-user-lastlogin"), "Get users' last login times", |asked| {
            each(asked, |node, account| Box::pin(last_login(node, account)))
        }),
        AdminCommand {
            node: node!("user-stats"),
            name: "Get a user's statistics",
            fields: Some(|| vec![one_account()]),
            run: |asked| Box::pin(statistics(asked)),
        },
    ]
}

fn secret(var: &str) -> Field {
    let label = if var == "password" { "The password" } else { "The password once more" };
    Field::empty(var, FieldKind::TextPrivate).with_label(label)
}

/// The account a field names.
fn one(asked: &Asked) -> Result<BareJid, StanzaError> {
    account(&asked.node, asked.value("accountjid").unwrap_or_default())
        .map_err(|why| bad_payload(&why))
}

/// An account of ours; a resource that comes with it is left off.
fn account(node: &Node, text: &str) -> Result<BareJid, String> {
    let jid = Jid::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
    if jid.local().is_none() || !node.domains.has_accounts(jid.domain()) {
        let global = &node.domains.global;
        return Err(format!("{text:?} is no account of {global}"));
    }
    Ok(jid.bare())
}

async fn add(asked: Asked) -> Result<Done, StanzaError> {
    let account = one(&asked)?;
    let password = asked.value("password").ok_or_else(|| bad_payload("A password is missing."))?;
    if asked.value("password-verify").is_some_and(|again| again != password) {
        return Err(bad_payload("The passwords differ."));
    }
    operator(&asked.node).user_add(account.as_str(), password).await.map_err(refused)?;
    Ok(Done::note(Note::Info, format!("{account} was added.")))
}

async fn change_password(asked: Asked) -> Result<Done, StanzaError> {
    let account = one(&asked)?;
    let password = asked.value("password").unwrap_or_default();
    operator(&asked.node).user_passwd(account.as_str(), password).await.map_err(refused)?;
    Ok(Done::note(Note::Info, format!("{account} has a new password.")))
}

/// What is done to one account: a sentence, and what is to be shown.
type OfOne = Result<(String, Option<Element>), Refusal>;

/// To each of `accountjids`, one after the other.
fn each(
    asked: Asked,
    todo: fn(Arc<Node>, Jid) -> BoxFuture<'static, OfOne>,
) -> BoxFuture<'static, Result<Done, StanzaError>> {
    Box::pin(async move {
        let named = asked.values("accountjids");
        if named.len() > ACCOUNTS_MAX {
            return Err(bad_payload(&format!("At most {ACCOUNTS_MAX} accounts at once.")));
        }
        let mut done = Done::default();
        for text in named {
            let jid = account(&asked.node, text)
                .and_then(|_| Jid::parse(text).map_err(|error| format!("{text:?}: {error}")));
            let outcome = match jid {
                Ok(jid) => todo(asked.node.clone(), jid).await.map_err(|refusal| refusal.message),
                Err(why) => Err(why),
            };
            match outcome {
                Ok((said, shown)) => {
                    // Where something is shown, that says it.
                    if shown.is_none() {
                        done.notes.push((Note::Info, said));
                    }
                    done.payload.extend(shown);
                }
                Err(why) => done.notes.push((Note::Error, why)),
            }
        }
        Ok(done)
    })
}

async fn delete(node: Arc<Node>, jid: Jid) -> OfOne {
    operator(&node).user_remove(jid.bare_str()).await?;
    Ok((format!("{} was deleted.", jid.bare()), None))
}

async fn disable(node: Arc<Node>, jid: Jid, disabled: bool) -> OfOne {
    let account = jid.bare();
    let failed = |error: crate::homes::HomeError| Refusal::unavailable(error.to_string());
    if !set_disabled(&node.homes, &account, disabled).await.map_err(failed)? {
        return Err(unknown(&account));
    }
    let word = if disabled { "disabled" } else { "enabled" };
    Ok((format!("{account} is {word}."), None))
}

async fn end_sessions(node: Arc<Node>, jid: Jid) -> OfOne {
    let account = jid.bare();
    let asked = super::home::Request::End(jid.resource().unwrap_or_default().to_owned());
    let answer = node.homes.exchange(&account, super::home::OP, &asked).await;
    match answer.map_err(|error| Refusal::unavailable(error.to_string()))? {
        super::home::Answer::Done => Ok((format!("Sessions of {jid} were ended."), None)),
        super::home::Answer::NoAccount => Err(unknown(&account)),
    }
}

fn unknown(account: &BareJid) -> Refusal {
    Refusal::not_found(format!("there is no account {account}"))
}

/// The account, if it is one, as the local replica has it.
async fn record(node: &Node, account: &BareJid) -> Result<Account, Refusal> {
    let found = Account::load(node.storage.as_ref(), account).await;
    found.map_err(unread)?.ok_or_else(|| unknown(account))
}

async fn roster(node: Arc<Node>, jid: Jid) -> OfOne {
    let account = jid.bare();
    record(&node, &account).await?;
    let roster = node.rosters.load(&node, &account).await;
    let roster = roster.map_err(unread)?;
    let listed = roster.contacts.iter().filter(|(_, contact)| contact.listed);
    let query = Element::new("query", ns::ROSTER)
        .with_children(listed.map(|(jid, contact)| contact.element(jid)));
    let named = Field::new("accountjids", FieldKind::JidMulti, account.as_str());
    Ok((String::new(), Some(result().with_field(named).element().with_child(query))))
}

async fn last_login(node: Arc<Node>, jid: Jid) -> OfOne {
    let account = jid.bare();
    record(&node, &account).await?;
    let named = Field::new("accountjids", FieldKind::JidMulti, account.as_str());
    let mut form = result().with_field(named);
    let left = last::left(&node, &account).await;
    let left = left.map_err(unread)?;
    if let Some(at_ms) = last::login_ms(&node, &account).or(left.map(|left| left.login_ms)) {
        let at = date_time::format(at_ms);
        form = form.with_field(Field::new("lastlogin", FieldKind::TextSingle, &at));
    }
    Ok((String::new(), Some(form.element())))
}

async fn statistics(asked: Asked) -> Result<Done, StanzaError> {
    let (node, account) = (&asked.node, one(&asked)?);
    record(node, &account).await.map_err(refused)?;
    let roster = node.rosters.load(node, &account).await;
    let roster = roster.map_err(|error| error.stanza_error())?;
    let size = roster.contacts.values().filter(|contact| contact.listed).count();
    let mut online = Vec::new();
    node.directory.read(account.as_str(), |rows| {
        online.extend(rows.iter().map(|row| row.full.resource().to_owned()));
    });
    let seats = perform::seats_of(node, account.as_str());
    let addresses =
        seats.iter().filter_map(|seat| seat.peer()).map(|at| at.ip().to_canonical().to_string());
    let several = |var: &str, values: Vec<String>| Field {
        values,
        ..Field::empty(var, FieldKind::TextMulti)
    };
    let form = result()
        .with_field(Field::new("accountjid", FieldKind::JidSingle, account.as_str()))
        .with_field(several("ipaddresses", addresses.collect()))
        .with_field(Field::new("rostersize", FieldKind::TextSingle, &size.to_string()))
        .with_field(several("onlineresources", online));
    Ok(Done::form(&form))
}
