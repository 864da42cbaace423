//! One run of an agent: its input in, its output out, and an end in time whatever it does.
//!
//! An agent is at its end when its own process is, not when its output is: a child that it leaves behind may keep that
//! open for ever. It runs in a process group of its own, which is killed at the end with whatever is left in it. A
//! child that made a session of its own escapes that, and is left alone.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::secret::Input;

/// The most that is kept of what an agent says, in bytes: metadata of the largest have 20 KiB.
const OUTPUT_LEN_MAX: usize = 256 * 1024;
/// How much of what it said last goes into a message, in characters.
const WORDS_LEN_MAX: usize = 300;
/// How long a process may take to die that was killed, before it is left to a thread of its own.
const DEATH_LIMIT: Duration = Duration::from_secs(1);
/// Where agents find what they call.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How a run ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, or by somebody else's signal.
    InTime(Ran),
    /// It was killed.
    Late,
}

/// A run that came to its end.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its exit status; none after a signal.
    pub(super) status: Option<i32>,
    /// The beginning of what it wrote to its standard output.
    pub(super) output: String,
    errors: String,
    was_cut: bool,
}

impl Ran {
    /// Takes secrets out of what it said.
    pub(super) fn redact(&mut self, input: &Input) {
        for text in [&mut self.output, &mut self.errors] {
            if self.was_cut {
                // The end may be the beginning of a secret.
                let keep = text.len().saturating_sub(input.longest_secret());
                text.truncate(text.floor_char_boundary(keep));
            }
            *text = input.redact(text);
        }
    }

    /// What it said last, for people: without control characters, full stop and undue length.
    pub(super) fn words(&self) -> String {
        let last = |text: &str| {
            let line =
                text.lines().map(str::trim).rfind(|line| !line.is_empty() && !line.contains("'-h'"))?;
            let clean: String =
                without_time(line).chars().filter(|character| !character.is_control()).collect();
            Some(clean.chars().take(WORDS_LEN_MAX).collect::<String>().trim_end_matches('.').to_owned())
        };
        let said =
            last(&self.errors).or_else(|| last(&self.output)).unwrap_or_else(|| "it said nothing".to_owned());
        match self.status {
            Some(status) => format!("{said} (exit status {status})"),
            None => format!("{said} (ended by a signal)"),
        }
    }
}

/// A line of Python's logging without its time, which would make a new message of the same one each time.
fn without_time(line: &str) -> &str {
    let parts = line.split_once(' ').and_then(|(date, rest)| Some((date, rest.split_once(' ')?.1)));
    let is_date =
        |text: &str| text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    parts.filter(|(date, _)| is_date(date)).map_or(line, |(_, rest)| rest)
}

/// Runs a program to its end, or to the limit.
///
/// # Errors
/// It cannot be started.
pub(super) fn run(program: &Utf8Path, input: &[u8], limit: Duration) -> io::Result<Ended> {
    let deadline = Instant::now() + limit;
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = Pid::from_child(&child);
    let talk = Talk::new(&mut child, input);
    let ended = talk.and_then(|mut talk| {
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let in_time = talk.until_ended(&process, deadline)?;
        Ok((process, in_time.then_some(talk)))
    });
    // The process is not waited for yet, so its number, and that of its group, is still its own.
    let _ = kill_process_group(pid, Signal::KILL);
    match ended {
        Ok((_, Some(talk))) => {
            let status = child.wait()?.code();
            Ok(Ended::InTime(talk.into_ran(status)))
        }
        Ok((process, None)) => {
            bury(child, Some(&process));
            Ok(Ended::Late)
        }
        Err(error) => {
            bury(child, None);
            Err(error)
        }
    }
}

/// Waits for a process that was killed; one that does not die (a hung system call) is left to a thread.
fn bury(mut child: Child, process: Option<&OwnedFd>) {
    let died = process.is_some_and(|process| {
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        poll(&mut fds, Some(&timespec(DEATH_LIMIT))).is_ok_and(|ready| ready > 0)
    });
    if died {
        let _ = child.wait();
        return;
    }
    let _ = std::thread::Builder::new().name("fence-agent".to_owned()).spawn(move || child.wait());
}

/// What is said to a process and what it says.
struct Talk<'a> {
    input: &'a [u8],
    stdin: Option<OwnedFd>,
    stdout: Reader,
    stderr: Reader,
}

impl<'a> Talk<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> io::Result<Self> {
        let stdin = child.stdin.take().map(OwnedFd::from);
        let stdout = Reader::new(child.stdout.take().map(OwnedFd::from));
        let stderr = Reader::new(child.stderr.take().map(OwnedFd::from));
        for fd in [&stdin, &stdout.fd, &stderr.fd].into_iter().flatten() {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Self { input, stdin, stdout, stderr })
    }

    /// Talks until the process has ended, and takes what it has left in the pipes; false at the deadline.
    fn until_ended(&mut self, process: &OwnedFd, deadline: Instant) -> io::Result<bool> {
        loop {
            self.write();
            self.stdout.read();
            self.stderr.read();
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = vec![PollFd::new(process, PollFlags::IN)];
            fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
            let readers = [&self.stdout.fd, &self.stderr.fd].into_iter().flatten();
            fds.extend(readers.map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[0].revents().is_empty() {
                self.stdout.read();
                self.stderr.read();
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Writes as much of the input as goes in; the end of it is the end of the pipe.
    fn write(&mut self) {
        while let Some(fd) = &self.stdin {
            let written = if self.input.is_empty() { Ok(0) } else { rustix::io::write(fd, self.input) };
            match written {
                Ok(written) if written > 0 => self.input = &self.input[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // All is said, or nobody listens.
                Ok(_) | Err(_) => self.stdin = None,
            }
        }
    }

    fn into_ran(self, status: Option<i32>) -> Ran {
        let was_cut = self.stdout.was_cut || self.stderr.was_cut;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran { status, output: text(&self.stdout.kept), errors: text(&self.stderr.kept), was_cut }
    }
}

/// Reads a pipe, and keeps the beginning.
struct Reader {
    fd: Option<OwnedFd>,
    kept: Vec<u8>,
    was_cut: bool,
}

impl Reader {
    fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, kept: Vec::new(), was_cut: false }
    }

    /// Takes what is there, a bounded amount at once: one that never stops talking must not keep others waiting.
    fn read(&mut self) {
        let mut bytes = [0; 16 * 1024];
        for _ in 0..64 {
            let Some(fd) = self.fd.as_ref().map(|fd| fd.as_fd()) else { return };
            match read(fd, &mut bytes) {
                Ok(0) => self.fd = None,
                Ok(len) => {
                    let room = OUTPUT_LEN_MAX - self.kept.len();
                    self.kept.extend_from_slice(&bytes[..len.min(room)]);
                    self.was_cut |= len > room;
                }
                Err(Errno::AGAIN) => return,
                Err(_) => self.fd = None,
            }
        }
    }
}

fn read(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<usize, Errno> {
    rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *bytes))
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}
