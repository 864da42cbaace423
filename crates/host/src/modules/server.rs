//! The helper's side: one line is read, checked against closed lists, done, and answered.
//!
//! It runs as root with the one right to load modules, so it takes nothing from the line but an entry of a list or a small
//! number. There is no shell, every path is absolute, and programs get an empty environment.
//!
//! ```text
//! load MODULE        modprobe it; MODULE is one of LOADABLE
//! count gim N        /etc/modprobe.d/tranche-gim.conf says N, modprobe -r gim, modprobe gim; if that fails, all of it back
//! ```
//!
//! Facts: modprobe.d(5); the driver's documentation (amd/MxGPU-Virtualization): `vf_num`, and the same key in
//! `/etc/gim_config`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};

use super::{ANSWER_LEN_MAX, REQUEST_LEN_MAX};
use crate::gim;
use crate::tree::Ran;

/// The modules that are loaded on request: vfio-pci and its variants, as the kernel has them (drivers/vfio/pci).
pub const LOADABLE: [&str; 8] = [
    "hisi_acc_vfio_pci",
    "mlx5_vfio_pci",
    "nvgrace_gpu_vfio_pci",
    "pds_vfio_pci",
    "qat_vfio_pci",
    "vfio_pci",
    "virtio_vfio_pci",
    "xe_vfio_pci",
];
/// How many virtual functions gim can be told to make.
pub const COUNTS: RangeInclusive<u16> = 1..=31;
/// Where gim is told how many, read at each load.
pub const OPTIONS: &str = "etc/modprobe.d/tranche-gim.conf";
/// The first line of that file: a file that begins otherwise is somebody else's.
pub const HEADER: &str =
    "# Written by Tranche for 'tranche gpu partition --reload-driver', which also changes it.";

/// The file at [`OPTIONS`] is somebody else's.
pub(super) const FOREIGN_FILE: &str = "foreign_file";
/// Another file says how many, too.
pub(super) const CONTRADICTED: &str = "contradicted";
/// The driver could not be unloaded: something uses it.
pub(super) const UNLOAD_FAILED: &str = "unload_failed";

const MODPROBE: &str = "sbin/modprobe";
const PARAMETER: &str = "vf_num";
/// Where else modprobe finds parameters.
const OPTION_DIRS: [&str; 3] = ["etc/modprobe.d", "run/modprobe.d", "usr/lib/modprobe.d"];
/// The driver's own settings.
const SETTINGS: &str = "etc/gim_config";
/// The longest file of settings that is read, in bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// What the helper does to a machine.
pub trait Machine {
    /// A file's text.
    ///
    /// # Errors
    /// The system's; `NotFound` where there is none.
    fn text(&self, path: &str) -> io::Result<String>;

    /// The names in a directory; none if it is not there.
    fn names(&self, dir: &str) -> Vec<String>;

    /// Replaces a file whole and durably, or removes it.
    ///
    /// # Errors
    /// The system's; the file is then as it was.
    fn put(&self, path: &str, text: Option<&str>) -> io::Result<()>;

    /// Runs modprobe.
    ///
    /// # Errors
    /// That it cannot be run.
    fn modprobe(&self, arguments: &[&str]) -> io::Result<Ran>;
}

/// Reads one request, carries it out and answers it.
///
/// # Errors
/// The socket's. What is wrong with the request is in the answer.
pub fn serve(mut input: impl Read, mut output: impl Write, machine: &dyn Machine) -> io::Result<()> {
    let request = line(&mut input, REQUEST_LEN_MAX)?;
    let answer = match Request::parse(&request).and_then(|request| request.carry_out(machine)) {
        Ok(()) => "ok".to_owned(),
        Err((code, text)) => {
            // Whatever a program said must not end the line.
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let text: String = text.chars().take(ANSWER_LEN_MAX / 8).collect();
            format!("error {code} {text}")
        }
    };
    output.write_all(format!("{answer}\n").as_bytes())?;
    output.flush()
}

