//! Performs a play: makes the accounts, places the clients, takes the steps one after the other.
//!
//! Called by the scenario test binary. Uses [`crate::client`]. At the end of every play each connected client sends a
//! marker to every other: when the markers are there, so is everything that was sent before them, and whatever a client
//! then holds that the play did not mention is an error. So every play also proves that nothing comes twice.

use super::pattern::{Names, fill, fits};
use super::text::{Act, Play, Step};
use crate::client::{Client, Endpoint, Result, Transcript, patience};
use crate::scram::{Hash, token_proof};
use crate::xml::Element;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where a play can be performed: a way in for each region.
pub struct Theatre {
    /// The endpoints of each region.
    pub regions: Vec<Endpoint>,
    /// The own domain of each region; none: they have none.
    pub domains: Vec<String>,
    /// The port for components in each region; none: there are no components.
    pub components: Vec<u16>,
    /// Makes account names of this run unlike those of others.
    pub season: String,
    /// What a server of others pushes besides, by namespace: passed over where the play does not expect such a push.
    pub habits: &'static [(&'static str, &'static str)],
    performed: AtomicU64,
}

/// Who connects where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Everybody in the same region.
    Together,
    /// Each role in the next region, round and round.
    Spread,
}

impl Theatre {
    /// A theatre on some regions.
    pub fn new(regions: Vec<Endpoint>, season: &str) -> Self {
        let (domains, components, performed) = (Vec::new(), Vec::new(), AtomicU64::new(0));
        Self { regions, domains, components, season: season.into(), habits: &[], performed }
    }
}

const MARKER: &str = "urn:pangaea:scenario:marker";
/// After the markers: how long a client is watched for something the markers may have overtaken.
const QUIET: Duration = Duration::from_millis(150);

/// Performs a play.
///
/// # Errors
/// Names the step that failed, says how, and shows what was said on the wire.
pub async fn perform(play: &Play, theatre: &Theatre, placement: Placement) -> Result<()> {
    let number = theatre.performed.fetch_add(1, Ordering::Relaxed);
    let transcript = Transcript::default();
    let mut stage = Stage {
        clients: BTreeMap::new(),
        names: Names::new(),
        ignored: BTreeMap::new(),
        regions: theatre.regions.clone(),
        places: BTreeMap::new(),
        transcript: transcript.clone(),
        markers: 0,
    };
    let result = stage.play(play, theatre, placement, number).await;
    result.map_err(|e| format!("{}\n{e}\n{}", play.title, transcript.lines().join("\n")))
}

struct Stage {
    clients: BTreeMap<String, Client>,
    names: Names,
    ignored: BTreeMap<String, Vec<Element>>,
    /// Ways in, and at which of them each client is.
    regions: Vec<Endpoint>,
    places: BTreeMap<String, usize>,
    transcript: Transcript,
    markers: u32,
}

impl Stage {
    async fn play(
        &mut self,
        play: &Play,
        theatre: &Theatre,
        placement: Placement,
        number: u64,
    ) -> Result<()> {
        self.cast(play, theatre, placement, number).await?;
        for (ns, habit) in theatre.habits {
            for role in play.roles.iter().filter(|role| !play.pushes(&role.name, ns)) {
                let patterns = self.patterns(habit)?;
                self.ignored.entry(role.name.clone()).or_default().extend(patterns);
            }
        }
        for step in &play.steps {
            self.transcript.note(format!(
                "-- line {}: {} {}",
                step.line,
                step.who,
                headline(&step.act)
            ));
            self.take(step).await.map_err(|e| format!("line {}: {e}", step.line))?;
        }
        self.transcript.note("-- the end: has anybody something left?".into());
        let names: Vec<String> = self.clients.keys().cloned().collect();
        for name in names {
            if self.client(&name).is_connected() {
                self.nothing_left(&name).await.map_err(|e| format!("at the end: {e}"))?;
            }
        }
        for client in self.clients.values_mut() {
            if client.is_connected() {
                client.disconnect().await?;
            }
        }
        Ok(())
    }

