//! A cluster between two leaders: commands wait for the next one, and ask for nothing twice that may have been done.

use expect_test::expect;
use tranche_api::Problem;
use tranche_core::diagnostics;
use tranche_core::finding::Finding;
use tranche_core::operation::OperationState::{Running, Succeeded};

use crate::check;
use crate::daemon::Daemon;
use crate::fixtures::{AWAIT_OPERATION, accepted, operation};

fn problem(finding: Finding) -> Problem {
    Problem::from_findings(vec![finding]).expect("one finding")
}

fn nobody_leads() -> Problem {
    problem(diagnostics::no_leader(&"node1".parse().unwrap()))
}

fn leader_lost() -> Problem {
    problem(diagnostics::leader_unreachable(&"node2".parse().unwrap(), "connection reset"))
}

#[test]
fn a_change_that_met_nobody_who_leads_is_asked_for_again() {
    let done = accepted(operation("start VM a", Succeeded, &[], &[]));
    let daemon = Daemon::new()
        .refuses("POST /v1/vms/a/start", &nobody_leads())
        .refuses("POST /v1/vms/a/start", &nobody_leads())
        .answers("POST /v1/vms/a/start", &done);
    check(
        &daemon,
        &["vm", "start", "a"],
        expect![[r#"
            start VM a: done
            ! Host node1 knows of no host that leads the cluster at the moment. Waiting for one.
            exit 0
        "#]],
    );
    assert_eq!(daemon.asked().len(), 3);
}

#[test]
fn a_change_that_may_have_been_made_is_not_asked_for_again() {
    let daemon = Daemon::new().refuses("POST /v1/vms/a/start", &leader_lost());
    check(
        &daemon,
        &["vm", "start", "a"],
        expect![[r#"
            ! error: Host node2 leads the cluster and cannot be reached from here: connection reset. [leader_unreachable]
            !   hint: If it is down, another one leads within seconds: look what was done, then repeat. Else look at the network between the two hosts.
            exit 3
        "#]],
    );
    assert_eq!(daemon.asked().len(), 1);
}

#[test]
fn what_goes_on_is_followed_while_its_leader_is_lost() {
    let daemon = Daemon::new()
        .answers("POST /v1/vms/a/start", &accepted(operation("start VM a", Running, &[], &[])))
        .refuses(AWAIT_OPERATION, &leader_lost())
        .refuses(AWAIT_OPERATION, &nobody_leads())
        .answers(AWAIT_OPERATION, &operation("start VM a", Succeeded, &[], &[]));
    check(
        &daemon,
        &["vm", "start", "a"],
        expect![[r#"
            start VM a: done
            ! start VM a: Host node2 leads the cluster and cannot be reached from here: connection reset. It goes on all the same; asking again.
            exit 0
        "#]],
    );
}
