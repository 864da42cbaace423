//! The real directory tree: it stays below its root, keeps the kernel's errno, and never reads without a bound.

use std::io;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tranche_host::tree::{ATTRIBUTE_LEN_MAX, DirTree, Tree};

use crate::captured::Captured;

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("an error").raw_os_error().expect("an errno")
}

fn open(captured: &Captured) -> DirTree {
    DirTree::open(captured.root()).expect("the root opens")
}

#[test]
fn a_path_cannot_leave_the_root() {
    let captured = Captured::new("a/b = 1");
    let tree = open(&captured);
    for path in ["../etc/passwd", "/etc/passwd", "a/../../etc/passwd", "./a/b", "a\0b"] {
        assert_eq!(errno(tree.text(path)), libc::EINVAL, "{path:?}");
        assert_eq!(errno(tree.write(path, "1")), libc::EINVAL, "{path:?}");
        assert!(!tree.exists(path), "{path:?}");
    }
}

#[test]
fn links_of_a_captured_tree_lead_to_the_captured_tree() {
    let captured = Captured::new(
        "etc/hostname = captured\n\
         absolute -> /etc/hostname\n\
         relative -> ../../../../../../../../etc/hostname\n\
         proc/self -> /proc/1",
    );
    let tree = open(&captured);
    assert_eq!(tree.text("absolute").unwrap(), "captured");
    assert_eq!(tree.text("relative").unwrap(), "captured");
    assert_eq!(errno(tree.text("proc/self/comm")), libc::ENOENT);
}

#[test]
fn links_in_a_circle_are_an_error() {
    let captured = Captured::new("a -> b\nb -> a\nc -> c/c");
    let tree = open(&captured);
    for path in ["a", "b", "c", "a/vendor"] {
        assert_eq!(errno(tree.text(path)), libc::ELOOP, "{path}");
        assert!(!tree.exists(path), "{path}");
    }
    assert_eq!(tree.link("a").unwrap(), "b");
}

#[test]
fn writing_never_creates_or_shortens_a_file() {
    let captured = Captured::new("attribute = 12345");
    let tree = open(&captured);
    assert_eq!(errno(tree.write("missing", "1")), libc::ENOENT);
    assert!(!tree.exists("missing"));
    tree.write("attribute", "9").unwrap();
    assert_eq!(tree.text("attribute").unwrap(), "92345");
}

#[test]
fn a_huge_file_is_read_up_to_the_bound() {
    let captured = Captured::new("");
    let file = std::fs::File::create(captured.root().join("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let tree = open(&captured);
    assert_eq!(tree.text("huge").unwrap().len(), ATTRIBUTE_LEN_MAX);
    assert_eq!(tree.head("huge", 4).unwrap(), [0; 4]);
}

#[test]
fn what_is_no_regular_file_is_not_read_and_does_not_block() {
    let captured = Captured::new("dir/");
    mknodat(CWD, captured.root().join("fifo").as_std_path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let tree = open(&captured);
    assert_eq!(errno(tree.text("fifo")), libc::EINVAL);
    assert_eq!(errno(tree.text("dir")), libc::EINVAL);
}

#[test]
fn text_that_is_no_utf_8_is_still_text() {
    let captured = Captured::new("");
    std::fs::write(captured.root().join("odd"), b"4\xff\n").unwrap();
    assert_eq!(open(&captured).text("odd").unwrap(), "4\u{fffd}");
}

#[test]
fn all_links_of_a_directory_are_read_at_once() {
    let captured = Captured::new("fd/0 -> /dev/null\nfd/1 -> /dev/vfio/7\nfd/plain = 1");
    let tree = open(&captured);
    assert_eq!(tree.links("fd").unwrap(), ["/dev/null", "/dev/vfio/7"]);
    assert_eq!(tree.list("fd").unwrap(), ["0", "1", "plain"]);
}

#[cfg(feature = "fuse")]
pub(crate) use mounted::{MountedTree, mount};

#[cfg(feature = "fuse")]
mod mounted {
    use std::sync::Arc;

    use camino::Utf8Path;
    use tempfile::TempDir;
    use tranche_host::fake::{FakeKernel, Mounted};
    use tranche_host::tree::DirTree;

    /// A mounted fake kernel. The fields are dropped in their order: closed, unmounted, removed.
    pub(crate) struct MountedTree {
        pub(crate) tree: Arc<DirTree>,
        _mounted: Mounted,
        _dir: TempDir,
    }

    /// Mounts a fake kernel. Where that cannot be done, the tests that need it have seen nothing and fail.
    pub(crate) fn mount(kernel: &Arc<FakeKernel>) -> MountedTree {
        let dir = tempfile::tempdir().expect("a directory");
        let at = Utf8Path::from_path(dir.path()).expect("a path in UTF-8");
        let mounted = Mounted::new(Arc::clone(kernel), at)
            .expect("the fake kernel is mounted, which needs /dev/fuse and fusermount3");
        let tree = Arc::new(DirTree::open(at).expect("the mounted root opens"));
        MountedTree { tree, _mounted: mounted, _dir: dir }
    }
}
