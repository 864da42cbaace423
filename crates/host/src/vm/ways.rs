//! Ways to the libvirt of other hosts, for VMs that go there while they run.
//!
//! No libvirtd listens on a network. Who knows how to reach another host opens a way that looks like a libvirt on this one.

use std::any::Any;
use std::fmt;

use tranche_core::name::{HostName, VmName};

/// Ways to the libvirt of other hosts.
pub trait Ways: Send + Sync + fmt::Debug {
    /// Opens a way by which a VM goes to another host's libvirt, which is there as long as what is returned lives.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn open(&self, vm: &VmName, host: &HostName) -> Result<Way, String>;
}

/// A way to the libvirt of another host.
pub struct Way {
    /// The connection URI, for this host's libvirt and for Tranche itself.
    pub uri: String,
    /// Ends the way when it is dropped.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("uri", &self.uri).finish_non_exhaustive()
    }
}
