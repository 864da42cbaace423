//! The real hypervisor: libvirt's QEMU driver, through libvirtd.
//!
//! A call to libvirtd can fail, and it can hang. Every call runs apart with a limit (`lanes`); a connection that died
//! is opened anew at the next call, so a restart of libvirtd needs nobody's attention. libvirtd's events wake the
//! daemon and tell which definition to read again; they decide nothing.
//!
//! Deliberately absent: pools, volumes and networks are used by name (`resources`) and never made; and nothing here remembers what
//! it has done, because libvirt does.

mod consoles;
mod dirty;
mod job;
mod lanes;
mod link;
mod observe;
mod resources;
mod send;
mod steps;
mod usage;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8PathBuf;
use tranche_core::finding::{Code, Finding};
use tranche_core::history::Reading;
use tranche_core::inventory::{self, Console};
use tranche_core::name::{HostName, VmId, VmName};
use tranche_core::step::{Step, StepSubject};

use self::dirty::DirtyRates;
use self::lanes::{Lanes, Late};
use self::link::{Link, News};
use self::observe::Cache;
use self::send::Sendings;
use self::usage::Usage;
use super::seed::Seeds;
use super::xml::Acceleration;
use super::{Hypervisor, Travels, Ways, refusal};
use crate::report;

/// No VM has a name like this.
const USAGE_LANE: &str = "(usage)";

/// Called whenever something about a domain or the connection changed. It carries no data and must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How libvirt is reached and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The connection URI (libvirt: docs/uri).
    pub uri: String,
    /// Where cloud-init disks lie. QEMU's user must be able to pass through the directories above it.
    pub seed_dir: Utf8PathBuf,
    /// Where serial consoles are logged.
    pub serial_log_dir: Utf8PathBuf,
    /// How guests run; without it, a probe guest decides when the first VM is defined.
    pub acceleration: Option<Acceleration>,
    /// How long an observation may take, in milliseconds. After an update of QEMU libvirt examines the new one before
    /// it answers, which takes seconds.
    pub observe_limit_ms: u64,
    /// How long a step may take, in milliseconds. Starting pins all of a guest's memory, which takes seconds for
    /// hundreds of GiB.
    pub step_limit_ms: u64,
    /// How long asking how busy guests are may take, in milliseconds.
    pub usage_limit_ms: u64,
    /// The longest time for which a domain is not read again without an event about it, in milliseconds: libvirt sends
    /// none for devices that are put into a stored definition (`virsh attach-device --config`).
    pub reading_age_max_ms: u64,
    /// The longest time for which libvirt is not asked at all while it tells of no change, in milliseconds: it sends no
    /// event when a domain's autostart is switched. Shorter than the daemon's slow tick, which always asks.
    pub answer_age_max_ms: u64,
    /// How long a guest runs before it is measured how much memory it changes, in milliseconds: while it boots it is not itself.
    pub measure_after_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            seed_dir: "/var/lib/libvirt/tranche".into(),
            serial_log_dir: "/var/log/libvirt/qemu".into(),
            acceleration: None,
            observe_limit_ms: 20_000,
            step_limit_ms: 60_000,
            usage_limit_ms: 5_000,
            reading_age_max_ms: 60_000,
            answer_age_max_ms: 2_000,
            measure_after_ms: 60_000,
        }
    }
}

/// libvirt.
#[derive(Debug)]
pub struct Libvirt {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
}

/// What calls share, even those that are given up on.
struct Shared {
    config: Config,
    seeds: Seeds,
    link: Mutex<Option<Arc<Link>>>,
    cache: Arc<Cache>,
    acceleration: Mutex<Option<Acceleration>>,
    ways: Option<Arc<dyn Ways>>,
    sendings: Arc<Sendings>,
    rates: DirtyRates,
    usage: Usage,
    wake: Wake,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Libvirt {
    /// Prepares to use libvirt; the first call connects. `wake` is called from libvirt's event thread.
    pub fn new(config: Config, wake: Wake) -> Self {
        let shared = Shared {
            seeds: Seeds::new(config.seed_dir.clone()),
            link: Mutex::new(None),
            cache: Arc::default(),
            acceleration: Mutex::new(config.acceleration),
            ways: None,
            sendings: Arc::default(),
            rates: DirtyRates::default(),
            usage: Usage::default(),
            wake,
            config,
        };
        Self { shared: Arc::new(shared), lanes: Arc::default() }
    }

    /// The same, which can send VMs to other hosts while they run, and take them in. From now on it is measured how much memory each
    /// guest changes.
    ///
    /// # Panics
    /// When it is in use already.
    #[must_use]
    pub fn with_ways(mut self, ways: Arc<dyn Ways>) -> Self {
        let shared = Arc::get_mut(&mut self.shared).expect("it is not in use yet");
        shared.ways = Some(ways);
        dirty::watch(Arc::downgrade(&self.shared));
        self
    }

    /// How guests run; nothing before the first VM is defined and while the probe guest runs.
    pub fn acceleration(&self) -> Option<Acceleration> {
        self.shared.acceleration.try_lock().map_or(None, |decided| *decided)
    }
}

impl Hypervisor for Libvirt {
    fn observe(&self) -> inventory::Hypervisor {
        let age_max = Duration::from_millis(self.shared.config.answer_age_max_ms);
        if let Some(answer) = self.shared.cache.answer(age_max) {
            return answer;
        }
        let shared = Arc::clone(&self.shared);
        let work = move || shared.with_link(|link| shared.observe(link));
        let answer = self.lanes.run("", "observe", self.shared.config.observe_limit_ms, work);
        let reason = match answer {
            Ok(Ok(Ok(observed))) => return observed,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(lost)) => lost,
            Err(late) => late.to_string(),
        };
        inventory::Hypervisor::Down { reason }
    }

