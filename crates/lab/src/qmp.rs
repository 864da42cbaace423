//! QEMU's machine protocol, as much of it as the lab says: one command, one answer, over the node's own socket.
//! See <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Error;

/// How long QEMU may take to answer; it answers from its main loop, which a busy machine delays.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection on which capabilities were negotiated.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects; fails at once when no QEMU listens there.
    pub(crate) fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket).map_err(Error::io("connect to", socket))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(Error::io("connect to", socket))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.read_message("greeting")?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Carries out one command and returns what it returns. Events that come between are passed over.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").map_err(|error| refused(command, &error))?;
        loop {
            let mut answer = self.read_message(command)?;
            if let Some(error) = answer.get("error") {
                return Err(refused(command, &error["desc"]));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read_message(&mut self, command: &str) -> Result<Value, Error> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).map_err(|error| refused(command, &error))?;
        if length == 0 {
            return Err(refused(command, &"it closed the connection"));
        }
        serde_json::from_str(&line).map_err(|error| refused(command, &error))
    }
}

fn refused(command: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Qmp { command: command.to_owned(), reason: reason.to_string() }
}

/// The loopback port that QEMU's user-mode network chose to forward to the node's ssh, from the text of `info usernet`
/// (there is no machine-readable form of it).
pub(crate) fn forwarded_port(info_usernet: &str) -> Option<u16> {
    let line = info_usernet.lines().find(|line| line.contains("TCP[HOST_FORWARD]"))?;
    line.split_whitespace().skip_while(|word| *word != "127.0.0.1").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::forwarded_port;

    #[test]
    fn the_forwarded_port_is_read_from_qemus_table() {
        let table = "Hub -1 (lab):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]  11       127.0.0.1 35285       10.0.2.15    22     0     0\r\n";
        assert_eq!(forwarded_port(table), Some(35285));
        assert_eq!(forwarded_port("Hub -1 (lab):\r\n"), None);
    }
}
