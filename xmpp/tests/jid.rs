//! Addresses: rows of the bad-input corpus (section E), equality by preparation, idempotence.

#![allow(clippy::unwrap_used)] // A test's failure is its message.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use xmpp::jid::{PART_BYTES_MAX, domain_to_ascii};
use xmpp::{BareJid, FullJid, Jid, JidError};

fn check(input: &str, expected: Result<&str, JidError>) {
    let prepared = Jid::parse(input);
    assert_eq!(
        prepared.as_ref().map(Jid::as_str),
        expected.as_ref().map(|text| *text),
        "{input:?}"
    );
}

#[test]
fn an_address_is_divided_at_the_first_slash_and_the_at_before_it() {
    let check = |input: &str, local: Option<&str>, domain: &str, resource: Option<&str>| {
        let jid = Jid::parse(input).unwrap();
        assert_eq!(
            (jid.local(), jid.domain(), jid.resource()),
            (local, domain, resource),
            "{input}"
        );
        assert_eq!(jid.as_str(), input);
    };
    check("example.org", None, "example.org", None);
    check("a@example.org", Some("a"), "example.org", None);
    check("a@example.org/r", Some("a"), "example.org", Some("r"));
    check("example.org/r", None, "example.org", Some("r"));
    check("example.org/a@b/c", None, "example.org", Some("a@b/c"));
    check("a@example.org//", Some("a"), "example.org", Some("/"));
    check("a@[2001:db8::1]/r", Some("a"), "[2001:db8::1]", Some("r"));
    check("a@192.0.2.1", Some("a"), "192.0.2.1", None);
}

#[test]
fn case_and_root_dots_do_not_matter_and_resources_keep_theirs() {
    check("Romeo@Example.ORG/Orchard", Ok("romeo@example.org/Orchard"));
    check("a@example.org./r", Ok("a@example.org/r"));
    check("a@b--c.a-b-c.a---.x", Err(JidError::Domain));
    check("a@b--c.a-b-c.a-1.x2", Ok("a@b--c.a-b-c.a-1.x2"));
    check("a@[2001:DB8:0::1]", Ok("a@[2001:db8::1]"));
}

#[test]
fn malformed_addresses_name_the_part_at_fault() {
    for bad in [
        "@b",
        "a b@c",
        "a\"@b",
        "a&b@c",
        "a'@b",
        "a:b@c",
        "<a@b",
        "a>@b",
        "a\u{7f}@b",
        "a\u{0}@b",
        "\u{a0}a@b",
    ] {
        check(bad, Err(JidError::Local));
    }
    for bad in [
        "",
        "a@",
        "/r",
        "a@b@c",
        "a@/r",
        "a@b..c",
        "a@.b",
        "a@b..",
        "a@-b",
        "a@b-",
        "a@b_c",
        "a@b-.c",
        "a@b.-c",
        "a@ab--c",
        "a@ab--.c",
        "a@b.c.1",
        "a@b c",
        "a@[::1",
        "a@[]",
        "a@[1.2.3.4]",
        "a@::1",
        "a@1.2.3.256",
        "a@1.2.3",
        "a@12",
        "a@[::1%25eth0]",
    ] {
        check(bad, Err(JidError::Domain));
    }
    for bad in ["a@b/", "a@b/\u{0}", "a@b/\n", "a@b/\u{7f}", "b/", "a@b/\u{85}"] {
        check(bad, Err(JidError::Resource));
    }
}

#[test]
fn parts_are_measured_after_preparation() {
    let (most, more) = ("x".repeat(PART_BYTES_MAX), "x".repeat(PART_BYTES_MAX + 1));
    assert!(Jid::parse(&format!("{most}@b/{most}")).is_ok());
    check(&format!("{more}@b"), Err(JidError::Local));
    check(&format!("a@b/{more}"), Err(JidError::Resource));
    check(&format!("a@{more}"), Err(JidError::Domain));
    check(&format!("a@{}", ["x".repeat(63).as_str(); 4].join(".")), Err(JidError::Domain));
    check(&format!("a@{}.org", "x".repeat(64)), Err(JidError::Domain));
    // B-131: nodeprep folds one character of two bytes into three.
    assert_eq!(BareJid::parse("\u{149}@b").unwrap().local().unwrap().len(), 3);
    check(&format!("{}@b", "\u{149}".repeat(400)), Err(JidError::Local));
    assert!(Jid::parse(&format!("a@b/{}", "é".repeat(511))).is_ok());
    check(&format!("a@b/{}", "é".repeat(512)), Err(JidError::Resource));
}

#[test]
fn invisible_and_directional_characters_are_refused() {
    // B-136.
    for c in [
        '\u{200b}',
        '\u{200d}',
        '\u{ad}',
        '\u{202e}',
        '\u{2066}',
        '\u{feff}',
        '\u{61c}',
        '\u{e0041}',
        '\u{fe0f}',
        '\u{2028}',
    ] {
        check(&format!("a{c}b@c.example"), Err(JidError::Local));
        check(&format!("a@c{c}d.example"), Err(JidError::Domain));
        check(&format!("a@c.example/b{c}d"), Err(JidError::Resource));
    }
}

#[test]
fn unassigned_and_private_code_points_are_refused() {
    // B-134.
    for c in ['\u{378}', '\u{e000}', '\u{10ffff}', '\u{fdd0}'] {
        check(&format!("a{c}@b"), Err(JidError::Local));
        check(&format!("a@b{c}.example"), Err(JidError::Domain));
        check(&format!("a@b/{c}"), Err(JidError::Resource));
    }
}

