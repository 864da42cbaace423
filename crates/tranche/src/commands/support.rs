//! `tranche support-bundle`: what somebody needs who shall find out what is wrong, in one archive.
//!
//! It is made when things are broken, so every part is optional: what cannot be had is left out, and the archive says why. No part
//! gets into it but through [`redact`].

mod archive;
mod gather;
mod redact;

use std::path::{Path, PathBuf};

use serde::Serialize;

use self::archive::Archive;
use super::cluster::write_anew;
use super::{Daemon, inspect};
use crate::cli::SupportArgs;
use crate::client::ClientError;
use crate::failure::{Exit, Failure};
use crate::output::{Bundle, LeftOut, Part, chain};

/// What the daemon is asked for.
const QUESTIONS: [&str; 14] = [
    "/healthz",
    "/metrics",
    "/v1/hosts",
    "/v1/gpus",
    "/v1/partitions",
    "/v1/vms",
    "/v1/findings",
    "/v1/doctor",
    "/v1/operations",
    "/v1/policy",
    "/v1/rules",
    "/v1/homogeneity",
    "/v1/capacity",
    "/v1/cluster",
];

/// What programs of this machine are asked for: the file's name, how much of the end of it is kept in bytes, and the program.
const PROGRAMS: [(&str, usize, &[&str]); 5] = [
    (
        "journal.txt",
        10 << 20,
        &[
            "journalctl",
            "-u",
            "tranched",
            "-u",
            "tranche-etcd",
            "--since",
            "-24h",
            "--no-pager",
            "-o",
            "short-iso",
        ],
    ),
    ("lspci.txt", 1 << 20, &["lspci", "-nnk"]),
    ("dmesg.txt", 1 << 20, &["dmesg"]),
    (
        "packages.txt",
        64 << 10,
        &[
            "dpkg-query",
            "-W",
            "tranche",
            "etcd-server",
            "libvirt-daemon-system",
            "qemu-system-x86",
            "fence-agents*",
        ],
    ),
    ("systemd.txt", 64 << 10, &["systemctl", "--no-pager", "--lines=0", "status", "tranche*", "libvirtd"]),
];

/// What stands in the archive about itself.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    tranche: &'static str,
    made_at: String,
    machine: &'a str,
    hidden: &'static str,
    parts: &'a [Part],
    left_out: &'a [LeftOut],
}

const WHAT_IS_HIDDEN: &str = "Values of fields whose names speak of passwords, secrets, tokens, keys, hashes, links or cloud-init, options of \
     fence agents, and what looks like one of these in text, are replaced by (hidden).";

/// What has been collected so far.
#[derive(Debug)]
struct Collection {
    archive: Archive,
    parts: Vec<Part>,
    left_out: Vec<LeftOut>,
}

/// Text that was had from somewhere, secrets and all.
#[derive(Debug)]
struct Had {
    bytes: Vec<u8>,
    remark: Option<String>,
}

impl Had {
    fn whole(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), remark: None }
    }
}

