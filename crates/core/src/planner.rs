//! The planner: from wishes, reports and the last plan to the next plan.
//!
//! ```text
//! GPU:  host ──wish──► partitioned(n) / passthrough ──release──► host, read back clean ──► forgotten
//!       a mode changes only while nothing of the GPU is booked or open
//!
//! VM:   stopped ──start──► booked ──ready──► running ──stop──► off ──read back free──► stopped
//!                 │ no room                     │ crash, reboot
//!                 └─► waits, tried each pass     └─► started again with the same booking
//! ```
//!
//! It is a pure function, and it never gives up: what cannot be done now yields a finding and is tried again with the
//! next inventory. It never looks at how the last plan came about.

mod awaiting;
mod bookings;
mod departures;
mod falls;
mod homes;
mod journeys;
mod memory;
mod partings;
mod standing;
mod vms;

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostics as say;
use crate::finding::{Finding, Subject};
use crate::identity::GpuIdentity;
use crate::inventory::{Gpu, HealthState, HostInventory, Hypervisor, Inventory, Iommu, ObservedPartition};
use crate::mode::{host_drivers, is_clean, is_passed_through, mode_obstacles, users_of};
use crate::name::{GpuAddress, GpuKey, HostName, Slot, SlotKey, Timestamp, VmName};
use crate::placement::{self, Uses, UsesByHost};
use crate::plan::{GpuPlan, Plan, VmGoal, VmPlan};
use crate::spec::{GpuMode, GpuSpec, Spec};
use crate::steps::is_open;
use crate::{mixed, reload};

pub use self::memory::Memory;
use self::memory::{Last, Scope};

/// What the planner decided, and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a plan that is not committed decides nothing"]
pub struct Planned {
    /// The next plan.
    pub plan: Plan,
    /// What is wrong or waits, sorted, each once.
    pub findings: Vec<Finding>,
    /// VMs that were to be deleted and of which nothing is left: their wishes can be forgotten.
    pub gone: Vec<VmName>,
}

/// Decides. The same arguments give the same plan, byte for byte.
///
/// Who decides again and again keeps a [`Memory`], which comes to the same and looks only at what is new.
pub fn plan(spec: &Spec, inventory: &Inventory, current: &Plan, now: Timestamp) -> Planned {
    Memory::default().plan(spec, inventory, current, now)
}

/// How long a guest that has to leave its host may take to shut down, in milliseconds. Then it is turned off. As long as `libvirt-guests`
/// waits by default (libvirt-guests(8), `SHUTDOWN_TIMEOUT`).
const GUEST_SHUTDOWN_MS_MAX: u64 = 5 * 60_000;

/// Whether a plan may be stored along with the wishes that it follows from, before its hosts were heard again. How hosts stand follows from
/// their heartbeats; and a VM that is to be ended before it is started anew may have gone off by now, so that starting it is enough.
pub fn follows_at_once(before: &Plan, after: &Plan) -> bool {
    let stand_as_before = before.hosts.changes(&after.hosts).next().is_none();
    let ends_first = |planned: &VmPlan| matches!(planned.goal, VmGoal::Cycle | VmGoal::Reset | VmGoal::Move);
    let mut vms = before.vms.changes(&after.vms);
    stand_as_before && !vms.any(|(_, _, is)| is.is_some_and(ends_first))
}

