//! Hosts that become members while the cluster lives, and machines that are none any more.
//!
//! What a host brings is written at once, as its last transaction would leave it; how it gets there is the daemon's
//! (`tranched::cluster::luggage`).

use std::sync::Arc;

use tranche_core::name::HostName;
use tranche_core::spec::Spec;
use tranche_store::{Repository, Saved, Store, Terms};

use crate::setup;
use crate::world::Shared;

impl Shared {
    /// A host becomes a member, with its GPUs as they are to be split. One that is a member stays so.
    pub(crate) fn join(&self, host: &HostName) {
        let place = self.with(|inner| inner.place(host));
        let joins = self.with(|inner| {
            inner.befell(place, "joins");
            !std::mem::replace(&mut inner.nodes[place].member, true)
        });
        if !joins {
            return;
        }
        let joined_at = self.wall(place);
        let repository = self.repository();
        let loaded = repository.load().expect("a store in memory is read");
        let mut next = loaded.state.clone();
        let mut spec = Spec::clone(&next.spec);
        self.with(|inner| setup::take_in(&mut spec, &inner.nodes[place], joined_at));
        next.spec = spec.into();
        let saved = repository.commit(loaded, next, &Terms::default());
        assert!(matches!(saved, Ok(Saved::Committed(_))), "nobody else has the turn");
        self.judge_write();
        self.with(|inner| inner.start_daemon_after(place, 0));
    }

    /// A host is no member any more: whatever it says, nobody believes, and nothing of the store is shown to it.
    pub(crate) fn removed(&self, host: &HostName) {
        self.with(|inner| {
            let place = inner.place(host);
            inner.befell(place, "is no member any more");
            inner.nodes[place].member = false;
            inner.nodes[place].fed = None;
            inner.kill_daemon(place);
        });
        self.repository().forget_beat(host).expect("a store in memory is written");
    }

    fn repository(&self) -> Repository {
        Repository::new(Arc::clone(&self.store) as Arc<dyn Store>)
    }
}
