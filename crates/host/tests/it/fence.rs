//! Fence agents, played by small scripts with every behaviour that an agent may have.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::finding::{Code, Finding};
use tranche_core::liveness::Cause;
use tranche_core::name::{HostName, Timestamp};
use tranche_core::spec::FenceSpec;
use tranche_host::fence::{Agents, Cut, Cutter, Limits, Outcome, Places};

/// Long enough for any agent here that ends by itself, on a machine that is busy.
const LONG_MS: u64 = 30_000;
/// Short enough to wait for.
const SHORT_MS: u64 = 500;

const METADATA: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_stand_in" shortdesc="A stand-in">
<parameters>
<parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
<parameter name="ip" required="1" obsoletes="ipaddr"><content type="string"/></parameter>
<parameter name="ipaddr" required="1" deprecated="1"><content type="string"/></parameter>
<parameter name="ipport" required="0"><content type="integer"/></parameter>
<parameter name="lanplus" required="0"><content type="boolean"/></parameter>
<parameter name="missing_as_off" required="0"><content type="boolean"/></parameter>
<parameter name="method" required="0"><content type="select"><option value="onoff"/><option value="cycle"/></content></parameter>
<parameter name="password" required="0"><content type="string"/></parameter>
<parameter name="password_script" required="0"><content type="string"/></parameter>
<parameter name="ssh_options" required="0"><content type="string"/></parameter>
<parameter name="systems-uri" required="0" deprecated="1"><content type="string"/></parameter>
<parameter name="systems_uri" required="0" obsoletes="systems-uri"><content type="string"/></parameter>
</parameters>
<actions><action name="on" automatic="0"/><action name="off"/><action name="status"/><action name="monitor"/></actions>
</resource-agent>"#;

/// What every stand-in begins with: it notes what it was asked for, and describes itself.
const PROLOGUE: &str = r#"#!/bin/sh
dir=$(dirname "$0")
input=$(cat)
action=$(printf '%s\n' "$input" | sed -n 's/^action=//p')
echo "$action" >>"$dir/calls"
printf '%s\n' "$input" >"$dir/input"
[ "$action" = metadata ] && { cat "$dir/metadata.xml"; exit 0; }
"#;

/// Does what it is told.
const OBEDIENT: &str = r#"case $action in
off) touch "$dir/off" ;;
on) rm -f "$dir/off" ;;
status) [ -e "$dir/off" ] && { echo "Status: OFF"; exit 2; }; echo "Status: ON" ;;
esac
exit 0
"#;

/// A directory with one agent and secrets.
struct Stage {
    _dir: tempfile::TempDir,
    root: Utf8PathBuf,
}

impl Stage {
    fn new(body: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        for name in ["agents", "secrets"] {
            fs::create_dir(root.join(name)).unwrap();
            mode(&root.join(name), 0o755);
        }
        fs::write(root.join("agents/metadata.xml"), METADATA).unwrap();
        let stage = Self { _dir: dir, root };
        stage.write_agent(&format!("{PROLOGUE}{body}"));
        stage
    }

    fn write_agent(&self, script: &str) {
        // A new file each time: one that is being run cannot be written.
        let path = self.agent();
        let _ = fs::remove_file(&path);
        fs::write(&path, script).unwrap();
        mode(&path, 0o755);
    }

    fn agent(&self) -> Utf8PathBuf {
        self.root.join("agents/fence_stand_in")
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.root.join("secrets").join(name);
        fs::write(&path, text).unwrap();
        mode(&path, 0o600);
    }

    fn agents(&self) -> Agents {
        self.agents_within(LONG_MS)
    }

    fn agents_within(&self, cut_ms: u64) -> Agents {
        let places = Places {
            agent_dirs: vec![self.root.join("nowhere"), self.root.join("agents")],
            secrets_dir: self.root.join("secrets"),
        };
        Agents::new(places, Limits { cut_ms, look_ms: LONG_MS, describe_ms: LONG_MS })
    }

