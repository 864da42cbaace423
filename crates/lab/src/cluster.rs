//! Virtual hosts that are a cluster, with real etcd, a network of their own and a directory that all of them have.
//!
//! It acts as a user would, by the package and the command alone. Where a VM runs is what each host's own libvirt says, and
//! whether two ever wrote to a VM's disk is what the disk says.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::demo::{VM_MEMORY, install, print_last_words, wait_for};
use crate::fence;
use crate::guest::GUEST_DISK;
use crate::network::Network;
use crate::node::{FENCE_ADDRESS, SHARE_TAG};
use crate::stamps::Stamps;
use crate::{Lifetime, Node, NodeOptions, Progress, quote};

/// How many hosts. Etcd outlives the loss of one of three.
pub const HOSTS: u8 = 3;
/// The VMs that it runs.
pub const VM_NAMES: [&str; 3] = ["vm1", "vm2", "vm3"];
const PF: &str = "0000:01:00.0";
const PARTITIONS: u16 = 2;
/// A host with two small guests and etcd.
const MEMORY_MIB: u32 = 2560;
/// The storage pool that all hosts have, and where they have it.
const POOL: &str = "shared";
const POOL_PATH: &str = "/srv/shared";

/// The cluster's times where every instruction of the hosts is emulated: etcd takes seconds for an answer there while a VM or a
/// daemon starts, and each question keeps its host from something else. Elsewhere they are Tranche's own.
const SLOW_TIMERS: &str =
    r#"{"heartbeat_ms":4000,"lost_ms":30000,"reset_ms":120000,"restart_ms":125000,"election_ms":10000}"#;
const SLOW_ELECTION_MS: u64 = 10_000;
const SLOW_RESTART_S: f64 = 125.0;
/// `restart_ms` of Tranche's own timers.
const RESTART_S: f64 = 10.0;

/// A host's agent: what it is told goes to the machine that runs the hosts, and what that answers is its own.
const AGENT_SCRIPT: &str = r#"#!/bin/sh
answer=$(socat -t 60 STDIO TCP:ADDRESS) || exit 1
status=${answer%%
*}
said=${answer#*
}
[ "$status" = 1 ] && printf '%s\n' "$said" >&2 || printf '%s\n' "$said"
exit "$status"
"#;

/// QEMU moves a VFIO device only if something logs what it writes, and Debian's kernel has no iommufd, by which that would be read. The
/// lab's device writes nothing, so QEMU is told to move those of it all the same; it then takes all memory for changed, always.
const QEMU_THAT_MOVES: &str = r#"q=/usr/bin/qemu-system-x86_64 && mv $q $q.real && cat >$q <<'SH' && chmod 755 $q && systemctl try-restart libvirtd
#!/bin/sh
case "$*" in *0000:02:1*) set -- "$@" -global vfio-pci.enable-migration=on ;; esac
exec /usr/bin/qemu-system-x86_64.real "$@"
SH"#;

/// What to make a cluster of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The package to install.
    pub deb: PathBuf,
    /// The lab's own program, where the power of lost hosts is to be cut by its agent; else only their watchdogs guard them.
    pub agent: Option<PathBuf>,
    /// How many hosts: [`HOSTS`], or fewer where none is lost.
    pub hosts: u8,
    /// Whether each host has a second GPU, whose functions take types and can move with their VMs.
    pub moves: bool,
}

/// Hosts that are a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// By their place in the network.
    pub nodes: Vec<Node>,
    /// What is between them.
    pub network: Network,
    /// Who writes to the disks of the VMs.
    pub stamps: Stamps,
    /// Whether an agent cuts the power of hosts that are lost.
    pub agent: bool,
    _directory: tempfile::TempDir,
}

/// What is read of `tranche host list -o json`.
#[derive(Debug, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// What it is to the cluster.
    pub member: Option<MemberRow>,
}

/// What the cluster holds a host for.
#[derive(Debug, Deserialize)]
pub struct MemberRow {
    /// `up`, `lost`, `fencing` or `down`.
    pub standing: String,
    /// Whether its watchdog watches over it.
    pub guard: String,
}

