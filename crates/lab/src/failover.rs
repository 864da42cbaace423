//! The demo of a cluster: three virtual hosts with real etcd, VMs placed by themselves, one host's power cut, its VMs running
//! elsewhere.
//!
//! How long the restart took is told by the age of the new QEMU process.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::cluster::{Cluster, ClusterOptions, HostRow, VM_NAMES, homes};
use crate::demo::wait_for;
use crate::{Lifetime, Progress};

/// What it may take to decide and to start QEMU once timers allow it, in seconds.
const START_S_MAX: f64 = 2.0;

/// What the demo found; its JSON is one line with these fields.
#[derive(Clone, Debug, Serialize)]
pub struct FailoverSummary {
    /// Whether every VM runs on exactly one host after one host lost power, and never ran on two.
    pub ok: bool,
    /// How many hosts there were.
    pub hosts: usize,
    /// The one that lost power.
    pub cut: String,
    /// The VMs, by name.
    pub vms: Vec<Moved>,
    /// Seconds from the power cut to the start of the last QEMU process that took over.
    pub failover_s: f64,
    /// The seconds after which the cluster's timers let VMs start elsewhere at the latest: `restart_ms`, by its own defaults
    /// unless the hosts are emulated.
    pub restart_s: f64,
    /// Whether an agent cut the host off, so that nobody had to wait for its watchdog.
    pub agent: bool,
    /// Seconds from the start of the program.
    pub seconds: f64,
}

/// Where a VM ran.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// Its name.
    pub name: String,
    /// Before the power cut.
    pub before: String,
    /// After it.
    pub after: String,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails, or a VM runs on no host or on two; the daemons' last words are on standard error then.
pub fn run(options: &ClusterOptions, progress: &Progress) -> Result<FailoverSummary> {
    let mut cluster = Cluster::start(options, Lifetime::Caller, progress)?;
    let shown = show(&mut cluster, progress);
    let summary = shown.inspect_err(|_| cluster.print_last_words())?;
    let _step = progress.step("Taking everything down");
    cluster.end()?;
    Ok(summary)
}

fn show(cluster: &mut Cluster, progress: &Progress) -> Result<FailoverSummary> {
    cluster.run_vms(progress)?;
    let before = homes(&cluster.running(None)?)?;
    ensure!(before.len() == VM_NAMES.len(), "not every VM runs: {before:?}");
    for (vm, host) in &before {
        progress.say(&format!("{vm} runs on {host}"));
    }
    let victim = before[VM_NAMES[0]].clone();
    let at = cluster.nodes.iter().position(|node| node.name() == victim).context("no such host")?;
    wait_for("the watchdog of every host with VMs to be armed", || {
        let hosts = cluster.hosts(&cluster.nodes[at])?;
        let armed = |host: &HostRow| host.member.as_ref().is_some_and(|member| member.guard == "armed");
        let mut guarded = hosts.iter().filter(|host| before.values().any(|home| home == &host.name));
        Ok(guarded.all(armed).then_some(()))
    })?;
    let began = Instant::now();
    progress.say(&format!("{victim} loses its power"));
    cluster.nodes[at].power_cut()?;
    let step = progress.step("Waiting for its VMs on other hosts");
    let mut failover_s: f64 = 0.0;
    let after = wait_for("every VM on a host that has power", || {
        let asked_s = began.elapsed().as_secs_f64();
        let running = cluster.running(Some(&victim))?;
        let now = homes(&running)?;
        if now.len() < VM_NAMES.len() {
            return Ok(None);
        }
        let ages = running.iter().filter(|(vm, _)| before.get(*vm) == Some(&victim)).flat_map(|(_, at)| at);
        failover_s = ages.map(|(_, age_s)| asked_s - age_s).fold(0.0, f64::max);
        Ok(Some(now))
    })?;
    drop(step);
    let other = &cluster.nodes[(at + 1) % cluster.nodes.len()];
    let down =
        cluster.hosts(other)?.into_iter().find(|host| host.name == victim).and_then(|host| host.member);
    ensure!(
        down.as_ref().is_some_and(|member| member.standing == "down"),
        "{victim} is not known to be down: {down:?}"
    );
    let moved = |(vm, home): (&String, &String)| Moved {
        name: vm.clone(),
        before: home.clone(),
        after: after[vm].clone(),
    };
    let vms: Vec<Moved> = before.iter().map(moved).collect();
    for vm in &vms {
        progress.say(&format!("{}: {} -> {}", vm.name, vm.before, vm.after));
    }
    cluster.no_disk_has_two_writers()?;
    // What the mark of 12 s leaves beside the default timers is for deciding and starting. An emulated host is no measure of it.
    ensure!(
        cluster.is_slow() || failover_s <= cluster.restart_s() + START_S_MAX,
        "the VMs of {victim} ran elsewhere only after {failover_s:.1} s"
    );
    let tenth = |seconds: f64| (seconds * 10.0).round() / 10.0;
    Ok(FailoverSummary {
        ok: true,
        hosts: cluster.nodes.len(),
        cut: victim,
        vms,
        failover_s: tenth(failover_s),
        restart_s: tenth(cluster.restart_s()),
        agent: cluster.agent,
        seconds: tenth(progress.elapsed_s()),
    })
}
