//! The elements of XEP-0388 Extensible SASL Profile, version 1.0.4, of XEP-0386 Bind 2 (1.0.1), XEP-0484 FAST (0.2.0) and
//! XEP-0480 SASL Upgrade Tasks (0.2.0) as values: read from the client, written to it. What happens in between is `inline`.
//!
//! Left out: tasks other than upgrades; `tls-0rtt` (this server takes no early data).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};

use super::{failure, sasl};
use crate::jid::BareJid;
use crate::ns;
use crate::sasl::{Failure, Hash, Mechanism, ScramKeys, TokenBinding};
use crate::sm::{Malformed, Nonza};
use crate::stanza::error::Condition;
use crate::xml::element::Element;

/// Longest `id` of a user agent, in bytes. (It is a UUID, says the XEP.)
pub const AGENT_ID_BYTES_MAX: usize = 128;
/// What is kept of the name of a software or a device, in characters.
pub const AGENT_NAME_CHARS_MAX: usize = 100;
/// Longest `<tag/>`, in bytes: it becomes part of a resource, whose bound is 1023.
pub const TAG_BYTES_MAX: usize = 512;

/// Which elements an exchange is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// RFC 6120 §6.4.
    Sasl,
    /// XEP-0388.
    Sasl2,
}

impl Profile {
    pub(super) fn challenge(self, data: &[u8]) -> Vec<u8> {
        let text = BASE64.encode(data);
        match self {
            Profile::Sasl => sasl("challenge", &text),
            Profile::Sasl2 => Element::new("challenge", ns::SASL2).with_text(&text).to_bytes(),
        }
    }

    pub(super) fn failure(self, condition: Failure) -> Vec<u8> {
        match self {
            Profile::Sasl => failure(ns::SASL, condition).to_bytes(),
            Profile::Sasl2 => failure(ns::SASL2, condition).to_bytes(),
        }
    }
}

/// Who a client says it is (XEP-0388 §2.4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserAgent {
    /// Of this installation; stays the same.
    pub id: Option<String>,
    /// The software's name.
    pub software: Option<String>,
    /// The device's name.
    pub device: Option<String>,
}

/// `<bind/>` (XEP-0386 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub(super) tag: Option<String>,
    /// What is to be enabled along with it.
    pub(super) features: Vec<Element>,
}

/// `<fast/>` (XEP-0484 §3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fast {
    pub(super) count: Option<u64>,
    pub(super) invalidate: bool,
}

/// `<authenticate/>`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authenticate {
    pub(super) mechanism: String,
    /// `Err`: not base64.
    pub(super) initial: Result<Option<Vec<u8>>, Failure>,
    pub(super) agent: UserAgent,
    pub(super) bind: Option<Bind>,
    /// The session to go on with, and how much of it the client has; or what is wrong with the request.
    pub(super) resume: Option<Result<(String, u32), Condition>>,
    pub(super) request_token: Option<TokenBinding>,
    pub(super) fast: Option<Fast>,
    pub(super) upgrades: Vec<Hash>,
}

impl Authenticate {
    /// # Errors
    /// `malformed-request` for what the XEPs do not allow; unknown children are passed over.
    pub(super) fn parse(element: &Element) -> Result<Authenticate, Failure> {
        let initial = match element.child("initial-response", ns::SASL2) {
            None => Ok(None),
            Some(initial) => decode(initial).map(Some),
        };
        let mut upgrades = Vec::new();
        for child in element.children().filter(|child| child.is("upgrade", ns::SASL_UPGRADE)) {
            let hash = hash_of_task(child.text().trim());
            upgrades.extend(hash.filter(|hash| !upgrades.contains(hash)));
        }
        let request_token = element.child("request-token", ns::FAST);
        let request_token = request_token.and_then(|request| request.attr("mechanism"));
        Ok(Authenticate {
            mechanism: element.attr("mechanism").unwrap_or_default().to_owned(),
            initial,
            agent: match element.child("user-agent", ns::SASL2) {
                Some(agent) => user_agent(agent)?,
                None => UserAgent::default(),
            },
            bind: element.child("bind", ns::BIND2).map(bind).transpose()?,
            resume: element.child("resume", ns::SM).and_then(resume),
            request_token: request_token.and_then(Mechanism::parse).and_then(|mechanism| {
                match mechanism {
                    Mechanism::Token(binding) => Some(binding),
                    _ => None,
                }
            }),
            fast: element.child("fast", ns::FAST).map(fast).transpose()?,
            upgrades,
        })
    }
}

fn user_agent(agent: &Element) -> Result<UserAgent, Failure> {
    let id = agent.attr("id").filter(|id| !id.is_empty());
    if id.is_some_and(|id| id.len() > AGENT_ID_BYTES_MAX) {
        return Err(Failure::MalformedRequest);
    }
    let name = |name: &str| {
        let text = agent.child(name, ns::SASL2).map(Element::text)?;
        let text: String = text.trim().chars().take(AGENT_NAME_CHARS_MAX).collect();
        Some(text).filter(|text| !text.is_empty())
    };
    Ok(UserAgent { id: id.map(str::to_owned), software: name("software"), device: name("device") })
}

