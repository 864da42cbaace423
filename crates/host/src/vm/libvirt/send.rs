//! VMs that go to another host while they run, by libvirt's peer-to-peer migration.
//!
//! ```text
//! this host's libvirt ──way──► the other one's: prepares, takes memory and devices, stops there
//!     off here ──► let go on there, by the same way
//! ```
//!
//! The VM always arrives stopped (`VIR_MIGRATE_PAUSED`): if the answer to libvirt's last step is lost, the guest goes on here and must
//! not run there (libvirt, src/qemu/qemu_migration.c, qemuMigrationDstFinish). Its memory goes through libvirt's own connection
//! (`VIR_MIGRATE_TUNNELLED`), which the way encrypts: nothing else is opened between the hosts.
//!
//! What is known of a sending is lost with the daemon; libvirt then goes on with it, and the other host lets the VM go on once it
//! is told. Nothing here decides: when a VM goes, where to, and when that is called off stands in steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::journey::{Sending, Sent};
use tranche_core::name::{HostName, Timestamp, VmId, VmName};
use tranche_core::spec::Limits;
use tranche_core::step::VmDevice;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::{Domain, MigrateParameters};
use virt::error::Error;
use virt_sys as sys;

use super::Shared;
use super::job::Job;
use super::link::Link;
use super::steps::{Applied, find, is_active, refused, unreadable};
use crate::vm::{Travels, Way, refusal, xml};

/// How often libvirt is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How much further it is before whoever reports is woken, in percent.
const NEWS_PERCENT: u8 = 5;

/// What is known of VMs that go to other hosts.
#[derive(Debug, Default)]
pub(super) struct Sendings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sent: BTreeMap<VmName, Sent>,
    /// Those that are to be called off.
    called_off: BTreeSet<(VmName, u64)>,
    expects: BTreeSet<VmName>,
    /// VMs that libvirt sends, and this daemon did not tell it to.
    others: BTreeMap<VmName, Timestamp>,
    /// What the ways carried for the last VM that went there, in MiB/s.
    links_mib_s: BTreeMap<HostName, u32>,
    /// How long the machine of the last one took to end, in milliseconds.
    end_ms: Option<u32>,
    /// Since when domains that are being sent stand still.
    still_since: HashMap<Uuid, Instant>,
}

impl Sendings {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a report says of them.
    pub(super) fn travels(&self, able: bool) -> Travels {
        let known = self.lock();
        let others =
            known.others.iter().filter(|(vm, _)| !known.sent.get(*vm).is_some_and(Sent::is_under_way));
        let others = others.map(|(vm, since)| {
            let state = Sending::UnderWay { percent: 0, got_on_at: *since };
            (vm.clone(), Sent { number: 0, state })
        });
        let mut sent = known.sent.clone();
        sent.extend(others);
        let (expects, links_mib_s) = (known.expects.clone(), known.links_mib_s.clone());
        Travels { able, expects, sent, links_mib_s, end_ms: known.end_ms, ..Travels::default() }
    }

    /// Notes which VMs libvirt was seen to send.
    pub(super) fn note_others(&self, vms: BTreeSet<VmName>) {
        let mut known = self.lock();
        let before = std::mem::take(&mut known.others);
        let now = now();
        known.others =
            vms.into_iter().map(|vm| (vm.clone(), before.get(&vm).copied().unwrap_or(now))).collect();
    }

    /// Notes that what a VM needs when it arrives is there, or was removed.
    pub(super) fn expect(&self, vm: &VmName, is_ready: bool) {
        let mut known = self.lock();
        if is_ready {
            known.expects.insert(vm.clone());
        } else {
            known.expects.remove(vm);
        }
    }

    fn note(&self, vm: &VmName, number: u64, state: Sending) {
        let mut known = self.lock();
        // What was seen of it before is over.
        known.others.remove(vm);
        known.sent.insert(vm.clone(), Sent { number, state });
    }

    fn is_called_off(&self, vm: &VmName, number: u64) -> bool {
        self.lock().called_off.contains(&(vm.clone(), number))
    }

    /// A domain stands still. Of one that is not being sent, nobody will ask.
    pub(super) fn note_still(&self, domain: Uuid) {
        let mut known = self.lock();
        if known.sent.values().any(Sent::is_under_way) {
            known.still_since.insert(domain, Instant::now());
        }
    }

    /// For how long a domain stands still that is being sent, in milliseconds.
    fn still_ms(&self, domain: Uuid) -> Option<u64> {
        let since = self.lock().still_since.remove(&domain)?;
        Some(elapsed_ms(since))
    }