fn pass((spec, inventory, current): World<'_>, now: Timestamp, scope: &Scope, last: &mut Last) -> Planned {
    let observed = scope.hosts.iter().filter_map(|host| inventory.get_key_value(host));
    let uses = observed.map(|(host, observed)| (host.clone(), Uses::of(observed))).collect();
    let mut planner = Planner {
        spec,
        inventory,
        scope,
        uses,
        now,
        plan: current.clone(),
        held: BTreeMap::new(),
        strays: BTreeMap::new(),
        displaced: BTreeMap::new(),
        buried: BTreeSet::new(),
        findings: Vec::new(),
    };
    planner.judge_standing();
    planner.judge_hosts();
    planner.judge_journeys();
    planner.judge_partings();
    planner.abandon_strangers();
    planner.abandon_dead_hosts();
    planner.judge_falls();
    for host in &scope.hosts {
        reload::settle(host, &mut planner.plan, spec, inventory);
    }
    planner.release_bookings();
    planner.decide_gpus();
    let (ground, about_rules) = planner.decide_vms(last.ground.take());
    let gone = planner.gone(current);
    for name in gone.iter().filter(|name| !planner.buried.contains(*name)) {
        planner.plan.vms.remove(name);
    }
    planner.count_generations(current);
    let others = last.keep(scope, &planner, ground);
    let mut findings = planner.findings;
    findings.extend(others);
    findings.extend(about_rules);
    findings.extend(last.unlike(&planner.plan));
    findings.sort();
    findings.dedup();
    Planned { plan: planner.plan, findings, gone }
}

/// What a pass rests on.
type World<'a> = (&'a Spec, &'a Inventory, &'a Plan);

struct Planner<'a> {
    spec: &'a Spec,
    inventory: &'a Inventory,
    /// What this pass decides about.
    scope: &'a Scope,
    /// Who uses what by observation: read once, asked often.
    uses: UsesByHost,
    now: Timestamp,
    plan: Plan,
    /// The bookings by VM, of those on the VM's own host.
    held: BTreeMap<VmName, Vec<SlotKey>>,
    /// VMs that hold something on another host too, and which.
    strays: BTreeMap<VmName, HostName>,
    /// VMs that lost their host in this pass, and where they ran last.
    displaced: BTreeMap<VmName, Option<HostName>>,
    /// VMs that are forgotten in this pass although their host is down: the plan keeps what it has to end when it is back.
    buried: BTreeSet<VmName>,
    findings: Vec<Finding>,
}

