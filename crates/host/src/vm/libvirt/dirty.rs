//! How much memory guests change, as QEMU estimates it.
//!
//! QEMU samples some pages before and after a second (qapi/migration.json, `calc-dirty-rate`), which costs a guest nothing that it
//! would notice. Each is measured some time after it began to run, and again now and then: what is told rests on minutes ago, which
//! is good enough to say whether a move would end at all. A new value is told only if it is quite another, so that reports stay the
//! same while guests do.
//!
//! It has a thread of its own: libvirt makes whoever asks it for anything of a guest wait while another call about that guest hangs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tranche_core::name::VmName;
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

use super::Shared;
use super::link::Link;

/// How often it is seen which guests run.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often it is measured.
const EVERY: Duration = Duration::from_mins(15);
/// How long one measurement lasts, in seconds: the shortest that QEMU offers.
const LASTS_S: i32 = 1;
/// When its outcome is asked for.
const ASK_AFTER: Duration = Duration::from_secs(3);
/// What is this near to the last value, in percent of it, or in MiB/s, is no news.
const SAME_PERCENT: u64 = 25;
const SAME_MIB_S: u64 = 4;

/// What is known of each guest that runs.
#[derive(Debug, Default)]
pub(super) struct DirtyRates(Mutex<HashMap<Uuid, Guest>>);

#[derive(Debug)]
struct Guest {
    name: VmName,
    /// libvirt's number of its run.
    run: u32,
    seen_at: Instant,
    asked: Option<Asked>,
    mib_s: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    is_answered: bool,
}

/// What is due for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// A measurement.
    Measure,
    /// To ask for its outcome.
    Ask,
}

impl Guest {
    fn due(&self, now: Instant, first_after: Duration) -> Due {
        let since = |at: Instant| now.saturating_duration_since(at);
        match self.asked {
            None if since(self.seen_at) >= first_after => Due::Measure,
            Some(asked) if !asked.is_answered && since(asked.at) >= ASK_AFTER => Due::Ask,
            Some(asked) if asked.is_answered && since(asked.at) >= EVERY => Due::Measure,
            _ => Due::Nothing,
        }
    }

    fn note(&mut self, measured_mib_s: u32) {
        let (is, was) = (u64::from(measured_mib_s), self.mib_s.map(u64::from));
        let is_same = |was: u64| is.abs_diff(was) <= SAME_MIB_S.max(was * SAME_PERCENT / 100);
        if !was.is_some_and(is_same) {
            self.mib_s = Some(measured_mib_s);
        }
    }
}

impl DirtyRates {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees all guests that run, and does what is due for each.
    fn look(&self, link: &Link, first_after: Duration) -> Result<(), Error> {
        let mut present = HashSet::new();
        for domain in link.connect().list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_RUNNING)? {
            // One that ends meanwhile is seen no more.
            let (Ok(key), Some(run), Ok(name)) = (domain.get_uuid(), domain.get_id(), domain.get_name())
            else {
                continue;
            };
            let Ok(name) = name.parse() else { continue };
            present.insert(key);
            self.see(&domain, key, (name, run), first_after);
        }
        self.lock().retain(|domain, _| present.contains(domain));
        Ok(())
    }

    fn see(&self, domain: &Domain, key: Uuid, (name, run): (VmName, u32), first_after: Duration) {
        let now = Instant::now();
        let new = || Guest { name, run, seen_at: now, asked: None, mib_s: None };
        let due = {
            let mut guests = self.lock();
            if guests.get(&key).is_some_and(|guest| guest.run != run) {
                guests.remove(&key);
            }
            guests.entry(key).or_insert_with(new).due(now, first_after)
        };
        let asked = match due {
            Due::Nothing => return,
            Due::Measure => {
                // Where QEMU or libvirt cannot do it, nothing is known, and it is tried again much later.
                // SAFETY: the domain is valid as long as it is borrowed.
                let begun = unsafe { sys::virDomainStartDirtyRateCalc(domain.as_ptr(), LASTS_S, 0) };
                Asked { at: now, is_answered: begun != 0 }
            }
            Due::Ask => Asked { at: now, is_answered: true },
        };
        let measured_mib_s = if due == Due::Ask { outcome(domain) } else { None };
        if let Some(guest) = self.lock().get_mut(&key) {
            guest.asked = Some(asked);
            if let Some(mib_s) = measured_mib_s {
                guest.note(mib_s);
            }
        }
    }

    /// What was measured, in MiB/s.
    pub(super) fn known(&self) -> BTreeMap<VmName, u32> {
        self.lock().values().filter_map(|guest| Some((guest.name.clone(), guest.mib_s?))).collect()
    }
}

