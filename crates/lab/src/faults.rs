//! Faults done to a cluster of virtual hosts, one after the other: power, network, daemons, etcd.
//!
//! After each of them every VM must run on exactly one host that is a healthy member, and at no moment may two guests have
//! written to one VM's disk. A sequence is a list, or made of a number: the same number gives the same sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::cluster::{Cluster, HOSTS, VM_NAMES, each, homes};
use crate::demo::wait_for;
use crate::{Lifetime, Progress};

/// Something bad. Hosts are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A host loses its power, and gets it back when its VMs run elsewhere.
    PowerCut(usize),
    /// Nothing that a host sends reaches another, nor the other way; its storage stays reachable.
    NetworkCut(usize),
    /// Nothing that a host sends reaches another; it hears them.
    Muted(usize),
    /// A daemon is killed.
    DaemonKilled(usize),
    /// The daemon that leads is killed.
    LeaderKilled,
    /// An etcd member is killed.
    EtcdKilled(usize),
    /// All but one etcd member are killed at once.
    QuorumKilled(usize),
    /// A host is rebooted by its administrator; its VMs wait for it.
    Rebooted(usize),
    /// A host is shut down by its administrator, and turned on when its VMs run elsewhere.
    ShutDown(usize),
    /// A host loses its power while it is drained.
    CutWhileDrained(usize),
    /// All hosts lose their power at once.
    AllPowerCut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerCut(host) => write!(f, "node{} loses its power", host + 1),
            Self::NetworkCut(host) => write!(f, "node{} is cut off from the others", host + 1),
            Self::Muted(host) => write!(f, "node{} is not heard by the others", host + 1),
            Self::DaemonKilled(host) => write!(f, "the daemon on node{} is killed", host + 1),
            Self::LeaderKilled => f.write_str("the daemon that leads is killed"),
            Self::EtcdKilled(host) => write!(f, "etcd on node{} is killed", host + 1),
            Self::QuorumKilled(host) => write!(f, "etcd is killed everywhere but on node{}", host + 1),
            Self::Rebooted(host) => write!(f, "node{} is rebooted", host + 1),
            Self::ShutDown(host) => write!(f, "node{} is shut down", host + 1),
            Self::CutWhileDrained(host) => write!(f, "node{} loses its power while it is drained", host + 1),
            Self::AllPowerCut => f.write_str("all hosts lose their power"),
        }
    }
}

impl Fault {
    /// Whether VMs may stop for it.
    fn stops_vms(self) -> bool {
        match self {
            Self::PowerCut(_)
            | Self::NetworkCut(_)
            | Self::Muted(_)
            | Self::Rebooted(_)
            | Self::ShutDown(_)
            | Self::CutWhileDrained(_)
            | Self::AllPowerCut => true,
            Self::DaemonKilled(_) | Self::LeaderKilled | Self::EtcdKilled(_) | Self::QuorumKilled(_) => false,
        }
    }

    /// Whether VMs may be on other hosts afterwards.
    fn moves_vms(self) -> bool {
        self.stops_vms() && !matches!(self, Self::Rebooted(_))
    }
}

/// So many faults, made of a number.
pub fn sequence(seed: u64, count: usize) -> Vec<Fault> {
    let mut state = seed;
    // SplitMix64 (Steele, Lea, Flood 2014): every seed gives another sequence, and the same one everywhere.
    let mut below = |limit: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    };
    let mut fault = || {
        let kind = below(11);
        let host = usize::try_from(below(u64::from(HOSTS))).unwrap_or_default();
        match kind {
            0 => Fault::PowerCut(host),
            1 => Fault::NetworkCut(host),
            2 => Fault::Muted(host),
            3 => Fault::DaemonKilled(host),
            4 => Fault::LeaderKilled,
            5 => Fault::EtcdKilled(host),
            6 => Fault::QuorumKilled(host),
            7 => Fault::Rebooted(host),
            8 => Fault::ShutDown(host),
            9 => Fault::CutWhileDrained(host),
            _ => Fault::AllPowerCut,
        }
    };
    (0..count).map(|_| fault()).collect()
}

/// What to do.
#[derive(Clone, Debug)]
pub struct FaultOptions {
    /// The package to install.
    pub deb: PathBuf,
    /// One after the other.
    pub faults: Vec<Fault>,
}

/// What came of it; its JSON is one line with these fields.
#[derive(Clone, Debug, Serialize)]
pub struct FaultSummary {
    /// Whether after each fault every VM ran on one host, and no disk was ever written by two.
    pub ok: bool,
    /// The faults.
    pub faults: Vec<Survived>,
    /// How often the guests came to life, all in all.
    pub lives: usize,
    /// Seconds from the start of the program.
    pub seconds: f64,
}

