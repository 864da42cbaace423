//! NVIDIA's management library. It is loaded when it is needed, and its absence is no fault.
//!
//! Its events keep the GPUs open for as long as somebody waits for them. The kernel's log has the same, so they are listened to
//! only where that cannot be read.
//!
//! Deliberately absent: everything that changes a GPU.

mod raw;

use std::collections::BTreeMap;
use std::path::PathBuf;

use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enum_wrappers::vgpu::VmId;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::vgpu::{VgpuInstance, VgpuType};
use nvml_wrapper::{Device, Nvml};
use tranche_core::inventory::{Ecc, HealthState, PartitionTelemetry, Telemetry};
use tranche_core::name::PciAddress;

use crate::monitor::{Fault, Monitor, PartitionReading, PartitionType, Reading, User};
use crate::vgpu::{self, DRIVER};
use crate::{identity, kernel_log};

/// The library's name. The one without a version belongs to development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// Rows that wait for a reset to be remapped, and rows that could not be (nvml.h, `NVML_FI_DEV_REMAPPED_PENDING` and
/// `…_FAILURE`).
const REMAP_PENDING: FieldId = FieldId(144);
const REMAP_FAILURE: FieldId = FieldId(145);
/// What the driver says that a GPU needs to work again; newer drivers do (nvml.h, `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`).
const RECOVERY_ACTION: FieldId = FieldId(230);
/// How long one wait for an event takes at most, in milliseconds: a step waits for it.
const EVENT_WAIT_MS: u32 = 200;
/// What an event of that kind is called in the kernel's log.
const DOUBLE_BIT_ERROR: u32 = 48;
/// The most types of a GPU that are read; there are about fifty.
const TYPES_MAX: usize = 256;
/// The longest serial number or firmware version that is taken, in bytes.
const TEXT_LEN_MAX: usize = 64;

/// NVIDIA's library.
#[derive(Debug, Clone)]
pub struct NvidiaMonitor {
    /// Its name, looked up as the dynamic linker does, or its path.
    pub library: PathBuf,
}

impl Default for NvidiaMonitor {
    fn default() -> Self {
        Self { library: LIBRARY.into() }
    }
}

impl Monitor for NvidiaMonitor {
    fn driver(&self) -> &str {
        DRIVER
    }

    fn look(&self) -> Result<BTreeMap<PciAddress, Reading>, String> {
        let Some(library) = self.open()? else { return Ok(BTreeMap::new()) };
        let count = library.device_count().map_err(|error| error.to_string())?;
        // A GPU that is lost fails alone.
        let readings = (0..count).filter_map(|index| read(&library.device_by_index(index).ok()?)).collect();
        library.shutdown().map_err(|error| error.to_string())?;
        Ok(readings)
    }

    fn listen(&self, stop: &dyn Fn() -> bool, hear: &dyn Fn(Fault)) -> Result<(), String> {
        let Some(library) = self.open()? else { return Ok(()) };
        let heard = listen(&library, stop, hear).map_err(|error| error.to_string());
        library.shutdown().map_err(|error| error.to_string())?;
        heard
    }
}

