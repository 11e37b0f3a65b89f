//! One SASL exchange as a value, receiving side, whatever the mechanism (RFC 4422 §3, RFC 6120 §6). What it needs from the world (stored keys, the
//! verdict on a PLAIN password) it asks for with a [`Step`], and is told by a call.
//!
//! Called by `stream::negotiate`; calls the mechanisms, a file each.

use super::{
    ChannelBindings, Credentials, Failure, Hash, Mechanism, Offered, Password, Secret, Tokens,
    Verdict, anonymous, external, oauthbearer, plain, scram, token,
};
use crate::jid::BareJid;

/// What an exchange wants next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send this and wait for the client's answer.
    Challenge(Vec<u8>),
    /// Fetch the SCRAM keys and call [`Exchange::credentials`].
    LookUp {
        /// Whose keys.
        account: BareJid,
        /// Made with which hash.
        hash: Hash,
    },
    /// Check the password and call [`Exchange::plain_checked`].
    CheckPlain {
        /// Whose password.
        account: BareJid,
        /// As it was typed: SASLprep is `ScramKeys::verify`'s.
        password: Password,
    },
    /// Fetch the client's tokens and call [`Exchange::tokens`].
    LookUpTokens {
        /// Whose.
        account: BareJid,
    },
    /// Find out whose token that is and call [`Exchange::token_checked`].
    CheckToken {
        /// Who the client says it is, if it says so.
        claimed: Option<BareJid>,
        /// The token as it came.
        token: Password,
    },
    /// A certificate proves this account: ask whether it may sign in and call [`Exchange::plain_checked`].
    Admit {
        /// The account (or, with EXTERNAL between servers, the domain).
        account: BareJid,
    },
    /// It is them. `data` goes along with the success.
    Success {
        /// The account (or the domain, as above).
        account: BareJid,
        /// Additional data with success: the server's signature in SCRAM.
        data: Option<Vec<u8>>,
        /// Which token proved it.
        token: Option<u64>,
    },
    /// It is not.
    Fail(Failure),
}

/// What one exchange runs on; made anew for every attempt.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The stream's domain, prepared: usernames are localparts of it.
    pub domain: String,
    /// Our half of the nonce: fresh, printable ASCII without a comma, 18 random bytes or more.
    pub nonce: String,
    /// The TLS channel's binding data.
    pub bindings: ChannelBindings,
    /// Was any -PLUS mechanism advertised on this stream? Then the GS2 flag `y` betrays a downgrade.
    pub plus_offered: bool,
    /// Secret from which salts for unknown users are made; the same in every region.
    pub fake_secret: Secret,
    /// The iteration count unknown users show: what most accounts have.
    pub fake_iterations: u32,
    /// Addresses the client's certificate proves (EXTERNAL).
    pub identities: Vec<String>,
    /// The localpart an anonymous user gets: random, fresh.
    pub anonymous: String,
    /// What was advertised on this stream (XEP-0474); `None`: SCRAM does not tell.
    pub offered: Option<Offered>,
}

/// One authentication exchange, receiving side.
#[derive(Debug)]
pub struct Exchange {
    terms: Terms,
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No message seen yet.
    Start,
    /// The first message is read; the keys are being looked up, or the proof is awaited.
    Scram(Box<scram::Server>),
    /// The caller is checking the password, or whether a certificate's owner may sign in.
    Plain(BareJid),
    /// The caller is fetching the client's tokens.
    Fast(token::Server),
    /// The caller is checking the token of whom the client says it is.
    Token(Option<BareJid>),
    /// The client has been told why, and says that it has understood (RFC 7628 §3.2.3).
    Refused(Failure),
    Over,
}

impl Exchange {
    /// Begins. Feed the initial response to [`Exchange::message`], `None` if there was none.
    pub fn new(mechanism: Mechanism, terms: Terms) -> Exchange {
        Exchange { terms, mechanism, state: State::Start }
    }

