//! How busy a host's GPUs, partitions and VMs are now, for histories.
//!
//! Of GPUs it is what the last look at the host brought: asking them for this alone would keep them awake. VMs are asked for
//! themselves, beside the loop.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tranche_core::history::{Measured, Quantity, Reading};
use tranche_core::inventory::{DomainState, Gpu, HostInventory};
use tranche_core::name::Timestamp;

/// What was seen is told for so long, in milliseconds: after that, nobody has looked.
const AGE_MAX_MS: u64 = 120_000;

/// Makes up what a host without drivers does not tell; the time is in seconds since the Unix epoch.
pub type MakeUp = fn(&Measured, u64) -> Reading;

/// What is remembered of the last look.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    last: Mutex<(Timestamp, BTreeMap<Measured, Reading>)>,
    make_up: Option<MakeUp>,
}

impl Usage {
    pub(crate) fn made_up(make_up: MakeUp) -> Self {
        Self { make_up: Some(make_up), ..Self::default() }
    }

    /// Remembers what a look brought.
    pub(crate) fn see(&self, seen: &HostInventory) {
        let mut readings: BTreeMap<Measured, Reading> = seen.gpus.values().flat_map(of_gpu).collect();
        let domains = seen.domains().into_iter().flatten();
        let running = domains.filter(|(_, domain)| domain.state == DomainState::Running);
        let named = running.filter_map(|(name, _)| Some(Measured::Vm(name.parse().ok()?)));
        // How busy they are is asked elsewhere.
        readings.extend(named.map(|vm| (vm, Reading::default())));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (seen.observed_at, readings);
    }

    /// What was seen last, unless that is too long ago.
    pub(crate) fn tell(&self, now: Timestamp) -> BTreeMap<Measured, Reading> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, readings) = &*last;
        if now.is_past(*at, AGE_MAX_MS) {
            return BTreeMap::new();
        }
        let tell = |(measured, reading): (&Measured, &Reading)| {
            let reading = self.make_up.map_or(*reading, |make_up| make_up(measured, now.0 / 1_000));
            (measured.clone(), reading)
        };
        readings.iter().map(tell).collect()
    }
}

/// A GPU and its partitions that have an index.
fn of_gpu(gpu: &Gpu) -> Vec<(Measured, Reading)> {
    let of_itself = gpu.telemetry.as_ref().map(|told| {
        Reading::default()
            .with(Quantity::UtilizationPercent, told.utilization_percent)
            .with(Quantity::MemoryUsedMib, told.memory_used_mib)
            .with(Quantity::TemperatureC, told.temperature_c)
            .with(Quantity::PowerW, told.power_w)
    });
    let partitions = gpu.partitions.iter().filter_map(|partition| {
        let reading = partition.telemetry.as_ref().map(|told| {
            Reading::default()
                .with(Quantity::UtilizationPercent, told.utilization_percent)
                .with(Quantity::MemoryUsedMib, told.memory_used_mib)
        });
        Some((Measured::Partition(gpu.address.clone(), partition.index?), reading.unwrap_or_default()))
    });
    let of_itself = (Measured::Gpu(gpu.address.clone()), of_itself.unwrap_or_default());
    std::iter::once(of_itself).chain(partitions).collect()
}
