//! The kernel's device events: a device came, went, or was bound elsewhere.
//!
//! They only ring the bell; the next pass looks for itself. Without them (no permission, a container) the slow tick
//! does the same later. Facts: kernel lib/kobject_uevent.c; a message is `ACTION@DEVPATH` and `KEY=value`, each ended
//! by a NUL.

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType, netlink};

use crate::bell::Bell;

/// The multicast group that the kernel itself sends to; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// The longest message that is read; the kernel's own buffer is 2 KiB (UEVENT_BUFFER_SIZE).
const MESSAGE_LEN_MAX: usize = 8 * 1024;

/// The subsystems whose events may concern a partition.
const SUBSYSTEMS: [&[u8]; 4] = [b"pci", b"mdev", b"vfio", b"vfio-dev"];

/// Starts a thread that rings the bell at each event that may concern a partition, for as long as the process lives.
///
/// # Errors
/// The socket cannot be had; the slow tick has to do.
pub fn listen(bell: Bell) -> std::io::Result<()> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    net::bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    std::thread::Builder::new().name("uevents".to_owned()).spawn(move || {
        let mut message = [0; MESSAGE_LEN_MAX];
        loop {
            match net::recv(&socket, &mut message[..], RecvFlags::empty()) {
                Ok((len, _)) if concerns_partitions(&message[..len]) => bell.ring(),
                Ok(_) | Err(Errno::INTR) => {}
                // Messages were lost because too many came at once: look.
                Err(Errno::NOBUFS) => bell.ring(),
                Err(error) => {
                    tracing::warn!(%error, "kernel device events ended; the slow tick goes on");
                    return;
                }
            }
        }
    })?;
    Ok(())
}

fn concerns_partitions(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"SUBSYSTEM="))
        .any(|subsystem| SUBSYSTEMS.contains(&subsystem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_devices_that_may_be_partitions_ring() {
        let event = |subsystem: &str| {
            format!("bind@/devices/pci0000:00/0000:00:01.0\0ACTION=bind\0SUBSYSTEM={subsystem}\0SEQNUM=7\0")
                .into_bytes()
        };
        assert!(concerns_partitions(&event("pci")));
        assert!(concerns_partitions(&event("mdev")));
        assert!(!concerns_partitions(&event("net")));
        assert!(!concerns_partitions(b""));
        assert!(!concerns_partitions(&[0xff; 64]));
    }
}
