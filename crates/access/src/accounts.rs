//! Users, tokens, sessions and one-time links.

use std::collections::BTreeSet;
use std::sync::Arc;

use tranche_api::access::{
    CallerView, LinkMade, LogIn, LoggedIn, NewToken, Secret, SetUser, TOKEN_DAYS_MAX, TokenMade, TokenView,
    UserView,
};
use tranche_core::access::{Grant, Limit, Role};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::label::Label;
use tranche_core::name::{Timestamp, UserName};
use tranche_store::{Expected, Key, Outcome, Store, Txn};

use crate::issuer::Issuer;
use crate::records::{self, Ends, Login, Password, Session, Token, User};
use crate::{password, secret};

/// How long a session lasts, in milliseconds: a working day. It ends then, whatever is done in it.
pub const SESSION_LIFE_MS: u64 = 12 * 60 * 60 * 1_000;
/// How long a one-time link is good for, in milliseconds.
pub const LINK_LIFE_MS: u64 = 15 * 60 * 1_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// What a token begins with, so that people and scanners of secrets recognise one.
const TOKEN_PREFIX: &str = "tranche_";

/// Who asks, once that is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// A user's name, `NAME (via ISSUER)`, `token NAME`, or `uid N` for somebody on the host's own socket.
    pub who: String,
    /// What they may do.
    pub role: Role,
    /// The VMs that they are limited to; to none if left out.
    pub limit: Option<Limit>,
}

impl Asker {
    /// Somebody who is granted this.
    pub(crate) fn granted(who: String, Grant { role, limit }: Grant) -> Self {
        Self { who, role, limit }
    }

    /// As it is told to whoever asks.
    pub fn view(&self) -> CallerView {
        caller(self.who.clone(), &Grant { role: self.role, limit: self.limit.clone() })
    }
}

/// The users, tokens and sessions of an installation. Every call waits for the store.
#[derive(Debug, Clone)]
pub struct Accounts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) issuer: Option<Arc<Issuer>>,
}

