//! Room: server dialback as values (XEP-0220 version 1.1.1) and its keys (XEP-0185 version 1.0): the elements in both directions, the stream feature, and
//! what a server asks of another about a key ([`Verifier`]).
//!
//! Called by `incoming` (as receiving and as authoritative server) and `outgoing` (as initiating server, and to have a key verified); calls
//! `xmpp` only. Which domain may use it, and when, is not decided here. Left out: reverification, which the XEP has taken out too.

use futures_util::future::BoxFuture;
use xmpp::sasl::{Hash, Secret};
use xmpp::xml::write;
use xmpp::{BareJid, Element, ErrorType, StreamError, ns};

/// The feature of a server that takes dialback errors as what they are: no end of the stream (XEP-0220 §2.4.2). It declares its namespace.
pub const FEATURE: &[u8] = b"<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>";

/// Whether a peer's features say so; only then may a stream be used for several targets (§2.6.2).
#[must_use]
pub fn takes_errors(features: &Element) -> bool {
    let feature = features.child("dialback", ns::DIALBACK_FEATURE);
    feature.is_some_and(|feature| feature.has_child("errors", ns::DIALBACK_FEATURE))
}

/// The key that proves to `receiving` that whoever speaks for `originating` on its stream `id` knows our secret (XEP-0185 §2): lower-case
/// hexadecimal. Both domains are prepared, and a prepared domain has no space: so the parts cannot be moved against each other, whatever
/// a peer calls its stream (CVE-2016-0756).
#[must_use]
pub fn key(secret: &[u8], receiving: &str, originating: &str, id: &str) -> String {
    debug_assert!(!receiving.contains(' ') && !originating.contains(' '), "prepared domains");
    let hashed = hex(&Hash::Sha256.digest(secret));
    let text = [receiving.as_bytes(), b" ", originating.as_bytes(), b" ", id.as_bytes()];
    hex(&Hash::Sha256.hmac(hashed.as_bytes(), &text))
}

/// Whether `claimed` is that key. Takes as long for a wrong one as for the right one.
#[must_use]
pub fn is_key(secret: &[u8], receiving: &str, originating: &str, id: &str, claimed: &str) -> bool {
    let right = key(secret, receiving, originating, id);
    Secret::new(right.into_bytes()).matches(claimed.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two domains, in the direction of the stanzas: prepared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// The sender domain.
    pub from: String,
    /// The target domain.
    pub to: String,
}

impl Pair {
    /// Of two prepared domains.
    #[must_use]
    pub fn new(from: &str, to: &str) -> Pair {
        Pair { from: from.to_owned(), to: to.to_owned() }
    }

    /// The other way round.
    #[must_use]
    pub fn reversed(&self) -> Pair {
        Pair { from: self.to.clone(), to: self.from.clone() }
    }
}

/// An element of the dialback namespace. `pair` is as its `from` and `to` say: an answer has those of its question swapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialback {
    /// Who speaks to whom.
    pub pair: Pair,
    /// What it says.
    pub step: Step,
}

/// The steps of XEP-0220 §1.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// 1: the initiating server shows its key (`db:result` without a type).
    Result {
        /// The key.
        key: String,
    },
    /// 2: the receiving server asks the authoritative one (`db:verify` without a type).
    Verify {
        /// The id of the stream on which the key was shown.
        id: String,
        /// The key.
        key: String,
    },
    /// 3: the authoritative server answers.
    Verified {
        /// As in the question.
        id: String,
        /// What it says.
        outcome: Outcome,
    },
    /// 4: the receiving server tells the initiating one.
    Answer(Outcome),
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key is right.
    Valid,
    /// It is not: somebody pretends to be who they are not.
    Invalid,
    /// Neither is known. No end of the stream.
    Error(DialbackError),
}

