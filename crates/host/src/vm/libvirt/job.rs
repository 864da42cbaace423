//! What libvirt is doing with a domain for long: sending it, or taking it in.
//!
//! The binding's own way of asking takes the memory of the answer for Rust's, which it is not (virt 0.4.3, `get_job_stats`), so the
//! library is asked itself.

use std::ffi::{CStr, c_int};
use std::ptr;

use virt::domain::Domain;
use virt_sys as sys;

/// Of less than this the setting up takes too great a part to tell what a way carries, in MiB.
const TELLING_MIB: u64 = 32;

/// What libvirt tells of a job (libvirt: virDomainGetJobStats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Job {
    /// The domain is being sent to another host.
    pub(super) leaves: bool,
    /// Memory and devices in bytes, with what has changed since it was sent.
    pub(super) total_bytes: u64,
    /// What of that is still to be sent, in bytes.
    pub(super) left_bytes: u64,
    /// What was really sent, in bytes: pages of zeroes are not.
    pub(super) sent_bytes: u64,
    /// The round in which memory is sent, from 1 on.
    pub(super) round: u64,
    /// For how long the guest stood still, in milliseconds; known at the end.
    pub(super) pause_ms: u64,
    /// How long it has taken so far, in milliseconds.
    pub(super) elapsed_ms: u64,
}

impl Job {
    /// The job that is under way; none if there is none, or libvirt does not say.
    pub(super) fn under_way(domain: &Domain) -> Option<Self> {
        Self::ask(domain, 0)
    }

    /// The last job that was completed.
    pub(super) fn completed(domain: &Domain) -> Option<Self> {
        Self::ask(domain, sys::VIR_DOMAIN_JOB_STATS_COMPLETED)
    }

    fn ask(domain: &Domain, flags: sys::virDomainGetJobStatsFlags) -> Option<Self> {
        let (mut kind, mut count, mut parameters): (c_int, c_int, sys::virTypedParameterPtr) =
            (0, 0, ptr::null_mut());
        // SAFETY: the domain is valid as long as it is borrowed, and libvirt allocates the parameters.
        let asked = unsafe {
            sys::virDomainGetJobStats(
                domain.as_ptr(),
                &raw mut kind,
                &raw mut parameters,
                &raw mut count,
                flags,
            )
        };
        if asked != 0 {
            return None;
        }
        let answer = Answer { parameters, count };
        if u32::try_from(kind) == Ok(sys::VIR_DOMAIN_JOB_NONE) {
            return None;
        }
        let operation =
            answer.int(sys::VIR_DOMAIN_JOB_OPERATION).and_then(|operation| u32::try_from(operation).ok());
        Some(Self {
            leaves: operation == Some(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT),
            total_bytes: answer.long(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
            left_bytes: answer.long(sys::VIR_DOMAIN_JOB_DATA_REMAINING),
            sent_bytes: answer.long(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
            round: answer.long(sys::VIR_DOMAIN_JOB_MEMORY_ITERATION),
            pause_ms: answer.long(sys::VIR_DOMAIN_JOB_DOWNTIME),
            elapsed_ms: answer.long(sys::VIR_DOMAIN_JOB_TIME_ELAPSED),
        })
    }
}

impl Job {
    /// What the way carried, in MiB/s; none of one that sent too little to tell.
    pub(super) fn speed_mib_s(&self) -> Option<u32> {
        let sent_mib = self.sent_bytes >> 20;
        if sent_mib < TELLING_MIB {
            return None;
        }
        u32::try_from(sent_mib.saturating_mul(1_000).checked_div(self.elapsed_ms)?)
            .ok()
            .filter(|mib_s| *mib_s > 0)
    }
}

/// Parameters that libvirt has allocated, and frees.
struct Answer {
    parameters: sys::virTypedParameterPtr,
    count: c_int,
}

impl Answer {
    fn int(&self, name: &CStr) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: the parameters are libvirt's, `count` of them, and the name is a C string.
        let found =
            unsafe { sys::virTypedParamsGetInt(self.parameters, self.count, name.as_ptr(), &raw mut value) };
        (found == 1).then_some(value)
    }

    fn long(&self, name: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: as in `int`.
        let found = unsafe {
            sys::virTypedParamsGetULLong(self.parameters, self.count, name.as_ptr(), &raw mut value)
        };
        if found == 1 { value } else { 0 }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: libvirt allocated them, and nobody uses them any more. It takes none for nothing.
        unsafe { sys::virTypedParamsFree(self.parameters, self.count) };
    }
}