    /// The mechanism in use.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// A message of the client's, decoded from base64. `None`: it sent no initial response and gets an empty challenge; but for ANONYMOUS,
    /// where there is nothing that it would have to say. COMPAT: Strophe, which sends nothing there and knows no answer to a challenge.
    /// Called at the wrong moment (while a question is open, or after the end) it fails with `malformed-request`.
    pub fn message(&mut self, message: Option<&[u8]>) -> Step {
        let Some(message) = message else {
            return match self.state {
                State::Start if self.mechanism == Mechanism::Anonymous => self.message(Some(b"")),
                State::Start => Step::Challenge(Vec::new()),
                _ => self.over(Failure::MalformedRequest),
            };
        };
        match (&mut self.state, self.mechanism) {
            (State::Start, Mechanism::Scram { hash, plus }) => {
                match scram::Server::begin(hash, plus, message, &self.terms) {
                    Ok((server, Some(account))) => {
                        self.state = State::Scram(Box::new(server));
                        Step::LookUp { account, hash }
                    }
                    // A name that no account can have: go on as with any unknown user.
                    Ok((server, None)) => {
                        self.state = State::Scram(Box::new(server));
                        self.credentials(Credentials::Unknown)
                    }
                    Err(failure) => self.over(failure),
                }
            }
            (State::Scram(server), _) => {
                let step = match server.finish(message) {
                    Ok((account, signature)) => {
                        Step::Success { account, data: Some(signature), token: None }
                    }
                    Err(failure) => Step::Fail(failure),
                };
                self.state = State::Over;
                step
            }
            (State::Start, Mechanism::Plain) => match plain::parse(message, &self.terms.domain) {
                Ok((account, password)) => {
                    self.state = State::Plain(account.clone());
                    Step::CheckPlain { account, password }
                }
                Err(failure) => self.over(failure),
            },
            (State::Start, Mechanism::External) => {
                match external::check(message, &self.terms.identities) {
                    Ok(account) => {
                        self.state = State::Plain(account.clone());
                        Step::Admit { account }
                    }
                    Err(failure) => self.over(failure),
                }
            }
            (State::Start, Mechanism::OauthBearer) => {
                match oauthbearer::parse(message, &self.terms.domain) {
                    Ok((claimed, token)) => {
                        self.state = State::Token(claimed.clone());
                        Step::CheckToken { claimed, token }
                    }
                    Err(failure) => self.over(failure),
                }
            }
            (State::Refused(failure), _) => {
                let failure = *failure;
                self.over(failure)
            }
            (State::Start, Mechanism::Anonymous) => {
                self.state = State::Over;
                match anonymous::check(message, &self.terms.anonymous, &self.terms.domain) {
                    Ok(account) => Step::Success { account, data: None, token: None },
                    Err(failure) => Step::Fail(failure),
                }
            }
            (State::Start, Mechanism::Token(binding)) => {
                let channel = binding.kind().and_then(|kind| self.terms.bindings.data(kind));
                match token::Server::begin(binding, message, channel, &self.terms.domain) {
                    Ok((server, Some(account))) => {
                        self.state = State::Fast(server);
                        Step::LookUpTokens { account }
                    }
                    // A name that no account can have.
                    Ok((_, None)) => self.over(Failure::NotAuthorized),
                    Err(failure) => self.over(failure),
                }
            }
            (State::Plain(_) | State::Fast(_) | State::Token(_) | State::Over, _) => {
                self.over(Failure::MalformedRequest)
            }
        }
    }

    /// The answer to [`Step::LookUp`].
    pub fn credentials(&mut self, credentials: Credentials) -> Step {
        match &mut self.state {
            State::Scram(server) => match server.challenge(credentials, &self.terms) {
                Ok(challenge) => Step::Challenge(challenge),
                Err(failure) => self.over(failure),
            },
            _ => self.over(Failure::TemporaryAuthFailure),
        }
    }

    /// The answer to [`Step::CheckPlain`] and [`Step::Admit`].
    pub fn plain_checked(&mut self, verdict: Verdict) -> Step {
        match (std::mem::replace(&mut self.state, State::Over), verdict) {
            (State::Plain(account), Verdict::Right) => {
                Step::Success { account, data: None, token: None }
            }
            (State::Plain(_), Verdict::Disabled) => Step::Fail(Failure::AccountDisabled),
            (State::Plain(_), Verdict::Expired) => Step::Fail(Failure::CredentialsExpired),
            (State::Plain(_), Verdict::Wrong) => Step::Fail(Failure::NotAuthorized),
            _ => Step::Fail(Failure::TemporaryAuthFailure),
        }
    }

