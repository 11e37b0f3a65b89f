//! XEP-0050 Ad-Hoc Commands, version 1.2: the commands of the server. Features bring them (`Feature::commands`, the trait is in `command`);
//! here they are listed by service discovery (§2.2), found, allowed or not, and led through their one form (§2.4). `sessions` is what is
//! remembered between the form and its answer (§3.3).
//!
//! Whoever may not execute a command does not see it in the list, and hears `forbidden`. A command without a form may be executed at
//! once, and one with a form too, by sending the form filled in.
//!
//! They are found at one's own account as well as at the server: some clients ask there for what they may do. It is not advertised there, for
//! what an account says of itself its contacts see too.
//!
//! Left out: several forms one after the other (`prev` is never an action that is allowed), announcing commands by message (§2.3),
//! languages other than English (`bad-locale` is never said), commands of accounts that are not the server's.

pub mod command;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::payload::data_form::{FieldKind, Form, FormKind};
use xmpp::payload::disco::{Info, Items};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use self::command::{Asked, Command, Done, Who, bad_payload};
use self::sessions::{Lost, Sessions};
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::disco::node_of;

/// See the room.
pub struct AdHoc {
    sessions: Arc<Mutex<Sessions>>,
}

impl AdHoc {
    /// With the bounds of the configuration.
    pub fn new(config: &config::Config) -> Self {
        let limits = &config.limits;
        let timeout_ms = u64::try_from(limits.command_timeout.as_millis()).unwrap_or(u64::MAX);
        let sessions = Sessions::new(limits.command_sessions_max, timeout_ms);
        Self { sessions: Arc::new(Mutex::new(sessions)) }
    }
}

impl Feature for AdHoc {
    fn name(&self) -> &'static str {
        "adhoc"
    }

    fn interests(&self) -> Interests {
        let iq = &[ns::COMMANDS, ns::DISCO_INFO, ns::DISCO_ITEMS];
        Interests { iq, ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::COMMANDS);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if matches!(iq.target, Target::Account { own: false, .. }) {
            return Flow::Next;
        }
        let commands = &ctx.node.features.commands;
        let may = |who| may(ctx, &iq.stanza, who);
        match (iq.stanza.first_child().map(|(_, ns)| ns), iq.stanza.type_()) {
            (Some(ns::COMMANDS), Type::Set) => self.execute(ctx, iq),
            (Some(ns::DISCO_INFO | ns::DISCO_ITEMS), Type::Get) => {
                let Some(answer) = discover(commands, &iq.stanza, may) else { return Flow::Next };
                ctx.actions.extend(Action::answer(&iq.stanza, answer.map(Some)));
                Flow::Done
            }
            _ => Flow::Next,
        }
    }
}

/// Whether whoever asks may execute commands for those.
fn may(ctx: &Ctx<'_>, asked: &Stanza, who: Who) -> bool {
    let (Some(_), Some(from)) = (ctx.seat, asked.from()) else { return false };
    let is_admin = || ctx.node.config.admin.accounts.iter().any(|known| known == from.bare_str());
    match who {
        Who::Users => ctx.node.domains.has_accounts(from.domain()),
        Who::Administrators => is_admin(),
    }
}

