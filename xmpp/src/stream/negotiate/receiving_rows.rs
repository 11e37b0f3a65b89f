//! The rows of bad-inputs A to D and G that meet a client's negotiation, as scripts over the harness of
//! `receiving_tests`.

use std::sync::Arc;

use super::super::*;
use super::{DOMAIN, Server, header, offer, open, tls};
use crate::stream::header::Framing;

pub(super) const BIND: &str =
    "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
pub(super) const PLAIN: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGp1bGlldAByMG0zMA==</auth>";
const ABORT: &str = "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const RESPONSE: &str = "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</response>";
const BEGUN: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'/>";
pub(super) const STARTTLS_XML: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
pub(super) const REGISTER: &str = "<iq id='1' type='get'><query xmlns='jabber:iq:register'/></iq>";
const PREAUTH: &str = "<iq id='1' type='set'><preauth xmlns='urn:xmpp:pars:0' token='x'/></iq>";

/// Number, script, and the last thing the machine said. A line is XML, or `open` and what differs in the header.
type Row = (&'static str, &'static [&'static str], &'static str);

/// Under TLS, with what `offer()` offers.
#[rustfmt::skip]
const UNDER_TLS: &[Row] = &[
    // A: headers.
    ("B-010", &["open ns=jabber:server"], "SE invalid-namespace"),
    ("B-013", &["open version=-"], "SE unsupported-version"),
    ("B-014", &["open version=0.9"], "SE unsupported-version"),
    ("newer", &["open version=2.1"], "features"),
    ("B-016", &["open to=-"], "SE improper-addressing"),
    ("B-017", &["open to=verona.example"], "SE host-unknown"),
    ("B-019", &["open to=a@b@c"], "SE host-unknown"),
    ("B-019", &["open to=juliet@capulet.example"], "SE host-unknown"),
    ("upper case", &["open to=Capulet.Example"], "features"),
    ("B-022", &["open", PLAIN, "open to=montague.example"], "SE not-authorized"),
    ("B-022", &["open", PLAIN, "open to=verona.example"], "SE not-authorized"),
    ("B-023", &["open", PLAIN, "open from=romeo@capulet.example"], "SE invalid-from"),
    ("B-023", &["open", PLAIN, "open from=@"], "SE invalid-from"),
    ("full from", &["open", PLAIN, "open from=juliet@capulet.example/x"], "features"),
    ("twice", &["open", "open"], "SE policy-violation"),
    ("too early", &[PLAIN], "SE not-authorized"),
    ("B-046", &["open", "<x xmlns='urn:x'/>"], "SE unsupported-stanza-type"),
    ("stanza", &["open", "<message/>"], "SE not-authorized"),
    ("stanza", &["open", BEGUN, "<presence/>"], "SE not-authorized"),
    // B: STARTTLS.
    ("B-073", &["open", STARTTLS_XML], "SE policy-violation"),
    // C: SASL.
    ("B-085", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'>=</auth>"], "SASL invalid-mechanism"),
    ("B-085", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"], "SASL invalid-mechanism"),
    ("B-085", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='plain'>=</auth>"], "SASL invalid-mechanism"),
    ("B-085", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</auth>"], "SASL invalid-mechanism"),
    ("B-086", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>?</auth>"], "SASL incorrect-encoding"),
    ("B-086", &["open", BEGUN, "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>AGp1 bGll</response>"], "SASL incorrect-encoding"),
    ("B-088", &["open", BEGUN, RESPONSE], "SASL malformed-request"),
    ("no initial response", &["open", BEGUN], "challenge"),
    ("aborted", &["open", BEGUN, ABORT], "SASL aborted"),
    ("B-101", &["open", RESPONSE], "SASL malformed-request"),
    ("B-101", &["open", ABORT], "SASL malformed-request"),
    ("twice", &["open", BEGUN, BEGUN], "SASL malformed-request"),
    ("twice", &["open", BEGUN, BEGUN, RESPONSE], "SASL malformed-request"),
    ("B-103", &["open", ABORT, ABORT, ABORT, ABORT, ABORT], "SASL malformed-request"),
    ("B-103", &["open", ABORT, ABORT, ABORT, ABORT, ABORT, ABORT], "SE policy-violation"),
    ("after success", &["open", PLAIN, "open", PLAIN], "SE policy-violation"),
    ("after success", &["open", PLAIN, PLAIN], "SE not-authorized"),
    // D: binding.
    ("B-118", &["open", PLAIN, "open", "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource/></bind></iq>"], "ST bad-request/modify"),
    ("B-118", &["open", PLAIN, "open", "<iq id='1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>&#xE000;</resource></bind></iq>"], "ST bad-request/modify"),
    ("bind get", &["open", PLAIN, "open", "<iq id='1' type='get'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"], "ST bad-request/modify"),
    ("bind without id", &["open", PLAIN, "open", "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"], "ST bad-request/modify"),
    ("bind result", &["open", PLAIN, "open", "<iq id='1' type='result'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"], "SE not-authorized"),
    ("unbound", &["open", PLAIN, "open", "<presence/>"], "SE not-authorized"),
    ("while binding", &["open", PLAIN, "open", BIND, BIND], "SE policy-violation"),
    // G: stream management.
    ("B-176", &["open", "<enable xmlns='urn:xmpp:sm:3'/>"], "SM unexpected-request"),
    ("B-176", &["open", PLAIN, "open", "<enable xmlns='urn:xmpp:sm:3'/>"], "SM unexpected-request"),
    ("B-184", &["open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>"], "SM unexpected-request"),
    ("B-185", &["open", PLAIN, "open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>"], "SM bad-request"),
    ("r", &["open", PLAIN, "open", "<r xmlns='urn:xmpp:sm:3'/>"], "SE not-authorized"),
    // Registration that is not offered: the caller refuses it, and the stream stays.
    ("S-099", &["open", REGISTER], "features"),
    ("preauth", &["open", PREAUTH], "features"),
    ("no request", &["open", "<iq id='1' type='result'><query xmlns='jabber:iq:register'/></iq>"], "SE not-authorized"),
];

/// The same in clear, TLS being required.
#[rustfmt::skip]
const IN_CLEAR: &[Row] = &[
    // B: STARTTLS.
    ("B-067", &["open", PLAIN], "SASL encryption-required"),
    ("B-067", &["open", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X'>=</auth>"], "SASL encryption-required"),
    ("B-068", &["open", BIND], "SE not-authorized"),
    ("B-068", &["open", "<enable xmlns='urn:xmpp:sm:3'/>"], "SE not-authorized"),
    ("B-073", &["open", STARTTLS_XML, "open", STARTTLS_XML], "SE policy-violation"),
    ("no header", &["open", STARTTLS_XML, PLAIN], "SE not-authorized"),
];

/// Number, whether under TLS, what is set up differently, script, answer.
type ChangedRow =
    (&'static str, bool, fn(&mut Server, &mut Offer), &'static [&'static str], &'static str);

#[rustfmt::skip]
const CHANGED: &[ChangedRow] = &[
    // B: STARTTLS.
    ("S-025", false, |_, offer| offer.tls = TlsPolicy::Absent, &["open", STARTTLS_XML], "SE policy-violation"),
    ("PLAIN in clear", false, |_, offer| offer.tls = TlsPolicy::Optional, &["open", PLAIN], "SASL encryption-required"),
    ("PLAIN in clear", false, |_, offer| (offer.tls, offer.plain_without_tls) = (TlsPolicy::Absent, true), &["open", PLAIN], "success"),
    // C: SASL.
    ("B-112", true, |server, _| server.verdict = Verdict::Disabled, &["open", PLAIN], "SASL account-disabled"),
    ("B-113", true, |server, _| server.verdict = Verdict::Unavailable, &["open", PLAIN], "SASL temporary-auth-failure"),
    ("wrong", true, |server, _| server.verdict = Verdict::Wrong, &["open", PLAIN], "SASL not-authorized"),
    // G: stream management.
    ("not offered", true, |_, offer| offer.stream_management = false, &["open", PLAIN, "open", "<resume xmlns='urn:xmpp:sm:3' previd='x' h='1'/>"], "SM unexpected-request"),
    // Registration.
    ("S-099", false, |_, offer| offer.register = true, &["open", REGISTER], "SE not-authorized"),
    ("register", true, |_, offer| offer.register = true, &["open", REGISTER], "features"),
];

/// `open to=… from=… version=… ns=…`, with `-` for nothing.
fn scripted_header(line: &str) -> StreamHeader {
    let mut header = header(DOMAIN);
    for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
        let value = (value != "-").then(|| value.to_owned());
        match key {
            "to" => header.to = value,
            "from" => header.from = value,
            "ns" => header.content_ns = value.unwrap_or_default(),
            "version" => {
                header.version = value.and_then(|value| {
                    let (major, minor) = value.split_once('.')?;
                    Some((major.parse().ok()?, minor.parse().ok()?))
                });
            }
            _ => panic!("{line}"),
        }
    }
    header
}

fn check(
    no: &str,
    is_tls_active: bool,
    change: impl Fn(&mut Server, &mut Offer),
    script: &[&str],
    expected: &str,
) {
    let (mut server, mut offer) = (Server::new(offer(), is_tls_active), offer());
    change(&mut server, &mut offer);
    server.machine =
        Receiving::new(Arc::new(offer), Framing::Stream, is_tls_active.then(tls), [9; 32]);
    for line in script {
        match line.strip_prefix("open") {
            Some(line) => server.feed(Input::Open(Box::new(scripted_header(line)))),
            None => server.feed_xml(line),
        }
    }
    assert_eq!(server.outcome(), expected, "{no} {script:?}");
    assert!(server.wire[0].starts_with("<?xml"), "{no}: our header goes first");
    if expected.starts_with("SE ") {
        let said = server.wire.len();
        server.feed(open(DOMAIN));
        assert_eq!(server.wire.len(), said, "{no}: silent after a stream error");
    }
}

#[test]
fn every_bad_input_gets_its_answer() {
    for (no, script, expected) in UNDER_TLS {
        check(no, true, |_, _| {}, script, expected);
    }
    for (no, script, expected) in IN_CLEAR {
        check(no, false, |_, _| {}, script, expected);
    }
    for (no, is_tls_active, change, script, expected) in CHANGED {
        check(no, *is_tls_active, change, script, expected);
    }
}
