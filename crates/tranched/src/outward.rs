//! HTTP to those who are no hosts of ours: whom to believe, and one request a connection.
//!
//! Deliberately absent: redirects, and who is asked what ([`crate::oidc`], [`crate::traces`]). Hosts ask each other at
//! [`crate::cluster::door`].

use std::fs;
use std::io;

use camino::Utf8Path;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::cluster::door;

/// The largest head of an answer, in bytes.
const HEAD_LEN_MAX: usize = 64 * 1024;

/// TLS that believes whoever is certified by an authority in this file.
///
/// # Errors
/// There is no certificate in it.
pub(crate) fn trusting(authority: &Utf8Path) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(door::provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots(authority)?).with_no_client_auth())
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

/// Sends a request over a connection, to whom its address names, and returns when the answer begins. Must be called within a tokio
/// runtime.
///
/// # Errors
/// The other side speaks no HTTP, or too much.
pub(crate) async fn send<S>(stream: S, request: Request<Bytes>) -> io::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    let handshake = builder.max_buf_size(HEAD_LEN_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // It ends when the answer is read and the sender dropped; its error is also the sender's.
    tokio::spawn(connection);
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    head.headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(io::Error::other)?);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse::<Uri>().map_err(io::Error::other)?;
    sender.send_request(Request::from_parts(head, Full::new(body))).await.map_err(io::Error::other)
}
