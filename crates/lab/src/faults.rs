//! Faults done to a cluster of virtual hosts, one after the other: power, network, daemons, etcd.
//!
//! After each of them every VM must run on exactly one host that is a healthy member, and at no moment may two guests have
//! written to one VM's disk. A sequence is a list, or made of a number: the same number gives the same sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::cluster::{Cluster, ClusterOptions, HOSTS, VM_NAMES, each, homes};
use crate::demo::wait_for;
use crate::{Lifetime, Progress};

/// Something bad that happens to a host, which is counted from 0. Where it happens to all, or to the one that leads, the host
/// does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To which host.
    pub host: usize,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// A host loses its power, and gets it back when its VMs run elsewhere.
    PowerCut,
    /// Nothing that a host sends reaches another, nor the other way; its storage stays reachable.
    NetworkCut,
    /// Nothing that a host sends reaches another; it hears them.
    Muted,
    /// A daemon is killed.
    DaemonKilled,
    /// The daemon that leads is killed.
    LeaderKilled,
    /// An etcd member is killed.
    EtcdKilled,
    /// The etcd member that leads is killed.
    EtcdLeaderKilled,
    /// All etcd members but that of this host are killed at once.
    QuorumKilled,
    /// All etcd members but that of this host are stopped for longer than a host may live without a heartbeat.
    QuorumStopped,
    /// A host is rebooted by its administrator; its VMs wait for it.
    Rebooted,
    /// A host is shut down by its administrator, and turned on when its VMs run elsewhere.
    ShutDown,
    /// A host loses its power while it is drained.
    CutWhileDrained,
    /// A host leaves the cluster and joins it again, while wishes come in.
    LeftAndJoined,
    /// All hosts lose their power at once.
    AllPowerCut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = format!("node{}", self.host + 1);
        match self.kind {
            Kind::PowerCut => write!(f, "{node} loses its power"),
            Kind::NetworkCut => write!(f, "{node} is cut off from the others"),
            Kind::Muted => write!(f, "{node} is not heard by the others"),
            Kind::DaemonKilled => write!(f, "the daemon on {node} is killed"),
            Kind::LeaderKilled => f.write_str("the daemon that leads is killed"),
            Kind::EtcdKilled => write!(f, "etcd on {node} is killed"),
            Kind::EtcdLeaderKilled => f.write_str("the etcd member that leads is killed"),
            Kind::QuorumKilled => write!(f, "etcd is killed everywhere but on {node}"),
            Kind::QuorumStopped => write!(f, "etcd is stopped everywhere but on {node}, for long"),
            Kind::Rebooted => write!(f, "{node} is rebooted"),
            Kind::ShutDown => write!(f, "{node} is shut down"),
            Kind::CutWhileDrained => write!(f, "{node} loses its power while it is drained"),
            Kind::LeftAndJoined => write!(f, "{node} leaves the cluster and joins it again"),
            Kind::AllPowerCut => f.write_str("all hosts lose their power"),
        }
    }
}

impl Kind {
    /// Of a host.
    pub fn of(self, host: usize) -> Fault {
        Fault { kind: self, host }
    }

    /// Whether VMs may stop for it.
    fn stops_vms(self) -> bool {
        match self {
            Self::PowerCut
            | Self::NetworkCut
            | Self::Muted
            | Self::Rebooted
            | Self::ShutDown
            | Self::CutWhileDrained
            | Self::LeftAndJoined
            | Self::AllPowerCut => true,
            Self::DaemonKilled
            | Self::LeaderKilled
            | Self::EtcdKilled
            | Self::EtcdLeaderKilled
            | Self::QuorumKilled
            | Self::QuorumStopped => false,
        }
    }

    /// Whether VMs may be on other hosts afterwards.
    fn moves_vms(self) -> bool {
        self.stops_vms() && self != Self::Rebooted
    }
}

