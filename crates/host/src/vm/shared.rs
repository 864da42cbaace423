//! Which storage pools other hosts share.
//!
//! Some kinds of pools are on the network by nature. A pool of files is where its directory is mounted from, and that
//! stands in the table of mounts: asking the file system itself (statfs) would hang for ever on a server that is gone,
//! just when somebody wants to know. What is not known to be shared is local: the VMs stay where they are. That holds for
//! a directory that is reached through a symbolic link, too.

use camino::Utf8Path;

/// Kinds of pools that are reached over a network (libvirt: docs/storage).
const NETWORK_POOLS: [&str; 6] = ["netfs", "rbd", "iscsi", "iscsi-direct", "gluster", "sheepdog"];
/// Kinds of pools that are directories.
const DIRECTORY_POOLS: [&str; 2] = ["dir", "fs"];
/// File systems that several hosts mount at once, by their names in the table of mounts.
const SHARED_FILE_SYSTEMS: [&str; 14] = [
    "9p",
    "nfs",
    "nfs4",
    "ceph",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "ocfs2",
    "gfs2",
    "cifs",
    "smb3",
    "lustre",
    "gpfs",
    "beegfs",
];

/// Whether other hosts see what is in a pool of this kind; `mounts` is `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
pub(super) fn is_shared(kind: &str, path: Option<&str>, mounts: &str) -> bool {
    NETWORK_POOLS.contains(&kind)
        || DIRECTORY_POOLS.contains(&kind)
            && path
                .and_then(|path| file_system(Utf8Path::new(path), mounts))
                .is_some_and(|kind| SHARED_FILE_SYSTEMS.contains(&kind))
}

/// The file system that a path is on: that of the longest mount point above it, and of several on one point the last.
fn file_system<'a>(path: &Utf8Path, mounts: &'a str) -> Option<&'a str> {
    let above = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = unescape(left.split(' ').nth(4)?);
        let kind = right.split(' ').next()?;
        path.starts_with(&point).then_some((Utf8Path::new(&point).components().count(), kind))
    });
    above.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits there.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / /srv/vms rw,relatime shared:9 master:2 - nfs4 filer:/vms rw,vers=4.2
31 30 8:1 / /srv/vms/local rw,relatime - xfs /dev/sda1 rw
32 22 0:41 / /mnt/with\\040space rw - fuse.glusterfs host:/volume rw
33 22 8:2 / /over rw - ext4 /dev/sdb rw
34 33 0:42 / /over rw - ceph mon:/ rw
";

    #[test]
    fn a_directory_is_shared_where_it_is_mounted_from_a_network() {
        for (path, shared) in [
            ("/var/lib/libvirt/images", false),
            ("/srv/vms", true),
            ("/srv/vms/deep/inside", true),
            ("/srv/vmsnot", false),
            ("/srv/vms/local/images", false),
            ("/mnt/with space/images", true),
            ("/over/images", true),
        ] {
            assert_eq!(is_shared("dir", Some(path), MOUNTS), shared, "{path}");
        }
    }

    #[test]
    fn a_kind_tells_where_no_directory_does() {
        for (kind, shared) in
            [("netfs", true), ("rbd", true), ("iscsi", true), ("logical", false), ("zfs", false)]
        {
            assert_eq!(is_shared(kind, Some("/dev/vg"), MOUNTS), shared, "{kind}");
        }
        assert!(!is_shared("dir", None, MOUNTS));
        assert!(!is_shared("dir", Some("/srv/vms"), "garbage\n - \n"));
    }
}
