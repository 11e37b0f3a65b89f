//! Our framer and tree against `rxml`, a strict parser of another hand: what we admit a strict client admits, and it
//! reads the same (S-011, stanza smuggling). Where `rxml` is not strict is listed in `known_difference`.

#![allow(clippy::unwrap_used)] // A test's failure is its message.

use proptest::prelude::*;
use rxml::{Event, Parse, Parser};
use xmpp::xml::framer::{Framer, Limits, Scan};
use xmpp::{Element, Node};

/// One thing a parser reports. Attributes are sorted, texts joined.
#[derive(Debug, PartialEq)]
enum Step {
    Start(String, String, Vec<(String, String, String)>),
    Text(String),
    End,
}

fn push_text(steps: &mut Vec<Step>, text: &str) {
    match steps.last_mut() {
        _ if text.is_empty() => {}
        Some(Step::Text(last)) => last.push_str(text),
        _ => steps.push(Step::Text(text.to_owned())),
    }
}

fn theirs(mut input: &[u8]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut parser = Parser::new();
    parser
        .parse_all(&mut input, true, |event| match event {
            Event::XmlDeclaration(..) => {}
            Event::StartElement(_, (ns, name), attrs) => {
                let attr =
                    |((ns, name), value): ((&rxml::Namespace<'static>, &rxml::NcName), &String)| {
                        (ns.as_str().to_owned(), name.as_str().to_owned(), value.to_string())
                    };
                let mut attrs: Vec<_> = attrs.iter().map(attr).collect();
                attrs.sort();
                steps.push(Step::Start(ns.as_str().to_owned(), name.as_str().to_owned(), attrs));
            }
            Event::EndElement(_) => steps.push(Step::End),
            Event::Text(_, text) => push_text(&mut steps, &text),
        })
        .ok()?;
    Some(steps)
}

fn walk(element: &Element, steps: &mut Vec<Step>) {
    let mut attrs: Vec<_> = element
        .all_attrs()
        .map(|(ns, name, value)| (ns.to_owned(), name.to_owned(), value.to_owned()))
        .collect();
    attrs.sort();
    steps.push(Step::Start(element.ns().to_owned(), element.name().to_owned(), attrs));
    for node in element.nodes() {
        match node {
            Node::Text(text) => push_text(steps, text),
            Node::Element(child) => walk(child, steps),
        }
    }
    steps.push(Step::End);
}

/// Whether the input is exactly one element to the framer.
fn ours(input: &[u8]) -> bool {
    let found = Framer::standalone(Limits::STANZA).scan(input);
    matches!(found, Ok(Scan::Element(length, _)) if length == input.len())
}

/// What `rxml` does otherwise, with the rule it breaks. `None`: it must agree.
fn known_difference(input: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(input);
    let tags = || text.split('<').map(|tag| tag.split('>').next().unwrap_or(""));
    if text.contains("<?xml") {
        return Some("we have the XML declaration only before a stream header");
    }
    if text.contains("http://www.w3.org/2000/xmlns/") {
        return Some("XML Namespaces §3: the namespace of xmlns must not be declared");
    }
    if tags().any(|tag| tag.matches("xmlns=").count() + tag.matches("xmlns =").count() > 1) {
        return Some("XML 1.0 §3.1: the default namespace is declared twice in a tag");
    }
    if text.split('<').any(|tag| tag.contains('\r') && tag.contains('=')) {
        return Some("XML 1.0 §3.3.3: a carriage return in an attribute is a space, not nothing");
    }
    let outside = [text.split('<').next(), text.rsplit('>').next()];
    if outside.into_iter().flatten().any(|text| text.contains('&')) {
        return Some("XML 1.0 §2.1: a reference to white space outside the root is no white space");
    }
    None
}

/// `rxml` keeps a carriage return behind a bracket in CDATA (XML 1.0 §2.11 makes it a line feed): then line ends are not compared, everything else is.
fn without_line_ends(input: &[u8], mut steps: Vec<Step>) -> Vec<Step> {
    let text = String::from_utf8_lossy(input);
    let sections = text.split("<![CDATA[").skip(1);
    let mut inside = sections.map(|section| section.split("]]>").next().unwrap_or(""));
    if inside.any(|section| section.contains("]\r")) {
        for step in &mut steps {
            if let Step::Text(text) = step {
                text.retain(|c| c != '\r' && c != '\n');
            }
        }
    }
    steps
}

fn compare(input: &[u8]) {
    let input = input.trim_ascii();
    if known_difference(input).is_some() {
        return;
    }
    let shown = String::from_utf8_lossy(input);
    let accepted = ours(input);
    assert_eq!(accepted, theirs(input).is_some(), "{shown}");
    assert_eq!(accepted, Element::parse(input).is_ok(), "{shown}");
    if accepted {
        let wrapped = [b"<r xmlns='jabber:client'>", input, b"</r>"].concat();
        let tree = Element::parse(&wrapped).expect("it was accepted alone");
        let mut steps = Vec::new();
        walk(&tree, &mut steps);
        // What we write reads the same again.
        let mut again = Vec::new();
        walk(&Element::parse(&tree.to_bytes()).expect("we wrote it"), &mut again);
        assert_eq!(steps, again, "{shown}");
        let same = |steps| without_line_ends(input, steps);
        assert_eq!(Some(same(steps)), theirs(&wrapped).map(same), "{shown}");
    }
}

#[rustfmt::skip]
const TORTURE: &[&[u8]] = &[
    b"<a/>", b"<a></a>", b"<a\n/>", b"<a ></a >", b" <a/>\r\n", b"<a/><b/>", b"<a>", b"</a>", b"", b"a", b"<a/>a", b"<", b"<a", b"<a/", b"<a><b></a></b>",
    b"<a b='c'/>", b"<a b=\"c'd\"/>", b"<a b = 'c' d='e'/>", b"<a b='c'd='e'/>", b"<a b='c' b='d'/>", b"<a b/>", b"<a b=/>", b"<a b=c/>",
    b"<a b='<'/>", b"<a b='>'/>", b"<a b='&lt;'/>", b"<a b='&'/>", b"<a b='&amp'/>", b"<a b='\t\n\r\r\n&#9;&#10;&#13;'/>", b"<a =''/>", b"<a ''/>",
    b"<a>]]></a>", b"<a>]]&gt;</a>", b"<a>]] ></a>", b"<a>&#93;]></a>", b"<a><![CDATA[]]></a>", b"<a><![CDATA[]]]]></a>", b"<a><![CDATA[]]]></a>",
    b"<a><![CDATA[<&>]]></a>", b"<a><![CDATA[a]]>]]></a>", b"<a><![CDATA[a]]><![CDATA[b]]></a>", b"<a><![CDATA[</a>", b"<a><![CDAT[x]]></a>", b"<![CDATA[a]]>",
    b"<a>\r\n\r\n\n\r</a>", b"<a>&#13;\n</a>", b"<a><![CDATA[\r\n\r]]></a>", b"<a><![CDATA[]\r\n]\r]]></a>", b"<a>]\r\n</a>", b"<a>\r<![CDATA[\n]]></a>", b"<a>\r&#10;</a>", b"<a b='\r'/>",
    b"<a>&lt;&gt;&amp;&quot;&apos;</a>", b"<a>&nbsp;</a>", b"<a>&LT;</a>", b"<a>&;</a>", b"<a>& </a>", b"<a>&#;</a>", b"<a>&#x;</a>", b"<a>&#65;&#x41;</a>",
    b"<a>&#x4a;&#x4A;</a>", b"<a>&#X41;</a>", b"<a>&#0;</a>", b"<a>&#1;</a>", b"<a>&#9;</a>", b"<a>&#xD800;</a>", b"<a>&#xFFFD;</a>", b"<a>&#xFFFE;</a>",
    b"<a>&#xFFFF;</a>", b"<a>&#x10000;</a>", b"<a>&#x10FFFF;</a>", b"<a>&#x110000;</a>", b"<a>&#-1;</a>", b"<a>&#1a;</a>", b"<a>&#xg;</a>", b"<a>&amp ;</a>",
    b"<a>\x00</a>", b"<a>\x08</a>", b"<a>\x0b</a>", b"<a>\x0c</a>", b"<a>\x1f</a>", b"<a>\x7f</a>", b"<a b='\x01'/>", b"<a\x0c/>", b"\x0c<a/>", b"<a/>\x0c",
    b"<a>\xc2\x80\xc2\x9f</a>", b"<a>\xef\xbf\xbd</a>", b"<a>\xef\xbf\xbe</a>", b"<a>\xef\xbf\xbf</a>", b"<a>\xf0\x9f\x98\x80</a>", b"<a>\xc0\x80</a>",
    b"<a>\xed\xa0\x80</a>", b"<a>\xf4\x90\x80\x80</a>", b"<a>\xff</a>", b"<a>\xc3</a>", b"<a b='\xc3'/>", b"<a b\xc3='x'/>", b"\xef\xbb\xbf<a/>",
    b"<\xc3\xa9/>", b"<a\xc2\xb7/>", b"<\xc2\xb7a/>", b"<a\xc3\x97/>", b"<\xcc\x80/>", b"<a\xcc\x80/>", b"<\xf0\x90\x80\x80/>", b"<a\xe2\x80\xbf/>", b"<\xe2\x80\xbf/>",
    b"<1/>", b"<-/>", b"<./>", b"<_/>", b"<a1-._/>", b"<a 1=''/>", b"<a;/>", b"<a$/>", b"< a/>", b"<a / >", b"<a//>", b"</a/>", b"<a></ a>", b"<a></a b=''>", b"<a></a/>",
    b"<:a/>", b"<a:/>", b"<a:b/>", b"<a:b:c xmlns:a='u'/>", b"<a:b xmlns:a='u'/>", b"<a:1 xmlns:a='u'/>", b"<a xmlns:a='u' a:1=''/>", b"<a :b=''/>", b"<a b:=''/>",
    b"<a p:b=''/>", b"<a xmlns:p='u' p:b=''/>", b"<a p:b='' xmlns:p='u'/>", b"<a xmlns:p=''/>", b"<a xmlns=''/>", b"<a xmlns='u'><b xmlns=''/></a>",
    b"<a xmlns:p='u' xmlns:q='u' p:b='' q:b=''/>", b"<a xmlns:p='u' xmlns:q='v' p:b='' q:b=''/>", b"<a xmlns:p='u' xmlns:p='v'/>", b"<a xmlns='u' xmlns='v'/>",
    b"<a xmlns='u' xmlns:p='u' b='' p:b=''/>", b"<a xmlns:p='u'><b xmlns:p='v' p:c=''/><p:d/></a>", b"<a><b xmlns:p='u'/><p:c/></a>",
    b"<a xml:lang='en' xml:lang='de'/>", b"<a xml:lang='en' lang='de'/>", b"<xml:a/>", b"<a xmlns:xml='u'/>", b"<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>",
    b"<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>", b"<a xmlns='http://www.w3.org/XML/1998/namespace'/>", b"<a xmlns:xmlns='u'/>",
    b"<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>", b"<a xmlns:p='http://www.w3.org/2000/xmlns/'/>", b"<a xmlns='http://www.w3.org/2000/xmlns/'/>", b"<xmlns:a/>", b"<xmlns/>", b"<a xmlns:='u'/>",
    b"<a xmlns:p='u&amp;v' p:b='1'><p:c/></a>", b"<a xmlns:p='u\n' p:b='1'/>", b"<a xmlns='&#117;'/>", b"<a xmlns=' u '/>", b"<a xmlns:p='u' xmlns:q='&#117;' p:b='' q:b=''/>",
    b"<!-- c --><a/>", b"<a><!-- c --></a>", b"<a><!- c --></a>", b"<a/><!-- c -->", b"<?pi?><a/>", b"<a><?pi?></a>", b"<a/><?pi?>", b"<!DOCTYPE a><a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
    b"<a><!DOCTYPE a></a>", b"<a><!ELEMENT a></a>", b"<a><!></a>", b"<!></a>", b"<?>", b"<a><![CDATA[", b"<a b='", b"<a b='c", b"<a>&", b"<a>&amp", b"<a></", b"<a></a",
];

#[test]
fn the_torture_corpus_is_judged_alike() {
    for input in TORTURE {
        compare(input);
    }
}

/// Bits that make well-formed and nearly well-formed documents.
fn token() -> impl Strategy<Value = &'static [u8]> {
    #[rustfmt::skip]
    let tokens: &[&[u8]] = &[
        b"<a>", b"</a>", b"<a>", b"</a>", b"<b>", b"</b>", b"<b/>", b"<a ", b"<p:a xmlns:p='u'>", b"</p:a>", b"<q:b xmlns:q='v' q:k='1' k='2'/>", b"<a xmlns='w'>", b"<a xmlns=''>", b"/>", b">", b" ",
        b"k='v'", b" k=\"a'b\"", b" p:k=''", b" xmlns:p='u'", b" xmlns:q='u'", b" xml:lang='en'", b"text", b"]]>", b"]]", b">", b"&amp;", b"&#10;", b"&#x41;", b"&#0;", b"&u;", b"\r\n", b"\n", b"\r", b"\t",
        b"<![CDATA[", b"<![CDATA[<x>&\r\n]]>", b"'", b"=", b"\xc3\xa9", b"\xc3", b"\xe2\x82\xac", b"\xef\xbf\xbf", b"\x0c", b"<", b"&", b"\xc2\xb7", b"1", b":", b"-", b"xmlns",
    ];
    prop::sample::select(tokens)
}

