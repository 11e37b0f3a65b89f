//! Tests of tokens: signed here, with keys made here, and one of RFC 7515.

use std::time::Duration;

use config::JwtKey;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use ring::rand::SystemRandom;
use serde_json::json;

use super::*;

const NOW_S: u64 = 1_700_000_000;
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn key(algorithm: JwtAlgorithm, dir: &Path, content: &str, id: Option<&str>) -> JwtKey {
    let file = dir.join(format!("{}-{}", algorithm.name(), id.unwrap_or("any")));
    std::fs::write(&file, content).expect("written");
    JwtKey { algorithm, file, id: id.map(str::to_owned) }
}

fn settings(keys: Vec<JwtKey>) -> Settings {
    Settings {
        keys,
        issuer: None,
        audiences: Vec::new(),
        account_claim: "sub".into(),
        leeway: Duration::from_secs(30),
        without_end: false,
        as_password: true,
    }
}

fn backend(settings: &Settings) -> Jwt {
    Jwt::new(settings, "capulet.example", Arc::new(|| NOW_S * 1000)).expect("usable")
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A token with that header, signed with the shared secret.
fn shared(header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let proof =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(proof))
}

fn good() -> Value {
    json!({"sub": "juliet", "exp": NOW_S + 60})
}

fn with(more: Value) -> Value {
    let mut claims = good();
    let all = claims.as_object_mut().expect("an object");
    for (key, value) in more.as_object().expect("an object") {
        match value {
            Value::Null => all.remove(key),
            value => all.insert(key.clone(), value.clone()),
        };
    }
    claims
}

fn juliet() -> BareJid {
    BareJid::parse("juliet@capulet.example").expect("a JID")
}

#[test]
fn claims_say_whose_a_token_is_and_how_long() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = || vec![key(JwtAlgorithm::Hs256, dir.path(), &format!("{SECRET}\n"), None)];
    let plain = settings(key());
    let strict = Settings {
        issuer: Some("https://login.example".into()),
        audiences: vec!["chat".into(), "other".into()],
        ..settings(key())
    };
    let named = Settings { account_claim: "jid".into(), without_end: true, ..settings(key()) };
    let wrong = Err(Said::Wrong);
    let expired = Err(Said::Expired);
    let iss = "https://login.example";
    for (settings, claims, expected) in [
        (&plain, good(), Ok(juliet())),
        (&plain, with(json!({"sub": "JULIET@capulet.example"})), Ok(juliet())),
        (&plain, with(json!({"sub": "juliet@montague.example"})), wrong.clone()),
        (&plain, with(json!({"sub": "a b"})), wrong.clone()),
        (&plain, with(json!({"sub": 7})), wrong.clone()),
        (&plain, with(json!({"sub": null})), wrong.clone()),
        (&plain, with(json!({"exp": NOW_S - 29})), Ok(juliet())),
        (&plain, with(json!({"exp": NOW_S - 30})), expired.clone()),
        (&plain, with(json!({"exp": null})), wrong.clone()),
        (&plain, with(json!({"exp": "never"})), wrong.clone()),
        (&plain, with(json!({"nbf": NOW_S + 29})), Ok(juliet())),
        (&plain, with(json!({"nbf": NOW_S + 31})), wrong.clone()),
        (&plain, with(json!({"nbf": true})), wrong.clone()),
        (&plain, with(json!({"aud": "somebody"})), wrong.clone()),
        (&strict, with(json!({"iss": iss, "aud": "chat"})), Ok(juliet())),
        (&strict, with(json!({"iss": iss, "aud": ["x", "other"]})), Ok(juliet())),
        (&strict, with(json!({"iss": iss, "aud": ["x", 7]})), wrong.clone()),
        (&strict, with(json!({"iss": iss})), wrong.clone()),
        (&strict, with(json!({"iss": "https://elsewhere", "aud": "chat"})), wrong.clone()),
        (&strict, with(json!({"aud": "chat"})), wrong.clone()),
        // What has ended, and is for somebody else, is not told that it has ended.
        (&strict, with(json!({"exp": 1, "iss": iss, "aud": "x"})), wrong.clone()),
        (&named, json!({"jid": "juliet@capulet.example"}), Ok(juliet())),
        (&named, json!({"jid": "juliet@capulet.example", "exp": 1}), expired),
        (&named, json!({"sub": "juliet"}), wrong.clone()),
        (&plain, json!(["juliet"]), wrong),
    ] {
        let token = shared(&json!({"alg": "HS256", "typ": "JWT"}), &claims);
        assert_eq!(backend(settings).0.owner(&token), expected, "{claims}");
    }
}

#[test]
fn a_token_cannot_choose_how_it_is_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let public = pair.public_key_pem();
    let keys = vec![
        key(JwtAlgorithm::Hs256, dir.path(), SECRET, Some("one")),
        key(JwtAlgorithm::Es256, dir.path(), &public, None),
    ];
    let jwt = backend(&settings(keys));
    let is_believed = |token: &str| jwt.0.owner(token).is_ok();
    let right = json!({"alg": "HS256", "kid": "one"});
    assert!(is_believed(&shared(&right, &good())));
    for header in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "kid": "two"}),
        json!({"alg": "HS512", "kid": "one"}),
        json!({"alg": "ES256", "kid": "one"}),
        json!({"alg": "none", "kid": "one"}),
        json!({"alg": "HS256", "kid": "one", "crit": ["exp"]}),
        json!({"kid": "one"}),
    ] {
        assert!(!is_believed(&shared(&header, &good())), "{header}");
    }
    // Signed with the public key, as if it were a secret.
    let message = format!("{}.{}", part(&json!({"alg": "HS256"})), part(&good()));
    let proof =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), message.as_bytes());
    assert!(!is_believed(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(proof))));
    let token = shared(&right, &good());
    let (message, proof) = token.rsplit_once('.').expect("a proof");
    let altered = format!("{}.{}", part(&right), part(&with(json!({"sub": "nurse"}))));
    for token in [
        String::new(),
        "..".into(),
        "a.b.c".into(),
        message.to_owned(),
        format!("{message}."),
        format!("{altered}.{proof}"),
        format!("{token}.x"),
        format!("{token}="),
    ] {
        assert_eq!(jwt.0.owner(&token), Err(Said::Unknown), "{token}");
    }
}

