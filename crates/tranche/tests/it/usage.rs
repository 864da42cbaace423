//! Help, completions, man pages, and command lines that are wrong.

use expect_test::{expect, expect_file};

use crate::run_bare;

#[test]
fn help_explains_exit_codes_and_has_examples() {
    expect_file!["help/tranche.txt"].assert_eq(&run_bare(&["--help"]));
    expect_file!["help/vm-create.txt"].assert_eq(&run_bare(&["vm", "create", "--help"]));
    expect_file!["help/support-bundle.txt"].assert_eq(&run_bare(&["support-bundle", "--help"]));
    expect_file!["help/gpu-partition.txt"].assert_eq(&run_bare(&["gpu", "partition", "--help"]));
}

#[test]
fn a_wrong_command_line_is_explained() {
    expect![[r#"
        ! error: invalid value 'somewhere over the rainbow' for '[GPU]': write host/address, an address such as 0000:41:00.0 or 41:00.0, or a device's name
        ! 
        ! For more information, try '--help'.
        exit 2
    "#]].assert_eq(&run_bare(&["gpu", "partition", "somewhere over the rainbow", "4"]));
    expect![[r#"
        ! error: invalid value 'four' for '[COUNT]': invalid digit found in string
        ! 
        ! For more information, try '--help'.
        exit 2
    "#]]
    .assert_eq(&run_bare(&["gpu", "partition", "01:00.0", "four"]));
    expect![[r#"
        ! error: the argument '--dry-run' cannot be used with '--no-wait'
        ! 
        ! Usage: tranche vm start --dry-run <NAME>
        ! 
        ! For more information, try '--help'.
        exit 2
    "#]]
    .assert_eq(&run_bare(&["vm", "start", "a", "--dry-run", "--no-wait"]));
    expect![[r#"
        ! error: invalid value 'some' for '--gpu <REQUEST>': write none, any, a size such as 4GiB, profile:NAME, whole, whole:COUNT, or whole:COUNT@POOL
        ! 
        ! For more information, try '--help'.
        exit 2
    "#]].assert_eq(&run_bare(&["vm", "attach", "a", "--gpu", "some"]));
}

#[test]
fn a_code_is_explained_without_a_daemon_and_an_unknown_one_is_a_usage_error() {
    expect![[r#"
        ! error: invalid value 'few_partitions' for '<CODE>': no finding has the code "few_partitions"
        ! 
        ! For more information, try '--help'.
        exit 2
    "#]]
    .assert_eq(&run_bare(&["explain", "few_partitions"]));
    expect![[r#"
        host_unguarded: A host whose VMs are to start elsewhere when it dies has neither watchdog nor fence agent.

        Where to look: `tranche host show HOST` shows neither watchdog nor fence agent, and it has VMs that are to start elsewhere.

        What to do: Load its watchdog's driver or name an agent, see fencing (docs/fencing.md); or let its VMs stay (`tranche vm set VM --failover stay`).
        exit 0
    "#]]
    .assert_eq(&run_bare(&["explain", "host_unguarded"]));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run_bare(&["completions", shell]);
        assert!(script.contains("why-not") && script.ends_with("exit 0\n"), "{shell}");
    }
}

#[test]
fn there_is_a_man_page_for_every_command() {
    assert!(run_bare(&["man"]).contains("Exit codes:"));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run_bare(&["man", "--directory", dir.path().to_str().unwrap()]), "exit 0\n");
    for page in ["tranche.1", "tranche-gpu-partition.1", "tranche-vm-create.1", "tranche-doctor.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}