    /// Keeps what the way carried, unless it was held back.
    fn note_speed(&self, trip: &Trip, job: &Job) {
        let speed_mib_s = job.speed_mib_s().filter(|_| trip.limits.bandwidth_mib_s.is_none());
        if let Some(speed_mib_s) = speed_mib_s {
            self.lock().links_mib_s.insert(trip.to.clone(), speed_mib_s);
        }
    }

    /// Keeps how long the guest waited for its old machine to end, after QEMU had handed it over.
    fn note_end(&self, waited_ms: u64) {
        self.lock().end_ms = Some(u32::try_from(waited_ms).unwrap_or(u32::MAX));
    }

    /// Takes in how far it is. Returns whether that is news.
    fn note_progress(&self, vm: &VmName, number: u64, percent: u8) -> bool {
        let mut known = self.lock();
        let Some(Sent { number: own, state: Sending::UnderWay { percent: before, got_on_at } }) =
            known.sent.get_mut(vm)
        else {
            return false;
        };
        if *own != number || percent <= *before {
            return false;
        }
        let is_news = percent / NEWS_PERCENT != *before / NEWS_PERCENT;
        (*before, *got_on_at) = (percent, now());
        is_news
    }
}

/// A VM that is being sent.
struct Trip {
    vm: VmName,
    number: u64,
    domain: Domain,
    id: VmId,
    to: HostName,
    parameters: MigrateParameters,
    limits: Limits,
    /// For how long its guest may stand still now, in milliseconds, as QEMU was told.
    pause_ms: AtomicU32,
}

impl Trip {
    /// Tells QEMU for how long the guest may stand still, if that is news.
    fn allow_pause(&self, pause_ms: u32) {
        if self.pause_ms.swap(pause_ms, Ordering::Relaxed) == pause_ms {
            return;
        }
        // Where it is over already, or libvirt does not take it now, QEMU goes on as it was told before.
        // SAFETY: the domain is valid as long as the trip lives.
        let told = unsafe { sys::virDomainMigrateSetMaxDowntime(self.domain.as_ptr(), pause_ms.into(), 0) };
        tracing::debug!(vm = %self.vm, pause_ms, told, "the guest may stand still for so long");
    }
}

