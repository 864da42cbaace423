//! The helper that loads modules, over a directory that looks like a machine, with a program in the place of modprobe.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use camino::{Utf8Path, Utf8PathBuf};
use tranche_host::modules::server::{self, Machine as _, ThisMachine};

/// A machine whose modprobe writes down what it is called with, and fails where a file says so.
struct Room {
    _dir: tempfile::TempDir,
    root: Utf8PathBuf,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        for below in ["sbin", "etc/modprobe.d"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {root}/calls\n[ -z \"$HOME\" ] || echo 'an environment' >> {root}/calls\n\
             if [ -s {root}/fail ] && [ \"$*\" = \"$(head -n 1 {root}/fail)\" ]; then\n\
             sed -i 1d {root}/fail; echo 'modprobe: ERROR: it failed' >&2; exit 1; fi\n"
        );
        fs::write(root.join("sbin/modprobe"), script).unwrap();
        fs::set_permissions(root.join("sbin/modprobe"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { _dir: dir, root }
    }

    /// What the helper answers to these bytes, on a socket.
    fn answer(&self, request: &[u8]) -> String {
        let (mut client, service) = UnixStream::pair().unwrap();
        client.write_all(request).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // A request that is refused for its length gets no answer: the helper ends.
        let _ = server::serve(&service, &service, &ThisMachine::at(&self.root));
        drop(service);
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn fail(&self, calls: &str) {
        fs::write(self.root.join("fail"), calls).unwrap();
    }

    fn options(&self) -> Option<String> {
        fs::read_to_string(self.root.join(server::OPTIONS)).ok()
    }
}

fn with_header(count: u16) -> String {
    format!("{}\noptions gim vf_num={count}\n", server::HEADER)
}

#[test]
fn a_module_of_the_list_is_loaded_without_an_environment_and_no_other_word_reaches_modprobe() {
    let room = Room::new();
    assert_eq!(room.answer(b"load xe_vfio_pci\n"), "ok\n");
    assert_eq!(room.calls(), ["xe_vfio_pci"]);
    for line in
        ["load nvidia\n", "load vfio_pci;reboot\n", "load -r\n", "\n", "", "count gim 99\n", "load \u{e4}\n"]
    {
        assert!(room.answer(line.as_bytes()).starts_with("error "), "{line:?}");
    }
    assert_eq!(room.answer(&[b'x'; 4_096]), "", "what is too long is not answered");
    assert_eq!(room.answer(b"load vfio\xff\n"), "");
    assert_eq!(room.calls().len(), 1);
}

#[test]
fn a_count_is_written_whole_and_the_driver_loaded_anew() {
    let room = Room::new();
    assert_eq!(room.answer(b"count gim 8\n"), "ok\n");
    assert_eq!(
        (room.calls(), room.options()),
        (vec!["-r gim".to_owned(), "gim".to_owned()], Some(with_header(8)))
    );
    let options = room.root.join(server::OPTIONS);
    assert_eq!(fs::metadata(&options).unwrap().permissions().mode() & 0o777, 0o644);
    // What an earlier helper left when it was killed is in nobody's way.
    fs::write(format!("{options}.new"), "half").unwrap();
    assert_eq!(room.answer(b"count gim 1\n"), "ok\n");
    assert_eq!(room.options(), Some(with_header(1)));
    let left: Vec<_> = fs::read_dir(options.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn a_load_that_fails_brings_file_and_driver_back() {
    let room = Room::new();
    fs::write(room.root.join(server::OPTIONS), with_header(4)).unwrap();
    room.fail("gim\n");
    let answer = room.answer(b"count gim 8\n");
    assert!(answer.starts_with("error rolled_back ") && answer.contains("it failed"), "{answer}");
    assert_eq!(
        (room.calls(), room.options()),
        (["-r gim", "gim", "gim"].map(str::to_owned).to_vec(), Some(with_header(4)))
    );
    room.fail("gim\ngim\n");
    assert!(room.answer(b"count gim 8\n").starts_with("error not_loaded "));
    assert_eq!(room.options(), Some(with_header(4)));
    room.fail("-r gim\n");
    assert!(room.answer(b"count gim 8\n").starts_with("error unload_failed "));
    assert_eq!((room.calls().last().unwrap().as_str(), room.options()), ("-r gim", Some(with_header(4))));
}

#[test]
fn what_other_people_wrote_is_neither_overwritten_nor_contradicted() {
    for (path, text, code) in [
        (server::OPTIONS, "options gim vf_num=2\n", "foreign_file"),
        ("etc/modprobe.d/gim.conf", "options gim vf_num=2\n", "contradicted"),
        ("etc/gim_config", "vf_num=2\n", "contradicted"),
    ] {
        let room = Room::new();
        fs::write(room.root.join(path), text).unwrap();
        let answer = room.answer(b"count gim 8\n");
        assert!(answer.starts_with(&format!("error {code} /{path} ")), "{answer}");
        assert_eq!(
            (fs::read_to_string(room.root.join(path)).unwrap().as_str(), room.calls().len()),
            (text, 0)
        );
    }
}

#[test]
fn a_link_in_the_place_of_the_file_is_replaced_and_never_written_through() {
    let room = Room::new();
    let target = room.root.join("target");
    fs::write(&target, with_header(2)).unwrap();
    std::os::unix::fs::symlink(&target, room.root.join(server::OPTIONS)).unwrap();
    assert_eq!(room.answer(b"count gim 8\n"), "ok\n");
    assert_eq!(
        (fs::read_to_string(&target).unwrap(), room.options()),
        (with_header(2), Some(with_header(8)))
    );
}

#[test]
fn nothing_that_could_wait_is_read() {
    let room = Room::new();
    let machine = ThisMachine::at(&room.root);
    assert!(machine.text("etc/modprobe.d").is_err(), "a directory");
    assert!(
        machine.text("dev/null").is_err() && ThisMachine::at(Utf8Path::new("/")).text("dev/zero").is_err()
    );
}
