//! Steps: what a host does next to get from what is to what was decided.
//!
//! A step is dumb, idempotent and complete: it names every address, count and driver, so that carrying it out needs no
//! decision, and repeating it after a crash does no harm. Which steps are due is computed by [`crate::steps`] afresh
//! from plan and inventory each time; no list of steps is ever stored.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::diagnostics::counted;
use crate::finding::Subject;
use crate::inventory::DeviceSource;
use crate::name::{GpuAddress, GpuKey, HostName, PciAddress, Timestamp, VmId, VmName};
use crate::spec::{Limits, VmHardware};

/// The driver that hands a function to a VM.
pub const VFIO_DRIVER: &str = "vfio-pci";
/// The driver that only switches virtual functions on; tools use it where a GPU's own driver does not
/// (Linux, drivers/pci/pci-pf-stub.c).
pub const STUB_DRIVER: &str = "pci-pf-stub";

/// One thing for a host to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Turn `sriov_drivers_autoprobe` off and enable so many VFs; other VFs than these must be off already.
    EnableVfs {
        /// The GPU.
        gpu: GpuAddress,
        /// How many.
        count: u16,
    },
    /// Disable all VFs. Only ever due while none is open.
    DisableVfs {
        /// The GPU.
        gpu: GpuAddress,
        /// Whether the host's drivers are offered the VFs that somebody else makes from then on
        /// (`sriov_drivers_autoprobe`), as they were before.
        autoprobe: bool,
    },
    /// Bind a VF to a driver by `driver_override`, and read it back.
    BindPartition {
        /// The GPU.
        gpu: GpuAddress,
        /// The partition's index.
        index: u16,
        /// The VF.
        vf: PciAddress,
        /// The driver.
        driver: String,
    },
    /// Give a VF a type, or take the one that it has; other types than this one must be off already.
    SetProfile {
        /// The GPU.
        gpu: GpuAddress,
        /// The partition's index.
        index: u16,
        /// The VF.
        vf: PciAddress,
        /// The profile; none takes it away. Only ever taken while the VF is not open.
        profile: Option<String>,
    },
    /// Switch whether the partitions of a GPU may be of several sizes, and read it back. Only ever due while no virtual
    /// function has a type.
    SetMixedSizes {
        /// The GPU.
        gpu: GpuAddress,
        /// Whether they may.
        on: bool,
    },
    /// Load a driver anew, so that each of its GPUs has so many virtual functions, and read it back. Only ever due while
    /// none of its GPUs is open.
    ReloadDriver {
        /// The driver.
        driver: String,
        /// How many.
        count: u16,
        /// The GPUs that it is done for.
        gpus: Vec<GpuAddress>,
    },
    /// Make a mediated device.
    CreateMdev {
        /// The parent.
        gpu: GpuAddress,
        /// The partition's index.
        index: u16,
        /// The UUID, computed from GPU and index.
        uuid: Uuid,
        /// The type, as the directory under `mdev_supported_types` is called.
        profile: String,
    },
    /// Remove a mediated device. Only ever due while it is not open.
    RemoveMdev {
        /// The parent.
        gpu: GpuAddress,
        /// The UUID.
        uuid: Uuid,
    },
    /// Bind every function of the GPU's IOMMU group to vfio-pci, and read it back.
    TakeGpu {
        /// The GPU.
        gpu: GpuAddress,
        /// The functions, bridges left out.
        functions: Vec<PciAddress>,
    },
    /// Give functions back to the drivers that they had; without one, the kernel chooses.
    ReturnGpu {
        /// The GPU.
        gpu: GpuAddress,
        /// Each function with its driver.
        functions: BTreeMap<PciAddress, Option<String>>,
    },
    /// Define the domain of a VM that Tranche makes, without GPU.
    DefineVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
        /// Its hardware.
        hardware: Box<VmHardware>,
    },
    /// Make the stored definition hold exactly these devices of ours, and leave everything else in it alone.
    PutDevices {
        /// The VM.
        vm: VmName,
        /// Its UUID: a domain of the same name with another one is not touched.
        id: VmId,
        /// The devices.
        devices: Vec<VmDevice>,
        /// What of the host the VM shall run on to be near them; none where its definition says nothing about that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        near: Option<Near>,
    },
    /// Start the domain.
    StartVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
    },
    /// Ask the guest to shut down.
    ShutDownVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
    },
    /// Turn the domain off now.
    KillVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
    },
    /// Make ready what a VM that is to arrive needs of this host beside its devices: its cloud-init disk.
    ExpectVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
        /// What it is.
        hardware: Box<VmHardware>,
    },
    /// Begin to send a domain that runs to another host, where it arrives stopped. Once it is whole there and off here, let it go
    /// on there. Nothing, if this journey was begun before.
    SendVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
        /// The journey.
        number: u64,
        /// The other host.
        to: HostName,
        /// The devices that it gets there.
        devices: Vec<VmDevice>,
        /// How it is sent.
        limits: Limits,
    },
    /// End the sending of a domain. It goes on here, unless it is gone by now.
    CallOffVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
        /// The journey.
        number: u64,
    },
    /// Let a domain go on that has arrived whole and stands still.
    ResumeVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
    },
    /// Remove the definition of a domain that is off. Its disks stay.
    UndefineVm {
        /// The VM.
        vm: VmName,
        /// Its UUID.
        id: VmId,
    },
}

