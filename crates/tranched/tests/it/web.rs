//! The console's port as it is on the network: TLS, certificates, slow and large requests.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tranched::cluster::Cluster;
use tranched::config::ConsoleConfig;
use tranched::web::Web;

use crate::ports::Ports;

/// Believes everybody: what is shown is looked at by the test.
#[derive(Debug)]
struct Believes(Arc<CryptoProvider>);

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The port of a host, open.
struct Port {
    _ports: Ports,
    dir: tempfile::TempDir,
    address: String,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Port {
    fn open() -> Self {
        let ports = Ports::claim(1);
        Self::open_at(ports, tempfile::tempdir().unwrap())
    }

    fn open_at(ports: Ports, dir: tempfile::TempDir) -> Self {
        let address = format!("127.0.0.1:{}", ports.numbers[0]);
        let web = Web {
            config: ConsoleConfig { listen: address.clone(), ..ConsoleConfig::default() },
            state_dir: dir.path().to_str().unwrap().into(),
            host: "node1".parse().unwrap(),
            cluster: Cluster::nowhere("node1".parse().unwrap()),
            shown: tranched::handover::Shown::default(),
        };
        let router = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let (stop, stopped) = watch::channel(false);
        let serving = web.serve(router, stopped).expect("an address is set");
        Self { _ports: ports, dir, address, stop, serving }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Believes(provider)))
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        // It opens at its own time.
        let stream = loop {
            match TcpStream::connect(&self.address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        connector.connect(ServerName::try_from("node1").unwrap(), stream).await.unwrap()
    }

    async fn answer_to(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // One that is let go need not say goodbye in TLS.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn shown(&self) -> Vec<u8> {
        let stream = self.connect().await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    async fn close(self) -> (Ports, tempfile::TempDir) {
        self.stop.send_replace(true);
        self.serving.await.unwrap();
        (self._ports, self.dir)
    }
}

#[tokio::test]
async fn a_host_alone_shows_a_certificate_of_its_own_and_the_same_one_after_a_restart() {
    let port = Port::open();
    let answer = port.answer_to("GET / HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    let before = port.shown().await;
    let key = port.dir.path().join("console/key.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
    let (ports, dir) = port.close().await;
    let port = Port::open_at(ports, dir);
    assert_eq!(port.shown().await, before);
    let (ports, dir) = port.close().await;
    std::fs::write(dir.path().join("console/key.pem"), "damaged").unwrap();
    let port = Port::open_at(ports, dir);
    assert_ne!(port.shown().await, before, "one without its key is made anew");
    port.close().await;
}

#[tokio::test]
async fn a_request_whose_head_is_too_large_or_no_http_is_let_go() {
    let port = Port::open();
    let large = format!("GET / HTTP/1.1\r\nHost: node1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let answer = port.answer_to(&large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = port.answer_to("\0\0\0\0 hello\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    port.close().await;
}

#[tokio::test]
async fn who_holds_a_connection_and_asks_nothing_keeps_nobody_else_out_and_does_not_delay_the_end() {
    let port = Port::open();
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = port.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    let answer = port.answer_to("GET / HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
    tokio::time::timeout(Duration::from_secs(30), port.close()).await.expect("it ends");
}
