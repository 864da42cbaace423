//! Random secrets, and what is kept of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use tranche_core::diagnostics::finding;
use tranche_core::finding::{Code, Finding, Severity, Subject};

/// The length of a secret, in bytes.
const LEN: usize = 32;

/// A secret that nobody can guess, as text for URLs, headers and cookies.
///
/// # Errors
/// The system has no randomness.
pub(crate) fn new() -> Result<String, Finding> {
    let mut bytes = [0; LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| no_randomness())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// What is kept of a secret. It is random, so a plain hash suffices.
pub(crate) fn hash(secret: &str) -> String {
    hex(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
}

/// Whether two hashes are the same. How long that takes tells nothing that helps: neither can be chosen.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// What a form of a session has to carry, so that no other site can send it: it follows from the session's secret, which it does not
/// tell.
pub fn csrf_of(session: &str) -> String {
    hash(&format!("csrf {session}"))
}

pub(crate) fn no_randomness() -> Finding {
    let message = "The system gives no randomness, so no secret can be made.";
    let hint = "Try again; 'journalctl -k' may tell what is wrong.";
    finding(Code::Busy, Severity::Error, Subject::Installation, message, hint)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_differ_and_can_stand_in_a_url_and_a_cookie() {
        let (one, other) = (new().unwrap(), new().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), 43);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
    }

    #[test]
    fn what_forms_carry_tells_neither_the_session_nor_what_is_kept_of_it() {
        let session = new().unwrap();
        assert_ne!(csrf_of(&session), hash(&session));
        assert_ne!(csrf_of(&session), csrf_of(&new().unwrap()));
    }

    #[test]
    fn hashes_are_the_same_only_if_all_of_them_is() {
        assert!(is_same(&hash("a"), &hash("a")));
        assert!(!is_same(&hash("a"), &hash("b")));
        assert!(!is_same("abc", "ab"));
    }
}
