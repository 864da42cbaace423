//! When a partition is asked what it can, and what is remembered of the answers. Why so rarely is told in [`super`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tranche_core::inventory::{
    Certainty, DeviceSource, Domain, Evidence, Gpu, HealthState, Hypervisor, MigrationFacts,
    ObservedPartition, PartitionDevice,
};
use tranche_core::name::{GpuAddress, GpuKey, HostName, Timestamp};

use super::kinds::{self, Kind};
use super::prober::{Prober, Target};
use super::{is_started_by_opening, name};
use crate::calls::Calls;
use crate::discover::module_version;
use crate::tree::Tree;

/// How long a kind of which no partition could be opened is left alone, in milliseconds.
const AGAIN_MS: u64 = 600_000;

/// Asks, and remembers.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    prober: Option<Arc<dyn Prober>>,
    memory: Mutex<Memory>,
}

/// What is remembered of one boot of one kernel.
#[derive(Debug, Default)]
struct Memory {
    boot: Boot,
    known: BTreeMap<Subject, Known>,
}

/// A boot, and the kernel that it brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) kernel: String,
}

/// What an answer holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    gpu: GpuAddress,
    kind: Kind,
    /// Those of the drivers of the GPU and of the partition, where they have versions of their own.
    versions: [Option<String>; 2],
}

impl Subject {
    fn new(tree: &dyn Tree, gpu: &Gpu, kind: Kind) -> Self {
        let own = kind.driver.as_deref().and_then(|driver| module_version(tree, driver));
        Self { gpu: gpu.address.clone(), kind, versions: [gpu.driver_version.clone(), own] }
    }
}

#[derive(Debug)]
enum Known {
    /// It was asked.
    Said(MigrationFacts),
    /// It was not, for this reason. If it was tried, it is tried again after a while, else as soon as that can be done.
    NotYet { why: String, tried: Option<Timestamp> },
}

impl Known {
    fn is_to_be_asked(&self, now: Timestamp) -> bool {
        match self {
            Self::Said(_) => false,
            Self::NotYet { tried, .. } => tried.is_none_or(|at| now.is_past(at, AGAIN_MS)),
        }
    }
}

impl Probe {
    pub(crate) fn of(prober: Arc<dyn Prober>) -> Self {
        Self { prober: Some(prober), ..Self::default() }
    }

    /// Asks one partition of which something is not known and that nobody uses, if there is such a one.
    pub(crate) fn ask(
        &self,
        (calls, host): (&Calls, &HostName),
        boot: &Boot,
        (gpus, hypervisor): (&BTreeMap<GpuAddress, Gpu>, &Hypervisor),
        now: Timestamp,
    ) {
        let Some(prober) = &self.prober else { return };
        self.begin(boot, gpus);
        for gpu in gpus.values().filter(|gpu| !is_started_by_opening(gpu)) {
            for (kind, places) in kinds::of(gpu) {
                let partitions: Vec<&ObservedPartition> =
                    places.iter().map(|place| &gpu.partitions[*place]).collect();
                let subject = Subject::new(calls.tree(), gpu, kind);
                if !self.is_to_be_asked(&subject, now) || !leaves_open(calls.tree(), gpu, partitions[0]) {
                    continue;
                }
                match idle(calls, gpu, &partitions, hypervisor) {
                    None => {}
                    Some(Err(why)) => {
                        self.lock().known.insert(subject, Known::NotYet { why: why.to_owned(), tried: None });
                    }
                    Some(Ok(partition)) => {
                        let known = open(calls, prober, (host, gpu), partition, (boot, now));
                        self.lock().known.insert(subject, known);
                        return;
                    }
                }
            }
        }
    }

    /// Adds to what files show what was said.
    pub(crate) fn tell(&self, tree: &dyn Tree, gpus: &mut BTreeMap<GpuAddress, Gpu>) {
        let memory = self.lock();
        for gpu in gpus.values_mut() {
            let Some(most) = gpu.migration.clone() else { continue };
            let told = |(kind, places): (Kind, Vec<usize>)| {
                let shown = gpu.partitions[places[0]].migration.as_ref().unwrap_or(&most).clone();
                let facts = match memory.known.get(&Subject::new(tree, gpu, kind)) {
                    Some(known) => completed(shown, known),
                    None => shown,
                };
                (places, facts)
            };
            let facts = kinds::of(gpu).into_iter().map(told).collect();
            kinds::note(gpu, facts);
        }
    }

    /// Forgets what was another boot's, and GPUs that are gone.
    fn begin(&self, boot: &Boot, gpus: &BTreeMap<GpuAddress, Gpu>) {
        let mut memory = self.lock();
        if memory.boot != *boot {
            *memory = Memory { boot: boot.clone(), known: BTreeMap::new() };
        }
        memory.known.retain(|subject, _| gpus.contains_key(&subject.gpu));
    }

