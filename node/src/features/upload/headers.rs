//! The headers of an answer, as values: what a browser may do with somebody else's file, ranges (RFC 9110 §14), conditions (§13), CORS.

use std::ops::Range;

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::response::Parts;

use super::store::Meta;

/// Which part of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All of it.
    Whole,
    /// These bytes: 206.
    Part(Range<u64>),
    /// Bytes it does not have: 416.
    Beyond,
}

/// Reads `Range`. Several ranges, other units and what is malformed are passed over (RFC 9110 §14.2 allows it).
pub(crate) fn range(value: Option<&str>, size: u64) -> Asked {
    let Some((first, last)) = value
        .and_then(|value| value.trim().strip_prefix("bytes="))
        .and_then(|set| set.trim().split_once('-'))
    else {
        return Asked::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let part = match (first.is_empty(), number(first), number(last), last.is_empty()) {
        (true, _, Some(suffix), _) => {
            size.saturating_sub(suffix)..if suffix == 0 { 0 } else { size }
        }
        (_, Some(first), None, true) => first..size,
        (_, Some(first), Some(last), _) if first <= last => first..last.saturating_add(1).min(size),
        _ => return Asked::Whole,
    };
    if part.start >= part.end { Asked::Beyond } else { Asked::Part(part) }
}

/// Whether a list of entity tags names this one: weak comparison, `*` is any.
pub(crate) fn names(list: &str, tag: &str) -> bool {
    list.split(',')
        .map(|one| one.trim())
        .any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// Types that show nothing but themselves; the rest is for downloading only. No SVG: it is a program.
fn is_safe(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("audio" | "video", _)) => true,
        Some(("image", kind)) => {
            ["png", "jpeg", "gif", "webp", "avif", "heic", "bmp", "jxl"].contains(&kind)
        }
        _ => essence == "text/plain",
    }
}

/// What every answer says: that scripts of any page may read it, and that nothing here is a page.
pub(crate) fn everywhere(parts: &mut Parts) {
    let always: [(HeaderName, &str); 5] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in always {
        parts.headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The answer to a preflight.
pub(crate) fn preflight() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "OPTIONS, HEAD, GET, PUT"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, Range"),
        (header::ACCESS_CONTROL_MAX_AGE, "7200"),
        (header::ALLOW, "OPTIONS, HEAD, GET, PUT"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

/// What is said of a file. `left_s`: how long it will be there.
pub(crate) fn of_file(meta: &Meta, tag: &str, left_s: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let unknown = HeaderValue::from_static("application/octet-stream");
    let kind = HeaderValue::from_str(&meta.content_type).unwrap_or(unknown);
    let shown = if is_safe(&meta.content_type) { "inline" } else { "attachment" };
    let cached = format!("private, max-age={left_s}, immutable");
    let text = |text: &str| HeaderValue::from_str(text).expect("digits and letters");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(shown));
    headers.insert(header::CACHE_CONTROL, text(&cached));
    headers.insert(header::ETAG, text(tag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_of_bytes_or_the_whole() {
        let check = |value: &str, expected: Asked| {
            assert_eq!(range(Some(value), 100), expected, "{value}");
        };
        assert_eq!(range(None, 100), Asked::Whole);
        check("bytes=0-9", Asked::Part(0..10));
        check("bytes=90-", Asked::Part(90..100));
        check("bytes=-10", Asked::Part(90..100));
        check("bytes=-1000", Asked::Part(0..100));
        check("bytes=50-1000", Asked::Part(50..100));
        check("bytes=99-99", Asked::Part(99..100));
        check("bytes=100-", Asked::Beyond);
        check("bytes=-0", Asked::Beyond);
        check("bytes=99999999999999999999999-", Asked::Beyond);
        for whole in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=9-0",
            "bytes=0-1,5-6",
            "lines=1-2",
            "bytes=a-b",
            "bytes=+1-2",
        ] {
            check(whole, Asked::Whole);
        }
        assert_eq!(range(Some("bytes=0-"), 0), Asked::Beyond);
    }

    #[test]
    fn a_tag_is_found_in_a_list() {
        for (list, found) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(names(list, "\"a\""), found, "{list}");
        }
    }

    #[test]
    fn only_what_cannot_do_anything_is_shown() {
        for (kind, safe) in [
            ("image/png", true),
            ("IMAGE/JPEG; q=1", true),
            ("video/mp4", true),
            ("text/plain; charset=utf-8", true),
            ("text/html", false),
            ("image/svg+xml", false),
            ("application/xhtml+xml", false),
            ("application/pdf", false),
            ("application/octet-stream", false),
        ] {
            assert_eq!(is_safe(kind), safe, "{kind}");
        }
    }
}
