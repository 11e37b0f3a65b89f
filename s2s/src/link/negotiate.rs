//! The hello: after SASL each side says who it is, in which incarnation, whom it remembers and what it received from it; from that both come to
//! the same decision, to resume or to begin anew. Values only; `handshake` carries them. The feature is ours, in the way of RFC 6120 §4.3.2:
//! `<link xmlns='urn:pangaea:link:1' versions='1'/>` among the stream features, then
//! `<link xmlns='urn:pangaea:link:1' version= region= node= incarnation= known= received= received-front= />` each way, then frames.
//!
//! **Why both decide alike.** Resume if and only if each remembers the other's present incarnation. The dialling side commits when it has the answer,
//! the accepting side when the first frame (`begin`) comes. So the dialling side may have committed alone; until a `begin` comes back its session is
//! *unconfirmed*, and if the same incarnation then does not remember us, it has handled nothing and nothing is lost.

use config::canary::{Canary, sings};
use xmpp::Element;
use xmpp::ns::LINK as NS;

use super::frame::Marks;
use super::{Incarnation, PeerId};
use crate::error::{LinkError, Refusal};

/// The version we would rather speak.
pub(super) const VERSION: u16 = 1;
/// Versions we speak.
const VERSIONS: &[u16] = &[VERSION];

/// What one side says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) id: PeerId,
    pub(super) incarnation: Incarnation,
    /// The other side's incarnation that this side remembers.
    pub(super) known: Option<Incarnation>,
    /// Numbers of the last frames received from it; 0: none.
    pub(super) received: Marks,
}

/// Which incarnation of the peer our lanes belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub(super) peer: Incarnation,
    /// The peer is known to have agreed.
    pub(super) confirmed: bool,
}

/// How a connection begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Both sides remember each other. The peer has received up to these.
    Resume(Marks),
    /// They do not. `lose`: what we have stored was sent to another incarnation.
    Fresh { lose: bool },
}

/// What the hello of the other side means to us, `me`, who remember `session`.
pub(super) fn decide(me: Incarnation, session: Option<Session>, hello: &Hello) -> Decision {
    match session {
        Some(Session { confirmed, .. }) if sings(Canary::LinkForgetsPeer) => {
            Decision::Fresh { lose: confirmed }
        }
        Some(Session { peer, .. }) if peer == hello.incarnation && hello.known == Some(me) => {
            Decision::Resume(hello.received)
        }
        Some(Session { peer, confirmed }) => {
            Decision::Fresh { lose: confirmed || peer != hello.incarnation }
        }
        None => Decision::Fresh { lose: false },
    }
}

/// The feature, among the stream features.
pub(super) fn feature() -> Element {
    let versions: Vec<String> = VERSIONS.iter().map(u16::to_string).collect();
    Element::new("link", NS).with_attr("versions", &versions.join(" "))
}

/// The highest version that both sides speak.
pub(super) fn common_version(feature: &Element) -> Result<u16, Refusal> {
    let offered = feature.attr("versions").unwrap_or_default();
    let known = offered
        .split_ascii_whitespace()
        .filter_map(|v| v.parse().ok())
        .filter(|v| VERSIONS.contains(v));
    known.max().ok_or(Refusal::Version)
}

impl Hello {
    pub(super) fn element(&self) -> Element {
        Element::new("link", NS)
            .with_attr("version", &self.version.to_string())
            .with_attr("region", &self.id.region)
            .with_attr("node", &self.id.node.to_string())
            .with_attr("incarnation", &self.incarnation.0.to_string())
            .with_attr("known", &self.known.map_or(0, |i| i.0).to_string())
            .with_attr("received", &self.received.main.to_string())
            .with_attr("received-front", &self.received.front.to_string())
    }

