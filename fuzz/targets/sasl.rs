//! SASL: whatever a client says, an exchange ends in a failure, or in a success that somebody vouched for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::sasl::{
    ChannelBindings, Credentials, Exchange, Hash, Mechanism, ScramKeys, Secret, Step, Terms,
    Verdict,
};

fn terms() -> Terms {
    Terms {
        domain: "a.example".to_owned(),
        nonce: "3rfcNHYJY1ZVvWVs7j012345".to_owned(),
        bindings: ChannelBindings { exporter: Some([1; 32]), server_end_point: Some(vec![2; 32]) },
        plus_offered: true,
        fake_secret: Secret::new(vec![3; 32]),
        fake_iterations: 4096,
        identities: vec!["romeo@a.example".to_owned()],
        anonymous: "guest".to_owned(),
        offered: None,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    let names =
        ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "PLAIN", "EXTERNAL", "ANONYMOUS"];
    let name = names[usize::from(*which) % names.len()];
    let Some(mechanism) = Mechanism::parse(name) else { return };
    let mut exchange = Exchange::new(mechanism, terms());
    let mut messages = rest.split(|byte| *byte == b'\n');
    let mut step = exchange.message(messages.next());
    loop {
        step = match step {
            Step::Challenge(_) => match messages.next() {
                Some(message) => exchange.message(Some(message)),
                None => return,
            },
            // Keys that no proof in the input fits.
            Step::LookUp { account, hash } => {
                let secret = Secret::new(vec![4; 32]);
                let keys = ScramKeys::fake(hash, account.as_str(), &secret, 4096);
                exchange.credentials(Credentials::Keys(keys))
            }
            Step::CheckPlain { .. } => exchange.plain_checked(Verdict::Wrong),
            Step::Success { account, .. } => {
                assert_ne!(account.local(), None);
                let scram = [Hash::Sha1, Hash::Sha256].into_iter().any(|hash| {
                    [true, false]
                        .into_iter()
                        .any(|plus| mechanism == Mechanism::Scram { hash, plus })
                });
                assert!(!scram && mechanism != Mechanism::Plain, "{account} signed in by {name}");
                return;
            }
            // A failure, or a question that this target does not answer.
            _ => return,
        };
    }
});
