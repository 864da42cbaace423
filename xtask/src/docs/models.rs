//! The handbook's page of models, from the catalogue that the daemon has in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use toml::{Table, Value};

const INTRODUCTION: &str = "\
# Models

What Tranche knows of GPUs before it looks at one: `tranche catalogue list`, and `tranche catalogue show MODEL` for each profile. What a
GPU's driver says always counts more. [Hardware](hardware.md) says how each kind is split, and what of it was seen.

*Counts* are those of the usual series, one for each size of profile; where there are no profiles, the driver says them. *Trust* is that of the weakest
figure in the line: *hw* was seen on hardware, *doc* is the vendor's documentation, *data* a data file of its driver, *inferred* concluded from other figures.

<!-- Derived from crates/host/data/catalogue.toml by `cargo xtask docs`; do not edit. -->

| model | PCI ids | memory | functions | counts | trust |
| --- | --- | --- | --- | --- | --- |
";

/// How far a figure can be trusted, the least first.
const TRUST: [&str; 4] = ["inferred", "data", "doc", "hw"];

/// The page.
pub(super) fn page(catalogue: &Table) -> String {
    let sources: BTreeMap<&str, &Value> =
        table(catalogue.get("sources")).map(|(name, source)| (name.as_str(), source)).collect();
    let mut text = INTRODUCTION.to_owned();
    for gpu in catalogue["gpu"].as_array().into_iter().flatten() {
        text.push_str(&row(gpu, &sources));
    }
    text.push_str("\n## Sources\n\n| source | what it is | trust |\n| --- | --- | --- |\n");
    for (name, source) in &sources {
        writeln!(text, "| {name} | {} | {} |", string(source, "what"), string(source, "confidence"))
            .expect("a string grows");
    }
    text
}

fn row(gpu: &Value, sources: &BTreeMap<&str, &Value>) -> String {
    let ids: Vec<&str> = gpu["match"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let figure =
        |name: &str| gpu.get(name).and_then(|figure| figure.get("value")).and_then(Value::as_integer);
    let memory = figure("vram_mib").map(|mib| format!("{} GiB", mib / 1024)).unwrap_or_default();
    let functions = figure("total_vfs").map(|number| number.to_string()).unwrap_or_default();
    let counts = match string(gpu, "interface") {
        "whole" => "whole only".to_owned(),
        _ => counts(gpu),
    };
    let used = ["vram_mib", "total_vfs", "loads"].into_iter().filter_map(|name| gpu.get(name));
    let used = used.chain(profiles(gpu)).filter_map(|figure| figure.get("source")).filter_map(Value::as_str);
    let trust = used.filter_map(|source| sources.get(source)).map(|source| string(source, "confidence"));
    let weakest = trust.min_by_key(|trust| TRUST.iter().position(|known| known == trust)).unwrap_or_default();
    format!(
        "| {} | {} | {memory} | {functions} | {counts} | {weakest} |\n",
        string(gpu, "model"),
        ids.iter().map(|id| format!("`{id}`")).collect::<Vec<_>>().join(" "),
    )
}

/// The counts of the usual series.
fn counts(gpu: &Value) -> String {
    let counts: BTreeSet<i64> =
        profiles(gpu).filter_map(|profile| profile.get("max")?.as_integer()).collect();
    counts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The profiles of the usual series.
fn profiles(gpu: &Value) -> impl Iterator<Item = &Value> {
    let usual = string(gpu, "default_series");
    let all = gpu.get("profiles").and_then(Value::as_array).into_iter().flatten();
    all.filter(move |profile| string(profile, "series") == usual)
}

fn string<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn table(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_table).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_counts_of_the_usual_series_and_the_weakest_trust() {
        let catalogue: Table = toml::from_str(
            r#"
            [sources]
            guide = { what = "A guide", confidence = "doc" }
            guess = { what = "A guess", confidence = "inferred" }
            [[gpu]]
            model = "Thing 1"
            match = ["1234:0001"]
            interface = "typed"
            vram_mib = { value = 16384, source = "guide" }
            total_vfs = { value = 16, source = "guess" }
            default_series = "Q"
            profiles = [
              { name = "8Q", series = "Q", max = 2, source = "guide" },
              { name = "4Q", series = "Q", max = 4, source = "guide" },
              { name = "1B", series = "B", max = 16, source = "guide" },
            ]
            "#,
        )
        .unwrap();
        let page = page(&catalogue);
        assert!(page.contains("\n| Thing 1 | `1234:0001` | 16 GiB | 16 | 2, 4 | inferred |\n"), "{page}");
        assert!(page.contains("\n| guess | A guess | inferred |\n"), "{page}");
    }
}
