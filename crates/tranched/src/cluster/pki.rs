//! The cluster's own authority, and the certificates of its hosts.
//!
//! A host makes its key itself and never shows it; a host that has the authority's key signs. A host has three
//! certificates over one key: one to serve with, one to ask with, and, where it keeps the store, one to speak to the other
//! members of the store with. Their names are fixed by who signs, not by who asks.
//!
//! The serial number of a certificate is the beginning of its key's fingerprint: one entry in a list of revocations ends
//! whatever was ever signed for a key, and nobody has to remember what that was (decision 0031).
//!
//! Deliberately absent: files ([`super::book`]), who is revoked ([`super::revoked`]), and the time (a parameter).

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use ring::digest;
use serde::{Deserialize, Serialize};
use tranche_core::name::{HostName, Timestamp};
use x509_parser::pem::Pem;

/// How long the authority lives, in milliseconds: ten years.
pub const AUTHORITY_LIFE_MS: u64 = 3_652 * DAY_MS;
/// How long a host's certificates live, in milliseconds: a year.
pub const HOST_LIFE_MS: u64 = 365 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Certificates begin so much earlier than they are made, in milliseconds: hosts' clocks differ.
const CLOCK_SLACK_MS: u64 = 60 * 60 * 1_000;
/// How long a serial number is, in bytes: what RFC 5280 allows.
const SERIAL_LEN: usize = 20;
/// What every member of the store is named in its certificate for the others: they take no other name.
pub const PEER_NAME: &str = "tranche-store";

/// Why there is no certificate, or none that can be read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// It could not be made.
    #[error("a certificate cannot be made")]
    Make(#[source] rcgen::Error),
    /// It cannot be read.
    #[error("{what} is no certificate in PEM")]
    Read {
        /// What was read.
        what: &'static str,
    },
}

/// The authority, where its key is.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: String,
}

/// The key stays out of logs.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A host's certificates, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// To serve with.
    pub server: String,
    /// To ask with; its name is the host's.
    pub client: String,
    /// To speak to other members of the store with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// Whom to certify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The host.
    pub host: &'a HostName,
    /// The address or the name by which others reach it.
    pub address: &'a str,
    /// Whether it keeps the store.
    pub keeps_store: bool,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is.
    pub name: String,
    /// From when it holds.
    pub from: Timestamp,
    /// Until when it holds.
    pub until: Timestamp,
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(cluster: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Tranche cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        hold(&mut params, now, AUTHORITY_LIFE_MS);
        let certificate = params.self_signed(&key).map_err(PkiError::Make)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a host's request.
    ///
    /// # Errors
    /// The request is none, or was not made with its own key.
    pub fn sign(
        &self,
        request: &str,
        subject: &Subject<'_>,
        now: Timestamp,
    ) -> Result<Certificates, PkiError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

        let asked = CertificateSigningRequestParams::from_pem(request).map_err(PkiError::Make)?;
        let issuer = self.issuer()?;
        let until = facts(&self.certificate)?.until;
        let serial = serial(&key_fingerprint(request)?);
        let sign = |name: &str, usages: &[ExtendedKeyUsagePurpose]| {
            let mut params = CertificateParams::default();
            params.serial_number = Some(SerialNumber::from_slice(&serial));
            params.distinguished_name = named(name);
            params.subject_alt_names = alternatives(subject)?;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = usages.to_vec();
            hold(&mut params, now, HOST_LIFE_MS.min(until.0.saturating_sub(now.0)));
            params.use_authority_key_identifier_extension = true;
            let signed = params.signed_by(&asked.public_key, &issuer).map_err(PkiError::Make)?;
            Ok::<_, PkiError>(signed.pem())
        };
        let host = subject.host.as_str();
        Ok(Certificates {
            server: sign(host, &[ServerAuth])?,
            client: sign(host, &[ClientAuth])?,
            peer: subject.keeps_store.then(|| sign(PEER_NAME, &[ServerAuth, ClientAuth])).transpose()?,
        })
    }

    /// The list that revokes whatever was signed for keys with these fingerprints, in PEM.
    ///
    /// # Errors
    /// This is no authority.
    pub fn revoke<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let at = |ms| date_time_ymd(1970, 1, 1) + Duration::from_millis(ms);
        let revoked = |key: &str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial(key)),
            revocation_time: at(now.0),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(now.0.saturating_sub(CLOCK_SLACK_MS)),
            // A newer one takes its place whenever there is something new; none ends by itself.
            next_update: at(facts(&self.certificate)?.until.0.max(now.0 + DAY_MS)),
            crl_number: SerialNumber::from(now.0),
            issuing_distribution_point: None,
            revoked_certs: keys.into_iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()?).and_then(|list| list.pem()).map_err(PkiError::Make)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pem(&self.key).map_err(PkiError::Make)?;
        Issuer::from_ca_cert_pem(&self.certificate, key).map_err(PkiError::Make)
    }
}

