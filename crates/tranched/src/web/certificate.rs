//! What the console's port shows: the certificate that the settings name, else the one that the cluster's authority gave this host,
//! else one that the host signs itself.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::Context as _;
use camino::Utf8Path;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tranche_core::name::Timestamp;

use super::Web;
use crate::clock;
use crate::cluster::{door, pki};

/// Where one that the host signs itself is kept, below the state directory.
const DIR: &str = "console";
/// One that ends within this time is made anew, in milliseconds: 60 days.
const RENEW_MS: u64 = 60 * 24 * 60 * 60 * 1_000;

/// A certificate with those behind it, and its key.
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// The key stays out of logs.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// The one to show.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds something else.
    pub(super) fn find(web: &Web) -> anyhow::Result<Self> {
        let named = &web.config;
        if !named.certificate.as_str().is_empty() {
            return Self::read(&named.certificate, &named.key);
        }
        let identity = web.cluster.identity().map_err(|finding| anyhow::anyhow!("{}", finding.message))?;
        if let Some(identity) = identity {
            return Self::parse(&format!("{}{}", identity.server, identity.authority), &identity.key);
        }
        Self::own(web, clock::now())
    }

    fn read(certificate: &Utf8Path, key: &Utf8Path) -> anyhow::Result<Self> {
        let text =
            |path: &Utf8Path| fs::read_to_string(path).with_context(|| format!("{path} cannot be read"));
        Self::parse(&text(certificate)?, &text(key)?)
            .with_context(|| format!("{certificate} and {key} are of no use"))
    }

    fn parse(certificates: &str, key: &str) -> anyhow::Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.as_bytes()).collect();
        let chain = chain.context("there is no certificate in PEM")?;
        anyhow::ensure!(!chain.is_empty(), "there is no certificate in PEM");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("there is no key in PEM")?;
        Ok(Self { chain, key })
    }

    /// One that the host has signed itself, made anew before it ends.
    fn own(web: &Web, now: Timestamp) -> anyhow::Result<Self> {
        let dir = web.state_dir.join(DIR);
        let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
        let kept = fs::read_to_string(&certificate).ok().and_then(|text| pki::facts(&text).ok());
        let is_good = kept.is_some_and(|facts| {
            facts.name == web.host.as_str() && facts.until.0 > now.0.saturating_add(RENEW_MS)
        });
        if is_good && let Ok(own) = Self::read(&certificate, &key) {
            return Ok(own);
        }
        let made = pki::self_signed(&web.host, web.cluster.address(), now)?;
        fs::create_dir_all(&dir).with_context(|| format!("{dir} cannot be made"))?;
        // The key first: a certificate without its key would be taken for good.
        write_secret(&key, &made.key)?;
        write_secret(&certificate, &made.certificate)?;
        Self::parse(&made.certificate, &made.key)
    }

    /// What TLS is done with.
    ///
    /// # Errors
    /// Certificate and key do not belong together.
    pub(super) fn tls(&self) -> anyhow::Result<ServerConfig> {
        Ok(ServerConfig::builder_with_provider(door::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?)
    }

    /// Its SHA-256.
    pub(super) fn digest(&self) -> [u8; 32] {
        pki::fingerprint(self.chain.first().map_or(&[][..], |first| first))
    }

    /// What a browser shows of it, to be compared: its SHA-256.
    pub(super) fn fingerprint(&self) -> String {
        self.digest().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }
}

/// Replaces a file that nobody but its owner reads; after a power cut it is the old one or the new one.
fn write_secret(path: &Utf8Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("{path} cannot be written"))
}
