//! Who is let in, once and with what, and who is forgotten.

use tranche_core::finding::Code;
use tranche_store::MemoryStore;

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const PORTS: Ports = Ports { cluster: 7443, client: 7444, peer: 7445 };
const HOUR_MS: u64 = 3_600_000;

struct Cluster {
    store: MemoryStore,
    authority: Authority,
}

fn cluster() -> Cluster {
    let cluster = Cluster { store: MemoryStore::default(), authority: Authority::new("lab", NOW).unwrap() };
    let first = MemberRecord {
        address: "10.0.0.1".to_owned(),
        ports: PORTS,
        role: Role::Host,
        seat: true,
        signs: true,
        key: "first".to_owned(),
        version: "1.0.0".to_owned(),
        joined_at: NOW,
        no_etcd: false,
    };
    Registry(&cluster.store).put("lab", &"node1".parse().unwrap(), &first).unwrap();
    cluster
}

impl Cluster {
    fn token(&self) -> [u8; 32] {
        let secret = token::new_secret().unwrap();
        Registry(&self.store).offer(&secret, None, Timestamp(NOW.0 + HOUR_MS), NOW).unwrap();
        secret
    }

    fn join(&self, asked: &JoinRequest, now: Timestamp) -> Result<JoinAnswer, Finding> {
        let terms = Terms { seats: true, judge: &|| Ok(Vec::new()) };
        Registry(&self.store).admit(asked, &self.authority, terms, now)
    }
}

fn asks(name: &str, secret: &[u8]) -> JoinRequest {
    let host: HostName = name.parse().unwrap();
    let request = pki::request(&pki::new_key().unwrap(), &host).unwrap();
    JoinRequest {
        secret: URL_SAFE_NO_PAD.encode(secret),
        host,
        address: format!("{name}.lan"),
        ports: PORTS,
        role: Role::Host,
        version: "1.0.0".to_owned(),
        request,
        brings: None,
    }
}

fn code(result: Result<JoinAnswer, Finding>) -> Code {
    result.map(|answer| answer.cluster).unwrap_err().code
}

#[test]
fn the_first_three_get_a_seat_and_the_authoritys_key_and_the_fourth_neither() {
    let cluster = cluster();
    let answers =
        ["node2", "node3", "node4"].map(|host| cluster.join(&asks(host, &cluster.token()), NOW).unwrap());
    assert_eq!(answers.each_ref().map(|answer| answer.seat), [true, true, false]);
    assert_eq!(answers.each_ref().map(|answer| answer.authority_key.is_some()), [true, true, false]);
    assert_eq!(answers[2].endpoints.len(), 3);
    assert!(answers[2].certificates.peer.is_none());
}

#[test]
fn a_witness_gets_a_seat_and_never_the_authoritys_key() {
    let cluster = cluster();
    let asked = JoinRequest { role: Role::Witness, ..asks("small", &cluster.token()) };
    let answer = cluster.join(&asked, NOW).unwrap();
    assert!(answer.seat && answer.authority_key.is_none());
}

#[test]
fn a_witness_that_would_get_no_seat_is_refused_with_the_reason_and_does_not_use_the_token_up() {
    let cluster = cluster();
    for host in ["node2", "node3"] {
        cluster.join(&asks(host, &cluster.token()), NOW).unwrap();
    }
    let secret = cluster.token();
    let asked = JoinRequest { role: Role::Witness, ..asks("small", &secret) };
    let refused = cluster.join(&asked, NOW).unwrap_err();
    assert_eq!(refused.code, Code::WitnessUseless);
    assert!(refused.message.contains("as many machines as are of use"), "{refused}");
    cluster.join(&asks("node4", &secret), NOW).unwrap();
    let elsewhere = Terms { seats: false, judge: &|| Ok(Vec::new()) };
    let asked = JoinRequest { role: Role::Witness, ..asks("small", &cluster.token()) };
    let refused = Registry(&cluster.store).admit(&asked, &cluster.authority, elsewhere, NOW);
    assert!(refused.unwrap_err().message.contains("somebody else runs the etcd"));
}

