//! H: who somebody is, and for whom they may speak. XEP-0220, XEP-0178, RFC 6120 §8.1.2.2 and §13.7.

use super::{At, Row};
use base64::{Engine as _, prelude::BASE64_STANDARD};

fn message(from: &str) -> String {
    format!("<message from='{from}' to='${{friend}}'><body>a lie</body></message>")
}

fn external(authzid: &str) -> String {
    let text = BASE64_STANDARD.encode(authzid);
    format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{text}</auth>")
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![
        Row::new("B-196", "a stanza before anything is proved", At::Secured)
            .says(message("a@evil.lab"))
            .gets(&["SE not-authorized"]),
        Row::new("B-196", "the same of who has no certificate that counts", At::Caller)
            .says(message("a@caller.lab"))
            .gets(&["SE not-authorized"]),
        Row::new("B-199", "an answer that nobody asked for, before anything is proved", At::Caller)
            .says("<db:result from='caller.lab' to='${us}' type='valid'/>".to_owned() + &message("a@caller.lab"))
            .gets(&["SE not-authorized", "SE invalid-from"]),
        Row::new("S-054", "a verification that nobody asked for", At::Caller)
            .says("<db:verify from='caller.lab' to='${us}' id='1' type='valid'/>".to_owned() + &message("a@caller.lab"))
            .gets(&["SE not-authorized", "SE invalid-from"]),
        Row::new("B-085", "a mechanism that is not offered", At::Secured)
            .says("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>")
            .gets(&["SASL invalid-mechanism"]),
        Row::new("B-205", "EXTERNAL that is not offered: nobody signed the certificate", At::Caller)
            .says(crate::stranger::EXTERNAL)
            .gets(&["SASL invalid-mechanism", "SASL not-authorized"]),
        Row::new("B-086", "what is not base64", At::Secured)
            .says("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>*</auth>")
            .gets(&["SASL incorrect-encoding"]),
        Row::new("B-101", "a response with no exchange running", At::Secured)
            .says("<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</response>")
            .gets(&["SASL malformed-request", "SE policy-violation"]),
        Row::new("B-103", "too many attempts", At::Caller)
            .says(crate::stranger::EXTERNAL.repeat(8))
            .gets(&["SASL invalid-mechanism, SASL invalid-mechanism, SASL invalid-mechanism, SASL invalid-mechanism, SASL invalid-mechanism, SE policy-violation",
                "SASL invalid-mechanism, SASL invalid-mechanism, SASL invalid-mechanism, SE policy-violation"]),
        Row::new("B-106", "EXTERNAL once more", At::Proved)
            .says(crate::stranger::EXTERNAL)
            .gets(&["SE policy-violation", "SE unsupported-stanza-type", "SASL malformed-request"]),
        Row::new("B-212", "an authorization id that is the header's own", At::Secured)
            .says(external("evil.lab"))
            .alone()
            .gets(&["success"]),
        // Verified keys are answered, whoever asks.
        Row::new("S-055", "a key that is not ours", At::Secured)
            .says("<db:verify from='evil.lab' to='${us}' id='other'>0123456789abcdef</db:verify>")
            .gets(&["DB invalid"]),
        Row::new("B-200", "a boundary moved to the left", At::Secured)
            .says("<db:verify from='evil.lab' to='${us}' id='lab other'>key</db:verify>")
            .gets(&["DB invalid"]),
        Row::new("S-057", "a question about a key without a stream id", At::Secured)
            .says("<db:verify from='evil.lab' to='${us}'>key</db:verify>")
            .gets(&["SE invalid-xml", "SE improper-addressing", "DB bad-request", "DB invalid"]),
        Row::new("B-202", "a question about a key of a domain that is not ours", At::Secured)
            .says("<db:verify from='evil.lab' to='verona.lab' id='other'>key</db:verify>")
            .gets(&["DB item-not-found", "SE host-unknown"]),
        Row::new("B-202", "a domain that is not ours", At::Secured)
            .says("<db:result from='evil.lab' to='verona.lab'>key</db:result>")
            .alone()
            .gets(&["DB item-not-found", "SE host-unknown"]),
        Row::new("B-194", "dialback as one of our domains", At::Secured)
            .says("<db:result from='${us}' to='${us}'>key</db:result>")
            .alone()
            .gets(&["SE invalid-from", "DB policy-violation", "DB not-authorized"]),
        Row::new("B-202", "no such authoritative server", At::Caller)
            .says("<db:result from='nowhere.lab' to='${us}'>key</db:result>")
            .alone()
            .gets(&["DB remote-server-not-found"]),
        Row::new("B-202", "an authoritative server that refuses connections", At::Caller)
            .says("<db:result from='closed.lab' to='${us}'>key</db:result>")
            .alone()
            .gets(&["DB remote-connection-failed", "DB remote-server-not-found", "DB remote-server-timeout"]),
        Row::new("S-054", "a key that the authoritative server does not know", At::Caller)
            .says("<db:result from='denier.lab' to='${us}'>key</db:result>")
            .alone()
            .gets(&["DB invalid"]),
        Row::new("S-057", "dialback without addresses", At::Secured)
            .says("<db:result>key</db:result>")
            .alone()
            .gets(&["SE improper-addressing", "DB jid-malformed", "SE invalid-from"]),
        Row::new("B-202", "what is neither question nor answer", At::Secured)
            .says("<db:resolve from='evil.lab' to='${us}'/>")
            .gets(&["SE unsupported-stanza-type", "SE bad-format"]),
        // Who is who once it is proved.
        Row::new("H", "what it may say", At::Proved)
            .says(message("a@evil.lab").replace("a lie", "honest external"))
            .gets(&[""]),
        Row::new("H", "what it may say, by dialback", At::Dialed)
            .says(message("a@caller.lab").replace("a lie", "honest dialback"))
            .gets(&[""]),
        Row::new("6120 §8.1.1", "to nobody", At::Proved)
            .says("<message from='a@evil.lab'><body>a lie</body></message>")
            .gets(&["SE improper-addressing"]),
        Row::new("6120 §8.1.2", "from nobody", At::Proved)
            .says("<message to='${friend}'><body>a lie</body></message>")
            .gets(&["SE improper-addressing", "SE invalid-from"]),
        Row::new("6120 §8.1.2", "from what is no address", At::Proved)
            .says(message("@evil.lab"))
            .gets(&["SE improper-addressing", "SE invalid-from"]),
        Row::new("6120 §8.1.1", "to what is no address", At::Proved)
            .says("<message from='a@evil.lab' to='@${us}'><body>a lie</body></message>")
            .gets(&["SE improper-addressing", ""]),
        Row::new("6120 §8.1.1", "to a domain that is not ours", At::Proved)
            .says("<message from='a@evil.lab' to='x@verona.lab'><body>a lie</body></message>")
            .gets(&["SE host-unknown", "SE improper-addressing"]),
        Row::new("B-197", "dialback for the domain below, by its certificate, then from above it", At::Secured)
            .says(
                "<db:result from='below.evil.lab' to='${us}'>key</db:result>".to_owned()
                    + &message("a@evil.lab"),
            )
            // Whether the answer comes before the stanza is judged is a matter of the moment.
            .gets(&["DB valid, SE invalid-from", "SE not-authorized", "SE invalid-from"]),
    ];
    for at in [At::Proved, At::Dialed] {
        for (id, what, from) in [
            ("B-193", "from a domain that it has not proved", "a@verona.lab"),
            ("B-194", "from one of our domains", "a@${us}"),
            ("B-194", "from one of our users' full address", "user1@${us}/x"),
            ("B-194", "from one of our services", "a@anon.${us}"),
            ("B-197", "from the domain above", "a@lab"),
            ("B-197", "from a domain below", "a@sub.evil.lab"),
            ("B-139", "from a name that only looks alike", "a@evil.lab.evil"),
            ("B-060", "from it as a resource", "a@verona.lab/evil.lab"),
        ] {
            rows.push(Row::new(id, what, at).says(message(from)).gets(&["SE invalid-from"]));
        }
    }
    for (what, authzid) in [
        ("an authorization id of another domain", "verona.lab"),
        ("an authorization id of a domain of ours", "anon.pangaea.lab"),
        ("an authorization id below", "below.evil.lab"),
        ("an authorization id with a user", "a@evil.lab"),
    ] {
        rows.push(
            Row::new("B-212", what, At::Secured)
                .says(external(authzid))
                .gets(&["SASL invalid-authzid", "SASL not-authorized"]),
        );
    }
    rows
}
