//! Records on their way: from a host's own store into the cluster's, from a backup, and into one.
//!
//! What is carried is compared with what arrived, before anybody relies on it. Records that belong to a moment (heartbeats,
//! who leads, join tokens) stay behind.

use std::collections::BTreeMap;

use ring::digest;
use serde::{Deserialize, Serialize};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::{HostName, Timestamp};
use tranche_store::{Key, KeyRange, OPS_MAX, Store, StoreError, TXN_BYTES_MAX, Txn};

use super::pki::hex;

/// Records by their keys.
pub type Records = BTreeMap<Key, Vec<u8>>;

/// The roots of what belongs to a moment.
const MOMENTARY: [&str; 5] = ["ask", "beat", "leader", "session", "trail"];
/// The root of what concerns the cluster itself: [`super::registry`].
const CLUSTER: &str = "cluster";
/// What is said of a backup's form.
const FORMAT: &str = "tranche-backup";
const VERSION: u32 = 1;
/// The longest backup that is read, in bytes.
pub const BACKUP_LEN_MAX: usize = 256 << 20;

/// All records of a store, but for those that belong to a moment or to the cluster itself.
///
/// # Errors
/// The store cannot be read.
pub fn records(store: &dyn Store) -> Result<Records, StoreError> {
    let entries = store.range(&KeyRange::ALL)?.entries.into_iter();
    Ok(entries.map(|entry| (entry.key, entry.value)).filter(|(key, _)| is_kept(key)).collect())
}

fn is_kept(key: &Key) -> bool {
    let root = key.segments().next().unwrap_or_default();
    !MOMENTARY.contains(&root) && root != CLUSTER
}

/// Makes the records of a store that nobody else uses yet those that are given. Can be repeated.
///
/// # Errors
/// The store fails, or shows something else than was stored.
pub fn bring_all(records: &Records, to: &dyn Store) -> Result<(), StoreError> {
    let there = self::records(to)?;
    let mut changes = Vec::new();
    for key in there.keys().filter(|key| !records.contains_key(*key)) {
        changes.push((key, None));
    }
    for (key, value) in records.iter().filter(|(key, value)| there.get(*key) != Some(*value)) {
        changes.push((key, Some(value)));
    }
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let (mut txn, mut bytes, mut ops) = (Txn::new(), 0, 0);
        while let Some((key, value)) = changes.peek() {
            let len = key.as_str().len() + value.map_or(0, Vec::len);
            if ops > 0 && (ops == OPS_MAX || bytes + len > TXN_BYTES_MAX) {
                break;
            }
            txn = match value {
                Some(value) => txn.put((*key).clone(), value.as_slice()),
                None => txn.delete((*key).clone()),
            };
            (bytes, ops) = (bytes + len, ops + 1);
            changes.next();
        }
        // It has no terms that could be broken.
        let _ = to.commit(&txn)?;
    }
    if self::records(to)? == *records {
        return Ok(());
    }
    let differs = "it shows other records than were stored in it; does somebody else use it?";
    Err(StoreError::Unreachable { place: "the cluster's store".to_owned(), source: differs.into() })
}

/// What a host brings into a cluster that has policies and a history of its own.
pub fn own(mut records: Records) -> Records {
    records.retain(|key, _| {
        let mut segments = key.segments();
        match (segments.next(), segments.next()) {
            (Some("spec"), kind) => matches!(kind, Some("gpu" | "vm")),
            (Some("plan"), _) => true,
            _ => false,
        }
    });
    records
}

/// What a host keeps of a cluster's records when it leaves: those of its own GPUs.
pub fn of_gpus(mut records: Records, host: &HostName) -> Records {
    records.retain(|key, _| {
        let mut segments = key.segments();
        let of = (segments.next(), segments.next(), segments.next());
        matches!(of, (Some("spec" | "plan"), Some("gpu"), Some(name)) if name == host.as_str())
    });
    records
}

/// The keys of everything that concerns one host.
pub fn keys_of(store: &dyn Store, host: &HostName) -> Result<Vec<Key>, StoreError> {
    let concerns = |key: &Key| {
        let segments: Vec<&str> = key.segments().collect();
        match segments.as_slice() {
            ["spec" | "plan", "gpu" | "booking" | "host" | "generation", name, ..]
            | ["home", name, ..]
            | ["inventory" | "beat" | "ask", name]
            | ["cluster", "member" | "arrival", name] => *name == host.as_str(),
            _ => false,
        }
    };
    let entries = store.range(&KeyRange::ALL)?.entries.into_iter();
    Ok(entries.map(|entry| entry.key).filter(concerns).collect())
}

/// A backup: all records of a cluster as they were together at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    format: String,
    version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// When it was made.
    pub taken_at: Timestamp,
    /// The revision that the records are of.
    pub revision: u64,
    records: BTreeMap<String, String>,
    sha256: String,
}

