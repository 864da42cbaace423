//! People whom an issuer vouches for (OpenID Connect). They are no users: none of them is stored, their names stand apart from those
//! of users, and what they may follows from their groups.
//!
//! Deliberately absent: how the issuer is asked, and whether what it said is true. Whoever calls has proved that.

use std::collections::BTreeMap;

use tranche_api::access::{LoggedIn, Secret};
use tranche_core::access::Grant;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::Timestamp;
use tranche_store::{Expected, Txn};

use crate::accounts::{Accounts, Asker, SESSION_LIFE_MS, caller};
use crate::attempt::Attempt;
use crate::records::{self, Ends, Session, Vouched};

/// The longest name that is shown, in characters.
const NAME_LEN_MAX: usize = 64;

/// An issuer, as far as this installation trusts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Which one: what its people are told apart by from those of others.
    pub url: String,
    /// What people call it.
    pub name: String,
    /// What each group may. Who is in none of them may nothing.
    pub roles: BTreeMap<String, Grant>,
    /// How long a session of its people lasts at most, in milliseconds.
    pub session_ms_max: u64,
}

/// Somebody whom the issuer vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who it is for the issuer, for good.
    pub subject: String,
    /// What they are called there. It may change, and be somebody else's one day.
    pub name: String,
    /// The groups that they are in there.
    pub groups: Vec<String>,
}

impl Issuer {
    /// What somebody may who is in these groups: the most that any of them gives.
    fn grant_of(&self, groups: &[String]) -> Option<Grant> {
        Grant::most(groups.iter().filter_map(|group| self.roles.get(group)))
    }

    /// What somebody is called here. No user, token or number can be called so, and no name can look like more than it is.
    fn who(&self, name: &str) -> String {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '@' | '+' | '\'');
        let name: String =
            name.chars().take(NAME_LEN_MAX).map(|c| if is_plain(c) { c } else { '_' }).collect();
        format!("{} (via {})", name.trim(), self.name)
    }
}

impl Accounts {
    /// Begins a session of somebody whom the issuer vouches for, once for each attempt.
    ///
    /// # Errors
    /// They are in no group that has a role, the attempt has succeeded before, or the store fails.
    pub fn begin_vouched(
        &self,
        person: &Person,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<LoggedIn, Finding> {
        let issuer = self.issuer.as_ref().ok_or_else(say::issuer_missing)?;
        let who = issuer.who(&person.name);
        let grant = issuer.grant_of(&person.groups).ok_or_else(|| say::no_role(&who))?;
        let groups = person.groups.iter().filter(|group| issuer.roles.contains_key(*group)).cloned();
        let expires_at = Timestamp(now.0 + issuer.session_ms_max.min(SESSION_LIFE_MS));
        let session = Session::Vouched(Vouched {
            issuer: issuer.url.clone(),
            subject: person.subject.clone(),
            name: person.name.clone(),
            groups: groups.collect(),
            expires_at,
        });
        let key = records::spent_key(&attempt.spent());
        let mark = records::encode(&Ends { expires_at: attempt.expires_at() });
        let spent = Txn::new().expect(key.clone(), Expected::Absent).put(key, mark);
        let secret = self.keep(&session, now, spent)?.ok_or_else(say::login_stale)?;
        let (caller, subject) = (caller(who, &grant), Some(person.subject.clone()));
        Ok(LoggedIn { secret: Secret(secret), caller, expires_at, subject })
    }

    /// Whose session this is, as the settings are now: nobody's once its issuer is not trusted any more, or none of its groups may
    /// anything.
    pub(crate) fn vouched(&self, session: &Vouched, now: Timestamp) -> Option<Asker> {
        let issuer = self.issuer.as_ref().filter(|issuer| issuer.url == session.issuer)?;
        let grant = issuer.grant_of(&session.groups).filter(|_| now < session.expires_at)?;
        Some(Asker::granted(issuer.who(&session.name), grant))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tranche_core::access::Role;
    use tranche_core::finding::Code;
    use tranche_store::{ManualClock, MemoryStore, Store};

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn issuer() -> Issuer {
        let roles = [("gpu-admins", Role::Admin), ("gpu-operators", Role::Operator), ("staff", Role::Viewer)];
        Issuer {
            url: "https://sso.example".to_owned(),
            name: "SSO".to_owned(),
            roles: roles.map(|(group, role)| (group.to_owned(), Grant { role, limit: None })).into(),
            session_ms_max: 60_000,
        }
    }

    fn person(groups: &[&str]) -> Person {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Person { subject: "s-1".to_owned(), name: "alice".to_owned(), groups }
    }

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(Arc::new(ManualClock::default())))
    }

    fn enter(accounts: &Accounts, person: &Person) -> Result<LoggedIn, Finding> {
        accounts.begin_vouched(person, &Attempt::begin(NOW).unwrap(), NOW)
    }

    #[test]
    fn the_group_that_may_most_decides_and_without_one_nobody_gets_in() {
        let accounts = Accounts::new(store()).trusting(issuer());
        for (groups, role) in [
            (&["staff"][..], Some(Role::Viewer)),
            (&["gpu-operators", "staff", "others"], Some(Role::Operator)),
            (&["staff", "gpu-admins"], Some(Role::Admin)),
            (&["others", "Staff", "admin"], None),
            (&[], None),
        ] {
            let entered = enter(&accounts, &person(groups));
            assert_eq!(entered.as_ref().ok().map(|session| session.caller.role), role, "{groups:?}");
            let code = entered.err().map(|finding| finding.code);
            assert_eq!(code, role.is_none().then_some(Code::NoRole));
        }
    }

