//! Consoles of VMs that are open by way of this host: how many there may be, and how their bytes go to and from a WebSocket.
//!
//! ```text
//! browser, command ══ WebSocket ══ carry ── stream ── libvirt here, or the door of the host where the VM runs
//! ```
//!
//! Each side is read only as fast as the other one takes it, so that nothing heaps up here. What comes from a console are binary
//! messages; a text message is the daemon's own, a problem as the REST interface has it, and the last one.
//!
//! Deliberately absent: what a console says ([`tranche_host`] opens it), and who may open one ([`crate::rest`]).

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tranche_api::Problem;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::VmName;

/// Consoles at once by way of this host, and of these of one VM.
pub const CONSOLES_MAX: usize = 64;
/// See [`CONSOLES_MAX`].
pub const CONSOLES_PER_VM_MAX: usize = 8;
/// The longest message that is taken, in bytes: what somebody pastes.
pub const MESSAGE_LEN_MAX: usize = 64 << 10;
/// How much of a console is read at once, in bytes.
const CHUNK_LEN: usize = 32 << 10;
/// A console over which nothing goes for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// How often the other side is asked whether it is there, and how long it may be silent.
const PING_EVERY: Duration = Duration::from_secs(20);
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the other side may take for what it was sent.
const SEND_TIME: Duration = Duration::from_secs(60);
/// How long it may take to say goodbye.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// An open console, wherever it is.
pub trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// How many consoles are open. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Consoles(Arc<Mutex<BTreeMap<VmName, usize>>>);

/// The place of one console; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    of: Consoles,
    vm: VmName,
}

impl Consoles {
    /// Takes a place for a console of a VM.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn place(&self, vm: &VmName) -> Result<Place, Finding> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= CONSOLES_MAX {
            let message = format!(
                "{CONSOLES_MAX} consoles of VMs are open by way of this host, which is all that it allows."
            );
            return Err(say::consoles_full(&message));
        }
        let of_vm = open.entry(vm.clone()).or_default();
        if *of_vm >= CONSOLES_PER_VM_MAX {
            let message =
                format!("{CONSOLES_PER_VM_MAX} consoles of VM {vm} are open, which is all that is allowed.");
            return Err(say::consoles_full(&message));
        }
        *of_vm += 1;
        Ok(Place { of: self.clone(), vm: vm.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_vm) = open.get_mut(&self.vm) {
            *of_vm -= 1;
            if *of_vm == 0 {
                open.remove(&self.vm);
            }
        }
    }
}

/// Why a console is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The console itself has ended.
    Over,
    /// Whoever looked has gone, or broke the rules.
    Left,
    /// Nobody answers there any more.
    Silent,
    /// What was sent was not taken.
    Slow,
    /// Nothing was said for long.
    Idle,
    /// Whoever looks may not any more.
    Unwelcome,
}

impl End {
    /// What a WebSocket is closed with (RFC 6455, section 7.4: 4000 to 4999 are for whoever wants them).
    fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::Over => {
                (1000, "The console has ended: the VM was turned off or moved, or somebody took it over.")
            }
            Self::Left => (1000, ""),
            Self::Silent => (4001, "Nothing was heard from here for too long."),
            Self::Slow => (4002, "What the console says was not taken fast enough."),
            Self::Idle => (4003, "Nothing was typed or shown for 30 minutes."),
            Self::Unwelcome => (4004, "The session or the token has ended, or may not do this any more."),
        };
        CloseFrame { code, reason: reason.into() }
    }
}

/// Says why there is no console, to somebody who cannot read it from an answer of HTTP.
pub async fn refuse(mut socket: WebSocket, problem: &Problem) {
    let told = async {
        if let Ok(text) = serde_json::to_string(problem) {
            socket.send(Message::Text(text.into())).await?;
        }
        let frame = CloseFrame { code: 4000, reason: "It was refused.".into() };
        socket.send(Message::Close(Some(frame))).await?;
        // Else the connection may be reset before it is read.
        while socket.recv().await.is_some_and(|message| message.is_ok()) {}
        Ok::<(), axum::Error>(())
    };
    // Whoever is gone already need not be told.
    let _ = timeout(CLOSE_TIME, told).await;
}

/// Carries a console to and from a WebSocket until one of them ends, or `unwelcome` returns.
pub async fn carry(socket: WebSocket, line: impl Line, unwelcome: impl Future<Output = ()>) {
    let (mut to, mut from) = socket.split();
    let (mut heard, mut told) = tokio::io::split(line);
    let activity = Activity::default();
    let end = tokio::select! {
        end = show(&mut heard, &mut to, &activity) => end,
        end = tell(&mut from, &mut told, &activity) => end,
        () = activity.ceases() => End::Idle,
        () = unwelcome => End::Unwelcome,
    };
    tracing::debug!(?end, "a console is closed");
    // Whoever has it next must not find it taken.
    drop((heard, told));
    let goodbye = async {
        to.send(Message::Close(Some(end.frame()))).await?;
        while from.next().await.is_some_and(|message| message.is_ok()) {}
        Ok::<(), axum::Error>(())
    };
    let _ = timeout(CLOSE_TIME, goodbye).await;
}

