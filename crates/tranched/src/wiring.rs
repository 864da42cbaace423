//! Puts the parts together: this machine behind the host's trait, and the store behind the repository.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tranche_core::finding::Finding;
use tranche_core::name::HostName;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, FakeProber, Machine};
use tranche_host::fence::Places;
use tranche_host::linux::LinuxHost;
use tranche_host::tree::{DirTree, Tree};
use tranche_host::vm::Ways;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_host::watchdog::{Open, Watchdog};
use tranche_host::{Host, MakeUp};
use tranche_store::{EtcdStore, Key, MonotonicClock, Repository, Settings, SqliteStore, Store};

use crate::bell::Bell;
use crate::cluster::book::{Book, Standing};
use crate::cluster::ways::{self, Carrier};
use crate::cluster::{Cluster, walk};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::engine::cluster::Fencer;
use crate::gate::Gate;
use crate::handover::Handovers;
use crate::history::History;
use crate::listen;
use crate::member::guard::{self, Finder, Guard};
use crate::member::vigil::{Times, Vigil};
use crate::member::{Agents, Member, Parts, StoreMembers};
use crate::oidc::Oidc;
use crate::patience::Patience;
use crate::rest::Access;
use crate::traces::Followed;
use crate::web::Web;

/// How many steps of different GPUs and VMs are carried out side by side.
const WORKERS: usize = 4;

/// A daemon over this machine, or over the fake one that is named, and over the store in the state directory. `kept` is the host's
/// watchdog, if it was left armed. What it carries to other hosts, it carries in `runtime`.
///
/// # Errors
/// The store or the tree cannot be opened; the message says what to do about it.
pub fn build(
    config: &Config,
    fake: Option<&str>,
    cluster: Cluster,
    kept: Option<Open>,
    runtime: &Handle,
) -> anyhow::Result<Daemon> {
    let name = config.host_name()?;
    let store = match cluster.store() {
        Some(store) => store as Arc<dyn Store>,
        None => open_store(config)?,
    };
    let store = Followed::if_made(store);
    let repository = Repository::new(Arc::clone(&store));
    let libvirt = if fake.is_some() { Vec::new() } else { ways::sockets_of(&config.libvirt.uri) };
    let handovers = Handovers::new(Arc::clone(&store), libvirt.clone());
    let access = Access::new(store, config.console.url(cluster.address())).through(Oidc::new(&config.oidc));
    let (bell, gate) = (Bell::default(), Gate::default());
    let host = match fake {
        Some(preset) => fake_host(config, preset, &name)?,
        None => {
            let carrier =
                Carrier::new(&config.socket, cluster.clone(), handovers.peers.clone(), runtime.clone());
            // A host that takes no VM in while it runs sends none either.
            let ways = (!libvirt.is_empty()).then(|| Arc::new(carrier) as Arc<dyn Ways>);
            real_host(config, &name, &bell, &gate, ways)?
        }
    };
    let make_up: Option<MakeUp> = fake.map(|_| tranche_host::fake::usage as MakeUp);
    let history = History::new(config, name.clone(), Arc::clone(&host), make_up);
    let open = if cluster.store().is_some() { Engine::open_as_member } else { Engine::open };
    let engine = open(name.clone(), Arc::clone(&host), repository, WORKERS).map_err(|error| {
        let hint = error.hint();
        anyhow::Error::from(error).context(hint).context("the store's content cannot be read")
    })?;
    let places = Places { agent_dirs: config.cluster.fence_agent_dirs.clone(), ..Places::default() };
    // Each turn of whoever leads asks it.
    let agents = Arc::new(Agents::installed(places, Bell::default()));
    let member = cluster.store().map(|store| {
        let may_lead = cluster.clone();
        let member = Member::new(Parts {
            name: name.clone(),
            host,
            brisk_store: Followed::if_made(Arc::new(store.within(config.etcd.election_ms))),
            store: Followed::if_made(store),
            desk: engine.desk(),
            fencer: Arc::clone(&agents) as Arc<dyn Fencer>,
            tester: agents,
            voices: Arc::new(StoreMembers(cluster.clone())),
            may_lead: Arc::new(move || may_lead.may_lead()),
            wake_host: bell.clone(),
            workers: WORKERS,
            libvirt,
            times: Arc::new(Times::of(&config.state_dir)),
        });
        (member, guard(config, fake.is_some(), &name, kept))
    });
    let tick = Duration::from_secs(config.tick_s);
    let patience = Patience::default();
    let (state_dir, host) = (config.state_dir.clone(), name);
    let shown = handovers.shown.clone();
    let web = Some(Web { config: config.console.clone(), state_dir, host, cluster: cluster.clone(), shown });
    let engine = Arc::new(engine);
    Ok(Daemon { engine, bell, gate, tick, cluster, member, access, history, handovers, web, patience })
}

