//! What the store's members say, each asked by itself; of one that does not answer, its host is asked whether it runs at all.

use std::thread;
use std::time::Duration;

use tranche_core::liveness::MemberSays;

use super::Voices;
use crate::cluster::Cluster;

/// How long a member may take to answer, in milliseconds, and then its host: together well below an election.
const ANSWER_MS: u64 = 300;
const HOST_ANSWER: Duration = Duration::from_millis(400);

/// The members of a cluster's store.
#[derive(Debug)]
pub struct StoreMembers(pub Cluster);

impl Voices for StoreMembers {
    fn ask(&self) -> Vec<MemberSays> {
        let Some(membership) = self.0.membership() else { return Vec::new() };
        let endpoints = self.0.endpoints_of(&membership);
        thread::scope(|scope| {
            let asked: Vec<_> = endpoints
                .iter()
                .map(|endpoint| {
                    // A member that cannot be asked says nothing.
                    thread::Builder::new().spawn_scoped(scope, move || self.says(endpoint))
                })
                .collect();
            let joined = asked.into_iter().map(|asked| asked.ok().and_then(|thread| thread.join().ok()));
            joined.map(|says| says.unwrap_or(MemberSays::Nothing)).collect()
        })
    }
}

impl StoreMembers {
    fn says(&self, endpoint: &String) -> MemberSays {
        match self.0.voice(endpoint, ANSWER_MS).and_then(|member| member.status()) {
            Ok(status) if status.leader == 0 => MemberSays::NoLeader { term: status.term },
            Ok(_) => MemberSays::HasLeader,
            Err(_) if self.0.is_held_down(endpoint, HOST_ANSWER) => MemberSays::NotRunning,
            Err(_) => MemberSays::Nothing,
        }
    }
}
