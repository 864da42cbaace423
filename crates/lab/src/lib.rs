//! Virtual GPU hosts for the demo, the tests and the benchmarks: a Debian 13 machine in QEMU with an IOMMU,
//! SR-IOV adapters as stand-ins for GPUs, libvirt, and nested virtualisation, on a machine that may have neither a
//! GPU nor hardware virtualisation. See [`Node`] first.
//!
//! What it deliberately does not do: it knows nothing of Tranche but in [`demo`], [`cluster`] and what uses them, which install the package in a
//! node exactly as on a real host. It needs no root once its packages are installed (`scripts/lib.sh`), leaves
//! nothing outside its cache and run directories, and opens no port but on loopback.

pub mod node;

pub mod accelerator;
pub mod cluster;
pub mod demo;
pub mod failover;
pub mod faults;
pub mod fence;
pub mod guest;
pub mod image;
pub mod network;
pub mod stamps;
pub mod travel;

mod cache;
mod command;
mod debian;
mod error;
mod progress;
mod qemu;
mod qmp;
mod ssh;

pub use error::Error;
pub use node::{Lifetime, Node, NodeOptions, Output};
pub use progress::Progress;
pub use ssh::quote;
