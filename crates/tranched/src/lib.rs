//! Tranche's daemon, one on each host: the only room that wires core, host and store, and that knows HTTP.
//!
//! [`engine`] carries things between them, [`looper`] turns it, [`rest`] asks it, [`daemon`] starts and ends all of it.

pub use tranche_engine as engine;

pub mod bell;
pub mod clock;
pub mod cluster;
pub mod config;
mod connections;
pub mod consoles;
pub mod daemon;
pub mod events;
pub mod gate;
pub mod handover;
pub mod history;
pub mod listen;
pub mod logs;
pub mod looper;
pub mod member;
pub mod metrics;
pub mod oidc;
pub mod openapi;
mod outward;
pub mod patience;
pub mod pulse;
pub mod rest;
pub mod traces;
pub mod uevents;
pub mod waiting;
pub mod web;
pub mod wiring;
pub mod witness;
