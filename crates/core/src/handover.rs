//! Handover: a VM goes to a host that has a store of its own, and who owns it meanwhile.
//!
//! ```text
//! the host that it leaves                                        the host that it goes to
//!
//! Prepares ──────────────────────── prepare ───────────────────► books, makes ready
//!    ├─ live ─► Goes ────────────── receive ───────────────────► leaves alone what arrives
//!    │           ├─ off, sent ─► Lands ── land ────────────────► lets it go on
//!    │           └─ called off ─► CalledOff                           │ it runs, or is lost there
//!    └─ else ──► Stops ─ off ──────────────────────┐                  │
//!                                                  ▼                  │
//!                                   Left ◄─────────┴──────────────────┘
//!                                    └───────────── own ─────────► it is its VM: runs, restarts, deletes it
//! ```
//!
//! Two stores cannot commit together, so one decides alone: the host that the VM leaves ([`Parting`]). Until it has stored that the
//! VM has [`Stage::Left`], the VM is its own, and whatever fails leaves it there. Before that is stored, the other host only does
//! what it was told for just this moment ([`Order`]): it never starts the VM. After that the VM is the other's, which is told so until it
//! says that it knows, and which never gives it back. If the other host is silent for ever, a person has to say who has it.
//!
//! Each change of stage is another *turn*. An order is for a turn, and so is what is answered ([`Word`]): an answer to an earlier turn
//! decides nothing.
//!
//! Deliberately absent: connections, tokens and how a VM is sent. Hosts see to that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::State;
use crate::inventory::{DomainState, HostInventory, Hypervisor, Progress};
use crate::migration::Way;
use crate::name::{GpuKey, HostName, InvitationId, SlotKey, Timestamp, VmId, VmName};
use crate::plan::GpuPlan;
use crate::spec::VmSpec;
use crate::step::VmDevice;

/// For how long an invitation that was used is remembered, in milliseconds: so long its host can tell what became of the VM.
pub const REMEMBERED_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// The most invitations that are open at the same time.
pub const INVITATIONS_MAX: usize = 64;
/// How long an invitation may be open, in minutes.
pub const INVITATION_MINUTES: std::ops::RangeInclusive<u64> = 1..=24 * 60;

/// What was wished of a VM that goes to another store, or comes from one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "handover", rename_all = "snake_case", deny_unknown_fields)]
pub enum Handover {
    /// It shall go to another host.
    Out(Outgoing),
    /// It comes from another host, and is that host's yet.
    In(Incoming),
}

/// A VM that shall go to a host with another store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Outgoing {
    /// What the other host calls itself.
    pub to: HostName,
    /// What it was invited by.
    pub invitation: InvitationId,
    /// The VM's last command then ([`VmSpec::serial`]). A later one calls it off.
    pub serial: u64,
    /// For how long its guest was foreseen to stand still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreseen_ms: Option<u64>,
    /// Whether somebody wants it to stay after all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stays: Option<Stays>,
}

/// Why a VM stays that was to go to a host with another store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stays {
    /// It was called off. If it is too late for that, it goes.
    CalledOff,
    /// Somebody has said that the other host does not run it and never will.
    ByWord,
}

/// A VM that comes from a host with another store, and what that told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// What the other host calls itself.
    pub from: HostName,
    /// What it was invited by.
    pub invitation: InvitationId,
    /// The turn of the last order.
    pub turn: u64,
    /// The last order.
    pub order: Order,
    /// How it would come, as both hosts were when it was offered.
    pub way: Way,
}

/// A place for one VM that comes from a host with another store. Whoever has its token may send one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it can be used.
    pub until: Timestamp,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Used>,
}

/// The VM that came by an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// Its name.
    pub vm: VmName,
    /// Its UUID.
    pub id: VmId,
    /// Where it came from.
    pub from: HostName,
    /// What became of it; none while that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What became of a VM that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is this host's.
    Owned,
    /// It was not taken.
    Dropped,
}

impl Invitation {
    /// Whether it is still to be remembered.
    pub fn is_remembered(&self, now: Timestamp) -> bool {
        match &self.used {
            Some(Used { outcome: None, .. }) => true,
            Some(_) => now.0 < self.until.0.saturating_add(REMEMBERED_MS),
            None => now < self.until,
        }
    }
}