impl Dialback {
    /// Reads one. Domains are prepared.
    ///
    /// # Errors
    /// `improper-addressing` without two domains in it, `invalid-xml` for what breaks the schema otherwise, `unsupported-stanza-type`
    /// for what the namespace does not have.
    pub fn read(element: &Element) -> Result<Dialback, StreamError> {
        let domain = |name: &str| {
            let jid = element.attr(name).and_then(|text| BareJid::parse(text).ok());
            let jid = jid.filter(|jid| jid.local().is_none());
            jid.map(|jid| jid.domain().to_owned()).ok_or(StreamError::improper_addressing())
        };
        let key = || element.text().trim().to_owned();
        let id = || {
            let id = element.attr("id").filter(|id| !id.is_empty());
            id.map(str::to_owned).ok_or(StreamError::invalid_xml())
        };
        if element.ns() != ns::DIALBACK {
            return Err(StreamError::unsupported_stanza_type());
        }
        let step = match (element.name(), element.attr("type")) {
            ("result", None) => Step::Result { key: key() },
            ("result", Some(kind)) => Step::Answer(Outcome::read(element, kind)?),
            ("verify", None) => Step::Verify { id: id()?, key: key() },
            ("verify", Some(kind)) => {
                Step::Verified { id: id()?, outcome: Outcome::read(element, kind)? }
            }
            _ => return Err(StreamError::unsupported_stanza_type()),
        };
        Ok(Dialback { pair: Pair { from: domain("from")?, to: domain("to")? }, step })
    }

    /// The bytes, for a stream whose root declares the prefix `db` and whose content namespace is `jabber:server`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (name, id, key, outcome) = match &self.step {
            Step::Result { key } => ("db:result", None, Some(key), None),
            Step::Verify { id, key } => ("db:verify", Some(id), Some(key), None),
            Step::Verified { id, outcome } => ("db:verify", Some(id), None, Some(outcome)),
            Step::Answer(outcome) => ("db:result", None, None, Some(outcome)),
        };
        let mut out = Vec::with_capacity(256);
        out.push(b'<');
        out.extend_from_slice(name.as_bytes());
        write::attr(&mut out, "from", &self.pair.from);
        write::attr(&mut out, "to", &self.pair.to);
        for (name, value) in [("id", id.map(String::as_str)), ("type", outcome.map(Outcome::name))]
        {
            if let Some(value) = value {
                write::attr(&mut out, name, value);
            }
        }
        match (key, outcome) {
            (Some(key), _) => {
                out.push(b'>');
                write::escape_text(&mut out, key);
            }
            (None, Some(Outcome::Error(error))) => {
                out.push(b'>');
                error.element().write_in(&mut out, ns::SERVER);
            }
            (None, _) => {
                out.extend_from_slice(b"/>");
                return out;
            }
        }
        out.extend_from_slice(b"</");
        out.extend_from_slice(name.as_bytes());
        out.push(b'>');
        out
    }
}

impl Outcome {
    fn name(&self) -> &'static str {
        match self {
            Outcome::Valid => "valid",
            Outcome::Invalid => "invalid",
            Outcome::Error(_) => "error",
        }
    }

    fn read(element: &Element, kind: &str) -> Result<Outcome, StreamError> {
        match kind {
            "valid" => Ok(Outcome::Valid),
            "invalid" => Ok(Outcome::Invalid),
            "error" => {
                // COMPAT: the error stands in `jabber:server`; some write it in the dialback namespace, or forget it.
                let error = element.children().find(|child| child.name() == "error");
                let named = error.into_iter().flat_map(Element::children);
                let known = |child: &Element| DialbackError::parse(child.name());
                let condition = named.filter(|child| child.ns() == ns::STANZAS).find_map(known);
                Ok(Outcome::Error(condition.unwrap_or(DialbackError::UndefinedCondition)))
            }
            _ => Err(StreamError::invalid_xml()),
        }
    }
}

macro_rules! conditions {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal $type:ident,)*) => {
        /// Why dialback came to no answer (XEP-0220 §2.5).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DialbackError {
            $($(#[doc = $doc])* $variant,)*
        }

        impl DialbackError {
            /// All of them.
            pub const ALL: &'static [DialbackError] = &[$(DialbackError::$variant,)*];

            /// The element name of the condition.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(DialbackError::$variant => $name,)* }
            }

            /// What the initiating server may do about it.
            #[must_use]
            pub fn type_(self) -> ErrorType {
                match self { $(DialbackError::$variant => ErrorType::$type,)* }
            }
        }
    };
}

