//! Commands about GPUs.

use std::collections::BTreeSet;

use hyper::Method;
use tranche_api::answer::Preview;
use tranche_api::view::{GpuView, PartitionView};
use tranche_core::change::{Selection, SetMode, Version};
use tranche_core::name::{GpuKey, VmName};
use tranche_core::spec::{AskedMode, GpuMode};

use super::{Daemon, change, history};
use crate::argument::GpuArg;
use crate::cli::{Doing, GpuCommand, PartitionArgs, SeveralArgs};
use crate::failure::{Exit, Failure};
use crate::output::GpuSheet;

/// Where the mode of several GPUs at once is.
const ALL: &str = "/gpus/mode";

pub(super) fn run(command: GpuCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        GpuCommand::List => daemon.show(daemon.client.list::<Vec<GpuView>>("/gpus")?.as_slice()),
        GpuCommand::Show { gpu } => show(&find(&gpu, daemon)?, daemon),
        GpuCommand::History { gpu, part } => history::show(&path(&find(&gpu, daemon)?), part, None, daemon),
        GpuCommand::Partition(args) => partition(args, daemon),
        GpuCommand::Passthrough { gpu, allow_console, pool, drain, doing } => set_mode(
            &gpu,
            AskedMode { mode: GpuMode::Passthrough { allow_console, pool }, drain, reload_driver: false },
            doing,
            daemon,
        ),
        GpuCommand::Release { gpu: Some(gpu), drain, doing, .. } => {
            set_mode(&gpu, AskedMode { mode: GpuMode::Host, drain, reload_driver: false }, doing, daemon)
        }
        GpuCommand::Release { gpu: None, several, drain, doing } => {
            set_all(several, GpuMode::Host, drain, doing, daemon)
        }
    }
}

/// The one GPU that is meant. Nobody is asked where host and address say it all.
pub(super) fn find(arg: &GpuArg, daemon: &Daemon<'_>) -> Result<GpuKey, Failure> {
    if let Some(key) = arg.key() {
        return Ok(key);
    }
    let gpus: Vec<GpuView> = daemon.client.list("/gpus")?;
    let keys = gpus.into_iter().map(|gpu| GpuKey { host: gpu.host, address: gpu.address });
    let mut candidates: Vec<GpuKey> = keys.filter(|key| arg.matches(key)).collect();
    match candidates.len() {
        0 => Err(Failure::UnknownGpu { gpu: arg.to_string() }),
        1 => Ok(candidates.remove(0)),
        _ => Err(Failure::AmbiguousGpu {
            gpu: arg.to_string(),
            candidates: candidates.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// Whether a partition is one of this GPU's.
pub(super) fn is_of(partition: &PartitionView, gpu: &GpuKey) -> bool {
    partition.host == gpu.host && partition.gpu == gpu.address
}

fn show(key: &GpuKey, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let gpu: GpuView = daemon.client.get(&path(key))?;
    let mut partitions: Vec<PartitionView> = daemon.client.list("/partitions")?;
    partitions.retain(|partition| is_of(partition, key));
    daemon.show(&GpuSheet { gpu, partitions })
}

fn partition(args: PartitionArgs, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let PartitionArgs { gpu, count, number, series, sizes, several, drain, reload_driver, doing } = args;
    let mode = match count.or(number) {
        Some(count) => GpuMode::Partitioned { count, series },
        None => GpuMode::Mixed { sizes },
    };
    match gpu {
        Some(gpu) => set_mode(&gpu, AskedMode { mode, drain, reload_driver }, doing, daemon),
        None => set_all(several, mode, drain, doing, daemon),
    }
}

fn set_all(
    several: SeveralArgs,
    mode: GpuMode,
    drain: bool,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    // With --gpu or --like, --all says nothing more.
    let SeveralArgs { all: _, gpus, like, version, yes } = several;
    let gpus = gpus.iter().map(|gpu| find(gpu, daemon)).collect::<Result<_, _>>()?;
    let like = like.map(|gpu| find(&gpu, daemon)).transpose()?;
    let mut wish = SetMode { selection: Selection { gpus, like }, mode, drain, version };
    if drain && wish.version.is_none() && !yes && !doing.dry_run {
        wish.version = confirmed(&wish, daemon)?;
    }
    change::put(ALL, &wish, doing, daemon)
}

/// Has its user agree to VMs being interrupted. What was agreed to is applied, and nothing else: the version says so.
fn confirmed(wish: &SetMode, daemon: &Daemon<'_>) -> Result<Option<Version>, Failure> {
    let preview: Preview = daemon.client.send(Method::PUT, &change::dry(ALL), Some(wish))?;
    let vms: BTreeSet<&VmName> = preview.effect.gpus.values().flat_map(|effect| &effect.vms).collect();
    if vms.is_empty() {
        return Ok(preview.version);
    }
    let vms: Vec<String> = vms.into_iter().map(ToString::to_string).collect();
    let gpus = preview.effect.gpus.len();
    let question = format!("This changes {gpus} GPUs and interrupts VM {}. Go on?", vms.join(", "));
    match daemon.console.agrees(&question)? {
        Some(true) => Ok(preview.version),
        Some(false) => Err(Failure::Declined),
        None => Err(Failure::Unasked { vms }),
    }
}

fn set_mode(arg: &GpuArg, mode: AskedMode, doing: Doing, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let key = find(arg, daemon)?;
    change::put(&format!("{}/mode", path(&key)), &mode, doing, daemon)
}

fn path(key: &GpuKey) -> String {
    format!("/gpus/{}/{}", key.host, key.address)
}
