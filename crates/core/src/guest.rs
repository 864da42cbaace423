//! Guest systems that are known to work with GPU partitions, by libosinfo short id.
//!
//! Sources: the feature description's list (Windows 10 and later, Windows 10 Enterprise multi-session and later,
//! Windows Server 2019 and later, Ubuntu 18.04, 20.04 and 22.04 LTS); ids from libosinfo's database (osinfo-db).

/// Ids of the supported systems. Multi-session editions have no id of their own.
pub const SUPPORTED: &[&str] =
    &["win10", "win11", "win2k19", "win2k22", "win2k25", "ubuntu18.04", "ubuntu20.04", "ubuntu22.04"];

/// Whether a guest system is on the list.
pub fn is_supported(guest_os: &str) -> bool {
    SUPPORTED.contains(&guest_os)
}