conditions! {
    /// The domain in `to` is not served here.
    ItemNotFound "item-not-found" Cancel,
    /// The authoritative server could not be reached.
    RemoteConnectionFailed "remote-connection-failed" Cancel,
    /// There is none, or it does not serve the domain, or it answered with an error.
    RemoteServerNotFound "remote-server-not-found" Cancel,
    /// It was reached, and did not answer.
    RemoteServerTimeout "remote-server-timeout" Wait,
    /// Not without TLS; or not with this domain.
    PolicyViolation "policy-violation" Cancel,
    /// This domain needs a valid certificate.
    NotAuthorized "not-authorized" Auth,
    /// The authoritative server says that the key is wrong.
    Forbidden "forbidden" Auth,
    /// There is nothing by which the domain could be proved.
    NotAcceptable "not-acceptable" Cancel,
    /// This kind of request is not taken here.
    NotAllowed "not-allowed" Cancel,
    /// Too many pairs on one stream.
    ResourceConstraint "resource-constraint" Wait,
    /// Our own trouble.
    InternalServerError "internal-server-error" Cancel,
    /// Something else.
    UndefinedCondition "undefined-condition" Cancel,
}

impl DialbackError {
    /// The condition of that element name.
    #[must_use]
    pub fn parse(name: &str) -> Option<DialbackError> {
        DialbackError::ALL.iter().find(|error| error.name() == name).copied()
    }

    fn element(self) -> Element {
        let condition = Element::new(self.name(), ns::STANZAS);
        Element::new("error", ns::SERVER)
            .with_attr("type", self.type_().name())
            .with_child(condition)
    }
}

/// A key that the initiating server has shown on a stream of ours, to be verified with the authoritative server of `pair.from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Their domain, and ours.
    pub pair: Pair,
    /// The id that we gave the stream.
    pub id: String,
    /// What they have shown.
    pub key: String,
}

