//! The members of an etcd: who they are, how they fare, and how one comes and goes.
//!
//! A new member first only listens (a learner, etcd 3.4), and has a vote once it has caught up, so that quorum is never at
//! stake while one joins.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, MemberAddOptions};

use super::calls::Calls;
use super::{ALREADY_COMPACTED, EtcdSettings, unsigned};
use crate::error::StoreError;

/// What etcd says of a learner that has not caught up, where another one still is, and for five seconds after a member was
/// not connected to all others (`rpctypes/error.go`, `server.go`: `HealthInterval`).
const NOT_YET: [&str; 3] = ["can only promote a learner", "too many learner", "unhealthy cluster"];
/// What it says of a member that is not there.
const NO_MEMBER: &str = "member not found";

/// A member of an etcd, as its configuration knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its number.
    pub id: u64,
    /// Its name; empty until it has started.
    pub name: String,
    /// Whether it has no vote yet.
    pub learner: bool,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none until it has started.
    pub client_urls: Vec<String>,
}

/// How a member fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdStatus {
    /// Its number.
    pub id: u64,
    /// The number of the member that leads; 0 if none does.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// The version of its program.
    pub version: String,
    /// The size of its file, in bytes.
    pub file_bytes: u64,
    /// How much of that is in use, in bytes.
    pub used_bytes: u64,
    /// The revision that it is at.
    pub revision: u64,
}

/// The members that raised an alarm, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EtcdAlarms {
    /// Their quota is used up.
    pub out_of_space: Vec<u64>,
    /// Their data differ from those of the others.
    pub corrupt: Vec<u64>,
}

/// Asks the members of an etcd about themselves, and changes who is one.
pub struct EtcdMembers {
    calls: Calls,
}

impl std::fmt::Debug for EtcdMembers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdMembers").field("place", &self.calls.place()).finish_non_exhaustive()
    }
}

impl EtcdMembers {
    /// Asks at these endpoints. What concerns one member ([`Self::status`], [`Self::defragment`]) needs exactly its own.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when the settings are of no use.
    pub fn connect(settings: &EtcdSettings) -> Result<Self, StoreError> {
        Ok(Self { calls: Calls::new(settings, false)? })
    }

    /// Every member.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when nobody answers.
    pub fn list(&self) -> Result<Vec<EtcdMember>, StoreError> {
        let answer = self.calls.wait(|mut client| async move { client.member_list().await })?;
        let member = |member: &etcd_client::Member| EtcdMember {
            id: member.id(),
            name: member.name().to_owned(),
            learner: member.is_learner(),
            peer_urls: member.peer_urls().to_vec(),
            client_urls: member.client_urls().to_vec(),
        };
        Ok(answer.members().iter().map(member).collect())
    }

    /// Takes in a member that is going to be started, without a vote. Returns whether it was taken: not while another one
    /// has none yet.
    ///
    /// # Errors
    /// Whether it was taken is known by asking for the list.
    pub fn add_learner(&self, peer_url: &str) -> Result<bool, StoreError> {
        self.unless_not_yet(|mut client| {
            let urls = vec![peer_url.to_owned()];
            let options = MemberAddOptions::new().with_is_learner();
            async move { client.member_add(urls, Some(options)).await.map(|_| ()) }
        })
    }

    /// Gives a member its vote. Returns whether it has it: not before it has caught up.
    ///
    /// # Errors
    /// Whether it has it is known by asking for the list.
    pub fn promote(&self, id: u64) -> Result<bool, StoreError> {
        self.unless_not_yet(|mut client| async move { client.member_promote(id).await.map(|_| ()) })
    }

    /// Takes a member out. Returns whether it is out: not while another one has just come back. One that is not there is no
    /// error.
    ///
    /// # Errors
    /// etcd refuses when that would leave too few that work.
    pub fn remove(&self, id: u64) -> Result<bool, StoreError> {
        self.unless_not_yet(|mut client| async move {
            match client.member_remove(id).await {
                Err(error) if !error.to_string().contains(NO_MEMBER) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        })
    }

    /// How the one member at the endpoint fares.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when it does not answer.
    pub fn status(&self) -> Result<EtcdStatus, StoreError> {
        self.status_within(self.calls.limit())
    }

    /// The same, where it may take less long than other requests.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when it does not answer.
    pub fn status_within(&self, limit: Duration) -> Result<EtcdStatus, StoreError> {
        let calls = self.calls.with_limit(limit);
        let answer = calls.wait(|mut client| async move { client.status().await })?;
        Ok(EtcdStatus {
            id: answer.header().map_or(0, etcd_client::ResponseHeader::member_id),
            leader: answer.leader(),
            term: answer.raft_term(),
            version: answer.version().to_owned(),
            file_bytes: unsigned(answer.db_size()),
            used_bytes: unsigned(answer.raft_used_db_size()),
            revision: answer.header().map_or(0, |header| unsigned(header.revision())),
        })
    }

    /// The alarms that are raised.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when nobody answers.
    pub fn alarms(&self) -> Result<EtcdAlarms, StoreError> {
        let answer = self
            .calls
            .wait(|mut client| async move { client.alarm(AlarmAction::Get, AlarmType::None, None).await })?;
        let of = |kind: AlarmType| {
            let raised = answer.alarms().iter().filter(|alarm| alarm.alarm() == kind);
            raised.map(etcd_client::AlarmMember::member_id).collect()
        };
        Ok(EtcdAlarms { out_of_space: of(AlarmType::Nospace), corrupt: of(AlarmType::Corrupt) })
    }

    /// Forgets all history before now, and waits until the member that was asked has let go of it. Works when quotas are
    /// used up.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when nobody answers.
    pub fn compact(&self) -> Result<(), StoreError> {
        let revision = super::signed(self.status()?.revision);
        let compacting = |client: Client| async move {
            let options = CompactionOptions::new().with_physical();
            client.kv_client().compact(revision, Some(options)).await
        };
        match self.calls.run(compacting)? {
            Err(error) if !error.to_string().contains(ALREADY_COMPACTED) => {
                Err(self.calls.error(None, error))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Takes the alarms back that quotas are used up. One that is still used up raises it again.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when nobody answers.
    pub fn disarm(&self) -> Result<(), StoreError> {
        // Each by its member's number: no number stands for all of them (seen with 3.4.23).
        for id in self.alarms()?.out_of_space {
            let disarming = |mut client: Client| async move {
                let mut options = AlarmOptions::new();
                options.with_member(id);
                client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(options)).await
            };
            self.calls.wait(disarming)?;
        }
        Ok(())
    }

    /// Gives the unused part of its file back, of the one member at the endpoint, which answers nobody meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] when it does not answer in time; it goes on all the same.
    pub fn defragment(&self) -> Result<(), StoreError> {
        self.calls.wait(|mut client| async move { client.defragment().await }).map(|_| ())
    }

    fn unless_not_yet<F>(&self, call: impl Fn(Client) -> F) -> Result<bool, StoreError>
    where
        F: Future<Output = Result<(), etcd_client::Error>> + Send + 'static,
    {
        match self.calls.run(call)? {
            Ok(()) => Ok(true),
            Err(error) if NOT_YET.iter().any(|known| error.to_string().contains(known)) => Ok(false),
            Err(error) => Err(self.calls.error(None, error)),
        }
    }
}
