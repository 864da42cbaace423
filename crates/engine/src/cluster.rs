//! A member of a cluster: its heartbeat, its host, and, for one of them, the lead.
//!
//! ```text
//! Heart   says each second that its host lives, and knows how long its watchdog may be fed
//! Member  reads its part of the plan ─► looks ─► reports ─► acts ─► …
//! Leader  hears heartbeats ─► …; leads ─► decides for all by what it heard ─► …
//! ```
//!
//! The three share nothing but the store, so each may be slow, hang or die without the others. What a host does is in step
//! with what is decided for it, as it is on a host that stands alone: see [`tranche_core::planner`].

mod ear;
mod heart;
mod leader;
mod member;
mod trouble;

pub use self::heart::{Heart, Rhythm, beat_every_ms};
pub use self::leader::{Fenced, Fencer, Leader, Led, turn_every_ms};
pub(crate) use self::member::REPORT_EVERY_MS;
pub use self::member::{Dog, Member, Noted, Tending};