    /// Reads the other side's hello. `expected` is who it must be, by its certificate.
    pub(super) fn read(element: &Element, expected: &PeerId) -> Result<Self, LinkError> {
        if !element.is("link", NS) {
            return Err(LinkError::Handshake(format!(
                "<{}/> where <link/> was expected",
                element.name()
            )));
        }
        let version = number(element, "version")?.try_into().unwrap_or(0);
        if !VERSIONS.contains(&version) {
            return Err(Refusal::Version.into());
        }
        let id = PeerId::new(
            element.attr("region").unwrap_or_default(),
            u16::try_from(number(element, "node")?).unwrap_or(u16::MAX),
        );
        if id != *expected {
            return Err(Refusal::WrongName.into());
        }
        let incarnation = match number(element, "incarnation")? {
            0 => return Err(LinkError::Handshake("incarnation 0".into())),
            n => Incarnation(n),
        };
        let known = Some(number(element, "known")?).filter(|n| *n != 0).map(Incarnation);
        let received =
            Marks { main: number(element, "received")?, front: number(element, "received-front")? };
        Ok(Self { version, id, incarnation, known, received })
    }
}

fn number(element: &Element, name: &str) -> Result<u64, LinkError> {
    let value = element.attr(name).and_then(|v| v.parse().ok());
    value.ok_or_else(|| LinkError::Handshake(format!("<link/> without a number in {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Incarnation = Incarnation(7);

    fn hello(incarnation: u64, known: Option<u64>) -> Hello {
        let received = Marks { main: 4, front: 2 };
        Hello {
            version: 1,
            id: PeerId::new("us", 1),
            incarnation: Incarnation(incarnation),
            known: known.map(Incarnation),
            received,
        }
    }

    fn session(peer: u64, confirmed: bool) -> Option<Session> {
        Some(Session { peer: Incarnation(peer), confirmed })
    }

    #[test]
    fn resumes_only_when_both_remember_the_present_incarnation() {
        let fresh = |lose| Decision::Fresh { lose };
        for (ours, theirs, expected) in [
            (None, hello(9, None), fresh(false)),
            (None, hello(9, Some(7)), fresh(false)),
            (session(9, true), hello(9, Some(7)), Decision::Resume(Marks { main: 4, front: 2 })),
            (session(9, false), hello(9, Some(7)), Decision::Resume(Marks { main: 4, front: 2 })),
            (session(9, true), hello(10, None), fresh(true)),
            (session(9, true), hello(10, Some(7)), fresh(true)),
            (session(9, true), hello(9, Some(6)), fresh(true)),
            (session(9, false), hello(9, None), fresh(false)), // it did not see our `begin`: it handled nothing
            (session(9, false), hello(10, None), fresh(true)), // it may have, before it died
        ] {
            assert_eq!(decide(ME, ours, &theirs), expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn hello_reads_back_and_lies_are_refused() {
        let said = hello(9, Some(7));
        let read = |element: &Element, id: PeerId| {
            Hello::read(&Element::parse(&element.to_bytes()).unwrap(), &id)
        };
        assert_eq!(read(&said.element(), said.id.clone()).unwrap(), said);
        assert!(matches!(
            read(&said.element(), PeerId::new("eu", 1)),
            Err(LinkError::Refused(Refusal::WrongName))
        ));
        assert!(matches!(
            read(&said.element(), PeerId::new("us", 0)),
            Err(LinkError::Refused(Refusal::WrongName))
        ));
        let other = said.element().with_attr("version", "2");
        assert!(matches!(read(&other, said.id.clone()), Err(LinkError::Refused(Refusal::Version))));
        for (name, value) in [
            ("incarnation", "0"),
            ("incarnation", "-1"),
            ("received", "x"),
            ("known", "18446744073709551616"),
        ] {
            assert!(
                matches!(
                    read(&said.element().with_attr(name, value), said.id.clone()),
                    Err(LinkError::Handshake(_))
                ),
                "{name}={value}"
            );
        }
    }

    #[test]
    fn highest_common_version_is_chosen() {
        assert_eq!(common_version(&feature()), Ok(1));
        assert_eq!(common_version(&feature().with_attr("versions", "0 1 2 3")), Ok(1));
        assert_eq!(common_version(&feature().with_attr("versions", "2 3")), Err(Refusal::Version));
        assert_eq!(common_version(&feature().with_attr("versions", "")), Err(Refusal::Version));
    }
}
