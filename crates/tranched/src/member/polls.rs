//! What the store's members say, each asked by itself; of one that does not answer, its host is asked whether it runs at all.

use std::thread;
use std::time::Duration;

use tranche_core::liveness::MemberSays;

use super::Voices;
use crate::cluster::Cluster;

/// The members of a cluster's store.
#[derive(Debug)]
pub struct StoreMembers(pub Cluster);

impl Voices for StoreMembers {
    fn ask(&self, within: Duration) -> Vec<MemberSays> {
        let Some(membership) = self.0.membership() else { return Vec::new() };
        let endpoints = self.0.endpoints_of(&membership);
        thread::scope(|scope| {
            let asked: Vec<_> = endpoints
                .iter()
                .map(|endpoint| {
                    // A member that cannot be asked says nothing.
                    thread::Builder::new().spawn_scoped(scope, move || self.says(endpoint, within / 2))
                })
                .collect();
            let joined = asked.into_iter().map(|asked| asked.ok().and_then(|thread| thread.join().ok()));
            joined.map(|says| says.unwrap_or(MemberSays::Nothing)).collect()
        })
    }
}

impl StoreMembers {
    fn says(&self, endpoint: &String, within: Duration) -> MemberSays {
        match self.0.voice(endpoint).and_then(|member| member.status_within(within)) {
            Ok(status) if status.leader == 0 => MemberSays::NoLeader { term: status.term },
            Ok(_) => MemberSays::HasLeader,
            Err(_) if self.0.is_held_down(endpoint, within) => MemberSays::NotRunning,
            Err(_) => MemberSays::Nothing,
        }
    }
}
