//! The lab's own fence agent: cuts a node's power as an agent for real machines does, in the same standard form
//! (ClusterLabs, FenceAgentAPI.md), so that whatever drives agents can be tried without a BMC.
//!
//! It is `tranche-lab fence`, or this program under the name `fence_tranche_lab`. It reads `key=value` lines from standard
//! input and speaks to the node's QEMU over its socket. `plug` is the node, `run_dir` the directory that nodes are in.
//!
//! A node that belongs to the program that started it (a test, the demo) is turned on by that program alone, which ends it, too.
//!
//! A node whose QEMU does not run is off. One that was never there is not: who misspells a name must not be told that the
//! machine is off.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Error;
use crate::node::{Node, QEMU_LIMIT, check_name, runs, wait_until};
use crate::qmp::Qmp;

/// The name under which this program is an agent.
pub const AGENT: &str = "fence_tranche_lab";

/// The exit status of an agent that did what it was asked for; of `status` that the node is on.
const EXIT_OK: u8 = 0;
/// That it did not.
const EXIT_FAILED: u8 = 1;
/// Of `status`: that the node is off.
const EXIT_OFF: u8 = 2;

const METADATA: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_tranche_lab" shortdesc="Fence agent for nodes of tranche-lab">
<parameters>
  <parameter name="action" unique="0" required="1"><content type="string" default="reboot" /><shortdesc lang="en">What to do</shortdesc></parameter>
  <parameter name="plug" unique="0" required="1"><content type="string" /><shortdesc lang="en">The node</shortdesc></parameter>
  <parameter name="run_dir" unique="0" required="1"><content type="string" /><shortdesc lang="en">The directory that nodes are in</shortdesc></parameter>
</parameters>
<actions>
  <action name="on" automatic="0" />
  <action name="off" />
  <action name="reboot" />
  <action name="status" />
  <action name="monitor" />
  <action name="metadata" />
</actions>
</resource-agent>
"#;

/// How an agent ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exit status.
    pub status: u8,
    /// For standard output.
    pub said: String,
    /// For standard error.
    pub complaint: Option<String>,
}

/// Does what was read from standard input.
pub fn answer(input: &str) -> Answer {
    let done = |status, said: &str| Answer { status, said: said.to_owned(), complaint: None };
    let lines = input.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let options: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once('=')).collect();
    let action = options.get("action").copied().unwrap_or("reboot");
    if action == "metadata" {
        return done(EXIT_OK, METADATA);
    }
    let acted = Machine::of(&options).and_then(|machine| match action {
        "on" => machine.turn_on().map(|()| done(EXIT_OK, "Success: Powered ON\n")),
        "off" => machine.cut().map(|()| done(EXIT_OK, "Success: Powered OFF\n")),
        "reboot" => machine.reset().map(|()| done(EXIT_OK, "Success: Rebooted\n")),
        "status" if machine.is_on() => Ok(done(EXIT_OK, "Status: ON\n")),
        "status" => Ok(done(EXIT_OFF, "Status: OFF\n")),
        "monitor" => Ok(done(EXIT_OK, "")),
        other => Err(format!("there is no action {other:?}").into()),
    });
    acted.unwrap_or_else(|error| Answer {
        status: EXIT_FAILED,
        said: String::new(),
        complaint: Some(format!("{error}\n")),
    })
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A node, as its directory shows it.
struct Machine {
    run_dir: PathBuf,
    name: String,
    directory: PathBuf,
}

impl Machine {
    fn of(options: &BTreeMap<&str, &str>) -> Outcome<Self> {
        let needed = |name: &str| options.get(name).ok_or_else(|| format!("the option {name} is missing"));
        let (name, run_dir) = (needed("plug")?, needed("run_dir")?);
        check_name(name)?;
        let directory = Path::new(run_dir).join(name);
        if !directory.join("node.json").is_file() {
            return Err(Error::NoSuchNode { name: (*name).to_owned(), directory: run_dir.into() }.into());
        }
        Ok(Self { run_dir: run_dir.into(), name: (*name).to_owned(), directory })
    }

    fn is_on(&self) -> bool {
        runs(&self.directory.join("qemu.pid"))
    }

    fn turn_on(&self) -> Outcome<()> {
        if self.is_on() {
            return Ok(());
        }
        Ok(Node::find(&self.run_dir, &self.name)?.power_on()?)
    }

