//! What libvirt says about all domains.
//!
//! libvirt tells of every domain that comes, goes, starts, stops or gets a device. So an answer of a moment ago serves
//! again where no such event and no step of ours came since: splitting a GPU takes several looks within a second, while
//! libvirtd is busy with the devices that appear. Later the lists are asked for anew: which domains there are, and
//! whether each runs. The rest of a domain rarely changes and is long, so it is read again only when an event says so,
//! when the domain starts or stops, or after a while.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tranche_core::inventory::{
    self, Console, DomainState, HostDevice, MigrationBlocker, OffReason, Resources,
};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::job::Job;
use super::link::Link;
use super::{Shared, resources};
use crate::vm::xml::{self, XmlError};

/// What was read of each domain, and which have changed since.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    readings: HashMap<Uuid, Reading>,
    changed: HashSet<Uuid>,
    /// Pools and networks, and when they were asked for.
    resources: Option<(Instant, Option<Resources>)>,
    /// The last whole answer, and when it was asked for.
    answer: Option<(Instant, inventory::Hypervisor)>,
    /// Counts what made an answer old.
    changes: u64,
}

/// What was read of a domain.
#[derive(Debug, Clone)]
struct Reading {
    state: DomainState,
    vcpus: u32,
    memory_mib: u64,
    defined_devices: Vec<HostDevice>,
    live_devices: Vec<HostDevice>,
    machine: Option<String>,
    blockers: BTreeSet<MigrationBlocker>,
    consoles: BTreeSet<Console>,
    /// Whether it is being sent to another host.
    leaves: bool,
    /// libvirt's number of the run that was read; none for a domain that was off.
    run: Option<u32>,
    at: Instant,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObserveError {
    /// libvirt said no.
    #[error("{}", .0.message())]
    Libvirt(#[from] Error),
    /// A domain's XML is not that of a domain. Without it nobody knows which devices it has, and what is not known must
    /// not be taken for free.
    #[error("domain {domain} cannot be read: {source}")]
    Domain {
        /// Its name.
        domain: String,
        /// What is amiss.
        source: XmlError,
    },
}

impl Cache {
    /// This domain has changed, or may have.
    pub(super) fn mark(&self, domain: Uuid) {
        let mut known = self.lock();
        known.changed.insert(domain);
        known.outdate();
    }

    /// Some domain has changed, or may have.
    pub(super) fn outdate(&self) {
        self.lock().outdate();
    }

    /// Anything may have changed.
    pub(super) fn clear(&self) {
        let mut known = self.lock();
        known.outdate();
        *known = Known { changes: known.changes, ..Known::default() };
    }

    /// The last answer, if it is still good.
    pub(super) fn answer(&self, age_max: Duration) -> Option<inventory::Hypervisor> {
        let known = self.lock();
        let (_, answer) = known.answer.as_ref().filter(|(asked_at, _)| asked_at.elapsed() < age_max)?;
        Some(answer.clone())
    }

    /// Keeps an answer, unless something changed since it was asked for.
    fn keep(&self, changes_before: u64, asked_at: Instant, answer: &inventory::Hypervisor) {
        let mut known = self.lock();
        if known.changes == changes_before {
            known.answer = Some((asked_at, answer.clone()));
        }
    }

    fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// What is known of a domain, read now if need be.
    fn reading(&self, domain: &Domain, key: Uuid, age_max: Duration) -> Result<Reading, ObserveError> {
        let run = domain.get_id();
        {
            let mut known = self.lock();
            // The mark goes before the domain is read: a change meanwhile marks it again.
            let changed = known.changed.remove(&key);
            let fresh = |read: &&Reading| !changed && read.run == run && read.at.elapsed() < age_max;
            if let Some(reading) = known.readings.get(&key).filter(fresh) {
                return Ok(reading.clone());
            }
            known.readings.remove(&key);
        }
        let reading = read(domain, run)?;
        self.lock().readings.insert(key, reading.clone());
        Ok(reading)
    }

    /// Pools and networks, asked for now if need be.
    fn resources(&self, connect: &Connect) -> Option<Resources> {
        let known = self.lock().resources.clone();
        if let Some((_, told)) = known.filter(|(at, _)| at.elapsed() < resources::AGE_MAX) {
            return told;
        }
        let (at, told) = (Instant::now(), resources::read(connect));
        self.lock().resources = Some((at, told.clone()));
        told
    }

    /// Forgets domains that are gone.
    fn keep_only(&self, present: &HashSet<Uuid>) {
        self.lock().readings.retain(|domain, _| present.contains(domain));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Half an update leaves a domain out, which is then read again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn outdate(&mut self) {
        self.answer = None;
        self.changes += 1;
    }
}

impl Shared {
    /// Every domain, with the versions of libvirt and QEMU.
    pub(super) fn observe(&self, link: &Link) -> Result<inventory::Hypervisor, ObserveError> {
        let (changes, asked_at) = (self.cache.changes(), Instant::now());
        let answer = self.ask(link)?;
        // Without events nobody would tell that it is old.
        if link.has_events() {
            self.cache.keep(changes, asked_at, &answer);
        }
        Ok(answer)
    }

    fn ask(&self, link: &Link) -> Result<inventory::Hypervisor, ObserveError> {
        let connect = link.connect();
        let uuids = |flags| -> Result<HashSet<Uuid>, Error> {
            connect.list_all_domains(flags)?.iter().map(Domain::get_uuid).collect()
        };
        let persistent = uuids(sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?;
        let autostart = uuids(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
        let age_max = Duration::from_millis(self.config.reading_age_max_ms);
        let mut domains = BTreeMap::new();
        let mut present = HashSet::new();
        let mut leaving = BTreeSet::new();
        for domain in connect.list_all_domains(0)? {
            let (uuid, name) = (domain.get_uuid()?, domain.get_name()?);
            let reading = match self.cache.reading(&domain, uuid, age_max) {
                Ok(reading) => reading,
                // It went away between the list and the question.
                Err(ObserveError::Libvirt(error)) if error.code() == ErrorNumber::NoDomain => continue,
                Err(error) => return Err(error),
            };
            present.insert(uuid);
            leaving.extend(name.parse().ok().filter(|_| reading.leaves));
            let observed = inventory::Domain {
                name: name.clone(),
                uuid,
                state: reading.state,
                persistent: persistent.contains(&uuid),
                autostart: autostart.contains(&uuid),
                vcpus: reading.vcpus,
                memory_mib: reading.memory_mib,
                live_devices: reading.live_devices,
                defined_devices: reading.defined_devices,
                machine: reading.machine,
                blockers: reading.blockers,
                consoles: reading.consoles,
            };
            domains.insert(name, observed);
        }
        self.cache.keep_only(&present);
        self.sendings.note_others(leaving);
        Ok(inventory::Hypervisor::Up {
            libvirt: version(connect.get_lib_version()?),
            // libvirt asks the emulator itself; where none is installed, there is no version.
            qemu: connect.get_hyp_version().map_or_else(|_| "not installed".to_owned(), version),
            domains,
            resources: self.cache.resources(connect),
        })
    }
}

fn read(domain: &Domain, run: Option<u32>) -> Result<Reading, ObserveError> {
    let facts = |flags| -> Result<xml::Facts, ObserveError> {
        let text = domain.get_xml_desc(flags)?;
        xml::read(&text)
            .map_err(|source| ObserveError::Domain { domain: domain.get_name().unwrap_or_default(), source })
    };
    let defined = facts(sys::VIR_DOMAIN_XML_INACTIVE)?;
    // Without the flag, libvirt describes the machine that runs. The state comes last: a machine that has stopped in
    // the meantime is off, and holds nothing.
    let live = facts(0)?;
    let (state, reason) = domain.get_state()?;
    // A machine that arrives stands still for it, and so does one in the last moment of being sent: the job tells them apart.
    let leaves = run.is_some() && Job::under_way(domain).is_some_and(|job| job.leaves);
    let state = domain_state((state, reason), leaves, run.is_some());
    // What is off is made anew with its next start.
    let live = state.is_active().then_some(live);
    let (machine, blockers) =
        live.as_ref().map(|live| (live.machine.clone(), live.blockers.clone())).unwrap_or_default();
    let consoles = live.as_ref().map(xml::Facts::consoles).unwrap_or_default();
    Ok(Reading {
        state,
        vcpus: defined.vcpus,
        memory_mib: defined.memory_mib,
        defined_devices: defined.devices,
        live_devices: live.map(|live| live.devices).unwrap_or_default(),
        machine,
        blockers,
        consoles,
        leaves,
        run,
        at: Instant::now(),
    })
}

/// What a domain does (libvirt: virDomainState, virDomainShutoffReason).
fn domain_state((state, reason): (sys::virDomainState, i32), leaves: bool, has_run: bool) -> DomainState {
    match state {
        sys::VIR_DOMAIN_PAUSED if u32::try_from(reason) == Ok(sys::VIR_DOMAIN_PAUSED_MIGRATION) => {
            if leaves {
                DomainState::Running
            } else {
                DomainState::Arriving
            }
        }
        sys::VIR_DOMAIN_SHUTOFF => DomainState::Off { reason: off_reason(reason) },
        sys::VIR_DOMAIN_CRASHED if !has_run => DomainState::Off { reason: OffReason::Crashed },
        sys::VIR_DOMAIN_SHUTDOWN => DomainState::ShuttingDown,
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => DomainState::Running,
        // Paused, suspended by its guest, preserved after a crash, or a state of a later libvirt: it holds its devices.
        _ => DomainState::Paused,
    }
}

fn off_reason(reason: i32) -> OffReason {
    match u32::try_from(reason) {
        Ok(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN) => OffReason::Shutdown,
        Ok(sys::VIR_DOMAIN_SHUTOFF_DESTROYED) => OffReason::Destroyed,
        Ok(
            sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED | sys::VIR_DOMAIN_SHUTOFF_DAEMON,
        ) => OffReason::Crashed,
        Ok(sys::VIR_DOMAIN_SHUTOFF_SAVED | sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT) => OffReason::Saved,
        Ok(sys::VIR_DOMAIN_SHUTOFF_MIGRATED) => OffReason::Migrated,
        _ => OffReason::Unknown,
    }
}

/// libvirt packs `major.minor.release` into one number (libvirt: virGetVersion).
fn version(packed: u32) -> String {
    format!("{}.{}.{}", packed / 1_000_000, packed / 1_000 % 1_000, packed % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_not_known_to_be_off_holds_its_devices() {
        assert_eq!(domain_state((sys::VIR_DOMAIN_RUNNING, 0), false, true), DomainState::Running);
        assert_eq!(domain_state((sys::VIR_DOMAIN_CRASHED, 0), false, true), DomainState::Paused);
        assert_eq!(domain_state((sys::VIR_DOMAIN_NOSTATE, 0), false, true), DomainState::Paused);
        assert_eq!(domain_state((99, 0), false, true), DomainState::Paused);
        let off = |reason| domain_state((sys::VIR_DOMAIN_SHUTOFF, reason), false, false);
        assert_eq!(off(1), DomainState::Off { reason: OffReason::Shutdown });
        assert_eq!(off(6), DomainState::Off { reason: OffReason::Crashed });
        assert_eq!(off(4), DomainState::Off { reason: OffReason::Migrated });
        assert_eq!([off(5), off(7)], [DomainState::Off { reason: OffReason::Saved }; 2]);
        assert_eq!(off(-1), DomainState::Off { reason: OffReason::Unknown });
    }

    #[test]
    fn what_stands_still_to_be_moved_arrives_or_leaves() {
        let still = |leaves| domain_state((sys::VIR_DOMAIN_PAUSED, 2), leaves, true);
        assert_eq!((still(false), still(true)), (DomainState::Arriving, DomainState::Running));
        assert_eq!(domain_state((sys::VIR_DOMAIN_PAUSED, 1), false, true), DomainState::Paused, "by a user");
    }

    #[test]
    fn a_packed_version_is_taken_apart() {
        assert_eq!(version(11_003_000), "11.3.0");
    }
}
