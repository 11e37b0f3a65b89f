//! E, addresses and routing: RFC 7622, RFC 6120 §8 and §10, RFC 6121 §8.

use crate::row::Row;
use crate::state::At::Bound;

const UNKNOWN: &str = "<query xmlns='urn:example:unknown'/>";

fn message(to: &str) -> String {
    format!("<message id='x' type='chat' to='{to}'><body>x</body></message>")
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bound = |id, what, text: String, expected: &[&'static str]| {
        rows.push(Row::new(id, what, Bound).says(text).gets(expected));
    };
    let from = |from: &str| {
        format!("<message id='x' from='{from}' to='${{full}}'><body>x</body></message>")
    };
    let spoofed = &["SE invalid-from"][..];
    bound("B-127", "from another resource of its own", from("${me}/another"), spoofed);
    bound("B-127", "from somebody else", from("${friend}"), spoofed);
    bound("B-127", "from the server", from("${domain}"), spoofed);
    bound("B-127", "from what is no address", from("@"), spoofed);
    bound("B-128", "from its own account", from("${me}"), &["message x"]);
    bound("B-128", "from itself", from("${full}"), &["message x"]);
    let malformed = &["ST jid-malformed/modify"][..];
    let long = "x".repeat(1_024);
    let domain = format!("{}.example", "x.".repeat(509));
    for (id, what, to) in [
        ("B-130", "a localpart too long", format!("{long}@${{domain}}")),
        ("B-130", "a domain too long", domain),
        ("B-130", "a resource too long", format!("${{me}}/{long}")),
        // U+0149 is two bytes, and three when it is prepared.
        (
            "B-131",
            "a localpart that grows in preparation",
            format!("{}@${{domain}}", "&#x149;".repeat(400)),
        ),
        ("B-134", "a code point that is not assigned", "a&#x378;@${domain}".into()),
        ("B-136", "a zero-width space", "a&#x200b;b@${domain}".into()),
        ("B-136", "a soft hyphen", "a&#xad;b@${domain}".into()),
        ("B-136", "a bidirectional override", "a&#x202e;b@${domain}".into()),
        ("B-136", "a bidirectional override in a resource", "${me}/a&#x202e;b".into()),
        ("B-139", "punycode of nothing", "a@xn--example-.org".into()),
        ("B-139", "punycode of nothing at the end", "a@example.org.xn--".into()),
        ("B-140", "a bad bracket", "a@[::1".into()),
        ("B-140", "a bad IPv6 literal", "a@[12345::]".into()),
        ("7622 §3", "an empty address", String::new()),
        ("7622 §3", "an empty localpart", "@${domain}".into()),
        ("7622 §3", "an empty resource", "${me}/".into()),
        ("7622 §3", "a quote in a localpart", "a&quot;b@${domain}".into()),
        ("7622 §3", "a space in a localpart", "a b@${domain}".into()),
    ] {
        bound(id, what, message(&to), malformed);
    }
    bound(
        "B-130",
        "an iq to what is no address",
        "<iq id='x' type='get' to='@'><ping xmlns='urn:xmpp:ping'/></iq>".into(),
        malformed,
    );
    bound("B-130", "presence to what is no address", "<presence id='x' to='@'/>".into(), malformed);
    let nowhere = &["ST remote-server-not-found/cancel"][..];
    bound("B-140", "an IPv4 literal", message("a@192.0.2.1"), nowhere);
    bound("B-140", "an IPv6 literal", message("a@[2001:db8::1]"), nowhere);
    let bad = &["ST bad-request/modify"][..];
    for to in ["", " to='${domain}'", " to='${friend}'", " to='${friend/full}'"] {
        bound("B-143", "an iq without an id", format!("<iq type='get'{to}>{UNKNOWN}</iq>"), bad);
        bound("B-143", "an iq without a type", format!("<iq id='x'{to}>{UNKNOWN}</iq>"), bad);
        bound(
            "B-143",
            "an iq of an unknown type",
            format!("<iq id='x' type='wish'{to}>{UNKNOWN}</iq>"),
            bad,
        );
        bound(
            "6120 §8.2.3",
            "an iq with two children",
            format!("<iq id='x' type='get'{to}>{UNKNOWN}{UNKNOWN}</iq>"),
            bad,
        );
        bound("6120 §8.2.3", "an iq without a child", format!("<iq id='x' type='set'{to}/>"), bad);
    }
    let unavailable = &["ST service-unavailable/cancel"][..];
    let asks =
        |to: &str, type_: &str| format!("<iq id='x' type='{type_}' to='{to}'>{UNKNOWN}</iq>");
    for type_ in ["get", "set"] {
        for to in ["${domain}", "${me}", "${friend}", "${domain}/nothing"] {
            bound("B-145", "an iq that nobody understands", asks(to, type_), unavailable);
        }
        for to in
            ["${me}/gone", "${friend}/gone", "nobody-at-all@${domain}", "nobody-at-all@${domain}/x"]
        {
            bound("B-146", "an iq to nobody", asks(to, type_), unavailable);
        }
    }
    for payload in [
        "<query xmlns='http://jabber.org/protocol/disco#info'/>",
        "<query xmlns='jabber:iq:version'/>",
        "<time xmlns='urn:xmpp:time'/>",
    ] {
        for to in ["${friend}", "nobody-at-all@${domain}"] {
            let text = format!("<iq id='x' type='get' to='{to}'>{payload}</iq>");
            bound("B-146", "a question about a stranger", text, unavailable);
        }
    }
    for to in ["${friend}", "nobody-at-all@${domain}"] {
        let items = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
        let text = format!("<iq id='x' type='get' to='{to}'>{items}</iq>");
        bound("B-146", "what a stranger has", text, &["result"]);
    }
    // Whether there is an account a message tells, too; nothing is told of its resources.
    for (to, expected) in [("${friend}", &["result"][..]), ("nobody-at-all@${domain}", unavailable)]
    {
        let text = format!("<iq id='x' type='get' to='{to}'><ping xmlns='urn:xmpp:ping'/></iq>");
        bound("B-146", "a ping to a stranger", text, expected);
    }
    bound(
        "B-148",
        "a message of an unknown type",
        "<message type='wish' to='${full}'><body>x</body></message>".into(),
        &["message x"],
    );
    bound("B-149", "a message to nobody", message("nobody-at-all@${domain}"), unavailable);
    for to in ["${me}", "${friend}", "nobody-at-all@${domain}", "${friend}/gone"] {
        let text = format!("<message id='x' type='groupchat' to='{to}'><body>x</body></message>");
        bound("B-149", "a groupchat message to a user", text, unavailable);
    }
    for to in
        ["${me}", "${full}/gone", "${domain}", "nobody-at-all@${domain}", "a@elsewhere.invalid"]
    {
        for kind in ["message", "presence", "iq"] {
            let text = format!("<{kind} id='x' type='error' to='{to}'/>");
            bound("B-151", "an error without an error", text, &[""]);
        }
        let error =
            "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
        let text = format!("<message id='x' type='error' to='{to}'>{error}{error}</message>");
        bound("B-151", "an error with two errors", text, &[""]);
        bound(
            "6120 §8.3.1",
            "a result that nobody waits for",
            format!("<iq id='x' type='result' to='{to}'/>"),
            &[""],
        );
    }
    for type_ in ["subscribe", "unsubscribe", "subscribed", "unsubscribed"] {
        let text = format!("<presence id='x' type='{type_}' to='nobody-at-all@${{domain}}'/>");
        bound("B-155", "a subscription to nobody", text, &[""]);
    }
    bound("B-155", "presence to nobody", "<presence to='nobody-at-all@${domain}'/>".into(), &[""]);
    bound(
        "B-155",
        "a message of no consequence to nobody",
        "<message type='headline' to='${friend}/gone'><body>x</body></message>".into(),
        &[""],
    );
    bound("6121 §4", "presence of an unknown type", "<presence id='x' type='wish'/>".into(), bad);
    bound(
        "6121 §4",
        "a subscription to nobody in particular",
        "<presence id='x' type='subscribe'/>".into(),
        bad,
    );
    bound(
        "6121 §4",
        "a priority that is none",
        "<presence id='x'><priority>128</priority></presence>".into(),
        bad,
    );
    rows
}
