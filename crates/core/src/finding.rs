//! A warning, an error or a refusal as data.
//!
//! Every door shows the same findings: command, REST, console. A finding says what is wrong, with what, and what to do
//! about it. How each one is worded stands in [`crate::diagnostics`]; here is only their shape and the list of codes.

mod remedy;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{GpuKey, HostName, RuleName, SlotKey, VmName};

pub use remedy::Remedy;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Finding {
    /// What kind of finding; stable, for programs.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: Subject,
    /// What is wrong, in a sentence.
    pub message: String,
    /// What to do about it, in a sentence.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}] {}", self.severity, self.message, self.code, self.hint)
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Something will be missed, or waits.
    Warning,
    /// Something that was asked for does not happen.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Subject {
    /// The whole installation.
    Installation,
    /// A host.
    Host(HostName),
    /// A GPU.
    Gpu(GpuKey),
    /// A partition.
    Partition(SlotKey),
    /// A VM.
    Vm(VmName),
    /// A rule about where VMs run.
    Rule(RuleName),
    /// Something that came in from outside: a field of a request, a file.
    Input(String),
}

impl Subject {
    /// The GPU concerned, directly or through a partition.
    pub fn gpu(&self) -> Option<&GpuKey> {
        match self {
            Self::Gpu(gpu) => Some(gpu),
            Self::Partition(slot) => Some(&slot.gpu),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installation => f.pad("installation"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Gpu(gpu) => write!(f, "gpu {gpu}"),
            Self::Partition(slot) => write!(f, "partition {slot}"),
            Self::Vm(vm) => write!(f, "vm {vm}"),
            Self::Rule(rule) => write!(f, "rule {rule}"),
            Self::Input(input) => f.pad(input),
        }
    }
}

/// What a refusal with this code means for the one who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The request itself is malformed or asks for what cannot be: change it (HTTP 422; 400 and 413 for the wire).
    Invalid,
    /// It names something that does not exist (HTTP 404).
    NotFound,
    /// It clashes with the present state: change that, then ask again (HTTP 409).
    Conflict,
    /// It cannot be done at this moment; the same request may succeed later (HTTP 503).
    Unavailable,
    /// Who asks is not known, or may not do this (HTTP 403; 401 and 429 at the door).
    Denied,
    /// Information, never a refusal.
    Note,
}

macro_rules! codes {
    ($($variant:ident $text:literal $class:ident $meaning:literal,)*) => {
        /// The kinds of findings. The texts are stable: scripts may rely on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the handbook.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code as text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What a refusal with this code means for the one who asked.
            pub fn class(self) -> Class {
                match self { $(Self::$variant => Class::$class,)* }
            }
        }
    };
}

