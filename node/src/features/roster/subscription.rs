//! RFC 6121 appendix A as a function: the state of a subscription and what a subscription stanza does to it. Pure.
//! Called by `roster::home`, which commits the result.

use serde::{Deserialize, Serialize};

/// The four bits behind the RFC's nine states (`None + Pending Out+In` and so on).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The user receives the contact's presence.
    pub to: bool,
    /// The contact receives the user's presence.
    pub from: bool,
    /// The user asked and has no answer (`ask='subscribe'`).
    pub pending_out: bool,
    /// The contact asked and has no answer.
    pub pending_in: bool,
    /// The user approved before being asked (§3.4).
    pub approved: bool,
}

/// The four subscription stanzas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `subscribe`
    Subscribe,
    /// `subscribed`
    Subscribed,
    /// `unsubscribe`
    Unsubscribe,
    /// `unsubscribed`
    Unsubscribed,
}

/// What follows from a subscription stanza besides the new state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Outbound: the stanza is routed to the contact. Inbound: it is delivered to the user's available resources.
    pub pass: bool,
    /// Inbound subscribe that is already granted: the server answers `subscribed` for the user (A.3.1 note).
    pub auto_reply: bool,
}

/// The user sends it (A.2).
pub fn outbound(state: &mut State, kind: Kind) -> Verdict {
    let mut pass = true;
    match kind {
        Kind::Subscribe => state.pending_out |= !state.to,
        Kind::Unsubscribe => {
            state.pending_out = false;
            state.to = false;
        }
        Kind::Subscribed => {
            pass = state.pending_in;
            if state.pending_in {
                state.pending_in = false;
                state.from = true;
            } else if !state.from {
                state.approved = true;
            }
        }
        Kind::Unsubscribed => {
            pass = state.pending_in || state.from;
            state.pending_in = false;
            state.from = false;
            state.approved = false;
        }
    }
    Verdict { pass, auto_reply: false }
}

/// The user receives it (A.3).
pub fn inbound(state: &mut State, kind: Kind) -> Verdict {
    match kind {
        Kind::Subscribe if state.from => Verdict { pass: false, auto_reply: true },
        Kind::Subscribe if state.approved => {
            state.approved = false;
            state.from = true;
            Verdict { pass: false, auto_reply: true }
        }
        Kind::Subscribe => {
            let pass = !state.pending_in;
            state.pending_in = true;
            Verdict { pass, auto_reply: false }
        }
        Kind::Unsubscribe => {
            let pass = state.from || state.pending_in;
            state.from = false;
            state.pending_in = false;
            Verdict { pass, auto_reply: false }
        }
        Kind::Subscribed => {
            let pass = state.pending_out;
            if state.pending_out {
                state.pending_out = false;
                state.to = true;
            }
            Verdict { pass, auto_reply: false }
        }
        Kind::Unsubscribed => {
            let pass = state.pending_out || state.to;
            state.pending_out = false;
            state.to = false;
            Verdict { pass, auto_reply: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `N` none, `T` to, `F` from, `B` both; `o` pending out, `i` pending in.
    fn state(text: &str) -> State {
        State {
            to: text.starts_with('T') || text.starts_with('B'),
            from: text.starts_with('F') || text.starts_with('B'),
            pending_out: text.contains('o'),
            pending_in: text.contains('i'),
            approved: false,
        }
    }

    const STATES: [&str; 9] = ["N", "No", "Ni", "Noi", "T", "Ti", "F", "Fo", "B"];

    /// One row a state of the appendix: does it pass, and what is the new state.
    fn check(apply: fn(&mut State, Kind) -> Verdict, kind: Kind, rows: [(bool, &str); 9]) {
        for (before, (pass, after)) in STATES.into_iter().zip(rows) {
            let mut now = state(before);
            let verdict = apply(&mut now, kind);
            now.approved = false;
            assert_eq!((verdict.pass, now), (pass, state(after)), "{kind:?} in {before}");
        }
    }

    #[test]
    fn a_2_1_outbound_subscribe() {
        let y = true;
        check(
            outbound,
            Kind::Subscribe,
            [
                (y, "No"),
                (y, "No"),
                (y, "Noi"),
                (y, "Noi"),
                (y, "T"),
                (y, "Ti"),
                (y, "Fo"),
                (y, "Fo"),
                (y, "B"),
            ],
        );
    }

    #[test]
    fn a_2_2_outbound_unsubscribe() {
        let y = true;
        check(
            outbound,
            Kind::Unsubscribe,
            [
                (y, "N"),
                (y, "N"),
                (y, "Ni"),
                (y, "Ni"),
                (y, "N"),
                (y, "Ni"),
                (y, "F"),
                (y, "F"),
                (y, "F"),
            ],
        );
    }

    #[test]
    fn a_2_3_outbound_subscribed() {
        let (y, n) = (true, false);
        check(
            outbound,
            Kind::Subscribed,
            [
                (n, "N"),
                (n, "No"),
                (y, "F"),
                (y, "Fo"),
                (n, "T"),
                (y, "B"),
                (n, "F"),
                (n, "Fo"),
                (n, "B"),
            ],
        );
    }

    #[test]
    fn a_2_4_outbound_unsubscribed() {
        let (y, n) = (true, false);
        check(
            outbound,
            Kind::Unsubscribed,
            [
                (n, "N"),
                (n, "No"),
                (y, "N"),
                (y, "No"),
                (n, "T"),
                (y, "T"),
                (y, "N"),
                (y, "No"),
                (y, "T"),
            ],
        );
    }

    #[test]
    fn a_3_1_inbound_subscribe() {
        let (y, n) = (true, false);
        check(
            inbound,
            Kind::Subscribe,
            [
                (y, "Ni"),
                (y, "Noi"),
                (n, "Ni"),
                (n, "Noi"),
                (y, "Ti"),
                (n, "Ti"),
                (n, "F"),
                (n, "Fo"),
                (n, "B"),
            ],
        );
    }

    #[test]
    fn a_3_2_inbound_unsubscribe() {
        let (y, n) = (true, false);
        check(
            inbound,
            Kind::Unsubscribe,
            [
                (n, "N"),
                (n, "No"),
                (y, "N"),
                (y, "No"),
                (n, "T"),
                (y, "T"),
                (y, "N"),
                (y, "No"),
                (y, "T"),
            ],
        );
    }

    #[test]
    fn a_3_3_inbound_subscribed() {
        let (y, n) = (true, false);
        check(
            inbound,
            Kind::Subscribed,
            [
                (n, "N"),
                (y, "T"),
                (n, "Ni"),
                (y, "Ti"),
                (n, "T"),
                (n, "Ti"),
                (n, "F"),
                (y, "B"),
                (n, "B"),
            ],
        );
    }

    #[test]
    fn a_3_4_inbound_unsubscribed() {
        let (y, n) = (true, false);
        check(
            inbound,
            Kind::Unsubscribed,
            [
                (n, "N"),
                (y, "N"),
                (n, "Ni"),
                (y, "Ni"),
                (y, "N"),
                (y, "Ni"),
                (n, "F"),
                (y, "F"),
                (y, "F"),
            ],
        );
    }

    #[test]
    fn a_granted_request_is_answered_by_the_server() {
        for granted in ["F", "Fo", "B"] {
            assert!(inbound(&mut state(granted), Kind::Subscribe).auto_reply, "{granted}");
        }
        let mut approved = State::default();
        assert!(!outbound(&mut approved, Kind::Subscribed).pass);
        assert!(inbound(&mut approved, Kind::Subscribe).auto_reply);
        assert!(approved.from && !approved.approved);
    }
}
