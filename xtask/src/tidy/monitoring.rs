//! Alerts and dashboard: they ask for metrics and findings that there are, every alert is tested, and no panel is another's double.
//!
//! What there is stands in the table of `docs/metrics.md`; a test of the daemon holds that to what it really answers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tranche_core::finding::Code;

use crate::tidy::Problem;
use crate::tree::{File, Tree};

const PAGE: &str = "docs/metrics.md";
const RULES: &str = "dist/prometheus/tranche.rules.yml";
const RULE_TESTS: &str = "dist/prometheus/tranche.rules.test.yml";
const DASHBOARD: &str = "dist/grafana/tranche.json";
/// What a metric's name begins with.
const PREFIX: &str = "tranche_";

/// The problems of alerts and dashboard.
pub(super) fn check(tree: &Tree) -> Vec<Problem> {
    let known = tree.text(PAGE).map(series).unwrap_or_default();
    let of = |path: &str| tree.files.iter().find(|file| file.path == path);
    let files: Vec<&File> = [RULES, RULE_TESTS, DASHBOARD].iter().filter_map(|path| of(path)).collect();
    let mut problems: Vec<Problem> = files.iter().flat_map(|file| names(file, &known)).collect();
    if let (Some(rules), Some(tests)) = (of(RULES), of(RULE_TESTS)) {
        problems.extend(untested(rules, tests));
    }
    problems.extend(of(RULES).into_iter().flat_map(|rules| pages(tree, rules)));
    problems.extend(of(DASHBOARD).into_iter().flat_map(dashboard));
    problems
}

/// What alerts point to that is not there.
fn pages(tree: &Tree, rules: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in rules.text.lines().enumerate() {
        let told = line.trim_start();
        if let Some(page) = told.strip_prefix("page: ")
            && tree.text(page).is_none()
        {
            problems.push(Problem::in_line(
                &rules.path,
                index,
                format!("points to {page}, which is not there"),
            ));
        }
        // A template takes the code from the finding itself.
        if let Some(code) = told.strip_prefix("code: ")
            && !code.contains("{{")
            && !is_code(code)
        {
            problems.push(Problem::in_line(
                &rules.path,
                index,
                format!("points to {code}, which is no code"),
            ));
        }
    }
    problems
}

/// The series that the page's table tells of; a histogram has several.
fn series(page: &str) -> BTreeSet<String> {
    let mut series = BTreeSet::new();
    for line in page.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(name), Some(kind)) = (cells.next(), cells.next()) else { continue };
        let name = name.trim_matches('`');
        if !name.starts_with(PREFIX) {
            continue;
        }
        let ends: &[&str] = if kind == "histogram" { &["_bucket", "_count", "_sum"] } else { &[""] };
        series.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    series
}

/// Metrics and codes that there are not.
fn names(file: &File, known: &BTreeSet<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics = words.filter(|word| word.starts_with(PREFIX));
        let unknown = metrics.filter(|word| !known.contains(*word));
        problems.extend(unknown.map(|word| {
            Problem::in_line(&file.path, index, format!("asks for {word}, which is not in {PAGE}"))
        }));
        let unknown = codes(line).into_iter().filter(|code| !is_code(code));
        problems.extend(unknown.map(|code| {
            Problem::in_line(&file.path, index, format!("asks for findings {code}, of which there are none"))
        }));
    }
    problems
}

/// The codes that a line selects findings by, as patterns. Quotes are escaped in JSON.
fn codes(line: &str) -> Vec<String> {
    let line = line.replace("\\\"", "\"");
    let selectors = ["code=\"", "code=~\"", "code!~\"", "code!=\""];
    let lists = selectors.iter().flat_map(|selector| line.split(selector).skip(1));
    lists
        .filter_map(|rest| rest.split_once('"'))
        .flat_map(|(list, _)| list.split('|'))
        .map(str::to_owned)
        .collect()
}

/// Whether there is a code of that name, or one that begins as a pattern does.
fn is_code(pattern: &str) -> bool {
    Code::ALL.iter().any(|code| match pattern.strip_suffix(".*") {
        Some(begin) => code.as_str().starts_with(begin),
        None => code.as_str() == pattern,
    })
}

/// Alerts without a test in which they fire, or one in which they do not.
fn untested(rules: &File, tests: &File) -> Vec<Problem> {
    let mut told: BTreeMap<&str, usize> = BTreeMap::new();
    for line in tests.text.lines() {
        if let Some(name) = line.trim_start().strip_prefix("- alertname: ") {
            *told.entry(name).or_default() += 1;
        }
    }
    let alerts = rules.text.lines().enumerate();
    let alerts =
        alerts.filter_map(|(index, line)| Some((index, line.trim_start().strip_prefix("- alert: ")?)));
    alerts
        .filter(|(_, name)| told.get(name).is_none_or(|count| *count < 2))
        .map(|(index, name)| {
            Problem::in_line(
                &rules.path,
                index,
                format!("{name} has no two tests in {RULE_TESTS}: it fires, and it does not"),
            )
        })
        .collect()
}

