//! Tranche's daemon, one on each host.

pub mod engine;