    fn is_to_be_asked(&self, subject: &Subject, now: Timestamp) -> bool {
        self.lock().known.get(subject).is_none_or(|known| known.is_to_be_asked(now))
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // What is in there is whole between any two statements, so a panic elsewhere does not spoil it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether files leave something open that opening the device would settle, and that matters.
fn leaves_open(tree: &dyn Tree, gpu: &Gpu, partition: &ObservedPartition) -> bool {
    let Some(facts) = partition.migration.as_ref().or(gpu.migration.as_ref()) else { return false };
    let is_open = |evidence: &Evidence| matches!(evidence.certainty, Certainty::Unknown | Certainty::Claimed);
    let by_vfio = [&facts.stop_copy, &facts.pre_copy, &facts.p2p, &facts.device_dirty_log];
    facts.stop_copy.certainty != Certainty::Refused
        && (by_vfio.into_iter().any(is_open)
            || (is_open(&facts.iommu_dirty_log) && Target::of(tree, &partition.device).has_iommu()))
}

/// A partition that can be opened without being in anybody's way, or why none of them can; nothing if that is no time to ask.
fn idle<'a>(
    calls: &Calls,
    gpu: &Gpu,
    partitions: &[&'a ObservedPartition],
    hypervisor: &Hypervisor,
) -> Option<Result<&'a ObservedPartition, &'static str>> {
    let mut stuck = calls.stuck().into_iter();
    let is_stuck = stuck.any(|call| call.gpu.is_none_or(|of| of == gpu.address));
    if is_stuck || gpu.health.state != HealthState::Good || !is_ready(gpu, partitions[0]) {
        return None;
    }
    let Hypervisor::Up { domains, .. } = hypervisor else {
        return Some(Err("it was not asked, because libvirt does not say which partitions VMs have"));
    };
    let idle = partitions.iter().find(|partition| is_idle(partition, domains.values()));
    Some(idle.copied().ok_or("it was not asked, because no such partition is free"))
}

/// Whether it has the driver that hands it to a VM. All of a kind have the same.
fn is_ready(gpu: &Gpu, partition: &ObservedPartition) -> bool {
    match partition.device {
        PartitionDevice::Vf { .. } => partition.driver.as_ref() == Some(&gpu.partition_driver),
        PartitionDevice::Mdev { .. } => true,
    }
}

fn is_idle<'a>(partition: &ObservedPartition, mut domains: impl Iterator<Item = &'a Domain>) -> bool {
    // Its group is opened with it.
    let is_alone = partition.iommu_group.as_ref().is_some_and(|group| {
        group.members.iter().all(|member| member.is_bridge() || Some(member.address) == partition.vf())
    });
    let source = DeviceSource::from(&partition.device);
    let is_named = domains.any(|domain| {
        domain.live_devices.iter().chain(&domain.defined_devices).any(|device| device.source == source)
    });
    is_alone && !is_named && partition.answers && partition.open_by.is_empty()
}

fn open(
    calls: &Calls,
    prober: &Arc<dyn Prober>,
    (host, gpu): (&HostName, &Gpu),
    partition: &ObservedPartition,
    (boot, now): (&Boot, Timestamp),
) -> Known {
    let key = GpuKey { host: host.clone(), address: gpu.address.clone() };
    let (target, asked) = (Target::of(calls.tree(), &partition.device), Arc::clone(prober));
    let device = name(&partition.device);
    let answer = calls.on(&key, now).take(&format!("open {device} through VFIO"), move || asked.ask(&target));
    let failed = |why: String| {
        tracing::info!(%device, %why, "a partition could not be asked what it can");
        Known::NotYet { why, tried: Some(now) }
    };
    match answer {
        Ok(Ok(answers)) => {
            tracing::info!(%device, by = %answers.door, ?answers, "a partition was asked what it can");
            let driver = partition.driver.as_deref().or(gpu.driver.as_deref());
            let with: Vec<String> =
                driver.map(str::to_owned).into_iter().chain([format!("Linux {}", boot.kernel)]).collect();
            Known::Said(answers.facts(&format!("{device} ({})", with.join(", "))))
        }
        Ok(Err(refusal)) => failed(refusal.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

/// What files show, with what was said in the place of what is weaker.
fn completed(mut shown: MigrationFacts, known: &Known) -> MigrationFacts {
    match known {
        Known::NotYet { why, .. } => {
            let MigrationFacts { stop_copy, pre_copy, p2p, device_dirty_log, .. } = &mut shown;
            for evidence in [stop_copy, pre_copy, p2p, device_dirty_log] {
                if evidence.certainty == Certainty::Unknown {
                    *evidence = Evidence::new(Certainty::Unknown, why.as_str());
                }
            }
        }
        Known::Said(said) => {
            shown.stop_copy = stronger(shown.stop_copy, &said.stop_copy);
            shown.pre_copy = stronger(shown.pre_copy, &said.pre_copy);
            shown.p2p = stronger(shown.p2p, &said.p2p);
            shown.device_dirty_log = stronger(shown.device_dirty_log, &said.device_dirty_log);
            shown.iommu_dirty_log = stronger(shown.iommu_dirty_log, &said.iommu_dirty_log);
        }
    }
    shown
}

/// The device's own word, unless it has said nothing.
fn stronger(shown: Evidence, said: &Evidence) -> Evidence {
    let is_silent = said.certainty == Certainty::Unknown;
    let is_all = shown.certainty == Certainty::Unknown && !said.source.is_empty();
    if is_silent && !is_all { shown } else { said.clone() }
}