fn bind(bind: &Element) -> Result<Bind, Failure> {
    let tag = bind.child("tag", ns::BIND2).map(Element::text).filter(|tag| !tag.is_empty());
    if let Some(tag) = &tag {
        // B-124: it becomes public, as part of a resource.
        let any = BareJid::parse("any.example").expect("is a domain");
        if tag.len() > TAG_BYTES_MAX || any.with_resource(tag).is_err() {
            return Err(Failure::MalformedRequest);
        }
    }
    let features = bind.children().filter(|child| child.ns() != ns::BIND2).cloned().collect();
    Ok(Bind { tag, features })
}

fn resume(element: &Element) -> Option<Result<(String, u32), Condition>> {
    match Nonza::parse(element)? {
        Ok(Nonza::Resume { previd, h }) => Some(Ok((previd, h))),
        Err(Malformed::Failed(condition)) => Some(Err(condition)),
        _ => Some(Err(Condition::BadRequest)),
    }
}

fn fast(fast: &Element) -> Result<Fast, Failure> {
    let count = fast.attr("count").map(|count| count.parse()).transpose();
    let count = count.map_err(|_| Failure::MalformedRequest)?;
    Ok(Fast { count, invalidate: matches!(fast.attr("invalidate"), Some("1" | "true")) })
}

/// What is in base64 in an element: strict but for white space around it, and nothing at all for nothing (§2.3).
pub(super) fn decode(element: &Element) -> Result<Vec<u8>, Failure> {
    BASE64.decode(element.text().trim()).map_err(|_| Failure::IncorrectEncoding)
}

/// The task's name: an upgrade to that hash (XEP-0480 §3).
pub(super) fn task_of(hash: Hash) -> String {
    format!("UPGR-{}", Mechanism::Scram { hash, plus: false })
}

fn hash_of_task(name: &str) -> Option<Hash> {
    [Hash::Sha1, Hash::Sha256, Hash::Sha512].into_iter().find(|hash| task_of(*hash) == name)
}

/// The resource of a client that binds with Bind 2: its tag, and behind it a name that is the same each time for the same account,
/// tag and client, and does not tell the client's id (XEP-0386 §3.2.1). A client without an id gets `fresh`.
pub fn resource(account: &BareJid, tag: Option<&str>, client: Option<&str>, fresh: &str) -> String {
    let name = match client {
        Some(client) => {
            let parts = ["bind2", account.as_str(), tag.unwrap_or_default(), client].join("\0");
            URL_SAFE_NO_PAD.encode(&Hash::Sha256.digest(parts.as_bytes())[..9])
        }
        None => fresh.chars().take(12).collect(),
    };
    match tag {
        Some(tag) => format!("{tag}/{name}"),
        None => name,
    }
}

/// A token for the client to keep.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The secret.
    pub token: String,
    /// Until when it is good, as XEP-0082 writes it.
    pub expiry: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewToken(…, until {})", self.expiry)
    }
}

/// `<success/>`; `inside` is what the inline features say.
pub(super) fn success(data: Option<&[u8]>, who: &str, inside: Vec<Element>) -> Element {
    let mut success = Element::new("success", ns::SASL2);
    additional(&mut success, data);
    success
        .with_child(Element::new("authorization-identifier", ns::SASL2).with_text(who))
        .with_children(inside)
}

fn additional(element: &mut Element, data: Option<&[u8]>) {
    if let Some(data) = data {
        let data = BASE64.encode(data);
        element.push_child(Element::new("additional-data", ns::SASL2).with_text(&data));
    }
}

/// `<token/>`.
pub(super) fn token(token: &NewToken) -> Element {
    Element::new("token", ns::FAST)
        .with_attr("token", &token.token)
        .with_attr("expiry", &token.expiry)
}

/// `<continue/>` with one task (XEP-0480 §2.2).
pub(super) fn task(data: Option<&[u8]>, hash: Hash) -> Element {
    let mut element = Element::new("continue", ns::SASL2);
    additional(&mut element, data);
    let task = Element::new("task", ns::SASL2).with_text(&task_of(hash));
    element.with_child(Element::new("tasks", ns::SASL2).with_child(task))
}

/// What a client salts its password with (XEP-0480 §3).
pub(super) fn salt(salt: &[u8], iterations: u32) -> Element {
    let salt = Element::new("salt", ns::SCRAM_UPGRADE)
        .with_attr("iterations", &iterations.to_string())
        .with_text(&BASE64.encode(salt));
    Element::new("task-data", ns::SASL2).with_child(salt)
}

