//! XEP-0202: given this stanza and this moment, expect this answer.

use super::*;
use crate::features::tests::iq;

#[test]
fn moments_are_written_as_xep_0082_says() {
    for (ms, written) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_799_999, "2000-02-29T23:59:59.999Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (1_798_761_599_000, "2026-12-31T23:59:59.000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(utc(ms), written);
    }
}

#[test]
fn the_server_says_the_time() {
    let asked = "<time xmlns='urn:xmpp:time'/>";
    let reply = answer(&iq("get", "example.org", asked), 0).expect("answered").element();
    let time = reply.child("time", ns::TIME).expect("a time");
    assert_eq!(time.child("tzo", ns::TIME).expect("there").text(), "+00:00");
    assert_eq!(time.child("utc", ns::TIME).expect("there").text(), "1970-01-01T00:00:00.000Z");
    assert!(answer(&iq("get", "romeo@example.org", asked), 0).is_none());
}
