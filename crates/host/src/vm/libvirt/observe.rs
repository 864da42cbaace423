//! What libvirt says about all domains.
//!
//! Three lists and one question a domain are asked each time. Definitions are long and rarely change, so they are read
//! again only when an event says so, when the domain runs anew, or after a while.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tranche_core::inventory::{self, DomainState, HostDevice, OffReason};
use uuid::Uuid;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

use super::Shared;
use super::link::Link;
use crate::vm::xml;

/// Definitions that were read, and which of them have changed since.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    read: HashMap<Uuid, Definition>,
    changed: HashSet<Uuid>,
}

/// What the XML of a domain said.
#[derive(Debug, Clone)]
struct Definition {
    vcpus: u32,
    memory_mib: u64,
    defined_devices: Vec<HostDevice>,
    live_devices: Vec<HostDevice>,
    /// libvirt's number of this run; another one is another live definition.
    run: Option<u32>,
    at: Instant,
}

impl Cache {
    /// This domain's definition has changed, or may have.
    pub(super) fn mark(&self, domain: Uuid) {
        self.lock().changed.insert(domain);
    }

    /// Anything may have changed.
    pub(super) fn clear(&self) {
        *self.lock() = Known::default();
    }

    /// The definition of a domain, read now if need be.
    fn definition(&self, domain: &Domain, key: Uuid, age_max: Duration) -> Result<Definition, Unread> {
        let run = domain.get_id();
        {
            let mut known = self.lock();
            // The mark goes before the definition is read: a change meanwhile marks it again.
            let changed = known.changed.remove(&key);
            let fresh = |read: &&Definition| !changed && read.run == run && read.at.elapsed() < age_max;
            if let Some(read) = known.read.get(&key).filter(fresh) {
                return Ok(read.clone());
            }
            known.read.remove(&key);
        }
        let definition = read_definition(domain, run)?;
        self.lock().read.insert(key, definition.clone());
        Ok(definition)
    }

    /// Forgets domains that are gone.
    fn keep_only(&self, present: &HashSet<Uuid>) {
        self.lock().read.retain(|domain, _| present.contains(domain));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Half an update leaves a definition out, which is then read again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a definition could not be read.
enum Unread {
    /// libvirt said no.
    Libvirt(Error),
    /// Its XML is not that of a domain.
    Xml(xml::XmlError),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Libvirt(error)
    }
}

impl From<xml::XmlError> for Unread {
    fn from(error: xml::XmlError) -> Self {
        Self::Xml(error)
    }
}

impl Shared {
    /// Every domain, with the versions of libvirt and QEMU.
    pub(super) fn observe(&self, link: &Link) -> Result<inventory::Hypervisor, Error> {
        let connect = link.connect();
        let uuids = |flags| -> Result<HashSet<Uuid>, Error> {
            connect.list_all_domains(flags)?.iter().map(Domain::get_uuid).collect()
        };
        let persistent = uuids(sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?;
        let autostart = uuids(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
        let age_max = Duration::from_millis(self.config.xml_age_max_ms);
        let mut domains = BTreeMap::new();
        let mut present = HashSet::new();
        for domain in connect.list_all_domains(0)? {
            let uuid = domain.get_uuid()?;
            present.insert(uuid);
            let name = domain.get_name()?;
            let state = match domain.get_state() {
                Ok((state, reason)) => domain_state(state, reason, domain.get_id().is_some()),
                // It went away between the list and the question.
                Err(error) if error.code() == ErrorNumber::NoDomain => continue,
                Err(error) => return Err(error),
            };
            let definition = match self.cache.definition(&domain, uuid, age_max) {
                Ok(definition) => definition,
                Err(Unread::Libvirt(error)) if error.code() == ErrorNumber::NoDomain => continue,
                Err(Unread::Libvirt(error)) => return Err(error),
                Err(Unread::Xml(error)) => {
                    tracing::warn!(
                        domain = name,
                        error = &error as &dyn std::error::Error,
                        "a domain cannot be read"
                    );
                    continue;
                }
            };
            let observed = inventory::Domain {
                name: name.clone(),
                uuid,
                state,
                persistent: persistent.contains(&uuid),
                autostart: autostart.contains(&uuid),
                vcpus: definition.vcpus,
                memory_mib: definition.memory_mib,
                live_devices: definition.live_devices,
                defined_devices: definition.defined_devices,
            };
            domains.insert(name, observed);
        }
        self.cache.keep_only(&present);
        Ok(inventory::Hypervisor::Up {
            libvirt: version(connect.get_lib_version()?),
            // libvirt asks the emulator itself; where none is installed, there is no version.
            qemu: connect.get_hyp_version().map_or_else(|_| "not installed".to_owned(), version),
            domains,
        })
    }
}

fn read_definition(domain: &Domain, run: Option<u32>) -> Result<Definition, Unread> {
    let defined = xml::read(&domain.get_xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?)?;
    // Without the flag, libvirt describes the machine that runs.
    let live_devices = match run {
        Some(_) => xml::read(&domain.get_xml_desc(0)?)?.devices,
        None => Vec::new(),
    };
    Ok(Definition {
        vcpus: defined.vcpus,
        memory_mib: defined.memory_mib,
        defined_devices: defined.devices,
        live_devices,
        run,
        at: Instant::now(),
    })
}

/// What a domain does (libvirt: virDomainState, virDomainShutoffReason).
fn domain_state(state: sys::virDomainState, reason: i32, has_run: bool) -> DomainState {
    match state {
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
        assert_eq!(domain_state(sys::VIR_DOMAIN_RUNNING, 0, true), DomainState::Running);
        assert_eq!(domain_state(sys::VIR_DOMAIN_CRASHED, 0, true), DomainState::Paused);
        assert_eq!(domain_state(sys::VIR_DOMAIN_NOSTATE, 0, true), DomainState::Paused);
        assert_eq!(domain_state(99, 0, true), DomainState::Paused);
        let off = |reason| domain_state(sys::VIR_DOMAIN_SHUTOFF, reason, false);
        assert_eq!(off(1), DomainState::Off { reason: OffReason::Shutdown });
        assert_eq!(off(6), DomainState::Off { reason: OffReason::Crashed });
        assert_eq!(off(-1), DomainState::Off { reason: OffReason::Unknown });
    }

    #[test]
    fn a_packed_version_is_taken_apart() {
        assert_eq!(version(11_003_000), "11.3.0");
    }
}
