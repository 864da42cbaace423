//! What is written to an agent's standard input, secrets included, and how they are kept out of everything else.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use camino::Utf8Path;
use rustix::fs::{Mode, OFlags};
use tranche_core::fence;
use tranche_core::finding::{Code, Finding};
use tranche_core::name::HostName;

use super::{Places, is_ours, problem};

/// The longest secret, in bytes.
const SECRET_LEN_MAX: u64 = 1024;
/// What stands where a secret stood.
const REDACTED: &str = "[secret]";
const READABLE_BY_OTHERS: u32 = 0o077;

/// The options of an agent, secrets put in.
#[derive(Default)]
pub(super) struct Input {
    options: Vec<(String, String)>,
    /// The longest first, so that one that is part of another does not leave the rest of it.
    secrets: Vec<String>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("options", &self.options.len()).finish_non_exhaustive()
    }
}

impl Input {
    /// Reads the secrets that the options name.
    pub(super) fn read(
        places: &Places,
        host: &HostName,
        options: &BTreeMap<String, String>,
    ) -> Result<Self, Box<Finding>> {
        let mut input = Self::default();
        for (name, value) in options {
            let value = match value.strip_prefix(fence::SECRET) {
                None => value.clone(),
                Some(secret) => {
                    let text =
                        read(places, secret).map_err(|reason| unreadable(places, host, secret, &reason))?;
                    input.secrets.push(text.clone());
                    text
                }
            };
            input.options.push((name.clone(), value));
        }
        input.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(input)
    }

    /// What is written to the agent.
    pub(super) fn lines(&self, action: &str) -> String {
        let mut lines = format!("action={action}\n");
        for (name, value) in &self.options {
            lines.push_str(&format!("{name}={}\n", quoted(value)));
        }
        lines
    }

    /// A text without any secret in it.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, REDACTED))
    }

    /// The length of the longest secret, in bytes.
    pub(super) fn longest_secret(&self) -> usize {
        self.secrets.first().map_or(0, String::len)
    }
}

/// Agents strip each line, and take one pair of quotes away (fence-agents: lib/fencing.py, `_parse_input_stdin`); so a value
/// that would suffer gets a pair.
fn quoted(value: &str) -> String {
    let suffers =
        value.trim() != value || (value.len() > 1 && value.starts_with('"') && value.ends_with('"'));
    if suffers { format!("\"{value}\"") } else { value.to_owned() }
}

fn read(places: &Places, name: &str) -> Result<String, String> {
    if !fence::is_secret_name(name) {
        return Err("its name has other characters than letters, digits, '.', '_' and '-'".to_owned());
    }
    let text = open(&places.secrets_dir.join(name))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("it is not one line of text".to_owned());
    }
    Ok(text.to_owned())
}

fn open(path: &Utf8Path) -> Result<String, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let in_words = |error: io::Error| error.to_string();
    let fd =
        rustix::fs::open(path.as_std_path(), flags, Mode::empty()).map_err(|error| in_words(error.into()))?;
    let file = File::from(fd);
    let facts = file.metadata().map_err(in_words)?;
    if !facts.is_file() || !is_ours(facts.uid()) || facts.mode() & READABLE_BY_OTHERS != 0 {
        return Err(format!(
            "it must be a file of root with mode 600, and is of user {} with mode {:o}",
            facts.uid(),
            facts.mode() & 0o7777
        ));
    }
    let mut text = String::new();
    file.take(SECRET_LEN_MAX + 1).read_to_string(&mut text).map_err(in_words)?;
    if text.len() as u64 > SECRET_LEN_MAX {
        return Err(format!("it is longer than {SECRET_LEN_MAX} bytes"));
    }
    Ok(text)
}

fn unreadable(places: &Places, host: &HostName, secret: &str, reason: &str) -> Box<Finding> {
    let dir = &places.secrets_dir;
    let message =
        format!("The secret {secret:?} for the fence agent of host {host} cannot be used: {reason}.");
    let hint = format!("Put it into a file in {dir} on every host: 'install -m 600 /dev/stdin {dir}/NAME'.");
    problem(host, Code::FenceSecretUnreadable, message, &hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_arrives_as_it_is() {
        for (value, line) in
            [("plain", "plain"), (" edge", "\" edge\""), ("\"x\"", "\"\"x\"\""), ("\"", "\"")]
        {
            assert_eq!(quoted(value), line);
        }
    }

    #[test]
    fn of_secrets_within_secrets_nothing_is_left() {
        let secrets = vec!["hunter22".to_owned(), "hunter2".to_owned()];
        let input = Input { options: Vec::new(), secrets };
        assert_eq!(
            input.redact("hunter22 and hunter2, hunter2hunter22"),
            "[secret] and [secret], [secret][secret]"
        );
        assert!(!format!("{input:?}").contains("hunter"));
    }
}
