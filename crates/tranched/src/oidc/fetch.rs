//! HTTPS to the issuer: one connection a request, no redirects, limits on time and size.
//!
//! An issuer proves who it is by a certificate of an authority that the settings name. What it tells about itself may name other
//! addresses, which have to prove the same: nothing is asked without TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper::{Response, Uri};
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::outward;

/// The longest answer that is read, in bytes: keys and tokens are some kilobytes.
const ANSWER_LEN_MAX: usize = 1 << 20;
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
        let read = tokio::task::spawn_blocking(move || outward::trusting(&path)).await;
        let config = read.unwrap_or_else(|_| Err(io::Error::other("it was not read")));
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
        let answer = outward::send(stream, request.map(Bytes::from)).await;
        let (head, body) = answer.map_err(|_| nonsense())?.into_parts();
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

#[cfg(test)]
mod tests {
    use std::fs;

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
