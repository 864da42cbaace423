//! How GPUs fare, and what their drivers measure.

use serde::{Deserialize, Serialize};

/// How a GPU fares, by what the bus, the kernel and its driver say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// What speaks for it, each a sentence without its full stop; empty when all is well.
    pub reasons: Vec<String>,
}

impl Health {
    /// Whether nothing speaks against it.
    pub fn is_good(&self) -> bool {
        self.state == HealthState::Good && self.reasons.is_empty()
    }

    /// Adds a sign: the worst verdict stands, and each sign is named.
    pub fn add(&mut self, state: HealthState, reason: impl Into<String>) {
        self.state = self.state.max(state);
        self.reasons.push(reason.into());
    }
}

/// The verdict on a GPU. From the second on it takes no new VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Nothing speaks against it.
    #[default]
    Good,
    /// It works, and has failed in a way that will come again.
    Sick,
    /// It works again after a reset.
    NeedsReset,
    /// It works again after the host was restarted, if at all.
    NeedsReboot,
}

/// What a GPU's driver measures and remembers. It is some seconds old: asking keeps the GPU busy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Telemetry {
    /// The serial number of the board, as it is printed on it.
    pub serial: Option<String>,
    /// The version of the card's firmware (VBIOS).
    pub firmware: Option<String>,
    /// Error correction of its memory, where it has any.
    pub ecc: Option<Ecc>,
    /// How much of the last moments it was busy, 0 to 100.
    pub utilization_percent: Option<u8>,
    /// Memory in use, in MiB.
    pub memory_used_mib: Option<u64>,
    /// Memory altogether, in MiB.
    pub memory_total_mib: Option<u64>,
    /// How warm it is, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<u32>,
    /// What it draws, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<u32>,
}

/// What a GPU's driver measures of a partition that a VM uses. As old as [`Telemetry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PartitionTelemetry {
    /// How much of the GPU's last moments went to it, 0 to 100; none before that was measured.
    pub utilization_percent: Option<u8>,
    /// Memory that its guest uses, in MiB.
    pub memory_used_mib: Option<u64>,
}

/// Error correction of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Ecc {
    /// Whether it is on.
    pub enabled: bool,
    /// Errors that were corrected since the driver was loaded.
    pub corrected: u64,
    /// Errors that were not.
    pub uncorrected: u64,
}
