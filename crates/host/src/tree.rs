//! The few file operations that the kernel's interfaces need, and a real directory tree that carries them out.
//!
//! Everything in this room reaches the kernel through [`Tree`], so that the same code runs on a live `/sys`, on a tree
//! captured from another machine, and on the fake kernel. Paths are relative to the tree's root (`sys/bus/pci/devices`);
//! absolute paths and `..` in them are refused, and links never lead out of a tree whose root is not `/`.
//!
//! Deliberately absent: creating, truncating and removing files. An attribute is written with one `write(2)` on a file
//! opened without `O_CREAT`, because a missing attribute must be `ENOENT` and not a permission problem, and because a
//! store function sees each `write(2)` as a value of its own (kernel: fs/sysfs/file.c).

use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use rustix::fd::OwnedFd;
use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::modules;

/// The longest text of an attribute, in bytes: sysfs gives a page at most.
pub const ATTRIBUTE_LEN_MAX: usize = 4096;

/// The most of what a tool says that is kept, in bytes: an order of magnitude above what `nvidia-smi -q` says of one GPU.
const TOOL_OUTPUT_LEN_MAX: usize = 64 * 1024;
/// The most entries that are read from one directory.
pub const DIRECTORY_ENTRIES_MAX: usize = 65_536;
/// How much of what a tool says last goes into a message, in characters.
const WORDS_LEN_MAX: usize = 300;
/// Where tools find what they call.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest target of a link, in bytes (PATH_MAX).
const LINK_LEN_MAX: usize = 4096;
/// The longest record of the kernel's log, in bytes: a shorter buffer is refused (kernel: CONSOLE_EXT_LOG_MAX).
const LOG_RECORD_LEN_MAX: usize = 8192;
/// A path that contains `..` is looked up again this often when a rename elsewhere disturbs the look-up (openat2(2)).
const LOOKUP_TRIES: usize = 32;

/// File operations under one root. Errors keep the kernel's errno (`io::Error::raw_os_error`).
pub trait Tree: Send + Sync + fmt::Debug {
    /// The first bytes of a file, at most `len_max` of them. Other things than regular files are refused (`EINVAL`).
    fn head(&self, path: &str, len_max: usize) -> io::Result<Vec<u8>>;

    /// Gives an attribute a value, whole and at once. Nothing is created.
    fn write(&self, path: &str, value: &str) -> io::Result<()>;

    /// The target of a link, as it stands in the link.
    fn link(&self, path: &str) -> io::Result<Utf8PathBuf>;

    /// The names in a directory, sorted; those that are not UTF-8 are left out.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// The targets of all links in a directory. Links that vanish meanwhile are left out.
    fn links(&self, path: &str) -> io::Result<Vec<Utf8PathBuf>>;

    /// Whether there is something at the end of the path, links followed.
    fn exists(&self, path: &str) -> bool;

    /// Opens a log that grows, to be read from the oldest line that it still has. Reading it never waits.
    fn log(&self, path: &str) -> io::Result<Box<dyn Log>>;

    /// Runs a vendor's tool, named by its path in the tree, and waits for its end. It gets no input and no environment.
    fn run(&self, tool: &str, arguments: &[&str]) -> io::Result<Ran>;

    /// Sends one line to whoever listens at a socket of this machine, and returns the line that comes back. Trees that are
    /// no machine have nobody who listens.
    fn converse(&self, _socket: &str, _line: &str) -> io::Result<String> {
        Err(Errno::NOENT.into())
    }

    /// An attribute's value, without the newline at its end.
    fn text(&self, path: &str) -> io::Result<String> {
        let bytes = self.head(path, ATTRIBUTE_LEN_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }

    /// The last part of a link's target: the name of the driver, group or function that it points at.
    fn link_name(&self, path: &str) -> io::Result<String> {
        let target = self.link(path)?;
        target.file_name().map(str::to_owned).ok_or_else(|| Errno::INVAL.into())
    }
}

/// A log that grows while it is open.
pub trait Log: Send + fmt::Debug {
    /// The next bytes, whole lines or not; none when there is nothing new.
    fn next(&mut self) -> io::Result<Vec<u8>>;
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether it says that it did what it was asked for.
    pub success: bool,
    /// The beginning of what it wrote, errors last.
    pub said: String,
}

impl Ran {
    /// The last line of what it said, shortened to a length that a message can bear and without its full stop.
    pub(crate) fn last_words(&self) -> String {
        let last = self.said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
        last.chars().take(WORDS_LEN_MAX).collect::<String>().trim_end_matches('.').to_owned()
    }
}

/// Checks that a path stays below the root that it is relative to.
pub(crate) fn contained(path: &str) -> io::Result<&Utf8Path> {
    let path = Utf8Path::new(path);
    let stays = path.components().all(|part| matches!(part, Utf8Component::Normal(_)));
    if stays && !path.as_str().contains('\0') { Ok(path) } else { Err(Errno::INVAL.into()) }
}

/// A directory of this machine as a tree: `/`, a captured tree, or a mounted fake kernel.
#[derive(Debug)]
pub struct DirTree {
    root: OwnedFd,
    /// Whether look-ups are kept below the root: in every tree but this machine's own.
    confined: bool,
}

impl DirTree {
    /// Opens a root.
    ///
    /// # Errors
    /// That of `open(2)` on the directory.
    pub fn open(root: &Utf8Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(root.as_std_path(), flags, Mode::empty())?;
        Ok(Self { root: fd, confined: root != "/" })
    }