/// Panels without an id or a title of their own. What a row holds while it is folded counts, too.
fn dashboard(file: &File) -> Vec<Problem> {
    let problem = |what: String| Problem::in_file(&file.path, what);
    let value: Value = match serde_json::from_str(&file.text) {
        Ok(value) => value,
        Err(error) => return vec![problem(format!("cannot be read: {error}"))],
    };
    let mut panels: Vec<&Value> = Vec::new();
    let mut more = vec![&value];
    while let Some(holder) = more.pop() {
        let held = holder["panels"].as_array().into_iter().flatten();
        more.extend(held.clone());
        panels.extend(held);
    }
    let (mut problems, mut ids) = (Vec::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        if title.is_empty() {
            problems.push(problem(format!("a panel without a title: {}", panel["id"])));
        }
        match panel["id"].as_u64() {
            Some(id) if ids.insert(id) => {}
            _ => problems.push(problem(format!("panel {title:?} has no id of its own"))),
        }
    }
    if ids.is_empty() {
        problems.push(problem("has no panels".into()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::tidy::tests::finds;

    const TABLE: &str = "| name | type |\n| --- | --- |\n| `tranche_vms` | gauge | x |\n| `tranche_findings` | gauge |\n| `tranche_pass_seconds` | histogram |\n";

    #[test]
    fn an_alert_asks_for_and_points_to_what_there_is_and_is_tested_both_ways() {
        let rules = "\
- alert: Good
  expr: tranche_vms > rate(tranche_pass_seconds_sum[1m])
- alert: Bad
  expr: tranche_vm{job=\"tranche\"} > tranche_pass_seconds
- alert: Worse
  expr: tranche_findings{code=~\"host_lost|store_.*|host_found\"} or tranche_findings{code=\"shop_.*\"}
  code: host_lost
  code: \"{{ $labels.code }}\"
  page: docs/metrics.md
  code: host_found
  page: docs/found.md
";
        let tests = "- alertname: Good\n- alertname: Good\n- alertname: Bad\n";
        finds(
            check,
            &[(PAGE, TABLE), (RULES, rules), (RULE_TESTS, tests)],
            expect![[r#"
                dist/prometheus/tranche.rules.yml:4: asks for tranche_vm, which is not in docs/metrics.md
                dist/prometheus/tranche.rules.yml:4: asks for tranche_pass_seconds, which is not in docs/metrics.md
                dist/prometheus/tranche.rules.yml:6: asks for findings shop_.*, of which there are none
                dist/prometheus/tranche.rules.yml:6: asks for findings host_found, of which there are none
                dist/prometheus/tranche.rules.yml:3: Bad has no two tests in dist/prometheus/tranche.rules.test.yml: it fires, and it does not
                dist/prometheus/tranche.rules.yml:5: Worse has no two tests in dist/prometheus/tranche.rules.test.yml: it fires, and it does not
                dist/prometheus/tranche.rules.yml:10: points to host_found, which is no code
                dist/prometheus/tranche.rules.yml:11: points to docs/found.md, which is not there
            "#]],
        );
    }

    #[test]
    fn a_dashboard_asks_for_what_there_is_and_has_no_panel_twice() {
        let dashboard = r#"{"panels": [
            {"id": 1, "title": "a", "panels": [{"id": 2, "title": "b"}]},
            {"id": 2, "title": "c", "targets": [{"expr": "tranche_vmz"}]},
            {"id": 3, "title": "d", "targets": [{"expr": "tranche_findings{code=\"host_gone\"}"}]},
            {"id": 4}, {"title": "e"}
        ]}"#;
        finds(
            check,
            &[(PAGE, TABLE), (DASHBOARD, dashboard)],
            expect![[r#"
            dist/grafana/tranche.json:3: asks for tranche_vmz, which is not in docs/metrics.md
            dist/grafana/tranche.json:4: asks for findings host_gone, of which there are none
            dist/grafana/tranche.json: a panel without a title: 4
            dist/grafana/tranche.json: panel "e" has no id of its own
            dist/grafana/tranche.json: panel "b" has no id of its own
        "#]],
        );
        finds(
            check,
            &[(DASHBOARD, "{")],
            expect![[r#"
            dist/grafana/tranche.json: cannot be read: EOF while parsing an object at line 1 column 1
        "#]],
        );
    }
}