/// Asks authoritative servers: `outgoing`, for `incoming`.
pub trait Verifier: Send + Sync + 'static {
    /// Whether the authoritative server of `ask.pair.from` says that this is a key of its own, answered over a stream of our choosing and never
    /// over the one on which the key was shown. Ends by itself within `Timers::negotiate`; may be dropped.
    ///
    /// # Errors
    /// `RemoteConnectionFailed` when it could not be reached, `RemoteServerNotFound` when there is none, or it does not know the domain, or
    /// answers with an error (XEP-0220 §2.5: whatever the error), `RemoteServerTimeout` when it did not answer.
    fn verify(&self, ask: Verify) -> BoxFuture<'static, Result<bool, DialbackError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(xml: &str) -> Result<Dialback, StreamError> {
        let declared =
            xml.replacen(' ', " xmlns:db='jabber:server:dialback' xmlns='jabber:server' ", 1);
        Dialback::read(&Element::parse(declared.as_bytes()).expect("well-formed"))
    }

    #[test]
    fn keys_are_those_of_the_specifications() {
        // XEP-0185 §3; XEP-0220 §2.1.1 and §2.2.2.
        for (secret, receiving, originating, id, expected) in [
            (
                "s3cr3tf0rd14lb4ck",
                "xmpp.example.com",
                "example.org",
                "D60000229F",
                "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643",
            ),
            (
                "s3cr3tf0rd14lb4ck",
                "montague.example",
                "capulet.example",
                "D60000229F",
                "b4835385f37fe2895af6c196b59097b16862406db80559900d96bf6fa7d23df3",
            ),
            (
                "d14lb4ck43v3r",
                "capulet.example",
                "montague.example",
                "417GAF25",
                "225cc5aa6a071133249d25fef42ae516fc7a86c523aa1c6980a7f73e784c972d",
            ),
        ] {
            assert_eq!(key(secret.as_bytes(), receiving, originating, id), expected);
            assert!(is_key(secret.as_bytes(), receiving, originating, id, expected));
            assert!(!is_key(b"another", receiving, originating, id, expected));
        }
    }

    #[test]
    fn a_key_is_wrong_when_a_boundary_has_moved() {
        // B-200, S-055: the same characters in the same order, cut elsewhere.
        let right = key(b"secret", "a.example", "b.example", "c d.example e");
        for (receiving, originating, id) in [
            ("a.exampleb.example", "c", "d.example e"),
            ("a.example", "b.examplec", "d.example e"),
            ("a.example", "b.example", "cd.example e"),
            ("b.example", "a.example", "c d.example e"),
            ("a.example", "b.example", "c d.examplee"),
        ] {
            assert!(!is_key(b"secret", receiving, originating, id, &right), "{receiving}");
        }
        for claimed in ["", &right[1..], &right.to_uppercase(), &format!("{right} ")] {
            assert!(!is_key(b"secret", "a.example", "b.example", "c d.example e", claimed));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let pair = Pair::new("capulet.example", "montague.example");
        let (id, key) = ("it's 1".to_owned(), "b483".to_owned());
        let outcomes = [Outcome::Valid, Outcome::Invalid];
        let errors = DialbackError::ALL.iter().map(|error| Outcome::Error(*error));
        let outcomes: Vec<_> = outcomes.into_iter().chain(errors).collect();
        let mut steps =
            vec![Step::Result { key: key.clone() }, Step::Verify { id: id.clone(), key }];
        steps.extend(outcomes.iter().map(|outcome| Step::Answer(*outcome)));
        steps.extend(outcomes.iter().map(|o| Step::Verified { id: id.clone(), outcome: *o }));
        for step in steps {
            let dialback = Dialback { pair: pair.clone(), step };
            let text = String::from_utf8(dialback.to_bytes()).expect("text");
            assert_eq!(read(&text), Ok(dialback), "{text}");
        }
        let error = Step::Answer(Outcome::Error(DialbackError::ItemNotFound));
        let text = Dialback { pair: pair.reversed(), step: error }.to_bytes();
        assert_eq!(
            String::from_utf8(text).expect("text"),
            "<db:result from='montague.example' to='capulet.example' type='error'><error type='cancel'>\
             <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></db:result>"
        );
    }

    #[test]
    fn what_is_malformed_gets_its_stream_error() {
        let (addressing, schema) = (StreamError::improper_addressing(), StreamError::invalid_xml());
        for (xml, expected) in [
            ("<db:result from='a.example'>k</db:result>", &addressing),
            ("<db:result to='a.example'>k</db:result>", &addressing),
            ("<db:result from='' to='a.example'>k</db:result>", &addressing),
            ("<db:result from='u@a.example' to='b.example'>k</db:result>", &addressing),
            ("<db:result from='a.example/r' to='b.example'>k</db:result>", &addressing),
            ("<db:result from='a b' to='b.example'>k</db:result>", &addressing),
            ("<db:verify from='a.example' to='b.example'>k</db:verify>", &schema),
            ("<db:verify from='a.example' to='b.example' id=''>k</db:verify>", &schema),
            ("<db:verify from='a.example' to='b.example' type='valid'/>", &schema),
            ("<db:result from='a.example' to='b.example' type='perhaps'/>", &schema),
            (
                "<db:other from='a.example' to='b.example'/>",
                &StreamError::unsupported_stanza_type(),
            ),
            ("<result from='a.example' to='b.example'/>", &StreamError::unsupported_stanza_type()),
        ] {
            assert_eq!(read(xml).as_ref(), Err(expected), "{xml}");
        }
    }

    #[test]
    fn domains_are_prepared_and_keys_trimmed() {
        let dialback =
            read("<db:result from='CAPULET.example' to='montague.example'>\n  b483\n</db:result>");
        let step = Step::Result { key: "b483".to_owned() };
        assert_eq!(
            dialback,
            Ok(Dialback { pair: Pair::new("capulet.example", "montague.example"), step })
        );
        let error = read("<db:result from='a.example' to='b.example' type='error'/>");
        let undefined = Step::Answer(Outcome::Error(DialbackError::UndefinedCondition));
        assert_eq!(error.map(|dialback| dialback.step), Ok(undefined));
    }

    #[test]
    fn the_feature_tells_who_takes_errors() {
        let features = |inside: &[u8]| {
            let mut xml = b"<f:features xmlns:f='http://etherx.jabber.org/streams'>".to_vec();
            xml.extend_from_slice(inside);
            xml.extend_from_slice(b"</f:features>");
            Element::parse(&xml).expect("well-formed")
        };
        assert!(takes_errors(&features(FEATURE)));
        assert!(!takes_errors(&features(b"<dialback xmlns='urn:xmpp:features:dialback'/>")));
        assert!(!takes_errors(&features(b"")));
    }
}
