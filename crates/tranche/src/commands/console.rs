//! `tranche vm console`: a terminal lent to a guest, over the daemon's WebSocket.
//!
//! The terminal is raw meanwhile, so that every key goes to the guest, Ctrl-C too; Ctrl-] leaves. What is no terminal is read and written
//! as it is, so that a script can talk to a guest.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tranche_api::Problem;
use tranche_core::name::VmName;

use super::Daemon;
use crate::client::{ClientError, Conversation};
use crate::failure::{Exit, Failure};

/// What leaves: Ctrl-], as in virsh and telnet.
const WAY_OUT: u8 = 0x1d;
/// How much is read from the keyboard at once, in bytes; less than the longest message that the daemon takes.
const CHUNK_LEN: usize = 4 << 10;
/// Chunks that were typed and not sent yet.
const CHUNKS_MAX: usize = 16;

/// Lends the terminal to a guest until one of them has enough.
pub(super) fn open(name: &VmName, force: bool, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let path = format!("/vms/{name}/console{}", if force { "?force=true" } else { "" });
    daemon.client.converse(&path, async |conversation| {
        daemon.console.note(&format!("Connected to the serial console of VM {name}; Ctrl-] leaves."));
        let raw = Raw::of_this_terminal();
        let reason = talk(conversation).await;
        drop(raw);
        // The guest's last line need not have ended.
        daemon.console.note("");
        if let Some(reason) = reason? {
            daemon.console.note(&reason);
        }
        Ok(Exit::Done)
    })
}

/// Carries both ways. Tells why it ended, unless somebody left.
async fn talk(mut conversation: Conversation) -> Result<Option<String>, Failure> {
    let mut typed = keyboard();
    let mut is_typed = true;
    loop {
        tokio::select! {
            chunk = typed.recv(), if is_typed => match chunk {
                Some(chunk) => {
                    let leaves = chunk.iter().position(|byte| *byte == WAY_OUT);
                    let told = &chunk[..leaves.unwrap_or(chunk.len())];
                    if !told.is_empty() && conversation.send(Message::binary(told.to_vec())).await.is_err() {
                        return Ok(Some("The connection was lost.".to_owned()));
                    }
                    if leaves.is_some() {
                        // Whoever is gone already need not be told.
                        let _ = conversation.close(None).await;
                        return Ok(None);
                    }
                }
                // Nothing more is typed; what the guest says is still shown.
                None => is_typed = false,
            },
            message = conversation.next() => match message {
                Some(Ok(Message::Binary(bytes))) => show(&bytes)?,
                Some(Ok(Message::Text(text))) => return Err(refused(&text)),
                Some(Ok(Message::Close(frame))) => {
                    return Ok(Some(frame.map_or_else(String::new, |frame| frame.reason.to_string())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(Some("The connection was lost.".to_owned())),
            }
        }
    }
}

fn show(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|source| Failure::Write { what: "What the guest says".to_owned(), source })
}

fn refused(text: &str) -> Failure {
    match serde_json::from_str::<Problem>(text) {
        Ok(problem) => ClientError::Refused(Box::new(problem)).into(),
        Err(source) => ClientError::Malformed { request: "the console".to_owned(), source }.into(),
    }
}

/// What is typed. It is read on a thread of its own, which ends with the command: a read from a terminal cannot be called off.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (type_in, typed) = mpsc::channel(CHUNKS_MAX);
    std::thread::spawn(move || {
        let mut chunk = [0; CHUNK_LEN];
        while let Ok(len @ 1..) = io::stdin().lock().read(&mut chunk) {
            if type_in.blocking_send(chunk[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    typed
}

/// A terminal that hands on each key as it is; as it was before, when this is dropped.
struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw; nothing where there is none.
    fn of_this_terminal() -> Option<Self> {
        let stdin = io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