    fn cut(&self) -> Outcome<()> {
        if self.is_on() {
            self.say("quit")?;
            wait_until(
                "the end of QEMU",
                QEMU_LIMIT,
                &self.directory.join("qemu.log"),
                || Ok(!self.is_on()),
            )?;
        }
        Ok(())
    }

    fn reset(&self) -> Outcome<()> {
        self.say("system_reset")
    }

    fn say(&self, command: &str) -> Outcome<()> {
        Qmp::connect(&self.directory.join("qmp.sock"))?.execute(command, &json!({}))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command};
    use std::thread::JoinHandle;

    use super::*;

    /// A process that goes by QEMU's name, and who listens at its socket and ends it when told to quit.
    struct StandIn {
        dir: tempfile::TempDir,
        heard: Option<JoinHandle<Vec<String>>>,
    }

    impl StandIn {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let node = dir.path().join("node2");
            fs::create_dir(&node).unwrap();
            fs::write(node.join("node.json"), "{}").unwrap();
            let program = dir.path().join("qemu-system-x86_64");
            fs::copy("/bin/sleep", &program).unwrap();
            let child = Command::new(program).arg("1000").spawn().unwrap();
            fs::write(node.join("qemu.pid"), format!("{}\n", child.id())).unwrap();
            let listener = UnixListener::bind(node.join("qmp.sock")).unwrap();
            let heard = Some(std::thread::spawn(move || listen(&listener, child)));
            Self { dir, heard }
        }

        fn ask(&self, lines: &str) -> Answer {
            answer(&format!("{lines}\nrun_dir={}\n", self.dir.path().display()))
        }
    }

    /// Answers one connection after the other until the machine ends; returns what it was told.
    fn listen(listener: &UnixListener, mut child: Child) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            writeln!(stream, r#"{{"QMP": {{}}}}"#).unwrap();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let request: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                let command = request["execute"].as_str().unwrap().to_owned();
                writeln!(stream, r#"{{"return": {{}}}}"#).unwrap();
                heard.push(command.clone());
                if command == "quit" {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    return heard;
                }
            }
        }
    }

    #[test]
    fn a_node_is_on_until_it_is_cut_and_off_from_then_on() {
        let mut node = StandIn::new();
        assert_eq!(node.ask("action=status\nplug=node2").status, EXIT_OK);
        assert_eq!(node.ask("action=monitor\nplug=node2").status, EXIT_OK);
        assert_eq!(node.ask("action=on\nplug=node2").status, EXIT_OK, "it is on already");
        assert_eq!(node.ask("action=reboot\nplug=node2").status, EXIT_OK);
        let cut = node.ask("action=off\nplug=node2");
        assert_eq!((cut.status, cut.said.as_str(), cut.complaint), (EXIT_OK, "Success: Powered OFF\n", None));
        assert_eq!(node.ask("action=status\nplug=node2").status, EXIT_OFF);
        assert_eq!(node.ask("# once more\naction=off\n plug=node2").status, EXIT_OK);
        let heard = node.heard.take().unwrap().join().unwrap();
        assert_eq!(heard, ["qmp_capabilities", "system_reset", "qmp_capabilities", "quit"]);
    }

    #[test]
    fn what_is_no_node_is_neither_on_nor_off() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = format!("run_dir={}", dir.path().display());
        for lines in [
            &format!("action=status\nplug=node3\n{run_dir}"),
            &format!("action=status\nplug=../node3\n{run_dir}"),
            &format!("action=status\n{run_dir}"),
            &format!("action=on\nplug=node3\n{run_dir}"),
            "action=off\nplug=node3",
            &format!("action=explode\nplug=node3\n{run_dir}"),
        ] {
            let said = answer(lines);
            assert_eq!((said.status, said.said.as_str()), (EXIT_FAILED, ""), "{lines}");
            assert!(said.complaint.is_some());
        }
    }

    #[test]
    fn it_describes_itself_as_agents_do() {
        let described = answer("action=metadata\n");
        assert_eq!(described.status, EXIT_OK);
        let document = roxmltree::Document::parse(&described.said).unwrap();
        let names = |tag: &'static str| {
            let nodes = document.descendants().filter(move |node| node.has_tag_name(tag));
            nodes.filter_map(|node| node.attribute("name")).collect::<Vec<_>>()
        };
        assert_eq!(names("parameter"), ["action", "plug", "run_dir"]);
        assert_eq!(names("action"), ["on", "off", "reboot", "status", "monitor", "metadata"]);
        assert_eq!(document.root_element().attribute("name"), Some(AGENT));
    }
}