    fn fence(&self, options: &[(&str, &str)]) -> Outcome {
        self.agents().fence(&host(), &spec(options))
    }

    /// The finding of a cut that failed.
    fn failure(&self, options: &[(&str, &str)]) -> Finding {
        match self.fence(options) {
            Outcome::Failed(finding) => well_formed(*finding),
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) -> Result<(), Finding> {
        self.agents().check(&host(), &spec(USUAL)).map_err(|finding| well_formed(*finding))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root.join("agents").join(name)).unwrap_or_default()
    }

    fn calls(&self) -> Vec<String> {
        self.read("calls").lines().map(str::to_owned).collect()
    }
}

const USUAL: &[(&str, &str)] = &[("ip", "192.0.2.7")];

fn mode(path: &Utf8Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn host() -> HostName {
    "node2".parse().unwrap()
}

fn spec(options: &[(&str, &str)]) -> FenceSpec {
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    FenceSpec { agent: "fence_stand_in".parse().unwrap(), options, leave_off: false }
}

fn well_formed(finding: Finding) -> Finding {
    assert!(finding.message.ends_with('.') && finding.hint.ends_with('.'), "{finding}");
    assert!(finding.message.contains("node2"), "{finding}");
    finding
}

#[test]
fn a_host_is_confirmed_off_only_after_its_agent_was_asked_again() {
    let stage = Stage::new(OBEDIENT);
    assert_eq!(stage.fence(USUAL), Outcome::Confirmed);
    assert_eq!(stage.calls(), ["metadata", "off", "status"]);
    assert_eq!(stage.fence(USUAL), Outcome::Confirmed, "once more, for a leader that came new");
}

#[test]
fn an_agent_that_says_ok_while_the_host_is_on_is_not_believed() {
    let finding = Stage::new("exit 0").failure(USUAL);
    assert_eq!(finding.code, Code::FenceFailed);
    assert!(finding.message.contains("still on"), "{finding}");
}

#[test]
fn nothing_but_the_status_for_off_is_off() {
    for (body, words) in [
        (
            "[ $action = status ] && { echo '2026-11-23 07:30:07,033 ERROR: Connection lost' >&2; exit 1; }; exit 0",
            "(action status): ERROR: Connection lost (exit status 1)",
        ),
        ("[ $action = status ] && exit 3; exit 0", "exit status 3"),
        ("[ $action = status ] && kill -9 $$; exit 0", "ended by a signal"),
        ("[ $action = off ] && exit 1; exit 2", "action off"),
        ("exit 2", "action off"),
    ] {
        let finding = Stage::new(body).failure(USUAL);
        assert_eq!(finding.code, Code::FenceFailed, "{body}");
        assert!(finding.message.contains(words), "{body}: {finding}");
    }
}

#[test]
fn an_agent_that_hangs_is_killed_with_all_that_it_started() {
    let stage = Stage::new("sleep 1000 & echo $! >\"$dir/child\"; wait");
    let outcome = stage.agents_within(SHORT_MS).fence(&host(), &spec(USUAL));
    let Outcome::TimedOut(finding) = outcome else { panic!("{outcome:?}") };
    assert!(finding.message.contains("500 ms"), "{finding}");
    let child = stage.read("child");
    let is_alive = || {
        let state = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    assert!(!child.is_empty());
    let deadline = Instant::now() + Duration::from_millis(LONG_MS);
    while is_alive() {
        assert!(Instant::now() < deadline, "process {child} is alive");
        std::thread::yield_now();
    }
}

#[test]
fn an_agent_that_never_stops_talking_ends_in_time_and_fills_no_memory() {
    let outcome = Stage::new("yes").agents_within(SHORT_MS).fence(&host(), &spec(USUAL));
    assert!(matches!(outcome, Outcome::TimedOut(_)), "{outcome:?}");
    let loud = format!("[ $action = off ] && yes 0123456789 | head -c 8000000; {OBEDIENT}");
    assert_eq!(Stage::new(&loud).fence(USUAL), Outcome::Confirmed);
}

#[test]
fn a_child_that_keeps_the_agents_output_open_keeps_nobody_waiting() {
    let left_behind = format!("sleep 1000 & {OBEDIENT}");
    let begun = Instant::now();
    assert_eq!(Stage::new(&left_behind).fence(USUAL), Outcome::Confirmed);
    assert!(begun.elapsed() < Duration::from_millis(LONG_MS));
}

#[test]
fn an_agent_that_does_not_read_is_not_waited_for_and_needs_no_longer() {
    let stage = Stage::new(OBEDIENT);
    let deaf = "#!/bin/sh\nexec 0<&-\nexit 1\n";
    assert_eq!(stage.fence(USUAL), Outcome::Confirmed);
    stage.write_agent(deaf);
    assert_eq!(stage.failure(USUAL).code, Code::FenceAgentUnusable);
}

#[test]
fn an_agent_is_told_its_options_and_nothing_else() {
    let stage = Stage::new(&format!("env >\"$dir/env\"; echo \"$#\" >\"$dir/arguments\"; {OBEDIENT}"));
    let options = [("ip", "192.0.2.7"), ("ipport", "623"), ("lanplus", "1")];
    assert_eq!(stage.fence(&options), Outcome::Confirmed);
    assert_eq!(stage.read("input"), "action=status\nip=192.0.2.7\nipport=623\nlanplus=1\n");
    assert_eq!(stage.read("arguments"), "0\n");
    let env = stage.read("env");
    let names: Vec<&str> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(
        names.iter().all(|name| ["PATH", "LC_ALL", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)),
        "{env}"
    );
}

#[test]
fn a_secret_reaches_its_agent_and_nobody_else() {
    let stage = Stage::new(r#"echo "cannot log in with hunter2 (hunter2)" >&2; exit 1"#);
    stage.secret("bmc", "hunter2\n");
    let options = [("ip", "192.0.2.7"), ("password", "secret:bmc")];
    let finding = stage.failure(&options);
    assert!(stage.read("input").contains("password=hunter2\n"));
    assert!(!format!("{finding:?}").contains("hunter2"), "{finding}");
    assert!(finding.message.contains("with [secret] ([secret])"), "{finding}");
}

#[test]
fn a_secret_that_others_can_read_or_that_is_elsewhere_is_not_used() {
    let stage = Stage::new(OBEDIENT);
    let places = stage.root.join("secrets");
    stage.secret("open", "hunter2\n");
    mode(&places.join("open"), 0o640);
    stage.secret("two-lines", "hunter2\nhunter3\n");
    stage.secret("empty", "\n");
    stage.secret("long", &"x".repeat(2_000));
    symlink(places.join("empty"), places.join("link")).unwrap();
    fs::create_dir(places.join("dir")).unwrap();
    let unreadable = ["open", "two-lines", "empty", "long", "link", "dir", "missing"];
    let misnamed = ["", "../agents/calls", ".hidden", "a/b"];
    let names = unreadable.map(|name| (name, Code::FenceSecretUnreadable)).into_iter();
    for (name, code) in names.chain(misnamed.map(|name| (name, Code::FenceOptionInvalid))) {
        let finding = stage.failure(&[("ip", "x"), ("password", &format!("secret:{name}"))]);
        assert_eq!(finding.code, code, "{name}");
        assert!(!format!("{finding:?}").contains("hunter"), "{finding}");
    }
    assert!(!stage.calls().contains(&"off".to_owned()));
}

#[test]
fn options_that_the_agent_does_not_take_are_refused_before_anything_is_cut() {
    for (options, words) in [
        (&[("ip", "x"), ("plgu", "node2")][..], "no option \"plgu\""),
        (&[], "needs the option ip"),
        (&[("ipport", "623")], "needs the option ip"),
        (&[("ip", "x"), ("action", "on")], "not given the option action"),
        (&[("ip", "x"), ("help", "1")], "not given the option help"),
        (&[("ip", "x"), ("password_script", "/bin/true")], "password_script"),
        (&[("ip", "x"), ("ssh_options", "-oProxyCommand=x")], "ssh_options"),
        (&[("ip", "x"), ("missing_as_off", "1")], "missing_as_off"),
        (&[("ip", "x"), ("password", "hunter2")], "in the open"),
        (&[("ip", "x"), ("ipport", "many")], "takes no \"many\" for ipport"),
        (&[("ip", "x"), ("lanplus", "maybe")], "lanplus"),
        (&[("ip", "x"), ("method", "gently")], "method"),
        (&[("ip", "x\naction=on")], "cannot be given that value"),
        (&[("ip\nip", "x"), ("ip", "x")], "no option"),
    ] {
        let stage = Stage::new(OBEDIENT);
        let finding = stage.failure(options);
        assert_eq!(finding.code, Code::FenceOptionInvalid, "{options:?}");
        assert!(finding.message.contains(words), "{options:?}: {finding}");
        assert!(!format!("{finding:?}").contains("hunter2"), "{finding}");
        assert_eq!(stage.calls(), ["metadata"], "{options:?}");
    }
}

#[test]
fn old_names_of_options_and_both_ways_to_write_them_are_taken() {
    for options in [
        &[("ipaddr", "x")][..],
        &[("ip", "x"), ("systems-uri", "/redfish/v1/Systems/1")],
        &[("ip", "x"), ("systems_uri", "/redfish/v1/Systems/1")],
        &[("ip", "x"), ("method", "onoff"), ("lanplus", "YES")],
    ] {
        assert_eq!(Stage::new(OBEDIENT).fence(options), Outcome::Confirmed, "{options:?}");
    }
}

#[test]
fn who_gives_an_option_that_there_is_not_is_told_which_there_are_to_give() {
    let hint = Stage::new(OBEDIENT).failure(&[("ip", "x"), ("frobnicate", "1")]).hint;
    assert!(hint.contains("systems_uri"), "{hint}");
    for kept in ["ipaddr", "action", "missing_as_off", "password_script"] {
        assert!(!hint.contains(kept), "{hint}");
    }
}

#[test]
fn an_agent_that_somebody_else_can_have_written_is_not_run() {
    for (change, words) in [
        (|stage: &Stage| mode(&stage.agent(), 0o775), "written by others"),
        (|stage: &Stage| mode(&stage.root.join("agents"), 0o777), "written by others"),
        (|stage: &Stage| mode(&stage.agent(), 0o644), "no program"),
        (|stage: &Stage| fs::remove_file(stage.agent()).unwrap(), "not installed"),
        (
            |stage: &Stage| {
                let elsewhere = stage.root.join("elsewhere");
                fs::rename(stage.agent(), &elsewhere).unwrap();
                mode(&stage.root, 0o777);
                symlink(&elsewhere, stage.agent()).unwrap();
            },
            "written by others",
        ),
    ] as [(fn(&Stage), &str); 5]
    {
        let stage = Stage::new(OBEDIENT);
        change(&stage);
        let finding = stage.failure(USUAL);
        assert_eq!(finding.code, Code::FenceAgentUnusable);
        assert!(finding.message.contains(words), "{words}: {finding}");
        assert!(stage.calls().is_empty());
    }
}

#[test]
fn an_agent_of_another_owner_is_not_run() {
    let stage = Stage::new(OBEDIENT);
    if let Err(error) = chown(stage.agent(), Some(65_534), None) {
        eprintln!("skipped: only root can give a file away ({error})");
        return;
    }
    assert!(stage.failure(USUAL).message.contains("belongs to user 65534"));
}

#[test]
fn an_agent_that_cannot_describe_itself_or_do_what_is_needed_is_not_used() {
    for (metadata, words) in [
        ("garbage", "action metadata"),
        ("<resource-agent><unclosed>", "action metadata"),
        ("<other/>", "action metadata"),
        ("<resource-agent><actions><action name='off'/></actions></resource-agent>", "no action status"),
        (
            "<resource-agent><actions><action name='on' automatic='1'/><action name='off'/><action name='status'/></actions></resource-agent>",
            "leaves its VMs running",
        ),
    ] {
        let stage = Stage::new(OBEDIENT);
        fs::write(stage.root.join("agents/metadata.xml"), metadata).unwrap();
        let finding = stage.failure(&[]);
        assert_eq!(finding.code, Code::FenceAgentUnusable, "{metadata}");
        assert!(finding.message.contains(words), "{finding}");
    }
}

#[test]
fn an_agent_describes_itself_once_for_as_long_as_it_is_the_same_file() {
    let stage = Stage::new(OBEDIENT);
    let agents = stage.agents();
    for _ in 0..2 {
        assert_eq!(agents.fence(&host(), &spec(USUAL)), Outcome::Confirmed);
    }
    assert_eq!(stage.calls().iter().filter(|call| *call == "metadata").count(), 1);
    stage.write_agent(&format!("{PROLOGUE}# another\n{OBEDIENT}"));
    assert_eq!(agents.fence(&host(), &spec(USUAL)), Outcome::Confirmed);
    assert_eq!(stage.calls().iter().filter(|call| *call == "metadata").count(), 2);
}

#[test]
fn a_host_that_lives_is_checked_without_being_touched() {
    let stage = Stage::new(OBEDIENT);
    stage.check().unwrap();
    assert_eq!(stage.calls(), ["metadata", "monitor", "status"]);

    let finding = Stage::new("[ $action = status ] && exit 2; exit 0").check().unwrap_err();
    assert_eq!(finding.code, Code::FenceOptionInvalid);
    assert!(finding.message.contains("is off, and it lives"), "{finding}");

    let finding =
        Stage::new("echo 'Unable to connect/login to fencing device' >&2; exit 1").check().unwrap_err();
    assert_eq!(finding.code, Code::FenceFailed);
    assert!(finding.message.contains("Unable to connect"), "{finding}");
}

#[test]
fn what_a_machine_needs_to_cut_a_host_is_tried_without_asking_any_device() {
    let stage = Stage::new(OBEDIENT);
    let prepare = |how: &FenceSpec| stage.agents().prepare(&host(), how).map_err(|found| well_formed(*found));
    prepare(&spec(USUAL)).unwrap();
    let code = |options: &[(&str, &str)]| prepare(&spec(options)).unwrap_err().code;
    assert_eq!(code(&[("ip", "x"), ("plgu", "node2")]), Code::FenceOptionInvalid);
    assert_eq!(code(&[("ip", "x"), ("password", "secret:bmc")]), Code::FenceSecretUnreadable);
    stage.secret("bmc", "hunter2\n");
    prepare(&spec(&[("ip", "x"), ("password", "secret:bmc")])).unwrap();
    assert!(stage.calls().iter().all(|call| call == "metadata"), "{:?}", stage.calls());

    let only_off = METADATA.replace(r#"<action name="on" automatic="0"/>"#, "");
    fs::write(stage.root.join("agents/metadata.xml"), only_off).unwrap();
    let finding = prepare(&spec(USUAL)).unwrap_err();
    assert_eq!(finding.code, Code::FenceAgentUnusable);
    assert!(finding.hint.contains("--fence-leave-off"), "{finding}");
    prepare(&FenceSpec { leave_off: true, ..spec(USUAL) }).unwrap();
    fs::remove_file(stage.agent()).unwrap();
    assert_eq!(code(USUAL), Code::FenceAgentUnusable);
}

#[test]
fn a_host_is_confirmed_on_only_after_its_agent_was_asked_again() {
    let stage = Stage::new(OBEDIENT);
    assert_eq!(stage.fence(USUAL), Outcome::Confirmed);
    let turn_on = |stage: &Stage| stage.agents().turn_on(&host(), &spec(USUAL));
    assert_eq!(turn_on(&stage), Outcome::Confirmed);
    assert_eq!(stage.calls(), ["metadata", "off", "status", "metadata", "on", "status"]);
    assert_eq!(turn_on(&stage), Outcome::Confirmed, "a host that is on stays on");
    for (body, words) in [
        ("[ $action = status ] && exit 2; exit 0", "still off"),
        ("[ $action = on ] && { echo 'no such outlet' >&2; exit 1; }; exit 0", "(action on): no such outlet"),
        ("[ $action = status ] && exit 1; exit 0", "(action status)"),
    ] {
        let outcome = turn_on(&Stage::new(body));
        let Outcome::Failed(finding) = outcome else { panic!("{outcome:?}") };
        let finding = well_formed(*finding);
        assert_eq!(finding.code, Code::FenceFailed, "{body}");
        assert!(finding.message.contains(words), "{body}: {finding}");
    }
}

const CAUSE: Cause = Cause { epoch: 1, since: Timestamp(7) };

/// A cutter, and what tells that something of it has ended.
fn cutter(stage: &Stage) -> (Cutter, mpsc::Receiver<()>) {
    let (send, receive) = mpsc::channel();
    let send = Mutex::new(send);
    let wake = move || send.lock().unwrap().send(()).unwrap();
    (Cutter::new(Arc::new(stage.agents()), Arc::new(wake)), receive)
}

#[test]
fn a_host_is_cut_beside_everything_else_and_once_for_each_cause() {
    let stage = Stage::new(OBEDIENT);
    let (cutter, ended) = cutter(&stage);
    let cut = |cause| cutter.cut(&host(), &spec(USUAL), cause);
    assert_eq!(cut(CAUSE), Cut::UnderWay);
    ended.recv().unwrap();
    assert_eq!([cut(CAUSE), cut(CAUSE)], [Cut::Confirmed, Cut::Confirmed]);
    assert_eq!(stage.calls(), ["metadata", "off", "status"]);
    let back = Cause { epoch: 2, ..CAUSE };
    assert_eq!(cut(back), Cut::UnderWay, "it came back since, and is to be cut again");
    ended.recv().unwrap();
    assert_eq!(cut(back), Cut::Confirmed);
    let joined_again = Cause { since: Timestamp(8), ..CAUSE };
    assert_eq!(cut(joined_again), Cut::UnderWay, "it was removed, and its epochs begin anew");
    ended.recv().unwrap();
}

#[test]
fn a_host_that_was_cut_is_turned_on_beside_everything_else_and_by_one_agent_at_a_time() {
    let waits = r#"while [ $action = off ] && [ ! -e "$dir/go" ]; do sleep 0.01; done; "#;
    let stage = Stage::new(&format!("{waits}{OBEDIENT}"));
    let (cutter, ended) = cutter(&stage);
    let (cut, turn_on) =
        (|| cutter.cut(&host(), &spec(USUAL), CAUSE), || cutter.turn_on(&host(), &spec(USUAL), CAUSE));
    assert_eq!([cut(), turn_on()], [Cut::UnderWay, Cut::UnderWay]);
    fs::write(stage.root.join("agents/go"), "").unwrap();
    ended.recv().unwrap();
    assert_eq!(cut(), Cut::Confirmed);
    assert_eq!(stage.calls(), ["metadata", "off", "status"], "while one was at work, no other was begun");
    assert_eq!(turn_on(), Cut::UnderWay);
    ended.recv().unwrap();
    assert_eq!([turn_on(), turn_on()], [Cut::Confirmed, Cut::Confirmed]);
    assert_eq!(stage.calls()[3..], ["on", "status"]);
}

#[test]
fn a_cut_that_failed_is_told_and_tried_again() {
    let stage = Stage::new("exit 1");
    let (cutter, ended) = cutter(&stage);
    let cut = || cutter.cut(&host(), &spec(USUAL), CAUSE);
    assert_eq!(cut(), Cut::UnderWay);
    ended.recv().unwrap();
    assert!(matches!(cut(), Cut::Failed(finding) if finding.code == Code::FenceFailed));
    stage.write_agent(&format!("{PROLOGUE}{OBEDIENT}"));
    assert_eq!(cut(), Cut::UnderWay);
    ended.recv().unwrap();
    assert_eq!(cut(), Cut::Confirmed);
}
