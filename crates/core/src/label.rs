//! Labels: what hosts are told apart by when VMs ask for a place, and VMs when people look for some or may see only those.
//!
//! Hosts and VMs have them by the same rules, and change them the same way, so that nobody learns two.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::diagnostics as say;
use crate::finding::Finding;
use crate::name::{LabelKey, LabelValue, NameError, travels_as_text};

/// The most labels of one thing.
pub const LABELS_MAX: usize = 32;

/// The labels of one thing.
pub type Labels = BTreeMap<LabelKey, LabelValue>;
/// What is to change of them; those without a value are taken away.
pub type LabelsPart = BTreeMap<LabelKey, Option<LabelValue>>;

/// One label with its value: `team=red`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The key.
    pub key: LabelKey,
    /// The value.
    pub value: LabelValue,
}

impl Label {
    /// Whether a thing with these labels carries this one.
    pub fn is_of(&self, labels: &Labels) -> bool {
        labels.get(&self.key) == Some(&self.value)
    }
}

impl FromStr for Label {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| NameError::new("label", text, "KEY=VALUE, as in team=red"))?;
        Ok(Self { key: key.parse()?, value: value.parse()? })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}={}", self.key, self.value))
    }
}

travels_as_text!(Label, "team=red");

/// Labels with some of them changed.
pub fn over(part: &LabelsPart, now: &Labels) -> Labels {
    let mut next = now.clone();
    for (key, value) in part {
        match value {
            Some(value) => drop(next.insert(key.clone(), value.clone())),
            None => drop(next.remove(key)),
        }
    }
    next
}

/// What makes labels of these others.
pub fn between(now: &Labels, then: &Labels) -> LabelsPart {
    let gone = now.keys().filter(|key| !then.contains_key(*key)).map(|key| (key.clone(), None));
    let new = then.iter().filter(|(key, value)| now.get(*key) != Some(*value));
    gone.chain(new.map(|(key, value)| (key.clone(), Some(value.clone())))).collect()
}

/// Labels as people write them: `rack=4, zone=b`.
pub fn text(labels: &Labels, between: &str) -> String {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(between)
}

/// What stands against so many labels.
pub(crate) fn too_many(labels: &Labels) -> Option<Finding> {
    let found = labels.len();
    (found > LABELS_MAX).then(|| {
        say::invalid_value("The number of labels", &found.to_string(), &format!("{LABELS_MAX} at most"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[&str]) -> Labels {
        let label = |pair: &&str| pair.parse::<Label>().map(|label| (label.key, label.value)).unwrap();
        pairs.iter().map(label).collect()
    }

    #[test]
    fn a_label_and_its_text_stand_for_each_other_and_what_is_none_is_refused() {
        assert_eq!("team=red".parse::<Label>().unwrap().to_string(), "team=red");
        for text in ["", "team", "team=", "=red", "team=a=b", "<b>=red", "team=<script>", " team=red"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
        assert!(format!("{}=red", "k".repeat(64)).parse::<Label>().is_err());
    }

    #[test]
    fn what_makes_labels_of_others_makes_just_those_of_them() {
        let all = [labels(&[]), labels(&["a=1", "b=2"]), labels(&["a=2", "c=3"]), labels(&["b=2"])];
        for now in &all {
            for then in &all {
                assert_eq!(over(&between(now, then), now), *then);
            }
        }
        assert!(between(&all[1], &all[1]).is_empty());
    }

    #[test]
    fn a_label_is_carried_with_its_value_alone() {
        let label: Label = "team=red".parse().unwrap();
        assert!(label.is_of(&labels(&["a=1", "team=red"])));
        assert!(!label.is_of(&labels(&["team=redder", "red=team"])));
    }
}
