//! Who gets in, and who does not any more.

use proptest::prelude::*;
use tranche_core::finding::Code;
use tranche_store::{KeyRange, ManualClock, MemoryStore};

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);
const GOOD: &str = "correct horse battery";

fn accounts() -> Accounts {
    Accounts::new(Arc::new(MemoryStore::new(Arc::new(ManualClock::default()))))
}

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn with_user(role: Role) -> Accounts {
    let accounts = accounts();
    let wish = SetUser { role: Some(role), password: Some(Secret(GOOD.to_owned())), ..SetUser::default() };
    accounts.set_user(&name("alice"), &wish, NOW).unwrap();
    accounts
}

fn by_password(accounts: &Accounts, user: &str, password: &str) -> Result<LoggedIn, Finding> {
    let log_in = LogIn::Password { user: user.to_owned(), password: Secret(password.to_owned()) };
    accounts.log_in(&log_in, NOW)
}

fn who(accounts: &Accounts, session: &LoggedIn, at: Timestamp) -> Option<Asker> {
    accounts.session(&session.secret.0, at).unwrap()
}

#[test]
fn a_session_is_its_users_until_it_ends() {
    let accounts = with_user(Role::Operator);
    let session = by_password(&accounts, "alice", GOOD).unwrap();
    let alice = Asker { who: "alice".to_owned(), role: Role::Operator, limit: None };
    assert_eq!(who(&accounts, &session, NOW), Some(alice));
    assert_eq!(who(&accounts, &session, session.expires_at), None);
    accounts.log_out(&session.secret.0).unwrap();
    assert_eq!(who(&accounts, &session, NOW), None);
    accounts.log_out(&session.secret.0).unwrap();
}

#[test]
fn a_wrong_password_an_unknown_user_and_a_text_that_is_no_name_are_answered_alike() {
    let accounts = with_user(Role::Admin);
    accounts.set_user(&name("bob"), &SetUser::default(), NOW).unwrap();
    let tries =
        [("alice", "wrong"), ("alice", ""), ("carol", GOOD), ("../alice", GOOD), ("bob", ""), ("bob", GOOD)];
    let answers = tries.map(|(user, password)| by_password(&accounts, user, password).unwrap_err());
    assert!(answers.iter().all(|answer| *answer == say::login_failed()), "{answers:?}");
}

#[test]
fn a_change_of_role_holds_at_once_and_a_change_of_password_ends_all_sessions() {
    let accounts = with_user(Role::Admin);
    let session = by_password(&accounts, "alice", GOOD).unwrap();
    let lesser = SetUser { role: Some(Role::Viewer), ..SetUser::default() };
    accounts.set_user(&name("alice"), &lesser, NOW).unwrap();
    assert_eq!(who(&accounts, &session, NOW).unwrap().role, Role::Viewer);
    let other = SetUser { password: Some(Secret("another long one".to_owned())), ..SetUser::default() };
    accounts.set_user(&name("alice"), &other, NOW).unwrap();
    assert_eq!(who(&accounts, &session, NOW), None);
    assert!(by_password(&accounts, "alice", GOOD).is_err());
}

#[test]
fn a_user_who_is_removed_is_out_also_when_another_one_gets_the_name() {
    let accounts = with_user(Role::Admin);
    let session = by_password(&accounts, "alice", GOOD).unwrap();
    let link = accounts.make_link(&name("alice"), NOW).unwrap();
    accounts.delete_user(&name("alice")).unwrap();
    assert_eq!(who(&accounts, &session, NOW), None);
    accounts.set_user(&name("alice"), &SetUser::default(), NOW).unwrap();
    assert_eq!(who(&accounts, &session, NOW), None, "it is another alice");
    assert!(accounts.log_in(&LogIn::Link { link: link.secret }, NOW).is_err());
    assert_eq!(accounts.delete_user(&name("bob")).unwrap_err().code, Code::UserNotFound);
}

