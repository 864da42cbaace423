//! Puts the parts together: this machine behind the host's trait, and the store behind the repository.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tranche_core::name::HostName;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::{MonotonicClock, Repository, Settings, SqliteStore};

use crate::bell::Bell;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::engine::Engine;
use crate::gate::Gate;
use crate::patience::Patience;

/// How many steps of different GPUs and VMs are carried out side by side.
const WORKERS: usize = 4;

/// A daemon over this machine, or over the fake one that is named, and over the store in the state directory.
///
/// # Errors
/// The store or the tree cannot be opened; the message says what to do about it.
pub fn build(config: &Config, fake: Option<&str>) -> anyhow::Result<Daemon> {
    let name = config.host_name()?;
    let repository = open_store(config)?;
    let (bell, gate) = (Bell::default(), Gate::default());
    let host = match fake {
        Some(preset) => fake_host(preset, &name)?,
        None => real_host(config, &name, &bell, &gate)?,
    };
    let engine = Engine::open(name, host, repository, WORKERS).map_err(|error| {
        let hint = error.hint();
        anyhow::Error::from(error).context(hint).context("the store's content cannot be read")
    })?;
    let tick = Duration::from_secs(config.tick_s);
    Ok(Daemon { engine: Arc::new(engine), bell, gate, tick, patience: Patience::default() })
}

fn open_store(config: &Config) -> anyhow::Result<Repository> {
    let dir = &config.state_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("the state directory {dir} cannot be made"))?;
    let store = SqliteStore::open(&Settings::new(dir.clone()), Arc::new(MonotonicClock::default())).map_err(
        |error| {
            let hint = error.hint();
            anyhow::Error::from(error).context(hint).context("the store cannot be opened")
        },
    )?;
    Ok(Repository::new(Arc::new(store)))
}

#[cfg(feature = "libvirt")]
fn real_host(config: &Config, name: &HostName, bell: &Bell, gate: &Gate) -> anyhow::Result<Arc<dyn Host>> {
    use tranche_host::nvml::NvidiaMonitor;
    use tranche_host::tree::DirTree;
    use tranche_host::vm::libvirt::{self, Libvirt};

    use crate::gate::Gated;
    use crate::uevents;

    let (catalogue, errors) = Catalogue::open(&config.catalogue_dir);
    for error in &errors {
        tracing::error!("a file of the catalogue is left out: {error}");
    }
    let tree = DirTree::open(&config.root).with_context(|| format!("{} cannot be looked at", config.root))?;
    let wake = bell.clone();
    let settings = libvirt::Config {
        uri: config.libvirt.uri.clone(),
        seed_dir: config.libvirt.seed_dir.clone(),
        serial_log_dir: config.libvirt.serial_log_dir.clone(),
        ..libvirt::Config::default()
    };
    let hypervisor = Gated::new(gate.clone(), Libvirt::new(settings, Arc::new(move || wake.ring())));
    if let Err(error) = uevents::listen(bell.clone()) {
        tracing::warn!(%error, "no kernel device events; the slow tick finds changes later");
    }
    let (tree, catalogue) = (Arc::new(tree), Arc::new(catalogue));
    let host = LinuxHost::new(name.clone(), tree, Limits::default(), catalogue, Box::new(hypervisor));
    // A vendor's library speaks of this machine, and of no other tree.
    let own = config.root == "/";
    Ok(Arc::new(if own { host.with_monitor(Arc::new(NvidiaMonitor)) } else { host }))
}

#[cfg(not(feature = "libvirt"))]
fn real_host(_: &Config, _: &HostName, _: &Bell, _: &Gate) -> anyhow::Result<Arc<dyn Host>> {
    anyhow::bail!("this tranched was built without libvirt; only --fake-host works")
}

/// A fake machine behind the real code of the host.
fn fake_host(preset: &str, name: &HostName) -> anyhow::Result<Arc<dyn Host>> {
    let machine = Machine::preset(preset).with_context(|| format!("there is no fake host {preset:?}"))?;
    let kernel = Arc::new(FakeKernel::boot(machine));
    let hypervisor = Box::new(FakeHypervisor::new(kernel.clone()));
    let catalogue = Arc::new(Catalogue::builtin());
    Ok(Arc::new(LinuxHost::new(name.clone(), kernel, Limits::default(), catalogue, hypervisor)))
}