impl NvidiaMonitor {
    /// Opens the library, if it and the driver are there.
    fn open(&self) -> Result<Option<Nvml>, String> {
        match Nvml::builder().lib_path(self.library.as_os_str()).init() {
            Ok(library) => Ok(Some(library)),
            Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded) => {
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Passes on faults as they happen. GPUs that tell none are left out.
fn listen(library: &Nvml, stop: &dyn Fn() -> bool, hear: &dyn Fn(Fault)) -> Result<(), NvmlError> {
    let events = library.create_event_set()?;
    let mut any = false;
    for index in 0..library.device_count()? {
        if let Ok(device) = library.device_by_index(index) {
            any |= raw::register(&device, &events)?;
        }
    }
    while any && !stop() {
        match events.wait(EVENT_WAIT_MS) {
            Ok(event) => {
                let number = match event.event_data {
                    Some(XidError::Value(number)) => u32::try_from(number).ok(),
                    Some(XidError::Unknown) => None,
                    None => Some(DOUBLE_BIT_ERROR),
                };
                if let (Some(gpu), Some(number)) = (address(&event.device), number) {
                    hear(Fault { gpu, number });
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn address(device: &Device<'_>) -> Option<PciAddress> {
    device.pci_info().ok()?.bus_id.parse().ok()
}

fn read(device: &Device<'_>) -> Option<(PciAddress, Reading)> {
    let address = address(device)?;
    let ecc = ecc(device);
    let facts = Wear {
        pending: field(device, REMAP_PENDING) > 0,
        failed: field(device, REMAP_FAILURE) > 0,
        uncorrected: ecc.as_ref().map_or(0, |ecc| ecc.uncorrected),
        recovery_action: field(device, RECOVERY_ACTION),
    };
    let memory = device.memory_info().ok();
    let load = device.utilization_rates().ok();
    let telemetry = Telemetry {
        serial: device.serial().ok().filter(|text| is_text(text)),
        firmware: device.vbios_version().ok().filter(|text| is_text(text)),
        ecc,
        utilization_percent: load.and_then(|load| u8::try_from(load.gpu).ok()),
        memory_used_mib: memory.as_ref().map(|memory| memory.used >> 20),
        memory_total_mib: memory.as_ref().map(|memory| memory.total >> 20),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        // The library has milliwatts.
        power_w: device.power_usage().ok().map(|milliwatts| milliwatts / 1_000),
    };
    let unique_id = device.uuid().ok().filter(|uuid| identity::is_plausible(uuid));
    Some((
        address,
        Reading {
            unique_id,
            telemetry,
            signs: facts.signs(),
            recovered: told(device, RECOVERY_ACTION) == Some(0),
            partitions: vgpus(device),
            types: types(device),
        },
    ))
}

/// What is measured of the vGPUs that VMs use. The library does not say which virtual function one is: the PCI address
/// that it knows of a vGPU is the one in the guest (nvml.h, `nvmlVgpuInstanceGetGpuPciId`).
fn vgpus(device: &Device<'_>) -> Vec<PartitionReading> {
    let active = raw::active_vgpus(device);
    let loads = if active.is_empty() { BTreeMap::new() } else { raw::vgpu_loads(device) };
    let read = |id| {
        let vgpu = VgpuInstance::new(id, device);
        let mdev = vgpu.mdev_uuid().ok().and_then(|uuid| uuid.parse().ok());
        let vm = || match vgpu.vm_id().ok()? {
            VmId::Uuid(uuid) => uuid.parse().ok(),
            VmId::Domain(_) => None,
        };
        let user = mdev.map(User::Mdev).or_else(|| vm().map(User::Vm))?;
        let telemetry = PartitionTelemetry {
            utilization_percent: loads.get(&id).copied(),
            memory_used_mib: vgpu.fb_usage().ok().map(|bytes| bytes >> 20),
        };
        Some(PartitionReading { user, telemetry })
    };
    active.into_iter().filter_map(read).collect()
}

/// The types that the GPU can have when it has none. While it can have several sizes beside each other, there can be fewer of
/// each; nothing is said then.
fn types(device: &Device<'_>) -> Vec<PartitionType> {
    if raw::is_mixed(device) {
        return Vec::new();
    }
    let read = |kind: &VgpuType<'_>| {
        let name = kind.name().ok()?;
        Some(PartitionType {
            id: kind.id(),
            profile: vgpu::profile_name(&name).filter(|_| !is_of_an_instance(&name))?,
            max: kind.max_instances().ok().and_then(|max| u16::try_from(max).ok()).filter(|max| *max > 0)?,
            memory_mib: kind.framebuffer_size().ok()? >> 20,
        })
    };
    device.vgpu_supported_types().unwrap_or_default().iter().take(TYPES_MAX).filter_map(read).collect()
}

/// Whether a type is one of a part of a GPU that was divided before (MIG): `NVIDIA A100-1-5C`.
fn is_of_an_instance(name: &str) -> bool {
    let part = name.rsplit('-').nth(1).filter(|part| *part != name);
    part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Errors since the driver was loaded.
fn ecc(device: &Device<'_>) -> Option<Ecc> {
    let enabled = device.is_ecc_enabled().ok()?.currently_enabled;
    let total = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).unwrap_or(0);
    Some(Ecc {
        enabled,
        corrected: if enabled { total(MemoryError::Corrected) } else { 0 },
        uncorrected: if enabled { total(MemoryError::Uncorrected) } else { 0 },
    })
}

/// A field that counts something or names an action; 0 where GPU or library do not know it.
fn field(device: &Device<'_>, field: FieldId) -> u64 {
    told(device, field).unwrap_or(0)
}

fn told(device: &Device<'_>, field: FieldId) -> Option<u64> {
    let values = device.field_values_for(&[field]).unwrap_or_default();
    values.into_iter().flatten().find_map(|sample| whole(sample.value.ok()?))
}

fn whole(value: SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

fn is_text(text: &str) -> bool {
    (1..=TEXT_LEN_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What speaks against a GPU.
struct Wear {
    pending: bool,
    failed: bool,
    uncorrected: u64,
    recovery_action: u64,
}

impl Wear {
    fn signs(&self) -> Vec<(HealthState, String)> {
        let mut signs = Vec::new();
        if self.pending {
            signs.push((HealthState::NeedsReset, "a memory row waits to be remapped".to_owned()));
        }
        if self.failed {
            signs.push((HealthState::Sick, "a memory row could not be remapped".to_owned()));
        }
        if self.uncorrected > 0 {
            let times = self.uncorrected;
            let reason =
                format!("{times} memory errors that could not be corrected since its driver was loaded");
            signs.push((HealthState::Sick, reason));
        }
        if let Some(state) = kernel_log::recovery(self.recovery_action) {
            let reason = match state {
                HealthState::NeedsReset => "its driver says that it needs a reset".to_owned(),
                HealthState::NeedsReboot => "its driver says that the host has to be restarted".to_owned(),
                _ => format!(
                    "its driver wants something done for it (recovery action {})",
                    self.recovery_action
                ),
            };
            signs.push((state, reason));
        }
        signs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_parts_of_a_gpu_are_told_from_those_of_all_of_it() {
        for name in ["NVIDIA A100-1-5C", "NVIDIA A100D-2-20C"] {
            assert!(is_of_an_instance(name), "{name}");
        }
        for name in ["NVIDIA L40S-24Q", "GRID RTX6000-4Q", "NVIDIA RTX Pro 6000 Blackwell DC-96Q", "4Q", ""] {
            assert!(!is_of_an_instance(name), "{name}");
        }
    }

    #[test]
    fn worn_memory_speaks_against_a_gpu() {
        let states = |pending, failed, uncorrected| {
            let signs = Wear { pending, failed, uncorrected, recovery_action: 0 }.signs();
            signs.into_iter().map(|(state, _)| state).max().unwrap_or_default()
        };
        assert_eq!(states(false, false, 0), HealthState::Good);
        assert_eq!(states(false, true, 0), HealthState::Sick);
        assert_eq!(states(false, false, 1), HealthState::Sick);
        assert_eq!(states(true, true, 1), HealthState::NeedsReset);
    }
}