impl Accounts {
    /// Those in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, issuer: None }
    }

    /// The same, where an issuer vouches for people as well.
    #[must_use]
    pub fn trusting(self, issuer: Issuer) -> Self {
        Self { issuer: Some(Arc::new(issuer)), ..self }
    }

    /// Every user, by name.
    ///
    /// # Errors
    /// The store, or a record of it, cannot be read.
    pub fn users(&self) -> Result<Vec<UserView>, Finding> {
        let entries = self.store.range(&records::users()).map_err(|error| error.finding())?.entries;
        let view = |entry| {
            let user: User = records::decode(entry)?;
            Ok(name_of(&entry.key).map(|name| user_view(name, &user)))
        };
        entries.iter().filter_map(|entry| view(entry).transpose()).collect()
    }

    /// Makes a user known, or changes one.
    ///
    /// # Errors
    /// The password is no good, somebody else changed the user at the same time, or the store fails.
    pub fn set_user(&self, name: &UserName, wish: &SetUser, now: Timestamp) -> Result<UserView, Finding> {
        let key = records::user_key(name);
        let before = records::read::<User>(&*self.store, &key)?;
        let expected = before.as_ref().map_or(Expected::Absent, |(_, revision)| Expected::At(*revision));
        let known = before.map(|(user, _)| user);
        let mut user = match known {
            Some(user) => user,
            None => {
                let grant = Grant { role: Role::Viewer, limit: None };
                User { grant, created_at: now, stamp: secret::new()?, password: None }
            }
        };
        let labels = wish.vm_labels.clone().unwrap_or_else(|| labels_of(&user.grant));
        user.grant = Grant::new(wish.role.unwrap_or(user.grant.role), labels)?;
        if let Some(Secret(password)) = &wish.password {
            password::check(name, password)?;
            user.password = Some(Password { hash: password::hash(password)?, set_at: now });
            user.stamp = secret::new()?;
        }
        let txn = Txn::new().expect(key.clone(), expected).put(key, records::encode(&user));
        self.commit(&txn)?;
        Ok(user_view(name.clone(), &user))
    }

    /// Forgets a user. Their sessions are over.
    ///
    /// # Errors
    /// There is none of this name, or the store fails.
    pub fn delete_user(&self, name: &UserName) -> Result<(), Finding> {
        self.delete(&records::user_key(name), || say::user_not_found(name))
    }

    /// Makes a link that logs a user in, once.
    ///
    /// # Errors
    /// There is no such user, or the store fails.
    pub fn make_link(&self, name: &UserName, now: Timestamp) -> Result<LinkMade, Finding> {
        let user = records::read::<User>(&*self.store, &records::user_key(name))?;
        let (user, _) = user.ok_or_else(|| say::user_not_found(name))?;
        let secret = secret::new()?;
        let expires_at = Timestamp(now.0 + LINK_LIFE_MS);
        let link = Login { user: name.clone(), stamp: user.stamp, expires_at };
        let key = records::link_key(&secret::hash(&secret));
        self.commit(&Txn::new().expect(key.clone(), Expected::Absent).put(key, records::encode(&link)))?;
        let path = format!("/login?link={secret}");
        Ok(LinkMade { secret: Secret(secret), path, url: None, expires_at })
    }

    /// Begins a session. How often somebody may try is the caller's to bound ([`crate::Throttle`]), and whom an issuer vouches for is
    /// the caller's to prove ([`Accounts::begin_vouched`]).
    ///
    /// # Errors
    /// Name and password, or the link, open nothing; or the store fails.
    pub fn log_in(&self, log_in: &LogIn, now: Timestamp) -> Result<LoggedIn, Finding> {
        match log_in {
            LogIn::Password { user, password } => {
                // A text that is no name is no user's, and is answered like any other that is not known.
                let name = user.parse::<UserName>().ok();
                let key = name.as_ref().map(records::user_key);
                let known = key.map(|key| records::read::<User>(&*self.store, &key)).transpose()?.flatten();
                let known = known.map(|(user, _)| user);
                let hash = known.as_ref().and_then(|user| user.password.as_ref());
                let is_right = password::is_right(&password.0, hash.map(|password| password.hash.as_str()));
                match (name, known) {
                    (Some(name), Some(user)) if is_right => self.begin(name, &user, now, Txn::new()),
                    _ => Err(say::login_failed()),
                }
            }
            LogIn::Link { link } => {
                let key = records::link_key(&secret::hash(&link.0));
                let found = records::read::<Login>(&*self.store, &key)?;
                let (found, revision) = found.ok_or_else(say::link_failed)?;
                let user = records::read::<User>(&*self.store, &records::user_key(&found.user))?;
                let user = user.map(|(user, _)| user).filter(|user| user.stamp == found.stamp);
                let user = user.filter(|_| now < found.expires_at).ok_or_else(say::link_failed)?;
                // Of two that use it at once, one gets in.
                let spent = Txn::new().expect(key.clone(), Expected::At(revision)).delete(key);
                self.begin(found.user, &user, now, spent)
            }
            LogIn::Issuer { .. } => Err(say::issuer_missing()),
        }
    }

    /// Whose session this is; nobody's if it has ended or never was.
    ///
    /// # Errors
    /// The store, or a record of it, cannot be read.
    pub fn session(&self, session: &str, now: Timestamp) -> Result<Option<Asker>, Finding> {
        let key = records::session_key(&secret::hash(session));
        let Some((session, _)) = records::read::<Session>(&*self.store, &key)? else { return Ok(None) };
        let session = match session {
            Session::User(session) => session,
            Session::Vouched(session) => return Ok(self.vouched(&session, now)),
        };
        if now >= session.expires_at {
            return Ok(None);
        }
        let user = records::read::<User>(&*self.store, &records::user_key(&session.user))?;
        let user = user.map(|(user, _)| user).filter(|user| user.stamp == session.stamp);
        Ok(user.map(|user| Asker::granted(session.user.to_string(), user.grant)))
    }

    /// Ends a session. One that has ended stays so.
    ///
    /// # Errors
    /// The store fails.
    pub fn log_out(&self, session: &str) -> Result<(), Finding> {
        self.commit(&Txn::new().delete(records::session_key(&secret::hash(session))))
    }

    /// Every token, by name; those that have ended too.
    ///
    /// # Errors
    /// The store, or a record of it, cannot be read.
    pub fn tokens(&self) -> Result<Vec<TokenView>, Finding> {
        let entries = self.store.range(&records::tokens()).map_err(|error| error.finding())?.entries;
        let view = |entry| {
            let token: Token = records::decode(entry)?;
            Ok(name_of(&entry.key).map(|name| token_view(name, &token)))
        };
        entries.iter().filter_map(|entry| view(entry).transpose()).collect()
    }

    /// Makes a token. Its secret is told only here.
    ///
    /// # Errors
    /// The name is none or taken, it would last too long, or the store fails.
    pub fn make_token(&self, wish: &NewToken, now: Timestamp) -> Result<TokenMade, Finding> {
        let name: UserName = wish.name.parse().map_err(|error| say::invalid_name(&error))?;
        if !(1..=TOKEN_DAYS_MAX).contains(&wish.days) {
            let range = format!("1 to {TOKEN_DAYS_MAX} days");
            return Err(say::invalid_value("days", &wish.days.to_string(), &range));
        }
        let secret = secret::new()?;
        let expires_at = Timestamp(now.0 + u64::from(wish.days) * DAY_MS);
        let grant = Grant::new(wish.role, wish.vm_labels.clone())?;
        let token = Token { grant, created_at: now, expires_at, hash: secret::hash(&secret) };
        let key = records::token_key(&name);
        let txn = Txn::new().expect(key.clone(), Expected::Absent).put(key, records::encode(&token));
        match self.store.commit(&txn).map_err(|error| error.finding())? {
            Outcome::Committed(_) => {}
            Outcome::Conflict(_) => return Err(say::token_exists(&name)),
        }
        let text = format!("{TOKEN_PREFIX}{name}.{secret}");
        Ok(TokenMade { secret: Secret(text), token: token_view(name, &token) })
    }

    /// Ends a token for good.
    ///
    /// # Errors
    /// There is none of this name, or the store fails.
    pub fn delete_token(&self, name: &UserName) -> Result<(), Finding> {
        self.delete(&records::token_key(name), || say::token_not_found(name))
    }

    /// Whose token this is; nobody's if it has ended or never was.
    ///
    /// # Errors
    /// The store, or a record of it, cannot be read.
    pub fn token(&self, text: &str, now: Timestamp) -> Result<Option<Asker>, Finding> {
        let parts = text.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.rsplit_once('.'));
        let Some((Ok(name), shown)) = parts.map(|(name, shown)| (name.parse::<UserName>(), shown)) else {
            return Ok(None);
        };
        let token = records::read::<Token>(&*self.store, &records::token_key(&name))?;
        let token = token.map(|(token, _)| token).filter(|token| now < token.expires_at);
        let token = token.filter(|token| secret::is_same(&token.hash, &secret::hash(shown)));
        Ok(token.map(|token| Asker::granted(format!("token {name}"), token.grant)))
    }

    /// Begins a session of a user, for which `spent` pays.
    fn begin(&self, name: UserName, user: &User, now: Timestamp, spent: Txn) -> Result<LoggedIn, Finding> {
        let expires_at = Timestamp(now.0 + SESSION_LIFE_MS);
        let session = Login { user: name.clone(), stamp: user.stamp.clone(), expires_at };
        let secret = self.keep(&Session::User(session), now, spent)?.ok_or_else(say::link_failed)?;
        let caller = caller(name.to_string(), &user.grant);
        Ok(LoggedIn { secret: Secret(secret), caller, expires_at, subject: None })
    }

    /// Keeps a session in the same transaction in which `spent` pays for it; none if that cannot be paid any more.
    pub(crate) fn keep(
        &self,
        session: &Session,
        now: Timestamp,
        spent: Txn,
    ) -> Result<Option<String>, Finding> {
        self.forget_sessions(now)?;
        let secret = secret::new()?;
        let txn = spent.put(records::session_key(&secret::hash(&secret)), records::encode(session));
        let outcome = self.store.commit(&txn).map_err(|error| error.finding())?;
        Ok(matches!(outcome, Outcome::Committed(_)).then_some(secret))
    }

    fn forget_sessions(&self, now: Timestamp) -> Result<(), Finding> {
        let entries = self.store.range(&records::sessions()).map_err(|error| error.finding())?.entries;
        let is_over = |value: &[u8]| {
            serde_json::from_slice::<Ends>(value).is_ok_and(|session| now >= session.expires_at)
        };
        let over: Vec<Key> =
            entries.into_iter().filter(|entry| is_over(&entry.value)).map(|entry| entry.key).collect();
        for keys in over.chunks(tranche_store::OPS_MAX) {
            self.commit(&keys.iter().cloned().fold(Txn::new(), Txn::delete))?;
        }
        Ok(())
    }

    fn delete(&self, key: &Key, not_found: impl FnOnce() -> Finding) -> Result<(), Finding> {
        match self.store.get(key).map_err(|error| error.finding())? {
            Some(_) => self.commit(&Txn::new().delete(key.clone())),
            None => Err(not_found()),
        }
    }

    fn commit(&self, txn: &Txn) -> Result<(), Finding> {
        match self.store.commit(txn).map_err(|error| error.finding())? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(_) => Err(say::changed_meanwhile()),
        }
    }
}

fn name_of(key: &Key) -> Option<UserName> {
    key.segments().next_back()?.parse().ok()
}

/// Who asks, as they are told.
pub(crate) fn caller(name: String, grant: &Grant) -> CallerView {
    CallerView { name, role: grant.role, vm_labels: labels_of(grant) }
}

fn labels_of(grant: &Grant) -> BTreeSet<Label> {
    grant.limit.as_ref().map(|limit| limit.labels().clone()).unwrap_or_default()
}

fn user_view(name: UserName, user: &User) -> UserView {
    let password_at = user.password.as_ref().map(|password| password.set_at);
    let (role, vm_labels) = (user.grant.role, labels_of(&user.grant));
    UserView { name, role, vm_labels, created_at: user.created_at, password_at }
}

fn token_view(name: UserName, token: &Token) -> TokenView {
    let Token { grant, created_at, expires_at, .. } = token;
    let vm_labels = labels_of(grant);
    TokenView { name, role: grant.role, vm_labels, created_at: *created_at, expires_at: *expires_at }
}

#[cfg(test)]
mod tests;
