//! XEP-0133: what administrators do, at a whole node.

use xmpp::ns;
use xmpp::stanza::Stanza;
use xmpp::xml::element::Element;

use super::*;
use crate::admin::Operator as _;
use crate::feature::{Action, Iq, Target};
use crate::session::Seat;
use crate::testing::{House, all, mail, stanza};

/// Has the administrator execute a command with its form filled in.
async fn execute(house: &House, admin: &Arc<Seat>, node: &str, fields: &[(&str, &str)]) -> Element {
    let form = fields.iter().fold(Form::typed(FormKind::Submit, FORM), |form, (var, value)| {
        form.with_field(Field::new(var, FieldKind::TextSingle, value))
    });
    let mut command = Element::new("command", ns::COMMANDS)
        .with_attr("node", &format!("http://jabber.org/protocol/admin#{node}"));
    if !fields.is_empty() {
        command.push_child(form.element());
    }
    let asked = Stanza::iq_set(Some(admin.address()), Some(&house.node.server), "1", command);
    let mut ctx = Ctx::new(&house.node, Some(admin));
    let flow = house.node.features.iq(&mut ctx, &Iq { stanza: asked, target: Target::Server });
    match &all(ctx, flow).await[..] {
        [Action::Reply(answer)] => answer.element(),
        other => panic!("{other:?}"),
    }
}

/// The values of a field in the form of an answer.
fn values(answer: &Element, var: &str) -> Vec<String> {
    let command = answer.child("command", ns::COMMANDS).expect("a command");
    let form = command.child("x", ns::DATA_FORMS).expect("a form");
    Form::parse(form).expect("a form").values(var).to_vec()
}

async fn house() -> (House, Arc<Seat>) {
    let house = House::with("[admin]\naccounts = ['admin@chat.example']\n").await;
    house.accounts(["admin", "romeo", "juliet"]).await;
    let admin = house.bound("admin/desk");
    (house, admin)
}

#[tokio::test]
async fn users_are_counted_and_listed_by_what_they_do() {
    let (house, admin) = house().await;
    let _romeo = house.available("romeo/orchard", 0).await;
    let account = [("accountjids", "juliet@chat.example")];
    execute(&house, &admin, "disable-user", &account).await;
    for (which, number, names) in [
        ("registered", "3", "admin@chat.example juliet@chat.example romeo@chat.example"),
        ("disabled", "1", "juliet@chat.example"),
        ("online", "2", "admin@chat.example romeo@chat.example"),
        ("active", "1", "romeo@chat.example"),
        ("idle", "1", "admin@chat.example"),
    ] {
        let node = format!("get-{which}-users-num");
        let answer = execute(&house, &admin, &node, &[]).await;
        assert_eq!(values(&answer, &format!("{which}usersnum")), [number], "{which}");
        let node = match which {
            "active" | "idle" => format!("get-{which}-users"),
            _ => format!("get-{which}-users-list"),
        };
        let answer = execute(&house, &admin, &node, &[("max_items", "25")]).await;
        assert_eq!(values(&answer, &format!("{which}userjids")).join(" "), names, "{which}");
    }
    let answer = execute(&house, &admin, "get-registered-users-list", &[("max_items", "2")]).await;
    assert_eq!(values(&answer, "registereduserjids").len(), 2);
}

#[tokio::test]
async fn a_session_ends_and_no_other() {
    let (house, admin) = house().await;
    let orchard = house.bound("romeo/orchard");
    let garden = house.bound("romeo/garden");
    let one = [("accountjids", "romeo@chat.example/orchard")];
    execute(&house, &admin, "end-user-session", &one).await;
    assert!(house.mail(&orchard).await[0].contains("PolicyViolation"));
    assert!(mail(&garden).is_empty());
    let all = [("accountjids", "romeo@chat.example")];
    execute(&house, &admin, "disable-user", &all).await;
    assert!(house.mail(&garden).await[0].contains("NotAuthorized"));
    let rows = house.node.storage.map(ENDED, "romeo@chat.example").await.expect("read");
    assert!(rows.is_empty(), "the sign leaves nothing behind");
}

#[tokio::test]
async fn an_announcement_reaches_those_who_are_available() {
    let (house, admin) = house().await;
    let romeo = house.available("romeo/orchard", -1).await;
    let juliet = house.bound("juliet/balcony");
    mail(&romeo);
    execute(&house, &admin, "announce", &[("announcement", "The house closes.")]).await;
    let heard = house.mail(&romeo).await;
    let message = stanza(&heard[0]).element();
    assert_eq!(message.attr("from"), Some("chat.example"));
    assert_eq!(message.attr("type"), Some("headline"));
    assert_eq!(
        message.child("body", ns::CLIENT).map(Element::text).as_deref(),
        Some("The house closes.")
    );
    assert!(mail(&juliet).is_empty());
}

#[tokio::test]
async fn a_new_user_has_a_password_of_his_own() {
    let (house, admin) = house().await;
    let new = |again| {
        [("accountjid", "paris@chat.example"), ("password", "count"), ("password-verify", again)]
    };
    let answer = execute(&house, &admin, "add-user", &new("other")).await;
    assert_eq!(answer.attr("type"), Some("error"));
    let answer = execute(&house, &admin, "add-user", &new("count")).await;
    assert_eq!(answer.attr("type"), Some("result"), "{answer:?}");
    let answer = execute(&house, &admin, "add-user", &new("count")).await;
    let error = answer.child("error", ns::CLIENT).expect("an error");
    assert!(error.has_child("conflict", ns::STANZAS));
}

#[tokio::test]
async fn while_the_database_is_away_an_administrator_is_told_to_try_again() {
    let (house, admin) = house().await;
    house.database.go(true);
    let answer =
        execute(&house, &admin, "user-stats", &[("accountjid", "juliet@chat.example")]).await;
    let error = answer.child("error", ns::CLIENT).expect("an error");
    assert_eq!(error.attr("type"), Some("wait"), "{error:?}");
    let desk = crate::app::operator(&house.node);
    let refused = desk.users(None, 5).await.map_err(|refusal| refusal.kind);
    assert_eq!(refused, Err(RefusalKind::Unavailable));
    let refused = desk.user_remove("juliet@chat.example").await.map_err(|refusal| refusal.kind);
    assert_eq!(refused, Err(RefusalKind::Unavailable));
}
