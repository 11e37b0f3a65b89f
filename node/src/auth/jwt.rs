//! Auth: signed tokens (RFC 7519, in the compact form of RFC 7515), for OAUTHBEARER, and for PLAIN where clients know nothing else.
//!
//! A key is for one algorithm, and a token is tried with the keys of the algorithm it names, so that it cannot choose how it is believed
//! (RFC 8725 §3.1). Signatures are ring's business; the crates for JWT bring another cryptography along. Claims: `exp`, `nbf`, `iss`,
//! `aud` (RFC 7519 §4.1) and the one that names the account. Deliberately absent: encrypted tokens, keys fetched from somewhere,
//! revocation, `crit` (refused, as RFC 7515 §4.1.11 asks of who does not know it).

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::{Jwt as Settings, JwtAlgorithm};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ring::{hmac, signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use serde_json::{Map, Value};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use super::{Abilities, Backend, Said, account_named};

/// RFC 5480 §2.1.1; its parameters name the curve.
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

/// Milliseconds since the epoch.
pub type WallMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// [`Backend`] of tokens. Nobody is asked: whose they are stands in them.
#[derive(Clone)]
pub struct Jwt(Arc<Inner>);

struct Inner {
    settings: Settings,
    keys: Vec<Key>,
    domain: String,
    wall_ms: WallMs,
}

struct Key {
    algorithm: JwtAlgorithm,
    id: Option<String>,
    proof: Proof,
}

enum Proof {
    Shared(hmac::Key),
    Public(&'static dyn signature::VerificationAlgorithm, Vec<u8>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl Jwt {
    /// As configured, for the accounts of `domain`.
    ///
    /// # Errors
    /// In words: a key cannot be used.
    pub fn new(settings: &Settings, domain: &str, wall_ms: WallMs) -> Result<Self, String> {
        let read = |key: &config::JwtKey| {
            let proof = Proof::read(key.algorithm, &key.file)
                .map_err(|error| format!("{}: {error}", key.file.display()))?;
            Ok(Key { algorithm: key.algorithm, id: key.id.clone(), proof })
        };
        let keys = settings.keys.iter().map(read).collect::<Result<_, String>>()?;
        let (settings, domain) = (settings.clone(), domain.to_owned());
        Ok(Self(Arc::new(Inner { settings, keys, domain, wall_ms })))
    }
}

impl Proof {
    fn read(algorithm: JwtAlgorithm, file: &Path) -> Result<Proof, String> {
        use JwtAlgorithm::*;
        let shared = match algorithm {
            Hs256 => Some((hmac::HMAC_SHA256, 32)),
            Hs384 => Some((hmac::HMAC_SHA384, 48)),
            Hs512 => Some((hmac::HMAC_SHA512, 64)),
            _ => None,
        };
        if let Some((hash, bytes_min)) = shared {
            let secret = super::secret_of(file)?;
            // RFC 7518 §3.2.
            if secret.len() < bytes_min {
                return Err(format!("a secret for this has {bytes_min} bytes or more"));
            }
            return Ok(Proof::Shared(hmac::Key::new(hash, secret.as_bytes())));
        }
        let verification: &'static dyn signature::VerificationAlgorithm = match algorithm {
            Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            EdDsa | Hs256 | Hs384 | Hs512 => &signature::ED25519,
        };
        let pem = std::fs::read(file).map_err(|error| error.to_string())?;
        let (kind, bytes) = public_key(&pem)?;
        // id-rsaEncryption; id-ecPublicKey with its curve; id-Ed25519.
        let wanted = match algorithm {
            Es256 => "1.2.840.10045.2.1 1.2.840.10045.3.1.7",
            Es384 => "1.2.840.10045.2.1 1.3.132.0.34",
            EdDsa => "1.3.101.112",
            _ => "1.2.840.113549.1.1.1",
        };
        if kind == wanted {
            Ok(Proof::Public(verification, bytes))
        } else {
            Err(format!("a key of another kind than {} needs", algorithm.name()))
        }
    }

    fn holds(&self, message: &[u8], proof: &[u8]) -> bool {
        match self {
            Proof::Shared(key) => hmac::verify(key, message, proof).is_ok(),
            Proof::Public(algorithm, key) => {
                signature::UnparsedPublicKey::new(*algorithm, key).verify(message, proof).is_ok()
            }
        }
    }
}

/// What kind of key, and its bits, of a PEM public key or certificate.
fn public_key(pem: &[u8]) -> Result<(String, Vec<u8>), String> {
    let odd = || "neither a public key nor a certificate in PEM".to_owned();
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        let (_, key) = SubjectPublicKeyInfo::from_der(&key).map_err(|_| odd())?;
        return Ok(bits(&key));
    }
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| odd())?;
    let (_, certificate) = X509Certificate::from_der(&certificate).map_err(|_| odd())?;
    Ok(bits(certificate.public_key()))
}