/// The keys of what the client has made of it.
pub(super) fn salted(
    element: &Element,
    hash: Hash,
    salt: &[u8],
    iterations: u32,
) -> Result<ScramKeys, Failure> {
    let salted = element.child("hash", ns::SCRAM_UPGRADE).ok_or(Failure::MalformedRequest)?;
    let salted = decode(salted)?;
    if salted.len() != hash.digest_bytes() {
        return Err(Failure::MalformedRequest);
    }
    Ok(ScramKeys::of_salted(hash, &salted, salt, iterations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attrs: &str, inside: &str) -> Result<Authenticate, Failure> {
        let text = format!("<authenticate xmlns='urn:xmpp:sasl:2'{attrs}>{inside}</authenticate>");
        Authenticate::parse(&Element::parse(text.as_bytes()).expect("well-formed"))
    }

    #[test]
    fn all_that_may_be_asked_for_is_read() {
        let asked = parse(
            " mechanism='SCRAM-SHA-1-PLUS'",
            "<initial-response>\n  SSd tbQ==</initial-response>",
        );
        assert_eq!(asked.expect("read").initial, Err(Failure::IncorrectEncoding));
        let asked = parse(
            " mechanism='HT-SHA-256-ENDP'",
            "<initial-response>\n  SSdt\n </initial-response>\
             <user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>AwesomeXMPP</software><device> Kiva's Phone</device></user-agent>\
             <bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag><enable xmlns='urn:xmpp:carbons:2'/><inactive xmlns='urn:xmpp:csi:0'/></bind>\
             <resume xmlns='urn:xmpp:sm:3' previd='124' h='345'/>\
             <request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>\
             <fast xmlns='urn:xmpp:fast:0' count='123' invalidate='true'/>\
             <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>\
             <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>\
             <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-BLOOP2</upgrade><x xmlns='urn:x'/>",
        )
        .expect("read");
        assert_eq!(
            (asked.mechanism.as_str(), asked.initial),
            ("HT-SHA-256-ENDP", Ok(Some(b"I'm".to_vec())))
        );
        assert_eq!(asked.agent.device.as_deref(), Some("Kiva's Phone"));
        let bind = asked.bind.expect("a bind");
        assert_eq!((bind.tag.as_deref(), bind.features.len()), (Some("AwesomeXMPP"), 2));
        assert_eq!(asked.resume, Some(Ok(("124".into(), 345))));
        assert_eq!(asked.request_token, Some(TokenBinding::Exporter));
        assert_eq!(asked.fast, Some(Fast { count: Some(123), invalidate: true }));
        assert_eq!(asked.upgrades, [Hash::Sha512]);
        let none = parse("", "").expect("read");
        assert_eq!((none.initial, none.bind, none.fast), (Ok(None), None, None));
        assert_eq!(parse("", "<initial-response/>").expect("read").initial, Ok(Some(vec![])));
        let resume = parse("", "<resume xmlns='urn:xmpp:sm:3' previd='x'/>").expect("read").resume;
        assert_eq!(resume, Some(Err(Condition::BadRequest)));
    }

    #[test]
    fn what_cannot_be_is_malformed() {
        let long = format!("<bind xmlns='urn:xmpp:bind:0'><tag>{}</tag></bind>", "x".repeat(513));
        let id = format!("<user-agent id='{}'/>", "x".repeat(129));
        for inside in [
            long.as_str(), // B-124
            "<bind xmlns='urn:xmpp:bind:0'><tag>&#xE000;</tag></bind>",
            id.as_str(),
            "<fast xmlns='urn:xmpp:fast:0' count='-1'/>",
            "<fast xmlns='urn:xmpp:fast:0' count='many'/>",
        ] {
            assert_eq!(parse("", inside), Err(Failure::MalformedRequest), "{inside}");
        }
    }

    #[test]
    fn a_resource_is_the_tag_and_a_name_that_stays_and_tells_nothing() {
        let (romeo, juliet) = ("romeo@a.example", "juliet@a.example");
        let of = |account: &str, tag, client| {
            resource(&BareJid::parse(account).expect("a JID"), tag, client, "0123456789abcdefgh")
        };
        let first = of(romeo, Some("AwesomeXMPP"), Some("id-1"));
        assert!(first.starts_with("AwesomeXMPP/") && first.len() == 24, "{first}");
        assert_eq!(first, of(romeo, Some("AwesomeXMPP"), Some("id-1")));
        for other in [
            of(juliet, Some("AwesomeXMPP"), Some("id-1")),
            of(romeo, Some("AwesomeXMPP"), Some("id-2")),
            of(romeo, Some("Other"), Some("id-1")),
        ] {
            assert_ne!(first[first.len() - 12..], other[other.len() - 12..]);
        }
        assert_eq!(of(romeo, None, Some("id-1")).len(), 12);
        assert_eq!(of(romeo, Some("Tag"), None), "Tag/0123456789ab");
        assert_eq!(of(romeo, None, None), "0123456789ab");
    }

    #[test]
    fn failures_carry_the_conditions_of_rfc_6120() {
        let text = String::from_utf8(Profile::Sasl2.failure(Failure::NotAuthorized)).expect("text");
        assert_eq!(
            text,
            "<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>"
        );
    }
}