impl Planner<'_> {
    fn judge_hosts(&mut self) {
        for host in &self.scope.hosts {
            let Some(observed) = self.inventory.get(host) else { continue };
            if let Some(why) = &observed.unread {
                // One that was down is not taken up again before it can be read.
                self.findings.push(say::report_unread(host, why));
                continue;
            }
            if !self.is_up(host) {
                continue;
            }
            if let Hypervisor::Down { reason } = &observed.hypervisor {
                self.findings.push(say::libvirt_down(host, reason));
            }
            self.findings.extend(observed.notes.iter().cloned());
            for gpu in observed.gpus.values().filter(|gpu| gpu.health.state != HealthState::Good) {
                let key = GpuKey { host: host.clone(), address: gpu.address.clone() };
                self.findings.push(say::gpu_sick(&key, &gpu.health));
            }
        }
    }

    // GPUs.

    fn decide_gpus(&mut self) {
        for (key, wish) in self.scope.hosts.iter().flat_map(|host| self.spec.gpus_of(host)) {
            let Some(observed) = self.inventory.get(&key.host) else {
                self.findings.push(say::host_silent(&key.host));
                continue;
            };
            if !self.is_up(&key.host) || observed.unread.is_some() {
                continue;
            }
            match observed.gpus.get(&key.address) {
                Some(gpu) => self.decide_gpu(key, wish, gpu, observed),
                None => self.decide_absent_gpu(key, wish, observed),
            }
        }
    }

    fn decide_absent_gpu(&mut self, key: &GpuKey, wish: &GpuSpec, observed: &HostInventory) {
        if let Some(stuck) = observed.unseen_because_of(&key.address) {
            self.findings.push(say::call_stuck(key, &stuck.call));
            return;
        }
        let booked = self.plan.bookings_on(key).next().is_some();
        if wish.mode == GpuMode::Host && !booked {
            self.plan.gpus.remove(key);
        } else {
            let elsewhere = self.found_elsewhere(&self.known_identity(key, wish), observed);
            self.findings.push(elsewhere.map_or_else(|| say::gpu_gone(key), |now| say::gpu_moved(key, &now)));
        }
    }

    fn decide_gpu(&mut self, key: &GpuKey, wish: &GpuSpec, gpu: &Gpu, observed: &HostInventory) {
        for call in observed.stuck.iter().filter(|call| call.gpu.as_ref() == Some(&key.address)) {
            self.findings.push(say::call_stuck(key, &call.call));
        }
        if !self.is_the_one(key, wish, gpu, observed) {
            return;
        }
        let meant = self.plan.gpus.get(key).is_none_or(|planned| planned.identity.may_be(&gpu.identity()));
        if self.is_changing(key) || !meant || self.offer_is_open(key, gpu) {
            self.change_mode(key, wish, gpu, observed);
        }
        let clean = |planned: &GpuPlan| planned.mode == GpuMode::Host && is_clean(planned, gpu);
        // While a call hangs, what is seen may be of an earlier look, and what was written may still take effect.
        let settled = self.plan.gpus.get(key).is_some_and(clean) && !observed.is_stuck(&key.address);
        if wish.mode == GpuMode::Host && settled {
            self.plan.gpus.remove(key);
        }
        self.report_gpu(key, gpu, observed);
    }

    /// Whether a GPU is to be split, came back from passthrough for it, and now tells what its driver offers.
    fn offer_is_open(&self, key: &GpuKey, gpu: &Gpu) -> bool {
        let planned = self.plan.gpus.get(key);
        let open = planned.is_some_and(|planned| {
            matches!(planned.mode, GpuMode::Partitioned { .. }) && planned.offer.is_none()
        });
        open && !is_passed_through(gpu)
    }

    /// Whether the GPU at an address is the one that was meant; else the finding says what became of that one. The
    /// first time that a GPU tells which one it is, that is remembered.
    fn is_the_one(&mut self, key: &GpuKey, wish: &GpuSpec, gpu: &Gpu, observed: &HostInventory) -> bool {
        let found = gpu.identity();
        let known = self.known_identity(key, wish);
        if !known.may_be(&found) {
            self.findings.push(match self.found_elsewhere(&known, observed) {
                Some(address) => say::gpu_moved(key, &address),
                None => say::hardware_changed(key, &known, &found),
            });
            return false;
        }
        if let Some(planned) = self.plan.gpus.get_mut(key).filter(|_| known.unique_id.is_none()) {
            planned.identity = found;
        }
        true
    }

    fn known_identity(&self, key: &GpuKey, wish: &GpuSpec) -> GpuIdentity {
        let planned = self.plan.gpus.get(key).map(|planned| &planned.identity);
        let is_fuller = |planned: &&GpuIdentity| planned.unique_id.is_some() || wish.identity.is_open();
        let fuller = planned.filter(is_fuller).filter(|planned| wish.identity.may_be(planned));
        fuller.unwrap_or(&wish.identity).clone()
    }

    fn found_elsewhere(&self, known: &GpuIdentity, observed: &HostInventory) -> Option<GpuAddress> {
        observed.gpus.values().find(|gpu| known.is_surely(&gpu.identity())).map(|gpu| gpu.address.clone())
    }

    fn change_mode(&mut self, key: &GpuKey, wish: &GpuSpec, gpu: &Gpu, observed: &HostInventory) {
        let asked = reload::is_asked(wish, self.plan.gpus.get(key));
        let (mut refusals, users, is_being_left) = match gpu.reload.as_ref().filter(|_| asked) {
            Some(after) => (
                reload::obstacles(key, &wish.mode, gpu, observed),
                reload::users(&after.driver, observed, &self.plan),
                self.is_being_left(reload::peers(&after.driver, observed).map(|(peer, _)| peer)),
            ),
            None => (
                mode_obstacles(key, &wish.mode, gpu, observed),
                users_of(key, gpu, observed, &self.plan),
                self.is_being_left([key.clone()]),
            ),
        };
        if is_being_left {
            refusals.push(say::mode_changing(key, &wish.mode, &users));
        } else if !users.is_empty() {
            refusals.push(say::partitions_in_use(key, &users));
        }
        if !refusals.is_empty() {
            self.findings.extend(refusals);
            return;
        }
        let offer = match &wish.mode {
            // What its own driver offers is known once that has it back.
            GpuMode::Partitioned { .. } if is_passed_through(gpu) => None,
            mode @ GpuMode::Partitioned { .. } => reload::offer(gpu, mode).cloned(),
            GpuMode::Host | GpuMode::Mixed { .. } | GpuMode::Passthrough { .. } => None,
        };
        let sizes = match &wish.mode {
            GpuMode::Mixed { sizes } => mixed::lay_out(gpu, sizes).unwrap_or_default(),
            _ => Vec::new(),
        };
        let before = self.plan.gpus.get(key).filter(|planned| planned.identity.may_be(&gpu.identity()));
        let recorded = before.map(|planned| planned.host_drivers.clone()).unwrap_or_default();
        let host_drivers = if recorded.is_empty() { host_drivers(gpu) } else { recorded };
        let is_off = gpu.sriov.as_ref().is_some_and(|sriov| !sriov.autoprobe);
        let autoprobe_was_off = before.map_or(is_off, |planned| planned.autoprobe_was_off);
        let mode = wish.mode.clone();
        let was_mixed = before.is_some_and(|planned| {
            matches!(mode, GpuMode::Partitioned { .. })
                && (planned.was_mixed || matches!(planned.mode, GpuMode::Mixed { .. }))
        });
        let identity = gpu.identity();
        let (reloads, reload) = if asked {
            (wish.reloads, reload::needed(gpu, observed, self.spec, &self.plan))
        } else {
            (before.map_or(0, |planned| planned.reloads), None)
        };
        let planned = GpuPlan {
            mode,
            offer,
            sizes,
            was_mixed,
            identity,
            host_drivers,
            autoprobe_was_off,
            reloads,
            reload,
        };
        self.plan.gpus.insert(key.clone(), planned);
    }

    /// What a look at a GPU in use says: drift, wrong drivers, shared groups, strangers.
    fn report_gpu(&mut self, key: &GpuKey, gpu: &Gpu, observed: &HostInventory) {
        let Some(planned) = self.plan.gpus.get(key) else { return };
        if planned.mode != GpuMode::Host && observed.system.iommu == Iommu::Off && gpu.address.pci().is_some()
        {
            self.findings.push(say::iommu_off(&key.host));
        }
        let is_split = planned.mode.partitions().is_some();
        if is_split && gpu.backend.is_none() && !is_passed_through(gpu) {
            self.findings.push(match gpu.driver {
                None if gpu.address.pci().is_some() => say::driver_missing(key),
                _ => say::why_not_partitionable(key, gpu),
            });
        }
        match &planned.mode {
            GpuMode::Partitioned { .. } | GpuMode::Mixed { .. } => {
                let count = planned.mode.partitions().unwrap_or_default();
                let fits = |partition: &&ObservedPartition| {
                    let decided = partition.index.and_then(|index| planned.size_of(index));
                    let alike = partition.profile.is_none()
                        || partition.profile.as_ref() == decided.map(|size| &size.profile);
                    partition.index.is_some_and(|index| index < count) && alike
                };
                let ours = gpu.partitions.iter().filter(|partition| partition.index.is_some());
                let (have, fitting) = (ours.clone().count(), ours.filter(fits).count());
                if planned.reload.is_some() {
                    self.report_reload(key, observed);
                } else if have != 0 && (have, fitting) != (usize::from(count), usize::from(count)) {
                    let is = format!("{have} partitions, {fitting} of which are as decided,");
                    self.findings.push(say::drift(key, &is, &count.to_string()));
                }
                self.report_partitions(key, gpu, count, observed);
            }
            GpuMode::Passthrough { .. } if gpu.reset_methods.is_empty() => {
                self.findings.push(say::no_reset(key));
            }
            GpuMode::Passthrough { .. } | GpuMode::Host => {}
        }
        let Some(uses) = self.uses.get(&key.host) else { return };
        for slot in placement::decided_slots(key, &self.plan) {
            let slot_key = SlotKey { gpu: key.clone(), slot };
            if uses.is_used(slot, gpu) && !self.plan.bookings.contains_key(&slot_key) {
                let strangers = uses.users(slot, gpu);
                self.findings.push(say::foreign_use(Subject::Partition(slot_key), &strangers));
            }
        }
    }

    /// Who keeps a driver from being loaded anew.
    fn report_reload(&mut self, key: &GpuKey, observed: &HostInventory) {
        let driver = self.plan.gpus.get(key).and_then(|planned| planned.reload.clone()).unwrap_or_default();
        for (peer, gpu) in reload::peers(&driver, observed) {
            if is_open(&peer, gpu, observed, &self.plan) {
                let users = users_of(&peer, gpu, observed, &self.plan);
                self.findings.push(say::partitions_in_use(&peer, &users));
            }
        }
    }

    fn report_partitions(&mut self, key: &GpuKey, gpu: &Gpu, count: u16, observed: &HostInventory) {
        let strange: Vec<String> = gpu
            .partitions
            .iter()
            .filter(|partition| partition.index.is_none())
            .map(|partition| format!("{:?}", partition.device))
            .collect();
        if !strange.is_empty() {
            self.findings.push(say::foreign_partition(key, &strange));
        }
        for index in 0..count {
            let slot = SlotKey { gpu: key.clone(), slot: Slot::Partition(index) };
            self.findings.extend(placement::group_obstacle(&slot, gpu));
            let booked = self.plan.bookings.get(&slot);
            match (placement::partition(gpu, index), booked) {
                (None, Some(booking))
                    if observed.domain(&booking.vm).is_some_and(|d| d.state.is_active()) =>
                {
                    self.findings.push(say::partition_lost(&slot, &booking.vm));
                }
                (Some(partition), _) if partition.vf().is_some() => {
                    let driver = partition.driver.as_deref();
                    if driver.is_some_and(|driver| driver != gpu.partition_driver) {
                        let device = describe_device(partition);
                        self.findings.push(say::wrong_driver(
                            Subject::Partition(slot),
                            &device,
                            driver,
                            &gpu.partition_driver,
                        ));
                    }
                }
                _ => {}
            }
        }
    }

    /// A host's part of the plan has changed if anything did that it carries out.
    fn count_generations(&mut self, before: &Plan) {
        let gpus = before.gpus.changes(&self.plan.gpus).map(|(key, ..)| &key.host);
        let bookings = before.bookings.changes(&self.plan.bookings).map(|(slot, ..)| &slot.gpu.host);
        let vms = before.vms.changes(&self.plan.vms);
        let vms = vms.flat_map(|(_, was, is)| was.into_iter().chain(is)).flat_map(VmPlan::hosts);
        let changed = gpus.chain(bookings).chain(vms).chain(self.behind_journeys());
        let changed: BTreeSet<HostName> = changed.cloned().collect();
        for host in changed {
            if self.inventory.contains_key(&host) || self.spec.hosts.contains_key(&host) {
                *self.plan.generations.entry(host).or_insert(0) += 1;
            }
        }
    }
}

fn describe_device(partition: &crate::inventory::ObservedPartition) -> String {
    match &partition.device {
        crate::inventory::PartitionDevice::Vf { address } => format!("Virtual function {address}"),
        crate::inventory::PartitionDevice::Mdev { uuid } => format!("Mediated device {uuid}"),
    }
}
