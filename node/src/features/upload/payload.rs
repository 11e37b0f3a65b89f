//! What goes over the stream: the request, the slot, the errors (XEP-0363 §4 to §6).

use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::stanza::error::{Condition, ErrorType, StanzaError};
use xmpp::xml::element::Element;

/// Bytes of a file's name that are taken.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of a content type that are taken.
const TYPE_BYTES_MAX: usize = 127;

/// What a file is for (§5): how long it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It goes with a message.
    #[default]
    Message,
    /// An avatar or the like.
    Profile,
    /// Meant to be gone soon.
    Ephemeral,
    /// Meant to stay.
    Permanent,
}

impl Purpose {
    const ALL: [(Purpose, &'static str); 4] = [
        (Purpose::Message, "message"),
        (Purpose::Profile, "profile"),
        (Purpose::Ephemeral, "ephemeral"),
        (Purpose::Permanent, "permanent"),
    ];

    /// The features that say so.
    pub(crate) fn features() -> [String; 4] {
        Purpose::ALL.map(|(_, name)| format!("{}#{name}", ns::HTTP_UPLOAD_PURPOSE))
    }
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The file's name, as it was.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) size: u64,
    /// What it is.
    pub(crate) content_type: Option<String>,
    /// What it is for.
    pub(crate) purpose: Purpose,
}

impl Request {
    /// Reads `<request/>` (§4).
    ///
    /// # Errors
    /// `bad-request`, with words: a name that is none, a size that is no positive number, a content type that is none.
    pub(crate) fn parse(element: &Element) -> Result<Request, StanzaError> {
        let bad = |text| StanzaError::bad_request().with_text(text);
        let name = element.attr("filename").unwrap_or_default();
        let is_bad = name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || [".", ".."].contains(&name)
            || name.contains(|c: char| c == '/' || c == '\\' || c.is_control());
        if is_bad {
            return Err(bad("Invalid filename"));
        }
        let digits = element.attr("size").unwrap_or_default();
        let size = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok());
        let size = size.flatten().filter(|size: &u64| *size > 0);
        let size = size.ok_or_else(|| bad("The file size must be a positive number"))?;
        let content_type = element.attr("content-type").filter(|text| !text.is_empty());
        if !content_type.is_none_or(is_content_type) {
            return Err(bad("Invalid content type"));
        }
        let asked = |name: &str| element.has_child(name, ns::HTTP_UPLOAD_PURPOSE);
        let purpose = Purpose::ALL.into_iter().find(|(_, name)| asked(name));
        Ok(Request {
            name: name.to_owned(),
            size,
            content_type: content_type.map(str::to_owned),
            purpose: purpose.map(|(purpose, _)| purpose).unwrap_or_default(),
        })
    }
}

/// `type/subtype`, perhaps with parameters, of characters that may stand in a header.
fn is_content_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    text.len() <= TYPE_BYTES_MAX
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub))
}

/// `<slot/>` (§4).
pub(crate) fn slot(put: &str, get: &str, authorization: &str) -> Element {
    let header = Element::new("header", ns::HTTP_UPLOAD)
        .with_attr("name", "Authorization")
        .with_text(authorization);
    let put = Element::new("put", ns::HTTP_UPLOAD).with_attr("url", put).with_child(header);
    let get = Element::new("get", ns::HTTP_UPLOAD).with_attr("url", get);
    Element::new("slot", ns::HTTP_UPLOAD).with_child(put).with_child(get)
}

/// One file is larger than files may be (§6).
pub(crate) fn file_too_large(max: u64) -> StanzaError {
    let text = format!("File too large. The maximum file size is {max} bytes");
    let size = Element::new("max-file-size", ns::HTTP_UPLOAD).with_text(&max.to_string());
    StanzaError::new(Condition::NotAcceptable)
        .with_type(ErrorType::Modify)
        .with_text(&text)
        .with_extra(Element::new("file-too-large", ns::HTTP_UPLOAD).with_child(size))
}

/// The account has, or has added, as much as it may (§6).
pub(crate) fn quota_reached(retry_s: u64) -> StanzaError {
    let stamp = date_time::format(retry_s.saturating_mul(1_000));
    StanzaError::resource_constraint()
        .with_text("Quota reached")
        .with_extra(Element::new("retry", ns::HTTP_UPLOAD).with_attr("stamp", &stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attributes: &str, children: &str) -> Result<Request, StanzaError> {
        let xml =
            format!("<request xmlns='urn:xmpp:http:upload:0' {attributes}>{children}</request>");
        Request::parse(&Element::parse(xml.as_bytes()).expect("well-formed"))
    }

    #[test]
    fn a_request_is_name_size_type_and_purpose() {
        let found = parse("filename='très cool.jpg' size='23456' content-type='image/jpeg'", "");
        let expected = Request {
            name: "très cool.jpg".into(),
            size: 23_456,
            content_type: Some("image/jpeg".into()),
            purpose: Purpose::Message,
        };
        assert_eq!(found, Ok(expected));
        for (name, purpose) in Purpose::ALL.map(|(purpose, name)| (name, purpose)) {
            let child = format!("<{name} xmlns='urn:xmpp:http:upload:purpose:0'/>");
            assert_eq!(parse("filename='a' size='1'", &child).map(|r| r.purpose), Ok(purpose));
        }
        let typed = |text: &str| parse(&format!("filename='a' size='1' content-type='{text}'"), "");
        assert!(typed("text/plain; charset=utf-8").is_ok());
        assert_eq!(typed("").map(|request| request.content_type), Ok(None));
    }

    #[test]
    fn what_is_no_request_is_a_bad_one() {
        let long = format!("filename='{}' size='1'", "x".repeat(256));
        for attributes in [
            "",
            "filename='a'",
            "size='1'",
            "filename='' size='1'",
            "filename='a/b' size='1'",
            "filename='a\\b' size='1'",
            "filename='..' size='1'",
            "filename='a&#x85;b' size='1'",
            &long,
            "filename='a' size='0'",
            "filename='a' size='-1'",
            "filename='a' size='+1'",
            "filename='a' size='1.5'",
            "filename='a' size='many'",
            "filename='a' size='18446744073709551616'",
            "filename='a' size='1' content-type='jpeg'",
            "filename='a' size='1' content-type='a/b&#10;c'",
            "filename='a' size='1' content-type='text/ö'",
        ] {
            let error = parse(attributes, "").expect_err(attributes);
            assert_eq!((error.condition, error.type_), (Condition::BadRequest, ErrorType::Modify));
        }
    }
}
