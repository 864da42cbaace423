//! The Unix socket: from systemd, or one of our own.
//!
//! Who may connect is decided by the file's mode (0660) and group. A socket left behind by a daemon that died is
//! replaced, but only if nobody answers on it.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Gid, Mode};

use crate::member::guard;

/// The socket's mode: owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// The file that names the groups of the machine.
const GROUP_FILE: &str = "/etc/group";

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    /// The socket, not yet known to any runtime.
    pub socket: UnixListener,
    /// The file to remove at the end; none if systemd made it.
    pub own_path: Option<Utf8PathBuf>,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon answers there.
    #[error("another daemon listens on {path}; stop it first, or choose another `socket`")]
    Taken {
        /// The socket.
        path: Utf8PathBuf,
    },
    /// Something else is in the way.
    #[error("{path} is no socket and is in the way; remove it, or choose another `socket`")]
    NoSocket {
        /// The file.
        path: Utf8PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {path}")]
    System {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Listens: on the socket that systemd passed, else at `path`, for members of `group`.
///
/// Must be called before there are other threads: the mask of new files' modes is the process's own.
///
/// # Errors
/// Another daemon is there, something else is in the way, or the system refuses.
pub fn listen(path: &Utf8Path, group: &str) -> Result<Listening, ListenError> {
    let mut passed =
        sd_notify::listen_fds_with_names().map_err(system("take the socket passed for", path))?;
    if let Some((fd, _)) = passed.find(|(_, name)| name != guard::KEPT_AS) {
        // SAFETY: systemd passed this descriptor to this process (LISTEN_PID was compared), and it is taken only here.
        let socket = unsafe { UnixListener::from_raw_fd(fd) };
        return Ok(Listening { socket, own_path: None });
    }
    remove_stale(path)?;
    let socket = bind(path)?;
    give_to_group(path, group)?;
    Ok(Listening { socket, own_path: Some(path.to_owned()) })
}

/// What systemd kept open under a name since the daemon before died (`FileDescriptorStoreMax=`). Must be asked for once.
pub fn kept(name: &str) -> Option<OwnedFd> {
    let mut passed = sd_notify::listen_fds_with_names().ok()?;
    let (fd, _) = passed.find(|(_, kept)| kept == name)?;
    // SAFETY: systemd passed this descriptor to this process (LISTEN_PID was compared), and it is taken only here: the socket
    // has another name.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind(path: &Utf8Path) -> Result<UnixListener, ListenError> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(system("make the directory of", path))?;
    }
    // Nobody but the owner may connect between bind and the change of group.
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path).map_err(system("listen on", path));
    rustix::process::umask(before);
    bound
}

fn remove_stale(path: &Utf8Path) -> Result<(), ListenError> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ListenError::System { what: "look at", path: path.to_owned(), source }),
    };
    if !kind.is_socket() {
        return Err(ListenError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::Taken { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system("remove the stale socket", path))
        }
        Err(source) => Err(ListenError::System { what: "connect to", path: path.to_owned(), source }),
    }
}

fn give_to_group(path: &Utf8Path, group: &str) -> Result<(), ListenError> {
    let Some(gid) = group_id(group) else {
        tracing::warn!(group, "there is no such group, so only root can connect");
        return Ok(());
    };
    rustix::fs::chown(path.as_std_path(), None, Some(Gid::from_raw(gid)))
        .map_err(io::Error::from)
        .map_err(system("change the group of", path))?;
    let mode = std::fs::Permissions::from_mode(SOCKET_MODE);
    std::fs::set_permissions(path, mode).map_err(system("change the mode of", path))
}

/// The number of a group of this machine.
pub(crate) fn group_id(group: &str) -> Option<u32> {
    let file = std::fs::read_to_string(GROUP_FILE).ok()?;
    find_group(&file, group)
}

/// The id of a group in the form of group(5): `name:password:id:members`.
fn find_group(file: &str, group: &str) -> Option<u32> {
    let mut fields = file.lines().map(|line| line.split(':'));
    fields.find_map(|mut line| (line.next() == Some(group)).then(|| line.nth(1)?.parse().ok()).flatten())
}

fn system(what: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> ListenError {
    move |source| ListenError::System { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_path(dir: &tempfile::TempDir) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(dir.path().join("run/t.sock")).unwrap()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(&dir);
        let first = listen(&path, "no-such-group").unwrap();
        assert!(matches!(listen(&path, "no-such-group"), Err(ListenError::Taken { .. })));
        drop(first);
        assert!(path.exists(), "a dead daemon leaves its socket");
        let second = listen(&path, "no-such-group").unwrap();
        assert_eq!(second.own_path.as_deref(), Some(path.as_path()));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "without the group only the owner may connect");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(dir.path().join("file")).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, "tranche"), Err(ListenError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let file = "root:x:0:\ntranche-old:x:7:\ntranche:x:998:alice,bob\nbroken\n";
        assert_eq!(find_group(file, "tranche"), Some(998));
        assert_eq!(find_group(file, "tran"), None);
        assert_eq!(find_group(file, "broken"), None);
    }
}
