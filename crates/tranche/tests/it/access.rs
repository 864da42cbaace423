//! Users, tokens and the audit log: what is asked, and how it is shown.

use std::io::Write as _;
use std::process::Stdio;

use expect_test::expect;
use tranche_api::access::{AuditEntry, Changed, LinkMade, Secret, TokenMade, TokenView, UserView};
use tranche_core::access::Role;
use tranche_core::name::Timestamp;

use crate::daemon::Daemon;
use crate::{check, command};

const THEN: Timestamp = Timestamp(1_764_518_400_000);

fn user(name: &str, role: Role, password_at: Option<Timestamp>) -> UserView {
    UserView {
        name: name.parse().unwrap(),
        role,
        vm_labels: Default::default(),
        created_at: THEN,
        password_at,
    }
}

fn link() -> LinkMade {
    let url = Some("https://node1:7440/login?link=s".to_owned());
    LinkMade { secret: Secret("s".to_owned()), path: "/login?link=s".to_owned(), url, expires_at: THEN }
}

#[test]
fn a_new_user_gets_a_link_and_nothing_else_is_printed() {
    let daemon = Daemon::new()
        .answers::<[UserView]>("GET /v1/users", &[])
        .answers("PUT /v1/users/alice", &user("alice", Role::Admin, None))
        .answers("POST /v1/users/alice/link", &link());
    check(
        &daemon,
        &["user", "create", "alice", "--role", "admin"],
        expect![[r#"
            https://node1:7440/login?link=s
            exit 0
        "#]],
    );
    assert_eq!(
        daemon.asked(),
        ["GET /v1/users", r#"PUT /v1/users/alice {"role":"admin"}"#, "POST /v1/users/alice/link"]
    );
}

#[test]
fn a_user_that_is_there_is_not_made_again_and_one_that_is_not_is_not_changed() {
    let daemon = Daemon::new().answers("GET /v1/users", &[user("alice", Role::Viewer, None)]);
    check(
        &daemon,
        &["user", "create", "alice"],
        expect![[r#"
            ! error: There is a user alice already. [user_exists]
            !   hint: 'tranche user set alice' changes what that one may do, and 'tranche user link alice' lets them in.
            exit 3
        "#]],
    );
    check(
        &daemon,
        &["user", "set", "bob", "--role", "admin"],
        expect![[r#"
            ! error: There is no user bob. [user_not_found]
            !   hint: 'tranche user list' shows the users.
            exit 3
        "#]],
    );
}

#[test]
fn a_password_comes_from_standard_input_or_a_terminal_and_never_from_the_command_line() {
    let daemon = Daemon::new()
        .answers("GET /v1/users", &[user("alice", Role::Viewer, None)])
        .answers("PUT /v1/users/alice", &user("alice", Role::Viewer, Some(THEN)));
    let socket = daemon.socket();
    let args = ["--socket", socket.to_str().unwrap(), "user", "password", "alice", "--stdin"];
    let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse battery\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("password set") && !told.contains("horse"), "{told}");
    assert_eq!(daemon.asked()[1], r#"PUT /v1/users/alice {"password":"correct horse battery"}"#);
    let output = command(&args[..5]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "there is nobody to ask");
}

#[test]
fn a_token_is_printed_alone_so_that_it_can_be_written_into_a_file() {
    let token = TokenView {
        name: "ci".parse().unwrap(),
        role: Role::Viewer,
        vm_labels: Default::default(),
        created_at: THEN,
        expires_at: THEN,
    };
    let made = TokenMade { secret: Secret("tranche_ci.s".to_owned()), token: token.clone() };
    let daemon = Daemon::new()
        .answers("POST /v1/tokens", &made)
        .answers("GET /v1/tokens", &[token])
        .answers_raw("DELETE /v1/tokens/ci", 204, b"");
    check(
        &daemon,
        &["token", "create", "ci", "--days", "30"],
        expect![[r#"
            tranche_ci.s
            exit 0
        "#]],
    );
    check(
        &daemon,
        &["token", "list"],
        expect![[r#"
            NAME  ROLE    SINCE                ENDS
            ci    viewer  2025-11-30 16:00:00  2025-11-30 16:00:00
            exit 0
        "#]],
    );
    check(
        &daemon,
        &["token", "revoke", "ci"],
        expect![[r#"
        exit 0
    "#]],
    );
    assert_eq!(daemon.asked()[0], r#"POST /v1/tokens {"name":"ci","role":"viewer","days":30}"#);
}

#[test]
fn the_audit_log_shows_who_did_what_from_where_and_what_became_of_it() {
    let entry = AuditEntry {
        at: THEN,
        who: "alice".to_owned(),
        from: "192.0.2.7".to_owned(),
        host: "node1".to_owned(),
        what: "POST /v1/vms/desk-01/start".to_owned(),
        asked: None,
        changed: vec![
            Changed { field: "state".to_owned(), before: Some("stopped".to_owned()), after: None },
            Changed {
                field: "priority".to_owned(),
                before: Some("1".to_owned()),
                after: Some("2".to_owned()),
            },
        ],
        status: 202,
        outcome: Some("start VM desk-01".to_owned()),
    };
    let daemon = Daemon::new().answers("GET /v1/audit?limit=50", &[entry]);
    check(
        &daemon,
        &["audit"],
        expect![[r#"
            TIME                 WHO    FROM       HOST   WHAT                        STATUS  OUTCOME           CHANGED
            2025-11-30 16:00:00  alice  192.0.2.7  node1  POST /v1/vms/desk-01/start  202     start VM desk-01  state was stopped; priority: 1 → 2
            exit 0
        "#]],
    );
}
