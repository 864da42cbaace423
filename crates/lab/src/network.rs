//! The network between nodes: a switch of our own, so that each direction of each cable can be cut.
//!
//! A node's second network card sends its frames to a Unix socket of the switch and hears at one of its own
//! (QEMU: `-netdev dgram`). Every frame goes to every other node. The lab's own ssh uses another card: a node that is cut off
//! from its cluster can still be looked at.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest frame that is handed on: what a virtio card sends at most.
const FRAME_LEN_MAX: usize = 68 * 1024;
/// How often a silent switch looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// A node's place in a network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Counts from 1; its address is `10.84.0.NUMBER`.
    pub number: u8,
    /// Where the node hears.
    pub node: PathBuf,
    /// Where the switch hears it.
    pub switch: PathBuf,
}

impl Port {
    /// The address of the node in this network.
    pub fn address(&self) -> String {
        format!("10.84.0.{}", self.number)
    }

    /// The address of its network card.
    pub(crate) fn mac(&self) -> String {
        format!("52:54:00:84:00:{:02x}", self.number)
    }
}

/// A network between nodes. It ends when this is dropped.
#[derive(Debug)]
pub struct Network {
    ports: Vec<Port>,
    cuts: Arc<Mutex<BTreeSet<(u8, u8)>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Network {
    /// A network with so many places; its sockets are in `directory`.
    ///
    /// # Errors
    /// The system refuses a socket or a thread.
    pub fn start(directory: &Path, places: u8) -> Result<Self, Error> {
        let ports: Vec<Port> = (1..=places)
            .map(|number| Port {
                number,
                node: directory.join(format!("node{number}.sock")),
                switch: directory.join(format!("switch{number}.sock")),
            })
            .collect();
        let mut network =
            Self { ports: ports.clone(), cuts: Arc::default(), over: Arc::default(), threads: Vec::new() };
        for port in &ports {
            let failed = Error::io("bind", &port.switch);
            let socket = UnixDatagram::bind(&port.switch)
                .and_then(|socket| socket.set_read_timeout(Some(LOOK)).map(|()| socket))
                .map_err(failed)?;
            let others: Vec<Port> =
                ports.iter().filter(|other| other.number != port.number).cloned().collect();
            let (cuts, over, from) = (Arc::clone(&network.cuts), Arc::clone(&network.over), port.number);
            let failed = Error::io("serve", &port.switch);
            let thread = std::thread::Builder::new()
                .name("switch".to_owned())
                .spawn(move || serve(&socket, from, &others, &cuts, &over))
                .map_err(failed)?;
            network.threads.push(thread);
        }
        Ok(network)
    }

    /// The places.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// From now on, nothing that one node sends reaches another. By numbers; the other way is another cable.
    pub fn cut(&self, from: u8, to: u8) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).insert((from, to));
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, number: u8) {
        for other in self.ports.iter().map(|port| port.number).filter(|other| *other != number) {
            self.cut(number, other);
            self.cut(other, number);
        }
    }

    /// Mends everything.
    pub fn mend(&self) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It panics never.
            let _ = thread.join();
        }
    }
}

fn serve(
    socket: &UnixDatagram,
    from: u8,
    others: &[Port],
    cuts: &Mutex<BTreeSet<(u8, u8)>>,
    over: &AtomicBool,
) {
    let Ok(sender) = UnixDatagram::unbound().and_then(|sender| sender.set_nonblocking(true).map(|()| sender))
    else {
        return;
    };
    let mut frame = vec![0; FRAME_LEN_MAX];
    while !over.load(Ordering::Relaxed) {
        let Ok(len) = socket.recv(&mut frame) else { continue };
        let cut = cuts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in others.iter().filter(|other| !cut.contains(&(from, other.number))) {
            // A node that is off, or does not keep up, loses frames, as on any network.
            let _ = sender.send_to(&frame[..len], &other.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<Vec<u8>> {
        let mut frame = [0; 64];
        socket.recv(&mut frame).ok().map(|len| frame[..len].to_vec())
    }

    #[test]
    fn frames_reach_all_others_unless_their_way_is_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let network = Network::start(directory.path(), 3).expect("a network");
        let nodes: Vec<UnixDatagram> = network
            .ports()
            .iter()
            .map(|port| {
                let socket = UnixDatagram::bind(&port.node).expect("a socket");
                socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
                socket
            })
            .collect();
        let send = |from: usize, text: &[u8]| {
            nodes[from].send_to(text, &network.ports()[from].switch).expect("sent")
        };
        send(0, b"all");
        assert_eq!(heard(&nodes[1]).as_deref(), Some(&b"all"[..]));
        assert_eq!(heard(&nodes[2]).as_deref(), Some(&b"all"[..]));
        network.cut(1, 2);
        send(0, b"one");
        send(0, b"two");
        assert_eq!(heard(&nodes[2]).as_deref(), Some(&b"one"[..]));
        assert_eq!(heard(&nodes[2]).as_deref(), Some(&b"two"[..]));
        send(1, b"back");
        assert_eq!(heard(&nodes[0]).as_deref(), Some(&b"back"[..]), "the other way is not cut");
        network.mend();
        send(0, b"three");
        assert_eq!(
            heard(&nodes[1]).as_deref(),
            Some(&b"three"[..]),
            "what was sent while it was cut is lost"
        );
    }
}