/// So many faults, made of a number; if a kind is given, of that kind, to one host after the other.
pub fn sequence(seed: u64, count: usize, only: Option<Kind>) -> Vec<Fault> {
    let hosts = usize::from(HOSTS);
    if let Some(kind) = only {
        return (0..count).map(|at| kind.of(at % hosts)).collect();
    }
    let mut state = seed;
    // SplitMix64 (Steele, Lea, Flood 2014): every seed gives another sequence, and the same one everywhere.
    let mut below = |limit: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or_default()
    };
    let kinds = Kind::value_variants();
    (0..count).map(|_| kinds[below(kinds.len())].of(below(hosts))).collect()
}

/// What to do.
#[derive(Clone, Debug)]
pub struct FaultOptions {
    /// What to make the cluster of.
    pub cluster: ClusterOptions,
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
    let mut cluster = Cluster::start(&options.cluster, Lifetime::Caller, progress)?;
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
        ensure!(
            fault.kind.moves_vms() || after == before,
            "{fault}, and VMs moved: {before:?}, then {after:?}"
        );
        if !fault.kind.stops_vms() {
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
    let host = fault.host;
    match fault.kind {
        Kind::PowerCut => {
            cluster.nodes[host].power_cut()?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].start_again(progress)?;
        }
        Kind::NetworkCut => {
            cluster.network.isolate(number(host));
            cluster.is_cut_off(host, homes_before, progress)?;
        }
        Kind::Muted => {
            for other in (0..usize::from(HOSTS)).filter(|other| *other != host) {
                cluster.network.cut(number(host), number(other));
            }
            cluster.is_cut_off(host, homes_before, progress)?;
        }
        Kind::DaemonKilled => cluster.nodes[host].run(KILL_DAEMON).map(drop)?,
        Kind::LeaderKilled => {
            let leader = cluster.leader()?;
            cluster.nodes[leader].run(KILL_DAEMON)?;
        }
        Kind::EtcdKilled => cluster.nodes[host].run(KILL_ETCD).map(drop)?,
        Kind::EtcdLeaderKilled => {
            let leader = cluster.etcd_leader()?;
            cluster.nodes[leader].run(KILL_ETCD)?;
        }
        Kind::QuorumKilled => cluster.etcd_but_on(host, KILL_ETCD)?,
        Kind::QuorumStopped => cluster.outlives_the_store(host, progress)?,
        Kind::Rebooted => {
            cluster.nodes[host].run("systemctl --no-block reboot")?;
            cluster.nodes[host].follow_reset(progress)?;
        }
        Kind::ShutDown => {
            cluster.nodes[host].run("systemctl --no-block poweroff")?;
            wait_for("its end", || Ok((!cluster.nodes[host].status().up).then_some(())))?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].power_cut()?;
            cluster.nodes[host].start_again(progress)?;
        }
        Kind::CutWhileDrained => {
            let name = cluster.nodes[host].name().to_owned();
            cluster.nodes[host].run(&format!("tranche -q host drain {name} --no-wait >/dev/null"))?;
            cluster.nodes[host].power_cut()?;
            cluster.runs_elsewhere(host, homes_before, progress)?;
            cluster.nodes[host].start_again(progress)?;
            cluster.nodes[host].run(&format!("tranche -q host undrain {name}"))?;
        }
        Kind::LeftAndJoined => cluster.leaves_and_joins(host, progress)?,
        Kind::AllPowerCut => {
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

    /// Waits until a host that the others do not hear is down, by its watchdog or their agent, and its VMs run on others; then
    /// mends the network and lets the host boot. One without VMs that nobody fences only has to be missed.
    fn is_cut_off(
        &mut self,
        host: usize,
        before: &BTreeMap<String, String>,
        progress: &Progress,
    ) -> Result<()> {
        let had_vms = before.values().any(|home| home == self.nodes[host].name());
        if had_vms {
            self.runs_elsewhere(host, before, progress)?;
        } else {
            wait_for("the others to miss it", || {
                let hosts = self.hosts(&self.nodes[(host + 1) % self.nodes.len()])?;
                let missed = |row: &crate::cluster::HostRow| {
                    row.name == self.nodes[host].name()
                        && row.member.as_ref().is_some_and(|member| self.is_over(&member.standing))
                };
                Ok(hosts.iter().any(missed).then_some(()))
            })?;
        }
        self.network.mend();
        if self.agent {
            self.nodes[host].power_cut()?;
            self.nodes[host].start_again(progress)?;
        } else if had_vms {
            self.nodes[host].follow_reset(progress)?;
        }
        Ok(())
    }

    /// Whether nothing more is done about a host that does not answer.
    fn is_over(&self, standing: &str) -> bool {
        if self.agent { standing == "down" } else { standing != "up" }
    }

    /// Does something to etcd on every host but one.
    fn etcd_but_on(&self, host: usize, command: &str) -> Result<()> {
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != host);
        each(others.map(|(_, node)| node).collect(), |node| Ok(node.run(command)?)).map(drop)
    }