/// A device to put into a domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmDevice {
    /// Which device on the host.
    pub source: DeviceSource,
    /// Memory windows of it in MiB, for the size of the guest's 64-bit window.
    pub mmio_mib: u64,
}

/// The part of a host that is near a VM's devices: one NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Near {
    /// Its number; memory comes from there as long as there is any.
    pub node: u16,
    /// Its processors, as the kernel lists them: `0-7,16-23`.
    pub cpus: String,
}

/// What a step works on: steps of one subject are carried out in order, and the first failure ends the row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum StepSubject {
    /// A GPU.
    Gpu(GpuAddress),
    /// A VM.
    Vm(VmName),
}

impl StepSubject {
    /// The same as seen from other hosts, which may have a GPU at the same address.
    pub fn on(&self, host: &HostName) -> Subject {
        match self {
            Self::Gpu(address) => Subject::Gpu(GpuKey { host: host.clone(), address: address.clone() }),
            Self::Vm(vm) => Subject::Vm(vm.clone()),
        }
    }
}

impl Step {
    /// What the step works on.
    ///
    /// # Panics
    /// When a driver is to be loaded anew for no GPU.
    pub fn subject(&self) -> StepSubject {
        match self {
            Self::ReloadDriver { gpus, .. } => StepSubject::Gpu(gpus[0].clone()),
            Self::EnableVfs { gpu, .. }
            | Self::DisableVfs { gpu, .. }
            | Self::BindPartition { gpu, .. }
            | Self::SetProfile { gpu, .. }
            | Self::SetMixedSizes { gpu, .. }
            | Self::CreateMdev { gpu, .. }
            | Self::RemoveMdev { gpu, .. }
            | Self::TakeGpu { gpu, .. }
            | Self::ReturnGpu { gpu, .. } => StepSubject::Gpu(gpu.clone()),
            Self::DefineVm { vm, .. }
            | Self::PutDevices { vm, .. }
            | Self::StartVm { vm, .. }
            | Self::ShutDownVm { vm, .. }
            | Self::KillVm { vm, .. }
            | Self::ExpectVm { vm, .. }
            | Self::SendVm { vm, .. }
            | Self::CallOffVm { vm, .. }
            | Self::ResumeVm { vm, .. }
            | Self::UndefineVm { vm, .. } => StepSubject::Vm(vm.clone()),
        }
    }

