//! How the comparison of GPUs looks to people.

use tranche_core::homogeneity::{AttributeReport, Mend, Report, SetReport, ValueReport};
use tranche_core::name::GpuKey;

use super::super::table::rows;
use super::super::text;
use super::Show;

/// The most GPUs of a value that are named in the table; JSON has all.
const NAMED_MAX: usize = 3;

impl Show for Report {
    fn as_text(&self) -> String {
        if self.sets.is_empty() {
            return "No GPU is split or passed through, and none can be split.\n".to_owned();
        }
        let mut text = String::new();
        for set in &self.sets {
            text += &sheet(set);
            text.push('\n');
        }
        text += if self.homogeneous {
            "The GPUs that serve VMs are alike.\n"
        } else {
            "The GPUs that serve VMs are not alike.\n"
        };
        text
    }
}

fn sheet(set: &SetReport) -> String {
    let header = format!("The set of {}: {}, of which {} serve VMs\n", set.set, set.gpus.len(), set.in_use);
    let attributes = set.attributes.iter().map(row).collect();
    let table = rows(&["ATTRIBUTE", "DIFFERENCE", "BREAKS", "VALUES"], attributes, "Nothing is compared.");
    let mends: Vec<&Mend> =
        set.attributes.iter().filter(|one| one.follows_from.is_none()).flat_map(|one| &one.mends).collect();
    let mut below = String::new();
    for mend in mends {
        below += &format!("  {}\n", text::plain(&mend.text));
        if let Some(command) = &mend.command {
            below += &format!("    {}\n", text::plain(command));
        }
    }
    if below.is_empty() {
        format!("{header}{table}")
    } else {
        format!("{header}{table}\nWhat mends it:\n{below}")
    }
}

fn row(attribute: &AttributeReport) -> Vec<String> {
    let difference = match (attribute.grade, attribute.follows_from) {
        (None, _) if attribute.values.is_empty() => "not known".to_owned(),
        (None, _) => "none".to_owned(),
        (Some(grade), Some(cause)) => format!("{grade}, goes with {cause}"),
        (Some(grade), None) => grade.to_string(),
    };
    let breaks: Vec<String> = attribute.breaks.iter().map(ToString::to_string).collect();
    let alone = attribute.values.len() == 1;
    let mut values: Vec<String> = attribute.values.iter().map(|one| value(one, alone)).collect();
    if attribute.tie && !alone {
        values.push("as many have one as another: the oldest host's is first".to_owned());
    }
    vec![attribute.attribute.to_string(), difference, breaks.join(", "), values.join("; ")]
}

fn value(value: &ValueReport, alone: bool) -> String {
    let what = text::plain(&value.value);
    match (alone, value.gpus.len()) {
        (true, _) => what,
        (false, 0) => format!("{what} on {}", value.number),
        (false, number) => {
            let named: Vec<String> = value.gpus.iter().take(NAMED_MAX).map(GpuKey::to_string).collect();
            let more = number.saturating_sub(NAMED_MAX);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{what} on {}{more}", named.join(", "))
        }
    }
}
