//! XEP-0050: given this request, expect this step. What a command does is its own feature's matter.

use futures_util::future::BoxFuture;
use xmpp::payload::data_form::Field;

use super::*;
use crate::features::tests::iq;

/// Greets whom it is told to greet; or everybody, without a form.
struct Greet {
    form: bool,
}

impl Command for Greet {
    fn node(&self) -> &str {
        if self.form { "greet" } else { "greet-all" }
    }

    fn name(&self) -> &str {
        "Greet somebody"
    }

    fn who(&self) -> Who {
        if self.form { Who::Administrators } else { Who::Users }
    }

    fn form(&self) -> Option<Form> {
        let whom = Field::empty("whom", FieldKind::JidMulti).required();
        self.form.then(|| Form::typed(FormKind::Form, "urn:greet").with_field(whom))
    }

    fn run(&self, _: Asked) -> BoxFuture<'static, Result<Done, StanzaError>> {
        Box::pin(async { Ok(Done::default()) })
    }
}

fn request(attrs: &str, form: &str) -> Result<Request, StanzaError> {
    let command = format!("<command xmlns='{}' {attrs}>{form}</command>", ns::COMMANDS);
    parse(&iq("set", "example.org", &command).stanza.element())
}

const FILLED: &str = "<x xmlns='jabber:x:data' type='submit'><field var='whom'><value>a@b.example</value></field></x>";

/// What becomes of a request in a session called `s`, or of one without: the status, or the conditions.
fn check(form: bool, attrs: &str, given: &str) -> String {
    let by = Jid::parse("romeo@example.org/orchard").expect("a JID");
    let command = Greet { form };
    let mut sessions = Sessions::new(10, 1_000);
    sessions.begin("s".into(), &by, command.node(), 0);
    let attrs = format!("node='{}' {attrs}", command.node());
    let step = request(&attrs, given)
        .and_then(|request| step(&mut sessions, &command, &request, &by, "new".into(), 0));
    match step {
        Ok(Step::Answer(element)) => {
            let status = element.attr("status").unwrap_or_default();
            format!("{status} {}", element.attr("sessionid").unwrap_or_default())
        }
        Ok(Step::Run(form, session)) => {
            let values = form.map_or(0, |form| form.values("whom").len());
            format!("runs {session} with {values}")
        }
        Err(error) => {
            let extra = error.extra.map(|extra| extra.name().to_owned()).unwrap_or_default();
            format!("{} {extra}", error.condition.name())
        }
    }
}

#[test]
fn a_form_is_offered_filled_in_or_cancelled() {
    const S: &str = "sessionid='s'";
    for (attrs, given, expected) in [
        ("", "", "executing new"),
        ("action='execute'", "", "executing new"),
        ("action='execute'", FILLED, "runs new with 1"),
        ("action='complete'", FILLED, "runs new with 1"),
        ("action='complete'", "", "bad-request bad-action"),
        ("action='next'", "", "bad-request bad-action"),
        ("action='prev'", "", "bad-request bad-action"),
        ("action='cancel'", "", "bad-request bad-action"),
        ("action='dance'", "", "bad-request malformed-action"),
        (S, FILLED, "runs s with 1"),
        ("sessionid='s' action='next'", FILLED, "runs s with 1"),
        ("sessionid='s' action='complete'", FILLED, "runs s with 1"),
        ("sessionid='s' action='complete'", "", "bad-request bad-payload"),
        ("sessionid='s' action='prev'", "", "bad-request bad-action"),
        ("sessionid='s' action='cancel'", "", "canceled s"),
        ("sessionid='other'", FILLED, "bad-request bad-sessionid"),
    ] {
        assert_eq!(check(true, attrs, given), expected, "{attrs} {given}");
    }
    assert_eq!(check(false, "", ""), "runs new with 0");
}

#[test]
fn a_form_has_what_it_must_have() {
    let form = |type_: &str, values: &str| {
        format!("<x xmlns='jabber:x:data' type='{type_}'><field var='whom'>{values}</field></x>")
    };
    for (given, expected) in [
        (form("submit", "<value>a@b.example</value><value>b@b.example</value>"), "runs s with 2"),
        (form("cancel", "<value>a@b.example</value>"), "runs s with 1"),
        (form("submit", ""), "bad-request bad-payload"),
        (form("submit", "<value/>"), "bad-request bad-payload"),
        (form("submit", "<value>@</value>"), "bad-request bad-payload"),
        (form("result", "<value>a@b.example</value>"), "bad-request bad-payload"),
        ("<x xmlns='jabber:x:data'/>".into(), "bad-request bad-payload"),
    ] {
        assert_eq!(check(true, "sessionid='s'", &given), expected, "{given}");
    }
}

#[test]
fn a_request_names_its_command() {
    for (attrs, form) in [("", ""), ("node=''", "")] {
        let error = request(attrs, form).err();
        assert_eq!(error, Some(StanzaError::bad_request()), "{attrs}");
    }
}

#[test]
fn only_what_one_may_is_listed_and_described() {
    let commands: Vec<Arc<dyn Command>> =
        vec![Arc::new(Greet { form: true }), Arc::new(Greet { form: false })];
    let ask = |kind: &str, node: &str, admin: bool| {
        let query =
            format!("<query xmlns='http://jabber.org/protocol/disco#{kind}' node='{node}'/>");
        let may = |who| admin || who == Who::Users;
        discover(&commands, &iq("get", "example.org", &query).stanza, may)
    };
    let listed = |admin| {
        let list = ask("items", ns::COMMANDS, admin).expect("ours").expect("allowed");
        let items = Items::parse(&list).expect("items").items;
        items.into_iter().filter_map(|item| item.node).collect::<Vec<_>>()
    };
    assert_eq!(listed(true), ["greet", "greet-all"]);
    assert_eq!(listed(false), ["greet-all"]);
    assert!(ask("items", "other", true).is_none());
    assert_eq!(ask("info", "greet", false), Some(Err(StanzaError::forbidden())));
    let info = ask("info", "greet", true).expect("ours").expect("allowed");
    let info = Info::parse(&info).expect("info");
    assert_eq!(info.identities[0].type_, "command-node");
    assert_eq!(info.features, [ns::COMMANDS, ns::DATA_FORMS]);
    let list = ask("info", ns::COMMANDS, false).expect("ours").expect("allowed");
    assert_eq!(Info::parse(&list).expect("info").identities[0].type_, "command-list");
}
