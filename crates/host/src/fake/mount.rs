//! The fake kernel as a mounted tree, so that the real code meets its errors in `write(2)`.
//!
//! Nothing is cached: attributes and whole directories come and go between two calls. Reads and writes run on threads
//! of their own, because a call that hangs must hang its caller and nobody else.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use camino::Utf8Path;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, WriteFlags,
};

use super::FakeKernel;
use super::files::{File, Node};
use crate::tree::ATTRIBUTE_LEN_MAX;

/// A mounted fake kernel; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    _session: BackgroundSession,
}

impl Mounted {
    /// Mounts a fake kernel on an empty directory.
    ///
    /// # Errors
    /// Those of `mount(2)` or of `fusermount3`: no `/dev/fuse`, or no permission.
    pub fn new(kernel: Arc<FakeKernel>, at: &Utf8Path) -> io::Result<Self> {
        let mut config = Config::default();
        // Vendors' tools are run from the tree.
        config.mount_options = vec![MountOption::FSName("tranche-fake-kernel".to_owned()), MountOption::Exec];
        let inodes = Mutex::new(Inodes { paths: vec![String::new()], numbers: HashMap::new() });
        let session = fuser::spawn_mount(Mount { kernel, inodes }, at.as_std_path(), &config)?;
        Ok(Self { _session: session })
    }
}

#[derive(Debug)]
struct Mount {
    kernel: Arc<FakeKernel>,
    inodes: Mutex<Inodes>,
}

/// Numbers for paths, handed out as they are asked for. The root is 1.
#[derive(Debug)]
struct Inodes {
    paths: Vec<String>,
    numbers: HashMap<String, u64>,
}

impl Mount {
    fn path(&self, number: INodeNo) -> String {
        let inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(u64::from(number) - 1).unwrap_or(usize::MAX);
        inodes.paths.get(index).cloned().unwrap_or_default()
    }

    fn number(&self, path: &str) -> INodeNo {
        if path.is_empty() {
            return INodeNo::ROOT;
        }
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = inodes.numbers.get(path) {
            return INodeNo(*number);
        }
        inodes.paths.push(path.to_owned());
        let number = inodes.paths.len() as u64;
        inodes.numbers.insert(path.to_owned(), number);
        INodeNo(number)
    }

    fn node(&self, path: &str) -> Result<Node, Errno> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        self.kernel.find(&parts).ok_or(Errno::ENOENT)
    }

    fn file(&self, number: INodeNo) -> Result<File, Errno> {
        match self.node(&self.path(number))? {
            Node::File(file) => Ok(file),
            Node::Dir(_) | Node::Link(_) => Err(Errno::EINVAL),
        }
    }

    fn attr(&self, path: &str) -> Result<FileAttr, Errno> {
        let (kind, perm, size) = match self.node(path)? {
            Node::Dir(_) => (FileType::Directory, 0o755, 0),
            Node::Link(target) => (FileType::Symlink, 0o777, target.len()),
            Node::File(file) => (FileType::RegularFile, file.mode(), ATTRIBUTE_LEN_MAX),
        };
        Ok(FileAttr {
            ino: self.number(path),
            size: size as u64,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Mount {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = name.to_str().map(|name| format!("{}/{name}", self.path(parent)));
        match path.ok_or(Errno::ENOENT).and_then(|path| self.attr(&path)) {
            Ok(attr) => reply.entry(&Duration::ZERO, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _req: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(&self.path(number)) {
            Ok(attr) => reply.attr(&Duration::ZERO, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, number: INodeNo, reply: ReplyData) {
        match self.node(&self.path(number)) {
            Ok(Node::Link(target)) => reply.data(target.as_bytes()),
            Ok(Node::Dir(_) | Node::File(_)) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (reads, writes) = match flags.0 & libc::O_ACCMODE {
            libc::O_RDONLY => (true, false),
            libc::O_WRONLY => (false, true),
            _ => (true, true),
        };
        match self.file(number) {
            Ok(file) if (reads && file.mode() & 0o444 == 0) || (writes && file.mode() & 0o222 == 0) => {
                reply.error(Errno::EACCES);
            }
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (kernel, file) = (Arc::clone(&self.kernel), self.file(number));
        std::thread::spawn(move || {
            let read = file.and_then(|file| {
                kernel.read_file(&file).map_err(|errno| Errno::from_i32(errno.raw_os_error()))
            });
            match read {
                Ok(bytes) => {
                    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                    let end = start.saturating_add(size as usize).min(bytes.len());
                    reply.data(&bytes[start..end]);
                }
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (kernel, file) = (Arc::clone(&self.kernel), self.file(number));
        let value = String::from_utf8_lossy(data).into_owned();
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        std::thread::spawn(move || {
            let stored = file.and_then(|file| {
                kernel.write_file(&file, &value).map_err(|errno| Errno::from_i32(errno.raw_os_error()))
            });
            match stored {
                Ok(()) => reply.written(written),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        number: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let path = self.path(number);
        let names = match self.node(&path) {
            Ok(Node::Dir(listing)) => self.kernel.names(listing),
            Ok(Node::Link(_) | Node::File(_)) => return reply.error(Errno::ENOTDIR),
            Err(errno) => return reply.error(errno),
        };
        let entries = [".".to_owned(), "..".to_owned()].into_iter().chain(names);
        for (place, name) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let child = if name.starts_with('.') { path.clone() } else { format!("{path}/{name}") };
            let kind = match self.node(&child) {
                Ok(Node::Dir(_)) => FileType::Directory,
                Ok(Node::Link(_)) => FileType::Symlink,
                Ok(Node::File(_)) => FileType::RegularFile,
                Err(_) => continue,
            };
            if reply.add(self.number(&child), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