#[test]
fn a_place_where_another_machine_is_reached_is_refused_by_its_name_and_the_same_machine_may_ask_again() {
    let cluster = cluster();
    let secret = cluster.token();
    let asked = JoinRequest { address: "10.0.0.1".to_owned(), ..asks("node2", &secret) };
    let refused = cluster.join(&asked, NOW).unwrap_err();
    assert_eq!(refused.code, Code::AddressTaken);
    assert!(refused.message.contains("node1") && refused.message.contains("10.0.0.1:7443"), "{refused}");
    let ports = Ports { cluster: 1, client: 2, peer: PORTS.client };
    assert_eq!(code(cluster.join(&JoinRequest { ports, ..asked.clone() }, NOW)), Code::AddressTaken);
    let asked = JoinRequest { ports: Ports { peer: 3, ..ports }, ..asked };
    for _ in 0..2 {
        cluster.join(&asked, NOW).unwrap();
    }
}

#[test]
fn a_host_of_another_version_than_the_one_that_rules_is_refused_and_a_witness_reads_nothing_that_matters() {
    let cluster = cluster();
    let secret = cluster.token();
    for version in ["0.9.0", "1.0.1"] {
        let asked = JoinRequest { version: version.to_owned(), ..asks("node2", &secret) };
        let refused = cluster.join(&asked, NOW).unwrap_err();
        assert_eq!(refused.code, Code::VersionMismatch);
        assert!(refused.message.contains(version), "{refused}");
        let witness = JoinRequest { role: Role::Witness, ..asked };
        cluster.join(&JoinRequest { secret: asks("x", &cluster.token()).secret, ..witness }, NOW).unwrap();
        let gone = Txn::new().delete(member_key(&asks("node2", &secret).host));
        assert!(matches!(cluster.store.commit(&gone).unwrap(), Outcome::Committed(_)));
    }
    cluster.join(&asks("node2", &secret), NOW).unwrap();
}

#[test]
fn what_a_machine_brings_is_judged_before_its_token_is_used_and_only_if_that_opens() {
    let cluster = cluster();
    let secret = cluster.token();
    let refuses = Terms { seats: true, judge: &|| Err(say::records_clash(&["spec/vm/a".to_owned()])) };
    let admit =
        |asked: &JoinRequest, terms| Registry(&cluster.store).admit(asked, &cluster.authority, terms, NOW);
    let asked = asks("node2", &secret);
    assert_eq!(code(admit(&asked, refuses)), Code::HostExists);
    assert_eq!(code(admit(&asks("node2", &[1; 32]), refuses)), Code::TokenInvalid);
    assert_eq!(Registry(&cluster.store).members().unwrap().len(), 1);
    let warns = Terms { seats: true, judge: &|| Ok(vec![say::failover_paused()]) };
    assert_eq!(admit(&asked, warns).unwrap().findings, [say::failover_paused()]);
}

#[test]
fn a_token_that_is_wrong_over_or_used_opens_nothing() {
    let cluster = cluster();
    assert_eq!(code(cluster.join(&asks("node2", &[1; 32]), NOW)), Code::TokenInvalid);
    let late = Timestamp(NOW.0 + HOUR_MS);
    assert_eq!(code(cluster.join(&asks("node2", &cluster.token()), late)), Code::TokenInvalid);
    let secret = cluster.token();
    cluster.join(&asks("node2", &secret), NOW).unwrap();
    assert_eq!(code(cluster.join(&asks("node3", &secret), NOW)), Code::TokenInvalid);
    assert_eq!(Registry(&cluster.store).members().unwrap().len(), 2);
}

#[test]
fn the_same_machine_may_ask_again_because_the_answer_may_have_been_lost() {
    let cluster = cluster();
    let asked = asks("node2", &cluster.token());
    let seats = [0, 1].map(|_| cluster.join(&asked, NOW).unwrap().seat);
    assert_eq!(seats, [true, true]);
    assert_eq!(Registry(&cluster.store).members().unwrap().len(), 2);
}

#[test]
fn a_machine_that_was_removed_is_not_let_in_again_with_the_token_that_it_used_nor_with_its_key() {
    let cluster = cluster();
    let asked = asks("node2", &cluster.token());
    cluster.join(&asked, NOW).unwrap();
    let host: HostName = "node2".parse().unwrap();
    let member = Registry(&cluster.store).members().unwrap().remove(&host).unwrap();
    crate::cluster::parting::forget(&cluster.store, &host, NOW, |_| true).unwrap();
    assert_eq!(code(cluster.join(&asked, NOW)), Code::TokenInvalid);
    let again = JoinRequest { secret: URL_SAFE_NO_PAD.encode(cluster.token()), ..asked };
    let refused = cluster.join(&again, NOW).unwrap_err();
    assert!(refused.message.contains("revoked"), "{refused}");
    assert!(revoked::all(&cluster.store).unwrap().contains_key(&member.key));
    cluster.join(&asks("node2", &cluster.token()), NOW).unwrap();
}