#[test]
fn a_link_logs_in_once_and_not_after_its_time() {
    let accounts = accounts();
    accounts
        .set_user(
            &name("alice"),
            &SetUser { role: Some(Role::Admin), password: None, ..SetUser::default() },
            NOW,
        )
        .unwrap();
    let link = accounts.make_link(&name("alice"), NOW).unwrap();
    let late = accounts.make_link(&name("alice"), NOW).unwrap();
    let first = accounts.log_in(&LogIn::Link { link: link.secret.clone() }, NOW).unwrap();
    assert_eq!(who(&accounts, &first, NOW).unwrap().role, Role::Admin);
    assert_eq!(accounts.log_in(&LogIn::Link { link: link.secret }, NOW).unwrap_err(), say::link_failed());
    let after = late.expires_at;
    assert_eq!(accounts.log_in(&LogIn::Link { link: late.secret }, after).unwrap_err(), say::link_failed());
    assert!(accounts.make_link(&name("bob"), NOW).is_err());
}

#[test]
fn the_secret_of_a_link_is_no_session() {
    let accounts = with_user(Role::Admin);
    let link = accounts.make_link(&name("alice"), NOW).unwrap();
    assert_eq!(accounts.session(&link.secret.0, NOW).unwrap(), None);
}

#[test]
fn a_token_stands_for_its_role_until_it_ends_or_is_revoked() {
    let accounts = accounts();
    let wish = NewToken { name: "ci.v2".to_owned(), role: Role::Viewer, days: 1, vm_labels: labels("") };
    let made = accounts.make_token(&wish, NOW).unwrap();
    let ci = Asker { who: "token ci.v2".to_owned(), role: Role::Viewer, limit: None };
    assert_eq!(accounts.token(&made.secret.0, NOW).unwrap(), Some(ci));
    assert_eq!(accounts.token(&made.secret.0, made.token.expires_at).unwrap(), None);
    assert_eq!(accounts.make_token(&wish, NOW).unwrap_err().code, Code::TokenExists);
    accounts.delete_token(&name("ci.v2")).unwrap();
    assert_eq!(accounts.token(&made.secret.0, NOW).unwrap(), None);
    assert_eq!(accounts.delete_token(&name("ci.v2")).unwrap_err().code, Code::TokenNotFound);
}

#[test]
fn tokens_without_a_name_or_an_end_are_not_made() {
    let accounts = accounts();
    let refused = |name: &str, days| {
        let wish = NewToken { name: name.to_owned(), role: Role::Viewer, days, vm_labels: labels("") };
        accounts.make_token(&wish, NOW).unwrap_err().code
    };
    assert_eq!(refused("a/b", 1), Code::InvalidName);
    assert_eq!(refused("ci", 0), Code::InvalidValue);
    assert_eq!(refused("ci", TOKEN_DAYS_MAX + 1), Code::InvalidValue);
}

#[test]
fn a_password_that_is_no_good_changes_nothing() {
    let accounts = with_user(Role::Admin);
    let weak = SetUser {
        role: Some(Role::Viewer),
        password: Some(Secret("short".to_owned())),
        ..SetUser::default()
    };
    assert_eq!(accounts.set_user(&name("alice"), &weak, NOW).unwrap_err().code, Code::PasswordWeak);
    assert_eq!(accounts.users().unwrap()[0].role, Role::Admin);
    assert!(by_password(&accounts, "alice", GOOD).is_ok());
}

#[test]
fn sessions_that_are_over_do_not_pile_up() {
    let accounts = with_user(Role::Admin);
    for _ in 0..3 {
        by_password(&accounts, "alice", GOOD).unwrap();
    }
    let later = Timestamp(NOW.0 + SESSION_LIFE_MS);
    let log_in = LogIn::Password { user: "alice".to_owned(), password: Secret(GOOD.to_owned()) };
    accounts.log_in(&log_in, later).unwrap();
    assert_eq!(accounts.store.range(&records::sessions()).unwrap().entries.len(), 1);
}

