//! What can befall a cluster, and when.

use serde::{Deserialize, Serialize};
use tranche_core::name::{HostName, RuleName, VmName};
use tranche_core::spec::Rule;

use crate::scenario::VmSetup;

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedEvent {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// What.
    pub event: Event,
}

/// What can befall a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The power of a host goes, whether it is on or on its way there.
    PowerOff(HostName),
    /// It comes back, and the host boots.
    PowerOn(HostName),
    /// So many boots of a host come to nothing.
    BootsFail {
        /// The host.
        host: HostName,
        /// How many.
        tries: u32,
        /// Whether a boot that comes to nothing stays where it is until the power is switched; else the host tries again.
        #[serde(default)]
        hang: bool,
    },
    /// A host reaches nobody, and nobody reaches it.
    NetworkOff(HostName),
    /// It does again, everybody.
    NetworkOn(HostName),
    /// What one host sends does not arrive at another one; the other way goes on.
    CutOneWay {
        /// Who does not reach.
        from: HostName,
        /// Whom.
        to: HostName,
    },
    /// Two hosts do not reach each other.
    Cut {
        /// One.
        one: HostName,
        /// The other.
        other: HostName,
    },
    /// All hosts reach each other again.
    NetworkWhole,
    /// The store does not answer a host, whatever the network does.
    StoreOff(HostName),
    /// It does again.
    StoreOn(HostName),
    /// A question to the store and its answer take so much longer together.
    StoreSlow {
        /// The host that asks; all of them if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
        /// In milliseconds.
        ms: u64,
    },
    /// They do not any more.
    StoreFast {
        /// The host that asks; all of them if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostName>,
    },
    /// The store takes nothing new; what is stored can be read.
    StoreFull,
    /// It does again.
    StoreRoom,
    /// The watches of a host's daemon end.
    WatchLost {
        /// The host.
        host: HostName,
        /// Whether nobody tells the daemon: they hear nothing any more.
        #[serde(default)]
        silent: bool,
    },
    /// The store's member on a host is killed.
    MemberKill(HostName),
    /// It runs again.
    MemberStart(HostName),
    /// The store's leader is killed, wherever it is, and runs again after so long.
    StoreLeaderKill {
        /// In milliseconds.
        ms: u64,
    },
    /// A host's daemon is killed; its service manager starts it again after a second.
    DaemonKill(HostName),
    /// A host's daemon ends in order, as its service manager tells it, and stays so until it is started.
    DaemonStop(HostName),
    /// It is started.
    DaemonStart(HostName),
    /// A host's daemon stands still for so long, in milliseconds: the host is overloaded.
    DaemonPause {
        /// The host.
        host: HostName,
        /// For how long.
        ms: u64,
    },
    /// Whatever a host does takes so many times as long; with 1 it is as before.
    HostSlow {
        /// The host.
        host: HostName,
        /// How many times.
        factor: u32,
    },
    /// A host's wall clock is set forward, or back where it is negative.
    ClockStep {
        /// The host.
        host: HostName,
        /// By how much, in milliseconds.
        ms: i64,
    },
    /// A host is rebooted by its administrator: its VMs are shut down as the policy says, for a minute at most.
    Reboot(HostName),
    /// A host is shut down by its administrator, likewise. `power_on` boots it.
    Shutdown(HostName),
    /// A host's libvirt ends.
    LibvirtOff(HostName),
    /// It runs again.
    LibvirtOn(HostName),
    /// A host becomes a member of the cluster, with its GPUs.
    HostJoin(HostName),
    /// A host shall be forgotten for good, if it has no VM or is known to be down.
    HostRemove(HostName),
    /// A host shall be emptied.
    Drain(HostName),
    /// It shall take VMs again.
    Undrain(HostName),
    /// Somebody says that a silent host is off.
    ConfirmDown(HostName),
    /// Somebody looks at a host, and says that it is off if it is.
    ConfirmIfOff(HostName),
    /// A host's fence agent does not work.
    AgentOff(HostName),
    /// It does again.
    AgentOn(HostName),
    /// A VM shall run.
    VmStart(VmName),
    /// A VM shall be off.
    VmStop(VmName),
    /// A VM shall run on another host.
    VmMigrate {
        /// The VM.
        vm: VmName,
        /// Where; on the best other host if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<HostName>,
    },
    /// A VM is made and shall run.
    VmAdd {
        /// Its name.
        vm: VmName,
        /// What it is.
        #[serde(default)]
        setup: VmSetup,
    },
    /// A VM shall be gone.
    VmRemove(VmName),
    /// A VM's guest crashes.
    VmCrash(VmName),
    /// A VM's guest shuts itself down.
    VmShutdown(VmName),
    /// So many starts of a VM fail, wherever it is tried.
    VmStartsFail {
        /// The VM.
        vm: VmName,
        /// How many.
        tries: u32,
    },
    /// So many moves of a VM while it runs come to nothing.
    VmMovesFail {
        /// The VM.
        vm: VmName,
        /// How many.
        tries: u32,
    },
    /// A rule about where VMs run is made, or changed.
    RuleSet {
        /// Its name.
        name: RuleName,
        /// What it asks.
        rule: Rule,
    },
    /// It is forgotten.
    RuleDelete(RuleName),
    /// Nothing follows when a host dies.
    FailoverPause,
    /// It does again.
    FailoverResume,
}

