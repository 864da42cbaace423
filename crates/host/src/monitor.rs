//! What a GPU's driver tells of itself through its vendor's library: numbers, measurements, and signs of wear.
//!
//! A library keeps devices open while it is in use, and a GPU that is open cannot be reconfigured. So a monitor opens what
//! it needs for one look and closes it before it answers, and it is asked seldom. It may hang, as drivers of broken GPUs
//! do; whoever asks does that with a limit.

use std::collections::BTreeMap;
use std::fmt;

use tranche_core::inventory::{HealthState, PartitionTelemetry, Telemetry};
use tranche_core::name::PciAddress;
use uuid::Uuid;

/// A vendor's library.
pub trait Monitor: Send + Sync + fmt::Debug {
    /// The driver that it talks to: it is asked only while a GPU is bound to that.
    fn driver(&self) -> &str;

    /// Looks at all GPUs of the driver. A library that is not installed sees none.
    ///
    /// # Errors
    /// What the library says, in words.
    fn look(&self) -> Result<BTreeMap<PciAddress, Reading>, String>;

    /// Listens for faults of all GPUs of the driver, which keeps them open, until `stop` says so; it asks that every now and
    /// then. A library that tells none returns at once.
    ///
    /// # Errors
    /// What the library says, in words.
    fn listen(&self, _stop: &dyn Fn() -> bool, _hear: &dyn Fn(Fault)) -> Result<(), String> {
        Ok(())
    }
}

/// A fault of a GPU, as its driver numbers them in the kernel's log too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The GPU.
    pub gpu: PciAddress,
    /// The number.
    pub number: u32,
}

/// What a look at one GPU brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The number that tells it from others, as the driver says it elsewhere too.
    pub unique_id: Option<String>,
    /// Measurements.
    pub telemetry: Telemetry,
    /// What speaks against it.
    pub signs: Vec<(HealthState, String)>,
    /// Whether its driver says that it needs nothing any more, whatever faults it had.
    pub recovered: bool,
    /// Measurements of its partitions that are in use.
    pub partitions: Vec<PartitionReading>,
    /// What its partitions can be; none where the library does not say, or not now.
    pub types: Vec<PartitionType>,
}

/// A type that partitions of a GPU can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionType {
    /// The driver's number for it.
    pub id: u32,
    /// Its name without the model: `4Q`.
    pub profile: String,
    /// How many of them the GPU can have, at least one.
    pub max: u16,
    /// What each takes of the GPU's memory, in MiB.
    pub memory_mib: u64,
}

/// What a look at one partition brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionReading {
    /// How the library knows it.
    pub user: User,
    /// Measurements.
    pub telemetry: PartitionTelemetry,
}

/// How a library tells one partition from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// By its mediated device.
    Mdev(Uuid),
    /// By the VM that uses it, as the hypervisor numbers it; not by the virtual function that the VM has.
    Vm(Uuid),
}
