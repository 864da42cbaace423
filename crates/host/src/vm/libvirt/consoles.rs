//! Consoles of guests, as libvirt lends them: nothing here connects to a port or opens a terminal of the host.
//!
//! A screen is a socket that libvirt has connected to QEMU's VNC server, whatever that listens on. A serial console is a stream of
//! libvirt's own protocol, and libvirt lends it to one at a time; a thread carries it to and from a socket, so that both are the same to
//! whoever uses them.
//!
//! A stream cannot be held back: what the guest says comes on the connection that everything else uses, too. So a reader that is slower
//! than its guest misses some of it, as on a real line, and is told so; a screen waits for its reader.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::inventory::Console;
use tranche_core::name::{VmId, VmName};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::stream::Stream;
use virt_sys as sys;

use super::Shared;
use super::link::Link;
use super::steps::{find, is_active, refused, unreadable};
use crate::vm::xml;

const DOING: &str = "open a console";
/// What a guest has said and its reader has not taken yet, in bytes.
const WAITING_LEN_MAX: usize = 1 << 20;
/// How much is moved at once, in bytes.
const CHUNK_LEN: usize = 16 << 10;
/// How often a stream is asked whether its guest has said something: while there is talk, for so long after it, and else.
const BRISK: Duration = Duration::from_millis(5);
const BRISK_FOR: Duration = Duration::from_secs(2);
const CALM: Duration = Duration::from_millis(50);
/// What a call on a stream returns when there is nothing to be done now (libvirt: virStreamRecv).
const NOT_NOW: i32 = -2;

impl Shared {
    /// Opens a console.
    pub(super) fn open_console(
        &self,
        link: &Link,
        (vm, id): (&VmName, VmId),
        console: Console,
        force: bool,
    ) -> Result<UnixStream, Box<Finding>> {
        let connect = link.connect();
        let domain = find(connect, vm, id)?.ok_or_else(|| Box::new(say::domain_not_found(vm)))?;
        if !is_active(&domain, vm)? {
            return Err(Box::new(say::vm_not_running(vm)));
        }
        let live = domain.get_xml_desc(0).map_err(refused(vm, DOING))?;
        let facts = xml::read(&live).map_err(unreadable(vm, DOING))?;
        let missing = || Box::new(say::console_missing(vm, console));
        match console {
            Console::Screen => screen(&domain, vm, facts.vnc.ok_or_else(missing)?),
            Console::Serial if facts.has_serial => serial(connect, &domain, vm, force),
            Console::Serial => Err(missing()),
        }
    }
}

fn screen(domain: &Domain, vm: &VmName, index: u32) -> Result<UnixStream, Box<Finding>> {
    let number = domain.open_graphics_fd(index, 0).map_err(refused(vm, DOING))?;
    // SAFETY: libvirt has opened this descriptor for its caller, who is to close it (libvirt: virDomainOpenGraphicsFD).
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(number.cast_signed()) }))
}

fn serial(connect: &Connect, domain: &Domain, vm: &VmName, force: bool) -> Result<UnixStream, Box<Finding>> {
    let stream = Stream::new(connect, sys::VIR_STREAM_NONBLOCK).map_err(refused(vm, DOING))?;
    let flags = if force { sys::VIR_DOMAIN_CONSOLE_FORCE } else { 0 };
    domain.open_console(None, &stream, flags).map_err(|error| {
        // What it says when somebody else has it, and nothing else (libvirt: src/qemu/qemu_driver.c, qemuDomainOpenConsole).
        if error.code() == ErrorNumber::OperationFailed {
            Box::new(say::console_busy(vm))
        } else {
            refused(vm, DOING)(error)
        }
    })?;
    let refused = |error: io::Error| crate::vm::refusal::refused(vm, DOING, &error.to_string(), "");
    let (ours, theirs) = UnixStream::pair().map_err(refused)?;
    ours.set_nonblocking(true).map_err(refused)?;
    let line = Line { stream, reader: ours, said: VecDeque::new(), lost_bytes: 0, typed: Vec::new() };
    std::thread::Builder::new().name("libvirt-console".to_owned()).spawn(|| line.carry()).map_err(refused)?;
    Ok(theirs)
}

