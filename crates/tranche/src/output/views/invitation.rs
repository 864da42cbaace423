//! How invitations look: places for VMs that come from hosts that are in no cluster.

use tranche_api::view::{InvitationMade, InvitationState, InvitationView};

use super::Show;
use crate::output::table::rows;
use crate::output::text;

/// What is to be typed on the VM's host.
impl Show for InvitationMade {
    fn as_text(&self) -> String {
        let Self { until, to, token, .. } = self;
        format!(
            "On the VM's host, until {}:\n\n  tranche vm migrate VM --to {to} --token {token}\n",
            text::time(*until)
        )
    }
}

impl Show for [InvitationView] {
    fn as_text(&self) -> String {
        let row = |one: &InvitationView| {
            let state = match one.state {
                InvitationState::Open => "open",
                InvitationState::Over => "over",
                InvitationState::Coming => "coming",
                InvitationState::Arrived => "arrived",
                InvitationState::Dropped => "dropped",
            };
            vec![
                state.to_owned(),
                text::time(one.until),
                one.vm.as_ref().map(ToString::to_string).unwrap_or_default(),
                one.from.as_ref().map(ToString::to_string).unwrap_or_default(),
                one.id.to_string(),
            ]
        };
        let header = ["STATE", "UNTIL", "VM", "FROM", "ID"];
        rows(&header, self.iter().map(row).collect(), "Nobody is invited.")
    }
}
