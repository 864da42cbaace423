//! The host room's tests: everything runs over the fake kernel or over a captured tree.

mod board;
mod captured;
mod catalogue;
mod conformance;
mod fence;
mod fence_real;
mod gim;
mod hangs;
mod health;
mod inspect;
mod library;
mod life;
mod machine;
mod migration;
mod modules;
mod nvidia;
mod nvidia_machine;
mod nvml;
mod passthrough;
mod simulated;
mod steps;
mod trees;
mod watchdog;
mod xe;
