//! Hosts with stores of their own: VMs that go to such, and come from such.
//!
//! ```text
//! the host that a VM leaves                     the host that it goes to
//!
//! plan ─► courier ══ HTTPS, the token's secret ══► rest::peers ─► the desk's ear ─► plan
//!   ▲        │                                           │
//!   └─ told ─┘ ◄────────────── answer ───────────────────┘
//! ```
//!
//! The host that a VM leaves asks, always; the other one only answers. It is known by its certificate's fingerprint, which is in the
//! token, so nothing is sent to anybody else. What stands here is how they talk; what is decided, [`tranche_core::handover`] has.

pub mod courier;
pub mod peer;

use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8PathBuf;

use tranche_store::Store;

pub use peer::{Peer, Peers};

/// What a host needs to hand VMs over, and to take them in.
#[derive(Debug, Clone)]
pub struct Handovers {
    /// The hosts that VMs go to.
    pub peers: Peers,
    /// Where this host's libvirt may be reached by whoever sends a VM here.
    pub libvirt: Arc<[Utf8PathBuf]>,
    /// What the console's port shows.
    pub shown: Shown,
}

impl Handovers {
    /// With what `store` remembers.
    pub fn new(store: Arc<dyn Store>, libvirt: Vec<Utf8PathBuf>) -> Self {
        Self { peers: Peers::new(store), libvirt: libvirt.into(), shown: Shown::default() }
    }
}

/// The fingerprint of the certificate that the console's port shows; nothing while it is not open.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<Mutex<Option<[u8; 32]>>>);

impl Shown {
    /// Keeps what is shown from now on.
    pub fn set(&self, fingerprint: [u8; 32]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint);
    }

    /// What is shown.
    pub fn get(&self) -> Option<[u8; 32]> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