/// A serial console that is lent.
struct Line {
    stream: Stream,
    reader: UnixStream,
    said: VecDeque<u8>,
    lost_bytes: usize,
    typed: Vec<u8>,
}

/// How one side of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Something was moved.
    Moved,
    /// There is nothing to be moved now.
    Quiet,
    /// It has ended.
    Over,
}

impl Line {
    /// Carries both ways until one side ends.
    fn carry(mut self) {
        let mut talked_at = Instant::now();
        loop {
            let heard = self.hear();
            let shown = self.show();
            let told = self.tell();
            if shown == Side::Over || told == Side::Over {
                // Whoever has the console next must not find it taken.
                if let Err(error) = self.stream.abort() {
                    tracing::debug!(%error, "a console could not be given back");
                }
                return;
            }
            if heard == Side::Over {
                return;
            }
            if [heard, shown, told].contains(&Side::Moved) {
                talked_at = Instant::now();
            }
            self.wait(if talked_at.elapsed() < BRISK_FOR { BRISK } else { CALM });
        }
    }

    /// Takes what the guest says. What its reader does not take in time is lost.
    fn hear(&mut self) -> Side {
        let mut chunk = [0_u8; CHUNK_LEN];
        let mut side = Side::Quiet;
        // So much at once, that a guest that never stops does not keep what is typed from it.
        for _ in 0..WAITING_LEN_MAX / CHUNK_LEN {
            // SAFETY: the stream is open, and the buffer is as long as is said.
            let len =
                unsafe { sys::virStreamRecv(self.stream.as_ptr(), chunk.as_mut_ptr().cast(), chunk.len()) };
            let Ok(len @ 1..) = usize::try_from(len) else {
                return if len == NOT_NOW { side } else { Side::Over };
            };
            side = Side::Moved;
            if self.said.len() + len > WAITING_LEN_MAX {
                self.lost_bytes += len;
                continue;
            }
            self.own_up();
            self.said.extend(&chunk[..len]);
        }
        side
    }

    /// Says how much is missing, where it is.
    fn own_up(&mut self) {
        let lost_bytes = std::mem::take(&mut self.lost_bytes);
        if lost_bytes > 0 {
            self.said.extend(
                format!("\r\n[{lost_bytes} bytes are missing here: the reader was too slow]\r\n").bytes(),
            );
        }
    }

    /// Hands on what the guest has said.
    fn show(&mut self) -> Side {
        let mut side = Side::Quiet;
        while !self.said.is_empty() {
            let (first, _) = self.said.as_slices();
            match (&self.reader).write(first) {
                Ok(0) => return Side::Over,
                Ok(len) => drop(self.said.drain(..len)),
                Err(error) => return not_now(&error, side),
            }
            side = Side::Moved;
        }
        side
    }

    /// Hands on what was typed.
    fn tell(&mut self) -> Side {
        if self.typed.is_empty() {
            let mut chunk = [0_u8; CHUNK_LEN];
            match (&self.reader).read(&mut chunk) {
                Ok(0) => return Side::Over,
                Ok(len) => self.typed.extend(&chunk[..len]),
                Err(error) => return not_now(&error, Side::Quiet),
            }
        }
        // SAFETY: the stream is open, and so many bytes are there.
        let len =
            unsafe { sys::virStreamSend(self.stream.as_ptr(), self.typed.as_ptr().cast(), self.typed.len()) };
        match usize::try_from(len) {
            Ok(len) => drop(self.typed.drain(..len)),
            Err(_) if len == NOT_NOW => return Side::Quiet,
            Err(_) => return Side::Over,
        }
        Side::Moved
    }

    /// Waits until the reader takes or types something, for so long at most: nothing tells that the guest says something.
    fn wait(&self, at_most: Duration) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, self.typed.is_empty());
        events.set(PollFlags::OUT, !self.said.is_empty());
        let limit = Timespec::try_from(at_most).ok();
        // One that fails is asked again at once, and is over then.
        let _ = poll(&mut [PollFd::new(&self.reader, events)], limit.as_ref());
    }
}

fn not_now(error: &io::Error, side: Side) -> Side {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => side,
        _ => Side::Over,
    }
}
