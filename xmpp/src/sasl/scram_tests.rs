//! Tests of SCRAM: the RFCs' vectors, both sides against each other, and a table of mutations.

use super::super::tests::terms;
use super::super::{ChannelBindings, Exchange, Mechanism, Step};
use super::*;

fn keys(hash: Hash) -> ScramKeys {
    ScramKeys::derive(hash, "pencil", b"0123456789abcdef", 4096).expect("prepares")
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("SCRAM messages are text")
}

/// One of the RFCs' example conversations, both sides of it.
struct Vector {
    hash: Hash,
    salt: &'static str,
    client_nonce: &'static str,
    server_nonce: &'static str,
    client_first: &'static str,
    server_first: &'static str,
    client_final: &'static str,
    server_final: &'static str,
}

const VECTORS: [Vector; 2] = [
    // RFC 5802 §5.
    Vector {
        hash: Hash::Sha1,
        salt: "QSXCR+Q6sek8bf92",
        client_nonce: "fyko+d2lbbFgONRv9qkxdawL",
        server_nonce: "3rfcNHYJY1ZVvWVs7j",
        client_first: "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        server_first: "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        client_final: "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        server_final: "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    },
    // RFC 7677 §3.
    Vector {
        hash: Hash::Sha256,
        salt: "W22ZaJ0SNY7soEsUEjb6gQ==",
        client_nonce: "rOprNGfwEbeRWgbNEkqO",
        server_nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        client_first: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_first: "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_final: "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        server_final: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    },
];

#[test]
fn both_sides_say_what_the_rfcs_say() {
    for vector in VECTORS {
        let salt = BASE64.decode(vector.salt).expect("base64");
        let keys = ScramKeys::derive(vector.hash, "pencil", &salt, 4096).expect("prepares");
        let terms = Terms { nonce: vector.server_nonce.into(), ..terms() };
        let password = Password::new("pencil");
        let mut client = Client::new(
            vector.hash,
            ClientBinding::Unsupported,
            None,
            "user",
            &password,
            vector.client_nonce,
        )
        .expect("prepares");
        assert_eq!(text_of(&client.first()), vector.client_first);

        let (mut server, account) =
            Server::begin(vector.hash, false, &client.first(), &terms).expect("is well formed");
        assert_eq!(account.expect("has an account").as_str(), "user@capulet.example");
        let challenge = server.challenge(Credentials::Keys(keys), &terms).expect("has keys");
        assert_eq!(text_of(&challenge), vector.server_first);

        let response = client.challenge(&challenge).expect("is well formed");
        assert_eq!(text_of(&response), vector.client_final);
        let (_, signature) = server.finish(&response).expect("is right");
        assert_eq!(text_of(&signature), vector.server_final);
        assert_eq!(client.success(&signature), Ok(()));
    }
}

/// Runs a whole exchange, with `tamper` on the client's two messages.
fn run(
    mechanism: Mechanism,
    terms: &Terms,
    binding: ClientBinding,
    credentials: Credentials,
    tamper: impl Fn(usize, String) -> String,
) -> Result<(), Failure> {
    let Mechanism::Scram { hash, .. } = mechanism else { panic!("a SCRAM test") };
    let mut client = Client::new(hash, binding, None, "juliet", &Password::new("pencil"), "abc")
        .expect("prepares");
    let mut exchange = Exchange::new(mechanism, terms.clone());
    let first = tamper(0, text_of(&client.first()).to_owned());
    let mut step = exchange.message(Some(first.as_bytes()));
    if let Step::LookUp { account, hash: wanted } = &step {
        assert_eq!((account.as_str(), *wanted), ("juliet@capulet.example", hash));
        step = exchange.credentials(credentials);
    }
    if let Step::Challenge(challenge) = step {
        let response = client.challenge(&challenge).expect("our own challenge");
        let response = tamper(1, text_of(&response).to_owned());
        step = exchange.message(Some(response.as_bytes()));
    }
    match step {
        Step::Success { account, data, .. } => {
            assert_eq!(account.as_str(), "juliet@capulet.example");
            client
                .success(&data.expect("SCRAM signs its success"))
                .expect("the server knows the keys");
            Ok(())
        }
        Step::Fail(failure) => Err(failure),
        other => panic!("unexpected {other:?}"),
    }
}

const SHA256: Mechanism = Mechanism::Scram { hash: Hash::Sha256, plus: false };
const SHA256_PLUS: Mechanism = Mechanism::Scram { hash: Hash::Sha256, plus: true };

fn bound() -> Terms {
    let bindings = ChannelBindings { exporter: Some([3; 32]), server_end_point: Some(vec![4; 32]) };
    Terms { bindings, plus_offered: true, ..terms() }
}

