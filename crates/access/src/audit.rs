//! The audit log: what was asked, by whom, from where, and what became of it. Entries are only added; the oldest go when there are
//! too many, and every entry is also a line of the daemon's own log, which keeps what it was told to keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tranche_api::access::AuditEntry;
use tranche_api::secret::{HIDDEN, is_secret};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_store::{Expected, Key, OPS_MAX, Outcome, Store, Txn};

use crate::records;

/// So many entries are kept, about.
pub const AUDIT_KEPT_MAX: usize = 5_000;
/// After so many entries of this daemon's, it looks whether there are too many.
const LOOK_EVERY: u64 = 128;
/// How much of a body is kept, in bytes.
const ASKED_LEN_MAX: usize = 4 * 1024;
/// Entries of one millisecond: more than anybody makes.
const SAME_MS_MAX: u32 = 1_000;

/// The audit log of an installation. Every call waits for the store.
#[derive(Debug, Clone)]
pub struct Audit {
    store: Arc<dyn Store>,
    written: Arc<AtomicU64>,
}

impl Audit {
    /// The one in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, written: Arc::default() }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// The store fails.
    pub fn add(&self, entry: &AuditEntry) -> Result<(), Finding> {
        if self.written.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            self.forget_the_oldest()?;
        }
        let value = records::encode(entry);
        for number in 0..SAME_MS_MAX {
            let key = key(entry, number);
            let txn = Txn::new().expect(key.clone(), Expected::Absent).put(key, value.clone());
            if let Outcome::Committed(_) = self.store.commit(&txn).map_err(|error| error.finding())? {
                return Ok(());
            }
        }
        Err(say::changed_meanwhile())
    }

    /// The last entries, the latest first.
    ///
    /// # Errors
    /// The store, or an entry of it, cannot be read.
    pub fn last(&self, limit: usize) -> Result<Vec<AuditEntry>, Finding> {
        let entries = self.store.range(&records::audit()).map_err(|error| error.finding())?.entries;
        entries.iter().rev().take(limit).map(records::decode).collect()
    }

    fn forget_the_oldest(&self) -> Result<(), Finding> {
        let entries = self.store.range(&records::audit()).map_err(|error| error.finding())?.entries;
        let over = entries.len().saturating_sub(AUDIT_KEPT_MAX);
        let keys: Vec<Key> = entries.into_iter().take(over).map(|entry| entry.key).collect();
        for keys in keys.chunks(OPS_MAX) {
            // It has no terms that could be broken.
            let _ = self
                .store
                .commit(&keys.iter().cloned().fold(Txn::new(), Txn::delete))
                .map_err(|error| error.finding())?;
        }
        Ok(())
    }
}

/// Keys are ordered as times are.
fn key(entry: &AuditEntry, number: u32) -> Key {
    format!("audit/{:015}-{number:03}", entry.at.0).parse().expect("it is made of digits")
}

/// A body as the audit log keeps it: JSON without its secrets, cut at a length. What is no JSON is left out: nobody knows what it
/// holds.
pub fn without_secrets(body: &[u8]) -> Option<String> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    hide(&mut value);
    let text = cut(value.to_string(), ASKED_LEN_MAX);
    (text != "{}" && text != "null").then_some(text)
}

/// A text that is cut if it is longer than so many bytes.
pub fn cut(mut text: String, len_max: usize) -> String {
    if text.len() > len_max {
        let end = (0..=len_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if is_secret(name) { *value = Value::from(HIDDEN) } else { hide(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranche_core::name::Timestamp;
    use tranche_store::{ManualClock, MemoryStore};

    fn audit() -> Audit {
        Audit::new(Arc::new(MemoryStore::new(Arc::new(ManualClock::default()))))
    }

    fn entry(at: u64, what: &str) -> AuditEntry {
        let (who, from, host) = ("alice".to_owned(), "192.0.2.1".to_owned(), "node1".to_owned());
        let (what, at) = (what.to_owned(), Timestamp(at));
        AuditEntry { at, who, from, host, what, asked: None, changed: Vec::new(), status: 202, outcome: None }
    }

    #[test]
    fn the_last_entries_come_first_and_two_of_one_moment_are_both_kept() {
        let audit = audit();
        for (at, what) in [(2_000, "second"), (1_000, "first"), (2_000, "third")] {
            audit.add(&entry(at, what)).unwrap();
        }
        let told: Vec<_> = audit.last(10).unwrap().into_iter().map(|entry| entry.what).collect();
        assert_eq!(told, ["third", "second", "first"]);
        assert_eq!(audit.last(1).unwrap().len(), 1);
    }

    #[test]
    fn entries_of_versions_that_did_not_know_what_was_before_are_read_still() {
        let audit = audit();
        let value =
            br#"{"at":5,"who":"alice","from":"socket","host":"node1","what":"PUT /v1/policy","status":202}"#;
        let txn = Txn::new().put("audit/000000000000005-000".parse().unwrap(), value.to_vec());
        assert!(matches!(audit.store.commit(&txn).unwrap(), Outcome::Committed(_)));
        let entry = audit.last(1).unwrap().remove(0);
        assert_eq!((entry.who.as_str(), entry.changed), ("alice", Vec::new()));
    }

    #[test]
    fn the_log_does_not_grow_without_bound_and_the_oldest_go() {
        let audit = audit();
        let many = AUDIT_KEPT_MAX as u64 + 2 * LOOK_EVERY;
        (0..many).for_each(|at| audit.add(&entry(at, "x")).unwrap());
        let kept = audit.last(usize::MAX).unwrap();
        let over = u64::try_from(kept.len() - AUDIT_KEPT_MAX).unwrap();
        assert!(over <= LOOK_EVERY, "{}", kept.len());
        assert_eq!(kept[0].at, Timestamp(many - 1));
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand_and_the_rest_is_kept() {
        let body = br#"{"role":"admin","password":"x1","a":[{"ssh_authorized_keys":["k1"],"n":1}],"options":{"passwd":"p1"}}"#;
        let text = without_secrets(body).unwrap();
        for secret in ["x1", "k1", "p1"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("\"role\":\"admin\"") && text.contains("\"n\":1"), "{text}");
    }

    #[test]
    fn bodies_that_are_empty_or_no_json_are_left_out_and_long_ones_are_cut() {
        assert_eq!(without_secrets(b""), None);
        assert_eq!(without_secrets(b"{}"), None);
        assert_eq!(without_secrets(b"user=alice&password=x"), None);
        let long = format!("{{\"a\":\"{}\"}}", "ü".repeat(5_000));
        assert!(without_secrets(long.as_bytes()).unwrap().len() <= ASKED_LEN_MAX + 3);
    }
}
