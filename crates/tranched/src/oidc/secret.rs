//! The secret that this installation shows to the issuer: a file of its own, which nobody else may read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;
use rustix::fs::{Mode, OFlags};
use tranche_api::access::Secret;
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;

/// The longest secret, in bytes.
const LEN_MAX: u64 = 1024;
const READABLE_BY_OTHERS: u32 = 0o077;

/// The secret in a file; none where no file is named.
///
/// # Errors
/// The file cannot be read, others can read it, or it holds something else.
pub(super) fn read(path: &Utf8Path) -> Result<Option<Secret>, Finding> {
    if path.as_str().is_empty() {
        return Ok(None);
    }
    let text = open(path).map_err(|why| say::issuer_secret_unreadable(path.as_str(), &why))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(say::issuer_secret_unreadable(path.as_str(), "it is not one line of text"));
    }
    Ok(Some(Secret(text.to_owned())))
}

fn open(path: &Utf8Path) -> Result<String, String> {
    let in_words = |error: io::Error| error.to_string();
    // A pipe would make whoever opens it wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd =
        rustix::fs::open(path.as_std_path(), flags, Mode::empty()).map_err(|error| in_words(error.into()))?;
    let file = File::from(fd);
    let facts = file.metadata().map_err(in_words)?;
    let owner = facts.uid();
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if !facts.is_file() || !is_ours || facts.mode() & READABLE_BY_OTHERS != 0 {
        let mode = facts.mode() & 0o7777;
        return Err(format!(
            "it must be a file of root with mode 600, and is of user {owner} with mode {mode:o}"
        ));
    }
    let mut text = String::new();
    file.take(LEN_MAX + 1).read_to_string(&mut text).map_err(in_words)?;
    if text.len() as u64 > LEN_MAX {
        return Err(format!("it is longer than {LEN_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use tranche_core::finding::Code;

    use super::*;

    /// What is read of a file with this text and mode.
    fn told(text: &str, mode: u32) -> Result<Option<Secret>, Finding> {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("secret");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read(&path)
    }

    #[test]
    fn a_secret_is_one_line_of_a_file_that_nobody_else_can_read() {
        assert_eq!(told("s3cret\n", 0o600).unwrap(), Some(Secret("s3cret".to_owned())));
        assert_eq!(told("s3cret", 0o400).unwrap(), Some(Secret("s3cret".to_owned())));
        for (text, mode) in
            [("s3cret", 0o644), ("s3cret", 0o640), ("s3cret", 0o602), ("", 0o600), ("a\nb", 0o600)]
        {
            let finding = told(text, mode).unwrap_err();
            assert_eq!(finding.code, Code::IssuerSecretUnreadable, "{mode:o}");
            assert!(!finding.message.contains("s3cret"), "{}", finding.message);
        }
        assert!(told(&"a".repeat(1025), 0o600).is_err());
    }

    #[test]
    fn without_a_file_there_is_no_secret_and_one_that_is_missing_is_told() {
        assert_eq!(read(Utf8Path::new("")).unwrap(), None);
        assert!(read(Utf8Path::new("/nonexistent/secret")).is_err());
    }
}
