//! What another store tells of a VM that comes from there, and what it is told ([`tranche_core::handover`]).

use tranche_core::change::{self, Heard};
use tranche_core::handover::{self, Answer, Message, Offer};
use tranche_core::migration::Outlook;
use tranche_core::name::{InvitationId, OperationId, Timestamp, VmName};

use super::wishes::take_over;
use super::{Desk, Rejected, anew_after_conflicts, new_operation, state};

impl Desk {
    /// Takes a message in, stores what follows, and tells what is known of the VM by now; nothing where that says nothing about it.
    ///
    /// # Errors
    /// The invitation is of no use, the VM cannot come, or nothing can be stored.
    pub fn hear(
        &self,
        invitation: &InvitationId,
        message: &Message,
        now: Timestamp,
    ) -> Result<Option<Answer>, Rejected> {
        anew_after_conflicts(|| self.try_hear(invitation, message, now))
    }

    fn try_hear(
        &self,
        invitation: &InvitationId,
        message: &Message,
        now: Timestamp,
    ) -> Result<Option<Answer>, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        let heard = change::hear(invitation, message, state(&inner), now).map_err(Rejected::Refused)?;
        let mut next = inner.loaded.state.clone();
        match heard {
            Heard::Nothing => return Ok(handover::answer(invitation, message.turn, state(&inner))),
            Heard::Comes(admitted) => {
                let operation = new_operation(OperationId((self.ids.0)()), &admitted, &next, now);
                next.operations.insert(operation.id, operation);
                take_over(&mut next, admitted.spec);
            }
            Heard::Told(spec) => take_over(&mut next, *spec),
        }
        self.commit_wish(&mut inner, next)?;
        self.publish(&inner);
        Ok(handover::answer(invitation, message.turn, state(&inner)))
    }

    /// How an offered VM would come here.
    ///
    /// # Errors
    /// It can never come.
    pub fn judge_offer(&self, offer: &Offer) -> Result<Outlook, Rejected> {
        let mut inner = self.lock();
        self.refresh(&mut inner)?;
        change::judge_offer(offer, state(&inner)).map_err(Rejected::Refused)
    }

    /// A VM that could go to another store, as that has to know it.
    ///
    /// # Errors
    /// It cannot go.
    pub fn offer(&self, name: &VmName) -> Result<Offer, Rejected> {
        let inner = self.lock();
        change::can_go(name, state(&inner)).map_err(Rejected::Refused)?;
        let offer = Offer::of(name, state(&inner));
        offer.ok_or_else(|| Rejected::Refused(vec![tranche_core::diagnostics::nothing_to_migrate(name)]))
    }
}
