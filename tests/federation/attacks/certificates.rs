//! The truth table of certificates, as the side that is called (B-205 to B-211, S-030, S-032, S-033): which of them prove `paper.lab`, so that EXTERNAL is
//! offered and taken; and what is left to those that do not, where a certificate is asked for and where it is not.

use super::Target;
use crate::authority::{Authority, Kind, Name, Paper};
use crate::stranger::home::{Home, Manners};
use crate::stranger::{Line, SASL};
use crate::{World, expect};
use pangaea_tests::client::Result;
use pangaea_tests::harness::Test;
use pangaea_tests::xml::Element;

/// Below this, a certificate is asked for.
pub(crate) const STRICT: &str = "strict.lab";
const EASY: &str = "paper.lab";

/// A row: what it is, who signs, what it names (`%` is the domain), and whether it proves the domain.
type Row = (&'static str, &'static str, Kind, &'static [Name<'static>], bool);

pub(super) const ROWS: [Row; 18] = [
    ("6120 §13.7", "of the domain itself", Kind::Good, &[Name::Dns("%")], true),
    ("6120 §13.7", "in capitals", Kind::Good, &[Name::Dns("PAPER%")], true),
    ("S-033", "of all one level below", Kind::Good, &[Name::Dns("*.^")], true),
    ("S-033", "of all below it, only", Kind::Good, &[Name::Dns("*.%")], false),
    ("S-033", "of all two levels below", Kind::Good, &[Name::Dns("*.*.^")], false),
    ("S-033", "with half a label", Kind::Good, &[Name::Dns("p*.^")], false),
    ("B-205", "self-signed", Kind::SelfSigned, &[Name::Dns("%")], false),
    ("B-205", "expired", Kind::Expired, &[Name::Dns("%")], false),
    ("B-205", "not yet valid", Kind::NotYet, &[Name::Dns("%")], false),
    ("B-205", "revoked", Kind::Revoked, &[Name::Dns("%")], false),
    ("B-205", "of another domain", Kind::Good, &[Name::Dns("verona.lab")], false),
    ("B-206", "with a Common Name only", Kind::Good, &[], false),
    ("B-208", "of the service of servers", Kind::Good, &[Name::Srv("_xmpp-server.%")], true),
    ("B-208", "of the service of clients", Kind::Good, &[Name::Srv("_xmpp-client.%")], false),
    ("B-209", "with the domain as an address", Kind::Good, &[Name::XmppAddr("%")], true),
    ("B-209", "with an address at the domain", Kind::Good, &[Name::XmppAddr("user@%")], false),
    ("B-211", "of the server's own name", Kind::Good, &[Name::Dns("localhost")], false),
    (
        "B-205",
        "with one right name of two",
        Kind::Good,
        &[Name::Dns("verona.lab"), Name::Dns("%")],
        true,
    ),
];

/// The paper of a row for a domain.
pub(super) fn paper(authority: &Authority, row: &Row, domain: &str) -> Result<Paper> {
    let (.., kind, names, _) = row;
    let parent = domain.split_once('.').map_or("", |(_, parent)| parent);
    let fill = |text: &str| match text.strip_prefix("PAPER") {
        Some(_) => domain.to_ascii_uppercase(),
        None => text.replace('%', domain).replace('^', parent),
    };
    let filled: Vec<(u8, String)> = names
        .iter()
        .map(|name| match name {
            Name::Dns(text) => (0, fill(text)),
            Name::Srv(text) => (1, fill(text)),
            Name::XmppAddr(text) => (2, fill(text)),
        })
        .collect();
    let names: Vec<Name<'_>> = filled
        .iter()
        .map(|(which, text)| match which {
            0 => Name::Dns(text),
            1 => Name::Srv(text),
            _ => Name::XmppAddr(text),
        })
        .collect();
    authority.issue(*kind, domain, &names)
}

/// Who stands behind dialback, for who needs it.
pub(crate) struct Behind {
    _home: Home,
}