/// A fault, and how the cluster came out of it.
#[derive(Clone, Debug, Serialize)]
pub struct Survived {
    /// What was done.
    pub fault: String,
    /// The VMs that were on another host afterwards.
    pub moved: Vec<String>,
    /// Seconds until everything was well again, boots of hosts included.
    pub healed_s: f64,
}

/// Does the faults to a cluster of its own.
///
/// # Errors
/// When the cluster does not come out of one, or two guests wrote to one disk; the daemons' last words are on standard error
/// then.
pub fn run(options: &FaultOptions, progress: &Progress) -> Result<FaultSummary> {
    let mut cluster = Cluster::start(&options.deb, Lifetime::Caller, progress)?;
    let survived = endure(&mut cluster, &options.faults, progress);
    let faults = survived.inspect_err(|_| cluster.print_last_words())?;
    let lives = cluster.stamps.lives().values().map(|(lives, _)| lives).sum();
    let _step = progress.step("Taking everything down");
    let seconds = progress.elapsed_s().round();
    cluster.end()?;
    Ok(FaultSummary { ok: true, faults, lives, seconds })
}

/// Runs the VMs, and does the faults.
///
/// # Errors
/// As [`run`].
pub fn endure(cluster: &mut Cluster, faults: &[Fault], progress: &Progress) -> Result<Vec<Survived>> {
    cluster.run_vms(progress)?;
    cluster.is_well(progress, "before any fault")?;
    let mut survived = Vec::new();
    for fault in faults {
        let before = homes(&cluster.running(None)?)?;
        let lives = cluster.stamps.lives();
        progress.say(&format!("fault {} of {}: {fault}", survived.len() + 1, faults.len()));
        let began = Instant::now();
        inflict(cluster, *fault, &before, progress).with_context(|| fault.to_string())?;
        cluster.is_well(progress, &fault.to_string())?;
        let after = homes(&cluster.running(None)?)?;
        ensure!(fault.moves_vms() || after == before, "{fault}, and VMs moved: {before:?}, then {after:?}");
        if !fault.stops_vms() {
            let now = cluster.stamps.lives();
            let restarted =
                now.iter().filter(|(vm, (count, _))| lives.get(*vm).is_some_and(|was| was.0 != *count));
            let restarted: Vec<&String> = restarted.map(|(vm, _)| vm).collect();
            ensure!(restarted.is_empty(), "{fault}, and VMs were restarted: {restarted:?}");
        }
        let moved = before.iter().filter(|(vm, home)| after.get(*vm) != Some(home));
        let moved: Vec<String> = moved.map(|(vm, _)| vm.clone()).collect();
        let healed_s = began.elapsed().as_secs_f64().round();
        progress.say(&format!("all is well again after {healed_s} s; moved: {moved:?}"));
        survived.push(Survived { fault: fault.to_string(), moved, healed_s });
    }
    Ok(survived)
}

fn inflict(
    cluster: &mut Cluster,
    fault: Fault,
    homes_before: &BTreeMap<String, String>,
    progress: &Progress,
) -> Result<()> {
    const KILL_DAEMON: &str = "systemctl kill --signal=KILL tranched";
    const KILL_ETCD: &str = "systemctl kill --signal=KILL tranche-etcd";
    match fault {
        Fault::PowerCut(host) => {
            cluster.nodes[host].power_cut()?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].start_again(progress)?;
        }
        Fault::NetworkCut(host) => {
            cluster.network.isolate(number(host));
            cluster.is_reset(host, homes_before, progress)?;
        }
        Fault::Muted(host) => {
            for other in (0..usize::from(HOSTS)).filter(|other| *other != host) {
                cluster.network.cut(number(host), number(other));
            }
            cluster.is_reset(host, homes_before, progress)?;
        }
        Fault::DaemonKilled(host) => cluster.nodes[host].run(KILL_DAEMON).map(drop)?,
        Fault::LeaderKilled => {
            let leader = cluster.leader()?;
            cluster.nodes[leader].run(KILL_DAEMON)?;
        }
        Fault::EtcdKilled(host) => cluster.nodes[host].run(KILL_ETCD).map(drop)?,
        Fault::QuorumKilled(survivor) => {
            let others = cluster.nodes.iter().enumerate().filter(|(host, _)| *host != survivor);
            each(others.map(|(_, node)| node).collect(), |node| Ok(node.run(KILL_ETCD)?))?;
        }
        Fault::Rebooted(host) => {
            cluster.nodes[host].run("systemctl --no-block reboot")?;
            cluster.nodes[host].follow_reset(progress)?;
        }
        Fault::ShutDown(host) => {
            cluster.nodes[host].run("systemctl --no-block poweroff")?;
            wait_for("its end", || Ok((!cluster.nodes[host].status().up).then_some(())))?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].power_cut()?;
            cluster.nodes[host].start_again(progress)?;
        }
        Fault::CutWhileDrained(host) => {
            let name = cluster.nodes[host].name().to_owned();
            cluster.nodes[host].run(&format!("tranche -q host drain {name} --no-wait >/dev/null"))?;
            cluster.nodes[host].power_cut()?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].start_again(progress)?;
            cluster.nodes[host].run(&format!("tranche -q host undrain {name}"))?;
        }
        Fault::AllPowerCut => {
            each(cluster.nodes.iter_mut().collect(), |node| Ok(node.power_cut()?))?;
            each(cluster.nodes.iter_mut().collect(), |node| Ok(node.start_again(progress)?))?;
        }
    }
    Ok(())
}