pub(super) fn run(args: SupportArgs, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let (now, uname) = (jiff::Timestamp::now(), rustix::system::uname());
    let machine = uname.nodename().to_string_lossy().into_owned();
    let name = name(&machine, now);
    let file = args.file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    if file.symlink_metadata().is_ok() {
        let source = std::io::ErrorKind::AlreadyExists.into();
        return Err(Failure::Write { what: format!("The file {}", file.display()), source });
    }
    let mut progress = daemon.console.progress("collect");
    let steps = QUESTIONS.len() + PROGRAMS.len() + 3;
    let mut done = 0;
    let mut step = |what: &str| {
        progress.percent(u8::try_from(done * 100 / steps).unwrap_or(100));
        progress.line(what);
        done += 1;
    };
    let archive = Archive::new(&name, now).map_err(|source| unwritten(&file, source))?;
    let mut collection = Collection { archive, parts: Vec::new(), left_out: Vec::new() };
    let mut silent = None;
    for path in QUESTIONS {
        step(path);
        let had = match &silent {
            Some(why) => Err(String::clone(why)),
            None => daemon.client.bytes(path).map(Had::whole).map_err(|error| {
                let why = chain(&error);
                // Each further question would be waited for as long.
                if matches!(error, ClientError::Unreachable { .. } | ClientError::Silent { .. }) {
                    silent = Some(why.clone());
                }
                why
            }),
        };
        collection.add(&file_of(path), &format!("GET {path}"), redact::answer, had, &file)?;
    }
    for (name, len_max, command) in PROGRAMS {
        step(command[0]);
        let had = gather::output(command, len_max);
        collection.add(name, &command.join(" "), redact::text, had, &file)?;
    }
    step("settings");
    let settings = gather::file(&args.settings);
    collection.add(
        "tranched.toml",
        &args.settings.display().to_string(),
        redact::settings,
        settings,
        &file,
    )?;
    step("kernel");
    collection.add("uname.txt", "uname(2)", redact::text, Ok(Had::whole(system(&uname))), &file)?;
    step("devices");
    let sheet = inspect::look("/".into(), "/etc/tranche/catalogue.d".into());
    let sheet = serde_json::to_vec(&sheet).map(Had::whole).map_err(|error| error.to_string());
    collection.add("inspect.json", "tranche inspect --json", redact::answer, sheet, &file)?;
    let Collection { mut archive, parts, left_out } = collection;
    let manifest = Manifest {
        tranche: env!("CARGO_PKG_VERSION"),
        made_at: now.to_string(),
        machine: &machine,
        hidden: WHAT_IS_HIDDEN,
        parts: &parts,
        left_out: &left_out,
    };
    let text =
        serde_json::to_vec_pretty(&manifest).map_err(|source| Failure::Print { source: source.into() })?;
    let bytes = archive.add("manifest.json", &text).and_then(|()| archive.finish());
    let bytes = bytes.map_err(|source| unwritten(&file, source))?;
    progress.clear();
    write_anew(&file, &bytes)?;
    // Much is left out for one reason if the daemon cannot be reached.
    for parts in left_out.chunk_by(|one, other| one.why == other.why) {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        daemon.console.note(&format!("left out: {}: {}", names.join(", "), parts[0].why));
    }
    daemon.show(&Bundle { file, bytes: bytes.len(), parts, left_out })
}

impl Collection {
    /// Adds what was had, without its secrets; or that it was not.
    fn add(
        &mut self,
        name: &str,
        source: &str,
        without_secrets: fn(&[u8]) -> Result<String, String>,
        had: Result<Had, String>,
        file: &Path,
    ) -> Result<(), Failure> {
        let (name, source) = (name.to_owned(), source.to_owned());
        let had = had.and_then(|had| Ok((without_secrets(&had.bytes)?, had.remark)));
        match had {
            Ok((text, remark)) => {
                self.archive.add(&name, text.as_bytes()).map_err(|source| unwritten(file, source))?;
                let remark = remark.map(|remark| redact::line(&remark));
                self.parts.push(Part { name, source, bytes: text.len(), remark });
            }
            Err(why) => self.left_out.push(LeftOut { name, source, why: redact::line(&why) }),
        }
        Ok(())
    }
}

fn unwritten(file: &Path, source: std::io::Error) -> Failure {
    Failure::Write { what: format!("The file {}", file.display()), source }
}

/// A name for the archive and the directory in it.
fn name(machine: &str, now: jiff::Timestamp) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let machine: String = machine.chars().map(plain).collect();
    format!("tranche-support-{machine}-{}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// Where an answer lies in the archive.
fn file_of(path: &str) -> String {
    match path.strip_prefix("/v1/") {
        Some(name) => format!("rest/{name}.json"),
        None if path == "/metrics" => "metrics.txt".to_owned(),
        None => format!("{}.json", path.trim_start_matches('/')),
    }
}

fn system(uname: &rustix::system::Uname) -> String {
    let parts = [uname.sysname(), uname.nodename(), uname.release(), uname.version(), uname.machine()];
    parts.map(|part| part.to_string_lossy()).join(" ") + "\n"
}
