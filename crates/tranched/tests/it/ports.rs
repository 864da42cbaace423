//! Ports of this machine that no other test takes, although whoever is told to listen there only does so later, and may stop and
//! begin again: of those that are handed out to whoever asks for any, some test would soon find one taken.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below those that the kernel gives to connections (`ip_local_port_range`, 32768 to 60999).
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports that are this test's own while this is kept.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) numbers: Vec<u16>,
    _claims: Vec<UnixListener>,
}

impl Ports {
    pub(crate) fn claim(count: usize) -> Self {
        // Tests that begin at once look in different places first.
        let begin = std::process::id() as usize * 64 % PORTS.len();
        let claimed = PORTS.cycle().skip(begin).take(PORTS.len()).filter_map(|port| {
            // The name is gone with the process that has it, whatever becomes of that.
            let name = SocketAddr::from_abstract_name(format!("tranche-test-port-{port}")).unwrap();
            let claim = UnixListener::bind_addr(&name).ok()?;
            TcpListener::bind(("127.0.0.1", port)).ok()?;
            Some((port, claim))
        });
        let (numbers, _claims): (Vec<u16>, Vec<UnixListener>) = claimed.take(count).unzip();
        assert_eq!(numbers.len(), count, "all ports are taken");
        Self { numbers, _claims }
    }
}
