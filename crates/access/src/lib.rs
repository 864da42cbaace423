//! Who may come in, and what was done by whom: users, tokens, sessions and the audit log, as records of the store, so that every
//! host of a cluster knows the same.
//!
//! | key | record |
//! | --- | --- |
//! | `access/user/NAME` | a user, with the hash of the password |
//! | `access/token/NAME` | a token, with the hash of its secret |
//! | `session/HASH` | a session of a browser, under the hash of its secret |
//! | `session/link/HASH` | a link that logs in once |
//! | `session/spent/HASH` | an attempt to log in through an issuer that has succeeded, so that it does so once |
//! | `audit/TIME-N` | something that was asked and changed or refused |
//!
//! No secret is stored, only what proves that somebody knows it: an argon2id hash of a password, the SHA-256 of a random secret of
//! 256 bits. Whoever reads the store can therefore not log in. What is momentary lies under `session`, which no backup has.
//!
//! Deliberately absent: HTTP, cookies, and what a role may do ([`tranche_core::access`]). All of this waits for the store; callers
//! that must not wait ask on a thread of their own. The time is a parameter.

mod accounts;
mod attempt;
mod audit;
mod before;
mod issuer;
mod password;
mod records;
mod secret;
mod throttle;

pub use accounts::{Accounts, Asker, LINK_LIFE_MS, SESSION_LIFE_MS};
pub use attempt::{ATTEMPT_LIFE_MS, Attempt};
pub use audit::{AUDIT_KEPT_MAX, Audit, cut, without_secrets};
pub use before::Deed;
pub use issuer::{Issuer, Person};
pub use password::PASSWORD_LEN_MIN;
pub use secret::csrf_of;
pub use throttle::{BY_ADDRESS, BY_REFUSAL, BY_USER, Patience, Throttle};
