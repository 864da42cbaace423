//! Whether an ID token holds (OpenID Connect Core 1.0, section 3.1.3.7), and who it speaks of.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::core::{
    CoreIdToken, CoreIdTokenVerifier, CoreJwsSigningAlgorithm as Algorithm, CoreProviderMetadata,
};
use openidconnect::{
    ClaimsVerificationError as Error, ClientId, Nonce, SignatureVerificationError as SignatureError,
};
use serde_json::{Map, Value};
use tranche_access::Person;
use tranche_core::name::Timestamp;

use crate::config::OidcConfig;

/// By how much the clocks of issuer and host may differ, in seconds.
const SKEW_S: u64 = 60;
/// The longest identity (section 2: at most 255 ASCII characters), and the most groups that are looked at.
const SUBJECT_LEN_MAX: usize = 255;
const GROUPS_MAX: usize = 1_000;

/// Only signatures that the issuer alone can make: not `none`, and none whose key the client knows too.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RsaSsaPkcs1V15Sha256,
    Algorithm::RsaSsaPkcs1V15Sha384,
    Algorithm::RsaSsaPkcs1V15Sha512,
    Algorithm::RsaSsaPssSha256,
    Algorithm::RsaSsaPssSha384,
    Algorithm::RsaSsaPssSha512,
    Algorithm::EcdsaP256Sha256,
    Algorithm::EcdsaP384Sha384,
    Algorithm::EdDsa,
];

/// Why a token does not hold, as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doubt {
    /// No key that is known has signed it; the issuer may have a new one.
    Key(String),
    /// It says something else than it has to.
    Claim(String),
}

/// Whom a token of this issuer speaks of, if it holds.
///
/// # Errors
/// It does not hold.
pub(super) fn person(
    token: &CoreIdToken,
    metadata: &CoreProviderMetadata,
    config: &OidcConfig,
    nonce: &str,
    now: Timestamp,
) -> Result<Person, Doubt> {
    let now_s = now.0 / 1_000;
    let client = ClientId::new(config.client_id.clone());
    // For one without a secret: a signature that is made with the client's secret has nothing to be checked with.
    let verifier = CoreIdTokenVerifier::new_public_client(
        client.clone(),
        metadata.issuer().clone(),
        metadata.jwks().clone(),
    )
    .set_allowed_algs(ALGORITHMS)
    .set_time_fn(move || (UNIX_EPOCH + Duration::from_secs(now_s.saturating_sub(SKEW_S))).into());
    let claims = token.claims(&verifier, &Nonce::new(nonce.to_owned())).map_err(|error| doubt(&error))?;
    if claims.authorized_party().is_some_and(|party| *party != client) {
        return Err(claim("it was given to somebody else (azp)"));
    }
    let soon_s = i64::try_from(now_s + SKEW_S).unwrap_or(i64::MAX);
    if claims.issue_time().timestamp() > soon_s {
        return Err(claim("it was made in the future (iat)"));
    }
    // The same bytes that were signed.
    let all = payload(token).ok_or_else(|| claim("it cannot be read"))?;
    let begins_s = all.get("nbf").map(|nbf| nbf.as_f64().unwrap_or(f64::INFINITY));
    if begins_s.is_some_and(|begins_s| begins_s > soon_s as f64) {
        return Err(claim("it is not good yet (nbf)"));
    }
    let subject = claims.subject().as_str();
    if subject.is_empty() || subject.len() > SUBJECT_LEN_MAX || subject.chars().any(char::is_control) {
        return Err(claim("it names nobody (sub)"));
    }
    let text =
        |name: &str| all.get(name).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let name = text(&config.name_claim).or_else(|| text("email")).unwrap_or(subject).to_owned();
    let groups = groups(all.get(&config.groups_claim));
    Ok(Person { subject: subject.to_owned(), name, groups })
}

/// Several, or one.
fn groups(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(group)) => vec![group.clone()],
        Some(Value::Array(groups)) => {
            groups.iter().take(GROUPS_MAX).filter_map(|group| group.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

fn payload(token: &CoreIdToken) -> Option<Map<String, Value>> {
    let text = token.to_string();
    let bytes = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// In words of our own: what was found in the token stays out of logs.
fn doubt(error: &Error) -> Doubt {
    match error {
        Error::SignatureVerification(error) => match error {
            SignatureError::NoMatchingKey
            | SignatureError::InvalidKey(_)
            | SignatureError::CryptoError(_) => {
                Doubt::Key("none of the issuer's keys has signed it".to_owned())
            }
            SignatureError::NoSignature => claim("it is not signed"),
            SignatureError::DisallowedAlg(_) | SignatureError::UnsupportedAlg(_) => {
                claim("it is signed in a way that others could have signed it in, or that is not known (alg)")
            }
            _ => claim("its signature cannot be checked"),
        },
        Error::Expired(_) => claim("its time is over (exp)"),
        Error::InvalidAudience(_) => claim("it is meant for somebody else (aud)"),
        Error::InvalidIssuer(_) => claim("another issuer has made it (iss)"),
        Error::InvalidNonce(_) => claim("it belongs to another attempt to log in (nonce)"),
        _ => claim("it is of a kind that is not taken"),
    }
}

fn claim(why: &str) -> Doubt {
    Doubt::Claim(why.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_a_list_or_one_and_all_else_is_none() {
        assert_eq!(groups(Some(&json!(["a", 1, "b"]))), ["a", "b"]);
        assert_eq!(groups(Some(&json!("a"))), ["a"]);
        for none in [None, Some(json!({ "a": true })), Some(json!(1)), Some(json!(null))] {
            assert!(groups(none.as_ref()).is_empty());
        }
        assert_eq!(groups(Some(&json!(vec!["a"; GROUPS_MAX + 1]))).len(), GROUPS_MAX);
    }

    #[test]
    fn no_algorithm_is_taken_whose_key_others_have() {
        let shared = [Algorithm::None, Algorithm::HmacSha256, Algorithm::HmacSha384, Algorithm::HmacSha512];
        assert!(shared.iter().all(|algorithm| !ALGORITHMS.contains(algorithm)));
    }
}
