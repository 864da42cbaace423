//! The catalogue on the command line.

use expect_test::expect;
use serde_json::{Value, json};
use tranche_api::answer::Diagnosis;
use tranche_core::finding::{Code, Finding, Severity, Subject};

use crate::check;
use crate::daemon::Daemon;

fn models() -> Value {
    let figure = |value: u64, confidence: &str| json!({"value": value, "source": {"what": "a page", "confidence": confidence}});
    let profile = json!({"name": "8Q", "series": "Q", "size_mib": 8192, "usable_mib": 7616, "max": 2,
        "source": {"what": "a file", "confidence": "data"}});
    json!([
        {"model": "Maker A2", "family": "First", "match": ["10de:25b6:10de:157e"], "emulated": false,
         "interface": "typed", "gpus_per_board": 1, "vram_mib": figure(16384, "doc"), "total_vfs": figure(16, "hw"),
         "default_series": "Q", "profiles": [profile]},
        {"model": "Maker A20", "match": ["10de:0001"], "emulated": false, "interface": "whole", "gpus_per_board": 2,
         "profiles": []},
    ])
}

#[test]
fn models_are_a_table() {
    let daemon = Daemon::new().answers("GET /v1/catalogue", &models());
    check(&daemon, &["catalogue", "list"], expect![[""]]);
}

#[test]
fn a_model_is_shown_with_the_source_of_each_figure_and_a_part_of_a_name_shows_all_that_have_it() {
    let daemon = Daemon::new().answers("GET /v1/catalogue", &models());
    check(&daemon, &["catalogue", "show", "maker a2"], expect![[""]]);
    check(&daemon, &["catalogue", "show", "a20"], expect![[""]]);
}

#[test]
fn a_model_that_is_not_known_is_refused() {
    let daemon = Daemon::new().answers("GET /v1/catalogue", &models());
    check(&daemon, &["catalogue", "show", "Voodoo"], expect![[""]]);
}

#[test]
fn the_exit_code_tells_whether_the_gpus_agree() {
    let daemon = Daemon::new().answers("GET /v1/catalogue-check", &Diagnosis::new(Vec::new()));
    check(&daemon, &["catalogue", "check"], expect![[""]]);
    let finding = Finding {
        code: Code::CatalogueMismatch,
        severity: Severity::Warning,
        subject: Subject::Installation,
        message: "It has 7 and not 8.".to_owned(),
        hint: "Say it better.".to_owned(),
    };
    let daemon = Daemon::new().answers("GET /v1/catalogue-check", &Diagnosis::new(vec![finding]));
    check(&daemon, &["catalogue", "check"], expect![[""]]);
}
