//! Keys: what a value is stored under.
//!
//! A key is a short path of plain segments. Segments are checked where a key is made, so that no store has to escape
//! anything, a range never cuts a segment in two, and keys read well in `sqlite3` and `etcdctl`.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 512;
/// The longest segment of a key, in bytes: as long as the longest host name.
pub const SEGMENT_LEN_MAX: usize = 253;
/// The most segments of a key.
pub const SEGMENTS_MAX: usize = 8;

/// Why a text is not a key or a range of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid store key: {rule}")]
pub struct KeyError {
    /// The text, cut to a length that is safe to print.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// What a value is stored under: 1 to [`SEGMENTS_MAX`] segments of `A-Z a-z 0-9 . _ : -`, joined by `/`.
///
/// Keys are ordered by their bytes, in every store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Joins `segments` to a key.
    ///
    /// # Errors
    /// [`KeyError`] when a segment, their number or the whole breaks a rule.
    pub fn of(segments: &[&str]) -> Result<Self, KeyError> {
        // A segment with a separator inside would otherwise pass as two.
        for segment in segments {
            check_segment(segment)?;
        }
        segments.join("/").parse()
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

/// Keys are ordered as their texts are, so a map of keys can be searched by text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Keys that follow each other: those below the same segments, one alone, or all from some to others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    start: String,
    /// After every key of it.
    end: Cow<'static, str>,
}

impl KeyRange {
    /// Every key: every byte that one may hold is below `~`.
    pub const ALL: Self = Self { start: String::new(), end: Cow::Borrowed("~") };

    /// The keys below `segments`; a key of exactly these segments is not among them.
    ///
    /// # Errors
    /// [`KeyError`] when a segment, their number or the whole breaks a rule.
    pub fn below(segments: &[&str]) -> Result<Self, KeyError> {
        if segments.is_empty() {
            return Ok(Self::ALL);
        }
        // '0' is the byte after '/'.
        Key::of(segments).map(|key| Self { start: format!("{key}/"), end: format!("{key}0").into() })
    }

    /// This key alone, and none below it.
    pub fn exactly(key: &Key) -> Self {
        // Every byte that a key may hold is above '!'.
        Self { start: key.0.clone(), end: format!("{key}!").into() }
    }

    /// All keys from the first of this range to the last of another.
    #[must_use]
    pub fn through(self, last: Self) -> Self {
        Self { start: self.start, end: last.end }
    }

    /// The text that none of its keys is before.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// The first text that is after all of its keys: the exclusive end of a range, as SQL and etcd take it.
    pub(crate) fn end(&self) -> &str {
        &self.end
    }

    /// Whether `key` is in this range.
    pub fn contains(&self, key: &Key) -> bool {
        (self.start()..self.end()).contains(&key.as_str())
    }
}

impl FromStr for KeyRange {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Ok(Self::ALL);
        }
        let stem = text.strip_suffix('/').ok_or_else(|| error(text, "a range is empty or ends in '/'"))?;
        check(stem)?;
        Ok(Self { start: text.to_owned(), end: format!("{stem}0").into() })
    }
}

fn check(text: &str) -> Result<(), KeyError> {
    if text.len() > KEY_LEN_MAX {
        return Err(error(text, "it is longer than 512 bytes"));
    }
    if text.split('/').count() > SEGMENTS_MAX {
        return Err(error(text, "it has more than 8 segments"));
    }
    text.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), KeyError> {
    if segment.is_empty() || segment.len() > SEGMENT_LEN_MAX {
        return Err(error(segment, "a segment has 1 to 253 bytes"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
    if !segment.bytes().all(plain) {
        return Err(error(segment, "a segment is made of letters, digits, '.', '_', ':' and '-'"));
    }
    Ok(())
}

fn error(text: &str, rule: &'static str) -> KeyError {
    KeyError { text: text.chars().take(80).collect(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_path_of_plain_segments() {
        assert_eq!(Key::of(&["spec", "vm", "Desk-01.a_b"]).unwrap().as_str(), "spec/vm/Desk-01.a_b");
        let long = "x".repeat(SEGMENT_LEN_MAX + 1);
        let deep = ["a"; SEGMENTS_MAX + 1].join("/");
        let wide = ["x".repeat(200), "x".repeat(200), "x".repeat(200)].join("/");
        for text in ["", "/", "a/", "/a", "a//b", "a b", "a%b", "é", "a\0b", &long, &deep, &wide] {
            assert!(text.parse::<Key>().is_err(), "{text:?} was taken");
        }
        assert!(Key::of(&["a/b"]).is_err(), "a separator inside a segment was taken");
        assert!(Key::of(&[]).is_err(), "no segment at all was taken");
    }

    #[test]
    fn a_range_never_cuts_a_segment_in_two() {
        let vm = KeyRange::below(&["spec", "vm"]).unwrap();
        assert!(vm.contains(&"spec/vm/a".parse().unwrap()));
        for other in ["spec/vm", "spec/vmware/a", "spec/vm.a"] {
            assert!(!vm.contains(&other.parse().unwrap()), "{other} is not below {vm:?}");
        }
        assert!("spec/vm".parse::<KeyRange>().is_err());
        assert_eq!("".parse::<KeyRange>().unwrap(), KeyRange::ALL);
        assert_eq!(KeyRange::below(&[]).unwrap(), KeyRange::ALL);
    }

    #[test]
    fn the_end_of_a_range_is_after_its_last_key_and_before_the_next_stranger() {
        let vm = KeyRange::below(&["vm"]).unwrap();
        assert!("vm/zzzz" < vm.end());
        assert!(vm.end() <= "vm0" && vm.end() <= "vma");
        assert!("zzzz" < KeyRange::ALL.end());
    }

    #[test]
    fn one_key_alone_is_without_those_that_begin_like_it() {
        let key: Key = "plan/generation/node1".parse().unwrap();
        let alone = KeyRange::exactly(&key);
        assert!(alone.contains(&key) && key.as_str() < alone.end());
        for other in ["plan/generation/node10", "plan/generation/node1/a", "plan/generation/node1-a", "plan"]
        {
            let other: Key = other.parse().unwrap();
            assert!(!alone.contains(&other), "{other} is not {key}");
        }
    }

    #[test]
    fn a_range_can_go_through_others() {
        let from = |first: &str, last: &str| {
            let below = |text| KeyRange::below(&[text]).unwrap();
            below(first).through(below(last))
        };
        let range = from("inventory", "spec");
        for (key, is_in) in [
            ("inventory/a", true),
            ("leader", true),
            ("plan/vm/a", true),
            ("spec/z", true),
            ("beat/a", false),
            ("home/a/b", false),
            ("inventory", false),
            ("specs/a", false),
        ] {
            assert_eq!(range.contains(&key.parse().unwrap()), is_in, "{key}");
        }
    }
}