    /// The one GPU that a step changes, where nothing but this GPU can look different afterwards.
    pub fn changes_only(&self) -> Option<&GpuAddress> {
        match self {
            Self::EnableVfs { gpu, .. }
            | Self::DisableVfs { gpu, .. }
            | Self::BindPartition { gpu, .. }
            | Self::SetMixedSizes { gpu, .. }
            | Self::SetProfile { gpu, .. }
            | Self::CreateMdev { gpu, .. }
            | Self::RemoveMdev { gpu, .. } => Some(gpu),
            // A group may hold functions of another GPU, a driver has several GPUs, and a VM has devices of several.
            Self::TakeGpu { .. }
            | Self::ReturnGpu { .. }
            | Self::ReloadDriver { .. }
            | Self::DefineVm { .. }
            | Self::PutDevices { .. }
            | Self::StartVm { .. }
            | Self::ShutDownVm { .. }
            | Self::KillVm { .. }
            | Self::ExpectVm { .. }
            | Self::SendVm { .. }
            | Self::CallOffVm { .. }
            | Self::ResumeVm { .. }
            | Self::UndefineVm { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnableVfs { gpu, count } => {
                write!(f, "enable {} of GPU {gpu}", counted(*count, "virtual function"))
            }
            Self::DisableVfs { gpu, .. } => write!(f, "disable the virtual functions of GPU {gpu}"),
            Self::BindPartition { gpu, index, vf, driver } => {
                write!(f, "bind partition {index} of GPU {gpu} ({vf}) to {driver}")
            }
            Self::SetProfile { gpu, index, vf, profile: Some(profile) } => {
                write!(f, "make partition {index} of GPU {gpu} ({vf}) a {profile}")
            }
            Self::SetProfile { gpu, index, vf, profile: None } => {
                write!(f, "take the type from partition {index} of GPU {gpu} ({vf})")
            }
            Self::SetMixedSizes { gpu, on: true } => {
                write!(f, "allow partitions of several sizes on GPU {gpu}")
            }
            Self::SetMixedSizes { gpu, on: false } => write!(f, "make GPU {gpu} take equal partitions only"),
            Self::ReloadDriver { driver, count, gpus } => {
                let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "load driver {driver} anew with {} for GPU {}",
                    counted(*count, "partition"),
                    gpus.join(", ")
                )
            }
            Self::CreateMdev { gpu, index, uuid, profile } => {
                write!(f, "create partition {index} of GPU {gpu} as mediated device {uuid} of type {profile}")
            }
            Self::RemoveMdev { gpu, uuid } => write!(f, "remove mediated device {uuid} of GPU {gpu}"),
            Self::TakeGpu { gpu, functions } => {
                write!(f, "bind GPU {gpu} to {VFIO_DRIVER} ({} functions)", functions.len())
            }
            Self::ReturnGpu { gpu, .. } => write!(f, "give GPU {gpu} back to the host's driver"),
            Self::DefineVm { vm, .. } => write!(f, "define VM {vm}"),
            Self::PutDevices { vm, devices, .. } if devices.is_empty() => {
                write!(f, "take the GPU from VM {vm}")
            }
            Self::PutDevices { vm, near: Some(near), .. } => {
                write!(f, "give the GPU to VM {vm}, on NUMA node {}", near.node)
            }
            Self::PutDevices { vm, .. } => write!(f, "give the GPU to VM {vm}"),
            Self::StartVm { vm, .. } => write!(f, "start VM {vm}"),
            Self::ShutDownVm { vm, .. } => write!(f, "ask VM {vm} to shut down"),
            Self::KillVm { vm, .. } => write!(f, "turn VM {vm} off"),
            Self::ExpectVm { vm, .. } => write!(f, "make ready what VM {vm} needs when it arrives"),
            Self::SendVm { vm, to, .. } => write!(f, "send VM {vm} to host {to} while it runs"),
            Self::CallOffVm { vm, .. } => write!(f, "call off the sending of VM {vm}"),
            Self::ResumeVm { vm, .. } => write!(f, "let VM {vm} go on"),
            Self::UndefineVm { vm, .. } => write!(f, "remove the definition of VM {vm}"),
        }
    }
}

