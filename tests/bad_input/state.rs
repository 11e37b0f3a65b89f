//! How far a client has come before the bad bytes, and who else is there. Called by `row` and by the tests that are no rows.

use crate::roster::BLOCKED;
use crate::wire::{Bytes, Heard, Road, Wire, usual};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use pangaea_tests::client::{Client, Endpoint, Result, Security};
use pangaea_tests::platform::{Door, Platform};
use pangaea_tests::xml::Element;
use std::sync::Mutex;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// Connected.
    Fresh,
    /// The stream is open, features are read.
    Open,
    /// SASL has succeeded, the new stream header is still to come.
    Signed,
    /// That has come too.
    Authenticated,
    /// A resource is bound.
    Bound,
    /// Stream management is on.
    Managed,
}

/// The bystander's number; rows are user0 to user49.
const FRIEND: u32 = 60;
const ROWS: u32 = 50;

/// The platform, and somebody who is online all the time.
pub(crate) struct House<'a> {
    pub(crate) platform: &'a Platform,
    friend: Mutex<Option<Client>>,
    friend_full: String,
    next: Mutex<u32>,
}

/// A client in some state.
pub(crate) struct Guest {
    pub(crate) wire: Box<dyn Wire>,
    pub(crate) domain: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// Once bound.
    pub(crate) full: String,
}

impl<'a> House<'a> {
    pub(crate) async fn of(platform: &'a Platform) -> Result<Self> {
        let mut friend = platform.user(FRIEND, 0, "friend")?;
        friend.connect().await?;
        friend.send("<presence/>").await?;
        let block = format!(
            "<block xmlns='urn:xmpp:blocking'><item jid='user{BLOCKED}@{}'/></block>",
            friend.endpoint.domain
        );
        let answer = friend.iq("set", None, &block).await?;
        if answer.attr("type") != Some("result") {
            return Err(format!("the bystander cannot block: {answer}"));
        }
        let friend_full = friend.full();
        Ok(Self { platform, friend: Mutex::new(Some(friend)), friend_full, next: Mutex::new(0) })
    }

    /// The bystander is still there, and nothing of what the rows said has come to him that should not.
    pub(crate) async fn bystander(&self) -> Result<()> {
        let friend = self.friend.lock().expect("nobody panics with it").take();
        friend.ok_or("the bystander is asked once")?.ping().await
    }

    pub(crate) fn endpoint(&self, region: usize, road: Road) -> Result<Endpoint> {
        match road {
            Road::Tls => self.platform.endpoint(region, Door::DirectTls),
            Road::Plain => {
                let endpoint = self.platform.endpoint(region, Door::StartTls)?;
                Ok(Endpoint { security: Security::Plain, ..endpoint })
            }
        }
    }

    /// A client of an account of its own (until there are more than there are accounts), that far.
    pub(crate) async fn guest(&self, road: Road, at: At) -> Result<Guest> {
        let number = {
            let mut next = self.next.lock().expect("nobody panics with it");
            *next += 1;
            *next % ROWS
        };
        self.guest_as(&format!("user{number}"), &format!("pw{number}"), 0, road, at).await
    }

    pub(crate) async fn guest_as(
        &self,
        user: &str,
        password: &str,
        region: usize,
        road: Road,
        at: At,
    ) -> Result<Guest> {
        let endpoint = self.endpoint(region, road)?;
        let mut guest = Guest {
            wire: Box::new(Bytes::connect(&endpoint).await?),
            domain: endpoint.domain,
            user: user.to_owned(),
            password: password.to_owned(),
            full: String::new(),
        };
        guest.go(at).await?;
        Ok(guest)
    }

    /// Names in a script: `${me}`, `${full}`, `${user}`, `${pass}`, `${domain}`, `${friend}`, `${friend/full}`, `${plain}` (what PLAIN says), `${header}`
    /// (the usual attributes of a stream header).
    pub(crate) fn fill(&self, text: &str, guest: &Guest) -> String {
        let friend = self.friend_full.split('/').next().unwrap_or_default();
        text.replace("${me}", &format!("{}@{}", guest.user, guest.domain))
            .replace("${full}", &guest.full)
            .replace("${user}", &guest.user)
            .replace("${pass}", &guest.password)
            .replace("${domain}", &guest.domain)
            .replace("${friend}", friend)
            .replace("${friend/full}", &self.friend_full)
            .replace("${plain}", &guest.plain())
            .replace("${header}", &usual(&guest.domain))
    }
}

impl Guest {
    fn plain(&self) -> String {
        BASE64_STANDARD.encode(format!("\0{}\0{}", self.user, self.password))
    }

    pub(crate) async fn element(&mut self) -> Result<Element> {
        match self.wire.hear().await? {
            Heard::Element(element) => Ok(element),
            other => Err(format!("expected an element, heard {other:?}")),
        }
    }

    async fn open(&mut self) -> Result<()> {
        self.wire.restart();
        let header = self.wire.header(&usual(&self.domain));
        self.wire.send(&header).await;
        match self.wire.hear().await? {
            Heard::Open => {}
            other => return Err(format!("expected a stream header, heard {other:?}")),
        }
        let features = self.element().await?;
        if features.name == "features" { Ok(()) } else { Err(format!("no features: {features}")) }
    }

    async fn asks(&mut self, text: &str, expected: &str) -> Result<Element> {
        self.wire.send(text.as_bytes()).await;
        let answer = self.element().await?;
        if answer.name == expected || answer.attr("type") == Some(expected) {
            Ok(answer)
        } else {
            Err(format!("{text} is answered {answer}"))
        }
    }

    async fn go(&mut self, at: At) -> Result<()> {
        if at >= At::Open {
            self.open().await?;
        }
        if at >= At::Signed {
            let auth = format!(
                "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}</auth>",
                self.plain()
            );
            self.asks(&auth, "success").await?;
            self.wire.restart();
        }
        if at >= At::Authenticated {
            self.open().await?;
        }
        if at >= At::Bound {
            let bind =
                "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
            let bound = self.asks(bind, "result").await?;
            let jid = bound.children().next().and_then(|bind| bind.children().next());
            self.full = jid.map(Element::text).ok_or("bound to nothing")?;
        }
        if at >= At::Managed {
            self.asks("<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "enabled").await?;
        }
        Ok(())
    }
}