/// A certificate that a host has signed itself, in PEM, for people who reach it by one of its names.
pub struct SelfSigned {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The key stays out of logs.
impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned").finish_non_exhaustive()
    }
}

/// Makes one that is good for a year.
///
/// # Errors
/// The system has no randomness, or the address is none.
pub fn self_signed(host: &HostName, address: &str, now: Timestamp) -> Result<SelfSigned, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(host.as_str());
    params.subject_alt_names = alternatives(&Subject { host, address, keeps_store: false })?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    hold(&mut params, now, HOST_LIFE_MS);
    let signed = params.self_signed(&key).map_err(PkiError::Make)?;
    Ok(SelfSigned { certificate: signed.pem(), key: key.serialize_pem() })
}

/// A new key of a host, in PEM.
///
/// # Errors
/// The system has no randomness.
pub fn new_key() -> Result<String, PkiError> {
    Ok(KeyPair::generate().map_err(PkiError::Make)?.serialize_pem())
}

/// A request to be certified, which proves that its sender has the key.
///
/// # Errors
/// The key is none.
pub fn request(key: &str, host: &HostName) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key).map_err(PkiError::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(host.as_str());
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(PkiError::Make)
}

/// The fingerprint of the key in a request, by which the same host is known again.
///
/// # Errors
/// The request is none.
pub fn key_fingerprint(request: &str) -> Result<String, PkiError> {
    use rcgen::PublicKeyData as _;

    let asked = CertificateSigningRequestParams::from_pem(request).map_err(PkiError::Make)?;
    Ok(hex(digest::digest(&digest::SHA256, asked.public_key.der_bytes()).as_ref()))
}

/// The fingerprint of the key in a certificate in DER: the same as in the request that it was signed for.
pub fn certified_key(der: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let key = &parsed.public_key().subject_public_key.data;
    Some(hex(digest::digest(&digest::SHA256, key).as_ref()))
}

/// The serial number of what is signed for the key with this fingerprint.
fn serial(fingerprint: &str) -> Vec<u8> {
    let digits = fingerprint.as_bytes().chunks(2).take(SERIAL_LEN);
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let mut serial: Vec<u8> = digits.map(|pair| byte(pair).unwrap_or_default()).collect();
    if let Some(first) = serial.first_mut() {
        // A serial number is positive.
        *first &= 0x7f;
    }
    serial
}

/// Whether a text is a list of revocations in PEM.
pub fn is_revocations(text: &str) -> bool {
    der(text).is_ok_and(|der| x509_parser::parse_x509_crl(&der).is_ok())
}

/// What a certificate says.
///
/// # Errors
/// It is none.
pub fn facts(certificate: &str) -> Result<Facts, PkiError> {
    let unreadable = || PkiError::Read { what: "the text" };
    facts_of(&der(certificate)?).ok_or_else(unreadable)
}

/// What a certificate in DER says.
pub fn facts_of(der: &[u8]) -> Option<Facts> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let ms = |time: x509_parser::time::ASN1Time| {
        Timestamp(u64::try_from(time.timestamp()).unwrap_or_default() * 1_000)
    };
    Some(Facts { name, from: ms(parsed.validity().not_before), until: ms(parsed.validity().not_after) })
}

/// The SHA-256 of a certificate in DER: what a join token knows the authority by.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    fingerprint
}

/// A certificate or a key in PEM as DER.
///
/// # Errors
/// It is neither.
pub fn der(pem: &str) -> Result<Vec<u8>, PkiError> {
    let parsed = Pem::iter_from_buffer(pem.as_bytes()).next();
    parsed.and_then(Result::ok).map(|pem| pem.contents).ok_or(PkiError::Read { what: "the text" })
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn hold(params: &mut CertificateParams, now: Timestamp, life_ms: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now.0.saturating_sub(CLOCK_SLACK_MS));
    params.not_after = epoch + Duration::from_millis(now.0 + life_ms);
}

