//! Whom another machine must prove to be, when it is asked over TLS: certified by an authority that is known, or the owner of one
//! certificate.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::pki;

/// How the authority is known.
#[derive(Debug)]
pub(super) enum Known {
    /// By its fingerprint: a server shows its certificate behind its own one.
    Fingerprint([u8; 32]),
    /// As such.
    Certificate(CertificateDer<'static>),
    /// There is none: a host that stands alone shows a certificate with this fingerprint.
    Itself([u8; 32]),
}

/// Believes whoever is certified by an authority and, where that is known, has the key that is meant: certificates outlive
/// the membership of their hosts.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) authority: Known,
    pub(super) key: Option<String>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let authority = match &self.authority {
            Known::Itself(meant) if pki::fingerprint(end_entity) == *meant => {
                return Ok(ServerCertVerified::assertion());
            }
            Known::Itself(_) => return Err(unknown()),
            Known::Certificate(authority) => authority,
            Known::Fingerprint(meant) => {
                let is_meant = |shown: &&CertificateDer<'_>| pki::fingerprint(shown) == *meant;
                intermediates.iter().find(is_meant).ok_or_else(unknown)?
            }
        };
        if self.key.is_some() && pki::certified_key(end_entity) != self.key {
            let why = rustls::CertificateError::ApplicationVerificationFailure;
            return Err(rustls::Error::InvalidCertificate(why));
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
