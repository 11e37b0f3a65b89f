//! The rows about components. One is connected in one region; who is in another does not notice.

use super::{Cast, says};
use crate::talk::{hear_all, say, say_all};
use pangaea_tests::client::{Client, Endpoint, Result, Security};
use pangaea_tests::ledger::Ledger;
use pangaea_tests::platform::Door;
use pangaea_tests::xml::Element;

const ITEMS: &str = "http://jabber.org/protocol/disco#items";

/// A component of that name in a region.
fn component(cast: Cast<'_>, name: &str, region: usize) -> Result<Client> {
    let endpoint = cast.platform.endpoint(region, Door::StartTls)?;
    let port = cast.platform.port(region, 347);
    let endpoint = Endpoint { port, security: Security::Plain, ..endpoint };
    let mut client = Client::new(name, endpoint, &format!("{name}{}", cast.first), "", None);
    client.component = Some("wonderland".into());
    Ok(client)
}

async fn connected(cast: Cast<'_>, name: &str, region: usize) -> Result<Client> {
    let mut client = component(cast, name, region)?;
    client.connect().await?;
    Ok(client)
}

/// Says something, from an address of its own.
async fn answers(component: &mut Client, to: &str, text: &str) -> Result<()> {
    let from = component.bare();
    let message = format!(
        "<message from='desk@{from}' to='{to}' type='chat' id='{text}'><body>{text}</body></message>"
    );
    component.send(&message).await
}

/// Whoever hears of a component by a word of it knows of it by then.
async fn greets(component: &mut Client, others: &mut [Client]) -> Result<()> {
    for other in others {
        answers(component, &other.full(), "here I am").await?;
        other.wait_for("a word of the component", says("here I am")).await?;
    }
    Ok(())
}

/// Numbered messages of users of every region, and answers.
pub(super) async fn on_one_host(cast: Cast<'_>) -> Result<()> {
    let mut users = cast.writers(&[0, 1, 2]).await?;
    let mut desk = connected(cast, "desk", 1).await?;
    greets(&mut desk, &mut users).await?;
    let to = format!("office@{}", desk.bare());
    for user in &mut users {
        let name = user.name.clone();
        say_all(user, &to, &name, 0..50).await?;
    }
    let names: Vec<String> = users.iter().map(|user| user.name.clone()).collect();
    let mut heard = Ledger::default();
    for name in &names {
        crate::talk::hear(&mut desk, &mut heard, name, 50).await?;
    }
    for name in &names {
        heard.verdict(name, 50)?;
    }
    for user in &mut users {
        let full = user.full();
        for number in 0..50 {
            answers(&mut desk, &full, &pangaea_tests::ledger::body("desk", number)).await?;
        }
        hear_all(user, &mut Ledger::default(), &["desk"], 50).await?;
    }
    Ok(())
}

/// One component to another, in another region, both ways.
pub(super) async fn in_different_regions(cast: Cast<'_>) -> Result<()> {
    let mut one = connected(cast, "one", 0).await?;
    let mut other = connected(cast, "other", 2).await?;
    for turn in 0..2 {
        let (from, to) = if turn == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
        // What a region has to know of a component travels before what that says.
        let addressee = to.bare();
        let deadline = std::time::Instant::now() + pangaea_tests::client::patience();
        loop {
            answers(from, &addressee, "are you there?").await?;
            let came = |e: &Element| e.body().as_deref() == Some("are you there?");
            let heard = tokio::select! {
                heard = to.wait_for("the question", came) => heard.map(|_| true)?,
                back = from.wait_for("an error", |e| e.attr("type") == Some("error")) => back.map(|_| false)?,
            };
            if heard {
                break;
            }
            if std::time::Instant::now() > deadline {
                return Err("one component never hears of the other".into());
            }
        }
    }
    Ok(())
}

/// What is for one that is gone comes back once, from everywhere, and its name is in no list of items.
pub(super) async fn disconnect(cast: Cast<'_>) -> Result<()> {
    let mut users = cast.writers(&[0, 1, 2]).await?;
    let mut desk = connected(cast, "desk", 1).await?;
    greets(&mut desk, &mut users).await?;
    let domain = desk.bare();
    for user in &mut users {
        if !items(user).await?.contains(&domain) {
            return Err(format!("{} does not find it among the items", user.name));
        }
    }
    desk.disconnect().await?;
    for user in &mut users {
        say(user, &domain, "too late").await?;
        let error = user.wait_for("an error", |e| e.attr("id") == Some("too late")).await?;
        let unavailable = error.child("error", "jabber:client").is_some_and(|error| {
            error.child("service-unavailable", "urn:ietf:params:xml:ns:xmpp-stanzas").is_some()
        });
        if !unavailable {
            return Err(format!("{} got {error}", user.name));
        }
        user.ping().await?;
        if let Some(more) = user.drain().iter().find(|e| e.attr("id") == Some("too late")) {
            return Err(format!("{} got more than one answer: {more}", user.name));
        }
        if items(user).await?.contains(&domain) {
            return Err(format!("{} still finds it among the items", user.name));
        }
    }
    Ok(())
}

async fn items(user: &mut Client) -> Result<Vec<String>> {
    let domain = user.endpoint.domain.clone();
    let answer = user.iq("get", Some(&domain), &format!("<query xmlns='{ITEMS}'/>")).await?;
    let query = answer.child("query", ITEMS).ok_or_else(|| format!("no items: {answer}"))?;
    Ok(query.children().filter_map(|item| item.attr("jid").map(str::to_owned)).collect())
}