impl Behind {
    pub(crate) async fn start(world: &World) -> Result<Self> {
        let domain = format!("paper.{STRICT}");
        let paper = world.authority.issue(Kind::SelfSigned, EASY, &[Name::Dns(EASY)])?;
        let domains = [EASY, &domain];
        let home = Home::start(&world.dns, &domains, &paper, Manners::default()).await?;
        Ok(Self { _home: home })
    }
}

pub(crate) fn tests<'a>(target: &'a Target<'a>) -> Vec<Test<'a>> {
    let mut tests: Vec<Test<'a>> = ROWS
        .iter()
        .map(|row| {
            let name = format!("attacks::{} a certificate {}", row.0, row.1);
            Test::new(name, move || incoming(target, row))
        })
        .collect();
    tests.push(Test::new("attacks::B-205 no certificate", || none(target)));
    tests.push(Test::new("attacks::B-083 a certificate of ten thousand names", || {
        ten_thousand(target)
    }));
    tests.push(Test::new("attacks::B-205 a certificate of an authority that nobody knows", || {
        unknown_authority(target)
    }));
    tests
}

fn offers_external(features: &Element) -> bool {
    let mechanisms = features.child("mechanisms", SASL);
    mechanisms.is_some_and(|all| all.children().any(|one| one.text() == "EXTERNAL"))
}

/// Where it is not asked for, and where it is.
async fn incoming(target: &Target<'_>, row: &Row) -> Result<()> {
    let strict = format!("paper.{STRICT}");
    for domain in [EASY, &strict] {
        let paper = paper(&target.world.authority, row, domain)?;
        judged(target, domain, Some(&paper), row.4).await.map_err(|e| format!("{domain}: {e}"))?;
    }
    Ok(())
}

async fn judged(
    target: &Target<'_>,
    domain: &str,
    paper: Option<&Paper>,
    proves: bool,
) -> Result<()> {
    let names = (domain, &*target.us);
    let (mut line, _, features) = Line::secured(target.port, names, paper).await?;
    let offered = offers_external(&features);
    expect(offered == proves, || format!("EXTERNAL is offered: {offered}: {features}"))?;
    if proves {
        line.external(domain, &target.us).await?;
        return Ok(());
    }
    line.send(crate::stranger::EXTERNAL).await;
    let failure = line.element().await?;
    let refused = failure.is("failure", SASL)
        && failure
            .children()
            .any(|child| matches!(&*child.name, "invalid-mechanism" | "not-authorized"));
    expect(refused, || format!("EXTERNAL is answered {failure}"))?;
    let answer = line.dialback(domain, &target.us, "key").await?;
    let strict = domain.ends_with(STRICT);
    let expected = if strict { "error" } else { "valid" };
    expect(answer.attr("type") == Some(expected), || format!("dialback is answered {answer}"))?;
    let condition = answer.children().flat_map(Element::children).next();
    let right = condition.is_none_or(|condition| {
        matches!(&*condition.name, "not-authorized" | "policy-violation" | "not-allowed")
    });
    expect(right, || answer.to_string())
}

async fn none(target: &Target<'_>) -> Result<()> {
    judged(target, EASY, None, false).await?;
    judged(target, &format!("paper.{STRICT}"), None, false).await
}

async fn ten_thousand(target: &Target<'_>) -> Result<()> {
    let names: Vec<String> = (0..10_000).map(|n| format!("n{n}.example.org")).collect();
    let mut all: Vec<Name<'_>> = names.iter().map(|name| Name::Dns(name)).collect();
    all.push(Name::Dns(EASY));
    let paper = target.world.authority.issue(Kind::Good, EASY, &all)?;
    let began = std::time::Instant::now();
    // Where the handshake is refused, it is as good.
    let secured = Line::secured(target.port, (EASY, &target.us), Some(&paper)).await;
    if let Ok((.., features)) = secured {
        expect(!offers_external(&features), || "EXTERNAL is offered".to_owned())?;
    }
    expect(began.elapsed().as_secs() < 5, || format!("it took {:?}", began.elapsed()))
}

async fn unknown_authority(target: &Target<'_>) -> Result<()> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let paper = Authority::new(dir.path())?.for_domain(EASY)?;
    judged(target, EASY, Some(&paper), false).await
}
