//! An issuer of identities for tests (OpenID Connect): over TLS, with real keys, and able to forge whatever a test wants forged.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, LazyLock, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::Listener as _;
use axum::{Form, Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use camino::{Utf8Path, Utf8PathBuf};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{digest, hmac};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::traits::PublicKeyParts as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tranched::clock;
use tranched::cluster::door::Door;

use crate::certified;

pub(crate) const CLIENT: &str = "tranche";
pub(crate) const SECRET: &str = "s3cret of the client";

/// Made once: that takes a while.
static RSA: LazyLock<[RsaPrivateKey; 2]> = LazyLock::new(|| {
    [0; 2].map(|_| RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).expect("there is randomness"))
});

/// What an ID token is signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signing {
    /// The first of the RSA keys, or the second.
    Rsa(usize),
    /// A key on P-256.
    Ec,
    /// Nothing.
    None,
    /// HS256 with the public key that everybody knows.
    HmacOfPublicKey,
    /// HS256 with the client's secret.
    HmacOfSecret,
    /// The first RSA key, and another text than the one that was signed.
    Altered,
}

/// How it behaves.
pub(crate) struct Ways {
    pub(crate) signing: Signing,
    /// The key that it says to have signed with.
    pub(crate) kid: &'static str,
    /// The keys that it shows.
    pub(crate) shown: Vec<Signing>,
    /// Whom it vouches for.
    pub(crate) claims: BTreeMap<String, Value>,
    /// Whether it takes a code twice.
    pub(crate) is_forgetful: bool,
    /// What it calls itself, if not by its address.
    pub(crate) calls_itself: Option<String>,
    /// What each endpoint answers instead.
    pub(crate) broken: Option<StatusCode>,
    codes: BTreeMap<String, Grant>,
    next: usize,
}

/// What a code stands for.
#[derive(Debug, Clone)]
struct Grant {
    nonce: String,
    challenge: String,
    callback: String,
}

pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
    ways: Arc<Mutex<Ways>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    url: String,
    ways: Arc<Mutex<Ways>>,
    ec: Arc<EcdsaKeyPair>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (authority, config) = certified::localhost();
        fs::write(dir.path().join("ca.pem"), authority).unwrap();
        let door = Door::listen("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
        let url = format!("https://localhost:{}", door.local_addr().unwrap().address.port());
        let ways = Arc::new(Mutex::new(Ways::honest()));
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ec = Arc::new(EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap());
        let shared = Shared { url: url.clone(), ways: Arc::clone(&ways), ec };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .with_state(shared);
        let serving = tokio::spawn(async move {
            let _ = axum::serve(door, router).await;
        });
        Self { url, dir, ways, serving }
    }

    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    /// Behaves otherwise from now on.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Ways)) {
        change(&mut self.ways.lock().unwrap());
    }

    /// It is gone.
    pub(crate) fn stop(&self) {
        self.serving.abort();
    }

    /// What it sends a browser back with that came to this address: whoever it was has agreed.
    pub(crate) fn agree(&self, url: &str) -> String {
        let query = query_of(url);
        assert!(url.starts_with(&format!("{}/authorize?", self.url)), "{url}");
        assert_eq!((query["response_type"].as_str(), query["client_id"].as_str()), ("code", CLIENT));
        assert_eq!(query["code_challenge_method"], "S256");
        let mut ways = self.ways.lock().unwrap();
        ways.next += 1;
        let code = format!("c0de-{}", ways.next);
        let field = |name: &str| query[name].clone();
        let (nonce, challenge, callback) = (field("nonce"), field("code_challenge"), field("redirect_uri"));
        ways.codes.insert(code.clone(), Grant { nonce, challenge, callback });
        format!("code={code}&state={}", query["state"])
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Ways {
    fn honest() -> Self {
        let claims =
            json!({ "sub": "s-1", "preferred_username": "alice", "groups": ["gpu-operators", "staff"] });
        Self {
            signing: Signing::Rsa(0),
            kid: "rsa-0",
            shown: vec![Signing::Rsa(0), Signing::Ec],
            claims: serde_json::from_value(claims).unwrap(),
            is_forgetful: false,
            calls_itself: None,
            broken: None,
            codes: BTreeMap::new(),
            next: 0,
        }
    }

    /// Says something else about whom it vouches for, or about the token.
    pub(crate) fn say(&mut self, claim: &str, value: Value) {
        self.claims.insert(claim.to_owned(), value);
    }
}

/// Now, in seconds, and so many more.
pub(crate) fn in_s(seconds: i64) -> Value {
    let now_s = i64::try_from(clock::now().0 / 1_000).unwrap();
    json!(now_s + seconds)
}

/// The fields of an address's query.
pub(crate) fn query_of(url: &str) -> BTreeMap<String, String> {
    let uri = url.parse().unwrap();
    let axum::extract::Query(fields) = axum::extract::Query::try_from_uri(&uri).unwrap();
    fields
}

async fn metadata(State(issuer): State<Shared>) -> Response {
    let ways = issuer.ways.lock().unwrap();
    if let Some(status) = ways.broken {
        return status.into_response();
    }
    let url = &issuer.url;
    Json(json!({
        "issuer": ways.calls_itself.as_ref().unwrap_or(url),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    }))
    .into_response()
}

async fn keys(State(issuer): State<Shared>) -> Json<Value> {
    let shown = issuer.ways.lock().unwrap().shown.clone();
    let key = |signing: Signing| match signing {
        Signing::Rsa(index) => {
            let [n, e] = [RSA[index].n(), RSA[index].e()].map(|part| encoded(&part.to_bytes_be()));
            json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": format!("rsa-{index}"), "n": n, "e": e })
        }
        _ => {
            let point = issuer.ec.public_key().as_ref();
            let [x, y] = [&point[1..33], &point[33..]].map(encoded);
            json!({ "kty": "EC", "use": "sig", "alg": "ES256", "kid": "ec", "crv": "P-256", "x": x, "y": y })
        }
    };
    Json(json!({ "keys": shown.into_iter().map(key).collect::<Vec<_>>() }))
}

async fn token(
    State(issuer): State<Shared>,
    headers: HeaderMap,
    Form(asked): Form<BTreeMap<String, String>>,
) -> Response {
    let refuse = |error: &str| {
        // Issuers say more than the word, and it is nobody else's business.
        let body = json!({ "error": error, "error_description": "c0de and s3cret of the client" });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|shown| shown.to_str().ok()).unwrap_or_default();
    let form = |text: &str| text.replace(' ', "+");
    let meant = STANDARD.encode(format!("{CLIENT}:{}", form(SECRET)));
    if shown != format!("Basic {meant}") {
        return refuse("invalid_client");
    }
    let mut ways = issuer.ways.lock().unwrap();
    let code = asked.get("code").cloned().unwrap_or_default();
    let Some(grant) = ways.codes.get(&code).cloned() else { return refuse("invalid_grant") };
    if !ways.is_forgetful {
        ways.codes.remove(&code);
    }
    let verifier = asked.get("code_verifier").map(String::as_str).unwrap_or_default();
    let challenge = encoded(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref());
    if challenge != grant.challenge || asked.get("redirect_uri") != Some(&grant.callback) {
        return refuse("invalid_grant");
    }
    let mut claims: BTreeMap<String, Value> = BTreeMap::from([
        ("iss".to_owned(), json!(issuer.url)),
        ("aud".to_owned(), json!(CLIENT)),
        ("iat".to_owned(), in_s(0)),
        ("exp".to_owned(), in_s(300)),
        ("nonce".to_owned(), json!(grant.nonce)),
    ]);
    claims.extend(ways.claims.clone());
    let id_token = signed(&issuer.ec, ways.signing, ways.kid, &claims);
    Json(json!({ "access_token": "t0ken", "token_type": "Bearer", "expires_in": 300, "id_token": id_token }))
        .into_response()
}

fn signed(ec: &EcdsaKeyPair, signing: Signing, kid: &str, claims: &BTreeMap<String, Value>) -> String {
    let algorithm = match signing {
        Signing::Rsa(_) | Signing::Altered => "RS256",
        Signing::Ec => "ES256",
        Signing::None => "none",
        Signing::HmacOfPublicKey | Signing::HmacOfSecret => "HS256",
    };
    let part = |value: Value| encoded(value.to_string().as_bytes());
    let header = part(json!({ "alg": algorithm, "typ": "JWT", "kid": kid }));
    let text = format!("{header}.{}", part(json!(claims)));
    let by_rsa = |index: usize, text: &str| {
        let key = RSA[index].to_pkcs8_der().unwrap();
        let key = RsaKeyPair::from_pkcs8(key.as_bytes()).unwrap();
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        signature
    };
    let by_hmac = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
    };
    let signature = match signing {
        Signing::Rsa(index) => by_rsa(index, &text),
        Signing::Altered => by_rsa(0, &text.to_uppercase()),
        Signing::Ec => ec.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec(),
        Signing::None => Vec::new(),
        Signing::HmacOfPublicKey => {
            by_hmac(RSA[0].to_public_key().to_public_key_pem(LineEnding::LF).unwrap().as_bytes())
        }
        Signing::HmacOfSecret => by_hmac(SECRET.as_bytes()),
    };
    format!("{text}.{}", encoded(&signature))
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
