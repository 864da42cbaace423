//! Passwords: which are good enough, and what is kept of them.
//!
//! argon2id with 19 MiB and two passes, what OWASP advises at least (Password Storage Cheat Sheet). A hash carries its parameters, so
//! later versions can take more.

use argon2::password_hash::{PasswordHash, SaltString};
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::UserName;

use crate::secret::no_randomness;

/// The fewest characters of a password.
pub const PASSWORD_LEN_MIN: usize = 10;
/// The longest password, in bytes: longer ones only cost time.
const PASSWORD_BYTES_MAX: usize = 1_024;
/// The fewest characters besides the user's name.
const REST_LEN_MIN: usize = 8;
/// The length of a salt, in bytes.
const SALT_LEN: usize = 16;

/// Refuses a password that is easily guessed. Length is what counts (NIST SP 800-63B, section 5.1.1).
///
/// # Errors
/// The password is no good.
pub(crate) fn check(user: &UserName, password: &str) -> Result<(), Finding> {
    let weak = |why: &str| Err(say::password_weak(why, PASSWORD_LEN_MIN));
    if password.chars().count() < PASSWORD_LEN_MIN {
        return weak(&format!("has fewer than {PASSWORD_LEN_MIN} characters"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return weak(&format!("is longer than {PASSWORD_BYTES_MAX} bytes"));
    }
    let lower = password.to_lowercase();
    if lower.replace(&user.as_str().to_lowercase(), "").chars().count() < REST_LEN_MIN {
        return weak("is little more than the user's name");
    }
    let mut kinds: Vec<char> = lower.chars().collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() < 4 {
        return weak("has fewer than four different characters");
    }
    Ok(())
}

/// What is kept of a password. Takes tens of milliseconds and 19 MiB.
///
/// # Errors
/// The system has no randomness.
pub(crate) fn hash(password: &str) -> Result<String, Finding> {
    let mut salt = [0; SALT_LEN];
    SystemRandom::new().fill(&mut salt).map_err(|_| no_randomness())?;
    let salt = SaltString::encode_b64(&salt).map_err(|_| no_randomness())?;
    let hashed = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(|_| no_randomness())?;
    Ok(hashed.to_string())
}

/// Whether a password is the one that a hash was made of. Where there is no hash it takes as long, so that the time does not tell who
/// has a password.
pub(crate) fn is_right(password: &str, hash: Option<&str>) -> bool {
    // Of the empty password, which no user can have.
    const OF_NOBODY: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    if password.len() > PASSWORD_BYTES_MAX {
        return false;
    }
    let Ok(parsed) = PasswordHash::new(hash.unwrap_or(OF_NOBODY)) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && hash.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(password: &str) -> bool {
        check(&"alice".parse().unwrap(), password).is_err()
    }

    #[test]
    fn a_password_is_kept_as_a_salted_argon2id_hash() {
        let (one, other) = (hash("correct horse").unwrap(), hash("correct horse").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, other, "each has a salt of its own");
        assert!(is_right("correct horse", Some(&one)));
        assert!(!is_right("correct horsf", Some(&one)));
        assert!(!is_right("", Some(&one)));
    }

    #[test]
    fn nobody_logs_in_without_a_password_or_with_a_damaged_hash() {
        assert!(PasswordHash::new("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").is_ok());
        assert!(!is_right("", None));
        assert!(!is_right("anything at all", None));
        assert!(!is_right("anything at all", Some("plain text")));
    }

    #[test]
    fn passwords_that_are_easily_guessed_are_refused() {
        for weak in ["", "short", "aaaaaaaaaaaaaa", "abababababab", "alicealicealice", "Alice12345"] {
            assert!(refused(weak), "{weak:?} was taken");
        }
        assert!(refused(&"long enough ".repeat(100)));
        for good in ["correct horse battery", "kein Geheimnis mehr", "ünïcödé wörds", "x9$kQ2!mVb"] {
            assert!(!refused(good), "{good:?} was refused");
        }
    }
}
