//! Several changes in one commit.

use super::{Admitted, Change, Refusal, State, admit_part, refuse_errors};
use crate::finding::Finding;
use crate::homogeneity;
use crate::name::{Timestamp, VmId};
use crate::planner::Memory;
use crate::spec::Spec;

/// Admits changes that belong together, each on top of those before it, or refuses all of them. `each` is told of every one
/// that is admitted. Whether GPUs stay alike is asked of where all of them lead: on the way there they cannot be.
///
/// # Errors
/// The findings that stand against any of them.
pub fn admit_all(
    changes: &[Change],
    state: State<'_>,
    mut fresh: impl FnMut() -> VmId,
    now: Timestamp,
    mut each: impl FnMut(&Admitted),
) -> Result<(Spec, Vec<Finding>), Refusal> {
    let mut spec = state.spec.clone();
    let (mut findings, mut refused) = (Vec::new(), Vec::new());
    let mut memory = Memory::default();
    for change in changes {
        match admit_part(&mut memory, change, State { spec: &spec, ..state }, fresh(), now) {
            Ok(admitted) => {
                each(&admitted);
                spec = admitted.spec;
                findings.extend(admitted.findings);
            }
            Err(refusal) => refused.extend(refusal),
        }
    }
    if refused.is_empty() {
        findings.extend(refuse_errors(homogeneity::worsened(state, &spec))?);
        Ok((spec, findings))
    } else {
        Err(refused)
    }
}