/// Keeps the watchdog that the daemon before left armed, if there is one, while this one may wait for the store.
pub fn vigil(config: &Config, fake: bool, cluster: &Cluster) -> Option<Vigil> {
    let may_be_kept = !fake && config.root == "/" && cluster.store().is_some();
    let name = config.host_name().ok().filter(|_| may_be_kept)?;
    let watchdog = find_watchdog(config, &name)?().ok()?;
    let open = listen::kept(guard::KEPT_AS).map(Open::from)?;
    let feeder = watchdog.resume(open);
    let feeder =
        feeder.map_err(|finding| tracing::error!(code = %finding.code, "{}", finding.message)).ok()?;
    let voices = Arc::new(StoreMembers(cluster.clone()));
    let vigil = Vigil::begin(feeder, &Times::of(&config.state_dir), voices);
    vigil
        .map_err(|error| tracing::error!(%error, "the watchdog is not fed while the store is waited for"))
        .ok()
}

/// How the host's watchdog is looked for; none where that is not possible.
fn find_watchdog(
    config: &Config,
    name: &HostName,
) -> Option<impl Fn() -> Result<Watchdog, Box<Finding>> + Send + 'static> {
    let tree = match DirTree::open(&config.root) {
        Ok(tree) => Arc::new(tree),
        Err(error) => {
            tracing::warn!(%error, "no watchdog is looked for; only a fence agent can tell that this host is down");
            return None;
        }
    };
    let name = name.clone();
    Some(move || Watchdog::of_this_host(Arc::clone(&tree) as Arc<dyn Tree>, &name, None))
}

/// The host's watchdog, armed as it was left, or closed.
fn guard(config: &Config, fake: bool, name: &HostName, kept: Option<Open>) -> Guard {
    if fake || config.root != "/" {
        return Guard::none();
    }
    let Some(find) = find_watchdog(config, name) else { return Guard::none() };
    match find() {
        Ok(watchdog) => Guard::new(watchdog, kept),
        Err(finding) => {
            tracing::warn!(
                "{} Until there is one, only a fence agent can tell that this host is down.",
                finding.message
            );
            Guard::awaited(Finder::new(find))
        }
    }
}

/// This host's side of its cluster, with what was begun brought to its end.
///
/// # Errors
/// A file is damaged, or the host cannot get out of its cluster yet.
pub fn cluster(config: &Config) -> anyhow::Result<Cluster> {
    let in_words = |finding: Finding| anyhow::anyhow!("{} {}", finding.message, finding.hint);
    let cluster = Cluster::open(config, config.host_name()?).map_err(in_words)?;
    cluster.settle().map_err(in_words)?;
    Ok(cluster)
}

/// The catalogue, and the findings about files of it that are wrong: their GPUs are missed, which nobody may overlook.
fn open_catalogue(config: &Config) -> (Arc<Catalogue>, Vec<Finding>) {
    let (catalogue, errors) = Catalogue::open(&config.catalogue_dir);
    for error in &errors {
        tracing::error!(error = error as &dyn Error, "a file of the catalogue is left out");
    }
    (Arc::new(catalogue), errors.iter().map(tranche_host::catalogue_note).collect())
}