/// Measures the guests of a host for as long as somebody uses it.
pub(super) fn watch(shared: Weak<Shared>) {
    let watching = move || {
        while let Some(shared) = shared.upgrade() {
            let first_after = Duration::from_millis(shared.config.measure_after_ms);
            if let Ok(link) = shared.link()
                && let Err(error) = shared.rates.look(&link, first_after)
            {
                tracing::debug!(%error, "it is not known how much memory guests change");
            }
            drop(shared);
            thread::sleep(LOOK_EVERY.min(first_after));
        }
    };
    // Without it nothing is known of them, which is told wherever it matters.
    if let Err(error) = thread::Builder::new().name("libvirt-rates".to_owned()).spawn(watching) {
        tracing::warn!(%error, "nobody measures how much memory guests change");
    }
}

/// What the last measurement of a domain came to, in MiB/s; none if there is none, or it is not over.
fn outcome(domain: &Domain) -> Option<u32> {
    let mut domains = [domain.as_ptr(), ptr::null_mut()];
    let mut records: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the list of domains ends with a null, and libvirt allocates the records, which are freed below.
    let count = unsafe {
        sys::virDomainListGetStats(domains.as_mut_ptr(), sys::VIR_DOMAIN_STATS_DIRTYRATE, &raw mut records, 0)
    };
    if count < 0 {
        return None;
    }
    let mib_s = (count > 0).then(|| {
        // SAFETY: there is at least one record, with as many parameters as it says.
        unsafe {
            let record = **records;
            let (mut status, mut mib_s) = (0, 0);
            let name = sys::VIR_DOMAIN_STATS_DIRTYRATE_CALC_STATUS.as_ptr();
            let has_status =
                sys::virTypedParamsGetInt(record.params, record.nparams, name, &raw mut status) == 1;
            let name = sys::VIR_DOMAIN_STATS_DIRTYRATE_MEGABYTES_PER_SECOND.as_ptr();
            let has_rate =
                sys::virTypedParamsGetLLong(record.params, record.nparams, name, &raw mut mib_s) == 1;
            let is_over = has_status && u32::try_from(status) == Ok(sys::VIR_DOMAIN_DIRTYRATE_MEASURED);
            u32::try_from(mib_s).ok().filter(|_| is_over && has_rate)
        }
    });
    // SAFETY: the records are libvirt's, and nobody uses them any more.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    mib_s.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(seen_at: Instant) -> Guest {
        Guest { name: "a".parse().unwrap(), run: 1, seen_at, asked: None, mib_s: None }
    }

    #[test]
    fn a_guest_is_measured_once_it_has_run_for_a_while_and_then_now_and_then() {
        let begin = Instant::now();
        let mut guest = guest(begin);
        let after = |seconds| begin + Duration::from_secs(seconds);
        let due = |guest: &Guest, seconds| guest.due(after(seconds), Duration::from_mins(1));
        assert_eq!((due(&guest, 59), due(&guest, 60)), (Due::Nothing, Due::Measure));
        guest.asked = Some(Asked { at: after(60), is_answered: false });
        assert_eq!((due(&guest, 62), due(&guest, 63)), (Due::Nothing, Due::Ask));
        guest.asked = Some(Asked { at: after(60), is_answered: true });
        assert_eq!((due(&guest, 900), due(&guest, 960)), (Due::Nothing, Due::Measure));
    }

    #[test]
    fn a_value_that_is_about_the_last_one_is_no_news() {
        let mut guest = guest(Instant::now());
        let told = [0, 3, 5, 100, 124, 80, 126, 64].map(|mib_s| {
            guest.note(mib_s);
            guest.mib_s.unwrap()
        });
        assert_eq!(told, [0, 0, 5, 100, 100, 100, 126, 64]);
    }
}
