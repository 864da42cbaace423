//! What this machine tells: files, and what programs print. Nothing here takes longer, or more room, than its limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Had;

/// How long a program may take.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much is kept of what a program complains about, in bytes.
const COMPLAINT_LEN_MAX: usize = 2 << 10;
/// The longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A file.
pub(super) fn file(path: &Path) -> Result<Had, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        return Err(format!("it is longer than {FILE_LEN_MAX} bytes"));
    }
    Ok(Had::whole(bytes))
}

/// The end of what a program prints, in English and without colours.
pub(super) fn output(command: &[&str], len_max: usize) -> Result<Had, String> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("there is no program {}", command[0]),
            _ => format!("{} cannot be started: {error}", command[0]),
        })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = thread::spawn(move || end_of(stdout, len_max));
    let stderr = thread::spawn(move || end_of(stderr, COMPLAINT_LEN_MAX));
    let until = Instant::now() + LONGEST;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break Some(status),
            None if Instant::now() >= until => {
                // It may have ended by now; either way it is waited for.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(LOOK_EVERY),
        }
    };
    let (bytes, dropped) = stdout.join().unwrap_or_default();
    let (complaint, _) = stderr.join().unwrap_or_default();
    let mut remarks = Vec::new();
    if dropped {
        remarks.push(format!("only the last {len_max} bytes"));
    }
    match status {
        None => remarks.push(format!("stopped after {} s", LONGEST.as_secs())),
        Some(status) if !status.success() => remarks.push(status.to_string()),
        Some(_) => {}
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    if !complaint.is_empty() {
        remarks.push(complaint);
    }
    let remark = (!remarks.is_empty()).then(|| remarks.join("; "));
    if bytes.is_empty() {
        return Err(remark.unwrap_or_else(|| "it printed nothing".to_owned()));
    }
    Ok(Had { bytes, remark })
}

/// The last so many bytes of a stream, from the begin of a line on, and whether there were more.
fn end_of(stream: Option<impl Read>, len_max: usize) -> (Vec<u8>, bool) {
    let Some(mut stream) = stream else { return Default::default() };
    let (mut kept, mut buffer, mut dropped) = (VecDeque::new(), vec![0; 64 << 10], false);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => kept.extend(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        let over = kept.len().saturating_sub(len_max);
        if over > 0 {
            kept.drain(..over);
            dropped = true;
        }
    }
    let mut kept = Vec::from(kept);
    if dropped && let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
        kept.drain(..=end);
    }
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_text_begins_with_a_line() {
        assert_eq!(end_of(Some(&b"one\ntwo\nthree\n"[..]), 9), (b"three\n".to_vec(), true));
        assert_eq!(end_of(Some(&b"one\ntwo\n"[..]), 9), (b"one\ntwo\n".to_vec(), false));
    }

    #[test]
    fn what_a_program_complains_about_is_told() {
        let had = output(&["sh", "-c", "echo kept; echo 'no right' >&2; exit 3"], 100).unwrap();
        assert_eq!(had.bytes, b"kept\n");
        assert_eq!(had.remark.unwrap(), "exit status: 3; no right");
        assert_eq!(output(&["sh", "-c", "echo no >&2; exit 1"], 100).unwrap_err(), "exit status: 1; no");
        assert_eq!(output(&["no-such-program"], 100).unwrap_err(), "there is no program no-such-program");
    }
}