/// A line without its newline, or as much of it as there is; longer ones are refused (`InvalidData`).
pub(super) fn line(input: &mut impl Read, len_max: usize) -> io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        match input.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() == len_max => return Err(io::ErrorKind::InvalidData.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A code and a sentence.
type Failure = (&'static str, String);

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Load(&'static str),
    Count(u16),
}

impl Request {
    fn parse(line: &str) -> Result<Self, Failure> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["load", module] => {
                let known = LOADABLE.into_iter().find(|known| *known == module);
                known
                    .map(Self::Load)
                    .ok_or(("unknown_module", "That module is not one that is loaded here.".to_owned()))
            }
            ["count", gim::DRIVER, count] => {
                let plain = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
                let count = count.parse().ok().filter(|count| plain && COUNTS.contains(count));
                let range = || format!("It can be told {} to {}.", COUNTS.start(), COUNTS.end());
                count.map(Self::Count).ok_or_else(|| ("count_out_of_range", range()))
            }
            _ => Err(("malformed", "Requests are 'load MODULE' and 'count gim N'.".to_owned())),
        }
    }

    fn carry_out(&self, machine: &dyn Machine) -> Result<(), Failure> {
        match self {
            Self::Load(module) => modprobe(machine, &[module]).map_err(|why| ("load_failed", why)),
            Self::Count(count) => change_count(machine, *count),
        }
    }
}

/// Has the driver loaded with another count, or leaves all as it was.
fn change_count(machine: &dyn Machine, count: u16) -> Result<(), Failure> {
    let before = our_options(machine)?;
    if let Some(path) = other_place(machine)? {
        return Err((CONTRADICTED, format!("/{path} sets {PARAMETER}, too; it would contradict.")));
    }
    let options = format!("{HEADER}\noptions {} {PARAMETER}={count}\n", gim::DRIVER);
    let put = |text: Option<&str>| {
        machine
            .put(OPTIONS, text)
            .map_err(|error| ("file_failed", format!("/{OPTIONS} cannot be written: {error}.")))
    };
    put(Some(&options))?;
    if let Err(why) = modprobe(machine, &["-r", gim::DRIVER]) {
        put(before.as_deref())?;
        return Err((UNLOAD_FAILED, format!("{why} It stays loaded as it was.")));
    }
    let Err(why) = modprobe(machine, &[gim::DRIVER]) else { return Ok(()) };
    put(before.as_deref())?;
    match modprobe(machine, &[gim::DRIVER]) {
        Ok(()) => Err(("rolled_back", format!("{why} It was loaded again as it was before."))),
        Err(again) => Err((
            "not_loaded",
            format!("{why} Loading it as it was before failed, too, so it is not loaded: {again}"),
        )),
    }
}

