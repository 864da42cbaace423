//! A stand-in for NVIDIA's management library, so that tests run the code that talks to it.
//!
//! It says what the file `gpus.json` in its own directory says, and is described anew whenever it is opened; a test
//! copies it into a directory of its own. What opens and closes it is written to the file `sessions` there, a line each.
//! Where there is a FIFO `hold`, counting GPUs waits until somebody has opened it for writing and closed it: a library
//! that hangs for as long as a test likes.
//!
//! Signatures and what calls answer: nvml.h.

#![expect(non_snake_case, reason = "the names are those of the library")]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nvml_wrapper_sys::bindings::*;
use serde::Deserialize;

/// What the library knows while it is open, and how often it was opened.
static MACHINE: Mutex<Option<(usize, Machine)>> = Mutex::new(None);
/// The GPUs whose events are wanted: a bit for each.
static LISTENED: AtomicU64 = AtomicU64::new(0);

/// `gpus.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Machine {
    driver_version: String,
    /// What calls about no GPU answer, by their names.
    errors: BTreeMap<String, nvmlReturn_t>,
    gpus: Vec<Gpu>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Gpu {
    bus_id: String,
    uuid: String,
    serial: String,
    vbios: String,
    memory_used_mib: u64,
    memory_total_mib: u64,
    utilization: c_uint,
    temperature_c: c_uint,
    power_mw: c_uint,
    /// Whether it is on, errors that were corrected, and errors that were not.
    ecc: Option<(bool, u64, u64)>,
    /// Field values; others are not supported.
    fields: BTreeMap<c_uint, u64>,
    types: Vec<VgpuType>,
    /// Whether its vGPUs may be of several sizes.
    is_mixed: bool,
    vgpus: Vec<Vgpu>,
    /// What calls about this GPU answer, by their names.
    errors: BTreeMap<String, nvmlReturn_t>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VgpuType {
    id: c_uint,
    name: String,
    max: c_uint,
    framebuffer_mib: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Vgpu {
    id: c_uint,
    vm_uuid: String,
    /// Empty where it is no mediated device.
    mdev_uuid: String,
    memory_used_mib: u64,
    /// None before the first sample.
    utilization: Option<c_uint>,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    // A test may have ended, and its directory with it, before a thread that it left behind.
    let Ok(text) = fs::read(beside("gpus.json")) else { return nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED };
    let machine: Machine = serde_json::from_slice(&text).expect("the description is understood");
    if let Some(error) = machine.errors.get("nvmlInit_v2") {
        return *error;
    }
    let mut open = lock();
    let times = open.as_ref().map_or(0, |(times, _)| *times);
    *open = Some((times + 1, machine));
    note("open");
    nvmlReturn_enum_NVML_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    let answer = on_machine("nvmlShutdown", |_| nvmlReturn_enum_NVML_SUCCESS);
    let mut open = lock();
    match &mut *open {
        Some((times, _)) if *times > 1 => *times -= 1,
        _ => *open = None,
    }
    note("close");
    answer
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut nvmlEventSet_t) -> nvmlReturn_t {
    on_machine("nvmlEventSetCreate", |_| {
        LISTENED.store(0, Ordering::SeqCst);
        // SAFETY: the caller's pointer is valid.
        unsafe { *set = 1 as nvmlEventSet_t };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(_set: nvmlEventSet_t) -> nvmlReturn_t {
    on_machine("nvmlEventSetFree", |_| nvmlReturn_enum_NVML_SUCCESS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(
    device: nvmlDevice_t,
    types: *mut c_ulonglong,
) -> nvmlReturn_t {
    // SAFETY: the caller's pointer is valid.
    on_gpu("nvmlDeviceGetSupportedEventTypes", device, |_| unsafe { put_all(&[u64::MAX], &mut 1, types) })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _types: c_ulonglong,
    _set: nvmlEventSet_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceRegisterEvents", device, |_| {
        LISTENED.fetch_or(1 << (device as usize), Ordering::SeqCst);
        nvmlReturn_enum_NVML_SUCCESS
    })
}

/// Events lie in the file `events`: the number of a GPU, what kind it is, and its data. Each is told once.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: nvmlEventSet_t,
    event: *mut nvmlEventData_t,
    wait_ms: c_uint,
) -> nvmlReturn_t {
    let answer = on_machine("nvmlEventSetWait_v2", |_| {
        let Ok(text) = fs::read(beside("events")) else { return nvmlReturn_enum_NVML_ERROR_TIMEOUT };
        if fs::remove_file(beside("events")).is_err() {
            return nvmlReturn_enum_NVML_ERROR_TIMEOUT;
        }
        let (gpu, kind, data): (usize, u64, u64) = serde_json::from_slice(&text).expect("an event");
        if LISTENED.load(Ordering::SeqCst) & 1 << (gpu + 1) == 0 {
            return nvmlReturn_enum_NVML_ERROR_TIMEOUT;
        }
        // SAFETY: the caller's structure is valid.
        let event = unsafe { &mut *event };
        (event.device, event.eventType, event.eventData) = ((gpu + 1) as nvmlDevice_t, kind, data);
        nvmlReturn_enum_NVML_SUCCESS
    });
    if answer == nvmlReturn_enum_NVML_ERROR_TIMEOUT {
        std::thread::sleep(Duration::from_millis(wait_ms.into()));
    }
    answer
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> nvmlReturn_t {
    // SAFETY: the caller's buffer is as long as it says.
    on_machine("nvmlSystemGetDriverVersion", |machine| unsafe {
        put(&machine.driver_version, version, length)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> nvmlReturn_t {
    // It is not there, or it gives nothing once its writer is gone.
    let _ = fs::read(beside("hold"));
    on_machine("nvmlDeviceGetCount_v2", |machine| {
        // SAFETY: the caller's pointer is valid.
        unsafe { *count = number(machine.gpus.len()) };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> nvmlReturn_t {
    let handle = index as usize + 1;
    let answer =
        on_gpu("nvmlDeviceGetHandleByIndex_v2", handle as nvmlDevice_t, |_| nvmlReturn_enum_NVML_SUCCESS);
    if answer == nvmlReturn_enum_NVML_SUCCESS {
        // SAFETY: the caller's pointer is valid.
        unsafe { *device = handle as nvmlDevice_t };
    }
    answer
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetPciInfo_v3", device, |gpu| {
        // SAFETY: the caller's structure is valid; its texts are as long as their types say.
        unsafe {
            put(&gpu.bus_id[4..], (&raw mut (*pci).busIdLegacy).cast(), 16);
            put(&gpu.bus_id, (&raw mut (*pci).busId).cast(), 32)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer is as long as it says.
    on_gpu("nvmlDeviceGetUUID", device, |gpu| unsafe { put(&gpu.uuid, uuid, length) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSerial(
    device: nvmlDevice_t,
    serial: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer is as long as it says.
    on_gpu("nvmlDeviceGetSerial", device, |gpu| unsafe { put(&gpu.serial, serial, length) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetVbiosVersion(
    device: nvmlDevice_t,
    version: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer is as long as it says.
    on_gpu("nvmlDeviceGetVbiosVersion", device, |gpu| unsafe { put(&gpu.vbios, version, length) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetMemoryInfo_v2", device, |gpu| {
        // SAFETY: the caller's structure is valid.
        let memory = unsafe { &mut *memory };
        (memory.total, memory.used) = (gpu.memory_total_mib << 20, gpu.memory_used_mib << 20);
        memory.free = memory.total - memory.used;
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    device: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetUtilizationRates", device, |gpu| {
        let told = [nvmlUtilization_t { gpu: gpu.utilization, memory: 0 }];
        // SAFETY: the caller's structure is valid.
        unsafe { put_all(&told, &mut 1, rates) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: nvmlDevice_t,
    _: c_uint,
    told: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's number is valid.
    on_gpu("nvmlDeviceGetTemperature", device, |gpu| unsafe { put_all(&[gpu.temperature_c], &mut 1, told) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, told: *mut c_uint) -> nvmlReturn_t {
    // SAFETY: the caller's number is valid.
    on_gpu("nvmlDeviceGetPowerUsage", device, |gpu| unsafe { put_all(&[gpu.power_mw], &mut 1, told) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetEccMode", device, |gpu| {
        let Some((is_on, ..)) = gpu.ecc else { return nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED };
        // SAFETY: the caller's pointers are valid.
        unsafe { (*current, *pending) = (is_on.into(), is_on.into()) };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEccErrors(
    device: nvmlDevice_t,
    kind: nvmlMemoryErrorType_t,
    _counter: nvmlEccCounterType_t,
    count: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetTotalEccErrors", device, |gpu| {
        let Some((_, corrected, uncorrected)) = gpu.ecc else {
            return nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
        };
        let is_corrected = kind == nvmlMemoryErrorType_enum_NVML_MEMORY_ERROR_TYPE_CORRECTED;
        // SAFETY: the caller's pointer is valid.
        unsafe { *count = if is_corrected { corrected } else { uncorrected } };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetFieldValues", device, |gpu| {
        // SAFETY: the caller's array is as long as it says.
        let values = unsafe { std::slice::from_raw_parts_mut(values, usize::try_from(count).unwrap_or(0)) };
        for value in values {
            let known = gpu.fields.get(&value.fieldId);
            value.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
            value.value.ullVal = known.copied().unwrap_or(0);
            value.nvmlReturn =
                known.map_or(nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED, |_| nvmlReturn_enum_NVML_SUCCESS);
        }
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetActiveVgpus(
    device: nvmlDevice_t,
    count: *mut c_uint,
    instances: *mut nvmlVgpuInstance_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetActiveVgpus", device, |gpu| {
        let ids: Vec<c_uint> = gpu.vgpus.iter().map(|vgpu| vgpu.id).collect();
        // SAFETY: the caller's array is as long as it says.
        unsafe { put_all(&ids, count, instances) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetVgpuUtilization(
    device: nvmlDevice_t,
    _since: c_ulonglong,
    kind: *mut nvmlValueType_t,
    count: *mut c_uint,
    samples: *mut nvmlVgpuInstanceUtilizationSample_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetVgpuUtilization", device, |gpu| {
        let value = |uiVal| nvmlValue_t { uiVal };
        let sample = |vgpu: &Vgpu| {
            Some(nvmlVgpuInstanceUtilizationSample_t {
                vgpuInstance: vgpu.id,
                timeStamp: 1,
                smUtil: value(vgpu.utilization?),
                memUtil: value(0),
                encUtil: value(0),
                decUtil: value(0),
            })
        };
        let found: Vec<_> = gpu.vgpus.iter().filter_map(sample).collect();
        if found.is_empty() {
            return nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
        }
        // SAFETY: the caller's pointer is valid and its array as long as it says.
        unsafe {
            *kind = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
            put_all(&found, count, samples)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuInstanceGetVmID(
    instance: nvmlVgpuInstance_t,
    id: *mut c_char,
    length: c_uint,
    kind: *mut nvmlVgpuVmIdType_t,
) -> nvmlReturn_t {
    // SAFETY: the caller's pointer is valid and its buffer as long as it says.
    on_vgpu("nvmlVgpuInstanceGetVmID", instance, |vgpu| unsafe {
        *kind = nvmlVgpuVmIdType_NVML_VGPU_VM_ID_UUID;
        put(&vgpu.vm_uuid, id, length)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuInstanceGetMdevUUID(
    instance: nvmlVgpuInstance_t,
    uuid: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    on_vgpu("nvmlVgpuInstanceGetMdevUUID", instance, |vgpu| {
        if vgpu.mdev_uuid.is_empty() {
            return nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
        }
        // SAFETY: the caller's buffer is as long as it says.
        unsafe { put(&vgpu.mdev_uuid, uuid, length) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuInstanceGetFbUsage(
    instance: nvmlVgpuInstance_t,
    bytes: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_vgpu("nvmlVgpuInstanceGetFbUsage", instance, |vgpu| {
        // SAFETY: the caller's pointer is valid.
        unsafe { *bytes = vgpu.memory_used_mib << 20 };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedVgpus(
    device: nvmlDevice_t,
    count: *mut c_uint,
    types: *mut nvmlVgpuTypeId_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetSupportedVgpus", device, |gpu| {
        if gpu.types.is_empty() {
            return nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
        }
        let ids: Vec<c_uint> = gpu.types.iter().map(|kind| kind.id).collect();
        // SAFETY: the caller's array is as long as it says.
        unsafe { put_all(&ids, count, types) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetVgpuHeterogeneousMode(
    device: nvmlDevice_t,
    mode: *mut nvmlVgpuHeterogeneousMode_t,
) -> nvmlReturn_t {
    on_gpu("nvmlDeviceGetVgpuHeterogeneousMode", device, |gpu| {
        // SAFETY: the caller's structure is valid.
        let mode = unsafe { &mut *mode };
        let version = size_of::<nvmlVgpuHeterogeneousMode_t>() | 1 << 24;
        if mode.version as usize != version {
            return nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
        }
        mode.mode = gpu.is_mixed.into();
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuTypeGetName(
    id: nvmlVgpuTypeId_t,
    name: *mut c_char,
    length: *mut c_uint,
) -> nvmlReturn_t {
    // SAFETY: the caller's buffer is as long as it says.
    on_type("nvmlVgpuTypeGetName", id, |kind| unsafe { put(&kind.name, name, *length) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuTypeGetFramebufferSize(
    id: nvmlVgpuTypeId_t,
    bytes: *mut c_ulonglong,
) -> nvmlReturn_t {
    on_type("nvmlVgpuTypeGetFramebufferSize", id, |kind| {
        // SAFETY: the caller's pointer is valid.
        unsafe { *bytes = kind.framebuffer_mib << 20 };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlVgpuTypeGetMaxInstances(
    device: nvmlDevice_t,
    id: nvmlVgpuTypeId_t,
    max: *mut c_uint,
) -> nvmlReturn_t {
    on_gpu("nvmlVgpuTypeGetMaxInstances", device, |gpu| {
        let Some(kind) = gpu.types.iter().find(|kind| kind.id == id) else {
            return nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
        };
        // SAFETY: the caller's pointer is valid.
        unsafe { *max = kind.max };
        nvmlReturn_enum_NVML_SUCCESS
    })
}

fn on_machine(call: &str, answer: impl FnOnce(&Machine) -> nvmlReturn_t) -> nvmlReturn_t {
    match &*lock() {
        None => nvmlReturn_enum_NVML_ERROR_UNINITIALIZED,
        Some((_, machine)) => machine.errors.get(call).copied().unwrap_or_else(|| answer(machine)),
    }
}

fn on_gpu(call: &str, device: nvmlDevice_t, answer: impl FnOnce(&Gpu) -> nvmlReturn_t) -> nvmlReturn_t {
    on_machine(call, |machine| {
        // A handle is the GPU's number, counted from 1.
        let Some(gpu) = (device as usize).checked_sub(1).and_then(|index| machine.gpus.get(index)) else {
            return nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
        };
        gpu.errors.get(call).copied().unwrap_or_else(|| answer(gpu))
    })
}

fn on_vgpu(call: &str, id: c_uint, answer: impl FnOnce(&Vgpu) -> nvmlReturn_t) -> nvmlReturn_t {
    on_machine(call, |machine| {
        let vgpus = || machine.gpus.iter().flat_map(|gpu| gpu.vgpus.iter().map(move |vgpu| (gpu, vgpu)));
        let Some((gpu, vgpu)) = vgpus().find(|(_, vgpu)| vgpu.id == id) else {
            return nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
        };
        gpu.errors.get(call).copied().unwrap_or_else(|| answer(vgpu))
    })
}

fn on_type(call: &str, id: c_uint, answer: impl FnOnce(&VgpuType) -> nvmlReturn_t) -> nvmlReturn_t {
    on_machine(call, |machine| {
        let types = || machine.gpus.iter().flat_map(|gpu| gpu.types.iter().map(move |kind| (gpu, kind)));
        let Some((gpu, kind)) = types().find(|(_, kind)| kind.id == id) else {
            return nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
        };
        gpu.errors.get(call).copied().unwrap_or_else(|| answer(kind))
    })
}

/// Puts a text and its end into a buffer.
///
/// # Safety
/// The buffer is as long as `length` says.
unsafe fn put(text: &str, buffer: *mut c_char, length: c_uint) -> nvmlReturn_t {
    if text.len() >= length as usize {
        return nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
    }
    // SAFETY: there is room for the text and its end.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        *buffer.add(text.len()) = 0;
    }
    nvmlReturn_enum_NVML_SUCCESS
}

/// Puts items into an array, or says how long it would have to be.
///
/// # Safety
/// `count` is valid, and `array` is none or as long as `count` says.
unsafe fn put_all<T: Copy>(items: &[T], count: *mut c_uint, array: *mut T) -> nvmlReturn_t {
    // SAFETY: the pointer is valid.
    let room = unsafe { std::mem::replace(&mut *count, number(items.len())) };
    if items.is_empty() {
        return nvmlReturn_enum_NVML_SUCCESS;
    }
    if array.is_null() || (room as usize) < items.len() {
        return nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
    }
    // SAFETY: there is room for all of them.
    unsafe { std::ptr::copy_nonoverlapping(items.as_ptr(), array, items.len()) };
    nvmlReturn_enum_NVML_SUCCESS
}

fn number(length: usize) -> c_uint {
    c_uint::try_from(length).expect("a description is short")
}

fn lock() -> MutexGuard<'static, Option<(usize, Machine)>> {
    MACHINE.lock().expect("nobody panics in here")
}

fn note(what: &str) {
    // As above.
    if let Ok(mut file) = fs::File::options().create(true).append(true).open(beside("sessions")) {
        writeln!(file, "{what}").expect("the directory is a test's");
    }
}

/// A file in the directory of this library.
fn beside(name: &str) -> PathBuf {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the structure is valid, and the address is one of this library's.
    let found = unsafe { libc::dladdr(nvmlInit_v2 as *const c_void, &raw mut info) };
    assert_ne!(found, 0, "this library was loaded from a file");
    // SAFETY: the loader keeps the name for as long as the library is loaded.
    let own = unsafe { CStr::from_ptr(info.dli_fname) };
    let own = Path::new(OsStr::from_bytes(own.to_bytes()));
    own.with_file_name(name)
}