    fn open_at(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = contained(path)?;
        let flags = flags | OFlags::CLOEXEC;
        if !self.confined {
            // Confining look-ups to `/` would change nothing. And openat2(2) is what sandboxes refuse: they cannot look
            // into its arguments (systemd's RestrictSUIDSGID= does, and then nothing at all could be read).
            return Ok(fs::openat(&self.root, path.as_std_path(), flags, Mode::empty())?);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..LOOKUP_TRIES {
            match fs::openat2(&self.root, path.as_std_path(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
        Ok(fs::openat2(&self.root, path.as_std_path(), flags, Mode::empty(), resolve)?)
    }

    fn entries(&self, path: &str) -> io::Result<(fs::Dir, Vec<String>)> {
        let mut dir = fs::Dir::new(self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        let mut names = Vec::new();
        for entry in dir.by_ref().take(DIRECTORY_ENTRIES_MAX) {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        names.sort_unstable();
        Ok((dir, names))
    }
}

impl Tree for DirTree {
    fn head(&self, path: &str, len_max: usize) -> io::Result<Vec<u8>> {
        // A captured tree may hold anything, a FIFO for instance: opening must not block.
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let mut bytes = vec![0; len_max];
        let mut filled = 0;
        while filled < len_max {
            match rustix::io::read(&fd, &mut bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let fd = self.open_at(path, OFlags::WRONLY | OFlags::NOCTTY)?;
        let written = rustix::io::write(&fd, value.as_bytes())?;
        // A second write would be a second value, so a short one is an error and never continued.
        if written == value.len() { Ok(()) } else { Err(Errno::IO.into()) }
    }

    fn link(&self, path: &str) -> io::Result<Utf8PathBuf> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        target(fs::readlinkat(&fd, "", Vec::with_capacity(LINK_LEN_MAX)))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(self.entries(path)?.1)
    }

    fn links(&self, path: &str) -> io::Result<Vec<Utf8PathBuf>> {
        let (dir, names) = self.entries(path)?;
        let fd = dir.fd()?;
        let read = |name: &String| target(fs::readlinkat(fd, name.as_str(), Vec::with_capacity(256))).ok();
        Ok(names.iter().filter_map(read).collect())
    }

    fn exists(&self, path: &str) -> bool {
        self.open_at(path, OFlags::PATH).is_ok()
    }

    fn log(&self, path: &str) -> io::Result<Box<dyn Log>> {
        let fd = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::RegularFile | FileType::CharacterDevice => Ok(Box::new(OpenLog(fd))),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> io::Result<Ran> {
        // By the descriptor of the root, so that a tree that was mounted elsewhere meanwhile is not searched.
        let path = format!("/proc/self/fd/{}/{}", self.root.as_raw_fd(), contained(tool)?);
        let path = std::fs::canonicalize(path)?;
        let output = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", TOOL_PATH)
            .stdin(Stdio::null())
            .output()?;
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[..bytes.len().min(TOOL_OUTPUT_LEN_MAX)]).into_owned()
        };
        let said = text(&output.stdout) + &text(&output.stderr);
        Ok(Ran { success: output.status.success(), said })
    }

    fn converse(&self, socket: &str, line: &str) -> io::Result<String> {
        // In a captured tree the socket would be another machine's, or anything.
        if self.confined {
            return Err(Errno::NOENT.into());
        }
        let path = Utf8Path::new("/").join(contained(socket)?);
        modules::exchange(UnixStream::connect(path)?, line)
    }
}

/// A log on this machine: `/dev/kmsg`, or a captured one.
#[derive(Debug)]
struct OpenLog(OwnedFd);

impl Log for OpenLog {
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; LOG_RECORD_LEN_MAX];
        loop {
            match rustix::io::read(&self.0, &mut bytes) {
                Ok(read) => {
                    bytes.truncate(read);
                    return Ok(bytes);
                }
                Err(Errno::AGAIN) => return Ok(Vec::new()),
                // The oldest records were overwritten meanwhile; the next read goes on behind them (EPIPE).
                Err(Errno::INTR | Errno::PIPE) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn target(read: rustix::io::Result<std::ffi::CString>) -> io::Result<Utf8PathBuf> {
    let text = read?.into_string().map_err(|_| io::Error::from(Errno::ILSEQ))?;
    Ok(Utf8PathBuf::from(text))
}
