//! Is this the stanza that was expected? Pure. Called by [`super::stage`].
//!
//! A pattern is XML. What it says must hold, what it leaves out may be anything:
//! * an attribute it gives must be there with that value; `${any}` in a value stands for any text, `${none}` for the
//!   whole value says the attribute must not be there, `${=x}` keeps what stands in its place as `${x}` for later;
//! * a child it gives must be there, in any order, each found in a child of its own;
//! * text it gives must be the text, blanks at the ends aside.
//!
//! `scn:strict='yes'` forbids every attribute and child that is not given, `scn:empty='yes'` every child that is not given,
//! `scn:absent='yes'` on a child forbids that child.

use super::NS;
use crate::xml::Element;
use std::collections::BTreeMap;

/// What `${…}` stands for.
pub type Names = BTreeMap<String, String>;

/// Replaces every `${name}` that is known; others are left for [`fits`].
pub fn fill(text: &str, names: &Names) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let name = &rest[start + 2..start + length];
        out.push_str(&rest[..start]);
        match names.get(name) {
            Some(value) => out.push_str(&crate::xml::escape(value)),
            None => out.push_str(&rest[start..=start + length]),
        }
        rest = &rest[start + length + 1..];
    }
    out + rest
}

/// Holds an element against a pattern; keeps what the pattern captures.
///
/// # Errors
/// Says where they differ first.
pub fn fits(pattern: &Element, actual: &Element, names: &mut Names) -> Result<(), String> {
    if pattern.name != actual.name || pattern.ns != actual.ns {
        return Err(format!(
            "<{}/> of {} is not <{}/> of {}",
            actual.name, actual.ns, pattern.name, pattern.ns
        ));
    }
    let strict = pattern.attr_ns(NS, "strict") == Some("yes");
    let empty = strict || pattern.attr_ns(NS, "empty") == Some("yes");
    let place = &pattern.name;
    for wanted in pattern.attrs.iter().filter(|a| a.ns != NS) {
        let found = actual.attr_ns(&wanted.ns, &wanted.name);
        let attr = &wanted.name;
        match (wanted.value.as_str(), found) {
            ("${none}", None) => {}
            ("${none}", Some(found)) => return Err(format!("<{place}/> has {attr}={found:?}")),
            (_, None) => return Err(format!("<{place}/> has no {attr}")),
            (value, Some(found)) => {
                text_fits(value, found, names).map_err(|e| format!("{attr} of <{place}/>: {e}"))?
            }
        }
    }
    if strict {
        for found in &actual.attrs {
            if pattern.attr_ns(&found.ns, &found.name).is_none()
                && !(found.ns.ends_with("/namespace") && found.name == "lang")
            {
                return Err(format!("<{place}/> also has {}={:?}", found.name, found.value));
            }
        }
    }
    let text = pattern.text();
    if !text.trim().is_empty() {
        text_fits(text.trim(), actual.text().trim(), names)
            .map_err(|e| format!("text of <{place}/>: {e}"))?;
    }
    let mut left: Vec<&Element> = actual.children().collect();
    for wanted in pattern.children() {
        let absent = wanted.attr_ns(NS, "absent") == Some("yes");
        let mut reason = format!("<{place}/> has no <{}/> of {}", wanted.name, wanted.ns);
        let mut kept = names.clone();
        let position = left.iter().position(|candidate| {
            kept = names.clone();
            match fits(wanted, candidate, &mut kept) {
                Ok(()) => true,
                Err(why) => {
                    if candidate.name == wanted.name && candidate.ns == wanted.ns {
                        reason = why;
                    }
                    false
                }
            }
        });
        match (position, absent) {
            (Some(_), true) => return Err(format!("<{place}/> has a <{}/>", wanted.name)),
            (Some(at), false) => {
                left.remove(at);
                *names = kept;
            }
            (None, true) => {}
            (None, false) => return Err(reason),
        }
    }
    match left.first() {
        Some(extra) if empty => Err(format!("<{place}/> also holds {extra}")),
        _ => Ok(()),
    }
}

/// `before${=name}behind`.
fn captured(pattern: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = pattern.split_once("${=")?;
    let (name, behind) = rest.split_once('}')?;
    Some((before, name, behind))
}

fn text_fits(pattern: &str, actual: &str, names: &mut Names) -> Result<(), String> {
    let wrong = || Err(format!("{actual:?} is not {pattern:?}"));
    if let Some((before, name, behind)) = captured(pattern) {
        let kept = actual.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        let Some(kept) = kept else { return wrong() };
        names.insert(name.into(), kept.into());
        return Ok(());
    }
    let mut parts = pattern.split("${any}");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = actual.strip_prefix(first) else { return wrong() };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return if rest.is_empty() { Ok(()) } else { wrong() };
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return if rest.ends_with(part) { Ok(()) } else { wrong() };
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return wrong(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, actual: &str) -> Result<Names, String> {
        let mut names = Names::new();
        fits(&Element::parse(pattern).unwrap(), &Element::parse(actual).unwrap(), &mut names)
            .map(|()| names)
    }

    #[test]
    fn what_is_left_out_may_be_anything() {
        check("<message from='a'/>", "<message from='a' to='b'><body>hi</body></message>").unwrap();
        check(
            "<message><body>hi</body></message>",
            "<message><x xmlns='y'/><body> hi </body></message>",
        )
        .unwrap();
        check("<message id='${any}' from='a@${any}/x'/>", "<message id='' from='a@b/x'/>").unwrap();
    }

    #[test]
    fn what_is_given_must_hold() {
        assert!(check("<message from='a'/>", "<message from='b'/>").is_err());
        assert!(check("<message from='a'/>", "<message/>").is_err());
        assert!(check("<message from='a/${any}'/>", "<message from='a'/>").is_err());
        assert!(
            check("<message><body>hi</body></message>", "<message><body>ho</body></message>")
                .is_err()
        );
        assert!(
            check("<message><body/></message>", "<message><body xmlns='other'/></message>")
                .is_err()
        );
        assert!(
            check("<m><i/><i/></m>", "<m><i/></m>").is_err(),
            "each child needs one of its own"
        );
        assert!(check("<m id='${none}'/>", "<m id='1'/>").is_err());
        assert!(
            check("<m xmlns:scn='urn:pangaea:scenario' scn:strict='yes'/>", "<m><i/></m>").is_err()
        );
        assert!(
            check("<m xmlns:scn='urn:pangaea:scenario' scn:strict='yes'/>", "<m a='1'/>").is_err()
        );
        assert!(check("<m><i scn:absent='yes'/></m>", "<m><i/></m>").is_err());
    }

    #[test]
    fn what_is_captured_can_be_used_again() {
        let names = check("<query ver='${=version}'/>", "<query ver='a&amp;b'/>").unwrap();
        assert_eq!(
            fill("<query ver='${version}' x='${any}'/>", &names),
            "<query ver='a&amp;b' x='${any}'/>"
        );
    }
}
