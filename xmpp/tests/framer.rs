//! What the framer admits and refuses: the rows of the bad-input corpus (section A) that it can decide, limits, and that
//! the verdict does not depend on how the bytes were cut.

#![allow(clippy::unwrap_used)] // A test's failure is its message.

use proptest::prelude::*;
use xmpp::StreamCondition::{self, *};
use xmpp::stanza::Kind;
use xmpp::xml::framer::{Framer, Limits, Scan, StreamHeader};

const OPEN: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
                    to='example.org' version='1.0'>";

#[derive(Debug, PartialEq)]
enum Seen {
    Open(Box<StreamHeader>),
    Element(String),
    Close,
    Error(StreamCondition),
}

/// Feeds `input` in reads that end at the given offsets, and at its end.
fn feed(mut framer: Framer, input: &[u8], cuts: &[usize]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain(std::iter::once(&input.len())) {
        let end = end.min(input.len()).max(start);
        loop {
            let taken = match framer.scan(&input[start..end]) {
                Ok(Scan::More) => break,
                Ok(Scan::Space(taken)) => taken,
                Ok(Scan::Open(taken, header)) => {
                    seen.push(Seen::Open(header));
                    taken
                }
                Ok(Scan::Element(taken, _)) => {
                    seen.push(Seen::Element(
                        String::from_utf8(input[start..start + taken].to_vec()).unwrap(),
                    ));
                    taken
                }
                Ok(Scan::Close(taken)) => {
                    seen.push(Seen::Close);
                    taken
                }
                Err(error) => {
                    seen.push(Seen::Error(error.condition));
                    return seen;
                }
            };
            assert!(taken > 0 && taken <= end - start);
            start += taken;
        }
    }
    seen
}

fn whole(input: &[u8]) -> Vec<Seen> {
    feed(Framer::stream(Limits::STANZA), input, &[])
}

/// The error after a good header, whole and byte by byte.
fn refusal(stanza: impl AsRef<[u8]>) -> Option<StreamCondition> {
    let input = [OPEN.as_bytes(), stanza.as_ref()].concat();
    let bytes: Vec<usize> = (0..input.len()).collect();
    let seen = whole(&input);
    if input.len() < 20_000 {
        assert_eq!(seen, feed(Framer::stream(Limits::STANZA), &input, &bytes));
    }
    match seen.last() {
        Some(Seen::Error(condition)) => Some(*condition),
        _ => None,
    }
}

