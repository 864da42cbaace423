//! Request bodies that are no noun of the core already. Unknown fields are refused: a typing error is never a default.
//!
//! The mode of a GPU is asked for with a [`tranche_core::spec::AskedMode`], the policies with a
//! [`tranche_core::spec::Policy`], and what changes of a VM or a host with a [`tranche_core::spec::VmPart`] or
//! [`tranche_core::spec::HostPart`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tranche_core::change::{Change, NewVm};
use tranche_core::name::{HostName, LabelKey, LabelValue, NameError, Timestamp, VmName};
use tranche_core::spec::{Availability, DepartureWay, Duty, FenceSpec, HostSpec, Request, VmHardware};

/// Makes a VM: `POST /v1/vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Its name, which its libvirt domain takes too. It is read as text so that a bad one is refused by its own code.
    #[schema(value_type = VmName)]
    pub name: String,
    /// Its hardware.
    pub hardware: VmHardware,
    /// What it asks for; no GPU if left out.
    #[serde(default)]
    pub request: Request,
    /// What people tell it apart by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// Whether it keeps its partition while it is off.
    #[serde(default)]
    pub reserved: bool,
    /// The NUMA node whose GPUs it prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer_numa_node: Option<u16>,
    /// How much is done to keep it running.
    #[serde(default, skip_serializing_if = "Availability::is_default")]
    pub availability: Availability,
}

impl CreateVm {
    /// The wish that this asks for.
    ///
    /// # Errors
    /// The name is none.
    pub fn into_change(self) -> Result<Change, NameError> {
        let Self { name, hardware, request, labels, reserved, prefer_numa_node, availability } = self;
        let vm = NewVm { hardware, request, labels, reserved, prefer_numa_node, availability };
        Ok(Change::CreateVm { name: name.parse()?, vm })
    }
}

/// Changes a member of the cluster: `PUT /v1/hosts/{host}`. What is left out is as without it, not as before; for that there is
/// `PATCH`, with a [`tranche_core::spec::HostPart`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetHost {
    /// What VMs are told apart by when they ask for a place.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// How its power is cut; by its own watchdog alone if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<FenceSpec>,
    /// The memory that VMs leave to the host itself, in MiB.
    pub reserved_memory_mib: u64,
}

impl SetHost {
    /// The wish that this asks for. What it says nothing of stays as it is.
    pub fn into_change(self, host: HostName) -> Change {
        let Self { labels, fence, reserved_memory_mib } = self;
        let (joined_at, duty, said_down) = (Timestamp::default(), Duty::default(), None);
        let departure = None;
        let wish = HostSpec { joined_at, labels, duty, fence, said_down, departure, reserved_memory_mib };
        Change::SetHost { host, wish }
    }
}

/// Others that go the same way as a host: `POST /v1/hosts/{host}/drain` and `/undrain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Along {
    /// The hosts.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub along: BTreeSet<HostName>,
}

/// Sees to the VMs of a host that is about to go down: `POST /v1/hosts/{host}/depart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DepartHost {
    /// Whether it boots again at once.
    pub way: DepartureWay,
    /// Do not ask guests any more; turn them off.
    #[serde(default)]
    pub force: bool,
    /// The boot that ends (`/proc/sys/kernel/random/boot_id`); the one that the host was last seen in if left out. What comes
    /// after the next boot changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// Stops a VM: `POST /v1/vms/{name}/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopVm {
    /// Turn it off at once, as if its plug were pulled. Else the guest is asked to shut down.
    pub force: bool,
}

/// Runs a VM on another host: `POST /v1/vms/{name}/migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateVm {
    /// Where; on the best other host if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<HostName>,
}

/// Hands a VM over to a host that has a store of its own: `POST /v1/vms/{name}/handover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandOverVm {
    /// The other host's console, as `https://HOST:7440`; the address in the token if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The token that the other host has made for it.
    pub token: String,
}

/// Settles whose a VM is that is on its way between hosts with stores of their own: `POST /v1/vms/{name}/take-back` where it was,
/// `POST /v1/vms/{name}/take-over` where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TakeVm {
    /// Whoever asks has seen that the other host does not run it and never will. If it does, it runs twice and ruins its disks.
    pub force: bool,
}

/// Invites a VM of another host: `POST /v1/invitations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InviteVm {
    /// For how many minutes the token can be used, 1 to 1,440; an hour if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u64>,
}

/// Restarts a VM: `POST /v1/vms/{name}/restart`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RestartVm {
    /// Turn it off at once, as if its plug were pulled. Else the guest is asked to shut down.
    pub force: bool,
}

/// Has nothing to say: `POST /v1/vms/{name}/start`. The body may be left out, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Gives a VM a GPU: `POST /v1/vms/{name}/attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachGpu {
    /// What it shall have; a partition of any size if left out.
    #[serde(default = "any_partition")]
    pub request: Request,
    /// If the VM runs: shut it down, give it the GPU, start it again. Else a running VM is a refusal.
    #[serde(default)]
    pub restart: bool,
}

impl Default for AttachGpu {
    fn default() -> Self {
        Self { request: any_partition(), restart: false }
    }
}

fn any_partition() -> Request {
    Request::ANY_PARTITION
}

/// Takes a VM's GPU: `POST /v1/vms/{name}/detach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DetachGpu {
    /// If the VM runs: shut it down, take the GPU, start it again. Else a running VM is a refusal.
    pub restart: bool,
}
