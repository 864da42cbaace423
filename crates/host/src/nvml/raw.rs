//! What the library has and its wrapper does not: calls with arrays and structures of the caller's.
//!
//! Each asks whether the library has the function at all; an old one has not. Signatures and sizes: nvml.h.

use std::collections::BTreeMap;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::SampleValueType;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet};
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_enum_NVML_SUCCESS as SUCCESS, nvmlValue_t,
    nvmlVgpuHeterogeneousMode_t, nvmlVgpuInstance_t, nvmlVgpuInstanceUtilizationSample_t,
};

/// The most vGPUs of one GPU that are asked for. NVIDIA's GPUs have 32 at most.
const VGPUS_MAX: u32 = 64;

/// The size of the structure, and the number of its version in the upper byte (nvml.h, `NVML_STRUCT_VERSION`).
const HETEROGENEOUS_MODE_VERSION: u32 = 8 | 1 << 24;
const _: () = assert!(size_of::<nvmlVgpuHeterogeneousMode_t>() == 8);

/// The vGPUs of a GPU that VMs use.
pub(super) fn active_vgpus(device: &Device<'_>) -> Vec<nvmlVgpuInstance_t> {
    let Ok(ask) = device.nvml().lib().nvmlDeviceGetActiveVgpus.as_ref() else { return Vec::new() };
    let (mut ids, mut count) = (vec![0; VGPUS_MAX as usize], VGPUS_MAX);
    // SAFETY: the handle is of this session, which `device` keeps open, and the array is as long as `count` says.
    let answer = unsafe { ask(device.handle(), &raw mut count, ids.as_mut_ptr()) };
    ids.truncate(if answer == SUCCESS { count as usize } else { 0 });
    ids
}

/// Whether the GPU can have vGPUs of several sizes beside each other.
pub(super) fn is_mixed(device: &Device<'_>) -> bool {
    let Ok(ask) = device.nvml().lib().nvmlDeviceGetVgpuHeterogeneousMode.as_ref() else { return false };
    let mut told = nvmlVgpuHeterogeneousMode_t { version: HETEROGENEOUS_MODE_VERSION, mode: 0 };
    // SAFETY: the handle is of this session, and the structure is of the version that it says.
    let answer = unsafe { ask(device.handle(), &raw mut told) };
    answer == SUCCESS && told.mode != 0
}

/// Has a GPU's faults told through a set of events; false where the GPU or the library tells none. Unlike the wrapper's, one
/// GPU that refuses does not cost the whole set.
///
/// # Errors
/// The set is of no use any more.
pub(super) fn register(device: &Device<'_>, events: &EventSet<'_>) -> Result<bool, NvmlError> {
    let Ok(register) = device.nvml().lib().nvmlDeviceRegisterEvents.as_ref() else { return Ok(false) };
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let Ok(wanted) = device.supported_event_types().map(|supported| supported & wanted) else {
        return Ok(false);
    };
    if wanted.is_empty() {
        return Ok(false);
    }
    // SAFETY: both handles are of this session, which `device` and `events` keep open.
    match unsafe { register(device.handle(), wanted.bits(), events.handle()) } {
        SUCCESS => Ok(true),
        // Then the set is in no defined state (nvml.h).
        UNKNOWN => Err(NvmlError::Unknown),
        _ => Ok(false),
    }
}

/// How much of a GPU went to each of its vGPUs in its last moments, 0 to 100.
pub(super) fn vgpu_loads(device: &Device<'_>) -> BTreeMap<nvmlVgpuInstance_t, u8> {
    let Ok(ask) = device.nvml().lib().nvmlDeviceGetVgpuUtilization.as_ref() else { return BTreeMap::new() };
    let none = nvmlValue_t { ullVal: 0 };
    let blank = nvmlVgpuInstanceUtilizationSample_t {
        vgpuInstance: 0,
        timeStamp: 0,
        smUtil: none,
        memUtil: none,
        encUtil: none,
        decUtil: none,
    };
    let (mut samples, mut count, mut kind) = (vec![blank; VGPUS_MAX as usize], VGPUS_MAX, 0);
    // SAFETY: as above; from time 0 on, so that there is one sample of each.
    let answer = unsafe { ask(device.handle(), 0, &raw mut kind, &raw mut count, samples.as_mut_ptr()) };
    let Ok(kind) = SampleValueType::try_from(kind) else { return BTreeMap::new() };
    samples.truncate(if answer == SUCCESS { count as usize } else { 0 });
    let load = |sample: nvmlVgpuInstanceUtilizationSample_t| {
        let percent = super::whole(SampleValue::from_tag_and_union(&kind, sample.smUtil))?;
        Some((sample.vgpuInstance, u8::try_from(percent).ok().filter(|percent| *percent <= 100)?))
    };
    samples.into_iter().filter_map(load).collect()
}