/// A step that succeeded is not repeated sooner, even if the inventory does not show its effect yet.
pub const REPEAT_AFTER_MS: u64 = 10_000;
/// A step that failed is tried again after this long, and after twice as long each time.
pub const RETRY_FIRST_MS: u64 = 1_000;
/// No step waits longer than this for its next try.
pub const RETRY_LONGEST_MS: u64 = 60_000;

/// What came of the steps tried so far: kept between passes, so that nothing is hammered.
///
/// It is not stored: after a restart of the daemon everything may be tried at once, which is what its user expects.
#[derive(Debug, Clone, Default)]
pub struct Attempts {
    tried: Vec<Attempt>,
}

#[derive(Debug, Clone)]
struct Attempt {
    step: Step,
    at: Timestamp,
    failures: u32,
}

impl Attempts {
    /// Whether a step may be carried out now.
    pub fn allows(&self, step: &Step, now: Timestamp) -> bool {
        self.find(step).is_none_or(|attempt| now.is_past(attempt.at, pause_ms(attempt.failures)))
    }

    /// Remembers that a step was carried out now, and whether it failed. Returns how often it has failed in a row.
    pub fn record(&mut self, step: &Step, failed: bool, now: Timestamp) -> u32 {
        let failures = if failed { self.find(step).map_or(0, |attempt| attempt.failures) + 1 } else { 0 };
        self.tried.retain(|attempt| attempt.step != *step);
        self.tried.push(Attempt { step: step.clone(), at: now, failures });
        failures
    }

    /// Forgets steps that are no longer due: when they are due again, they are due at once.
    pub fn keep_only(&mut self, due: &[Step]) {
        self.tried.retain(|attempt| due.contains(&attempt.step));
    }

    /// When the next of these steps may be tried, if any of them waits.
    pub fn next_due(&self, due: &[Step]) -> Option<Timestamp> {
        let waiting = due.iter().filter_map(|step| self.find(step));
        waiting.map(|attempt| Timestamp(attempt.at.0.saturating_add(pause_ms(attempt.failures)))).min()
    }

    fn find(&self, step: &Step) -> Option<&Attempt> {
        self.tried.iter().find(|attempt| attempt.step == *step)
    }
}

fn pause_ms(failures: u32) -> u64 {
    match failures {
        0 => REPEAT_AFTER_MS,
        n => RETRY_FIRST_MS.checked_shl(n - 1).unwrap_or(RETRY_LONGEST_MS).min(RETRY_LONGEST_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step::DisableVfs { gpu: "0000:01:00.0".parse().unwrap(), autoprobe: true }
    }

    #[test]
    fn a_failed_step_waits_twice_as_long_each_time_up_to_a_minute() {
        let mut attempts = Attempts::default();
        let mut now = Timestamp(0);
        for expected_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            attempts.record(&step(), true, now);
            assert!(!attempts.allows(&step(), Timestamp(now.0 + expected_ms - 1)));
            now = Timestamp(now.0 + expected_ms);
            assert!(attempts.allows(&step(), now));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_make_a_step_wait() {
        let mut attempts = Attempts::default();
        attempts.record(&step(), true, Timestamp(7_200_000));
        assert!(!attempts.allows(&step(), Timestamp(7_200_000)));
        assert!(attempts.allows(&step(), Timestamp(3_600_000)));
    }

    #[test]
    fn a_step_that_is_no_longer_due_is_forgotten() {
        let mut attempts = Attempts::default();
        attempts.record(&step(), true, Timestamp(0));
        attempts.keep_only(&[]);
        assert!(attempts.allows(&step(), Timestamp(0)));
    }

    #[test]
    fn a_step_that_succeeded_without_effect_is_not_hammered() {
        let mut attempts = Attempts::default();
        attempts.record(&step(), false, Timestamp(5));
        assert!(!attempts.allows(&step(), Timestamp(5)));
        assert_eq!(attempts.next_due(&[step()]), Some(Timestamp(5 + REPEAT_AFTER_MS)));
    }
}