/// Moves a record out of the way with which the store cannot be read. Returns what to tell whoever asked for it.
///
/// # Errors
/// There is no such record, a daemon has the store open, or the store refuses.
pub fn set_aside(config: &Config, key: &str) -> anyhow::Result<String> {
    let key: Key = key.parse().with_context(|| format!("{key:?} is no key of a record"))?;
    let repository = match Book::new(&config.state_dir).read()? {
        Standing::Member(membership) => {
            let settings =
                walk::settings(&Book::new(&config.state_dir), &config.etcd, &membership.endpoints)?;
            Repository::new(Arc::new(EtcdStore::connect(&settings)?))
        }
        Standing::Alone | Standing::Entering(_) | Standing::Leaving(_) => {
            Repository::new(open_store(config)?)
        }
    };
    let aside = repository.set_aside(&key)?;
    let aside = aside.with_context(|| format!("there is no record {key}"))?;
    Ok(format!("{key} is now {aside}; start the daemon again"))
}

fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let dir = &config.state_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("the state directory {dir} cannot be made"))?;
    let store = SqliteStore::open(&Settings::new(dir.clone()), Arc::new(MonotonicClock::default())).map_err(
        |error| {
            let hint = error.hint();
            anyhow::Error::from(error).context(hint).context("the store cannot be opened")
        },
    )?;
    Ok(Arc::new(store))
}

#[cfg(feature = "libvirt")]
fn real_host(
    config: &Config,
    name: &HostName,
    bell: &Bell,
    gate: &Gate,
    ways: Option<Arc<dyn Ways>>,
) -> anyhow::Result<Arc<dyn Host>> {
    use tranche_host::migration::KernelProber;
    use tranche_host::vm::libvirt::{self, Libvirt};

    use crate::gate::Gated;
    use crate::uevents;

    let (catalogue, notes) = open_catalogue(config);
    let tree = DirTree::open(&config.root).with_context(|| format!("{} cannot be looked at", config.root))?;
    let wake = bell.clone();
    let settings = libvirt::Config {
        uri: config.libvirt.uri.clone(),
        seed_dir: config.libvirt.seed_dir.clone(),
        serial_log_dir: config.libvirt.serial_log_dir.clone(),
        ..libvirt::Config::default()
    };
    let libvirt = Libvirt::new(settings, Arc::new(move || wake.ring()));
    let libvirt = match ways {
        Some(ways) => libvirt.with_ways(ways),
        None => libvirt,
    };
    let hypervisor = Gated::new(gate.clone(), libvirt);
    if let Err(error) = uevents::listen(bell.clone()) {
        tracing::warn!(%error, "no kernel device events; the slow tick finds changes later");
    }
    let host =
        LinuxHost::new(name.clone(), Arc::new(tree), Limits::default(), catalogue, Box::new(hypervisor))
            .with_notes(notes);
    // A vendor's library and the kernel speak of this machine, and of no other tree.
    let own = config.root == "/";
    let host = if own { host.with_installed_libraries() } else { host };
    Ok(Arc::new(if own && config.ask_partitions { host.with_prober(Arc::new(KernelProber)) } else { host }))
}

#[cfg(not(feature = "libvirt"))]
fn real_host(
    _: &Config,
    _: &HostName,
    _: &Bell,
    _: &Gate,
    _: Option<Arc<dyn Ways>>,
) -> anyhow::Result<Arc<dyn Host>> {
    anyhow::bail!("this tranched was built without libvirt; only --fake-host works")
}

/// A fake machine behind the real code of the host.
fn fake_host(config: &Config, preset: &str, name: &HostName) -> anyhow::Result<Arc<dyn Host>> {
    let machine = Machine::preset(preset).with_context(|| {
        format!("there is no fake host {preset:?}; there are: {}", Machine::PRESETS.join(", "))
    })?;
    let kernel = Arc::new(FakeKernel::boot(machine));
    let hypervisor = Box::new(FakeHypervisor::new(kernel.clone()));
    let (catalogue, notes) = open_catalogue(config);
    let prober = Arc::new(FakeProber::new(kernel.clone()));
    let host = LinuxHost::new(name.clone(), kernel, Limits::default(), catalogue, hypervisor);
    Ok(Arc::new(host.with_notes(notes).with_prober(prober).with_usage(tranche_host::fake::usage)))
}
