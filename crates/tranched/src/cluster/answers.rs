//! What a host knows of its cluster, for those who ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tranche_api::cluster::{ClusterMember, ClusterStanding, ClusterView, StoreSeat};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::membership::{self, StoreMember, StorePlace};
use tranche_core::name::HostName;
use tranche_store::{EtcdMembers, StoreError};

use super::book::{Membership, Standing};
use super::carry::Backup;
use super::door::Address;
use super::registry::{self, Registry};
use super::seat::Running;
use super::{Cluster, care, health};
use crate::clock;

impl Cluster {
    /// Whether this host may lead. Before the members are known, whoever keeps the store may.
    pub fn may_lead(&self) -> bool {
        let state = self.lock();
        let Standing::Member(member) = &state.standing else { return false };
        match state.candidates.is_empty() {
            true => member.seat.is_some(),
            false => membership::may_lead(&member.host, &state.candidates, &state.seen.lead()),
        }
    }

    /// Where a member is asked.
    ///
    /// # Errors
    /// The store cannot be read, or it is no member.
    pub fn door_of(&self, host: &HostName) -> Result<Address, Finding> {
        let store = self.store().ok_or_else(say::cluster_none)?;
        let members = Registry(store.as_ref()).members()?;
        let member = members.get(host);
        member
            .map(registry::MemberRecord::address_of_door)
            .ok_or_else(|| say::host_not_found(host, &members.keys().collect::<Vec<_>>()))
    }

    /// Whether this host's member of the store does not run, and will not for longer than an election. May take a while.
    pub fn holds_store_member_down(&self) -> bool {
        let (pledge, place) = {
            let state = self.lock();
            let pledge = state.running.as_ref().map(Running::pledge);
            (pledge, state.candidates.iter().position(|host| host == &self.0.host).unwrap_or_default())
        };
        pledge.is_some_and(|pledge| pledge.is_given(place))
    }

    /// Whether the host of a member of the store says the same of that one.
    pub fn is_held_down(&self, endpoint: &str, limit: Duration) -> bool {
        care::is_held_down(self, endpoint, limit)
    }

    /// One member of the store, to be asked by itself.
    ///
    /// # Errors
    /// The certificates are of no use.
    pub fn voice(&self, endpoint: &String) -> Result<Arc<EtcdMembers>, StoreError> {
        health::at(self, std::slice::from_ref(endpoint), health::ANSWER_MS)
    }

    /// Whether hosts of the cluster keep its store themselves; else somebody else does.
    pub(super) fn keeps_store(&self) -> bool {
        self.0.etcd.endpoints.is_empty()
    }

    /// Where the cluster's store is.
    pub fn endpoints_of(&self, membership: &Membership) -> Vec<String> {
        if self.keeps_store() { membership.endpoints.clone() } else { self.0.etcd.endpoints.clone() }
    }

    /// Why this host cannot sign.
    pub(super) fn not_a_signer(&self) -> Finding {
        say::not_a_signer(&self.lock().members.keys().cloned().collect::<Vec<_>>())
    }

    /// The authority's key, for a host that keeps the store.
    ///
    /// # Errors
    /// This host has not got it, or the other one shall not have it.
    pub fn authority_for(&self, host: &HostName, key: &str) -> Result<String, Finding> {
        care::authority_for(self, host, key)
    }

    /// Whether a host is a member, and the one with this key: certificates outlive the membership of their hosts.
    pub fn knows(&self, host: &HostName, key: &str) -> bool {
        if self.lock().members.get(host).is_some_and(|known| known.key == key) {
            return true;
        }
        let members = self.store().and_then(|store| Registry(store.as_ref()).members().ok());
        let Some(members) = members else { return false };
        let mut state = self.lock();
        state.members = members;
        state.members.get(host).is_some_and(|known| known.key == key)
    }

    /// Sees to the cluster once: endpoints, health, certificates, seats. Returns whether more is due soon.
    pub fn care_once(&self) -> bool {
        care::once(self)
    }

    /// A backup of the cluster's records.
    ///
    /// # Errors
    /// This host is no member, or the store cannot be read.
    pub fn backup(&self) -> Result<Backup, Finding> {
        let membership = self.membership().ok_or_else(say::cluster_none)?;
        let store = self.store().ok_or_else(say::cluster_none)?;
        Backup::take(&membership.cluster, store.as_ref(), clock::now()).map_err(|error| error.finding())
    }

    /// The cluster, as this host sees it.
    pub fn view(&self) -> ClusterView {
        let state = self.lock();
        let (standing, membership, stopped) = match &state.standing {
            Standing::Alone => (ClusterStanding::Alone, None, None),
            Standing::Entering(entering) => {
                (ClusterStanding::Entering, Some(&entering.membership), entering.stopped.clone())
            }
            Standing::Member(membership) => (ClusterStanding::Member, Some(membership), state.stayed.clone()),
            Standing::Leaving(leaving) => (ClusterStanding::Leaving, Some(&leaving.membership), None),
        };
        let voters = state.health.members.iter().filter(|member| !member.learner).count();
        ClusterView {
            host: self.0.host.clone(),
            standing,
            cluster: membership.map(|membership| membership.cluster.clone()).filter(|name| !name.is_empty()),
            doing: state.doing.clone(),
            stopped,
            members: Vec::new(),
            store_elsewhere: BTreeMap::new(),
            ruling_version: None,
            survives: membership::failures_survived(voters),
            findings: state.findings.clone(),
        }
    }

    /// The cluster, with its machines, asked anew. Where the store does not answer, the machines are those that it told of
    /// last, and findings say which of its members are silent.
    pub fn examine(&self) -> ClusterView {
        if self.store().is_none() {
            return self.view();
        }
        care::look(self);
        let mut view = self.view();
        let (members, health) = {
            let state = self.lock();
            (state.members.clone(), state.health.clone())
        };
        let versions: Vec<&str> = members.values().map(|member| member.version.as_str()).collect();
        view.ruling_version = membership::ruling_version(versions).map(str::to_owned);
        let seat_of =
            |found: &StoreMember| StoreSeat { learner: found.learner, answer: found.answer.clone() };
        let seat = |host: &HostName| {
            let place = StorePlace::Host(host.clone());
            health.members.iter().find(|member| member.place == place).map(seat_of)
        };
        let elsewhere = health.members.iter().filter_map(|member| match &member.place {
            StorePlace::Url(url) => Some((url.clone(), seat_of(member))),
            StorePlace::Host(_) => None,
        });
        view.store_elsewhere = elsewhere.collect();
        let member = |(host, member): (HostName, registry::MemberRecord)| ClusterMember {
            store: seat(&host),
            address: member.door(),
            role: member.role,
            version: member.version,
            joined_at: member.joined_at,
            host,
        };
        view.members = members.into_iter().map(member).collect();
        view
    }

    /// What is wrong with the cluster or worth knowing, as it was seen last.
    pub fn findings(&self) -> Vec<Finding> {
        let state = self.lock();
        let stopped = match &state.standing {
            Standing::Entering(entering) => entering.stopped.clone(),
            _ => state.stayed.clone(),
        };
        state.findings.iter().cloned().chain(stopped).collect()
    }
}