/// What our file says; none if there is none.
fn our_options(machine: &dyn Machine) -> Result<Option<String>, Failure> {
    let foreign = |what: &str| (FOREIGN_FILE, format!("/{OPTIONS} {what}, so it stays as it is."));
    match machine.text(OPTIONS) {
        Ok(text) if text.lines().next() == Some(HEADER) => Ok(Some(text)),
        Ok(_) => Err(foreign("was not written by Tranche")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(foreign(&format!("cannot be read ({error})"))),
    }
}

/// Another place that says how many.
fn other_place(machine: &dyn Machine) -> Result<Option<String>, Failure> {
    let unread = |path: &str, error: &io::Error| ("file_failed", format!("/{path} cannot be read: {error}."));
    for dir in OPTION_DIRS {
        for name in machine.names(dir) {
            let path = format!("{dir}/{name}");
            if path == OPTIONS || !name.ends_with(".conf") {
                continue;
            }
            let text = match machine.text(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(|error| unread(&path, &error))?,
            };
            // A backslash at its end continues a line.
            if text.replace("\\\n", " ").lines().any(sets_count) {
                return Ok(Some(path));
            }
        }
    }
    match machine.text(SETTINGS) {
        Ok(text) => Ok(text.lines().any(is_setting).then(|| SETTINGS.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(SETTINGS, &error)),
    }
}

/// `options gim … vf_num=…`
fn sets_count(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    words.next() == Some("options")
        && words.next() == Some(gim::DRIVER)
        && words.any(|word| word.trim_start_matches('"').starts_with(PARAMETER))
}

/// `vf_num …`, not in a comment.
fn is_setting(line: &str) -> bool {
    line.trim_start().starts_with(PARAMETER)
}

fn modprobe(machine: &dyn Machine, arguments: &[&str]) -> Result<(), String> {
    let call = || format!("'modprobe {}'", arguments.join(" "));
    match machine.modprobe(arguments) {
        Ok(ran) if ran.success => Ok(()),
        Ok(ran) => Err(format!("{} failed; it said: {}.", call(), ran.last_words())),
        Err(error) => Err(format!("{} cannot be run: {error}.", call())),
    }
}

/// This machine; for tests, a directory that looks like it.
#[derive(Debug)]
pub struct ThisMachine {
    root: Utf8PathBuf,
}

impl ThisMachine {
    /// The machine whose root directory this is.
    pub fn at(root: &Utf8Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Machine for ThisMachine {
    fn text(&self, path: &str) -> io::Result<String> {
        let path = self.root.join(path);
        // Through links, as modprobe reads it; but nothing that could wait, as a FIFO does.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut text = Vec::new();
        fs::File::open(&path)?.take(FILE_LEN_MAX).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn put(&self, path: &str, text: Option<&str>) -> io::Result<()> {
        let path = self.root.join(path);
        let dir = path.parent().map_or_else(|| self.root.clone(), Utf8Path::to_owned);
        match text {
            None => fs::remove_file(&path)?,
            Some(text) => {
                // modprobe reads no file whose name ends so, should one stay behind.
                let new = Utf8PathBuf::from(format!("{path}.new"));
                let _ = fs::remove_file(&new);
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
                file.write_all(text.as_bytes())?;
                file.set_permissions(fs::Permissions::from_mode(0o644))?;
                file.sync_all()?;
                fs::rename(&new, &path)?;
            }
        }
        fs::File::open(dir)?.sync_all()
    }

    fn modprobe(&self, arguments: &[&str]) -> io::Result<Ran> {
        // By this very name: the program tells by it what it shall be.
        let output = Command::new(self.root.join(MODPROBE))
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()?;
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok(Ran { success: output.status.success(), said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_requests_are_understood_and_only_with_arguments_from_the_lists() {
        assert_eq!(Request::parse("load xe_vfio_pci"), Ok(Request::Load("xe_vfio_pci")));
        assert_eq!(Request::parse("count gim 31"), Ok(Request::Count(31)));
        let refused = [
            ("load nvidia", "unknown_module"),
            ("load vfio-pci", "unknown_module"),
            ("load ../vfio_pci", "unknown_module"),
            ("load vfio_pci -f", "malformed"),
            ("load", "malformed"),
            ("", "malformed"),
            ("count amdgpu 4", "malformed"),
            ("count gim 0", "count_out_of_range"),
            ("count gim 32", "count_out_of_range"),
            ("count gim +4", "count_out_of_range"),
            ("count gim 4,8", "count_out_of_range"),
            ("count gim ", "count_out_of_range"),
            ("unload gim", "malformed"),
        ];
        for (line, code) in refused {
            assert_eq!(Request::parse(line).unwrap_err().0, code, "{line:?}");
        }
    }

    #[test]
    fn another_count_is_seen_wherever_modprobe_sees_it_and_not_in_comments() {
        for line in ["options gim vf_num=2", "options  gim fullaccess_timeout=9 vf_num=2,4"] {
            assert!(sets_count(line), "{line}");
        }
        for line in
            ["# options gim vf_num=2", "options gimp vf_num=2", "options gim sch_policy=1", "blacklist gim"]
        {
            assert!(!sets_count(line), "{line}");
        }
        assert!(is_setting(" vf_num=4") && !is_setting("#vf_num=4"));
    }
}
