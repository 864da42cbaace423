//! What a wish would do, for people who look before they act.

use tranche_core::change::{self, Change};
use tranche_core::effect::{self, Effect};
use tranche_core::finding::{Code, Finding};
use tranche_core::name::{Timestamp, VmId};
use tranche_core::spec::Spec;

use super::{Desk, Rejected, Submitted, state};

impl Desk {
    /// Tells what a wish would do.
    pub(super) fn preview(&self, change: &Change, now: Timestamp) -> Result<Submitted, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        let admitted =
            change::admit(change, state(&inner), VmId((self.ids.0)()), now).map_err(Rejected::Refused)?;
        let effect = effect_of(&admitted.spec, admitted.findings, state(&inner), now);
        let version = match change {
            Change::SetAllGpus(wish) => change::version(wish, state(&inner)).ok(),
            _ => None,
        };
        Ok(Submitted::Preview { title: admitted.title, effect, version })
    }
}

/// What would follow from a spec, and what was `said` at the door that the effect itself does not say.
pub(super) fn effect_of(spec: &Spec, said: Vec<Finding>, state: change::State<'_>, now: Timestamp) -> Effect {
    let mut effect = effect::preview(spec, state, now);
    effect.findings.extend(said.into_iter().filter(|finding| is_said_at_the_door(finding.code)));
    effect
}

/// Whether only the door says so: of GPUs that go along, or should, and of what cannot be done for a VM later on.
fn is_said_at_the_door(code: Code) -> bool {
    matches!(
        code,
        Code::DriverReload
            | Code::BreaksHomogeneity
            | Code::SetUnlike
            | Code::SetIncomplete
            | Code::SetChange
            | Code::CapacityShort
            | Code::DefinitionLocal
    )
}