    fn travels(&self) -> Travels {
        let travels = self.shared.sendings.travels(self.shared.ways.is_some());
        Travels { dirty_mib_s: self.shared.rates.known(), ..travels }
    }

    /// It has a lane of its own: nobody waits for it, and while one call hangs, no other one is made.
    fn usage(&self) -> BTreeMap<VmName, Reading> {
        let shared = Arc::clone(&self.shared);
        let work = move || shared.with_link(|link| shared.usage.look(link));
        match self.lanes.run(USAGE_LANE, "get-stats", self.shared.config.usage_limit_ms, work) {
            Ok(Ok(Ok(readings))) => readings,
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "it is not known how busy guests are");
                BTreeMap::new()
            }
            // Whoever observes tells of it.
            Ok(Err(_)) | Err(_) => BTreeMap::new(),
        }
    }

    fn notes(&self, host: &HostName) -> Vec<Finding> {
        if self.acceleration() != Some(Acceleration::Emulated) {
            return Vec::new();
        }
        let message = format!(
            "KVM does not work on host {host}: a probe guest did not run, so VMs are emulated, which is slow."
        );
        let hint = "Switch on virtualisation in the firmware (nested virtualisation if the host is itself a VM), load kvm_intel \
                    or kvm_amd, and restart tranched; 'journalctl -u tranched' has the probe's words. VMs made until then \
                    stay emulated: delete and create them again.";
        vec![report::host_note(host, Code::KvmMissing, message, hint)]
    }

    fn open_console(
        &self,
        vm: &VmName,
        id: VmId,
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        let (shared, name) = (Arc::clone(&self.shared), vm.clone());
        let work = move || shared.with_link(|link| shared.open_console(link, (&name, id), console, force));
        // Not in the lane of the VM's steps: whoever wants to see why one takes so long must not wait for it.
        let lane = format!("{vm} {console}");
        match self.lanes.run(&lane, "open a console", self.shared.config.observe_limit_ms, work) {
            Ok(Ok(result)) => result,
            Ok(Err(lost)) => Err(refusal::down(vm, &lost)),
            Err(late) => Err(refusal::down(vm, &late.to_string())),
        }
    }

    fn apply(&self, step: &Step) -> Result<(), Box<Finding>> {
        let StepSubject::Vm(vm) = step.subject() else { return Err(refusal::not_about_a_vm(step)) };
        let (shared, step) = (Arc::clone(&self.shared), step.clone());
        let call = steps::name(&step);
        let work = move || {
            let result = shared.with_link(|link| shared.apply(link, &step));
            // Whatever became of it: its effect is looked for in a new answer, event or no event.
            shared.cache.outdate();
            result
        };
        match self.lanes.run(vm.as_str(), call, self.shared.config.step_limit_ms, work) {
            Ok(Ok(result)) => result,
            Ok(Err(lost)) => Err(refusal::down(&vm, &lost)),
            Err(Late::Died(call)) => Err(refusal::down(&vm, &Late::Died(call).to_string())),
            Err(late) => Err(refusal::slow(&vm, &late.to_string())),
        }
    }
}

impl Shared {
    /// Does something with a connection, or says why there is none. If the connection turns out to be dead, it is done
    /// once more with a new one: observing and all steps may be repeated.
    fn with_link<T, E>(&self, work: impl Fn(&Arc<Link>) -> Result<T, E>) -> Result<Result<T, E>, String> {
        for _ in 0..2 {
            let link = self.link()?;
            let result = work(&link);
            if result.is_ok() || link.is_alive() {
                return Ok(result);
            }
        }
        Err("the connection was lost twice".to_owned())
    }

    /// The connection, opened if there is none or it died.
    fn link(&self) -> Result<Arc<Link>, String> {
        let mut slot = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = slot.as_ref().filter(|link| link.is_alive()) {
            return Ok(Arc::clone(link));
        }
        *slot = None;
        let (cache, wake, sendings) =
            (Arc::clone(&self.cache), Arc::clone(&self.wake), Arc::clone(&self.sendings));
        let listener: link::Listener = Arc::new(move |news| {
            match news {
                News::Changed(domain) => cache.mark(domain),
                News::Suspended(domain) => {
                    sendings.note_still(domain);
                    cache.mark(domain);
                }
                News::Any => cache.clear(),
            }
            wake();
        });
        let link = Link::open(&self.config.uri, &listener).map_err(|error| error.message().to_owned())?;
        // Nobody told what happened while there was no connection.
        self.cache.clear();
        let link = Arc::new(link);
        *slot = Some(Arc::clone(&link));
        Ok(link)
    }
}