/// A document grown as a tree, so that most are well-formed.
fn grown() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["a", "b-1", "p:c", "é"]);
    let attrs = prop::sample::subsequence(
        vec![
            " k='1&#10;2'",
            " p:k=\"'\"",
            " q:k='\t'",
            " xmlns='w'",
            " xmlns:q='x'",
            " xmlns:p='y'",
            " xml:lang = 'en'",
            " xmlns:q='u'",
        ],
        0..4,
    );
    let leaf = prop::sample::select(vec![
        "text",
        "&lt;&#x1F600;",
        "<![CDATA[&<]]>",
        "",
        "\r\n",
        "a>b ]] ",
    ]);
    let leaf = leaf.prop_map(str::to_owned);
    leaf.prop_recursive(5, 32, 4, move |inner| {
        (names.clone(), attrs.clone(), prop::collection::vec(inner, 0..4)).prop_map(
            |(name, attrs, content)| {
                let (attrs, content) = (attrs.concat(), content.concat());
                if content.is_empty() {
                    format!("<{name}{attrs}/>")
                } else {
                    format!("<{name}{attrs}>{content}</{name} >")
                }
            },
        )
    })
    .prop_map(|content| format!("<r xmlns:p='u' xmlns:q='v'>{content}</r>"))
}

proptest! {
    #[test]
    fn documents_of_tokens_are_judged_alike(tokens in prop::collection::vec(token(), 0..16)) {
        compare(&tokens.concat());
        compare(&[b"<a>", &tokens.concat()[..], b"</a>"].concat());
    }

    #[test]
    fn grown_documents_are_judged_alike(document in grown()) {
        compare(document.as_bytes());
    }

    #[test]
    fn one_changed_byte_is_judged_alike(document in grown(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = document.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        compare(&bytes);
    }
}
