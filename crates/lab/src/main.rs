//! The command `tranche-lab`: virtual GPU hosts by name.

use std::io::Read as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tranche_lab::cluster;
use tranche_lab::cluster::ClusterOptions;
use tranche_lab::demo::{self, DemoOptions};
use tranche_lab::failover;
use tranche_lab::faults::{self, FaultOptions, Kind};
use tranche_lab::fence;
use tranche_lab::image::NodeImage;
use tranche_lab::node::{NodeStatus, default_run_dir};
use tranche_lab::travel;
use tranche_lab::{Lifetime, Node, NodeOptions, Progress};

/// Virtual GPU hosts: a Debian 13 machine with an IOMMU, SR-IOV adapters and libvirt, without a GPU.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Make the node image, if it is not there yet, and print where it is
    Image,
    /// Start a node and leave it up; one that was cut gets its power back
    Up(Up),
    /// End a node and remove all that it had
    Down(Which),
    /// Run a command in a node, or a shell
    Ssh {
        #[command(flatten)]
        which: Which,
        /// The command and its arguments
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Take a node's power away; `up` gives it back, with the same disk
    PowerCut(Which),
    /// Press a node's reset button and wait until it is up again
    Reset(Which),
    /// Install Tranche's package in a node, partition a GPU, boot three VMs, and show what each of them sees
    Demo(Demo),
    /// Do random faults to a cluster of three nodes, and check that every VM runs once after each and never ran twice
    Faults(Faults),
    /// Cut a node's power as a fence agent: options come as `key=value` lines on standard input
    Fence(Fence),
    /// Show the nodes
    Status {
        #[command(flatten)]
        place: Place,
        /// Format of the answer
        #[arg(short, long, default_value = "table")]
        output: OutputFormat,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Directory under which nodes have theirs [default: ~/.local/state/tranche-lab]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

impl Place {
    fn directory(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(default_run_dir)
    }
}

#[derive(Debug, Args)]
struct Which {
    /// The node's name
    #[arg(default_value = "node")]
    name: String,
    #[command(flatten)]
    place: Place,
}

impl Which {
    fn find(&self) -> Result<Node> {
        Ok(Node::find(&self.place.directory(), &self.name)?)
    }
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    which: Which,
    /// Virtual processors [default: 2, or 1 under software emulation]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    vcpus: Option<u32>,
    /// Memory in MiB
    #[arg(long, default_value_t = 3072, value_parser = clap::value_parser!(u32).range(1024..=262_144))]
    memory_mib: u32,
    /// SR-IOV adapters that stand in for GPUs, 7 virtual functions each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=8))]
    adapters: u32,
    /// Bind the second adapter to the stand-in for NVIDIA's vGPU host driver
    #[arg(long)]
    vgpu: bool,
    /// A hardware watchdog that resets the node
    #[arg(long)]
    watchdog: bool,
}

#[derive(Debug, Args)]
struct Demo {
    /// Tranche's package
    #[arg(long, value_name = "FILE")]
    deb: PathBuf,
    /// How many hosts: with 3, they become a cluster, and one loses its power. Needs --once
    #[arg(long, default_value_t = 1, value_parser = hosts)]
    hosts: u8,
    /// Two hosts as a cluster: a guest moves while it runs, and another one is restarted. Needs --once
    #[arg(long, conflicts_with = "hosts")]
    migrate: bool,
    /// Of three hosts, have the power of a lost one cut by the lab's fence agent, too
    #[arg(long)]
    agent: bool,
    /// Take everything down when it was shown, instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
    /// Leave the node up and exit
    #[arg(long, conflicts_with = "once")]
    keep: bool,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Fence {
    /// Directory under which nodes have theirs, whatever the input says
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Say the exit status in the first line, for those who see only the output
    #[arg(long, hide = true)]
    with_status: bool,
}

#[derive(Debug, Args)]
struct Faults {
    /// Tranche's package
    #[arg(long, value_name = "FILE")]
    deb: PathBuf,
    /// Only faults of this kind, each to the next host: etcd_leader_killed, power_cut, ... [default: random ones]
    #[arg(long, value_name = "KIND")]
    only: Option<Kind>,
    /// Cut the power of lost hosts by the lab's fence agent, too
    #[arg(long)]
    agent: bool,
    /// The number that the sequences are made of; the next ones are made of the next numbers
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// How many sequences, each on a new cluster
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    sequences: u64,
    /// How many faults in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    faults: u8,
}

/// How many hosts the demo of moves has.
const MIGRATE_HOSTS: u8 = 2;

/// One host, or as many as the demo of a cluster has.
fn hosts(text: &str) -> Result<u8, String> {
    let wrong = || format!("write 1 or {}", cluster::HOSTS);
    text.parse().ok().filter(|hosts| [1, cluster::HOSTS].contains(hosts)).ok_or_else(wrong)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Table,
    Json,
}

/// The most that a fence agent is told, in bytes.
const FENCE_INPUT_LEN_MAX: u64 = 64 * 1024;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if Path::new(&name).ends_with(fence::AGENT) {
        return be_fence_agent(&Fence { run_dir: None, with_status: false });
    }
    match run(Arguments::parse().order) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("tranche-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn be_fence_agent(asked: &Fence) -> ExitCode {
    let mut input = String::new();
    if let Err(error) = std::io::stdin().take(FENCE_INPUT_LEN_MAX).read_to_string(&mut input) {
        eprintln!("{}: {error}", fence::AGENT);
        return ExitCode::FAILURE;
    }
    if let Some(run_dir) = &asked.run_dir {
        input += &format!("\nrun_dir={}\n", run_dir.display());
    }
    let answer = fence::answer(&input);
    if asked.with_status {
        print!("{}\n{}{}", answer.status, answer.said, answer.complaint.unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    print!("{}", answer.said);
    eprint!("{}", answer.complaint.unwrap_or_default());
    ExitCode::from(answer.status)
}

fn run(order: Order) -> Result<ExitCode> {
    let progress = Progress::new();
    match order {
        Order::Image => println!("{}", NodeImage::ensure(&progress)?.root_disk().display()),
        Order::Up(up) => start(&up, &progress)?,
        Order::Down(which) => which.find()?.end()?,
        Order::Ssh { which, command } => {
            // It takes this program's place, so that the terminal and the exit status are ssh's own.
            let error = which.find()?.ssh_client(&command)?.exec();
            return Err(error).context("ssh could not be started. Is openssh-client installed?");
        }
        Order::PowerCut(which) => which.find()?.power_cut()?,
        Order::Reset(which) => which.find()?.reset(&progress)?,
        Order::Fence(asked) => return Ok(be_fence_agent(&asked)),
        Order::Demo(demo) => demonstrate(&demo, &progress)?,
        Order::Faults(faults) => torment(&faults, &progress)?,
        Order::Status { place, output } => show(&Node::list(&place.directory())?, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of JSON for each sequence; it ends with the first that the cluster does not come out of.
fn torment(wanted: &Faults, progress: &Progress) -> Result<()> {
    for seed in wanted.first_seed..wanted.first_seed.saturating_add(wanted.sequences) {
        let faults = faults::sequence(seed, usize::from(wanted.faults), wanted.only);
        let cluster = ClusterOptions {
            deb: wanted.deb.clone(),
            agent: agent(wanted.agent)?,
            hosts: cluster::HOSTS,
            moves: false,
        };
        let options = FaultOptions { cluster, faults };
        let summary = faults::run(&options, progress).with_context(|| format!("sequence {seed}"))?;
        println!("{}", serde_json::json!({ "seed": seed, "summary": summary }));
    }
    Ok(())
}

/// This program, where hosts are to cut each other's power by it.
fn agent(wanted: bool) -> Result<Option<PathBuf>> {
    wanted.then(std::env::current_exe).transpose().context("this program cannot tell where it lies")
}

fn start(up: &Up, progress: &Progress) -> Result<()> {
    if let Ok(mut node) = up.which.find() {
        return Ok(node.start_again(progress)?);
    }
    let options = NodeOptions {
        run_dir: up.which.place.directory(),
        vcpus: up.vcpus,
        memory_mib: up.memory_mib,
        adapters: up.adapters,
        vgpu: up.vgpu,
        watchdog: up.watchdog,
        ..NodeOptions::new(&up.which.name, Lifetime::Detached)?
    };
    let node = Node::start(options, progress)?;
    progress.say(&format!("Node {} is up: tranche-lab ssh {}", node.name(), node.name()));
    Ok(())
}

fn demonstrate(options: &Demo, progress: &Progress) -> Result<()> {
    if options.hosts > 1 || options.migrate {
        anyhow::ensure!(options.once, "of several hosts, also say --once: they are gone when it was shown");
        return demonstrate_cluster(options, progress);
    }
    let shown = demo::run(&DemoOptions { deb: options.deb.clone(), keep: options.keep }, progress);
    let (node, summary) = match shown {
        Ok(shown) => shown,
        Err(error) => {
            if options.json {
                println!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
            }
            return Err(error);
        }
    };
    if options.once {
        let step = progress.step("Taking everything down");
        node.end()?;
        drop(step);
    } else if options.keep {
        progress
            .say(&format!("The node stays up: tranche-lab ssh {0}; tranche-lab down {0}", demo::NODE_NAME));
    } else {
        progress.say(&format!("The API: {}/gpus", demo::api_url(&node)?));
        progress.say(&format!("A shell in the node: tranche-lab ssh {}", demo::NODE_NAME));
        progress.say(&format!(
            "The console, for the first who opens this link within 15 minutes (its certificate is the node's own): {}",
            demo::console_link(&node)?
        ));
        progress.say("The node stays up until Ctrl-C.");
    }
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    if options.once || options.keep {
        return Ok(());
    }
    loop {
        // Until a signal ends the program; what it started ends with it.
        std::thread::park();
    }
}

fn demonstrate_cluster(options: &Demo, progress: &Progress) -> Result<()> {
    let hosts = if options.migrate { MIGRATE_HOSTS } else { options.hosts };
    let (agent, moves) = (agent(options.agent)?, options.migrate);
    let cluster = ClusterOptions { deb: options.deb.clone(), agent, hosts, moves };
    let shown = if options.migrate {
        travel::run(&cluster, progress).and_then(|summary| Ok(serde_json::to_string(&summary)?))
    } else {
        failover::run(&cluster, progress).and_then(|summary| Ok(serde_json::to_string(&summary)?))
    };
    if options.json {
        match &shown {
            Ok(summary) => println!("{summary}"),
            Err(error) => {
                println!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
            }
        }
    }
    shown.map(drop)
}

fn show(nodes: &[NodeStatus], format: OutputFormat) -> Result<()> {
    if format == OutputFormat::Json {
        println!("{}", serde_json::to_string_pretty(nodes)?);
        return Ok(());
    }
    for node in nodes {
        let state = if node.up { "up" } else { "cut" };
        let port = node.ssh_port.map(|port| format!("127.0.0.1:{port}")).unwrap_or_default();
        println!("{:<32} {state:<4} {port:<16} {}", node.name, node.directory.display());
    }
    Ok(())
}