    /// The store has no majority for longer than a host without a heartbeat may live, and nobody is reset.
    fn outlives_the_store(&self, survivor: usize, progress: &Progress) -> Result<()> {
        let boots =
            || each(self.nodes.iter().collect(), |node| Ok(node.run("cat /proc/sys/kernel/random/boot_id")?));
        let before = boots()?;
        self.etcd_but_on(survivor, "systemctl stop tranche-etcd")?;
        let step = progress.step("Waiting for longer than a host may live without a heartbeat");
        let until = Instant::now() + Duration::from_secs_f64(self.restart_s() + 15.0);
        while Instant::now() < until {
            self.no_disk_has_two_writers()?;
            std::thread::sleep(Duration::from_secs(1));
        }
        drop(step);
        ensure!(boots()? == before, "a host reset itself although nobody could write to the store");
        self.etcd_but_on(survivor, "systemctl start tranche-etcd")
    }

    /// A host is emptied, leaves, and joins again, while VMs are made and deleted through another one.
    fn leaves_and_joins(&self, host: usize, progress: &Progress) -> Result<()> {
        let (name, other) = (self.nodes[host].name(), (host + 1) % self.nodes.len());
        let (wish, over) = (&self.nodes[other], AtomicBool::new(false));
        let wishes = || -> Result<u32> {
            let mut made = 0;
            while !over.load(Ordering::Relaxed) {
                wish.run(
                    "tranche -q vm create load --vcpus 1 --memory 64MiB --firmware bios --gpu any && \
                     tranche -q vm delete load",
                )?;
                made += 1;
            }
            Ok(made)
        };
        let way = || -> Result<()> {
            let _step = progress.step(&format!("{name}: tranche cluster leave"));
            wish.run(&format!("tranche -q host drain {name}"))?;
            self.nodes[host].run("tranche -q cluster leave")?;
            self.let_in(host, other, progress)?;
            if self.agent { self.arm_agents() } else { Ok(()) }
        };
        let (made, went) = std::thread::scope(|scope| {
            let load = scope.spawn(wishes);
            let went = way();
            over.store(true, Ordering::Relaxed);
            (load.join(), went)
        });
        went?;
        let made = made.map_err(|_| anyhow::anyhow!("the thread that made wishes panicked"))??;
        ensure!(made > 0, "no wish came in meanwhile");
        progress.say(&format!("{made} VMs were made and deleted meanwhile"));
        Ok(())
    }

    /// The host whose etcd member leads.
    fn etcd_leader(&self) -> Result<usize> {
        wait_for("a leader of etcd", || {
            let ask =
                "tranche cluster status -o json | jq -r '.members[] | select(.store.answer.leads) | .host'";
            let leader = self.nodes[0].run(ask)?;
            Ok(self.nodes.iter().position(|node| node.name() == leader.trim()))
        })
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
        assert_eq!(sequence(7, 20, None), sequence(7, 20, None));
        assert_ne!(sequence(7, 20, None), sequence(8, 20, None));
        let kinds: HashSet<_> = sequence(1, 200, None).iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), Kind::value_variants().len());
    }

    #[test]
    fn faults_of_one_kind_go_round_the_hosts() {
        let faults = sequence(1, 4, Some(Kind::PowerCut));
        assert_eq!(faults, [0, 1, 2, 0].map(|host| Kind::PowerCut.of(host)));
    }
}