#[test]
fn nothing_that_the_store_holds_lets_anybody_in() {
    let accounts = with_user(Role::Admin);
    let session = by_password(&accounts, "alice", GOOD).unwrap();
    let link = accounts.make_link(&name("alice"), NOW).unwrap();
    let wish = NewToken { name: "ci".to_owned(), role: Role::Admin, days: 1, vm_labels: labels("") };
    let token = accounts.make_token(&wish, NOW).unwrap();
    let entries = accounts.store.range(&KeyRange::ALL).unwrap().entries;
    let held: String = entries
        .iter()
        .map(|entry| format!("{} {}\n", entry.key, String::from_utf8_lossy(&entry.value)))
        .collect();
    let (_, token_secret) = token.secret.0.rsplit_once('.').unwrap();
    for secret in [GOOD, &session.secret.0, &link.secret.0, token_secret] {
        assert!(!held.contains(secret), "{secret} is in the store");
    }
}

proptest! {
    /// Whatever is shown, nobody comes in by it who was not let in.
    #[test]
    fn no_text_is_a_session_or_a_token_by_chance(text in ".{0,80}", other in "tranche_[a-z.]{1,9}\\.[A-Za-z0-9_-]{0,43}") {
        let accounts = accounts();
        let wish = NewToken { name: "ci".to_owned(), role: Role::Admin, days: 1, vm_labels: labels("") };
        accounts.make_token(&wish, NOW).unwrap();
        for shown in [text, other] {
            prop_assert_eq!(accounts.session(&shown, NOW).unwrap(), None);
            prop_assert_eq!(accounts.token(&shown, NOW).unwrap(), None);
        }
    }
}

fn labels(text: &str) -> std::collections::BTreeSet<tranche_core::label::Label> {
    text.split(',').filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_user_stays_limited_until_that_is_changed_by_name_and_an_administrator_never_is() {
    let accounts = accounts();
    let name: UserName = "alice".parse().unwrap();
    let set = |role: Option<Role>, vm_labels: Option<&str>| {
        let wish = SetUser { role, vm_labels: vm_labels.map(labels), ..SetUser::default() };
        accounts.set_user(&name, &wish, NOW).map(|user| (user.role, user.vm_labels))
    };
    let red = labels("team=red");
    assert_eq!(set(Some(Role::Operator), Some("team=red")).unwrap(), (Role::Operator, red.clone()));
    assert_eq!(set(Some(Role::Viewer), None).unwrap(), (Role::Viewer, red.clone()));
    assert_eq!(set(Some(Role::Admin), None).unwrap_err().code, Code::InvalidValue);
    assert_eq!(accounts.users().unwrap()[0].vm_labels, red, "nothing was changed");
    assert_eq!(set(Some(Role::Admin), Some("")).unwrap(), (Role::Admin, labels("")));
    assert_eq!(set(None, Some("team=red")).unwrap_err().code, Code::InvalidValue);
}

#[test]
fn a_record_of_a_user_who_is_limited_cannot_be_read_by_who_knows_no_limits() {
    let accounts = accounts();
    let wish =
        SetUser { role: Some(Role::Operator), vm_labels: Some(labels("team=red")), ..SetUser::default() };
    accounts.set_user(&"alice".parse().unwrap(), &wish, NOW).unwrap();
    let wish = NewToken { name: "ci".to_owned(), role: Role::Viewer, days: 1, vm_labels: labels("team=red") };
    let made = accounts.make_token(&wish, NOW).unwrap();
    for key in ["access/user/alice", "access/token/ci"] {
        let entry = accounts.store.get(&key.parse().unwrap()).unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        assert!(serde_json::from_value::<Role>(record["role"].clone()).is_err(), "{record}");
    }
    let asker = accounts.token(&made.secret.0, NOW).unwrap().unwrap();
    assert_eq!(asker.limit, "team=red".parse().ok());
}