#[test]
fn every_kind_of_public_key_verifies_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let random = SystemRandom::new();
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let ed = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let ecdsa = |algorithm: &'static signature::EcdsaSigningAlgorithm, pair: &KeyPair, m: &[u8]| {
        let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, &pair.serialize_der(), &random);
        pair.expect("a pair").sign(&random, m).expect("signs").as_ref().to_vec()
    };
    let certificate = rcgen::CertificateParams::new(vec!["login.example".into()])
        .and_then(|parameters| parameters.self_signed(&p256))
        .expect("a certificate")
        .pem();
    let es256 = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let es384 = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    for (algorithm, pem, sign) in [
        (
            JwtAlgorithm::Es256,
            p256.public_key_pem(),
            &(|m: &[u8]| ecdsa(es256, &p256, m)) as &dyn Fn(&[u8]) -> Vec<u8>,
        ),
        (JwtAlgorithm::Es256, certificate, &|m: &[u8]| ecdsa(es256, &p256, m)),
        (JwtAlgorithm::Es384, p384.public_key_pem(), &|m: &[u8]| ecdsa(es384, &p384, m)),
        (JwtAlgorithm::EdDsa, ed.public_key_pem(), &|m: &[u8]| {
            let pair = signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&ed.serialize_der());
            pair.expect("a pair").sign(m).as_ref().to_vec()
        }),
    ] {
        let jwt = backend(&settings(vec![key(algorithm, dir.path(), &pem, None)]));
        let message = format!("{}.{}", part(&json!({"alg": algorithm.name()})), part(&good()));
        let proof = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        assert_eq!(jwt.0.owner(&format!("{message}.{proof}")), Ok(juliet()));
        let other = format!("{}.{}", part(&json!({"alg": algorithm.name()})), part(&json!({})));
        assert_eq!(jwt.0.owner(&format!("{other}.{proof}")), Err(Said::Unknown));
    }
    for (algorithm, pem) in [
        (JwtAlgorithm::Es384, p256.public_key_pem()),
        (JwtAlgorithm::Rs256, ed.public_key_pem()),
        (JwtAlgorithm::EdDsa, p384.public_key_pem()),
        (JwtAlgorithm::Es256, "nonsense".into()),
        (JwtAlgorithm::Hs256, "too short".into()),
    ] {
        let settings = settings(vec![key(algorithm, dir.path(), &pem, None)]);
        let refused = Jwt::new(&settings, "capulet.example", Arc::new(|| 0));
        assert!(refused.is_err(), "{} {pem}", algorithm.name());
    }
}

/// RFC 7515 §A.2: an RS256 signature and its key.
#[test]
fn the_example_of_the_specification_is_believed() {
    const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let n = URL_SAFE_NO_PAD.decode(N).expect("base64");
    // RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }, in a SubjectPublicKeyInfo.
    let tagged = |tag: u8, content: &[u8]| {
        let mut out = vec![tag];
        match content.len() {
            short @ ..128 => out.push(short as u8),
            long => out.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        out.extend_from_slice(content);
        out
    };
    let key = [tagged(2, &[&[0], &n[..]].concat()), tagged(2, &[1, 0, 1])].concat();
    let kind = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let bits = tagged(3, &[&[0], &tagged(0x30, &key)[..]].concat());
    let info = tagged(0x30, &[tagged(0x30, &kind), bits].concat());
    let pem = base64::engine::general_purpose::STANDARD.encode(info);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n");
    let dir = tempfile::tempdir().expect("a directory");
    let keys = vec![self::key(JwtAlgorithm::Rs256, dir.path(), &pem, None)];
    let settings = Settings { account_claim: "iss".into(), ..settings(keys) };
    let at = |now_s: u64| {
        let jwt = Jwt::new(&settings, "capulet.example", Arc::new(move || now_s * 1000));
        jwt.expect("usable").0.owner(TOKEN)
    };
    assert_eq!(at(1_300_819_380), Ok(BareJid::parse("joe@capulet.example").expect("a JID")));
    assert_eq!(at(NOW_S), Err(Said::Expired));
}

#[tokio::test]
async fn a_token_may_be_sent_as_a_password_of_its_owner() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = settings(vec![key(JwtAlgorithm::Hs256, dir.path(), SECRET, None)]);
    let token = shared(&json!({"alg": "HS256"}), &good());
    let says = async |settings: &Settings, name: &str, password: &str| {
        let account = BareJid::parse(&format!("{name}@capulet.example")).expect("a JID");
        backend(settings).password(&account, Password::new(password)).await
    };
    assert_eq!(says(&settings, "juliet", &token).await, Said::Right);
    assert_eq!(says(&settings, "nurse", &token).await, Said::Wrong);
    assert_eq!(says(&settings, "juliet", "r0m30").await, Said::Unknown);
    let refusing = Settings { as_password: false, ..settings };
    assert_eq!(says(&refusing, "juliet", &token).await, Said::Unknown);
}
