//! The cluster, for people.

use tranche_api::cluster::{ClusterMember, ClusterStanding, ClusterView, StoreSeat, TokenCreated};
use tranche_core::membership::Role;

use super::Show;
use crate::output::table::{rows, sheet};
use crate::output::text;

impl Show for ClusterView {
    fn as_text(&self) -> String {
        let standing = match self.standing {
            ClusterStanding::Alone => "stands alone",
            ClusterStanding::Entering => "is on its way into a cluster",
            ClusterStanding::Member => "is a member",
            ClusterStanding::Leaving => "is on its way out of its cluster",
        };
        let survives = match (self.standing, self.survives) {
            (ClusterStanding::Member, 0) => "no loss of a member of its store".to_owned(),
            (ClusterStanding::Member, 1) => "the loss of one member of its store".to_owned(),
            (ClusterStanding::Member, more) => format!("the loss of {more} members of its store"),
            _ => String::new(),
        };
        let mut all = sheet(&[
            ("Cluster", self.cluster.clone().unwrap_or_default()),
            ("This host", format!("{} {standing}", self.host)),
            ("Survives", survives),
            ("Version", self.ruling_version.clone().unwrap_or_default()),
            ("Doing", self.doing.clone().unwrap_or_default()),
        ]);
        if !self.members.is_empty() {
            let header = ["HOST", "ADDRESS", "ROLE", "VERSION", "STORE", "ETCD", "FILE"];
            all.push('\n');
            all.push_str(&rows(&header, self.members.iter().map(row).collect(), ""));
        }
        if !self.store_elsewhere.is_empty() {
            let seats = self.store_elsewhere.iter().map(|(url, seat)| {
                let [store, etcd, file] = of_store(Some(seat));
                vec![url.clone(), store, etcd, file]
            });
            all.push('\n');
            all.push_str(&rows(&["STORE AT", "STORE", "ETCD", "FILE"], seats.collect(), ""));
        }
        let findings: Vec<_> = self.findings.iter().chain(&self.stopped).cloned().collect();
        text::findings_below(&all, &findings)
    }
}

fn row(member: &ClusterMember) -> Vec<String> {
    let role = match member.role {
        Role::Host => "host",
        Role::Witness => "witness",
    };
    let [store, etcd, file] = of_store(member.store.as_ref());
    let (host, address) = (member.host.to_string(), member.address.clone());
    vec![host, address, role.to_owned(), member.version.clone(), store, etcd, file]
}

/// How a member of the store fares, its version, and the size of its file.
fn of_store(seat: Option<&StoreSeat>) -> [String; 3] {
    let answer = seat.and_then(|seat| seat.answer.as_ref());
    let store = match (seat, answer) {
        (None, _) => "",
        (Some(_), None) => "silent",
        (Some(seat), _) if seat.learner => "catches up",
        (Some(_), Some(answer)) if answer.leads => "leads",
        (Some(_), Some(_)) => "follows",
    };
    let version = answer.map(|answer| answer.version.clone()).unwrap_or_default();
    let file = answer.map(|answer| format!("{} MiB", answer.file_bytes >> 20)).unwrap_or_default();
    [store.to_owned(), version, file]
}

/// The token alone: it is copied as it is.
impl Show for TokenCreated {
    fn as_text(&self) -> String {
        format!("{}\n", self.token)
    }
}
