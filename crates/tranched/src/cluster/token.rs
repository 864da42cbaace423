//! Tokens that open another machine's door, in one line of text: to become a member of its cluster, or to send it a VM.
//!
//! `TRANCHE1.` or `TRANCHEVM1.` and then, in base64url: the addresses of machines behind that door, the fingerprint of the cluster's
//! authority or of the machine's own certificate, a secret, and a checksum. The secret is sent only to one that proves to be certified by that
//! authority, or to have that certificate, so that whoever is between the two learns nothing. The store has only the secret's hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use tranche_core::name::{HostName, Timestamp};

use super::pki::hex;

/// The length of a secret and of a fingerprint, in bytes.
const LEN: usize = 32;
/// The length of what tells a token that was not copied as a whole, in bytes.
const CHECKSUM_LEN: usize = 4;
/// The longest token that is read, in bytes.
const LEN_MAX: usize = 4_096;
/// The most addresses in a token.
const ADDRESSES_MAX: usize = 8;

/// How long after its end a machine that has used a token may ask again, because the answer was lost, in milliseconds.
const ASK_AGAIN_MS: u64 = 10 * 60 * 1_000;

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// A cluster, to a new member.
    Cluster,
    /// A host that stands alone, to one VM.
    Host,
}

impl Opens {
    fn prefix(self) -> &'static str {
        match self {
            Self::Cluster => "TRANCHE1.",
            Self::Host => "TRANCHEVM1.",
        }
    }
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it opens.
    pub opens: Opens,
    /// Where to ask, as `host:port`.
    pub addresses: Vec<String>,
    /// The SHA-256 of the authority's certificate, or of the host's own.
    pub authority: [u8; LEN],
    /// What opens the door.
    pub secret: [u8; LEN],
}

/// The secret stays out of logs.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What the store knows of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// When it is over.
    pub until: Timestamp,
    /// Whom alone it lets in: the one that takes a dead machine's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<HostName>,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<TokenUse>,
}

/// Who used a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The host.
    pub host: HostName,
    /// The fingerprint of its key: the same machine may ask again, because the answer may have been lost.
    pub key: String,
}

impl TokenRecord {
    /// Why this machine may not use it; nothing if it may.
    pub fn refusal(&self, user: &TokenUse, now: Timestamp) -> Option<&'static str> {
        match &self.used {
            Some(used) if used != user => Some("it was used already"),
            None if self.only.as_ref().is_some_and(|only| only != &user.host) => {
                Some("it is for a machine of another name")
            }
            _ if self.is_over(now) => Some("its time is over"),
            _ => None,
        }
    }

    /// Whether it opens nothing any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        let more_ms = if self.used.is_some() { ASK_AGAIN_MS } else { 0 };
        now.0 >= self.until.0 + more_ms
    }
}

/// A new secret.
///
/// # Errors
/// The system has no randomness.
pub fn new_secret() -> Result<[u8; LEN], ring::error::Unspecified> {
    let mut secret = [0; LEN];
    SystemRandom::new().fill(&mut secret)?;
    Ok(secret)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&digest::digest(&digest::SHA256, bytes).as_ref()[..CHECKSUM_LEN]);
    sum
}

/// What the store calls a token by.
pub fn hash(secret: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, secret).as_ref())
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [self.authority, self.secret].concat();
        bytes.extend(self.addresses.join(",").as_bytes());
        bytes.extend(checksum(&bytes));
        write!(f, "{}{}", self.opens.prefix(), URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl Token {
    /// The token that a text is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(opens: Opens, text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let coded = text.strip_prefix(opens.prefix()).ok_or(match opens {
            Opens::Cluster => "it does not begin with TRANCHE1.",
            Opens::Host => "it does not begin with TRANCHEVM1.",
        })?;
        if coded.len() > LEN_MAX {
            return Err("it is too long");
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded).map_err(|_| "it is damaged; copy all of it")?;
        let too_short = "a part of it is missing; copy all of it";
        let (told, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(too_short)?;
        if checksum(told) != *sum {
            return Err(too_short);
        }
        let (authority, rest) = told.split_first_chunk::<LEN>().ok_or(too_short)?;
        let (secret, rest) = rest.split_first_chunk::<LEN>().ok_or(too_short)?;
        let addresses = std::str::from_utf8(rest).map_err(|_| "it is damaged; copy all of it")?;
        let addresses: Vec<String> =
            addresses.split(',').filter(|address| !address.is_empty()).map(str::to_owned).collect();
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(too_short);
        }
        Ok(Self { opens, addresses, authority: *authority, secret: *secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let addresses = ["10.0.0.1:7443", "[fe80::1]:7443"].map(str::to_owned).to_vec();
        Token { opens: Opens::Cluster, addresses, authority: [7; LEN], secret: [9; LEN] }
    }

    #[test]
    fn a_token_is_one_line_and_reads_back() {
        let text = token().to_string();
        assert!(text.starts_with("TRANCHE1.") && !text.contains(char::is_whitespace));
        assert_eq!(Token::read(Opens::Cluster, &text), Ok(token()));
        assert_eq!(Token::read(Opens::Cluster, &format!(" {text}\n")), Ok(token()), "as it is copied");
        assert!(Token::read(Opens::Host, &text).is_err(), "it opens something else");
        assert!(!format!("{:?}", token()).contains('9'), "logs never show the secret");
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        let text = token().to_string();
        for wrong in ["", "TRANCHE2.aaaa", &text[..60], &text[..9 + 87], &format!("{text}!")] {
            assert!(Token::read(Opens::Cluster, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_serves_one_machine_within_its_time_and_that_one_again() {
        let user = |host: &str, key: &str| TokenUse { host: host.parse().unwrap(), key: key.to_owned() };
        let fresh = TokenRecord { until: Timestamp(100), only: None, used: None };
        assert_eq!(fresh.refusal(&user("a", "k"), Timestamp(99)), None);
        assert!(fresh.refusal(&user("a", "k"), Timestamp(100)).is_some());
        let bound = TokenRecord { only: Some("a".parse().unwrap()), ..fresh.clone() };
        assert_eq!(bound.refusal(&user("a", "k"), Timestamp(99)), None);
        assert!(bound.refusal(&user("b", "k"), Timestamp(99)).is_some());
        let used = TokenRecord { used: Some(user("a", "k")), ..fresh };
        let again = |at| used.refusal(&user("a", "k"), Timestamp(at));
        assert_eq!(again(100 + ASK_AGAIN_MS - 1), None, "its answer may have been lost");
        assert!(again(100 + ASK_AGAIN_MS).is_some(), "but not for ever");
        assert!(used.refusal(&user("b", "k"), Timestamp(1)).is_some());
        assert!(used.refusal(&user("a", "other"), Timestamp(1)).is_some());
    }
}
