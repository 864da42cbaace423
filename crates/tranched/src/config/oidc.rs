//! Settings of logging in through an issuer (OpenID Connect).

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde::Deserialize;
use tranche_core::access::Grant;

use super::{ConfigError, wrong};

/// The path of the console to which an issuer sends browsers back.
pub const CALLBACK_PATH: &str = "/login/callback";

/// How many hours a session of somebody who came through an issuer may last.
pub const SESSION_HOURS: std::ops::RangeInclusive<u64> = 1..=12;

/// The longest name of an issuer, in characters.
const NAME_LEN_MAX: usize = 40;

/// Settings of logging in through an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcConfig {
    /// Its address, as it tells it itself; no issuer if empty.
    pub issuer: String,
    /// What people call it; the host of its address if empty.
    pub name: String,
    /// What this installation is called there.
    pub client_id: String,
    /// The file with the secret that goes with that; none is shown if empty.
    pub client_secret_file: Utf8PathBuf,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The claim that tells what somebody is called.
    pub name_claim: String,
    /// The claim that tells somebody's groups.
    pub groups_claim: String,
    /// How long a session lasts at most; [`SESSION_HOURS`].
    pub session_hours: u64,
    /// Whom the issuer is certified by.
    pub authority: Utf8PathBuf,
    /// Where the issuer sends browsers back to; where they came from if empty.
    pub redirect_url: String,
    /// What each group may.
    pub roles: BTreeMap<String, Grant>,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            name: String::new(),
            client_id: String::new(),
            client_secret_file: Utf8PathBuf::new(),
            scopes: ["openid", "profile", "email"].map(str::to_owned).into(),
            name_claim: "preferred_username".to_owned(),
            groups_claim: "groups".to_owned(),
            session_hours: 8,
            authority: "/etc/ssl/certs/ca-certificates.crt".into(),
            redirect_url: String::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl OidcConfig {
    /// What people call the issuer.
    pub fn display_name(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let url = self.issuer.parse::<hyper::Uri>().ok();
        url.and_then(|url| url.host().map(str::to_owned)).unwrap_or_else(|| self.issuer.clone())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !SESSION_HOURS.contains(&self.session_hours) {
            let choose = format!("{} to {} hours", SESSION_HOURS.start(), SESSION_HOURS.end());
            return Err(wrong("oidc.session_hours", self.session_hours, choose));
        }
        for (setting, path) in
            [("oidc.authority", &self.authority), ("oidc.client_secret_file", &self.client_secret_file)]
        {
            let may_be_empty = setting == "oidc.client_secret_file" && path.as_str().is_empty();
            if !path.is_absolute() && !may_be_empty {
                return Err(wrong(setting, path, "an absolute path".to_owned()));
            }
        }
        let is_long = self.name.chars().count() > NAME_LEN_MAX;
        if is_long || self.name.chars().any(|c| c.is_control() || matches!(c, '(' | ')')) {
            let choose = format!("up to {NAME_LEN_MAX} characters without parentheses");
            return Err(wrong("oidc.name", &self.name, choose));
        }
        if self.issuer.is_empty() { Ok(()) } else { self.check_issuer() }
    }

    /// What has to be set where there is an issuer.
    fn check_issuer(&self) -> Result<(), ConfigError> {
        if !is_https(&self.issuer) || self.issuer.contains(['?', '#']) {
            let choose = "an address such as https://sso.example.com/realms/staff".to_owned();
            return Err(wrong("oidc.issuer", &self.issuer, choose));
        }
        let is_callback = is_https(&self.redirect_url) && self.redirect_url.ends_with(CALLBACK_PATH);
        if !self.redirect_url.is_empty() && !is_callback {
            let choose = format!("an address such as https://gpus.example.com:7440{CALLBACK_PATH}");
            return Err(wrong("oidc.redirect_url", &self.redirect_url, choose));
        }
        for (setting, text) in [
            ("oidc.client_id", &self.client_id),
            ("oidc.name_claim", &self.name_claim),
            ("oidc.groups_claim", &self.groups_claim),
        ] {
            if text.is_empty() {
                return Err(wrong(setting, "empty", "what the issuer calls it".to_owned()));
            }
        }
        if !self.scopes.iter().any(|scope| scope == "openid") {
            return Err(wrong("oidc.scopes", self.scopes.join(" "), "\"openid\" and others".to_owned()));
        }
        if self.roles.is_empty() {
            let choose = "at least one group, such as \"gpu-admins\" = \"admin\"".to_owned();
            return Err(wrong("oidc.roles", "empty", choose));
        }
        Ok(())
    }
}

