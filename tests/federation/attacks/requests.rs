//! Where we go out: DNS that lies (B-214), servers that do not do what they should (B-070, B-071, B-202, B-215, S-026, S-027, S-054), certificates that
//! prove nothing (B-205), policies. Somebody of ours writes, and hears what became of it; the stranger tells what it was told.
//!
//! Each of these has a domain of its own: what one of them did is not remembered for another.

use super::Target;
use super::certificates::{ROWS, STRICT, paper};
use crate::authority::{Kind, Name};
use crate::site::Site;
use crate::stranger::home::{Home, Manners, Verdict};
use crate::stranger::{Line, header, usual};
use crate::talk::condition;
use crate::{expect, next_user};
use pangaea_tests::client::Result;
use pangaea_tests::dns::{Answer, Kind as Type, Record};
use pangaea_tests::harness::Test;
use pangaea_tests::xml::Element;
use std::time::{Duration, Instant};

const NOT_FOUND: &[&str] = &["remote-server-not-found/cancel"];
const TIMEOUT: &[&str] = &["remote-server-timeout/wait"];
const EITHER: &[&str] = &["remote-server-not-found/cancel", "remote-server-timeout/wait"];
/// What waits is given up after the time that these tests configure, and a little more.
const GIVEN_UP: Duration = Duration::from_secs(40);

pub(crate) fn tests<'a>(target: &'a Target<'a>, ours: &'a Site) -> Vec<Test<'a>> {
    macro_rules! tests {
        ($($name:expr => $test:expr),* $(,)?) => {
            vec![$(Test::new(format!("attacks::{}", $name), move || $test)),*]
        };
    }
    let on = Requests { target, ours };
    tests![
        "B-214 a thousand targets" => on.thousand_targets(),
        "B-214 the target that says no" => on.dns("dot.lab", no_service(), NOT_FOUND),
        "B-214 a circle of aliases" => on.circle(),
        "B-214 our own address" => on.dns("mirror.lab", to_port(target.port), NOT_FOUND),
        "B-214 a target without an address" => on.dns("adrift.lab", to_nowhere(), NOT_FOUND),
        "B-214 no such domain" => on.error("user@void.lab", NOT_FOUND),
        "B-214 DNS fails" => on.dns("fails.lab", Answer::Fails, EITHER),
        "B-214 DNS refuses" => on.dns("refuses.lab", Answer::Refuses, EITHER),
        "B-214 DNS says nothing" => on.dns("silent.lab", Answer::Silent, TIMEOUT),
        "B-214 DNS says what is no answer" => on.dns("noise.lab", Answer::Noise, EITHER),
        "0368 TLS from the first byte" => on.direct(),
        "6120 §3.2.1 the first target does not answer" => on.second(),
        "B-140 an address instead of a domain" => on.literals(),
        "B-202 nobody listens" => on.dns("nobody.lab", to_port(9), EITHER),
        "B-202 a server that says nothing" => on.manners("mute.lab", Manners { mute: true, ..Manners::default() }),
        "B-070 clear text behind proceed" => on.injected(),
        "B-071 no STARTTLS" => on.manners("stripped.lab", Manners { starttls: false, ..Manners::default() }),
        "S-057 neither EXTERNAL nor dialback" => on.manners(
            "stubborn.lab", Manners { external: false, dialback: false, ..Manners::default() }
        ),
        "B-215 it closes when TLS stands" => on.back_off(),
        "S-054 it adds what nobody asked for" => on.adds(),
        "S-059 it answers before it is asked" => on.early(),
        "B-205 certificates where they are asked for" => on.certificates(),
        "B-202 it says nothing about a key" => on.verdict("hush.lab", Verdict::Silence, "remote-server-timeout"),
        "S-054 it speaks of another key" => on.verdict("elsewhere.lab", Verdict::Elsewhere, "remote-server-timeout"),
        "B-202 it knows no such key" => on.verdict("unknowing.lab", Verdict::Error, "?"),
        "a domain that is denied" => on.denied("denied.lab"),
        "a domain on the blocklist" => on.denied("below.blocked.lab"),
        "B-059 a header and then silence" => on.silence(),
    ]
}

/// Those that would get in the way of others.
pub(crate) fn alone<'a>(target: &'a Target<'a>, ours: &'a Site) -> Vec<Test<'a>> {
    let on = Requests { target, ours };
    vec![Test::new("attacks::floods: too many streams of one address", move || on.flood())]
}

fn no_service() -> Answer {
    let target = ".".to_owned();
    Answer::Records(vec![Record::Srv { priority: 0, weight: 0, port: 0, target }])
}

fn to_port(port: u16) -> Answer {
    Answer::Records(vec![Record::srv(port)])
}

