//! What a command is (XEP-0050): features bring them with `Feature::commands`, `adhoc` does the rest. Values, and one trait.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::payload::data_form::Form;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use crate::app::Node;

/// Who may execute a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Users with an account of ours.
    Users,
    /// Those whom `admin.accounts` names.
    Administrators,
}

/// A command of the server, with one form at most.
pub trait Command: Send + Sync {
    /// Its disco node: unique.
    fn node(&self) -> &str;

    /// For people.
    fn name(&self) -> &str;

    /// Who may execute it.
    fn who(&self) -> Who;

    /// The form that is filled in first, if there is one. What it requires, and that addresses are some, is checked before [`Command::run`].
    fn form(&self) -> Option<Form>;

    /// Does it. What went wrong with the command is an error, what went wrong with a part of it a note.
    fn run(&self, asked: Asked) -> BoxFuture<'static, Result<Done, StanzaError>>;
}

/// A command that is being executed.
pub struct Asked {
    /// The node.
    pub node: Arc<Node>,
    /// Who executes it.
    pub by: Jid,
    /// The form, filled in.
    pub form: Option<Form>,
}

impl Asked {
    /// The first value of a field that is not empty.
    pub fn value(&self, var: &str) -> Option<&str> {
        self.form.as_ref()?.value(var).filter(|value| !value.is_empty())
    }

    /// All values of a field that are not empty.
    pub fn values(&self, var: &str) -> Vec<&str> {
        let values = self.form.as_ref().map_or(&[][..], |form| form.values(var));
        values.iter().map(String::as_str).filter(|value| !value.is_empty()).collect()
    }
}

/// How grave a note is (§4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It is done.
    Info,
    /// It is done, but.
    Warn,
    /// It is not done.
    Error,
}

impl Note {
    /// The value of `type`.
    pub fn name(self) -> &'static str {
        match self {
            Note::Info => "info",
            Note::Warn => "warn",
            Note::Error => "error",
        }
    }
}

/// What a command says at its end.
#[derive(Debug, Default, PartialEq)]
pub struct Done {
    /// Sentences.
    pub notes: Vec<(Note, String)>,
    /// Forms of results, and whatever else belongs there.
    pub payload: Vec<Element>,
}

impl Done {
    /// With a sentence.
    pub fn note(note: Note, text: impl Into<String>) -> Done {
        Done { notes: vec![(note, text.into())], payload: Vec::new() }
    }

    /// With a form of results.
    pub fn form(form: &Form) -> Done {
        Done { notes: Vec::new(), payload: vec![form.element()] }
    }
}

/// The form cannot be accepted (§4.4).
pub fn bad_payload(why: &str) -> StanzaError {
    StanzaError::bad_request().with_text(why).with_extra(Element::new("bad-payload", ns::COMMANDS))
}
