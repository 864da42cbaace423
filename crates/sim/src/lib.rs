//! A whole cluster in virtual time.
//!
//! The real core, the real loops ([`tranche_engine`]) and the real fencing logic run here, over hosts, a store, a network and
//! clocks that are simulated and can fail in every way that is known to hurt. Whatever happens is drawn from one seed, so
//! a failure replays exactly. After each write to the store and each step of a host, the invariants are checked ([`judge`]).
//!
//! [`run`] plays a scenario that somebody wrote; [`fuzz`] makes one up.
//!
//! ```text
//! events ──► a loop of a node takes its turn ──► asks the store ──► (others take theirs meanwhile) ──► goes on
//! ```
//!
//! A call of the store takes virtual time, and while it does, everybody else goes on: so turns of different nodes interleave
//! at each call, as they do in life, although the loops are plain functions.
//!
//! Deliberately absent: wall clocks, threads, and everything below a host's trait. Kernels and libvirt are the lab's business.

mod befall;
mod chance;
mod departure;
mod event;
mod fencing;
mod judge;
mod machine;
mod membership;
mod model;
mod network;
mod node;
mod power;
mod quorum;
mod report;
mod scenario;
mod setup;
mod store;
mod story;
mod transfer;
mod trouble;
mod turns;
mod valid;
mod world;

pub use self::event::{Event, TimedEvent};
pub use self::judge::Violation;
pub use self::report::{Happened, Record, Report};
pub use self::scenario::{Expectation, HostSetup, Scenario, VmSetup};
pub use self::story::{Planted, fuzz, fuzz_with, story};
pub use self::valid::ScenarioError;
pub use self::world::run;