#[test]
fn the_awkward_letters_have_one_documented_form() {
    // B-133.
    check("straße@example.org", Ok("strasse@example.org"));
    check("ΣΊΣΥΦΟΣ@b", Ok("σίσυφοσ@b"));
    check("\u{212a}@b", Ok("k@b"));
    check("\u{131}@b", Ok("\u{131}@b"));
    check("İ@b", Ok("i\u{307}@b"));
    check("ＡＢＣ@b", Ok("abc@b"));
    check("a@straße.example", Ok("a@straße.example"));
    check("a@BÜCHER.example", Ok("a@bücher.example"));
    check("a@ｅｘａｍｐｌｅ。org", Ok("a@example.org"));
    // B-140 in disguise.
    check("a@１.２.３", Err(JidError::Domain));
}

#[test]
fn resources_are_opaque_strings() {
    check("room@muc.example/Foo Bar", Ok("room@muc.example/Foo Bar"));
    check("room@muc.example/Foo\u{a0}Bar", Ok("room@muc.example/Foo Bar"));
    check("room@muc.example/e\u{301}", Ok("room@muc.example/é"));
    check("room@muc.example/🤖 Ⅳ①ﬁ", Ok("room@muc.example/🤖 Ⅳ①ﬁ"));
    check("room@muc.example/עברית", Ok("room@muc.example/עברית"));
}

#[test]
fn a_labels_and_what_they_stand_for_are_one_domain() {
    check("a@xn--bcher-kva.example", Ok("a@bücher.example"));
    check("a@XN--BCHER-KVA.example", Ok("a@bücher.example"));
    assert_eq!(domain_to_ascii("bücher.example"), "xn--bcher-kva.example");
    assert_eq!(domain_to_ascii("[::1]"), "[::1]");
    // B-139, RUSTSEC-2024-0421: an A-label that hides a plain name.
    for bad in [
        "a@xn--example-.org",
        "a@example.org.xn--",
        "a@xn--.org",
        "a@xn--a.org",
        "a@xn--ls8h=.example",
        "a@ab--c.example",
        "a@xn--\u{fc}.example",
    ] {
        check(bad, Err(JidError::Domain));
    }
}

#[test]
fn an_escaped_localpart_is_not_unescaped() {
    // B-142.
    check("a\\40b@example.org", Ok("a\\40b@example.org"));
}

#[test]
fn bare_and_full_forms_share_one_buffer() {
    let full = FullJid::parse("a@b.example/r").unwrap();
    let bare = full.bare();
    assert_eq!(bare.as_str(), "a@b.example");
    assert_eq!(bare.as_str().as_ptr(), full.as_str().as_ptr());
    assert_eq!(bare, BareJid::parse("A@b.example").unwrap());
    assert_eq!(bare.with_resource("r"), Ok(full.clone()));
    assert_eq!(Jid::from(full.clone()).full(), Some(full));
    assert_eq!(Jid::from(bare.clone()).full(), None);
    assert_eq!(bare.with_resource(""), Err(JidError::Resource));
    assert_eq!(BareJid::parse("a@b/r"), Err(JidError::Form));
    assert_eq!(FullJid::parse("a@b"), Err(JidError::Form));
    assert_eq!(size_of::<Jid>(), 24);
    assert_eq!(size_of::<Option<FullJid>>(), 24);
}

#[test]
fn maps_of_addresses_are_asked_with_text() {
    let full = FullJid::parse("a@b.example/r").unwrap();
    let mut table = HashMap::new();
    table.insert(full.bare(), 1);
    assert_eq!(table.get("a@b.example"), Some(&1));
    let ordered: BTreeSet<Jid> =
        ["b@x", "a@x/r", "a@x"].into_iter().map(|text| text.parse().unwrap()).collect();
    let from = (std::ops::Bound::Included("a@x/"), std::ops::Bound::Unbounded);
    assert_eq!(ordered.range::<str, _>(from).next().unwrap(), "a@x/r");
}

#[test]
fn addresses_are_stored_as_text_and_prepared_when_read() {
    use serde::Deserialize;
    use serde::de::value::{Error, StrDeserializer};
    let read = |text: &'static str| BareJid::deserialize(StrDeserializer::<Error>::new(text));
    assert_eq!(read("A@b.example").unwrap(), "a@b.example");
    assert!(read("@").is_err());
}

proptest! {
    #[test]
    fn preparing_twice_changes_nothing(input in "[a-zA-ZßéΣ０ｱﬁ\u{301}\u{345}İ가ツא\\-.]{1,8}@[a-zA-Zßéß０。\\-.xn]{1,12}/\\PC{1,8}") {
        if let Ok(jid) = Jid::parse(&input) {
            prop_assert_eq!(&Jid::parse(jid.as_str()).unwrap(), &jid);
            prop_assert_eq!(BareJid::parse(jid.bare().as_str()).unwrap(), jid.bare());
        }
    }

    #[test]
    fn any_text_is_an_address_or_an_error(input in "\\PC{0,12}@?\\PC{0,12}/?.{0,12}") {
        if let Ok(jid) = Jid::parse(&input) {
            let text = [jid.local().map(|local| format!("{local}@")).unwrap_or_default(), jid.domain().to_owned()].concat();
            prop_assert_eq!(jid.bare_str(), &text);
            prop_assert_eq!(Jid::parse(jid.as_str()), Ok(jid));
        }
    }
}
