//! The loops' bodies: what carries things between core, host and store.
//!
//! ```text
//! observe ──► plan ──► check ──► commit ──► act ──► observe …
//!   Hand             Desk                    Hand
//! ```
//!
//! What is decided is decided by [`tranche_core`]; what is done is done by the [`tranche_host::Host`]; what is remembered is
//! remembered by the store. This room only carries things between them, in an order that survives being killed at any
//! point: nothing is touched before what it is touched for is stored.
//!
//! [`Engine`] is both in turn, for a host that stands alone.
//!
//! Deliberately absent: retries (a later pass sees what is still due), threads of its own, clocks, and the network. So the
//! simulator runs the same bodies.

mod act;
pub mod cluster;
mod desk;
mod engine;
mod hand;
pub mod trail;
mod view;

pub use self::desk::{Applied, Decided, Desk, Ids, News, Rejected, Reported, Reports, Submitted};
pub use self::engine::Engine;
pub use self::hand::{Hand, Moved, PassReport};
pub use self::view::View;