impl Shared {
    /// Begins to send a domain, unless that was begun before.
    pub(super) fn send(
        self: &Arc<Self>,
        link: &Arc<Link>,
        (vm, id): (&VmName, VmId),
        (number, to): (u64, &HostName),
        (devices, limits): (&[VmDevice], Limits),
    ) -> Applied {
        let doing = "send the domain";
        let refuse = |words: &str| refusal::refused(vm, doing, words, refusal::logs_hint(vm));
        let known = self.sendings.lock().sent.get(vm).cloned();
        match known {
            Some(known) if known.number == number => return Ok(()),
            Some(known) if known.is_under_way() => return Err(refuse("it is being sent already")),
            _ => {}
        }
        let Some(ways) = self.ways.clone() else { return Err(refuse("there is no way to other hosts")) };
        let domain = find(link.connect(), vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
        if !is_active(&domain, vm)? {
            return Err(Box::new(say::vm_not_running(vm)));
        }
        let of = |flags| -> Result<String, Box<Finding>> {
            let text = domain.get_xml_desc(flags | sys::VIR_DOMAIN_XML_SECURE).map_err(refused(vm, doing))?;
            xml::on_other_devices(&text, devices).map_err(unreadable(vm, doing))
        };
        let parameters = MigrateParameters {
            dest_xml: Some(of(sys::VIR_DOMAIN_XML_MIGRATABLE)?),
            persist_xml: Some(of(sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_MIGRATABLE)?),
            bandwidth: limits.bandwidth_mib_s.map(u64::from),
            ..MigrateParameters::default()
        };
        let (vm, to, pause_ms) = (vm.clone(), to.clone(), AtomicU32::new(0));
        let trip = Trip { vm, number, domain, id, to, parameters, limits, pause_ms };
        self.sendings.note(&trip.vm, number, Sending::UnderWay { percent: 0, got_on_at: now() });
        let (shared, link, name) = (Arc::clone(self), Arc::clone(link), trip.vm.clone());
        let body = move || {
            let state = match ways.open(&trip.vm, &trip.to) {
                Ok(way) => shared.travel(&trip, &way),
                Err(why) => Sending::Failed { why: format!("there is no way to host {}: {why}", trip.to) },
            };
            tracing::info!(vm = %trip.vm, host = %trip.to, ?state, "sent");
            shared.sendings.note(&trip.vm, trip.number, state);
            shared.cache.mark(trip.id.0);
            // The connection is used until here.
            drop(link);
            (shared.wake)();
        };
        let thread = std::thread::Builder::new().name("libvirt-send".to_owned()).spawn(body);
        if let Err(error) = thread {
            self.sendings.lock().sent.remove(&name);
            return Err(refuse(&format!("no thread for it: {error}")));
        }
        Ok(())
    }

    /// Sends a VM, and lets it go on there. Returns what came of it.
    fn travel(&self, trip: &Trip, way: &Way) -> Sending {
        if self.sendings.is_called_off(&trip.vm, trip.number) {
            return Sending::Failed { why: "it was called off".to_owned() };
        }
        let began = Instant::now();
        // A guest that has arrived does not wait for a connection.
        let there = Connect::open(Some(&way.uri));
        let (done, outcome) = mpsc::sync_channel(1);
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| {
                let flags = sys::VIR_MIGRATE_LIVE
                    | sys::VIR_MIGRATE_PEER2PEER
                    | sys::VIR_MIGRATE_TUNNELLED
                    | sys::VIR_MIGRATE_PERSIST_DEST
                    | sys::VIR_MIGRATE_PAUSED
                    | sys::VIR_MIGRATE_ABORT_ON_ERROR
                    | sys::VIR_MIGRATE_AUTO_CONVERGE;
                let sent = trip.domain.migrate_to_uri3(Some(&way.uri), trip.parameters.clone(), flags);
                // Whoever waits for it is there until it has come.
                let _ = done.send(sent);
            });
            loop {
                match outcome.recv_timeout(LOOK_EVERY) {
                    Ok(sent) => return sent,
                    Err(RecvTimeoutError::Timeout) => self.look(trip),
                    Err(RecvTimeoutError::Disconnected) => return Err(virt::error::Error::last_error()),
                }
            }
        });
        match sent {
            Ok(()) => {
                resume_there(trip, way, there);
                let still_ms = self.sendings.still_ms(trip.id.0);
                let job = Job::completed(&trip.domain).unwrap_or_default();
                self.sendings.note_speed(trip, &job);
                // libvirt's own figures end before the guest is let go on: when QEMU has handed it over.
                let waited_ms = still_ms.map(|still_ms| still_ms.saturating_sub(job.pause_ms));
                waited_ms.into_iter().for_each(|waited_ms| self.sendings.note_end(waited_ms));
                let pause_ms = job.pause_ms.max(still_ms.unwrap_or_default());
                Sending::Done { pause_ms, total_ms: job.elapsed_ms.max(elapsed_ms(began)) }
            }
            Err(error) => {
                // If it stood still, that is over.
                let _ = self.sendings.still_ms(trip.id.0);
                close(there);
                Sending::Failed { why: error.message().trim_end_matches('.').to_owned() }
            }
        }
    }

    /// Asks how far it is, and ends it if it was called off.
    fn look(&self, trip: &Trip) {
        if self.sendings.is_called_off(&trip.vm, trip.number) {
            // Where nothing is under way yet, or any more, there is nothing to end, which is no failure.
            // SAFETY: the domain is valid as long as the trip lives.
            let ended = unsafe { sys::virDomainAbortJob(trip.domain.as_ptr()) };
            tracing::debug!(vm = %trip.vm, ended, "called off");
            return;
        }
        let Some(Job { total_bytes, left_bytes, round, .. }) = Job::under_way(&trip.domain) else { return };
        trip.allow_pause(trip.limits.pause_at_ms(round));
        let sent_bytes = total_bytes.saturating_sub(left_bytes);
        let Some(percent) = (sent_bytes * 100).checked_div(total_bytes) else { return };
        let percent = u8::try_from(percent).unwrap_or(100).min(99);
        if self.sendings.note_progress(&trip.vm, trip.number, percent) {
            (self.wake)();
        }
    }

    /// Has the sending of a domain ended, if it is under way.
    pub(super) fn call_off(&self, vm: &VmName, number: u64) {
        let mut known = self.sendings.lock();
        if known.sent.get(vm).is_some_and(|sent| sent.number == number && sent.is_under_way()) {
            known.called_off.insert((vm.clone(), number));
        }
    }
}

/// Lets the VM go on where it is now. It is off here, so nothing else runs it. If this fails, the other host does it once it is told.
fn resume_there(trip: &Trip, way: &Way, there: Result<Connect, Error>) {
    let resume = |there: Result<Connect, Error>| {
        let resumed = there
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|there| Domain::lookup_by_uuid(there, trip.id.0).and_then(|domain| domain.resume()));
        close(there);
        resumed
    };
    // The connection may have been lost meanwhile.
    let resumed = resume(there).or_else(|_| resume(Connect::open(Some(&way.uri))));
    if let Err(error) = resumed {
        tracing::warn!(vm = %trip.vm, %error, "it arrived, and waits there until its host lets it go on");
    }
}

fn close(there: Result<Connect, Error>) {
    if let Ok(mut there) = there {
        let _ = there.close();
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The time of the wall clock, by which reports are dated too.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
