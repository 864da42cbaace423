//! NUMA nodes of a host: which processors and how much memory are near which GPUs.

use serde::{Deserialize, Serialize};

/// A NUMA node that has processors and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NumaNode {
    /// Its number.
    pub id: u16,
    /// Its processors that are on, as the kernel lists them: `0-7,16-23`.
    pub cpus: String,
    /// How many those are.
    pub cpu_count: u32,
    /// Its memory, in MiB.
    pub memory_mib: u64,
}
