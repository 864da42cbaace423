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
    check(
        &daemon,
        &["catalogue", "list"],
        expect![[r#"
        MODEL      MATCH                MEMORY  INTERFACE  VFS  PROFILES
        Maker A2   10de:25b6:10de:157e  16 GiB  typed      16   1
        Maker A20  10de:0001            -       whole      -    -
        exit 0
    "#]],
    );
}

#[test]
fn a_model_is_shown_with_the_source_of_each_figure_and_a_part_of_a_name_shows_all_that_have_it() {
    let daemon = Daemon::new().answers("GET /v1/catalogue", &models());
    check(
        &daemon,
        &["catalogue", "show", "maker a2"],
        expect![[r#"
        Model      Maker A2
        Family     First
        Match      10de:25b6:10de:157e
        Interface  typed
        Memory     16 GiB (doc: a page)
        VFs        16 (hw: a page)
        Series     Q

        PROFILE  MAX  SIZE   USABLE    SOURCE
        8Q       2    8 GiB  7616 MiB  data: a file
        exit 0
    "#]],
    );
    check(
        &daemon,
        &["catalogue", "show", "a20"],
        expect![[r#"
        Model         Maker A20
        Match         10de:0001
        Interface     whole
        GPUs a board  2
        exit 0
    "#]],
    );
}

#[test]
fn a_model_that_is_not_known_is_refused() {
    let daemon = Daemon::new().answers("GET /v1/catalogue", &models());
    check(
        &daemon,
        &["catalogue", "show", "Voodoo"],
        expect![[r#"
        ! error: The catalogue has no model Voodoo. [model_not_found]
        !   hint: List them with: tranche catalogue list
        exit 3
    "#]],
    );
}

#[test]
fn the_exit_code_tells_whether_the_gpus_agree() {
    let daemon = Daemon::new().answers("GET /v1/catalogue-check", &Diagnosis::new(Vec::new()));
    check(
        &daemon,
        &["catalogue", "check"],
        expect![[r#"
        All is well.
        exit 0
    "#]],
    );
    let finding = Finding {
        code: Code::CatalogueMismatch,
        severity: Severity::Warning,
        subject: Subject::Installation,
        message: "It has 7 and not 8.".to_owned(),
        hint: "Say it better.".to_owned(),
    };
    let daemon = Daemon::new().answers("GET /v1/catalogue-check", &Diagnosis::new(vec![finding]));
    check(
        &daemon,
        &["catalogue", "check"],
        expect![[r#"
        warning: It has 7 and not 8. [catalogue_mismatch]
          hint: Say it better.
        exit 6
    "#]],
    );
}
