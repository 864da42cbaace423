//! HTTPS to the issuer: one connection a request, no redirects, limits on time and size.
//!
//! An issuer proves who it is by a certificate of an authority that the settings name. What it tells about itself may name other
//! addresses, which have to prove the same: nothing is asked without TLS.

use std::fs;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Response, Uri};
use hyper_util::rt::TokioIo;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cluster::door;

/// The longest answer that is read, in bytes: keys and tokens are some kilobytes.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// The largest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 64 * 1024;
const HTTPS_PORT: u16 = 443;

/// Asks whoever is certified by the authorities that it trusts.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    tls: Arc<ClientConfig>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The authorities cannot be read.
    #[error("{path} with the certificates that are trusted cannot be used")]
    Authority {
        /// The file.
        path: Utf8PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The issuer names an address of something that proves nothing.
    #[error("{0} is no https address")]
    Insecure(String),
    /// Nobody is there, or who is there cannot prove who they are.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// Where.
        host: String,
        /// What was in the way.
        #[source]
        source: io::Error,
    },
    /// It speaks no HTTP, or too much.
    #[error("{0} does not answer as it should")]
    Nonsense(String),
    /// It has trouble of its own.
    #[error("{host} says {status}")]
    Trouble {
        /// Where.
        host: String,
        /// The status.
        status: u16,
    },
}

impl Fetcher {
    /// One that trusts the authorities of a file.
    ///
    /// # Errors
    /// There is no certificate in it.
    pub(super) async fn trusting(authority: &Utf8Path) -> Result<Self, FetchError> {
        let path = authority.to_owned();
        let read = tokio::task::spawn_blocking(move || roots(&path)).await;
        let roots = read.unwrap_or_else(|_| Err(io::Error::other("it was not read")));
        let config = roots.and_then(|roots| {
            let builder = ClientConfig::builder_with_provider(door::provider())
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?;
            Ok(builder.with_root_certificates(roots).with_no_client_auth())
        });
        let unusable = |source| FetchError::Authority { path: authority.to_owned(), source };
        Ok(Self { tls: Arc::new(config.map_err(unusable)?) })
    }

    async fn fetch(self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let uri = request.uri().clone();
        let (host, port) = place(&uri)?;
        let nonsense = || FetchError::Nonsense(host.clone());
        let unreachable = |source| FetchError::Unreachable { host: host.clone(), source };
        let name = ServerName::try_from(host.clone()).map_err(|_| nonsense())?;
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
        let stream = TlsConnector::from(self.tls).connect(name, stream).await.map_err(unreachable)?;
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(HEAD_LEN_MAX).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|_| nonsense())?;
        // It ends when the answer is read and the sender dropped; its error is also the sender's.
        tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        let authority = uri.authority().map_or(host.as_str(), |authority| authority.as_str());
        head.headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| nonsense())?);
        head.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| nonsense())?;
        let request = hyper::Request::from_parts(head, Full::new(Bytes::from(body)));
        let (head, body) = sender.send_request(request).await.map_err(|_| nonsense())?.into_parts();
        if head.status.is_server_error() {
            return Err(FetchError::Trouble { host: host.clone(), status: head.status.as_u16() });
        }
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await.map_err(|_| nonsense())?;
        Ok(Response::from_parts(head, body.to_bytes().into()))
    }
}

impl<'c> AsyncHttpClient<'c> for Fetcher {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.clone().fetch(request))
    }
}

/// Whom to ask, and at which port.
fn place(uri: &Uri) -> Result<(String, u16), FetchError> {
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
    let host = host.ok_or_else(|| FetchError::Insecure(uri.to_string().chars().take(120).collect()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(HTTPS_PORT)))
}

fn roots(path: &Utf8Path) -> io::Result<RootCertStore> {
    let text = fs::read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let mut roots = RootCertStore::empty();
    // Among those of a machine there may be some that nobody can use.
    let (usable, _) = roots.add_parsable_certificates(certificates.map_err(io::Error::other)?);
    if usable == 0 {
        return Err(io::Error::other("there is no certificate in PEM"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_who_could_not_prove_who_they_are() {
        let told = |url: &str| place(&url.parse().unwrap()).ok();
        assert_eq!(told("https://sso.example.com/a?b"), Some(("sso.example.com".to_owned(), 443)));
        assert_eq!(told("https://[::1]:8443/"), Some(("::1".to_owned(), 8443)));
        assert_eq!(told("http://sso.example.com/a"), None);
        assert_eq!(told("/a"), None);
    }

    #[tokio::test]
    async fn a_file_without_certificates_is_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("ca.pem");
        let told = async || Fetcher::trusting(&path).await.unwrap_err();
        assert!(matches!(told().await, FetchError::Authority { .. }), "it is missing");
        fs::write(&path, "no certificate").unwrap();
        assert!(matches!(told().await, FetchError::Authority { .. }));
    }
}