/// The host's name, its address, and this machine as it calls itself.
fn alternatives(subject: &Subject<'_>) -> Result<Vec<SanType>, PkiError> {
    let mut names = vec![subject.host.as_str(), "localhost"];
    let mut addresses: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    match subject.address.parse() {
        Ok(address) => addresses.push(address),
        Err(_) => names.push(subject.address),
    }
    names.dedup();
    addresses.dedup();
    let name = |name: &str| Ok(SanType::DnsName(name.try_into().map_err(PkiError::Make)?));
    let names = names.into_iter().map(name);
    names.chain(addresses.into_iter().map(|address| Ok(SanType::IpAddress(address)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn host() -> HostName {
        "node1".parse().unwrap()
    }

    fn signed(keeps_store: bool) -> (Authority, Certificates) {
        let authority = Authority::new("lab", NOW).unwrap();
        let request = request(&new_key().unwrap(), &host()).unwrap();
        let subject = Subject { host: &host(), address: "10.0.0.1", keeps_store };
        let certificates = authority.sign(&request, &subject, NOW).unwrap();
        (authority, certificates)
    }

    #[test]
    fn an_authority_lives_ten_years_and_a_hosts_certificate_one() {
        let (authority, certificates) = signed(true);
        let authority = facts(&authority.certificate).unwrap();
        assert_eq!(authority.name, "Tranche cluster lab");
        assert_eq!(authority.until.0 - NOW.0, AUTHORITY_LIFE_MS);
        let client = facts(&certificates.client).unwrap();
        assert_eq!(client.name, "node1");
        assert_eq!((client.from, client.until.0), (Timestamp(NOW.0 - CLOCK_SLACK_MS), NOW.0 + HOST_LIFE_MS));
        assert_eq!(facts(&certificates.peer.unwrap()).unwrap().name, PEER_NAME);
    }

    #[test]
    fn only_a_host_that_keeps_the_store_gets_a_certificate_for_it() {
        assert_eq!(signed(false).1.peer, None);
    }

    #[test]
    fn who_signs_names_the_host_whatever_the_request_says() {
        let authority = Authority::new("lab", NOW).unwrap();
        let other: HostName = "other".parse().unwrap();
        let request = request(&new_key().unwrap(), &other).unwrap();
        let subject = Subject { host: &host(), address: "node1.lan", keeps_store: false };
        let certificates = authority.sign(&request, &subject, NOW).unwrap();
        assert_eq!(facts(&certificates.client).unwrap().name, "node1");
    }

    #[test]
    fn a_certificate_never_outlives_its_authority() {
        let authority = Authority::new("lab", NOW).unwrap();
        let request = request(&new_key().unwrap(), &host()).unwrap();
        let late = Timestamp(NOW.0 + AUTHORITY_LIFE_MS - DAY_MS);
        let subject = Subject { host: &host(), address: "10.0.0.1", keeps_store: false };
        let certificates = authority.sign(&request, &subject, late).unwrap();
        assert_eq!(facts(&certificates.server).unwrap().until.0, late.0 + DAY_MS);
    }

    #[test]
    fn one_entry_revokes_every_certificate_of_a_key_and_none_of_another() {
        let authority = Authority::new("lab", NOW).unwrap();
        let subject = Subject { host: &host(), address: "10.0.0.1", keeps_store: true };
        let serials = |request: &str, now| {
            let signed = authority.sign(request, &subject, now).unwrap();
            let all = [signed.server, signed.client, signed.peer.unwrap()].map(|text| der(&text).unwrap());
            let each =
                all.iter().map(|der| x509_parser::parse_x509_certificate(der).unwrap().1.serial.clone());
            let keys = all.iter().map(|der| certified_key(der).unwrap());
            assert!(keys.into_iter().all(|key| key == key_fingerprint(request).unwrap()));
            each.collect::<std::collections::BTreeSet<_>>()
        };
        let [gone, stays] = [(); 2].map(|()| request(&new_key().unwrap(), &host()).unwrap());
        let renewed = Timestamp(NOW.0 + HOST_LIFE_MS / 2);
        let of_gone: Vec<_> = [NOW, renewed].iter().flat_map(|now| serials(&gone, *now)).collect();
        let key = key_fingerprint(&gone).unwrap();
        let list = der(&authority.revoke([key.as_str()], NOW).unwrap()).unwrap();
        let (_, list) = x509_parser::parse_x509_crl(&list).unwrap();
        let revoked: Vec<_> =
            list.iter_revoked_certificates().map(|entry| entry.user_certificate.clone()).collect();
        assert_eq!(revoked.len(), 1);
        assert!(of_gone.iter().all(|serial| *serial == revoked[0]), "{of_gone:?} {revoked:?}");
        assert!(!serials(&stays, NOW).contains(&revoked[0]));
    }

    #[test]
    fn a_list_that_revokes_nobody_is_one_too() {
        let authority = Authority::new("lab", NOW).unwrap();
        assert!(is_revocations(&authority.revoke([], NOW).unwrap()));
        assert!(!is_revocations(&authority.certificate) && !is_revocations(""));
    }

    #[test]
    fn a_key_is_known_again_by_its_request_and_what_is_no_request_is_refused() {
        let key = new_key().unwrap();
        let fingerprints =
            [request(&key, &host()), request(&key, &host()), request(&new_key().unwrap(), &host())]
                .map(|request| key_fingerprint(&request.unwrap()).unwrap());
        assert_eq!(fingerprints[0], fingerprints[1]);
        assert_ne!(fingerprints[0], fingerprints[2]);
        assert!(key_fingerprint("-----BEGIN nonsense").is_err() && facts("nonsense").is_err());
    }
}