/// §2.1, §2.2: the list of commands, and each of them. `None`: not about commands.
fn discover(
    commands: &[Arc<dyn Command>],
    asked: &Stanza,
    may: impl Fn(Who) -> bool,
) -> Option<Result<Element, StanzaError>> {
    let node = node_of(asked)?;
    let items = asked.first_child().is_some_and(|(_, ns)| ns == ns::DISCO_ITEMS);
    let info = |type_: &str, name: &str| {
        Info { node: Some(node.clone()), ..Info::default() }
            .with_identity("automation", type_, Some(name))
            .with_features([ns::COMMANDS, ns::DATA_FORMS])
            .element()
    };
    if node == ns::COMMANDS {
        if !items {
            return Some(Ok(info("command-list", "Commands")));
        }
        // Where they were asked for, there they are executed.
        let from = || asked.from().map(|from| from.bare().to_string());
        let here = asked.to().map(|to| to.bare_str().to_owned()).or_else(from);
        let here = here.unwrap_or_default();
        let allowed = commands.iter().filter(|command| may(command.who()));
        let list = Items { node: Some(node.clone()), ..Items::default() };
        let list = allowed.fold(list, |list, command| {
            list.with_item(&here, Some(command.node()), Some(command.name()))
        });
        return Some(Ok(list.element()));
    }
    let command = commands.iter().find(|command| command.node() == node)?;
    if !may(command.who()) {
        return Some(Err(StanzaError::forbidden()));
    }
    Some(Ok(match items {
        true => Items { node: Some(node.clone()), ..Items::default() }.element(),
        false => info("command-node", command.name()),
    }))
}

/// The value of `action` (§4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Execute,
    Next,
    Complete,
    Prev,
    Cancel,
}

/// A request (§4.1).
#[derive(Debug)]
struct Request {
    node: String,
    session: Option<String>,
    act: Act,
    form: Option<Element>,
}

fn parse(iq: &Element) -> Result<Request, StanzaError> {
    let command = iq.child("command", ns::COMMANDS).ok_or_else(StanzaError::bad_request)?;
    let owned = |name| command.attr(name).filter(|text: &&str| !text.is_empty()).map(str::to_owned);
    let act = match command.attr("action") {
        None | Some("" | "execute") => Act::Execute,
        Some("next") => Act::Next,
        Some("complete") => Act::Complete,
        Some("prev") => Act::Prev,
        Some("cancel") => Act::Cancel,
        Some(_) => return Err(wrong("malformed-action")),
    };
    Ok(Request {
        node: owned("node").ok_or_else(StanzaError::bad_request)?,
        session: owned("sessionid"),
        act,
        form: command.child("x", ns::DATA_FORMS).cloned(),
    })
}

/// `bad-request` with a condition of §4.4.
fn wrong(condition: &str) -> StanzaError {
    StanzaError::bad_request().with_extra(Element::new(condition, ns::COMMANDS))
}

impl From<Lost> for StanzaError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Unknown => wrong("bad-sessionid"),
            Lost::Over => {
                StanzaError::not_allowed().with_extra(Element::new("session-expired", ns::COMMANDS))
            }
        }
    }
}

/// What is to happen.
enum Step {
    /// That answer is all.
    Answer(Element),
    /// The command runs, with this form, in this session.
    Run(Option<Form>, String),
}

impl AdHoc {
    fn execute(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let found = parse(&iq.stanza.element()).and_then(|request| {
            let mut commands = ctx.node.features.commands.iter();
            let command = commands.find(|command| command.node() == request.node);
            let command = command.cloned().ok_or_else(StanzaError::item_not_found)?;
            if !may(ctx, &iq.stanza, command.who()) {
                return Err(StanzaError::forbidden());
            }
            let by = iq.stanza.from().cloned().ok_or_else(StanzaError::bad_request)?;
            let (new, now) = (ctx.node.token(), ctx.node.now_ms());
            let step = step(&mut self.sessions.lock(), command.as_ref(), &request, &by, new, now)?;
            Ok((command, by, step))
        });
        let (command, by, step) = match found {
            Ok(found) => found,
            Err(error) => {
                ctx.actions.extend(Action::answer(&iq.stanza, Err(error)));
                return Flow::Done;
            }
        };
        match step {
            Step::Answer(answer) => {
                ctx.actions.extend(Action::answer(&iq.stanza, Ok(Some(answer))));
                Flow::Done
            }
            Step::Run(form, session) => {
                let (node, asked, sessions) =
                    (ctx.node.clone(), iq.stanza.clone(), self.sessions.clone());
                let run = command.run(Asked { node: node.clone(), by, form });
                Flow::Later(Box::pin(async move {
                    let answer = run.await.map(|done| {
                        sessions.lock().end(&session, node.now_ms());
                        Some(completed(command.node(), &session, done))
                    });
                    Action::answer(&asked, answer).into_iter().collect()
                }))
            }
        }
    }
}