impl Cluster {
    /// Boots the hosts, installs the package, and lets them join.
    ///
    /// # Errors
    /// A host does not boot, or a command fails.
    pub fn start(wanted: &ClusterOptions, lifetime: Lifetime, progress: &Progress) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let network = Network::start(directory.path(), wanted.hosts)?;
        let share = directory.path().join("share");
        fs::create_dir(&share)?;
        let options = |number: u8| -> Result<NodeOptions> {
            Ok(NodeOptions {
                memory_mib: MEMORY_MIB,
                adapters: if wanted.moves { 2 } else { 1 },
                vgpu: wanted.moves,
                vgpu_moves: wanted.moves,
                watchdog: true,
                port: Some(network.ports()[usize::from(number) - 1].clone()),
                share: Some(share.clone()),
                fence: wanted.agent.clone(),
                ..NodeOptions::new(&format!("node{number}"), lifetime)?
            })
        };
        let options = (1..=wanted.hosts).map(options).collect::<Result<Vec<_>>>()?;
        // The image is made once, before they all want it.
        crate::image::NodeImage::ensure(progress)?;
        let nodes = each(options, |options| Ok(Node::start(options, progress)?))?;
        let stamps = Stamps::watch(&share, &VM_NAMES)?;
        let agent = wanted.agent.is_some();
        let cluster = Self { nodes, network, stamps, agent, _directory: directory };
        let joined = cluster.prepare(wanted, progress);
        joined.inspect_err(|_| cluster.print_last_words())?;
        Ok(cluster)
    }

    fn prepare(&self, wanted: &ClusterOptions, progress: &Progress) -> Result<()> {
        let names = self.network.ports().iter().map(|port| format!("{} node{}", port.address(), port.number));
        let names: Vec<String> = names.collect();
        each(self.nodes.iter().zip(self.network.ports()).collect(), |(node, port)| {
            let card = format!(
                "[Match]\\nMACAddress={}\\n[Network]\\nAddress={}/24\\nLinkLocalAddressing=no\\n",
                port.mac(),
                port.address()
            );
            node.run(&format!(
                "printf '{card}' >/etc/systemd/network/20-cluster.network && networkctl reload && \
                 printf '%s\\n' {} >>/etc/hosts && \
                 echo i6300esb >/etc/modules-load.d/watchdog.conf && modprobe i6300esb && \
                 echo '{SHARE_TAG} {POOL_PATH} 9p trans=virtio,version=9p2000.L,msize=262144 0 0' >>/etc/fstab && \
                 mkdir -p {POOL_PATH} && mount {POOL_PATH}",
                names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" ")
            ))?;
            // libvirt knows NFS and its like, and has to be told of others (since 10.8).
            node.run(&format!(
                "echo 'shared_filesystems = [ \"{POOL_PATH}\" ]' >>/etc/libvirt/qemu.conf && systemctl try-restart libvirtd"
            ))?;
            if wanted.moves {
                node.run(QEMU_THAT_MOVES)?;
            }
            install(node, &wanted.deb, progress)?;
            if self.is_slow() {
                node.run(&format!(
                    "sed -i 's/^#election_ms = .*/election_ms = {SLOW_ELECTION_MS}/' /etc/tranche/tranched.toml && \
                     systemctl restart tranched"
                ))?;
            }
            Ok(())
        })?;
        for vm in VM_NAMES {
            self.nodes[0].run(&format!("cp {GUEST_DISK} {POOL_PATH}/{vm} && chmod 666 {POOL_PATH}/{vm}"))?;
        }
        each(self.nodes.iter().collect(), |node| {
            // Not before the disks are there: libvirt looks at what is in a pool when it starts it.
            let define = format!(
                "virsh -q pool-define-as {POOL} dir --target {POOL_PATH} && virsh -q pool-autostart {POOL} && \
                 virsh -q pool-start {POOL}"
            );
            node.run(&define).map_err(Into::into)
        })?;
        self.join(progress)?;
        if self.agent { self.arm_agents() } else { Ok(()) }
    }

    /// Any host may have to cut any other. None turns another on again: the lab gives its nodes their power itself, once it has
    /// looked.
    pub(crate) fn arm_agents(&self) -> Result<()> {
        let (name, script) = (fence::AGENT, AGENT_SCRIPT.replace("ADDRESS", FENCE_ADDRESS));
        each(self.nodes.iter().collect(), |node| {
            let install =
                format!("printf %s {} >/usr/sbin/{name} && chmod 755 /usr/sbin/{name}", quote(&script));
            Ok(node.run(&install)?)
        })?;
        for node in &self.nodes {
            let host = node.name();
            self.nodes[0].run(&format!(
                "tranche -q host set {host} --fence-agent {name} --fence-option plug={host} --fence-leave-off"
            ))?;
        }
        Ok(())
    }

    fn join(&self, progress: &Progress) -> Result<()> {
        let (first, others) = self.nodes.split_first().context("there are hosts")?;
        let address = |number: usize| self.network.ports()[number].address();
        let step = progress.step("node1: tranche cluster init");
        first.run(&format!("tranche -q cluster init --name lab --address {}", address(0)))?;
        drop(step);
        // Before others join: each of them asks the store as often as the times say.
        if self.is_slow() {
            progress
                .say("the cluster's times are longer than its own defaults: this machine emulates its hosts");
            let curl = "curl -sf --unix-socket /run/tranche/tranche.sock";
            let policy = "http://localhost/v1/policy";
            first.run(&format!(
                "{curl} {policy} | jq '.failover.timers = {SLOW_TIMERS}' | \
                 {curl} -X PUT -H 'content-type: application/json' --data-binary @- {policy}"
            ))?;
        }
        for number in 1..=others.len() {
            self.let_in(number, 0, progress)?;
        }
        wait_for("every host's report", || {
            let hosts = self.hosts(first)?;
            Ok((hosts.len() == self.nodes.len()).then_some(()))
        })
    }

    /// Takes a host into the cluster by another one's token.
    pub(crate) fn let_in(&self, host: usize, by: usize, progress: &Progress) -> Result<()> {
        let (node, address) = (&self.nodes[host], self.network.ports()[host].address());
        let _step = progress.step(&format!("{}: tranche cluster join", node.name()));
        let token = self.nodes[by].run("tranche cluster token create")?;
        let token =
            token.split_whitespace().find(|word| word.starts_with("TRANCHE1.")).context("no token")?;
        node.run(&format!("tranche -q cluster join {token} --address {address}"))?;
        Ok(())
    }

    /// After how many seconds of silence a host's VMs are started elsewhere, where nothing but its watchdog guards it.
    pub fn restart_s(&self) -> f64 {
        if self.is_slow() { SLOW_RESTART_S } else { RESTART_S }
    }

    /// Whether the hosts are emulated, and the cluster's timers longer than by default.
    pub fn is_slow(&self) -> bool {
        self.nodes.iter().any(|node| node.accelerator().patience() > 1)
    }

    /// What a host knows of all.
    ///
    /// # Errors
    /// It does not answer.
    pub fn hosts(&self, node: &Node) -> Result<Vec<HostRow>> {
        let text = node.run("tranche host list -o json")?;
        serde_json::from_str(&text).with_context(|| format!("tranche host list printed: {text}"))
    }

    /// Splits a GPU on each host, and runs the VMs wherever Tranche wants them.
    ///
    /// # Errors
    /// A command fails.
    pub fn run_vms(&self, progress: &Progress) -> Result<()> {
        self.split_gpus(progress)?;
        for (index, vm) in VM_NAMES.iter().enumerate() {
            self.run_vm(index % self.nodes.len(), vm, "any", progress)?;
        }
        Ok(())
    }

    /// Splits a GPU on each host.
    pub(crate) fn split_gpus(&self, progress: &Progress) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            // Any host may be asked.
            let asked = &self.nodes[(index + 1) % self.nodes.len()];
            let _step = progress.step(&format!(
                "{}: tranche gpu partition {}/{PF} {PARTITIONS}",
                asked.name(),
                node.name()
            ));
            asked.run(&format!("tranche -q gpu partition {}/{PF} {PARTITIONS}", node.name()))?;
        }
        Ok(())
    }

    /// Makes a VM through a host, and starts it wherever Tranche wants it.
    pub(crate) fn run_vm(&self, asked: usize, vm: &str, gpu: &str, progress: &Progress) -> Result<()> {
        let asked = &self.nodes[asked];
        let _step =
            progress.step(&format!("{}: tranche vm create {vm}, tranche vm start {vm}", asked.name()));
        asked.run(&format!(
            "tranche -q vm create {vm} --vcpus 1 --memory {VM_MEMORY} --disk {POOL}/{vm} --firmware bios --gpu {gpu} && \
             tranche -q vm start {vm}"
        ))?;
        Ok(())
    }

    /// The VMs that run on each host, with how long their QEMU processes have, in seconds, as that host's system says.
    ///
    /// # Errors
    /// A host does not answer.
    pub fn running(&self, without: Option<&str>) -> Result<BTreeMap<String, Vec<(String, f64)>>> {
        let nodes: Vec<&Node> = self.nodes.iter().filter(|node| Some(node.name()) != without).collect();
        let asked = each(nodes, |node| {
            // In hundredths of a second, which ps does not tell.
            let machines = "for p in $(pgrep -x qemu-system-x86); do \
                echo $(awk -v up=$(cut -d' ' -f1 /proc/uptime) '{ print up - $22 / 100 }' /proc/$p/stat) $(tr '\\0' '\\n' </proc/$p/cmdline | grep -o -m1 'guest=[^,]*'); done";
            Ok((node.name().to_owned(), node.run(machines)?))
        })?;
        let mut running: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for (host, text) in asked {
            for line in text.lines() {
                let Some((age, vm)) = line.split_once(" guest=") else { continue };
                running.entry(vm.trim().to_owned()).or_default().push((host.clone(), age.trim().parse()?));
            }
        }
        Ok(running)
    }

    /// No two guests ever wrote to the disk of one VM.
    ///
    /// # Errors
    /// They did.
    pub fn no_disk_has_two_writers(&self) -> Result<()> {
        let wrong = self.stamps.written_by_two();
        ensure!(wrong.is_empty(), "two guests wrote to one disk: {wrong:?}");
        Ok(())
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// A host does not end.
    pub fn end(self) -> Result<()> {
        for node in self.nodes {
            node.end()?;
        }
        Ok(())
    }

    /// What each daemon logged last, for whoever has to find out why something failed.
    pub fn print_last_words(&self) {
        for node in &self.nodes {
            eprintln!("{}:", node.name());
            print_last_words(node);
        }
    }
}

/// On which host each VM runs.
///
/// # Errors
/// A VM runs on two, which it may at no moment.
pub fn homes(running: &BTreeMap<String, Vec<(String, f64)>>) -> Result<BTreeMap<String, String>> {
    running
        .iter()
        .map(|(vm, at)| match at.as_slice() {
            [(host, _)] => Ok((vm.clone(), host.clone())),
            _ => bail!("{vm} runs more than once: {at:?}"),
        })
        .collect()
}

/// Does something with each, beside each other.
pub(crate) fn each<T: Send, U: Send>(items: Vec<T>, work: impl Fn(T) -> Result<U> + Sync) -> Result<Vec<U>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|joined| joined.unwrap_or_else(|_| bail!("a thread of the lab panicked"))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_runs_on_two_hosts_is_found() {
        let one = |host: &str| (host.to_owned(), 1.0);
        let once = BTreeMap::from([("a".to_owned(), vec![one("node1")])]);
        assert_eq!(homes(&once).expect("homes")["a"], "node1");
        let twice = BTreeMap::from([("a".to_owned(), vec![one("node1"), one("node2")])]);
        assert!(homes(&twice).is_err());
    }
}
