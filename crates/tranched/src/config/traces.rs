//! Settings of traces for OpenTelemetry.

use camino::Utf8PathBuf;
use serde::Deserialize;

use super::{ConfigError, wrong};

/// Of how many requests one may be traced.
pub const ONE_IN: std::ops::RangeInclusive<u64> = 1..=1_000_000;

/// Where collectors take spans, below the address that they are told by (OTLP/HTTP).
const PATH: &str = "/v1/traces";

/// Settings of traces for OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector's address, as `http://HOST:PORT` or `https://HOST:PORT`; no traces if empty.
    pub endpoint: String,
    /// Whom the collector is certified by, if it is asked over TLS.
    pub authority: Utf8PathBuf,
    /// Of so many requests that do not say so themselves, one is traced; [`ONE_IN`].
    pub one_in: u64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        let authority = "/etc/ssl/certs/ca-certificates.crt".into();
        Self { endpoint: String::new(), authority, one_in: 1 }
    }
}

impl TracesConfig {
    /// Where spans are sent.
    pub(crate) fn address(&self) -> String {
        format!("{}{PATH}", self.endpoint.trim_end_matches('/'))
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !self.endpoint.is_empty() && !is_address(&self.endpoint) {
            let choose = "an address such as http://localhost:4318, or nothing".to_owned();
            // What is before an @ may be a password.
            let shown = self.endpoint.rsplit('@').next().unwrap_or_default();
            return Err(wrong("traces.endpoint", shown, choose));
        }
        if !self.authority.is_absolute() {
            return Err(wrong("traces.authority", &self.authority, "an absolute path".to_owned()));
        }
        if !ONE_IN.contains(&self.one_in) {
            let choose = format!("{} to {}", ONE_IN.start(), ONE_IN.end());
            return Err(wrong("traces.one_in", self.one_in, choose));
        }
        Ok(())
    }
}

/// Whether a text is the address of a collector, and nothing that only a request has, or that nobody may read.
fn is_address(text: &str) -> bool {
    let parsed = text.parse::<hyper::Uri>().ok();
    parsed.is_some_and(|uri| {
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        scheme && uri.host().is_some_and(|host| !host.is_empty()) && !text.contains(['?', '#', '@'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_cannot_be_one_is_refused_and_no_password_is_told() {
        let at = |endpoint: &str| TracesConfig { endpoint: endpoint.to_owned(), ..TracesConfig::default() };
        TracesConfig::default().check().unwrap();
        for (endpoint, address) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("https://[::1]:4318/", "https://[::1]:4318/v1/traces"),
            ("https://otel.example.com/in", "https://otel.example.com/in/v1/traces"),
        ] {
            at(endpoint).check().unwrap();
            assert_eq!(at(endpoint).address(), address);
        }
        for wrong in ["localhost:4318", "grpc://a:4317", "http://a?b", "http:///x", "http://user:geheim@a"] {
            let told = at(wrong).check().unwrap_err().to_string();
            assert!(told.starts_with("the setting traces.endpoint cannot be"), "{told}");
            assert!(!told.contains("geheim"), "{told}");
        }
        let told = TracesConfig { one_in: 0, ..TracesConfig::default() }.check().unwrap_err().to_string();
        assert_eq!(told, "the setting traces.one_in cannot be 0; choose 1 to 1000000");
        let told = TracesConfig { authority: "ca".into(), ..TracesConfig::default() }.check().unwrap_err();
        assert!(told.to_string().contains("traces.authority"), "{told}");
    }
}
