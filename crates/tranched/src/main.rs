//! `tranched`: reads its settings, then serves until it is told to stop.

use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tranched::cluster::Cluster;
use tranched::cluster::hold::Hold;
use tranched::config::{self, Config};
use tranched::member::vigil::Vigil;
use tranched::traces::Traces;
use tranched::{listen, logs, waiting, wiring, witness};

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
    /// Only have a voice in a cluster's store: no GPU, no VM, no libvirt.
    #[arg(long)]
    witness: bool,
    /// Whether this host's member of the cluster's store may be started: exits with 0 if so. The store's service asks this.
    #[arg(long, value_name = "FILE", hide = true)]
    may_start_store: Option<Utf8PathBuf>,
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
    if let Some(file) = args.may_start_store {
        return if Hold::at(file).is_held() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let settings = Config::load(args.config.as_deref()).and_then(|config| config.host_name().map(|_| config));
    let config = match settings {
        Ok(mut config) => {
            config.cluster.witness |= args.witness;
            config
        }
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
        Ok(Ended::ForGood) => ExitCode::SUCCESS,
        Ok(Ended::Anew) => {
            // The same process with the same arguments: whoever watches it sees no end.
            let mut again = Command::new("/proc/self/exe");
            // What systemd passed was taken already, and is closed now.
            again.args(std::env::args_os().skip(1)).env_remove("LISTEN_FDS");
            let error = again.exec();
            tracing::error!(%error, "the daemon cannot replace itself");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How serving ended.
enum Ended {
    /// It was told to stop.
    ForGood,
    /// The process shall replace itself, because the host got into a cluster, or out of one.
    Anew,
}

fn run(config: &Config, fake_host: Option<&str>) -> anyhow::Result<Ended> {
    let started = Traces::start(&config.traces, &config.host_name()?);
    let (traces, layer) = started.context("the system refused to start threads")?.unzip();
    logs::start(&config.log, layer)?;
    let ended = run_followed(config, fake_host, traces.as_ref());
    if let Some(traces) = traces {
        traces.end();
    }
    ended
}

/// The same, while traces are made.
fn run_followed(config: &Config, fake_host: Option<&str>, traces: Option<&Traces>) -> anyhow::Result<Ended> {
    // One that replaced itself would be called "exe".
    let _ = rustix::thread::set_name(c"tranched");
    let listening = listen::listen(&config.socket, &config.socket_group)?;
    let cluster = wiring::cluster(config)?;
    if let Some((traces, membership)) = traces.zip(cluster.membership()) {
        traces.of_cluster(membership.cluster);
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %config.socket, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVERS)
        .max_blocking_threads(WAITERS_MAX)
        .enable_all()
        .build()
        .context("the system refused to start threads")?;
    let served = serve(config, fake_host, &cluster, listening.socket, &runtime);
    let ended = if cluster.is_anew() { Ended::Anew } else { Ended::ForGood };
    if let Some(path) = listening.own_path {
        // A socket that stays behind is replaced at the next start.
        let _ = std::fs::remove_file(path);
    }
    // A step that is under way goes on in the kernel or in libvirt; the next start sees what came of it.
    runtime.shutdown_background();
    cluster.end();
    served.map(|()| ended)
}

/// Serves until it is told to stop, or the process shall replace itself.
fn serve(
    config: &Config,
    fake_host: Option<&str>,
    cluster: &Cluster,
    socket: UnixListener,
    runtime: &Runtime,
) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        anyhow::Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    })?;
    let anew = cluster.clone();
    let mut end = std::pin::pin!(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = anew.anew() => {}
        }
        tracing::info!("stopping");
    });
    if config.cluster.witness {
        runtime.block_on(witness::serve(cluster.clone(), socket, end))?;
        return Ok(());
    }
    let vigil = wiring::vigil(config, fake_host.is_some(), cluster);
    if runtime.block_on(waiting::for_the_store(cluster, &socket, end.as_mut()))? {
        let kept = vigil.and_then(Vigil::end);
        let daemon = wiring::build(config, fake_host, cluster.clone(), kept, runtime.handle())?;
        runtime.block_on(daemon.serve(socket, end))?;
    } else if let Some(vigil) = vigil {
        vigil.part();
    }
    Ok(())
}