    async fn cast(
        &mut self,
        play: &Play,
        theatre: &Theatre,
        placement: Placement,
        number: u64,
    ) -> Result<()> {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for role in &play.roles {
            let next = places.len();
            let region = match (&role.beside, placement) {
                (Some(other), _) => {
                    *places.get(other.as_str()).ok_or(format!("nobody is called {other}"))?
                }
                (None, Placement::Together) => 0,
                (None, Placement::Spread) => next % theatre.regions.len(),
            };
            places.insert(&role.name, region);
            self.places.insert(role.name.clone(), region);
            let owner = role.account_of.as_ref().unwrap_or(&role.name);
            let user = format!("{}-{}{number}", owner.to_lowercase(), theatre.season);
            let mut endpoint = theatre.regions[region].clone();
            self.names.insert("domain".into(), endpoint.domain.clone());
            if role.is_regional {
                let domain = theatre.domains.get(region).ok_or("regions have no domains here")?;
                endpoint.domain.clone_from(domain);
            }
            if role.is_guest {
                endpoint.domain = format!("anon.{}", endpoint.domain);
                self.names.insert("guests".into(), endpoint.domain.clone());
            }
            if role.is_component {
                let port = theatre.components.get(region);
                endpoint.port = *port.ok_or("there are no components here")?;
            }
            let mut client = match role.is_admin {
                // One account for all plays, and they are performed at the same time.
                true => Client::new(&role.name, endpoint, "admin", "wonderland", Some(&user)),
                false => Client::new(
                    &role.name,
                    endpoint,
                    &user,
                    &format!("secret of {user}"),
                    Some(&role.resource),
                ),
            };
            client.transcript = self.transcript.clone();
            if let Some(mechanism) = &role.mechanism {
                let known = [Hash::Sha1, Hash::Sha256, Hash::Sha512];
                let found = known.into_iter().find(|hash| hash.mechanism() == mechanism);
                client.hash = Some(found.ok_or(format!("nobody knows {mechanism}"))?);
            }
            client.is_guest = role.is_guest;
            client.component = role.is_component.then(|| "wonderland".to_owned());
            let own = !role.is_guest && !role.is_admin && !role.stranger && !role.is_component;
            if role.account_of.is_none() && own {
                client.register().await?;
            }
            self.names.insert(role.name.clone(), client.bare());
            self.names.insert(format!("{}/full", role.name), client.full());
            self.names.insert(format!("{}/user", role.name), client.user.clone());
            self.names.insert(format!("{}/domain", role.name), client.endpoint.domain.clone());
            let plain = BASE64_STANDARD.encode(format!("\0{}\0{}", client.user, client.password));
            self.names.insert(format!("{}/plain", role.name), plain);
            self.names.insert(format!("{}/password", role.name), client.password.clone());
            self.clients.insert(role.name.clone(), client);
        }
        Ok(())
    }

    fn client(&mut self, name: &str) -> &mut Client {
        self.clients.get_mut(name).expect("the reader of plays has checked the names")
    }