codes! {
    // Requests.
    InvalidName "invalid_name" Invalid "A name has characters or a length that names may not have.",
    InvalidRequest "invalid_request" Invalid "A request is malformed, too large, or has unknown or repeated fields.",
    InvalidValue "invalid_value" Invalid "A value is outside its range.",
    HostNotFound "host_not_found" NotFound "No host of that name is known.",
    GpuNotFound "gpu_not_found" NotFound "No GPU is at that address.",
    VmNotFound "vm_not_found" NotFound "No VM of that name is known.",
    DomainNotFound "domain_not_found" NotFound "libvirt knows no domain of that name.",
    ModelNotFound "model_not_found" NotFound "The catalogue has no GPU of that name.",
    OperationNotFound "operation_not_found" NotFound "No operation has that id, or it has been forgotten.",
    VmExists "vm_exists" Conflict "A VM of that name exists already.",
    DomainExists "domain_exists" Conflict "libvirt has a domain of that name that Tranche does not manage.",
    UserNotFound "user_not_found" NotFound "No user of that name is known.",
    TokenNotFound "token_not_found" NotFound "No token of that name is known.",
    UserExists "user_exists" Conflict "A user of that name exists already.",
    TokenExists "token_exists" Conflict "A token of that name exists already.",
    PasswordWeak "password_weak" Invalid "A password is too short, too long, or easily guessed.",
    LoginRequired "login_required" Denied "Who asks has not said who they are, or their session or token has ended.",
    LoginFailed "login_failed" Denied "The name and the password do not belong together, or a link was used or is over.",
    LoginThrottled "login_throttled" Denied "Too many attempts to log in have failed; the next one has to wait.",
    LoginStale "login_stale" Denied "An attempt to log in through an issuer was begun elsewhere, was used already, or took too long.",
    IssuerMissing "issuer_missing" NotFound "No issuer through which people could log in is set.",
    IssuerUnreachable "issuer_unreachable" Unavailable "The issuer through which people log in cannot be reached, or does not answer as it should.",
    IssuerRefused "issuer_refused" Denied "The issuer through which somebody wanted to log in refused.",
    IssuerSecretUnreadable "issuer_secret_unreadable" Unavailable "The secret that this host shows to the issuer of logins cannot be used.",
    IdTokenInvalid "id_token_invalid" Denied "What the issuer said about who somebody is does not hold.",
    NoRole "no_role" Denied "Who logged in through an issuer is in no group that has a role.",
    Forbidden "forbidden" Denied "Who asks may not do this.",
    VersionConflict "version_conflict" Conflict "The state changed between looking and acting.",
    // Hosts.
    IommuOff "iommu_off" Conflict "The IOMMU is off, so no device can be given to a VM.",
    LibvirtDown "libvirt_down" Unavailable "libvirt does not answer, so nothing is known of running domains.",
    LibvirtSlow "libvirt_slow" Unavailable "libvirt has not finished with a VM yet; a start may take minutes while much memory is pinned.",
    HostSilent "host_silent" Unavailable "The host has not reported yet.",
    HostUnattended "host_unattended" Note "The daemon of a host was stopped; its VMs run on, and nothing is done for them.",
    HostUnread "host_unread" Unavailable "What a host of a later version of Tranche wrote cannot be read by another one.",
    HostLost "host_lost" Unavailable "A member of the cluster is silent; it gets no more VMs.",
    HostUnfenced "host_unfenced" Conflict "A silent host has neither watchdog nor fence agent, so its VMs are started nowhere.",
    HostUnguarded "host_unguarded" Conflict "A host whose VMs are to start elsewhere when it dies has neither watchdog nor fence agent.",
    HostFencing "host_fencing" Unavailable "A host was given up, and its power is being cut.",
    HostDown "host_down" Unavailable "A host was given up and runs nothing any more.",
    HostNotEmpty "host_not_empty" Conflict "A host that is to be removed has VMs.",
    HostNotSilent "host_not_silent" Conflict "A host that is to be taken for down is there.",
    HostMaintenance "host_maintenance" Note "A host is in maintenance and takes no VMs.",
    ClockOff "clock_off" Note "The clock of a host differs from that of the one that leads.",
    HostDeparting "host_departing" Note "A host is being shut down or rebooted by its administrator; it takes no VMs.",
    DrainBlocked "drain_blocked" Conflict "A VM of a host in maintenance has no other place to run.",
    LiveDevice "live_device" Note "A VM cannot move while it runs, or it is not known, because of its device's driver.",
    LiveDirtyLog "live_dirty_log" Note "A VM cannot move while it runs, because nothing logs which memory its device writes.",
    LiveUnlike "live_unlike" Note "A VM cannot move while it runs, because the device that it would get differs from its own.",
    LiveProcessor "live_processor" Note "A VM cannot move while it runs, because the processors of the hosts differ.",
    LivePause "live_pause" Note "A VM is not moved while it runs, because its guest would stand still for longer than it may.",
    LivePrograms "live_programs" Note "A VM cannot move while it runs, because the other host's QEMU or libvirt is older.",
    LiveGuest "live_guest" Note "A VM cannot move while it runs, because something in its machine is bound to its host.",
    MigrateFailed "migrate_failed" Note "A VM was to move to another host while it runs, and that came to nothing; it goes on where it was.",
    MigrateQueued "migrate_queued" Note "A VM that is to move to another host while it runs waits until others have moved.",
    MigrateLiveOnly "migrate_live_only" Conflict "A VM that only moves while it runs cannot do so to any host.",
    MigrateBlocked "migrate_blocked" Conflict "A VM that shall run on another host stays where it is, because none can take it.",
    InvitationRefused "invitation_refused" Denied "A token by which a VM may come from another host is unknown, was used, or is over.",
    PeerSilent "peer_silent" Unavailable "A host with another store, to which a VM shall go, does not answer or is another one than its token says.",
    HandoverInCluster "handover_in_cluster" Conflict "VMs move by tokens only between hosts that stand alone, and this one is a member of a cluster.",
    VmOnItsWay "vm_on_its_way" Conflict "A VM is on its way between hosts with stores of their own, and one of them alone decides about it meanwhile.",
    VmNotOnItsWay "vm_not_on_its_way" Conflict "A VM is neither on its way to a host with another store nor coming from one.",
    HandoverSilent "handover_silent" Unavailable "A VM went to a host with another store, which does not answer; only that host knows whether it has it.",
    Migrated "migrated" Note "A VM that shall run on a host runs there already.",
    FailoverPaused "failover_paused" Note "Nothing follows when a host dies, because failover is paused.",
    KvmMissing "kvm_missing" Note "The host has no working KVM; VMs are emulated, which is slow.",
    CatalogueInvalid "catalogue_invalid" Note "A file that extends the catalogue of GPUs is wrong, and all of it is left out.",
    CallStuck "call_stuck" Unavailable "A kernel call has not come back within its limit.",
    Busy "busy" Unavailable "The daemon did not answer in time, or has too many readers.",
    // Fencing.
    WatchdogMissing "watchdog_missing" Conflict "The host has no watchdog that would reset it.",
    WatchdogBusy "watchdog_busy" Conflict "Another program has the host's watchdog.",
    WatchdogUnfit "watchdog_unfit" Conflict "The host's watchdog cannot be relied on to reset the host in time.",
    WatchdogSoftware "watchdog_software" Note "The host's watchdog is a timer of its own kernel, which a kernel that hangs may not heed.",
    WatchdogFired "watchdog_fired" Note "The host's watchdog reset it before this boot.",
    FenceAgentUnusable "fence_agent_unusable" Invalid "A fence agent is not installed, is not safe to run, or cannot do what is needed.",
    FenceOptionInvalid "fence_option_invalid" Invalid "An option of a fence agent is unknown, missing, or not allowed.",
    FenceSecretUnreadable "fence_secret_unreadable" Unavailable "A secret that a fence agent needs cannot be read.",
    FenceFailed "fence_failed" Unavailable "A fence agent did not do, or did not confirm, what it was asked for.",
    // What VMs use of hosts.
    StorageMissing "storage_missing" Conflict "A storage pool that a VM uses is not on the host, or not started there.",
    StorageLocal "storage_local" Conflict "A VM's disk is in a storage pool that only its own host has.",
    NetworkMissing "network_missing" Conflict "A network that a VM uses is not on the host, or not started there.",
    DefinitionLocal "definition_local" Conflict "A VM was adopted, and only its own host has its definition.",
    // GPUs.
    NoPartitionableGpu "no_partitionable_gpu" Conflict "There is no GPU that can be partitioned.",
    NotPartitionable "not_partitionable" Conflict "The GPU offers no way to be partitioned.",
    SriovDisabled "sriov_disabled" Conflict "The GPU has SR-IOV, but firmware or driver allow no virtual functions.",
    DriverMissing "driver_missing" Conflict "No driver is bound to the GPU, and partitioning is the driver's work.",
    DriverWithoutSriov "driver_without_sriov" Conflict "The GPU's driver does not switch virtual functions through sysfs.",
    InvalidPartitionCount "invalid_partition_count" Invalid "The partition count is none of those that the driver offers.",
    InvalidPartitionSizes "invalid_partition_sizes" Invalid "The GPU cannot be split into partitions of these sizes.",
    CountFixed "count_fixed" Conflict "The partition count was set when the GPU's driver was loaded, and changes only with another load.",
    DriverReload "driver_reload" Note "A GPU's driver is loaded anew, which takes the GPU from every VM.",
    ReloadFailed "reload_failed" Unavailable "A GPU's driver could not be loaded with another partition count.",
    PartitionsInUse "partitions_in_use" Conflict "Partitions of the GPU are booked or open, so its mode cannot change.",
    ModeChanging "mode_changing" Unavailable "A GPU is about to change its mode; it takes no VM, and those that hold it are being turned off.",
    VmDrained "vm_drained" Note "A VM is turned off so that its GPU can change its mode.",
    RolledBack "rolled_back" Note "A GPU's mode could not be changed, so the GPU goes back to the mode that it had.",
    ModeConflict "mode_conflict" Conflict "The GPU is in the other mode: partitioned or passthrough, never both.",
    ConsoleGpu "console_gpu" Conflict "The firmware's console is on the GPU.",
    FirmwareOpen "firmware_open" Note "A VM that has a whole GPU can change the GPU's firmware.",
    NoReset "no_reset" Note "The kernel knows no way to reset the GPU between two VMs.",
    GroupShared "group_shared" Conflict "The device shares its IOMMU group with functions that would have to go along.",
    WrongDriver "wrong_driver" Unavailable "A function is bound to another driver than the one it needs.",
    VariantMissing "variant_missing" Note "The kernel has a better driver for handing over partitions, and it is not loaded.",
    FewerPartitions "fewer_partitions" Unavailable "The kernel made fewer partitions than it was asked for.",
    PartitionLost "partition_lost" Unavailable "A booked partition has disappeared.",
    ReservationFailed "reservation_failed" Unavailable "What is reserved for a VM cannot serve it at the moment; the VM waits for it.",
    PartitionUnready "partition_unready" Unavailable "A partition is not ready yet.",
    ForeignPartition "foreign_partition" Conflict "A partition exists that Tranche did not make.",
    ForeignUse "foreign_use" Conflict "A partition or GPU is used by somebody whom Tranche does not manage.",
    HardwareChanged "hardware_changed" Conflict "Other hardware is where the GPU was.",
    GpuMoved "gpu_moved" Conflict "A GPU in use is in another slot now.",
    GpuSick "gpu_sick" Unavailable "A GPU has failed, or says that it will; it takes no new VM.",
    GpuGone "gpu_gone" Unavailable "A GPU that is in use has disappeared.",
    CatalogueMismatch "catalogue_mismatch" Note "What the catalogue says of a GPU is not what its kernel shows.",
    // Homogeneity.
    UnlikeVendor "unlike_vendor" Note "GPUs that should be alike are of several vendors.",
    UnlikeDevice "unlike_device" Note "GPUs that should be alike are of several models.",
    UnlikeSubsystem "unlike_subsystem" Note "GPUs that should be alike are on boards of several makers or kinds.",
    UnlikeMemory "unlike_memory" Note "GPUs that should be alike differ in video memory.",
    UnlikeBackend "unlike_backend" Note "GPUs that should be alike make partitions in several ways.",
    UnlikeOffers "unlike_offers" Note "GPUs that should be alike offer other partition counts, or sizes.",
    UnlikeCount "unlike_count" Note "GPUs that should be alike are split into other counts.",
    UnlikeSeries "unlike_series" Note "GPUs that should be alike are split into partitions of several series.",
    UnlikeDriver "unlike_driver" Note "GPUs that should be alike have several versions of their driver.",
    UnlikeFirmware "unlike_firmware" Note "GPUs that should be alike have several versions of firmware.",
    UnlikeEcc "unlike_ecc" Note "Error correction is on for some of the GPUs that should be alike, and off for others.",
    BreaksHomogeneity "breaks_homogeneity" Conflict "With this change, GPUs that serve VMs would be less alike.",
    SetUnlike "set_unlike" Conflict "The GPUs of all hosts are not all of one configuration.",
    NoHomogeneousSet "no_homogeneous_set" Conflict "No two GPUs have the same configuration.",
    SelectionUnlike "selection_unlike" Conflict "The GPUs that were chosen are of several configurations.",
    SetIncomplete "set_incomplete" Note "Not all GPUs of a homogeneous set were chosen.",
    SetChange "set_change" Note "A change concerns all GPUs of a set, and the VMs on them.",
    VersionChanged "version_changed" Conflict "What a preview rested on has changed since.",
    Drift "drift" Note "The hardware differs from what was decided; it will be put right.",
    KernelRefused "kernel_refused" Unavailable "The kernel refused a write.",
    // VMs.
    VmRunning "vm_running" Conflict "The VM runs, and this needs it off.",
    VmNotRunning "vm_not_running" Conflict "The VM is off.",
    VmElsewhere "vm_elsewhere" Unavailable "The VM is on another host, and its console cannot be opened from the one that is asked.",
    ConsoleBusy "console_busy" Conflict "Somebody else has the VM's serial console.",
    ConsoleMissing "console_missing" Conflict "The VM has no such console, or its hypervisor lends none.",
    VmHasPartition "vm_has_partition" Conflict "The VM has a partition already; a VM has at most one.",
    VmHasNoGpu "vm_has_no_gpu" Conflict "The VM asks for no GPU.",
    NoFreePartition "no_free_partition" Conflict "No partition that fits is free; the VM waits and starts by itself.",
    NoFreeGpu "no_free_gpu" Conflict "No GPU for passthrough is free; the VM waits and starts by itself.",
    NoFreeMemory "no_free_memory" Conflict "No host that could serve the VM has enough memory or processors left; it waits and starts by itself.",
    CapacityShort "capacity_short" Conflict "With one more VM, not every protected VM could run again if a host died.",
    HostClosed "host_closed" Unavailable "The host that a VM belongs to takes no VMs at the moment.",
    SizeMismatch "size_mismatch" Conflict "No GPU is partitioned into partitions of the size that is asked for.",
    PoolMismatch "pool_mismatch" Conflict "The GPU is in another pool than the one that is asked for.",
    GuestUnsupported "guest_unsupported" Note "The guest system is not on the list of supported ones.",
    GuestPoweredOff "guest_powered_off" Note "The guest shut itself down; it stays off until it is started again.",
    StartedByHand "started_by_hand" Note "The VM shall be off and was started by hand; it is left alone.",
    VmWithoutGpu "vm_without_gpu" Note "The VM runs without the GPU that it asks for.",
    VmPaused "vm_paused" Note "A VM that shall run is paused: by hand, or because its disk failed or is full.",
    ShutdownSlow "shutdown_slow" Note "The guest has been asked to shut down and has not done so yet.",
    DomainIdentity "domain_identity" Conflict "The domain's UUID is not the VM's: somebody replaced it.",
    DomainMissing "domain_missing" Unavailable "The domain of an adopted VM is gone.",
    DomainTransient "domain_transient" Conflict "The domain has no stored definition, so it would be gone when it stops.",
    ForeignDevice "foreign_device" Conflict "The domain has a host device that Tranche did not put there.",
    VmWaitsForHost "vm_waits_for_host" Unavailable "A VM belongs to a host that is down, and waits for it.",
    VmFalls "vm_falls" Note "A VM fell over several times in a row, and is started again after a pause.",
    VmGivenUp "vm_given_up" Conflict "A VM fell over as often as its policy allows, and is not started again.",
    LibvirtRefused "libvirt_refused" Unavailable "libvirt refused.",
    // Rules.
    RuleNotFound "rule_not_found" NotFound "No rule of that name is known.",
    RuleContradiction "rule_contradiction" Conflict "Rules that are kept at any price contradict each other, or what hosts there are.",
    RuleWaits "rule_waits" Conflict "There is room for the VM only where a rule forbids it to run; it waits and starts by itself.",
    RuleForbids "rule_forbids" Conflict "A rule forbids the VM to run on the host.",
    RuleBroken "rule_broken" Note "A VM runs where a rule forbids it; it is left running.",
    RuleFailback "rule_failback" Note "A VM could go back to a host that a rule prefers.",
    // Clusters.
    ClusterAlready "cluster_already" Conflict "The host is a member of a cluster already.",
    ClusterNone "cluster_none" Conflict "The host is a member of no cluster.",
    ClusterBusy "cluster_busy" Conflict "The host is on its way into a cluster, or out of it.",
    ClusterUnreachable "cluster_unreachable" Unavailable "No member of the cluster that could help can be reached.",
    ClusterUntrusted "cluster_untrusted" Conflict "What answers cannot prove that it is the cluster that was meant.",
    NoLeader "no_leader" Unavailable "No host of the cluster leads at the moment.",
    LeaderUnreachable "leader_unreachable" Unavailable "The host that leads the cluster cannot be reached from here.",
    HistoryUnavailable "history_unavailable" Unavailable "The host that keeps a history cannot be asked for it now.",
    TokenInvalid "token_invalid" Invalid "A join token is malformed, unknown, over or used.",
    BackupInvalid "backup_invalid" Invalid "A file is no backup, or is damaged.",
    HostExists "host_exists" Conflict "The cluster has a host, or a host's records, of that name already.",
    HostHasVms "host_has_vms" Conflict "A host that has VMs cannot leave.",
    HostAlive "host_alive" Conflict "A host that may be alive is not removed.",
    VmForgotten "vm_forgotten" Note "A VM is forgotten together with the host that it belonged to.",
    AddressTaken "address_taken" Conflict "Another machine of the cluster is reached at the same address and port.",
    WitnessUseless "witness_useless" Conflict "A witness would get no seat in the cluster's store, and is nothing without one.",
    LastHost "last_host" Conflict "The last host of a cluster cannot leave it.",
    StoreMemberFailed "store_member_failed" Unavailable "The host's member of the cluster's store cannot be started or changed.",
    StoreMemberDown "store_member_down" Unavailable "A member of the cluster's store does not answer.",
    StoreMemberCorrupt "store_member_corrupt" Unavailable "A member of the cluster's store has other data than the others.",
    StoreWithoutMajority "store_without_majority" Note "The cluster's store has so few members that it can lose none.",
    StoreOutOfSpace "store_out_of_space" Unavailable "A member of the cluster's store has used up its quota.",
    StoreNearQuota "store_near_quota" Note "A member of the cluster's store has nearly used up its quota.",
    SeatNotTaken "seat_not_taken" Note "A host has not taken the seat in the cluster's store that it was given.",
    AuthorityExposed "authority_exposed" Note "A machine that was removed had the key of the cluster's authority.",
    StoreFragmented "store_fragmented" Note "Most of the file of a member of the cluster's store is unused.",
    CertificateEnds "certificate_ends" Note "A certificate ends soon.",
    VersionMismatch "version_mismatch" Conflict "A host of another version than the one that rules cannot join.",
    VersionsDiffer "versions_differ" Note "Hosts have different versions of Tranche; the oldest rules.",
    // Invariants.
    Invariant "invariant" Conflict "An invariant is violated. This is a defect of Tranche.",
    // Store.
    StoreUnavailable "store_unavailable" Unavailable "The store cannot be read or written.",
    StoreReadOnly "store_read_only" Unavailable "The store cannot be written.",
    StoreSlow "store_slow" Unavailable "The store answers too slowly for the silence of hosts to count.",
    StoreFull "store_full" Unavailable "The disk under the store is full.",
    StoreCorrupt "store_corrupt" Unavailable "The store's file is damaged.",
    StoreInUse "store_in_use" Unavailable "Another process has the store open.",
    StoreForeign "store_foreign" Conflict "The file is a database of something else.",
    StoreNewerVersion "store_newer_version" Conflict "The store was written by a newer version of Tranche.",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// No finding has that code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no finding has the code {0:?}")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| UnknownCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_text_in_json_and_in_print() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
    }
}
