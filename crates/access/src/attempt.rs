//! An attempt to log in through an issuer: what ties an answer of the issuer to the browser that asked for it.
//!
//! The browser keeps a random secret, and all that the issuer is told follows from it without telling it: the state, which comes back
//! in the address, the nonce, which comes back in what the issuer signed, and the verifier of the code (PKCE, RFC 7636). So whoever
//! begins an attempt leaves nothing behind on the host, any host of a cluster can finish it, and nobody who saw the state can.
//!
//! Deliberately absent: that it succeeds once. That is for [`crate::Accounts::begin_vouched`] to see to.

use std::fmt;

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::Timestamp;

use crate::secret;

/// How long an attempt may take, in milliseconds.
pub const ATTEMPT_LIFE_MS: u64 = 10 * 60 * 1_000;
/// By how much the clocks of two hosts may differ, in milliseconds: one may finish what another one began.
const SKEW_MS: u64 = 60_000;
/// The longest text that is looked at: a time, a point and a secret.
const TEXT_LEN_MAX: usize = 80;

/// An attempt.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    text: String,
    begun_at: Timestamp,
}

/// It stays out of logs.
impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempt(..)")
    }
}

impl Attempt {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn begin(now: Timestamp) -> Result<Self, Finding> {
        Ok(Self { text: format!("{}.{}", now.0, secret::new()?), begun_at: now })
    }

    /// The one that a browser kept.
    ///
    /// # Errors
    /// It is none, or took too long.
    pub fn read(text: &str, now: Timestamp) -> Result<Self, Finding> {
        let begun_at = text.split_once('.').and_then(|(begun_at, _)| begun_at.parse().ok()).map(Timestamp);
        let begun_at = begun_at.filter(|_| text.len() <= TEXT_LEN_MAX).ok_or_else(say::login_stale)?;
        let is_ahead = begun_at.0 > now.0.saturating_add(SKEW_MS);
        if is_ahead || now.ms_since(begun_at) >= ATTEMPT_LIFE_MS {
            return Err(say::login_stale());
        }
        Ok(Self { text: text.to_owned(), begun_at })
    }

    /// What the browser keeps.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it has ended for every host.
    pub(crate) fn expires_at(&self) -> Timestamp {
        Timestamp(self.begun_at.0.saturating_add(ATTEMPT_LIFE_MS + SKEW_MS))
    }

    /// What comes back in the address.
    pub fn state(&self) -> String {
        self.derived("state")
    }

    /// Whether this came back.
    pub fn is_state(&self, shown: &str) -> bool {
        secret::is_same(&self.state(), shown)
    }

    /// What comes back in what the issuer signed.
    pub fn nonce(&self) -> String {
        self.derived("nonce")
    }

    /// What proves that the code is fetched by whom it was asked for.
    pub fn verifier(&self) -> String {
        self.derived("verifier")
    }

    /// What is remembered of it once it has succeeded.
    pub(crate) fn spent(&self) -> String {
        self.derived("spent")
    }

    /// Bound to all of the text: a time that somebody changed belongs to no answer.
    fn derived(&self, what: &str) -> String {
        secret::hash(&format!("{what} {}", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn what_the_issuer_is_told_belongs_to_one_attempt_and_tells_nothing_of_the_rest() {
        let (one, other) = (Attempt::begin(NOW).unwrap(), Attempt::begin(NOW).unwrap());
        let told = [one.state(), one.nonce(), one.verifier(), one.spent(), other.state(), other.nonce()];
        for (index, text) in told.iter().enumerate() {
            assert!(!told[..index].contains(text) && !text.contains(&one.text) && text.len() == 64);
        }
        assert!(one.is_state(&one.state()) && !one.is_state(&other.state()) && !one.is_state(""));
    }

    #[test]
    fn a_browser_brings_back_the_attempt_that_it_was_given_within_its_time() {
        let begun = Attempt::begin(NOW).unwrap();
        let read = |at| Attempt::read(begun.text(), Timestamp(at));
        for at in [NOW.0, NOW.0 + ATTEMPT_LIFE_MS - 1, NOW.0 - SKEW_MS] {
            assert_eq!(read(at).unwrap(), begun, "{at}");
        }
        for at in [NOW.0 + ATTEMPT_LIFE_MS, NOW.0 - SKEW_MS - 1] {
            assert_eq!(read(at).unwrap_err(), say::login_stale(), "{at}");
        }
    }

    #[test]
    fn an_attempt_that_somebody_made_younger_is_another_one() {
        let begun = Attempt::begin(NOW).unwrap();
        let later = Timestamp(NOW.0 + 2 * ATTEMPT_LIFE_MS);
        let younger = begun.text().replace(&NOW.0.to_string(), &later.0.to_string());
        assert!(!Attempt::read(&younger, later).unwrap().is_state(&begun.state()));
    }

    #[test]
    fn a_text_that_is_no_attempt_is_none() {
        let long = format!("{}.{}", NOW.0, "a".repeat(TEXT_LEN_MAX));
        for text in ["", ".", "abc", "x.abc", "-1.abc", &long] {
            assert_eq!(Attempt::read(text, NOW).unwrap_err(), say::login_stale(), "{text:?}");
        }
    }
}