/// What a host that takes a VM in shall do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Book what the VM needs and make it ready. It runs elsewhere: nothing of it may be active here.
    Prepare,
    /// Leave it alone: it is being sent here.
    Receive,
    /// Let it go on if it is here. It is off elsewhere. What is not here is not started.
    Land,
    /// It is yours.
    Own,
    /// It does not come: forget it, and end what is here of it.
    Drop,
}

/// A VM that goes to a host with another store, as it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Parting {
    /// Where it goes.
    pub to: HostName,
    /// What it was invited by.
    pub invitation: InvitationId,
    /// Tells it from all earlier journeys of the same host.
    pub number: u64,
    /// Counts what was decided about it.
    pub turn: u64,
    /// Since when it is at this stage.
    pub since: Timestamp,
    /// The other host's boot when it was last ready. What has arrived is lost with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_there: String,
    /// For how long the guest was foreseen to stand still, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreseen_ms: Option<u64>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a VM is that goes to a host with another store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The other host makes ready what it gets there.
    Prepares,
    /// Its host sends it.
    Goes {
        /// The devices that it gets there.
        devices: Vec<VmDevice>,
    },
    /// It was called off while it was sent. Who has it will show.
    CalledOff {
        /// Why.
        why: String,
    },
    /// It is shut down here, to be started there.
    Stops {
        /// Whether its guest was asked for long enough, and is turned off.
        forced: bool,
    },
    /// It was sent and is off here. The other host lets it go on.
    Lands,
    /// It is the other host's. What is left of it here goes.
    Left,
    /// It stays. The other host is told.
    Drops {
        /// Why.
        why: String,
    },
    /// It stays, and the other host knows.
    Stayed {
        /// Why.
        why: String,
    },
}

impl Parting {
    /// Whether it is under way: its VM follows it, and nothing else.
    pub fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Drops { .. } | Stage::Stayed { .. })
    }

    /// Whether the VM is off here for it, or gone: no command counts here any more.
    pub fn is_away(&self) -> bool {
        matches!(self.stage, Stage::Lands | Stage::Left)
    }

    /// Whether it is to be remembered beside what its VM does otherwise: while the other host is told that the VM stays, and afterwards
    /// as long as the wish is the same, which is not to be begun anew.
    pub fn is_remembered(&self, spec: &VmSpec) -> bool {
        let is_same = spec.outgoing().is_some_and(|wish| wish.invitation == self.invitation);
        is_same || !matches!(self.stage, Stage::Stayed { .. })
    }

    /// What was answered to this turn, if that is what was heard last.
    pub fn answer_in<'a>(&self, told: Option<&'a Told>) -> Option<&'a Answer> {
        let is_of_now = |told: &&Told| told.invitation == self.invitation && told.turn == self.turn;
        told.filter(is_of_now).map(|told| &told.answer)
    }

    /// Why it came to nothing, if it did.
    pub fn in_vain(&self) -> Option<&str> {
        match &self.stage {
            Stage::Drops { why } | Stage::Stayed { why } => Some(why),
            _ => None,
        }
    }

    /// What the other host is told; nothing once that is over.
    pub fn order(&self) -> Option<Order> {
        match self.stage {
            Stage::Prepares | Stage::Stops { .. } => Some(Order::Prepare),
            Stage::Goes { .. } | Stage::CalledOff { .. } => Some(Order::Receive),
            Stage::Lands => Some(Order::Land),
            Stage::Left => Some(Order::Own),
            Stage::Drops { .. } => Some(Order::Drop),
            Stage::Stayed { .. } => None,
        }
    }
}

/// A VM that comes from a host with another store, as it was decided here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Awaited {
    /// The turn that this host knows.
    pub turn: u64,
    /// What it does about it.
    pub order: Order,
    /// What it saw since it knows that; nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<Word>,
}

impl Awaited {
    /// Whether the VM's old host gets to this one's hypervisor.
    pub fn is_let_in(&self) -> bool {
        matches!(self.order, Order::Receive | Order::Land)
    }
}

/// What a host that takes a VM in says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Word {
    /// The boot that it was seen in.
    pub boot_id: String,
    /// What the domain does; none if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DomainState>,
    /// The devices that the VM gets, once all that it needs is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Vec<VmDevice>>,
}

/// What is told to a host that takes a VM in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The VM's UUID.
    pub id: VmId,
    /// The turn.
    pub turn: u64,
    /// What to do.
    pub order: Order,
    /// The VM, for whoever does not know it yet.
    pub offer: Box<Offer>,
}

