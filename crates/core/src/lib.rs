//! Tranche's nouns and all its decisions.
//!
//! Three kinds of data live here and never mix: [`spec`] is what people asked for, [`inventory`] is what hosts
//! report, [`plan`] is what was decided. [`change`] admits or refuses a wish, [`planner`] decides, [`step`] says what
//! a host does next, [`check`] knows the invariants and trusts nobody.
//!
//! Deliberately absent: IO, clocks, randomness, threads, async, logging. Time and ids are parameters. The same input
//! gives the same plan, byte for byte, so every collection here is ordered.

pub mod access;
pub mod bookings;
pub mod capacity;
pub mod change;
pub mod check;
pub mod declare;
pub mod diagnostics;
pub mod effect;
pub mod falls;
pub mod fence;
pub mod finding;
pub mod guest;
pub mod handover;
pub mod history;
pub mod homogeneity;
pub mod identity;
pub mod inventory;
pub mod journey;
pub mod label;
pub mod liveness;
pub mod map;
pub mod membership;
pub mod migration;
pub mod mixed;
pub mod mode;
pub mod name;
pub mod operation;
pub mod placement;
pub mod plan;
pub mod planner;
pub mod reload;
pub mod rest;
pub mod shared;
pub mod spec;
pub mod step;
pub mod steps;
pub mod upgrade;
pub mod whereabouts;
pub mod why;