fn using(kind: &str, data: &[u8]) -> ClientBinding {
    ClientBinding::Use { kind: kind.into(), data: data.to_vec() }
}

#[test]
fn every_hash_lets_the_right_password_in() {
    for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
        let plain = Mechanism::Scram { hash, plus: false };
        let plus = Mechanism::Scram { hash, plus: true };
        let credentials = || Credentials::Keys(keys(hash));
        assert_eq!(
            run(plain, &terms(), ClientBinding::Unsupported, credentials(), |_, m| m),
            Ok(())
        );
        assert_eq!(
            run(plain, &terms(), ClientBinding::NotOffered, credentials(), |_, m| m),
            Ok(())
        );
        assert_eq!(
            run(plus, &bound(), using("tls-exporter", &[3; 32]), credentials(), |_, m| m),
            Ok(())
        );
        assert_eq!(
            run(plus, &bound(), using("tls-server-end-point", &[4; 32]), credentials(), |_, m| m),
            Ok(())
        );
    }
}

#[test]
fn the_channel_binding_rules_hold() {
    let check = |mechanism, terms: &Terms, binding, expected| {
        assert_eq!(
            run(mechanism, terms, binding, Credentials::Keys(keys(Hash::Sha256)), |_, m| m),
            expected
        );
    };
    let refused = Err(Failure::NotAuthorized);
    // B-094: `y` while we offered -PLUS. `n` is honest: the client has no channel binding.
    check(SHA256, &bound(), ClientBinding::NotOffered, refused);
    check(SHA256, &bound(), ClientBinding::Unsupported, Ok(()));
    // B-095: types we do not have, or that nobody should have.
    check(SHA256_PLUS, &bound(), using("tls-unique", &[3; 32]), refused);
    check(SHA256_PLUS, &bound(), using("x-other", &[3; 32]), refused);
    check(SHA256_PLUS, &terms(), using("tls-exporter", &[3; 32]), refused);
    // Another channel than ours: somebody is in the middle.
    check(SHA256_PLUS, &bound(), using("tls-exporter", &[9; 32]), refused);
    check(SHA256_PLUS, &bound(), using("tls-server-end-point", &[3; 32]), refused);
    // The flag and the mechanism's name must agree.
    check(SHA256, &bound(), using("tls-exporter", &[3; 32]), refused);
    check(SHA256_PLUS, &bound(), ClientBinding::Unsupported, refused);
    check(SHA256_PLUS, &bound(), ClientBinding::NotOffered, refused);
}

#[test]
fn every_mutation_of_the_first_message_is_refused() {
    let long = format!("n,,n={},r=abc", "x".repeat(1 << 20));
    let cases: &[(&str, Failure)] = &[
        ("", Failure::MalformedRequest),
        ("n", Failure::MalformedRequest),
        ("n,", Failure::MalformedRequest),
        ("n,,", Failure::MalformedRequest),
        ("x,,n=juliet,r=abc", Failure::MalformedRequest),
        ("N,,n=juliet,r=abc", Failure::MalformedRequest),
        ("p=,,n=juliet,r=abc", Failure::MalformedRequest),
        ("p=a b,,n=juliet,r=abc", Failure::MalformedRequest),
        ("n,juliet,n=juliet,r=abc", Failure::MalformedRequest),
        ("n,a=,n=juliet,r=abc", Failure::MalformedRequest),
        ("n,,n=,r=abc", Failure::MalformedRequest),
        ("n,,n=juliet", Failure::MalformedRequest),
        ("n,,n=juliet,r=", Failure::MalformedRequest),
        ("n,,n=juliet,r=a b", Failure::MalformedRequest),
        ("n,,n=juliet,r=aé", Failure::MalformedRequest),
        ("n,,r=abc,n=juliet", Failure::MalformedRequest), // reordered
        ("n,,n=juliet,r=abc,r=abc", Failure::MalformedRequest), // duplicated
        ("n,,n=juliet,n=romeo,r=abc", Failure::MalformedRequest),
        ("n,,n=juliet,r=abc,x=1,x=2", Failure::MalformedRequest),
        ("n,,n=juliet,r=abc,m=1", Failure::MalformedRequest),
        ("n,,n=juliet,r=abc,x", Failure::MalformedRequest),
        ("n,,n=juliet,r=abc,x=", Failure::MalformedRequest),
        ("n,,n=juliet,r=abc,", Failure::MalformedRequest),
        ("n,,n=ju=liet,r=abc", Failure::MalformedRequest), // no such escape
        ("n,,n=ju=2cliet,r=abc", Failure::MalformedRequest),
        ("n,,n=juliet=,r=abc", Failure::MalformedRequest),
        ("n,,n=jul\0iet,r=abc", Failure::MalformedRequest),
        (&long, Failure::MalformedRequest), // B-098
        ("n,,m=mandatory,n=juliet,r=abc", Failure::NotAuthorized), // B-097
        ("n,a=romeo@capulet.example,n=juliet,r=abc", Failure::InvalidAuthzid),
        ("n,a=juliet@montague.example,n=juliet,r=abc", Failure::InvalidAuthzid),
        ("n,a=juliet,n=juliet,r=abc", Failure::InvalidAuthzid),
        ("n,a=@@,n=juliet,r=abc", Failure::InvalidAuthzid),
    ];
    for (message, expected) in cases {
        let result = run(
            SHA256,
            &terms(),
            ClientBinding::Unsupported,
            Credentials::Keys(keys(Hash::Sha256)),
            |turn, m| {
                if turn == 0 { (*message).to_owned() } else { m }
            },
        );
        assert_eq!(result, Err(*expected), "{:.80}", message);
    }
    assert_eq!(
        Server::begin(Hash::Sha1, false, b"n,,n=\xff,r=abc", &terms()).err(),
        Some(Failure::MalformedRequest)
    );
}

