//! Stanza errors as values (RFC 6120 §8.3). Made by features and the router, put around by `Stanza::error_reply`.

use std::fmt;

use crate::jid::Jid;
use crate::ns;
use crate::xml::element::Element;

/// What the sender should do about it (RFC 6120 §8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Retry after providing credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// A warning: proceed.
    Continue,
    /// Retry after changing the data sent.
    Modify,
    /// Retry after waiting.
    Wait,
}

impl ErrorType {
    /// The value of the `type` attribute.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorType::Auth => "auth",
            ErrorType::Cancel => "cancel",
            ErrorType::Continue => "continue",
            ErrorType::Modify => "modify",
            ErrorType::Wait => "wait",
        }
    }

    fn from_name(name: &str) -> Option<ErrorType> {
        use ErrorType::*;
        [Auth, Cancel, Continue, Modify, Wait].into_iter().find(|t| t.name() == name)
    }
}

macro_rules! conditions {
    ($($variant:ident $name:literal $type:ident $constructor:ident,)*) => {
        /// The defined conditions (RFC 6120 §8.3.3), in the order of the RFC.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Condition {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Condition {
            /// All of them.
            pub const ALL: &'static [Condition] = &[$(Condition::$variant,)*];

            /// The element name of the condition.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Condition::$variant => $name,)* }
            }

            /// The error type RFC 6120 recommends for it.
            #[must_use]
            pub fn default_type(self) -> ErrorType {
                match self { $(Condition::$variant => ErrorType::$type,)* }
            }
        }

        impl StanzaError {
            $(#[doc = concat!("A `", $name, "` error of its recommended type.")]
            #[must_use]
            pub fn $constructor() -> StanzaError {
                StanzaError::new(Condition::$variant)
            })*
        }
    };
}

conditions! {
    BadRequest "bad-request" Modify bad_request,
    Conflict "conflict" Cancel conflict,
    FeatureNotImplemented "feature-not-implemented" Cancel feature_not_implemented,
    Forbidden "forbidden" Auth forbidden,
    Gone "gone" Cancel gone,
    InternalServerError "internal-server-error" Cancel internal_server_error,
    ItemNotFound "item-not-found" Cancel item_not_found,
    JidMalformed "jid-malformed" Modify jid_malformed,
    NotAcceptable "not-acceptable" Modify not_acceptable,
    NotAllowed "not-allowed" Cancel not_allowed,
    NotAuthorized "not-authorized" Auth not_authorized,
    PolicyViolation "policy-violation" Modify policy_violation,
    RecipientUnavailable "recipient-unavailable" Wait recipient_unavailable,
    Redirect "redirect" Modify redirect,
    RegistrationRequired "registration-required" Auth registration_required,
    RemoteServerNotFound "remote-server-not-found" Cancel remote_server_not_found,
    RemoteServerTimeout "remote-server-timeout" Wait remote_server_timeout,
    ResourceConstraint "resource-constraint" Wait resource_constraint,
    ServiceUnavailable "service-unavailable" Cancel service_unavailable,
    SubscriptionRequired "subscription-required" Auth subscription_required,
    UndefinedCondition "undefined-condition" Cancel undefined_condition,
    UnexpectedRequest "unexpected-request" Wait unexpected_request,
}

/// One stanza error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StanzaError {
    /// The defined condition.
    pub condition: Condition,
    /// What the sender should do.
    pub type_: ErrorType,
    /// Human-readable English.
    pub text: Option<String>,
    /// One application-specific condition.
    pub extra: Option<Box<Element>>,
    /// Who found the error, if it was not the addressee (RFC 6120 §8.3.1).
    pub by: Option<Jid>,
    /// The new address: only with `gone` and `redirect`, as an IRI.
    pub new_address: Option<String>,
}

impl StanzaError {
    /// An error of the recommended type.
    #[must_use]
    pub fn new(condition: Condition) -> StanzaError {
        let type_ = condition.default_type();
        StanzaError { condition, type_, text: None, extra: None, by: None, new_address: None }
    }

    /// The same with another type.
    #[must_use]
    pub fn with_type(mut self, type_: ErrorType) -> StanzaError {
        self.type_ = type_;
        self
    }

    /// The same with a text.
    #[must_use]
    pub fn with_text(mut self, text: &str) -> StanzaError {
        self.text = Some(text.to_owned());
        self
    }

    /// The same with an application-specific condition.
    #[must_use]
    pub fn with_extra(mut self, extra: Element) -> StanzaError {
        self.extra = Some(Box::new(extra));
        self
    }

    /// The same, naming who found it.
    #[must_use]
    pub fn with_by(mut self, by: Jid) -> StanzaError {
        self.by = Some(by);
        self
    }

    /// The `error` element, in `jabber:client`.
    #[must_use]
    pub fn element(&self) -> Element {
        let mut error = Element::new("error", ns::CLIENT).with_attr("type", self.type_.name());
        if let Some(by) = &self.by {
            error.set_attr("by", by.as_str());
        }
        let mut condition = Element::new(self.condition.name(), ns::STANZAS);
        if let Some(address) = &self.new_address {
            condition = condition.with_text(address);
        }
        error.push_child(condition);
        if let Some(text) = &self.text {
            error.push_child(
                Element::new("text", ns::STANZAS).with_attr("xml:lang", "en").with_text(text),
            );
        }
        if let Some(extra) = &self.extra {
            error.push_child((**extra).clone());
        }
        error
    }

    /// Reads an `error` element; what is missing or unknown becomes `undefined-condition` / `cancel`.
    #[must_use]
    pub fn parse(element: &Element) -> StanzaError {
        let mut error = StanzaError::undefined_condition();
        for child in element.children() {
            if child.ns() != ns::STANZAS {
                error.extra = Some(Box::new(child.clone()));
            } else if child.name() == "text" {
                error.text = Some(child.text());
            } else if let Some(known) = Condition::ALL.iter().find(|c| c.name() == child.name()) {
                error.condition = *known;
                error.type_ = known.default_type();
                error.new_address = Some(child.text()).filter(|address| !address.is_empty());
            }
        }
        if let Some(type_) = element.attr("type").and_then(ErrorType::from_name) {
            error.type_ = type_;
        }
        error.by = element.attr("by").and_then(|by| Jid::parse(by).ok());
        error
    }
}

impl fmt::Display for StanzaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.condition.name(), self.type_.name())?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl std::error::Error for StanzaError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_read_back_as_it_was_written() {
        for &condition in Condition::ALL {
            let error = StanzaError::new(condition)
                .with_text("no & never")
                .with_extra(Element::new("x", "urn:x"))
                .with_by(Jid::parse("eu.example").unwrap());
            let element = Element::parse(&error.element().to_bytes()).unwrap();
            assert_eq!(StanzaError::parse(&element), error);
        }
    }

    #[test]
    fn an_unknown_condition_is_undefined_and_keeps_its_type() {
        let element = Element::parse(
            b"<error type='wait'><moon-phase xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
        );
        let error = StanzaError::parse(&element.unwrap());
        assert_eq!(
            (error.condition, error.type_),
            (Condition::UndefinedCondition, ErrorType::Wait)
        );
    }
}
