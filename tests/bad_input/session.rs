//! D, binding: RFC 6120 §7.

use crate::row::Row;
use crate::state::At::{Authenticated, Bound};

fn bind(inside: &str) -> String {
    format!(
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{inside}</bind></iq>"
    )
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new("B-118", "a resource as long as may be", Authenticated)
            .says(bind(&format!("<resource>{}</resource>", "x".repeat(1_023))))
            .gets(&["result"]),
        Row::new("B-118", "a bind that is a question", Authenticated)
            .says("<iq type='get' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .gets(&["ST bad-request/modify"]),
        Row::new("B-118", "a bind without an id", Authenticated)
            .says("<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
            .gets(&["ST bad-request/modify"]),
        Row::new("B-118", "another resource behind one that was refused", Authenticated)
            .says(bind("<resource>&#x202e;</resource>"))
            .hears("iq")
            .says(bind("<resource>better</resource>"))
            .gets(&["result"]),
        Row::new("B-119", "a second bind", Bound)
            .says(bind("<resource>second</resource>"))
            .gets(&["ST not-allowed/cancel", "SE policy-violation"]),
        Row::new("6120 §7.1", "a message before the bind", Authenticated)
            .says("<message to='${friend}'><body>x</body></message>")
            .gets(&["SE not-authorized"]),
        Row::new("6120 §7.1", "a roster before the bind", Authenticated)
            .says("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>")
            .gets(&["SE not-authorized"]),
        Row::new("B-125", "the session of RFC 3921", Bound)
            .says("<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>")
            .gets(&["result"]),
        Row::new("B-125", "the session, asked of the server", Bound)
            .says("<iq type='set' id='s' to='${domain}'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>")
            .gets(&["result"]),
    ];
    // What a resource is made of is escaped wherever it is written.
    for quoted in ["a&amp;b", "a&lt;b", "a&#39;b"] {
        rows.push(
            Row::new("B-128", "from itself, with a resource that is escaped", Authenticated)
                .says(bind(&format!("<resource>{quoted}</resource>")))
                .hears("iq")
                .says(format!(
                    "<message from='${{me}}/{quoted}' to='${{me}}/{quoted}'><body>x</body></message>"
                ))
                .gets(&["message x"]),
        );
    }
    for (what, resource) in [
        ("a resource too long", "x".repeat(1_024)),
        ("an empty resource", String::new()),
        ("a resource with a bidirectional override", "a&#x202e;b".into()),
        ("a resource with a zero-width space", "a&#x200b;b".into()),
        ("a resource with a line feed", "a&#10;b".into()),
        ("a resource that is not assigned", "a&#x378;".into()),
    ] {
        rows.push(
            Row::new("B-118", what, Authenticated)
                .says(bind(&format!("<resource>{resource}</resource>")))
                .gets(&["ST bad-request/modify"]),
        );
    }
    rows
}