/// §2.4, §3.4: what a request means in its session, or outside of one. `new` is an id nobody has.
fn step(
    sessions: &mut Sessions,
    command: &dyn Command,
    request: &Request,
    by: &Jid,
    new: String,
    now_ms: u64,
) -> Result<Step, StanzaError> {
    let node = command.node();
    let wanted = command.form();
    let Some(session) = &request.session else {
        return match (request.act, &wanted, &request.form) {
            (Act::Prev | Act::Cancel | Act::Next, ..) => Err(wrong("bad-action")),
            (_, None, _) => Ok(Step::Run(None, new)),
            (_, Some(wanted), Some(given)) => Ok(Step::Run(Some(filled(wanted, given)?), new)),
            (Act::Complete, Some(_), None) => Err(wrong("bad-action")),
            (_, Some(wanted), None) => {
                sessions.begin(new.clone(), by, node, now_ms);
                let actions = Element::new("actions", ns::COMMANDS)
                    .with_attr("execute", "complete")
                    .with_child(Element::new("complete", ns::COMMANDS));
                let asked = tag(node, &new, "executing").with_child(actions);
                Ok(Step::Answer(asked.with_child(wanted.element())))
            }
        };
    };
    sessions.find(session, by, node, now_ms)?;
    match (request.act, &wanted) {
        (Act::Cancel, _) => {
            sessions.end(session, now_ms);
            Ok(Step::Answer(tag(node, session, "canceled")))
        }
        (Act::Prev, _) => Err(wrong("bad-action")),
        // Its only stage: `next` leads to the end, as `execute` does.
        (Act::Execute | Act::Next | Act::Complete, Some(wanted)) => {
            let given = request.form.as_ref().ok_or_else(|| bad_payload("A form is missing."))?;
            Ok(Step::Run(Some(filled(wanted, given)?), session.clone()))
        }
        (_, None) => Ok(Step::Run(None, session.clone())),
    }
}

/// The form as it was filled in, if that is what was asked for.
fn filled(wanted: &Form, given: &Element) -> Result<Form, StanzaError> {
    let form = Form::parse(given).map_err(|_| bad_payload("That is no form."))?;
    // §3.5.1: a cancelled form counts as a submitted one.
    if !matches!(form.kind, FormKind::Submit | FormKind::Cancel) {
        return Err(bad_payload("The form is not filled in."));
    }
    for field in &wanted.fields {
        let Some(var) = field.var.as_deref() else { continue };
        let values = form.values(var);
        if field.required && values.iter().all(|value| value.is_empty()) {
            return Err(bad_payload(&format!("{var} is missing.")));
        }
        let is_jid = matches!(field.kind, Some(FieldKind::JidSingle | FieldKind::JidMulti));
        let wrong = |value: &&String| is_jid && !value.is_empty() && Jid::parse(value).is_err();
        if let Some(value) = values.iter().find(wrong) {
            return Err(bad_payload(&format!("{value:?} is no address.")));
        }
    }
    Ok(form)
}

fn tag(node: &str, session: &str, status: &str) -> Element {
    Element::new("command", ns::COMMANDS)
        .with_attr("node", node)
        .with_attr("sessionid", session)
        .with_attr("status", status)
        .with_attr("xml:lang", "en")
}

fn completed(node: &str, session: &str, done: Done) -> Element {
    let notes = done.notes.iter().map(|(note, text)| {
        Element::new("note", ns::COMMANDS).with_attr("type", note.name()).with_text(text)
    });
    tag(node, session, "completed").with_children(notes).with_children(done.payload)
}