/// A host's place in the network counts from 1.
fn number(host: usize) -> u8 {
    u8::try_from(host + 1).unwrap_or(u8::MAX)
}

impl Cluster {
    /// Waits until every VM runs on one host, every host is a member that is up, each that has VMs is guarded, and every
    /// guest has stamped its disk once more.
    fn is_well(&self, progress: &Progress, after: &str) -> Result<()> {
        let _step = progress.step("Waiting until all is well");
        let before = self.stamps.lives();
        let mut last = String::new();
        let well = wait_for(&format!("a healthy cluster ({after})"), || {
            let seen = self.ills(&before);
            Ok(match seen {
                Ok(ills) if ills.is_empty() => Some(()),
                Ok(ills) => {
                    last = ills.join("; ");
                    None
                }
                // A host that reboots does not answer.
                Err(error) => {
                    last = format!("{error:#}");
                    None
                }
            })
        });
        self.no_disk_has_two_writers()?;
        well.with_context(|| last)
    }

    fn ills(&self, before: &BTreeMap<String, (usize, u64)>) -> Result<Vec<String>> {
        self.no_disk_has_two_writers()?;
        let mut ills = Vec::new();
        let running = homes(&self.running(None)?)?;
        let homes: BTreeSet<&String> = running.values().collect();
        for vm in VM_NAMES.iter().filter(|vm| !running.contains_key(**vm)) {
            ills.push(format!("{vm} does not run"));
        }
        for host in self.hosts(&self.nodes[0])? {
            let Some(member) = host.member else { continue };
            if member.standing != "up" {
                ills.push(format!("{} is {}", host.name, member.standing));
            }
            if homes.contains(&host.name) && member.guard != "armed" {
                ills.push(format!("the guard of {} is {}", host.name, member.guard));
            }
        }
        for (vm, now) in self.stamps.lives() {
            if before.get(&vm) == Some(&now) {
                ills.push(format!("{vm} has not stamped its disk"));
            }
        }
        Ok(ills)
    }

    /// Waits until the VMs that a host had run on others.
    fn runs_elsewhere(
        &self,
        host: usize,
        before: &BTreeMap<String, String>,
        progress: &Progress,
    ) -> Result<()> {
        let _step = progress.step("Waiting for its VMs on other hosts");
        let lost = self.nodes[host].name();
        wait_for("every VM on another host", || {
            self.no_disk_has_two_writers()?;
            let running = homes(&self.running(Some(lost))?)?;
            Ok(before.keys().all(|vm| running.contains_key(vm)).then_some(()))
        })
    }

    /// Waits until a host that the others do not hear, and that had VMs, has reset itself and its VMs run on others; then
    /// mends the network.
    fn is_reset(
        &mut self,
        host: usize,
        before: &BTreeMap<String, String>,
        progress: &Progress,
    ) -> Result<()> {
        if before.values().any(|home| home == self.nodes[host].name()) {
            self.runs_elsewhere(host, before, progress)?;
            self.network.mend();
            self.nodes[host].follow_reset(progress)?;
        } else {
            wait_for("the others to miss it", || {
                let hosts = self.hosts(&self.nodes[(host + 1) % self.nodes.len()])?;
                let missed = |row: &crate::cluster::HostRow| {
                    row.name == self.nodes[host].name()
                        && row.member.as_ref().is_some_and(|member| member.standing != "up")
                };
                Ok(hosts.iter().any(missed).then_some(()))
            })?;
            self.network.mend();
        }
        Ok(())
    }

    /// The host that leads.
    fn leader(&self) -> Result<usize> {
        wait_for("a host that leads", || {
            for (host, node) in self.nodes.iter().enumerate() {
                let metrics =
                    node.run("curl -sf --unix-socket /run/tranche/tranche.sock http://localhost/metrics")?;
                if metrics.lines().any(|line| line == "tranche_leads 1") {
                    return Ok(Some(host));
                }
            }
            Ok(None)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_number_gives_the_same_sequence_each_time_and_every_fault_comes_up() {
        assert_eq!(sequence(7, 20), sequence(7, 20));
        assert_ne!(sequence(7, 20), sequence(8, 20));
        let kinds: HashSet<_> = sequence(1, 200).iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 11);
    }
}