/// Whether a text is the address of something that proves who it is.
fn is_https(url: &str) -> bool {
    let parsed = url.parse::<hyper::Uri>().ok();
    parsed.is_some_and(|url| {
        url.scheme_str() == Some("https") && url.host().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use tranche_core::access::Role;

    use super::*;

    fn good() -> OidcConfig {
        OidcConfig {
            issuer: "https://sso.example.com/realms/staff".to_owned(),
            client_id: "tranche".to_owned(),
            roles: [("gpu-admins".to_owned(), Grant { role: Role::Admin, limit: None })].into(),
            ..OidcConfig::default()
        }
    }

    #[test]
    fn a_group_is_given_a_role_or_one_that_is_limited_to_vms_with_a_label() {
        let read = |roles: &str| toml::from_str::<OidcConfig>(&format!("[roles]\n{roles}"));
        let config =
            read("staff = \"viewer\"\nred = { role = \"operator\", vm_labels = [\"team=red\"] }").unwrap();
        let limit = |group: &str| config.roles[group].limit.as_ref().map(ToString::to_string);
        assert_eq!((limit("staff"), limit("red").as_deref()), (None, Some("team=red")));
        for wrong in
            ["{ role = \"admin\", vm_labels = [\"team=red\"] }", "{ role = \"viewer\", vm_labels = [] }"]
        {
            assert!(read(&format!("red = {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_issuer_that_proves_nothing_or_lets_nobody_in_is_refused() {
        good().check().unwrap();
        OidcConfig::default().check().unwrap();
        type Spoil = fn(&mut OidcConfig);
        let wrong: [(&str, Spoil); 12] = [
            ("oidc.issuer", |config| config.issuer = "http://sso.example.com".to_owned()),
            ("oidc.issuer", |config| config.issuer = "sso.example.com".to_owned()),
            ("oidc.issuer", |config| config.issuer = "https://sso.example.com/?a=b".to_owned()),
            ("oidc.client_id", |config| config.client_id.clear()),
            ("oidc.roles", |config| config.roles.clear()),
            ("oidc.scopes", |config| config.scopes = vec!["profile".to_owned()]),
            ("oidc.session_hours", |config| config.session_hours = 13),
            ("oidc.authority", |config| config.authority = "ca.crt".into()),
            ("oidc.client_secret_file", |config| config.client_secret_file = "secret".into()),
            ("oidc.name", |config| config.name = "SSO (via x)".to_owned()),
            ("oidc.redirect_url", |config| config.redirect_url = "http://a/login/callback".to_owned()),
            ("oidc.redirect_url", |config| config.redirect_url = "https://a/".to_owned()),
        ];
        for (setting, spoil) in wrong {
            let mut config = good();
            spoil(&mut config);
            let told = config.check().unwrap_err().to_string();
            assert!(told.contains(&format!("the setting {setting} cannot be")), "{setting}: {told}");
        }
    }

    #[test]
    fn an_issuer_without_a_name_is_called_by_its_host() {
        assert_eq!(good().display_name(), "sso.example.com");
        assert_eq!(OidcConfig { name: "SSO".to_owned(), ..good() }.display_name(), "SSO");
    }
}
