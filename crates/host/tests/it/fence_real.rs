//! The agents that ClusterLabs ships, where they are installed: driven to the point where the hardware would answer.
//!
//! Nothing is there that answers, so what is shown is that they take what is written to them, and that they fail in time.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use tranche_core::finding::Code;
use tranche_core::name::HostName;
use tranche_core::spec::FenceSpec;
use tranche_host::fence::{Agents, Limits, Outcome, Places};

/// Another directory that has them.
const ELSEWHERE: &str = "TRANCHE_FENCE_AGENTS";
const LIMITS: Limits = Limits { cut_ms: 5_000, look_ms: 5_000, describe_ms: 30_000 };

/// A password and a key for agents that look whether they have one.
struct Credentials(tempfile::TempDir);

impl Credentials {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["password", "key"] {
            let path = dir.path().join(name);
            fs::write(&path, "hunter2\n").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.0.path().join(name)).unwrap()
    }
}

/// The agent by that name with these options; nothing, with a reason, where it is not installed.
fn agent(name: &str, credentials: &Credentials, options: &[(&str, &str)]) -> Option<(Agents, FenceSpec)> {
    let dir = Utf8PathBuf::from(std::env::var(ELSEWHERE).unwrap_or_else(|_| "/usr/sbin".to_owned()));
    if !dir.join(name).exists() {
        eprintln!("skipped: {name} is not in {dir} (apt-get install fence-agents, or {ELSEWHERE}=DIR)");
        return None;
    }
    let places = Places { agent_dirs: vec![dir], secrets_dir: credentials.path("") };
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Some((Agents::new(places, LIMITS), FenceSpec { agent: name.parse().unwrap(), options, leave_off: false }))
}

fn host() -> HostName {
    "node2".parse().unwrap()
}

/// Both what it says of itself and its options are as we take them; cutting and checking fail, and do so in time.
fn drive(name: &str, credentials: &Credentials, options: &[(&str, &str)]) {
    let Some((agents, how)) = agent(name, credentials, options) else { return };
    assert_eq!(agents.prepare(&host(), &how), Ok(()), "{name}");
    let begun = Instant::now();
    let outcome = agents.fence(&host(), &how);
    let finding = match outcome {
        Outcome::Failed(finding) | Outcome::TimedOut(finding) => finding,
        Outcome::Confirmed => panic!("{name} has cut what is not there"),
    };
    assert_eq!(finding.code, Code::FenceFailed, "{finding}");
    assert!(!format!("{finding:?}").contains("hunter2"), "{finding}");
    eprintln!("{finding}");
    assert_eq!(agents.check(&host(), &how).unwrap_err().code, Code::FenceFailed, "{name}");
    assert!(begun.elapsed() < Duration::from_secs(60));

    let mut wrong = how;
    wrong.options.insert("frobnicate".to_owned(), "1".to_owned());
    assert_eq!(agents.prepare(&host(), &wrong).unwrap_err().code, Code::FenceOptionInvalid, "{name}");
}

/// A port that takes connections and says nothing.
fn silence() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    (listener, port)
}

#[test]
fn fence_virsh_takes_its_options_and_fails_in_time() {
    let credentials = Credentials::new();
    let (_listener, port) = silence();
    let key = credentials.path("key");
    let options = [
        ("ip", "127.0.0.1"),
        ("ipport", port.as_str()),
        ("username", "root"),
        ("plug", "node2"),
        ("identity_file", key.as_str()),
        ("login_timeout", "2"),
    ];
    drive("fence_virsh", &credentials, &options);
}

#[test]
fn fence_redfish_takes_its_options_and_fails_in_time() {
    let credentials = Credentials::new();
    let (_listener, port) = silence();
    let options = [
        ("ip", "127.0.0.1"),
        ("ipport", port.as_str()),
        ("username", "root"),
        ("password", "secret:password"),
        ("ssl_insecure", "1"),
        ("systems_uri", "/redfish/v1/Systems/1"),
    ];
    drive("fence_redfish", &credentials, &options);
}

#[test]
fn fence_ipmilan_takes_its_options_and_fails_in_time() {
    let options = [
        ("ip", "127.0.0.1"),
        ("ipport", "1"),
        ("username", "root"),
        ("password", "secret:password"),
        ("lanplus", "1"),
        ("method", "onoff"),
        ("privlvl", "operator"),
    ];
    drive("fence_ipmilan", &Credentials::new(), &options);
}