#[test]
fn every_mutation_of_the_final_message_is_refused() {
    type Tamper = fn(&str) -> String;
    let cases: &[(&str, Tamper, Failure)] = &[
        ("nothing", |_| String::new(), Failure::MalformedRequest),
        (
            "no proof",
            |m| m.split(",p=").next().unwrap_or_default().into(),
            Failure::MalformedRequest,
        ),
        (
            "empty proof",
            |m| format!("{},p=", m.split(",p=").next().unwrap_or_default()),
            Failure::MalformedRequest,
        ),
        ("proof not base64", |m| format!("{}!", m), Failure::MalformedRequest),
        (
            "proof of another length",
            |m| format!("{},p=AAAA", m.split(",p=").next().unwrap_or_default()),
            Failure::MalformedRequest,
        ),
        (
            "proof of zeroes",
            |m| {
                format!(
                    "{},p={}",
                    m.split(",p=").next().unwrap_or_default(),
                    BASE64.encode([0; 32])
                )
            },
            Failure::NotAuthorized,
        ),
        ("binding not base64", |m| m.replacen("c=biws", "c=biw", 1), Failure::MalformedRequest),
        ("another flag than before", |m| m.replacen("c=biws", "c=eSws", 1), Failure::NotAuthorized),
        ("empty binding", |m| m.replacen("c=biws", "c=", 1), Failure::NotAuthorized),
        ("binding left out", |m| m.replacen("c=biws,", "", 1), Failure::MalformedRequest),
        ("nonce cut", |m| m.replacen("VvWVs7j,", "VvWVs7,", 1), Failure::NotAuthorized),
        (
            "nonce of the client only",
            |m| m.replacen("r=abc3rfcNHYJY1ZVvWVs7j", "r=abc", 1),
            Failure::NotAuthorized,
        ),
        (
            "nonce missing",
            |m| m.replacen(",r=abc3rfcNHYJY1ZVvWVs7j", "", 1),
            Failure::MalformedRequest,
        ),
        ("nonce twice", |m| m.replacen(",p=", ",r=abc,p=", 1), Failure::MalformedRequest),
        (
            "reordered",
            |m| m.replacen("c=biws,r=abc3rfcNHYJY1ZVvWVs7j", "r=abc3rfcNHYJY1ZVvWVs7j,c=biws", 1),
            Failure::MalformedRequest,
        ),
        ("something after the proof", |m| format!("{m},x=1"), Failure::MalformedRequest),
        ("an unsigned extension", |m| m.replacen(",p=", ",x=1,p=", 1), Failure::NotAuthorized),
        ("a mandatory extension", |m| m.replacen(",p=", ",m=1,p=", 1), Failure::MalformedRequest),
        ("1 MiB", |m| format!("{m}{}", "A".repeat(1 << 20)), Failure::MalformedRequest),
    ];
    for (name, tamper, expected) in cases {
        let result = run(
            SHA256,
            &terms(),
            ClientBinding::Unsupported,
            Credentials::Keys(keys(Hash::Sha256)),
            |turn, m| {
                if turn == 1 { tamper(&m) } else { m }
            },
        );
        assert_eq!(result, Err(*expected), "{name}");
    }
}