fn opening(input: &[u8]) -> Result<StreamHeader, StreamCondition> {
    match whole(input).into_iter().next() {
        Some(Seen::Open(header)) => Ok(*header),
        Some(Seen::Error(condition)) => Err(condition),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_of_the_corpus_about_the_opening() {
    let check = |row: &str, input: &[u8], expected: StreamCondition| {
        assert_eq!(opening(input).unwrap_err(), expected, "{row}");
    };
    check("B-001", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", NotWellFormed);
    check("B-002", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", NotWellFormed);
    check("B-004 little", b"\xff\xfe<\0?\0x\0m\0l\0", UnsupportedEncoding);
    check("B-004 big", b"\xfe\xff\0<\0?", UnsupportedEncoding);
    check("B-004 without mark", b"\0<\0?\0x", UnsupportedEncoding);
    check("B-005", "\u{feff}<?xml version='1.0'?>".as_bytes(), NotWellFormed);
    check("B-007", b"<?xml version='1.0'?><?xml version='1.0'?><stream:stream>", RestrictedXml);
    check(
        "B-008",
        b"<stream:stream xmlns='jabber:client' xmlns:stream='urn:wrong' version='1.0'>",
        InvalidNamespace,
    );
    check("B-008 none", b"<stream to='example.org'>", InvalidNamespace);
    check("B-011", b"<stream:foo xmlns:stream='http://etherx.jabber.org/streams'>", BadFormat);
    check("B-011 stanza", b"<message xmlns='jabber:client'/>", BadFormat);
    check("B-025", b"<?php echo 1 ?>", RestrictedXml);
    check("B-026", b"<!DOCTYPE stream><stream:stream>", RestrictedXml);
    check("B-028", b"<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY lol 'lol'>]>", RestrictedXml);
    check("comment", b"<!-- hello --><stream:stream>", RestrictedXml);
    check("B-043", b"<stream:stream to='example.org'>", NotWellFormed);
    check("encoding", b"<?xml version='1.0' encoding='ISO-8859-1'?>", UnsupportedEncoding);
    check("XML 1.1", b"<?xml version='1.1'?>", NotWellFormed);
    check("declaration without version", b"<?xml encoding='UTF-8'?>", NotWellFormed);
    check(
        "declaration out of order",
        b"<?xml version='1.0' standalone='no' encoding='UTF-8'?>",
        NotWellFormed,
    );
    check(
        "empty root",
        b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'/>",
        BadFormat,
    );
    check("text first", b"hello", NotWellFormed);
}

#[test]
fn a_header_is_read_with_all_it_says() {
    let header = opening(
        b"\n<?xml version=\"1.0\" encoding='utf-8' ?>\n<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:server' \
          xmlns:db='jabber:server:dialback' to=\"a&apos;b\" from='x.example' id='++' xml:lang='de' version='1.10'>",
    );
    let expected = StreamHeader {
        to: Some("a'b".into()),
        from: Some("x.example".into()),
        id: Some("++".into()),
        version: Some((1, 10)),
        lang: Some("de".into()),
        content_ns: "jabber:server".into(),
        dialback: true,
    };
    assert_eq!(header, Ok(expected));
}

#[test]
fn a_version_that_is_no_version_is_none() {
    for (version, expected) in [
        ("1.0", Some((1, 0))),
        ("0.9", Some((0, 9))),
        ("abc", None),
        ("1.", None),
        ("-1", None),
        ("", None),
        ("+1.0", None),
        ("1.0.0", None),
    ] {
        let input = format!(
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='{version}'>"
        );
        assert_eq!(opening(input.as_bytes()).unwrap().version, expected, "{version}");
    }
}

#[test]
fn rows_of_the_corpus_about_stanzas() {
    let check = |row: &str, input: &[u8], expected: StreamCondition| {
        assert_eq!(refusal(input), Some(expected), "{row}")
    };
    check("B-007", b"<?xml version='1.0'?><message/>", RestrictedXml);
    check("B-007 inside", b"<message><?xml version='1.0'?></message>", RestrictedXml);
    check("B-025", b"<message><?pi?></message>", RestrictedXml);
    check("B-026", b"<!DOCTYPE a>", RestrictedXml);
    check("B-026 inside", b"<message><!DOCTYPE a></message>", RestrictedXml);
    check("comment", b"<message><!-- x --></message>", RestrictedXml);
    check("B-032", b"<message><body>&nbsp;</body></message>", RestrictedXml);
    check("B-032 attribute", b"<message id='&lol1;'/>", RestrictedXml);
    check("B-032 malformed", b"<message><body>a & b</body></message>", NotWellFormed);
    check("B-032 open", b"<message><body>&amp</body></message>", NotWellFormed);
    for control in [0, 1, 0x0b, 0x0c, 0x1f] {
        check("B-034 text", &[b"<message>", &[control][..], b"</message>"].concat(), NotWellFormed);
        check(
            "B-034 attribute",
            &[b"<message id='", &[control][..], b"'/>"].concat(),
            NotWellFormed,
        );
        check(
            "B-034 reference",
            format!("<message>&#{control};</message>").as_bytes(),
            NotWellFormed,
        );
    }
    for bad in [
        &b"\xc0\xaf"[..],
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xff",
        b"\xe2\x82",
        b"\x80",
        b"\xef\xbf\xbf",
        b"\xef\xbf\xbe",
    ] {
        check("B-035 text", &[b"<message>", bad, b"</message>"].concat(), NotWellFormed);
        check("B-035 attribute", &[b"<message id='", bad, b"'/>"].concat(), NotWellFormed);
        check("B-035 name", &[b"<message", bad, b"/>"].concat(), NotWellFormed);
    }
    for reference in ["#xFFFE", "#xD800", "#x110000", "#0", "#", "#x", "#12a"] {
        check(
            "B-035 reference",
            format!("<message>&{reference};</message>").as_bytes(),
            NotWellFormed,
        );
    }
    check("B-040", b"<message><body></message></body>", NotWellFormed);
    check("B-040 longer", b"<message></messages>", NotWellFormed);
    check("B-040 prefix", b"<a:b xmlns:a='x' xmlns:c='x'></c:b>", NotWellFormed);
    check("B-041", b"<message id='1' id='2'/>", NotWellFormed);
    check("B-041 expanded", b"<a xmlns:p='u' xmlns:q='u' p:k='' q:k=''/>", NotWellFormed);
    check(
        "B-041 expanded by reference",
        b"<a xmlns:p='u' xmlns:q='&#117;' p:k='' q:k=''/>",
        NotWellFormed,
    );
    check("B-043 element", b"<p:message/>", NotWellFormed);
    check("B-043 attribute", b"<message p:k=''/>", NotWellFormed);
    check("B-043 out of scope", b"<message><a xmlns:p='u'/><p:b/></message>", NotWellFormed);
    check("B-044 xml", b"<message xmlns:xml='urn:x'/>", NotWellFormed);
    check(
        "B-044 to xml",
        b"<message xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        NotWellFormed,
    );
    check(
        "B-044 default xml",
        b"<message xmlns='http://www.w3.org/XML/1998/namespace'/>",
        NotWellFormed,
    );
    check("B-044 xmlns", b"<message xmlns:xmlns='urn:x'/>", NotWellFormed);
    check("B-044 to xmlns", b"<message xmlns:p='http://www.w3.org/2000/xmlns/'/>", NotWellFormed);
    check("B-044 element xmlns", b"<xmlns:message/>", NotWellFormed);
    check("B-044 empty", b"<message xmlns:p=''/>", NotWellFormed);
    check("B-047", b"hello<message/>", BadFormat);
    check("B-047 CDATA", b"<![CDATA[x]]>", NotWellFormed);
    check("end of section in text", b"<message>a]]>b</message>", NotWellFormed);
    check("less-than in attribute", b"<message id='<'/>", NotWellFormed);
    check("no blank between attributes", b"<message id='1'to='2'/>", NotWellFormed);
    check("no quotes", b"<message id=1/>", NotWellFormed);
    check("no value", b"<message id/>", NotWellFormed);
    check("digit first", b"<1message/>", NotWellFormed);
    check("digit after the colon", b"<a xmlns:p='u' p:1=''/>", NotWellFormed);
    check("two colons", b"<a:b:c/>", NotWellFormed);
    check("blank first", b"< message/>", NotWellFormed);
    check("blank in the end", b"<message / >", NotWellFormed);
    check("blank after the slash", b"<message></ message>", NotWellFormed);
    check("attribute in the end tag", b"<message></message a='b'>", NotWellFormed);
    check("wrong root end", b"</stream>", NotWellFormed);
    check("declaration of an element", b"<message><!ELEMENT a></message>", NotWellFormed);
    check("lower-case section", b"<message><![cdata[x]]></message>", NotWellFormed);
}

#[test]
fn rows_of_the_corpus_that_are_accepted() {
    let check = |row: &str, input: &str| assert_eq!(refusal(input), None, "{row}");
    check("B-037", "<message><x xmlns='a b|c'/><y xmlns='a&#10;b'/></message>");
    check(
        "B-038",
        "<message><body><![CDATA[<&]]]></body></message>"
            .replace("]]]>", "]]]]><![CDATA[>]]>")
            .as_str(),
    );
    check("B-056", &format!("<message><body>{}</body></message>", "x".repeat(9999 - 32)));
    check("B-061", " <message/> \n\t<presence/>\r\n");
    check("B-062", "</stream:stream>more <<< &&& \0");
    check("blanks", "<message\n\tto = 'a'\r\n id=\"'\" ></message >");
    check(
        "greater-than anywhere",
        "<message id='a>b'>a>b ]> ] ]></message>".replace("] ]>", "]").as_str(),
    );
    check("names", "<ñandú xmlns:ñ='urn:ñ' ñ:a-b.c='€'><_ a:b='' xmlns:a='u'/></ñandú>");
    check(
        "references",
        "<message id='&quot;&#x1F600;'>&lt;&gt;&amp;&apos;&#65;&#x10FFFD;</message>",
    );
    check("same local name twice", "<a xmlns:p='u' xmlns:q='v' p:k='' q:k='' k='' xml:k=''/>");
    check("a prefix declared again", "<p:a xmlns:p='u'><p:b xmlns:p='v'/></p:a>");
    check(
        "xml declared as itself",
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:lang='en'/>",
    );
}

#[test]
fn after_the_closing_tag_nothing_is_interpreted() {
    let seen = whole([OPEN, "<presence/></stream:stream ><message/>"].concat().as_bytes());
    assert_eq!(seen[1..], [Seen::Element("<presence/>".into()), Seen::Close]);
}

#[test]
fn after_an_error_nothing_is_interpreted() {
    let mut framer = Framer::standalone(Limits::STANZA);
    assert!(framer.scan(b"<a></b>").is_err());
    assert!(matches!(framer.scan(b"<a/>"), Ok(Scan::Space(4))));
}

#[test]
fn a_restart_expects_a_header_again() {
    let mut framer = Framer::stream(Limits::PRE_AUTH);
    assert!(matches!(framer.scan(OPEN.as_bytes()), Ok(Scan::Space(21))));
    assert!(matches!(framer.scan(&OPEN.as_bytes()[21..]), Ok(Scan::Open(..))));
    framer.restart();
    assert_eq!(framer.scan(b"<message/>").unwrap_err().condition, BadFormat);
}

#[test]
fn every_limit_is_a_policy_violation() {
    let check =
        |row: &str, input: String| assert_eq!(refusal(&input), Some(PolicyViolation), "{row}");
    check("B-049", format!("<message>{}</message>", "<a/>".repeat(100_000)));
    check("B-049 count", format!("<message>{}</message>", "<a/>".repeat(4096)));
    let attributes: String = (0..80_000).map(|n| format!(" a{n}=''")).collect();
    check("B-050", format!("<message{attributes}/>"));
    let few: String = (0..65).map(|n| format!(" a{n}=''")).collect();
    check("B-050 count", format!("<message{few}/>"));
    let declarations: String = (0..33).map(|n| format!(" xmlns:a{n}='u'")).collect();
    check("declarations", format!("<message{declarations}/>"));
    check("B-053 value", format!("<message id='{}'/>", "x".repeat(5 << 20)));
    check("B-053 name", format!("<{}/>", "x".repeat(1 << 20)));
    check("B-053 short name", format!("<{}/>", "x".repeat(1025)));
    check("long namespace", format!("<a xmlns='{}'/>", "x".repeat(1025)));
    check("B-055", format!("<message>{}</message>", "x".repeat((256 << 10) + 1 - 19)));
    check("depth", format!("{}{}", "<a>".repeat(65), "</a>".repeat(65)));
    check("reference", format!("<a>&#{}65;</a>", "0".repeat(100)));
    assert_eq!(refusal(format!("<message>{}</message>", "x".repeat((256 << 10) - 19))), None);
    assert_eq!(refusal(format!("<message>{}</message>", "<a/>".repeat(4095))), None);
    assert_eq!(refusal(format!("{}{}", "<a>".repeat(64), "</a>".repeat(64))), None);
}

#[test]
fn a_large_token_a_byte_at_a_time_is_linear_work() {
    // S-012. Quadratic work would be some 10^11 steps here: the test would not come to its end.
    for (before, after) in [
        ("<a>", "</a>"),
        ("<a k='", "'/>"),
        ("<a><![CDATA[", "]]></a>"),
        ("<a><b", "/></a>"),
        ("<a></a", "></a>"),
    ] {
        let filler = if after.starts_with(['/', '>']) { " " } else { "]" };
        let input = format!("{before}{}{after}", filler.repeat(400_000));
        let cuts: Vec<usize> = (0..input.len()).collect();
        let limits = Limits { element_bytes: 1 << 20, ..Limits::STANZA };
        let seen = feed(Framer::standalone(limits), input.as_bytes(), &cuts);
        assert!(
            matches!(seen.first(), Some(Seen::Element(_)) | Some(Seen::Error(NotWellFormed))),
            "{before}"
        );
    }
}

#[test]
fn an_idle_framer_is_small() {
    assert!(size_of::<Framer>() <= 64, "{}", size_of::<Framer>());
}

#[test]
fn the_head_tells_what_a_router_needs() {
    let piece =
        b"<message to='a@b/c' from='x' type='cha&#116;' id='&lt;1' xml:lang='en'><body>x</body>\
                  <p:q xmlns:p='urn:p'/><none xmlns=''/></message>";
    let Ok(Scan::Element(_, head)) = Framer::standalone(Limits::STANZA).scan(piece) else {
        panic!()
    };
    assert_eq!(head.kind, Kind::Message);
    assert_eq!(head.type_, xmpp::stanza::Type::Chat);
    assert_eq!(head.to.unwrap().of(piece), b"a@b/c");
    assert_eq!(head.id.unwrap().of(piece), b"&lt;1");
    assert_eq!(head.lang.unwrap().of(piece), b"en");
    assert!(head.portable);
    let names: Vec<&[u8]> = head.children.iter().map(|child| child.name.of(piece)).collect();
    assert_eq!(names, [&b"body"[..], b"q", b"none"]);
    assert_eq!(head.children[0].whole.of(piece), b"<body>x</body>");
    assert_eq!(head.children[1].whole.of(piece), b"<p:q xmlns:p='urn:p'/>");
}

#[test]
fn what_leans_on_the_root_is_not_portable() {
    let check = |open: &str, element: &str, kind: Kind, portable: bool| {
        let open = open.replace("STREAM", "http://etherx.jabber.org/streams");
        let mut framer = Framer::stream(Limits::STANZA);
        let Ok(Scan::Open(..)) = framer.scan(open.as_bytes()) else { panic!("{open}") };
        let Ok(Scan::Element(_, head)) = framer.scan(element.as_bytes()) else {
            panic!("{element}")
        };
        assert_eq!((head.kind, head.portable), (kind, portable), "{open} {element}");
    };
    let client = "<stream:stream xmlns='jabber:client' xmlns:stream='STREAM' xmlns:x='urn:x'>";
    check(client, "<message><body/></message>", Kind::Message, true);
    check(client, "<message xmlns='jabber:client'/>", Kind::Message, true);
    check(client, "<message xmlns='jabber:server'/>", Kind::Other, true);
    check(client, "<message><x:y/></message>", Kind::Message, false);
    check(client, "<message><y x:k=''/></message>", Kind::Message, false);
    check(client, "<message><x:y xmlns:x='urn:y'/></message>", Kind::Message, true);
    check(client, "<message><y xmlns='urn:&#120;'/></message>", Kind::Message, false);
    check(client, "<c:message xmlns:c='jabber:client'/>", Kind::Message, false);
    check(client, "<message xmlns=''/>", Kind::Other, true);
    let server = "<stream:stream xmlns='jabber:server' xmlns:stream='STREAM'>";
    check(server, "<message><body/></message>", Kind::Message, true);
    check(server, "<message><body xmlns='jabber:server'/></message>", Kind::Message, false);
    let streams = "<stream xmlns='STREAM'>";
    check(streams, "<message/>", Kind::Other, false);
    check(streams, "<message xmlns='jabber:client'/>", Kind::Message, true);
    let prefixed = "<stream xmlns='STREAM' xmlns:c='jabber:client'>";
    check(prefixed, "<c:message/>", Kind::Message, false);
}

/// Bits of XML and of what is nearly XML.
fn token() -> impl Strategy<Value = Vec<u8>> {
    #[rustfmt::skip]
    let tokens: &[&[u8]] = &[
        b"<message>", b"</message>", b"<message ", b"to='a@b'", b"<a ", b"/>", b">", b"<", b"</", b"</a>", b"<a>", b"<p:b xmlns:p='u'>",
        b"</p:b>", b" k='v'", b" k=\"'\"", b"k", b"=", b"'", b"\"", b" ", b"\n", b"text", b"&amp;", b"&#65;", b"&#0;", b"&x;", b"&", b";",
        b"<![CDATA[", b"]]>", b"]", b"<!--", b"<?", b"\xc3\xa9", b"\xc3", b"\xe2\x82\xac", b"\xef\xbf\xbf", b"\x01", b"<stream:x/>",
        b"</stream:stream>", b"xmlns='jabber:client'", b" xmlns:q=''",
    ];
    prop::sample::select(tokens).prop_map(<[u8]>::to_vec)
}

proptest! {
    #[test]
    fn the_verdict_does_not_depend_on_the_cuts(
        tokens in prop::collection::vec(token(), 0..24),
        cuts in prop::collection::vec(0usize..200, 0..12),
    ) {
        let input = [OPEN.as_bytes().to_vec(), tokens.concat()].concat();
        let expected = whole(&input);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut + OPEN.len() - 20).collect();
        cuts.sort_unstable();
        prop_assert_eq!(&expected, &feed(Framer::stream(Limits::STANZA), &input, &cuts));
        let bytes: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&expected, &feed(Framer::stream(Limits::STANZA), &input, &bytes));
        let tight = Limits { element_bytes: 40, elements: 3, depth: 2, attributes: 2, ..Limits::STANZA };
        let rest = &input[OPEN.len()..];
        let shifted: Vec<usize> = cuts.iter().map(|cut| cut.saturating_sub(OPEN.len())).collect();
        prop_assert_eq!(feed(Framer::standalone(tight), rest, &[]), feed(Framer::standalone(tight), rest, &shifted));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        whole(&bytes);
        feed(Framer::standalone(Limits::STANZA), &bytes, &[]);
        refusal(&bytes);
    }
}
