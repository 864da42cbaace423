//! `tranched`: reads its settings, then serves until it is told to stop.

use std::process::ExitCode;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tranched::config::{self, Config};
use tranched::{listen, logs, wiring};

/// What wrong settings exit with (sysexits.h: EX_CONFIG); the service manager does not try again.
const EXIT_CONFIG: u8 = 78;

/// Threads that serve requests. Two suffice: requests wait on the store, not on the processor.
const SERVERS: usize = 2;

/// Threads that wait for the store at once.
const WAITERS_MAX: usize = 8;

/// The Tranche daemon: partitions GPUs and gives the partitions to virtual machines.
///
/// It is started by the service manager; 'tranche' is the command that speaks to it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The file with the settings; it need not exist if it is not named here.
    #[arg(long, value_name = "FILE", help = format!("The file with the settings [default: {}]", config::DEFAULT_PATH))]
    config: Option<Utf8PathBuf>,
    /// Check the settings and exit: 0 if they are right, 78 if not.
    #[arg(long)]
    check_config: bool,
    /// Print the file of settings with every default and exit.
    #[arg(long, conflicts_with = "check_config")]
    print_default_config: bool,
    /// Move a record with which the store cannot be read out of the way, and exit. The daemon must be stopped.
    #[arg(long, value_name = "KEY", conflicts_with = "check_config")]
    set_aside: Option<String>,
    /// Serve a host that does not exist, for trials without hardware.
    #[arg(long, value_name = "PRESET", hide = true)]
    fake_host: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_default_config {
        print!("{}", config::DEFAULT_FILE);
        return ExitCode::SUCCESS;
    }
    let settings = Config::load(args.config.as_deref()).and_then(|config| config.host_name().map(|_| config));
    let config = match settings {
        Ok(config) => config,
        Err(error) => {
            eprintln!("tranched: {:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.check_config {
        return ExitCode::SUCCESS;
    }
    if let Some(key) = args.set_aside {
        return match wiring::set_aside(&config, &key) {
            Ok(done) => {
                println!("{done}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("tranched: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&config, args.fake_host.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config, fake_host: Option<&str>) -> anyhow::Result<()> {
    logs::start(&config.log)?;
    let listening = listen::listen(&config.socket, &config.socket_group)?;
    let daemon = wiring::build(config, fake_host)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %config.socket, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVERS)
        .max_blocking_threads(WAITERS_MAX)
        .enable_all()
        .build()
        .context("the system refused to start threads")?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let end = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        };
        anyhow::Ok(daemon.serve(listening.socket, end).await?)
    });
    if let Some(path) = listening.own_path {
        // A socket that stays behind is replaced at the next start.
        let _ = std::fs::remove_file(path);
    }
    // A step that is under way goes on in the kernel or in libvirt; the next start sees what came of it.
    runtime.shutdown_background();
    served
}