#[test]
fn a_seat_is_given_once_and_not_beside_somebody_who_is_let_in() {
    let cluster = cluster();
    for host in ["node2", "node3", "node4", "node5"] {
        cluster.join(&asks(host, &cluster.token()), NOW).unwrap();
    }
    let [gone, heir, late]: [HostName; 3] = ["node3", "node4", "node6"].map(|host| host.parse().unwrap());
    crate::cluster::parting::forget(&cluster.store, &gone, NOW, |_| true).unwrap();
    let registry = Registry(&cluster.store);
    let races = || {
        // It takes the seat that was free when it was looked.
        cluster.join(&asks(late.as_str(), &cluster.token()), NOW).map(|answer| assert!(answer.seat))?;
        Ok(true)
    };
    assert!(!registry.give_seat(&heir, &races).unwrap());
    crate::cluster::parting::forget(&cluster.store, &late, NOW, |_| true).unwrap();
    assert!(registry.give_seat(&heir, &|| Ok(true)).unwrap());
    let members = registry.members().unwrap();
    assert_eq!(members.values().filter(|member| member.seat).count(), SEATS_MAX);
    assert!(members[&heir].seat && !members[&heir].signs, "it signs once it has the authority's key");
}

#[test]
fn what_is_known_of_a_machine_is_not_changed_after_it_was_removed() {
    let cluster = cluster();
    let (registry, host) = (Registry(&cluster.store), "node1".parse().unwrap());
    let (member, at) = registry.member(&host).unwrap().unwrap();
    assert!(registry.change(&host, at, &MemberRecord { version: "2".to_owned(), ..member }).unwrap());
    let (member, at) = registry.member(&host).unwrap().unwrap();
    crate::cluster::parting::forget(&cluster.store, &host, NOW, |_| true).unwrap();
    assert!(!registry.change(&host, at, &member).unwrap());
    assert!(registry.members().unwrap().is_empty());
}

#[test]
fn a_name_that_is_taken_is_refused_and_does_not_use_the_token_up() {
    let cluster = cluster();
    let secret = cluster.token();
    assert_eq!(code(cluster.join(&asks("node1", &secret), NOW)), Code::HostExists);
    cluster.join(&asks("node2", &secret), NOW).unwrap();
}

#[test]
fn of_many_that_race_with_one_token_one_gets_in() {
    let cluster = cluster();
    let secret = cluster.token();
    let race = |index: usize| cluster.join(&asks(&format!("racer{index}"), &secret), NOW).is_ok();
    let race = &race;
    let won = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|index| scope.spawn(move || race(index))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
fn of_many_that_race_with_tokens_of_their_own_two_get_a_seat() {
    let cluster = cluster();
    let tokens: Vec<_> = (0..6).map(|_| cluster.token()).collect();
    let seats = std::thread::scope(|scope| {
        let cluster = &cluster;
        let racers: Vec<_> = tokens
            .iter()
            .enumerate()
            .map(|(index, secret)| {
                scope.spawn(move || cluster.join(&asks(&format!("racer{index}"), secret), NOW).unwrap().seat)
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).filter(|seat| *seat).count()
    });
    assert_eq!(seats, SEATS_MAX - 1, "the first has one already");
}

/// What a later version adds to each record, seen by this one.
fn with_more<T: serde::Serialize + serde::de::DeserializeOwned>(record: &T) -> Result<T, serde_json::Error> {
    fn add(value: &mut serde_json::Value) {
        if let serde_json::Value::Object(fields) = value {
            fields.values_mut().for_each(add);
            fields.insert("of_a_later_version".to_owned(), true.into());
        }
    }
    let mut value = serde_json::to_value(record)?;
    add(&mut value);
    serde_json::from_value(value)
}

#[test]
fn records_of_members_and_tokens_are_read_with_what_a_later_version_added() {
    let cluster = cluster();
    let node1: HostName = "node1".parse().unwrap();
    let members = Registry(&cluster.store).members().unwrap();
    assert_eq!(with_more(&members[&node1]).unwrap(), members[&node1]);
    let meta = Meta { name: "lab".to_owned(), joins: 3 };
    assert_eq!(with_more(&meta).unwrap(), meta);
    let used = Some(TokenUse { host: node1, key: "k".to_owned() });
    let token = TokenRecord { until: NOW, only: None, used };
    assert_eq!(with_more(&token).unwrap(), token);
}
