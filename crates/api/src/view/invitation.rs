//! Invitations: places for VMs that come from hosts with stores of their own. No view shows a token; it is told once, when it is made.

use serde::{Deserialize, Serialize};
use tranche_core::handover::{Invitation, Outcome};
use tranche_core::name::{HostName, InvitationId, Timestamp, VmName};

use super::Sources;

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvitationView {
    /// What it is known by.
    pub id: InvitationId,
    /// What it is good for.
    pub state: InvitationState,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: Timestamp,
    /// Until when it can be used, in milliseconds since the Unix epoch.
    pub until: Timestamp,
    /// The VM that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmName>,
    /// Where that comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<HostName>,
}

/// What an invitation is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvitationState {
    /// It can be used.
    Open,
    /// Its time is over.
    Over,
    /// A VM is on its way by it.
    Coming,
    /// A VM came by it, and is this host's.
    Arrived,
    /// A VM was to come by it, and did not.
    Dropped,
}

/// A new invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvitationMade {
    /// What it is known by.
    pub id: InvitationId,
    /// Until when it can be used, in milliseconds since the Unix epoch.
    pub until: Timestamp,
    /// This host's console, where the VM's host asks.
    pub to: String,
    /// What that host shows. Until the VM has arrived, whoever has it can do with this host's VMs what root can.
    pub token: String,
}

/// Every invitation, the newest first.
pub fn invitations(sources: &Sources<'_>, now: Timestamp) -> Vec<InvitationView> {
    let view = |(id, known): (&InvitationId, &Invitation)| InvitationView {
        id: id.clone(),
        state: match known.used.as_ref().map(|used| used.outcome) {
            None if now < known.until => InvitationState::Open,
            None => InvitationState::Over,
            Some(None) => InvitationState::Coming,
            Some(Some(Outcome::Owned)) => InvitationState::Arrived,
            Some(Some(Outcome::Dropped)) => InvitationState::Dropped,
        },
        created_at: known.created_at,
        until: known.until,
        vm: known.used.as_ref().map(|used| used.vm.clone()),
        from: known.used.as_ref().map(|used| used.from.clone()),
    };
    let mut views: Vec<InvitationView> = sources.spec.invitations.iter().map(view).collect();
    views.sort_by(|one, other| other.created_at.cmp(&one.created_at).then(one.id.cmp(&other.id)));
    views
}