    /// The answer to [`Step::LookUpTokens`].
    pub fn tokens(&mut self, tokens: Tokens) -> Step {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Fast(server) => match server.finish(tokens) {
                Ok((account, token, answer)) => {
                    Step::Success { account, data: Some(answer), token: Some(token) }
                }
                Err(failure) => Step::Fail(failure),
            },
            _ => Step::Fail(Failure::TemporaryAuthFailure),
        }
    }

    /// The answer to [`Step::CheckToken`]: whose it is, or what is the matter with it.
    pub fn token_checked(&mut self, found: Result<BareJid, Verdict>) -> Step {
        let State::Token(claimed) = std::mem::replace(&mut self.state, State::Over) else {
            return Step::Fail(Failure::TemporaryAuthFailure);
        };
        match found {
            Ok(account) if claimed.as_ref().is_some_and(|claimed| *claimed != account) => {
                Step::Fail(Failure::InvalidAuthzid)
            }
            Ok(account) if account.domain() == self.terms.domain => {
                Step::Success { account, data: None, token: None }
            }
            Ok(_) | Err(Verdict::Wrong | Verdict::Right) => {
                self.state = State::Refused(Failure::NotAuthorized);
                Step::Challenge(oauthbearer::INVALID_TOKEN.to_vec())
            }
            Err(Verdict::Expired) => {
                self.state = State::Refused(Failure::CredentialsExpired);
                Step::Challenge(oauthbearer::INVALID_TOKEN.to_vec())
            }
            Err(Verdict::Disabled) => Step::Fail(Failure::AccountDisabled),
            Err(Verdict::Unavailable) => Step::Fail(Failure::TemporaryAuthFailure),
        }
    }

    fn over(&mut self, failure: Failure) -> Step {
        self.state = State::Over;
        Step::Fail(failure)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::account_of;
    use super::*;

    pub(crate) fn terms() -> Terms {
        Terms {
            domain: "capulet.example".into(),
            nonce: "3rfcNHYJY1ZVvWVs7j".into(),
            bindings: ChannelBindings::default(),
            plus_offered: false,
            fake_secret: Secret::new(vec![7; 32]),
            fake_iterations: 4096,
            identities: Vec::new(),
            anonymous: "guest-1".into(),
            offered: None,
        }
    }

    #[test]
    fn mechanisms_and_failures_are_found_by_their_names() {
        for mechanism in Mechanism::ALL {
            assert_eq!(Mechanism::parse(mechanism.name()), Some(mechanism));
        }
        for failure in Failure::ALL {
            assert_eq!(Failure::parse(failure.name()), Some(failure));
        }
        assert_eq!(Mechanism::parse("plain"), None);
        assert_eq!(Mechanism::parse("DIGEST-MD5"), None);
    }

    #[test]
    fn an_account_is_named_by_its_localpart_only() {
        assert!(account_of("juliet", "capulet.example").is_some());
        assert_eq!(
            account_of("JULIET", "capulet.example"),
            account_of("juliet", "capulet.example")
        );
        for name in ["", "juliet@capulet.example", "juliet/balcony", "a b", "@", "\u{0}"] {
            assert!(account_of(name, "capulet.example").is_none(), "{name:?}");
        }
    }

    #[test]
    fn a_client_without_initial_response_gets_one_empty_challenge() {
        let mut exchange = Exchange::new(Mechanism::Plain, terms());
        assert!(matches!(exchange.message(None), Step::Challenge(data) if data.is_empty()));
        assert!(matches!(exchange.message(Some(b"\0juliet\0r0m30")), Step::CheckPlain { .. }));
        // A second message while the password is being checked is not part of PLAIN.
        assert!(matches!(exchange.message(Some(b"x")), Step::Fail(Failure::MalformedRequest)));
    }

    #[test]
    fn a_guest_that_says_nothing_at_all_is_let_in() {
        let mut exchange = Exchange::new(Mechanism::Anonymous, terms());
        let said = exchange.message(None);
        let mut other = Exchange::new(Mechanism::Anonymous, terms());
        assert_eq!(format!("{said:?}"), format!("{:?}", other.message(Some(b""))));
        assert!(!matches!(said, Step::Challenge(_) | Step::Fail(_)));
    }

    #[test]
    fn a_plain_verdict_becomes_its_failure() {
        let cases = [
            (Verdict::Wrong, Failure::NotAuthorized),
            (Verdict::Disabled, Failure::AccountDisabled),
            (Verdict::Expired, Failure::CredentialsExpired),
            (Verdict::Unavailable, Failure::TemporaryAuthFailure),
        ];
        for (verdict, expected) in cases {
            let mut exchange = Exchange::new(Mechanism::Plain, terms());
            exchange.message(Some(b"\0juliet\0r0m30"));
            assert!(
                matches!(exchange.plain_checked(verdict), Step::Fail(failure) if failure == expected)
            );
        }
    }

    fn token(mechanism: Mechanism) -> Exchange {
        let mut exchange = Exchange::new(mechanism, terms());
        let message = b"n,a=juliet@capulet.example,\x01auth=Bearer t0k3n\x01\x01";
        match exchange.message(Some(message)) {
            Step::CheckToken { claimed, token } => {
                let claimed = claimed.expect("named");
                assert_eq!((claimed.as_str(), token.expose()), ("juliet@capulet.example", "t0k3n"));
            }
            other => panic!("{other:?}"),
        }
        exchange
    }

    #[test]
    fn a_token_signs_its_owner_in_and_nobody_else() {
        let jid = |text: &str| BareJid::parse(text).expect("a JID");
        let owner = jid("juliet@capulet.example");
        let step = token(Mechanism::OauthBearer).token_checked(Ok(owner.clone()));
        assert!(
            matches!(step, Step::Success { account, data: None, token: None } if account == owner)
        );
        let step = token(Mechanism::OauthBearer).token_checked(Ok(jid("nurse@capulet.example")));
        assert!(matches!(step, Step::Fail(Failure::InvalidAuthzid)));
    }

    #[test]
    fn a_bad_token_is_explained_and_then_refused() {
        for (verdict, failure) in [
            (Verdict::Wrong, Failure::NotAuthorized),
            (Verdict::Expired, Failure::CredentialsExpired),
        ] {
            let mut exchange = token(Mechanism::OauthBearer);
            let Step::Challenge(why) = exchange.token_checked(Err(verdict)) else {
                panic!("no challenge")
            };
            assert_eq!(why, oauthbearer::INVALID_TOKEN);
            assert!(
                matches!(exchange.message(Some(b"\x01")), Step::Fail(found) if found == failure)
            );
        }
        for (verdict, failure) in [
            (Verdict::Disabled, Failure::AccountDisabled),
            (Verdict::Unavailable, Failure::TemporaryAuthFailure),
        ] {
            let step = token(Mechanism::OauthBearer).token_checked(Err(verdict));
            assert!(matches!(step, Step::Fail(found) if found == failure));
        }
    }

    #[test]
    fn whom_a_certificate_proves_is_asked_about() {
        let terms = Terms { identities: vec!["juliet@capulet.example".into()], ..terms() };
        for (verdict, expected) in
            [(Verdict::Right, None), (Verdict::Disabled, Some(Failure::AccountDisabled))]
        {
            let mut exchange = Exchange::new(Mechanism::External, terms.clone());
            assert!(matches!(exchange.message(Some(b"")), Step::Admit { .. }));
            let failure = match exchange.plain_checked(verdict) {
                Step::Fail(failure) => Some(failure),
                _ => None,
            };
            assert_eq!(failure, expected);
        }
    }

    #[test]
    fn an_answer_nobody_asked_for_never_lets_anyone_in() {
        let mut exchange = Exchange::new(Mechanism::Plain, terms());
        assert!(matches!(exchange.plain_checked(Verdict::Right), Step::Fail(_)));
        let mut exchange = Exchange::new(Mechanism::Plain, terms());
        assert!(matches!(exchange.credentials(Credentials::Unknown), Step::Fail(_)));
    }
}
