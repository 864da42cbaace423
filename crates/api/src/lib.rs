//! The words on the wire, spoken by the daemon and the command alike.
//!
//! A request carries the core's own nouns; an answer is either such a noun or a *view*: spec, plan and inventory joined
//! into one flat row for people. A refusal is a [`Problem`]. Everything here is pure: no IO, no HTTP library, no clock.
//!
//! Deliberately absent: routes (the daemon has them, and checks in `openapi/v1.json`) and decisions. A view says what
//! [`tranche_core`] decided and what hosts report; it never decides anew.

pub mod access;
pub mod answer;
pub mod catalogue;
pub mod cluster;
pub mod history;
pub mod limits;
pub mod narrow;
pub mod problem;
pub mod request;
pub mod secret;
pub mod view;

pub use problem::Problem;

/// Where the daemon listens unless its configuration says otherwise.
pub const SOCKET_PATH: &str = "/run/tranche/tranche.sock";

/// What every path of this version of the API begins with.
pub const BASE: &str = "/v1";