impl Event {
    /// The host that it befalls, if it is one host, and what it is, in a word.
    pub(crate) fn befalls(&self) -> Option<(&HostName, &'static str)> {
        Some(match self {
            Self::PowerOff(host) => (host, "power off"),
            Self::PowerOn(host) => (host, "power on"),
            Self::BootsFail { host, tries: 0, .. } => (host, "boots succeed again"),
            Self::BootsFail { host, .. } => (host, "boots are to fail"),
            Self::NetworkOff(host) => (host, "network off"),
            Self::NetworkOn(host) => (host, "network on"),
            Self::CutOneWay { from: host, .. } => (host, "network cut one way"),
            Self::Cut { one: host, .. } => (host, "network cut"),
            Self::StoreOff(host) => (host, "store off"),
            Self::StoreOn(host) => (host, "store on"),
            Self::StoreSlow { host, .. } => (host.as_ref()?, "store slow"),
            Self::StoreFast { host } => (host.as_ref()?, "store fast"),
            Self::WatchLost { host, .. } => (host, "watches lost"),
            Self::MemberKill(host) => (host, "member of the store killed"),
            Self::MemberStart(host) => (host, "member of the store started"),
            Self::DaemonKill(host) => (host, "daemon killed"),
            Self::DaemonStop(host) => (host, "daemon told to end"),
            Self::DaemonStart(host) => (host, "daemon started"),
            Self::DaemonPause { host, .. } => (host, "daemon paused"),
            Self::HostSlow { host, factor: 1 } => (host, "as fast as before"),
            Self::HostSlow { host, .. } => (host, "slow"),
            Self::ClockStep { host, .. } => (host, "clock set"),
            Self::Reboot(host) => (host, "reboot"),
            Self::Shutdown(host) => (host, "shutdown"),
            Self::LibvirtOff(host) => (host, "libvirt off"),
            Self::LibvirtOn(host) => (host, "libvirt on"),
            Self::HostJoin(host) => (host, "joins"),
            Self::HostRemove(host) => (host, "to be removed"),
            Self::Drain(host) => (host, "drain"),
            Self::Undrain(host) => (host, "undrain"),
            Self::ConfirmDown(host) => (host, "confirmed down"),
            Self::ConfirmIfOff(host) => (host, "looked at"),
            Self::AgentOff(host) => (host, "agent off"),
            Self::AgentOn(host) => (host, "agent on"),
            Self::NetworkWhole
            | Self::StoreFull
            | Self::StoreRoom
            | Self::StoreLeaderKill { .. }
            | Self::VmStart(_)
            | Self::VmStop(_)
            | Self::VmMigrate { .. }
            | Self::VmAdd { .. }
            | Self::VmRemove(_)
            | Self::VmCrash(_)
            | Self::VmShutdown(_)
            | Self::VmStartsFail { .. }
            | Self::VmMovesFail { .. }
            | Self::RuleSet { .. }
            | Self::RuleDelete(_)
            | Self::FailoverPause
            | Self::FailoverResume => return None,
        })
    }

    /// The other host that it is about, if there are two.
    pub(crate) fn other_host(&self) -> Option<&HostName> {
        match self {
            Self::CutOneWay { to: other, .. }
            | Self::Cut { other, .. }
            | Self::VmMigrate { to: Some(other), .. } => Some(other),
            _ => None,
        }
    }

    /// Whether it can befall a machine with a voice and nothing else.
    pub(crate) fn is_for_witness(&self) -> bool {
        matches!(
            self,
            Self::PowerOff(_)
                | Self::PowerOn(_)
                | Self::NetworkOff(_)
                | Self::NetworkOn(_)
                | Self::CutOneWay { .. }
                | Self::Cut { .. }
                | Self::MemberKill(_)
                | Self::MemberStart(_)
        )
    }

    /// The VM that it is about, if it is one that is there.
    pub(crate) fn vm(&self) -> Option<&VmName> {
        match self {
            Self::VmStart(vm)
            | Self::VmStop(vm)
            | Self::VmRemove(vm)
            | Self::VmCrash(vm)
            | Self::VmShutdown(vm)
            | Self::VmMigrate { vm, .. }
            | Self::VmMovesFail { vm, .. }
            | Self::VmStartsFail { vm, .. } => Some(vm),
            _ => None,
        }
    }
}