    async fn connect(&mut self, who: &str) -> Result<()> {
        let client = self.client(who);
        // The account may be so young that the replica here has not heard of it.
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            match client.connect().await {
                Err(e) if e.contains("not-authorized") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                result => break result?,
            }
        }
        let (name, full) = (client.name.clone(), client.full());
        let (bare, user) = (client.bare(), client.user.clone());
        self.names.insert(format!("{name}/full"), full);
        self.names.insert(format!("{name}/user"), user);
        self.names.insert(name, bare);
        Ok(())
    }

    /// Opens a stream, when the region there knows of the account.
    async fn open(&mut self, who: &str) -> Result<()> {
        let client = self.client(who);
        let mut before = Client::new(
            &format!("{who} (before that)"),
            client.endpoint.clone(),
            &client.user,
            &client.password,
            None,
        );
        before.transcript = client.transcript.clone();
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            match before.connect().await {
                Err(e) if e.contains("not-authorized") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                result => break result?,
            }
        }
        before.disconnect().await?;
        self.client(who).open_named_stream().await
    }

    /// Opens a stream and sends what signs it in; again while the region there has not heard of what it is to know.
    async fn sign_in(&mut self, who: &str, text: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            self.client(who).open_named_stream().await?;
            let client = self.client(who);
            client.receive().await?;
            client.send_raw(text).await?;
            let answer = client.receive().await?;
            if answer.name != "failure" || Instant::now() > deadline {
                let full = client.full();
                client.put_back(answer);
                self.names.insert(format!("{who}/full"), full);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What changes during a play: what a client has counted, and the proofs of the tokens that were kept (`${=token…}`).
    fn renew(&mut self) {
        let tokens: Vec<(String, String)> = self
            .names
            .iter()
            .filter(|(name, _)| name.starts_with("token"))
            .map(|(name, token)| (name.clone(), token.clone()))
            .collect();
        for (role, client) in &self.clients {
            self.names.insert(format!("{role}/handled"), client.handled().to_string());
            for (name, token) in &tokens {
                let proof = token_proof(&client.user, token);
                self.names.insert(format!("{role}/proof of {name}"), proof);
            }
        }
    }

    async fn take(&mut self, step: &Step) -> Result<()> {
        self.renew();
        let who = step.who.as_str();
        match &step.act {
            Act::OpensStream => self.client(who).open_stream().await,
            Act::Connects => self.connect(who).await,
            Act::ComesOnline => {
                self.connect(who).await?;
                let client = self.client(who);
                let full = client.full();
                client.send("<presence/>").await?;
                client
                    .wait_for("its own presence", |e| {
                        e.name == "presence"
                            && e.attr("from") == Some(&full)
                            && e.attr("type").is_none()
                    })
                    .await
                    .map(|_| ())
            }
            Act::OpensNamedStream => self.open(who).await,
            Act::SignsIn(text) => {
                let text = fill(text, &self.names);
                self.sign_in(who, &text).await
            }
            Act::AsksForRoster => {
                let client = self.client(who);
                client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await.map(|_| ())
            }
            Act::IsKnown => self.greet(who).await,
            Act::UsesPassword(password) => {
                let password = fill(password, &self.names);
                self.client(who).password = password;
                Ok(())
            }
            Act::FailsToConnect => match self.client(who).connect().await {
                Ok(()) => Err(format!("{who} got in")),
                Err(e) if e.contains("refused") => Ok(()),
                Err(e) => Err(e),
            },
            Act::Sends(xml) => {
                let xml = fill(xml, &self.names);
                for stanza in Element::parse_all(&xml)? {
                    self.client(who).send(&stanza.to_string()).await?;
                }
                Ok(())
            }
            Act::SendsRaw(text) => {
                let text = fill(text, &self.names);
                self.client(who).send_raw(&text).await
            }
            Act::Receives(xml) => {
                for pattern in self.patterns(xml)? {
                    let got =
                        self.next(who).await.map_err(|e| format!("{e}\nexpected {pattern}"))?;
                    fits(&pattern, &got, &mut self.names).map_err(|e| {
                        format!("{who} got something else: {e}\nexpected {pattern}\n     got {got}")
                    })?;
                }
                Ok(())
            }
            Act::ReceivesUnordered(xml) => {
                let mut left = self.patterns(xml)?;
                while !left.is_empty() {
                    let expected =
                        || left.iter().map(|p| format!("\nexpected {p}")).collect::<String>();
                    let got = self.next(who).await.map_err(|e| format!("{e}{}", expected()))?;
                    let mut kept = self.names.clone();
                    let at = left.iter().position(|p| {
                        kept = self.names.clone();
                        fits(p, &got, &mut kept).is_ok()
                    });
                    let Some(at) = at else {
                        return Err(format!(
                            "{who} got something else{}\n     got {got}",
                            expected()
                        ));
                    };
                    self.names = kept;
                    left.remove(at);
                }
                Ok(())
            }
            Act::ReceivesNothing => self.nothing_left(who).await,
            Act::Ignores(xml) => {
                let patterns = self.patterns(xml)?;
                self.ignored.entry(who.into()).or_default().extend(patterns);
                Ok(())
            }
            Act::Disconnects => self.client(who).disconnect().await,
            Act::Cuts => {
                self.client(who).cut().await;
                Ok(())
            }
            Act::Resumes => self.client(who).resume().await,
            Act::ResumesElsewhere => {
                let place = self.places.get_mut(who).expect("everybody has a place");
                *place = (*place + 1) % self.regions.len();
                let endpoint = self.regions[*place].clone();
                let client = self.client(who);
                client.endpoint = Endpoint { domain: client.endpoint.domain.clone(), ..endpoint };
                client.resume().await
            }
            Act::FailsToResume => match self.client(who).resume().await {
                Ok(()) => Err(format!("{who} resumed")),
                Err(e) if e.contains("not resumed") => Ok(()),
                Err(e) => Err(e),
            },
            Act::StreamEnds => {
                let client = self.client(who);
                client.wait_end().await?;
                let left = client.drain();
                match left.iter().find(|e| !self.is_ignored(who, e)) {
                    Some(extra) => Err(format!("{who} got something before the end: {extra}")),
                    None => Ok(()),
                }
            }
            Act::EnablesSm(resume) => {
                let client = self.client(who);
                client.enable_sm(*resume).await?;
                if client.can_resume() == *resume {
                    Ok(())
                } else {
                    Err("resumption is not what was asked for".into())
                }
            }
            Act::IsAcknowledged => self.client(who).wait_acked().await,
            Act::AnswersAcks(yes) => {
                self.client(who).answer_acks(*yes);
                Ok(())
            }
            Act::AreFriends(other) => self.befriend(who, other).await,
        }
    }

    fn patterns(&self, xml: &str) -> Result<Vec<Element>> {
        Element::parse_all(&fill(xml, &self.names))
    }

    fn is_ignored(&self, who: &str, element: &Element) -> bool {
        // RFC 6121 §4.3.2 lets a server say "unavailable" in the name of a contact who has no session, or say nothing.
        let from_bare = element.attr("from").is_some_and(|f| !f.contains('/'));
        if element.name == "presence" && element.attr("type") == Some("unavailable") && from_bare {
            return true;
        }
        let mut names = self.names.clone();
        self.ignored
            .get(who)
            .is_some_and(|all| all.iter().any(|p| fits(p, element, &mut names).is_ok()))
    }

    async fn next(&mut self, who: &str) -> Result<Element> {
        loop {
            let got = self.client(who).receive().await?;
            if !self.is_ignored(who, &got) {
                return Ok(got);
            }
        }
    }

    /// One client sends a marker to each of the others, who wait for it. What a region has to know of a session travels
    /// before what that session says.
    async fn greet(&mut self, who: &str) -> Result<()> {
        self.markers += 1;
        let mark = format!("marker-{}", self.markers);
        let others: Vec<String> = self
            .clients
            .iter()
            .filter(|(n, c)| *n != who && c.is_connected())
            .map(|(n, _)| n.clone())
            .collect();
        for other in others {
            let to = crate::xml::escape(&self.client(&other).full());
            let client = self.client(who);
            let from = stamp(client);
            let marker = format!(
                "<message to='{to}'{from} type='normal' id='{mark}'><marker xmlns='{MARKER}'/></message>"
            );
            client.send(&marker).await?;
            self.client(&other)
                .wait_for("a marker", |e| {
                    e.child("marker", MARKER).is_some() && e.attr("id") == Some(&mark)
                })
                .await?;
        }
        Ok(())
    }

    /// Everybody who is connected sends a marker to this client; nothing else may be there when they have come.
    async fn nothing_left(&mut self, who: &str) -> Result<()> {
        let to = self.client(who).full();
        self.markers += 1;
        let mark = format!("marker-{}", self.markers);
        let mut senders = 0;
        for client in self.clients.values_mut() {
            if client.is_connected() {
                senders += 1;
                let (to, from) = (crate::xml::escape(&to), stamp(client));
                client.send(&format!("<message to='{to}'{from} type='normal' id='{mark}'><marker xmlns='{MARKER}'/></message>")).await?;
            }
        }
        let mut left = Vec::new();
        let mut come = 0;
        let deadline = Instant::now() + patience();
        loop {
            let wait = if come < senders {
                deadline.saturating_duration_since(Instant::now())
            } else {
                QUIET
            };
            match self.client(who).receive_within(wait).await {
                Ok(e) if e.child("marker", MARKER).is_some() && e.attr("type") == Some("error") => {
                    return Err(format!("a marker came back: {e}"));
                }
                Ok(e) if e.child("marker", MARKER).is_some() => {
                    // An older one may arrive late only if it was doubled.
                    if e.attr("id") != Some(&mark) || come == senders {
                        return Err(format!("a marker came twice: {e}"));
                    }
                    come += 1;
                }
                Ok(e) if self.is_ignored(who, &e) => {}
                Ok(e) => left.push(e),
                Err(_) if come == senders => break,
                Err(e) => {
                    return Err(format!(
                        "{e}: {come} of {senders} markers have come; {}",
                        listed(&left)
                    ));
                }
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{who} received what nobody spoke of: {}", listed(&left)))
        }
    }

    /// Both subscribe to each other, by sessions that leave before the play goes on.
    async fn befriend(&mut self, one: &str, other: &str) -> Result<()> {
        let mut pair = Vec::new();
        for name in [one, other] {
            let template = self.client(name);
            let mut client = Client::new(
                &format!("{name} (before the play)"),
                template.endpoint.clone(),
                &template.user.clone(),
                &template.password.clone(),
                Some("before-the-play"),
            );
            client.transcript = self.transcript.clone();
            let deadline = Instant::now() + Duration::from_secs(3);
            while let Err(e) = client.connect().await {
                if Instant::now() > deadline {
                    return Err(e);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
            client.send("<presence/>").await?;
            pair.push(client);
        }
        for (asks, grants) in [(0, 1), (1, 0)] {
            let (asker, granter) = (pair[asks].bare(), pair[grants].bare());
            pair[asks].send(&format!("<presence type='subscribe' to='{granter}'/>")).await?;
            pair[grants]
                .wait_for("a subscription request", is_presence("subscribe", &asker))
                .await?;
            pair[grants].send(&format!("<presence type='subscribed' to='{asker}'/>")).await?;
            pair[asks].wait_for("an approval", is_presence("subscribed", &granter)).await?;
        }
        // Available presence of each at the other: the subscriptions are in force. Then both leave, in sight of each other.
        for (here, there) in [(0, 1), (1, 0)] {
            let from = pair[there].full();
            pair[here].wait_for("the friend's presence", is_presence("", &from)).await?;
        }
        for client in &mut pair {
            let roster = client.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
            let item = roster
                .child("query", "jabber:iq:roster")
                .and_then(|q| q.child("item", "jabber:iq:roster"));
            if item.and_then(|i| i.attr("subscription")) != Some("both") {
                return Err(format!(
                    "after the handshake the roster of {} is {roster}",
                    client.name
                ));
            }
        }
        let leaver = pair[1].full();
        pair[1].disconnect().await?;
        pair[0].wait_for("the friend's leaving", is_presence("unavailable", &leaver)).await?;
        pair[0].disconnect().await
    }
}

/// A component says itself from whom.
fn stamp(client: &Client) -> String {
    match client.component {
        Some(_) => format!(" from='{}'", client.bare()),
        None => String::new(),
    }
}

fn is_presence(type_: &str, from: &str) -> impl Fn(&Element) -> bool {
    move |e| {
        e.name == "presence"
            && e.attr("type").unwrap_or_default() == type_
            && e.attr("from") == Some(from)
    }
}

fn listed(elements: &[Element]) -> String {
    elements.iter().map(|e| format!("\n     got {e}")).collect()
}

fn headline(act: &Act) -> String {
    format!("{act:?}").split('(').next().unwrap_or_default().to_owned()
}
