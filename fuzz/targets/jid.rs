//! Addresses: what is prepared stays as it is when it is prepared again, and its parts are what makes it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::jid::{Jid, PART_BYTES_MAX};

fuzz_target!(|text: &str| {
    let Ok(jid) = Jid::parse(text) else { return };
    let again = Jid::parse(jid.as_str()).expect("prepared once");
    assert_eq!(jid, again, "{text:?}");
    assert_eq!(jid.domain(), again.domain());
    for part in [jid.local(), Some(jid.domain()), jid.resource()].into_iter().flatten() {
        assert!(!part.is_empty() && part.len() <= PART_BYTES_MAX, "{jid}");
    }
    let mut made = jid.local().map(|local| format!("{local}@")).unwrap_or_default();
    made.push_str(jid.domain());
    assert_eq!(jid.bare().as_str(), made);
    if let Some(resource) = jid.resource() {
        let full = jid.bare().with_resource(resource).expect("its own resource");
        assert_eq!(full.as_str(), jid.as_str());
    }
});