impl Backup {
    /// A backup of a cluster's store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn take(cluster: &str, store: &dyn Store, now: Timestamp) -> Result<Self, StoreError> {
        let snapshot = store.range(&KeyRange::ALL)?;
        let kept = snapshot.entries.into_iter().filter(|entry| is_kept(&entry.key));
        // Every record of ours is JSON.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let records = kept.map(|entry| (entry.key.to_string(), text(entry.value))).collect();
        let sha256 = checksum(&records);
        let (format, cluster) = (FORMAT.to_owned(), cluster.to_owned());
        let revision = snapshot.revision.0;
        Ok(Self { format, version: VERSION, cluster, taken_at: now, revision, records, sha256 })
    }

    /// Reads a backup.
    ///
    /// # Errors
    /// It is none, is damaged, or is of a later version.
    pub fn read(bytes: &[u8]) -> Result<Self, Finding> {
        let invalid = |why: String| say::backup_invalid(&why);
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("it is not whole, or something else ({error})")))?;
        if value["format"] != FORMAT {
            return Err(invalid("it is a file of another kind".to_owned()));
        }
        if value["version"] != VERSION {
            return Err(invalid(format!("it has version {}, where {VERSION} is known", value["version"])));
        }
        let backup: Self = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        if checksum(&backup.records) != backup.sha256 {
            return Err(invalid("its checksum does not fit its records".to_owned()));
        }
        backup.records()?;
        Ok(backup)
    }

    /// The records in it.
    ///
    /// # Errors
    /// A key is none.
    pub fn records(&self) -> Result<Records, Finding> {
        let record = |(key, value): (&String, &String)| {
            let key: Key = key.parse().map_err(|error| say::backup_invalid(&format!("{error}")))?;
            Ok((key, value.clone().into_bytes()))
        };
        self.records.iter().map(record).collect()
    }
}

fn checksum(records: &BTreeMap<String, String>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for text in records.iter().flat_map(|(key, value)| [key, value]) {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    hex(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use tranche_store::MemoryStore;

    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn some(count: usize) -> Records {
        (0..count)
            .map(|index| (key(&format!("spec/vm/vm-{index}")), format!("{{\"n\":{index}}}").into_bytes()))
            .collect()
    }

    fn put(store: &dyn Store, name: &str, value: &str) {
        let _ = store.commit(&Txn::new().put(key(name), value)).unwrap();
    }

    #[test]
    fn any_number_of_records_is_brought_and_what_does_not_belong_there_goes() {
        let store = MemoryStore::default();
        put(&store, "spec/vm/of-an-attempt-before", "{}");
        put(&store, "spec/vm/vm-3", "{\"n\":\"older\"}");
        put(&store, "cluster/member/a", "{}");
        put(&store, "beat/a", "{}");
        let all = some(3 * OPS_MAX + 7);
        for _ in 0..2 {
            bring_all(&all, &store).unwrap();
            assert_eq!(records(&store).unwrap(), all);
        }
        assert!(store.get(&key("cluster/member/a")).unwrap().is_some());
    }

    #[test]
    fn policies_operations_and_reports_stay_where_a_host_comes_from() {
        let names = [
            "spec/policy",
            "spec/vm/a",
            "spec/gpu/n/0000:01:00.0",
            "plan/vm/a",
            "plan/generation/n",
            "inventory/n",
            "operation/1",
        ];
        let records = names.map(|name| (key(name), Vec::new())).into_iter().collect();
        let kept: Vec<String> = own(records).keys().map(ToString::to_string).collect();
        assert_eq!(kept, ["plan/generation/n", "plan/vm/a", "spec/gpu/n/0000:01:00.0", "spec/vm/a"]);
    }

    #[test]
    fn a_backup_reads_back_and_a_damaged_one_does_not() {
        let store = MemoryStore::default();
        bring_all(&some(3), &store).unwrap();
        put(&store, "leader", "node1");
        let backup = Backup::take("lab", &store, Timestamp(7)).unwrap();
        let text = serde_json::to_string_pretty(&backup).unwrap();
        assert_eq!(Backup::read(text.as_bytes()).unwrap(), backup);
        assert_eq!(backup.records().unwrap(), some(3), "who leads belongs to a moment");
        let changed = text.replace("\\\"n\\\":2", "\\\"n\\\":3");
        assert_ne!(changed, text);
        for (wrong, why) in [
            (&text[..text.len() / 2], "not whole"),
            (&changed, "checksum"),
            (&text.replace("\"version\": 1", "\"version\": 2"), "version 2"),
            ("{}", "another kind"),
        ] {
            let refused = Backup::read(wrong.as_bytes()).unwrap_err();
            assert!(refused.message.contains(why), "{why}: {refused}");
        }
    }
}
