//! How busy guests are: the time that their processors took, and their memory.
//!
//! libvirt counts processor time from a domain's start, so how busy a guest was is known from the second look on. Domains that are in
//! the middle of something else are passed over rather than waited for.
//!
//! Memory is what the guest says that it uses, where its balloon driver tells; else what its machine holds of the host's memory, which
//! is all of it for a guest with a device of the host's.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tranche_core::history::{Quantity, Reading};
use tranche_core::name::VmName;
use virt::error::Error;
use virt_sys as sys;

use super::link::Link;

/// What was asked for last.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<HashMap<VmName, Counted>>);

/// What libvirt has counted of a guest.
#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Instant,
    /// libvirt's number of its run.
    run: u32,
    cpu_ns: u64,
}

/// What libvirt says of a guest.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    run: u32,
    cpu_ns: Option<u64>,
    vcpus: Option<u32>,
    memory_kib: Option<u64>,
}

impl Usage {
    /// Asks for all guests that run.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub(super) fn look(&self, link: &Link) -> Result<BTreeMap<VmName, Reading>, Error> {
        let told = ask(link)?;
        let at = Instant::now();
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = HashMap::new();
        let mut readings = BTreeMap::new();
        for (vm, told) in told {
            let now = told.cpu_ns.map(|cpu_ns| Counted { at, run: told.run, cpu_ns });
            let load = now.and_then(|now| load_percent(before.get(&vm), &now, told.vcpus?));
            let reading = Reading::default()
                .with(Quantity::UtilizationPercent, load)
                .with(Quantity::MemoryUsedMib, told.memory_kib.map(|kib| kib >> 10));
            counted.extend(now.map(|now| (vm.clone(), now)));
            readings.insert(vm, reading);
        }
        *before = counted;
        Ok(readings)
    }
}

/// How much of its processors' time a guest took between two looks, in percent. Its machine's own work counts too, so it can be more
/// than there is.
fn load_percent(before: Option<&Counted>, now: &Counted, vcpus: u32) -> Option<u32> {
    let before = before.filter(|before| before.run == now.run)?;
    let passed_ns = now.at.saturating_duration_since(before.at).as_nanos() * u128::from(vcpus);
    let took_ns = u128::from(now.cpu_ns.checked_sub(before.cpu_ns)?);
    let percent = (took_ns * 100 + passed_ns / 2).checked_div(passed_ns)?;
    u32::try_from(percent.min(100)).ok()
}

fn ask(link: &Link) -> Result<Vec<(VmName, Told)>, Error> {
    let what = sys::VIR_DOMAIN_STATS_CPU_TOTAL | sys::VIR_DOMAIN_STATS_VCPU | sys::VIR_DOMAIN_STATS_BALLOON;
    let how = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection is valid as long as it is borrowed, and libvirt allocates the records, which are freed below.
    let count =
        unsafe { sys::virConnectGetAllDomainStats(link.connect().as_ptr(), what, &raw mut records, how) };
    let Ok(count) = usize::try_from(count) else { return Err(Error::last_error()) };
    // SAFETY: there are as many records as it said, each valid until the list is freed.
    let told = (0..count).filter_map(|index| unsafe { read(*records.add(index)) }).collect();
    // SAFETY: the records are libvirt's, and nobody uses them any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(told)
}

/// What a record says; none of a domain whose name is no VM's.
///
/// # Safety
/// The record is valid.
unsafe fn read(record: sys::virDomainStatsRecordPtr) -> Option<(VmName, Told)> {
    // SAFETY: as the caller says; its domain is valid as long as it is.
    let (record, name, run) = unsafe {
        let record = *record;
        (record, sys::virDomainGetName(record.dom), sys::virDomainGetID(record.dom))
    };
    if name.is_null() {
        return None;
    }
    // SAFETY: libvirt's names end with a null.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?.parse().ok()?;
    let long = |field: &CStr| {
        let mut value = 0;
        // SAFETY: the record has as many parameters as it says, and the name ends with a null.
        let found = unsafe {
            sys::virTypedParamsGetULLong(record.params, record.nparams, field.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    };
    let mut vcpus = 0;
    // SAFETY: as above.
    let has_vcpus = unsafe {
        let field = sys::VIR_DOMAIN_STATS_VCPU_CURRENT.as_ptr();
        sys::virTypedParamsGetUInt(record.params, record.nparams, field, &raw mut vcpus)
    };
    let available = long(sys::VIR_DOMAIN_STATS_BALLOON_AVAILABLE);
    let used = available.zip(long(sys::VIR_DOMAIN_STATS_BALLOON_UNUSED));
    let used = used.and_then(|(available, unused)| available.checked_sub(unused));
    let told = Told {
        run,
        cpu_ns: long(sys::VIR_DOMAIN_STATS_CPU_TIME),
        vcpus: (has_vcpus == 1 && vcpus > 0).then_some(vcpus),
        memory_kib: used.or_else(|| long(sys::VIR_DOMAIN_STATS_BALLOON_RSS)),
    };
    Some((name, told))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn how_busy_a_guest_was_is_its_time_of_all_its_processors_between_two_looks_of_one_run() {
        let begin = Instant::now();
        let counted = |seconds, run, cpu_ms: u64| Counted {
            at: begin + Duration::from_secs(seconds),
            run,
            cpu_ns: cpu_ms * 1_000_000,
        };
        let load = |before, now, vcpus| load_percent(Some(&before), &now, vcpus);
        assert_eq!(load(counted(0, 1, 1_000), counted(10, 1, 21_000), 4), Some(50));
        assert_eq!(load(counted(0, 1, 0), counted(10, 1, 11_000), 1), Some(100), "its machine works, too");
        assert_eq!(load(counted(0, 1, 0), counted(10, 2, 5_000), 1), None, "another run");
        assert_eq!(load(counted(0, 1, 5_000), counted(10, 1, 0), 1), None, "it was reset");
        assert_eq!(load(counted(0, 1, 0), counted(0, 1, 0), 1), None, "no time has passed");
        assert_eq!(load_percent(None, &counted(0, 1, 0), 1), None);
    }
}