/// A VM, and what its host has for it: enough to tell how it could go elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its name.
    pub name: VmName,
    /// What it is.
    pub vm: VmSpec,
    /// Its host, without what does not concern it.
    pub host: HostInventory,
    /// What it holds there.
    pub held: Vec<SlotKey>,
    /// What was decided for the GPUs there.
    pub gpus: BTreeMap<GpuKey, GpuPlan>,
}

impl Offer {
    /// That of a VM which runs; none if its host is not known.
    pub fn of(name: &VmName, state: State<'_>) -> Option<Self> {
        let vm = state.spec.vms.get(name)?.clone();
        let planned = state.plan.vms.get(name)?;
        let observed: &HostInventory = state.inventory.get(&planned.host)?;
        let held: Vec<SlotKey> = state.plan.held_by(name).map(|(slot, _)| slot.clone()).collect();
        let gpus = held.iter().filter_map(|slot| {
            let (key, planned) = state.plan.gpus.get_key_value(&slot.gpu)?;
            Some((key.clone(), planned.clone()))
        });
        Some(Self { host: about(observed, name, &held), gpus: gpus.collect(), name: name.clone(), vm, held })
    }
}

/// A host without what does not concern one VM, and what it holds there.
fn about(host: &HostInventory, name: &VmName, held: &[SlotKey]) -> HostInventory {
    let mut about = host.clone();
    about.gpus.retain(|address, _| held.iter().any(|slot| slot.gpu.address == *address));
    if let Hypervisor::Up { domains, .. } = &mut about.hypervisor {
        domains.retain(|domain, _| domain == name.as_str());
    }
    let Progress { generation, travels, dirty_mib_s, links_mib_s, end_ms, .. } = about.progress;
    about.progress =
        Progress { generation, travels, dirty_mib_s, links_mib_s, end_ms, ..Progress::default() };
    about.progress.dirty_mib_s.retain(|vm, _| vm == name);
    (about.stuck, about.notes, about.pulse) = (Vec::new(), Vec::new(), None);
    about
}

/// What is answered to a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It was taken in; what came of it is not known yet.
    Noted,
    /// What it saw since it knows that.
    Seen {
        /// How the VM would come.
        way: Way,
        /// What it saw.
        word: Word,
    },
    /// The VM is its own.
    Owned,
    /// It does not take the VM, and has nothing of it.
    Dropped {
        /// Why, as far as it knows.
        why: String,
    },
}

/// What was last heard of a VM that goes to a host with another store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Told {
    /// The invitation.
    pub invitation: InvitationId,
    /// The turn that it answers.
    pub turn: u64,
    /// What was answered.
    pub answer: Answer,
}

/// What it means that an order was refused; nothing if that says nothing about the VM: whoever does not know it any more may have had it.
pub fn refused(order: Order, why: String) -> Option<Answer> {
    matches!(order, Order::Prepare | Order::Drop).then_some(Answer::Dropped { why })
}

/// What is answered of a VM that came by an invitation, by all that is stored.
pub fn answer(invitation: &InvitationId, turn: u64, state: State<'_>) -> Option<Answer> {
    let Some(used) = state.spec.invitations.get(invitation)?.used.as_ref() else {
        return Some(Answer::Dropped { why: "it never came there".to_owned() });
    };
    let known = state.spec.vms.get(&used.vm).filter(|spec| spec.id == used.id);
    match used.outcome {
        Some(Outcome::Owned) => return Some(Answer::Owned),
        // While anything is left of it, it may run.
        Some(Outcome::Dropped) if known.is_some() => return Some(Answer::Noted),
        Some(Outcome::Dropped) => {
            return Some(Answer::Dropped { why: "it was not taken there".to_owned() });
        }
        None => {}
    }
    let Some(Handover::In(incoming)) = known.and_then(|spec| spec.handover.as_ref()) else {
        return Some(Answer::Noted);
    };
    let awaited = state.plan.vms.get(&used.vm).and_then(|planned| planned.awaited.as_ref());
    let word = awaited.filter(|awaited| awaited.turn == turn && incoming.turn == turn);
    Some(match word.and_then(|awaited| awaited.word.clone()) {
        Some(word) => Answer::Seen { way: incoming.way, word },
        None => Answer::Noted,
    })
}