fn bits(key: &SubjectPublicKeyInfo<'_>) -> (String, Vec<u8>) {
    let mut kind = key.algorithm.algorithm.to_id_string();
    let parameters = key.algorithm.parameters.as_ref().filter(|_| kind == EC_PUBLIC_KEY);
    if let Some(curve) = parameters.and_then(|curve| curve.as_oid().ok()) {
        kind = format!("{kind} {}", curve.to_id_string());
    }
    (kind, key.subject_public_key.data.to_vec())
}

impl Inner {
    /// Whose it is. `Unknown`: it is none of ours, or none at all.
    fn owner(&self, token: &str) -> Result<BareJid, Said> {
        let unknown = || Said::Unknown;
        let (message, proof) = token.rsplit_once('.').ok_or_else(unknown)?;
        let (header, claims) = message.split_once('.').ok_or_else(unknown)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header = decode(header).and_then(|bytes| serde_json::from_slice::<Header>(&bytes).ok());
        let (header, proof) = header.zip(decode(proof)).ok_or_else(unknown)?;
        if header.crit.is_some() {
            return Err(Said::Unknown);
        }
        let is_ours = self.keys.iter().any(|key| {
            key.algorithm.name() == header.alg
                && key.id.as_ref().is_none_or(|id| header.kid.as_ref() == Some(id))
                && key.proof.holds(message.as_bytes(), &proof)
        });
        if !is_ours {
            return Err(Said::Unknown);
        }
        // From here on it is for nobody else to say.
        let claims = decode(claims);
        let claims = claims.and_then(|bytes| serde_json::from_slice::<Map<_, _>>(&bytes).ok());
        let claims = claims.ok_or(Said::Wrong)?;
        self.check(&claims)?;
        let name = claims.get(&self.settings.account_claim).and_then(Value::as_str);
        name.and_then(|name| account_named(name, &self.domain)).ok_or(Said::Wrong)
    }

    /// A claim of the wrong type is worse than one that is missing: the token is refused.
    fn check(&self, claims: &Map<String, Value>) -> Result<(), Said> {
        let settings = &self.settings;
        let now = (self.wall_ms)() as f64 / 1000.0;
        let leeway = settings.leeway.as_secs_f64();
        let time = |claim: &str| match claims.get(claim) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Said::Wrong),
        };
        if time("nbf")?.is_some_and(|begins| now + leeway < begins) {
            return Err(Said::Wrong);
        }
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        if settings.issuer.as_deref().is_some_and(|issuer| text("iss") != Some(issuer)) {
            return Err(Said::Wrong);
        }
        let is_for = |audience: &Value| {
            audience.as_str().is_some_and(|name| settings.audiences.iter().any(|one| one == name))
        };
        let is_for_us = match claims.get("aud") {
            None => settings.audiences.is_empty(),
            Some(Value::Array(all)) => all.iter().any(is_for),
            Some(one) => is_for(one),
        };
        if !is_for_us {
            return Err(Said::Wrong);
        }
        match time("exp")? {
            None if settings.without_end => Ok(()),
            None => Err(Said::Wrong),
            Some(ends) if now >= ends + leeway => Err(Said::Expired),
            Some(_) => Ok(()),
        }
    }
}

impl Backend for Jwt {
    fn name(&self) -> &'static str {
        "jwt"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            tokens: true,
            tokens_as_passwords: self.0.settings.as_password,
            ..Abilities::default()
        }
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let said = match self.0.owner(password.expose()) {
            _ if !self.0.settings.as_password => Said::Unknown,
            Ok(owner) if owner == *account => Said::Right,
            Ok(_) => Said::Wrong,
            Err(said) => said,
        };
        std::future::ready(said).boxed()
    }

    fn token(&self, token: Password) -> BoxFuture<'static, Result<BareJid, Said>> {
        std::future::ready(self.0.owner(token.expose())).boxed()
    }
}

#[cfg(test)]
mod tests;