fn to_nowhere() -> Answer {
    let target = "no.address.lab".to_owned();
    Answer::Records(vec![Record::Srv { priority: 0, weight: 0, port: 5269, target }])
}

#[derive(Clone, Copy)]
struct Requests<'a> {
    target: &'a Target<'a>,
    ours: &'a Site,
}

impl Requests<'_> {
    /// Somebody writes to `to` and hears one of these errors.
    async fn error(self, to: &str, expected: &[&str]) -> Result<()> {
        let mut romeo = self.ours.online(next_user(), 0, "orchard").await?;
        let message =
            format!("<message to='{to}' id='out' type='chat'><body>hello?</body></message>");
        romeo.send(&message).await?;
        let fits = |e: &Element| e.name == "message" && e.attr("id") == Some("out");
        let back = romeo.wait_for_within(GIVEN_UP, "an error", fits).await?;
        let got = condition(&back);
        expect(expected.contains(&&*got) && back.attr("from") == Some(to), || back.to_string())
    }

    /// The server at a domain has these manners: nothing reaches it, and the sender is told.
    async fn manners(self, domain: &str, manners: Manners) -> Result<()> {
        let paper = self.target.world.authority.for_domain(domain)?;
        let home = Home::start(&self.target.world.dns, &[domain], &paper, manners).await?;
        self.error(&format!("user@{domain}"), TIMEOUT).await?;
        let said = home.unproved();
        let said: Vec<_> = said.iter().filter(|text| text.contains("hello?")).collect();
        expect(said.is_empty(), || format!("said to somebody who is nobody: {said:?}"))?;
        expect(home.next(Duration::ZERO).await.is_err(), || "a stanza came".into())
    }

    /// DNS says this about the service of a domain.
    async fn dns(self, domain: &str, answer: Answer, expected: &[&str]) -> Result<()> {
        for service in ["_xmpp-server", "_xmpps-server"] {
            let name = format!("{service}._tcp.{domain}");
            self.target.world.dns.say(&name, Type::Srv, answer.clone());
        }
        self.error(&format!("user@{domain}"), expected).await
    }

    /// One good one is among them, the last; or nobody is tried beyond some number. It ends, either way, and DNS is not asked a thousand times.
    async fn thousand_targets(self) -> Result<()> {
        let dns = &self.target.world.dns;
        let srv = |n: u16| {
            let target = format!("t{n}.many.lab");
            dns.set(&target, Record::A(std::net::Ipv4Addr::LOCALHOST));
            Record::Srv { priority: n, weight: 0, port: 1, target }
        };
        let answer = Answer::Records((0..1000).map(srv).collect());
        let began = Instant::now();
        self.dns("many.lab", answer, EITHER).await?;
        let asked: usize = (0..1000).map(|n| dns.asked(&format!("t{n}.many.lab"), Type::A)).sum();
        println!(
            "    a thousand targets: {asked} looked for, {:.1} s",
            began.elapsed().as_secs_f64()
        );
        expect(asked < 200, || format!("{asked} targets were looked for"))
    }

    async fn circle(self) -> Result<()> {
        for (from, to) in [("round", "and"), ("and", "round")] {
            let record = Record::Cname(format!("_xmpp-server._tcp.{to}.lab"));
            self.target.world.dns.set(&format!("_xmpp-server._tcp.{from}.lab"), record);
            self.target.world.dns.set(&format!("{from}.lab"), Record::Cname(format!("{to}.lab")));
        }
        self.error("user@round.lab", EITHER).await
    }

    /// A message to somebody there comes.
    async fn arrives(self, domain: &str, home: &Home) -> Result<()> {
        let mut romeo = self.ours.online(next_user(), 0, "orchard").await?;
        romeo
            .send(&format!("<message to='user@{domain}' id='in'><body>x</body></message>"))
            .await?;
        home.wait_for("in", GIVEN_UP).await.map(|_| ())
    }

    async fn direct(self) -> Result<()> {
        let (domain, dns) = ("direct.lab", &self.target.world.dns);
        let paper = self.target.world.authority.for_domain(domain)?;
        let manners = Manners { direct: true, ..Manners::default() };
        let home = Home::start(dns, &[], &paper, manners).await?;
        dns.say(&format!("_xmpps-server._tcp.{domain}"), Type::Srv, to_port(home.port));
        self.arrives(domain, &home).await
    }

    /// Nobody listens at the first target, and the second does not know the domain.
    async fn second(self) -> Result<()> {
        let (domain, dns) = ("second.lab", &self.target.world.dns);
        let paper = self.target.world.authority.for_domain(domain)?;
        let home = Home::start(dns, &[], &paper, Manners::default()).await?;
        let leaves = Manners { leaves_after_tls: true, ..Manners::default() };
        let other = Home::start(dns, &[], &paper, leaves).await?;
        let ports = [9, other.port, home.port];
        let targets = ports.iter().zip(0..).map(|(port, priority)| Record::Srv {
            priority,
            weight: 0,
            port: *port,
            target: "localhost.".into(),
        });
        let answer = Answer::Records(targets.collect());
        dns.say(&format!("_xmpp-server._tcp.{domain}"), Type::Srv, answer);
        self.arrives(domain, &home).await
    }

    async fn literals(self) -> Result<()> {
        for to in ["a@127.0.0.1", "a@[::1]"] {
            self.error(to, &["remote-server-not-found/cancel", "jid-malformed/modify"]).await?;
        }
        Ok(())
    }

    async fn injected(self) -> Result<()> {
        let injects = "<stream:features xmlns:stream='http://etherx.jabber.org/streams'/><message from='a@injects.lab' to='user1@pangaea.lab'><body>a lie</body></message>";
        self.manners("injects.lab", Manners { injects, ..Manners::default() }).await
    }

    /// Tried again, but ever more rarely.
    async fn back_off(self) -> Result<()> {
        let domain = "leaves.lab";
        let paper = self.target.world.authority.for_domain(domain)?;
        let manners = Manners { leaves_after_tls: true, ..Manners::default() };
        let home = Home::start(&self.target.world.dns, &[domain], &paper, manners).await?;
        self.error(&format!("user@{domain}"), TIMEOUT).await?;
        let times = home.connected();
        let pauses: Vec<f64> =
            times.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
        println!("    closed after TLS: {} attempts, pauses {pauses:.1?}", times.len());
        expect((2..30).contains(&times.len()), || format!("{} attempts", times.len()))?;
        let longest = pauses.iter().copied().fold(0.0, f64::max);
        expect(longest > 1.0, || format!("no pause grows: {pauses:?}"))
    }

    /// Answers that belong to nothing, and stanzas the wrong way, on a stream that is ours: they change nothing.
    async fn adds(self) -> Result<()> {
        let adds = "<db:verify from='verona.lab' to='pangaea.lab' id='1' type='valid'/>\
                    <db:result from='verona.lab' to='pangaea.lab' type='valid'/>";
        let domain = "adds.lab";
        let paper = self.target.world.authority.for_domain(domain)?;
        let manners = Manners { adds, ..Manners::default() };
        let home = Home::start(&self.target.world.dns, &[domain], &paper, manners).await?;
        let mut romeo = self.ours.online(next_user(), 0, "orchard").await?;
        let lie = format!("<message to='user@{domain}' id='out'><body>hello</body></message>");
        romeo.send(&lie).await?;
        // Either it is passed over, or the stream ends, and another, where it happens again, ends too: an error then.
        let fits = |e: &Element| e.attr("id") == Some("out");
        tokio::select! {
            came = home.wait_for("out", GIVEN_UP) => came.map(|_| ()),
            back = romeo.wait_for_within(GIVEN_UP, "an error", fits) => {
                let got = condition(&back?);
                expect(TIMEOUT.contains(&&*got), || got.clone())
            }
        }
    }

    /// Its header and features come in one piece with what it says first.
    async fn early(self) -> Result<()> {
        let domain = "early.lab";
        let paper = self.target.world.authority.for_domain(domain)?;
        let manners = Manners { adds: " ", ..Manners::default() };
        let home = Home::start(&self.target.world.dns, &[domain], &paper, manners).await?;
        let mut romeo = self.ours.online(next_user(), 0, "orchard").await?;
        for number in 0..20 {
            let to = format!("user@{domain}");
            romeo
                .send(&format!("<message to='{to}' id='e{number}'><body>x</body></message>"))
                .await?;
        }
        for number in 0..20 {
            let came = home.next(GIVEN_UP).await?;
            let id = came.stanza.attr("id").unwrap_or_default().to_owned();
            expect(id == format!("e{number}"), || format!("{id} instead of e{number}"))?;
        }
        Ok(())
    }

    /// The truth table from the other side, all at once: where a certificate is asked for, it decides whether anything is sent.
    async fn certificates(self) -> Result<()> {
        let mut romeo = self.ours.online(next_user(), 0, "orchard").await?;
        let mut homes = Vec::new();
        for (number, row) in ROWS.iter().enumerate() {
            let domain = format!("out{number}.{STRICT}");
            let paper = paper(&self.target.world.authority, row, &domain)?;
            let dns = &self.target.world.dns;
            let home = Home::start(dns, &[&domain], &paper, Manners::default()).await?;
            let text =
                format!("<message to='user@{domain}' id='o{number}'><body>x</body></message>");
            romeo.send(&text).await?;
            homes.push((row, home));
        }
        let mut wrong = Vec::new();
        let deadline = Instant::now() + GIVEN_UP;
        for (number, (row, home)) in homes.iter().enumerate() {
            let (_, what, .., proves) = row;
            let id = format!("o{number}");
            let left = deadline.saturating_duration_since(Instant::now());
            if *proves {
                let came = home.wait_for(&id, left).await;
                wrong.extend(came.err().map(|e| format!("{what}: {e}")));
                continue;
            }
            let fits = |e: &Element| e.attr("id") == Some(&id);
            match romeo.wait_for_within(left, "an error", fits).await {
                Ok(back) if TIMEOUT.contains(&&*condition(&back)) => {}
                Ok(back) => wrong.push(format!("{what}: {}", condition(&back))),
                Err(e) => wrong.push(format!("{what}: {e}")),
            }
            if home.next(Duration::ZERO).await.is_ok() {
                wrong.push(format!("{what}: it was sent all the same"));
            }
        }
        expect(wrong.is_empty(), || wrong.join("\n"))
    }

    /// Somebody claims a domain whose authoritative server says that, or nothing, about its keys.
    async fn verdict(self, domain: &str, verdict: Verdict, expected: &str) -> Result<()> {
        let Target { world, us, port, own, .. } = self.target;
        let paper = world.authority.issue(Kind::SelfSigned, domain, &[Name::Dns(domain)])?;
        let manners = Manners { verdict, ..Manners::default() };
        let _home = Home::start(&world.dns, &[domain], &paper, manners).await?;
        let (mut line, ..) = Line::secured(*port, (domain, us), Some(own)).await?;
        line.send(format!("<db:result from='{domain}' to='{us}'>key</db:result>")).await;
        let heard = line.hear_within(GIVEN_UP).await?;
        let crate::stranger::Heard::Element(answer) = heard else {
            return Err(format!("{heard:?}"));
        };
        // The time for proving anything at all may be over first.
        let gone =
            answer.name == "error" && answer.children().any(|e| e.name == "connection-timeout");
        let refused = answer.attr("type") == Some("error");
        let condition = answer.children().flat_map(Element::children).next();
        let right = expected == "?" || condition.is_some_and(|c| c.name == expected);
        expect(gone || (refused && right), || answer.to_string())
    }

    /// Nothing in either direction.
    async fn denied(self, domain: &str) -> Result<()> {
        let Target { world, us, port, .. } = self.target;
        let paper = world.authority.for_domain(domain)?;
        let home = Home::start(&world.dns, &[domain], &paper, Manners::default()).await?;
        let expected = &["not-allowed/cancel", "remote-server-not-found/cancel", "forbidden/auth"];
        self.error(&format!("user@{domain}"), expected).await?;
        expect(home.connected().is_empty(), || "it was connected to".into())?;
        let mut line = Line::connect(*port).await?;
        line.send(header(&usual(domain, us))).await;
        let mut word = String::new();
        loop {
            match line.hear().await? {
                crate::stranger::Heard::Element(element) if element.name == "features" => {
                    line.send(crate::stranger::STARTTLS).await;
                    line.element().await?;
                    line = line.secure(Some(&paper), us).await?;
                    line.send(header(&usual(domain, us))).await;
                }
                crate::stranger::Heard::Element(element) => {
                    word = element.children().next().map_or(String::new(), |e| e.name.clone());
                }
                crate::stranger::Heard::End => break,
                _ => {}
            }
        }
        expect(word == "policy-violation" || word == "not-authorized", || word.clone())
    }

    /// The time to prove something is bounded.
    async fn silence(self) -> Result<()> {
        let Target { us, port, .. } = self.target;
        let mut line = Line::connect(*port).await?;
        line.open("quiet.lab", us).await?;
        let began = Instant::now();
        let crate::stranger::Heard::Element(error) = line.hear_within(GIVEN_UP).await? else {
            return Err("no stream error".into());
        };
        let timed_out = error.children().any(|e| e.name == "connection-timeout");
        expect(timed_out, || error.to_string())?;
        println!("    silence ended after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Somebody opens many and proves nothing: others still come in, and so does the same one later.
    async fn flood(self) -> Result<()> {
        let Target { us, port, .. } = self.target;
        let mut lines = Vec::new();
        let (mut open, mut refused) = (0, 0);
        for _ in 0..300 {
            let mut line = Line::connect(*port).await?;
            match line.open("flood.lab", us).await {
                Ok(_) => {
                    open += 1;
                    lines.push(line);
                }
                Err(_) => refused += 1,
            }
        }
        println!("    a flood: 300 tried, {open} open, {refused} refused");
        expect(open <= 100 && refused >= 200, || format!("{open} open"))?;
        // Who does not need the same port is not hurt.
        self.ours.online(next_user(), 0, "meanwhile").await?.ping().await?;
        drop(lines);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut line = Line::connect(*port).await?;
            match line.open("flood.lab", us).await {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > deadline => return Err(format!("still refused: {e}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}