    #[test]
    fn a_group_may_be_limited_to_vms_with_a_label_and_several_add_up() {
        let mut issuer = issuer();
        for team in ["red", "blue"] {
            let limit = format!("team={team}").parse().ok();
            issuer.roles.insert(team.to_owned(), Grant { role: Role::Operator, limit });
        }
        let accounts = Accounts::new(store()).trusting(issuer);
        let limit = |groups: &[&str]| {
            let session = enter(&accounts, &person(groups)).unwrap();
            let asker = accounts.session(&session.secret.0, NOW).unwrap().unwrap();
            assert_eq!(asker.view().vm_labels, session.caller.vm_labels);
            asker.limit.map(|limit| limit.to_string())
        };
        assert_eq!(limit(&["red", "staff"]).as_deref(), Some("team=red"));
        assert_eq!(limit(&["red", "blue"]).as_deref(), Some("team=blue,team=red"));
        assert_eq!(limit(&["red", "gpu-operators"]), None);
        assert_eq!(limit(&["red", "gpu-admins"]), None);
    }

    #[test]
    fn nobody_takes_the_name_of_a_user_of_a_token_or_of_somebody_else() {
        let names = [
            ("alice", "alice (via SSO)"),
            ("token ci", "token ci (via SSO)"),
            ("root (via Other)", "root _via Other_ (via SSO)"),
            (" a\n\u{202e}b<i> ", "a__b_i_ (via SSO)"),
        ];
        for (name, shown) in names {
            assert_eq!(issuer().who(name), shown);
        }
        assert!(issuer().who(&"ä".repeat(500)).chars().count() < 100);
    }

    #[test]
    fn a_session_lasts_as_long_as_the_settings_say_and_never_longer_than_any_other() {
        let store = store();
        let accounts = Accounts::new(Arc::clone(&store)).trusting(issuer());
        let session = enter(&accounts, &person(&["staff"])).unwrap();
        assert_eq!(session.expires_at, Timestamp(NOW.0 + 60_000));
        let asker = |at| accounts.session(&session.secret.0, at).unwrap();
        assert_eq!(
            asker(NOW),
            Some(Asker { who: "alice (via SSO)".to_owned(), role: Role::Viewer, limit: None })
        );
        assert_eq!(asker(session.expires_at), None);
        let generous = accounts.trusting(Issuer { session_ms_max: u64::MAX, ..issuer() });
        let session = enter(&generous, &person(&["staff"])).unwrap();
        assert_eq!(session.expires_at, Timestamp(NOW.0 + SESSION_LIFE_MS));
    }

    #[test]
    fn a_session_may_what_the_settings_say_now_and_is_nobodys_when_they_name_another_issuer() {
        let store = store();
        let accounts = Accounts::new(Arc::clone(&store)).trusting(issuer());
        let session = enter(&accounts, &person(&["gpu-admins", "staff"])).unwrap();
        let role = |issuer: Issuer| {
            let accounts = Accounts::new(Arc::clone(&store)).trusting(issuer);
            accounts.session(&session.secret.0, NOW).unwrap().map(|asker| asker.role)
        };
        assert_eq!(role(issuer()), Some(Role::Admin));
        let mut fewer = issuer();
        fewer.roles.remove("gpu-admins");
        assert_eq!(role(fewer), Some(Role::Viewer));
        assert_eq!(role(Issuer { roles: BTreeMap::new(), ..issuer() }), None);
        assert_eq!(role(Issuer { url: "https://sso.example/".to_owned(), ..issuer() }), None);
        assert_eq!(Accounts::new(store).session(&session.secret.0, NOW).unwrap(), None);
    }

    #[test]
    fn an_attempt_succeeds_once_and_is_forgotten_when_it_could_not_any_more() {
        let store = store();
        let accounts = Accounts::new(Arc::clone(&store)).trusting(issuer());
        let attempt = Attempt::begin(NOW).unwrap();
        let begin = |at| accounts.begin_vouched(&person(&["staff"]), &attempt, at);
        begin(NOW).unwrap();
        assert_eq!(begin(NOW).unwrap_err(), say::login_stale());
        let spent = || store.range(&"session/spent/".parse().unwrap()).unwrap().entries.len();
        assert_eq!(spent(), 1);
        let later = attempt.expires_at();
        accounts.begin_vouched(&person(&["staff"]), &Attempt::begin(later).unwrap(), later).unwrap();
        assert_eq!(spent(), 1, "only the new one");
    }

    #[test]
    fn a_session_of_somebody_who_logged_in_through_the_issuer_ends_when_they_log_out() {
        let accounts = Accounts::new(store()).trusting(issuer());
        let session = enter(&accounts, &person(&["staff"])).unwrap();
        accounts.log_out(&session.secret.0).unwrap();
        assert_eq!(accounts.session(&session.secret.0, NOW).unwrap(), None);
    }
}