/// Sends what a console says, and asks now and then whether anybody is there.
async fn show(
    heard: &mut (impl AsyncRead + Unpin),
    to: &mut SplitSink<WebSocket, Message>,
    activity: &Activity,
) -> End {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut ask_at = Instant::now() + PING_EVERY;
    loop {
        let message = tokio::select! {
            read = heard.read(&mut chunk) => match read {
                Ok(0) | Err(_) => return End::Over,
                Ok(len) => {
                    activity.note();
                    Message::Binary(chunk[..len].to_vec().into())
                }
            },
            () = sleep_until(ask_at) => {
                ask_at = Instant::now() + PING_EVERY;
                Message::Ping(Default::default())
            }
        };
        match timeout(SEND_TIME, to.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Left,
            Err(_) => return End::Slow,
        }
    }
}

/// Tells a console what comes.
async fn tell(
    from: &mut SplitStream<WebSocket>,
    told: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> End {
    loop {
        let Ok(message) = timeout(SILENCE_MAX, from.next()).await else { return End::Silent };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            // For programs by which people type into a WebSocket.
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Left,
        };
        activity.note();
        if told.write_all(&bytes).await.is_err() {
            return End::Over;
        }
    }
}

/// Carries a console between two streams until one of them ends, or nothing goes for long.
pub async fn relay(one: impl Line, other: impl Line) {
    let (mut from_one, mut to_one) = tokio::io::split(one);
    let (mut from_other, mut to_other) = tokio::io::split(other);
    let activity = Activity::default();
    tokio::select! {
        _ = pass_on(&mut from_one, &mut to_other, &activity) => {}
        _ = pass_on(&mut from_other, &mut to_one, &activity) => {}
        () = activity.ceases() => {}
    }
    // A connection that is gone already need not be closed.
    let _ = timeout(CLOSE_TIME, async { tokio::join!(to_one.shutdown(), to_other.shutdown()) }).await;
}

async fn pass_on(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let len = from.read(&mut chunk).await?;
        if len == 0 {
            return Ok(());
        }
        activity.note();
        to.write_all(&chunk[..len]).await?;
        // TLS keeps back what is not asked to be sent.
        to.flush().await?;
    }
}

/// When something went over a console the last time.
#[derive(Debug)]
struct Activity {
    began: Instant,
    last_ms: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self { began: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Activity {
    fn note(&self) {
        let since_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since_ms, Ordering::Relaxed);
    }

    /// Returns when nothing went for long.
    async fn ceases(&self) {
        loop {
            let last = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let left = (last + IDLE_MAX).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> VmName {
        name.parse().unwrap()
    }

    #[test]
    fn there_are_so_many_consoles_of_one_vm_and_of_all_and_a_closed_one_makes_room() {
        let consoles = Consoles::default();
        let mut places: Vec<Place> =
            (0..CONSOLES_PER_VM_MAX).map(|_| consoles.place(&vm("a")).unwrap()).collect();
        assert!(consoles.place(&vm("a")).unwrap_err().message.contains("of VM a"));
        let others = CONSOLES_PER_VM_MAX..CONSOLES_MAX;
        places.extend(others.map(|number| consoles.clone().place(&vm(&format!("b{number}"))).unwrap()));
        assert!(consoles.place(&vm("c")).unwrap_err().message.contains("this host"));
        drop(places.remove(0));
        drop(consoles.place(&vm("a")).unwrap());
        drop(places);
        assert!(consoles.0.lock().unwrap().is_empty(), "nothing is kept of those that are closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_console_over_which_nothing_goes_for_long_is_closed_and_one_that_says_something_is_not() {
        let began = Instant::now();
        let activity = Activity::default();
        let talk = async {
            for _ in 0..3 {
                sleep(IDLE_MAX / 2).await;
                activity.note();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { () = talk => {}, () = activity.ceases() => {} }
        assert!(
            began.elapsed() >= IDLE_MAX * 5 / 2 && began.elapsed() < IDLE_MAX * 3,
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_side_of_a_relay_says_the_other_hears_until_one_of_them_ends() {
        let (here, mut left) = tokio::io::duplex(8);
        let (there, mut right) = tokio::io::duplex(8);
        let relaying = tokio::spawn(relay(here, there));
        left.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        right.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        drop(right);
        assert_eq!(left.read(&mut heard).await.unwrap(), 0);
        relaying.await.unwrap();
    }

    #[test]
    fn a_reason_fits_into_a_frame_that_closes() {
        for end in [End::Over, End::Left, End::Silent, End::Slow, End::Idle, End::Unwelcome] {
            assert!(end.frame().reason.len() <= 123, "{end:?}");
        }
    }
}
