//! What becomes of connections when a reload says something else of their components.

use config::Component;

use super::*;
use crate::router::Named;

/// As a reload does it, with these components.
fn reloaded(house: &House, change: impl FnOnce(&mut Vec<Component>)) {
    let node = &house.node;
    let mut config = config::Config::clone(&node.config);
    change(&mut config.components.component);
    let known = Known::read(&config.components).expect("no files");
    let components = config.components.clone();
    reload(node, known, &components, || assert!(node.config.replace(config)));
}

async fn is_refused(house: &House, domain: &str, secret: &str) -> String {
    let mut line = Line::new(house);
    // The stream may be refused at its header.
    line.says(&open(domain)).await;
    let header = line.reads(">").await + &line.reads(">").await;
    let id = header.split(" id='").nth(1).and_then(|rest| rest.split('\'').next());
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        let _ = line.line.write_all(shaken(id, secret).as_bytes()).await;
    }
    line.rest().await
}

#[tokio::test]
async fn a_new_component_connects_at_once_and_one_that_is_gone_ends() {
    let (house, romeo) = romeo(CONFIG).await;
    let bridge = Line::connected(&house, "bridge.example", "of all").await;
    let mut other = Line::connected(&house, "other.chat.example", "of all").await;
    let said = is_refused(&house, "new.example", "of its own").await;
    assert!(said.contains("<host-unknown "), "{said}");
    reloaded(&house, |all| {
        let irc = all[0].clone();
        all.retain(|component| component.domain != "bridge.example");
        all.push(Component { domain: "new.example".to_owned(), ..irc });
    });
    let said = bridge.rest().await;
    assert!(said.contains("<stream:error><host-gone "), "{said}");
    let said = is_refused(&house, "bridge.example", "of all").await;
    assert!(said.contains("<host-unknown "), "{said}");
    // It is another server's now.
    house.says(&romeo, "<message to='bridge.example' id='1'><body>hi</body></message>").await;
    let mail = house.mail(&romeo).await.concat();
    assert!(mail.contains("remote-server-not-found"), "{mail}");
    let mut new = Line::connected(&house, "new.example", "of its own").await;
    house.says(&romeo, "<message to='new.example' id='2'><body>hi</body></message>").await;
    assert!(new.reads("</message>").await.contains("id='2'"));
    // Of whom nothing else is said nothing changes.
    house.says(&romeo, "<message to='other.chat.example' id='3'><body>hi</body></message>").await;
    assert!(other.reads("</message>").await.contains("id='3'"));
}

#[tokio::test]
async fn whose_name_becomes_a_services_makes_room() {
    let house = House::with(CONFIG).await;
    let files = Line::connected(&house, "files.chat.example", "of all").await;
    let mut other = Line::connected(&house, "other.chat.example", "of all").await;
    let node = &house.node;
    let mut config = config::Config::clone(&node.config);
    config.domains.upload = Some("files.chat.example".to_owned());
    let named = Named::new(&config, [("files.chat.example", 0)].into_iter());
    let known = Known::read(&config.components).expect("no files");
    let components = config.components.clone();
    reload(node, known, &components, || {
        assert!(node.domains.named.replace(named) && node.config.replace(config));
    });
    let said = files.rest().await;
    assert!(said.contains("<stream:error><host-gone "), "{said}");
    let said = is_refused(&house, "files.chat.example", "of all").await;
    assert!(said.contains("<conflict "), "{said}");
    // What was the service's may be anybody's.
    Line::connected(&house, "upload.chat.example", "of all").await;
    other.says("<message from='other.chat.example' to='a@other.chat.example' id='1'/>").await;
    assert!(other.reads("/>").await.contains("id='1'"));
}

#[tokio::test]
async fn who_knows_only_the_former_secret_is_out() {
    let house = House::with(CONFIG).await;
    let irc = Line::connected(&house, "irc.chat.example", "of its own").await;
    let mut slow = Line::new(&house);
    let id = slow.opens_as("irc.chat.example").await;
    reloaded(&house, |all| all[0].secret = Some("another".to_owned()));
    let said = irc.rest().await;
    assert!(said.contains("<stream:error><reset "), "{said}");
    // It began before: what it says is right, but not any more.
    slow.hashes(&id, "of its own").await;
    let said = slow.rest().await;
    assert!(said.contains("<not-authorized "), "{said}");
    let said = is_refused(&house, "irc.chat.example", "of its own").await;
    assert!(said.contains("<not-authorized "), "{said}");
    let irc = Line::connected(&house, "irc.chat.example", "another").await;
    reloaded(&house, |all| all[0].privileges.messages = true);
    let said = irc.rest().await;
    assert!(said.contains("<stream:error><reset "), "{said}");
    let mut irc = Line::connected(&house, "irc.chat.example", "another").await;
    assert!(irc.reads("</message>").await.contains("access='message'"));
    // What is said to people is no reason to end.
    reloaded(&house, |all| all[0].title = Some("Chat".to_owned()));
    assert_eq!(items(&house.node)[0].name.as_deref(), Some("Chat"));
    irc.says("<message from='irc.chat.example' to='a@irc.chat.example' id='4'/>").await;
    assert!(irc.reads("/>").await.contains("id='4'"));
}