#[test]
fn an_own_authorization_identity_and_an_extension_are_accepted() {
    let mut exchange = Exchange::new(SHA256, terms());
    let step = exchange.message(Some(b"n,a=Juliet@capulet.example,n=juliet,r=abc,x=extension"));
    assert!(matches!(step, Step::LookUp { .. }), "{step:?}");
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let challenge = |name: &str, credentials: Option<Credentials>| {
        let mut exchange = Exchange::new(SHA256, terms());
        let mut step = exchange.message(Some(format!("n,,n={name},r=abc").as_bytes()));
        if let (Step::LookUp { .. }, Some(credentials)) = (&step, credentials) {
            step = exchange.credentials(credentials);
        }
        let Step::Challenge(challenge) = step else { panic!("{step:?}") };
        let mut client = Client::new(
            Hash::Sha256,
            ClientBinding::Unsupported,
            None,
            name,
            &Password::new("wrong"),
            "abc",
        )
        .expect("prepares");
        let response = client.challenge(&challenge).expect("is well formed");
        assert!(matches!(exchange.message(Some(&response)), Step::Fail(Failure::NotAuthorized)));
        text_of(&challenge).to_owned()
    };
    let real = challenge("juliet", Some(Credentials::Keys(keys(Hash::Sha256))));
    let unknown = challenge("nobody", Some(Credentials::Unknown));
    // A name no account can have goes the same way, without a look-up.
    let impossible = challenge("no body", None);
    assert_eq!(real.len(), unknown.len());
    assert_eq!(real.len(), impossible.len());
    assert_eq!(unknown, challenge("nobody", Some(Credentials::Unknown)), "the salt is stable");
    assert_ne!(unknown, impossible);
}

#[test]
fn a_suspended_account_is_told_only_after_it_proved_itself() {
    let suspended = || Credentials::Disabled(keys(Hash::Sha256));
    assert_eq!(
        run(SHA256, &terms(), ClientBinding::Unsupported, suspended(), |_, m| m),
        Err(Failure::AccountDisabled)
    );
    let wrong = |turn, m: String| {
        if turn == 1 {
            format!("{},p={}", m.split(",p=").next().unwrap_or_default(), BASE64.encode([1; 32]))
        } else {
            m
        }
    };
    assert_eq!(
        run(SHA256, &terms(), ClientBinding::Unsupported, suspended(), wrong),
        Err(Failure::NotAuthorized)
    );
}

#[test]
fn a_database_in_trouble_is_not_a_wrong_password() {
    let result =
        run(SHA256, &terms(), ClientBinding::Unsupported, Credentials::Unavailable, |_, m| m);
    assert_eq!(result, Err(Failure::TemporaryAuthFailure)); // B-113
    let other_hash = Credentials::Keys(keys(Hash::Sha1));
    assert_eq!(
        run(SHA256, &terms(), ClientBinding::Unsupported, other_hash, |_, m| m),
        Err(Failure::TemporaryAuthFailure)
    );
}

#[test]
fn a_client_does_not_follow_a_lying_server() {
    let cases = [
        ("r=abc,s=AAAA,i=4096", ClientError::Nonce),
        ("r=xyz123,s=AAAA,i=4096", ClientError::Nonce),
        ("r=abc123,s=,i=4096", ClientError::Malformed),
        ("r=abc123,s=!,i=4096", ClientError::Malformed),
        ("s=AAAA,r=abc123,i=4096", ClientError::Malformed),
        ("m=x,r=abc123,s=AAAA,i=4096", ClientError::Malformed),
        ("e=other-error", ClientError::Malformed),
        ("", ClientError::Malformed),
        // S-045.
        ("r=abc123,s=AAAA,i=0", ClientError::Iterations),
        ("r=abc123,s=AAAA,i=1", ClientError::Iterations),
        ("r=abc123,s=AAAA,i=-1", ClientError::Iterations),
        ("r=abc123,s=AAAA,i=4294967295", ClientError::Iterations),
        ("r=abc123,s=AAAA,i=9e9", ClientError::Iterations),
    ];
    let client = || {
        Client::new(
            Hash::Sha1,
            ClientBinding::Unsupported,
            None,
            "juliet",
            &Password::new("pencil"),
            "abc",
        )
        .expect("prepares")
    };
    for (challenge, expected) in cases {
        assert_eq!(client().challenge(challenge.as_bytes()).err(), Some(expected), "{challenge}");
    }
    let answered = || {
        let mut client = client();
        client.challenge(b"r=abc123,s=AAAA,i=4096,d=extension").expect("is well formed");
        client
    };
    assert_eq!(answered().success(b"v=AAAA"), Err(ClientError::Signature));
    assert_eq!(answered().success(b"e=invalid-proof"), Err(ClientError::Refused));
    assert_eq!(answered().success(b""), Err(ClientError::Malformed));
    assert_eq!(
        client().success(b"v=AAAA"),
        Err(ClientError::Malformed),
        "success before any proof"
    );
}

#[test]
fn names_with_commas_and_equals_signs_survive() {
    for name in ["a,b=c", "=2C", ",", "==", "plain"] {
        assert_eq!(unescape(&escape(name)).as_deref(), Some(name));
    }
}
