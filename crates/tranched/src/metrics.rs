//! Numbers for monitoring, in the form of OpenMetrics. Their names are stable and stand in `docs/metrics.md`.
//!
//! What can be counted in the present view is counted when somebody asks; only what happens in time is kept.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tranche_api::view::{self, GpuView, PartitionState, PartitionView, Sources, VmState};
use tranche_core::inventory::{PartitionTelemetry, Telemetry};
use tranche_core::map::Map;
use tranche_core::name::OperationId;
use tranche_core::operation::{Operation, OperationState};
use tranche_core::spec::GpuMode;

use crate::engine::{Moved, PassReport};
use crate::traces;

/// What every name begins with.
const PREFIX: &str = "tranche";

/// The upper bounds of the histogram of passes, in seconds: from a quiet look to a step that hangs until its limit.
const PASS_BOUNDS_S: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

/// The upper bounds of the histograms of pauses, in seconds: from what nobody notices to what is allowed by default.
const PAUSE_BOUNDS_S: [f64; 10] = [0.05, 0.1, 0.3, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0, 600.0];

/// The numbers that are kept.
#[derive(Debug)]
pub struct Metrics {
    kept: Registry,
    passes: Histogram,
    steps: Counter<u64, AtomicU64>,
    step_failures: Counter<u64, AtomicU64>,
    moves: Family<Labels, Counter<u64, AtomicU64>>,
    pauses: Histogram,
    pauses_foreseen: Histogram,
}

/// What the host that decides knows.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What there is.
    pub sources: Sources<'a>,
    /// The number of the view.
    pub revision: u64,
    /// Every operation that is remembered.
    pub operations: &'a Map<OperationId, Operation>,
}

/// Labels of one number: names with values, in order.
type Labels = Vec<(&'static str, String)>;

/// A gauge that counts something for each set of labels.
type Counts = Family<Labels, Gauge>;

impl Default for Metrics {
    fn default() -> Self {
        let mut kept = Registry::with_prefix(PREFIX);
        let passes = Histogram::new(PASS_BOUNDS_S);
        let (steps, step_failures) = (Counter::default(), Counter::default());
        let (pauses, pauses_foreseen) = (Histogram::new(PAUSE_BOUNDS_S), Histogram::new(PAUSE_BOUNDS_S));
        let moves = Family::default();
        let version: Labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        kept.register("build", "The daemon's version", Info::new(version));
        kept.register_with_unit(
            "pass_duration",
            "How long passes of the loop took",
            Unit::Seconds,
            passes.clone(),
        );
        kept.register("steps", "Steps that were carried out", steps.clone());
        kept.register("step_failures", "Steps that failed", step_failures.clone());
        kept.register("moves", "VMs that this host sent to another one while they ran", moves.clone());
        kept.register_with_unit(
            "move_pause",
            "For how long guests stood still that this host sent to another one",
            Unit::Seconds,
            pauses.clone(),
        );
        kept.register_with_unit(
            "move_pause_foreseen",
            "For how long the same guests were foreseen to stand still",
            Unit::Seconds,
            pauses_foreseen.clone(),
        );
        kept.register("trace_spans_dropped", "Spans of traces that no collector took", traces::dropped());
        Self { kept, passes, steps, step_failures, moves, pauses, pauses_foreseen }
    }
}

impl Metrics {
    /// Keeps what a pass did.
    pub fn pass(&self, took: Duration, report: &PassReport) {
        self.passes.observe(took.as_secs_f64());
        self.steps.inc_by(u64::try_from(report.steps_tried).unwrap_or(u64::MAX));
        self.step_failures.inc_by(u64::try_from(report.steps_failed).unwrap_or(u64::MAX));
        for moved in &report.moved {
            let result = match moved {
                Moved::Failed => "failed",
                Moved::Sent { pause_ms, foreseen_ms } => {
                    self.pauses.observe(seconds(*pause_ms));
                    if let Some(foreseen_ms) = foreseen_ms {
                        self.pauses_foreseen.observe(seconds(*foreseen_ms));
                    }
                    "sent"
                }
            };
            self.moves.get_or_create(&vec![("result", result.to_owned())]).inc();
        }
    }

    /// Everything as text (OpenMetrics 1.0). Who follows knows nothing of the cluster: of that it tells no numbers, not even zeros, so that
    /// what all hosts tell can be added up.
    pub fn text(&self, known: Option<Known<'_>>) -> String {
        let mut text = String::new();
        let leading: Gauge = Gauge::default();
        leading.set(known.is_some().into());
        let mut present = known.map_or_else(|| Registry::with_prefix(PREFIX), present);
        present.register(
            "leads",
            "Whether this host decides, and so tells of GPUs, VMs and findings",
            leading,
        );
        // Writing into a string does not fail.
        let written = encode_registry(&mut text, &self.kept)
            .and_then(|()| encode_registry(&mut text, &present))
            .and_then(|()| encode_eof(&mut text));
        debug_assert!(written.is_ok());
        text
    }
}

/// What is counted in the present view.
fn present(Known { sources, revision, operations }: Known<'_>) -> Registry {
    let sources = &sources;
    let mut registry = Registry::with_prefix(PREFIX);
    let mut gauge = |name: &str, help: &str, counts: BTreeMap<Labels, i64>| {
        let family = Counts::default();
        for (labels, count) in counts {
            family.get_or_create(&labels).set(count);
        }
        registry.register(name, help, family);
    };
    let gpus = view::gpus(sources);
    gauge("gpus", "GPUs, by host and mode", gpu_modes(&gpus));
    let partitions = view::partitions(sources);
    gauge("partitions", "Partitions, by host and state", partition_states(sources, &partitions));
    let load = |telemetry: &Telemetry| telemetry.utilization_percent.map(i64::from);
    gauge("gpu_utilization_percent", "How busy GPUs are, where their driver tells", measured(&gpus, load));
    let used = |telemetry: &Telemetry| telemetry.memory_used_mib.and_then(bytes);
    gauge("gpu_memory_used_bytes", "Memory of GPUs in use, where their driver tells", measured(&gpus, used));
    let size = |telemetry: &Telemetry| telemetry.memory_total_mib.and_then(bytes);
    gauge("gpu_memory_total_bytes", "Memory of GPUs, where their driver tells", measured(&gpus, size));
    let load = |told: &PartitionTelemetry| told.utilization_percent.map(i64::from);
    let help = "How much of their GPU goes to partitions, where its driver tells";
    gauge("partition_utilization_percent", help, measured_of_each(&partitions, load));
    let used = |told: &PartitionTelemetry| told.memory_used_mib.and_then(bytes);
    let help = "Memory of partitions that guests use, where the driver tells";
    gauge("partition_memory_used_bytes", help, measured_of_each(&partitions, used));
    gauge("vms", "VMs, by state", vms(sources));
    gauge("operations", "Operations that are remembered, by state", operation_states(operations.values()));
    gauge("findings", "Findings that stand, by code and severity", findings(sources));
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    gauge(
        "view_revision",
        "Grows with each change of what is known",
        BTreeMap::from([(Vec::new(), revision)]),
    );
    registry
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn count(
    items: impl IntoIterator<Item = Labels>,
    mut counts: BTreeMap<Labels, i64>,
) -> BTreeMap<Labels, i64> {
    for labels in items {
        *counts.entry(labels).or_insert(0) += 1;
    }
    counts
}

fn gpu_modes(gpus: &[GpuView]) -> BTreeMap<Labels, i64> {
    let mode = |mode: &GpuMode| match mode {
        GpuMode::Partitioned { .. } => "partitioned",
        GpuMode::Mixed { .. } => "mixed",
        GpuMode::Passthrough { .. } => "passthrough",
        GpuMode::Host => "host",
    };
    let labels =
        gpus.iter().map(|gpu| vec![("host", gpu.host.to_string()), ("mode", mode(&gpu.mode).to_owned())]);
    count(labels, BTreeMap::new())
}

/// What drivers measure, by GPU. GPUs of which nothing is known are left out.
fn measured(gpus: &[GpuView], value: impl Fn(&Telemetry) -> Option<i64>) -> BTreeMap<Labels, i64> {
    let measure = |gpu: &GpuView| {
        let value = value(gpu.telemetry.as_ref()?)?;
        Some((vec![("host", gpu.host.to_string()), ("gpu", gpu.address.to_string())], value))
    };
    gpus.iter().filter_map(measure).collect()
}

/// The same of partitions that have an index.
fn measured_of_each(
    partitions: &[PartitionView],
    value: impl Fn(&PartitionTelemetry) -> Option<i64>,
) -> BTreeMap<Labels, i64> {
    let measure = |partition: &PartitionView| {
        let (value, index) = (value(partition.telemetry.as_ref()?)?, partition.index?);
        let labels = vec![
            ("host", partition.host.to_string()),
            ("gpu", partition.gpu.to_string()),
            ("index", index.to_string()),
        ];
        Some((labels, value))
    };
    partitions.iter().filter_map(measure).collect()
}

fn bytes(mib: u64) -> Option<i64> {
    i64::try_from(mib.checked_mul(1 << 20)?).ok()
}

fn partition_states(sources: &Sources<'_>, partitions: &[PartitionView]) -> BTreeMap<Labels, i64> {
    let labels = |host: String, state: PartitionState| vec![("host", host), ("state", state.to_string())];
    let hosts = sources.inventory.keys();
    let zeros = hosts
        .flat_map(|host| PartitionState::ALL.map(|state| (labels(host.to_string(), state), 0)))
        .collect();
    count(partitions.iter().map(|partition| labels(partition.host.to_string(), partition.state)), zeros)
}

fn vms(sources: &Sources<'_>) -> BTreeMap<Labels, i64> {
    let labels = |state: VmState| vec![("state", state.to_string())];
    let zeros = VmState::ALL.map(|state| (labels(state), 0)).into_iter().collect();
    count(view::vms(sources).into_iter().map(|vm| labels(vm.state)), zeros)
}

fn operation_states<'a>(operations: impl Iterator<Item = &'a Operation>) -> BTreeMap<Labels, i64> {
    let name = |state| match state {
        OperationState::Running => "running",
        OperationState::Waiting => "waiting",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Superseded => "superseded",
    };
    count(operations.map(|operation| vec![("state", name(operation.state).to_owned())]), BTreeMap::new())
}

fn findings(sources: &Sources<'_>) -> BTreeMap<Labels, i64> {
    let labels = sources
        .findings
        .iter()
        .map(|finding| vec![("code", finding.code.to_string()), ("severity", finding.severity.to_string())]);
    count(labels, BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use tranche_core::finding::Subject;
    use tranche_core::inventory::Inventory;
    use tranche_core::name::Timestamp;
    use tranche_core::operation::Goal;
    use tranche_core::plan::Plan;
    use tranche_core::spec::Spec;
    use tranche_core::step::Step;
    use tranche_host::Host as _;
    use tranche_host::calls::Limits;
    use tranche_host::fake::{FakeHost, FakeKernel, Machine};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn how_long_guests_stood_still_stands_beside_what_was_foreseen() {
        let metrics = Metrics::default();
        let sent = |pause_ms, foreseen_ms| Moved::Sent { pause_ms, foreseen_ms };
        let moved = vec![sent(250, Some(500)), Moved::Failed, sent(1_250, None)];
        let report = PassReport { steps_tried: 0, steps_failed: 0, next_due: None, restored: true, moved };
        metrics.pass(Duration::ZERO, &report);
        let mut text = String::new();
        encode_registry(&mut text, &metrics.kept).unwrap();
        for line in [
            "tranche_moves_total{result=\"failed\"} 1",
            "tranche_moves_total{result=\"sent\"} 2",
            "tranche_move_pause_seconds_sum 1.5",
            "tranche_move_pause_seconds_count 2",
            "tranche_move_pause_foreseen_seconds_sum 0.5",
            "tranche_move_pause_foreseen_seconds_count 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }

    #[test]
    fn what_drivers_measure_is_told_of_gpus_and_of_partitions_and_of_no_others() {
        let host = FakeHost::new(
            "node1".parse().unwrap(),
            FakeKernel::boot(Machine::gpus(1, 4)),
            Arc::default(),
            Limits::default(),
        );
        let address = host.observe(Timestamp(1)).gpus.into_keys().next().expect("a GPU");
        host.apply(&Step::EnableVfs { gpu: address.clone(), count: 2 }, Timestamp(1)).expect("it is split");
        let mut seen = host.observe(Timestamp(1));
        let gpu = seen.gpus.get_mut(&address).expect("the GPU");
        gpu.telemetry = Some(Telemetry { utilization_percent: Some(42), ..Telemetry::default() });
        gpu.partitions[1].telemetry =
            Some(PartitionTelemetry { utilization_percent: Some(7), memory_used_mib: Some(2) });
        let inventory = Inventory::from([(seen.host.clone(), seen.into())]);
        let (spec, plan) = (Spec::default(), Plan::default());
        let sources = Sources { spec: &spec, plan: &plan, inventory: &inventory, findings: &[] };
        let known = Known { sources, revision: 1, operations: &Map::default() };
        let text = Metrics::default().text(Some(known));
        let measured: Vec<&str> =
            text.lines().filter(|line| line.starts_with("tranche_") && line.contains("gpu=")).collect();
        assert_eq!(
            measured,
            [
                format!("tranche_gpu_utilization_percent{{host=\"node1\",gpu=\"{address}\"}} 42"),
                format!(
                    "tranche_partition_utilization_percent{{host=\"node1\",gpu=\"{address}\",index=\"1\"}} 7"
                ),
                format!(
                    "tranche_partition_memory_used_bytes{{host=\"node1\",gpu=\"{address}\",index=\"1\"}} 2097152"
                ),
            ]
        );
    }

    #[test]
    fn who_follows_tells_of_its_own_daemon_and_no_number_of_the_cluster() {
        let metrics = Metrics::default();
        let numbers = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
        };
        let (spec, plan, inventory) = (Spec::default(), Plan::default(), Inventory::default());
        let sources = Sources { spec: &spec, plan: &plan, inventory: &inventory, findings: &[] };
        let leads = metrics.text(Some(Known { sources, revision: 1, operations: &Map::default() }));
        let follows = metrics.text(None);
        assert!(follows.contains("\ntranche_leads 0\n") && leads.contains("\ntranche_leads 1\n"));
        let only_leader: Vec<String> = numbers(&leads).difference(&numbers(&follows)).cloned().collect();
        assert_eq!(only_leader, ["tranche_view_revision", "tranche_vms"], "an empty cluster has no others");
        let own = [
            "tranche_build_info",
            "tranche_leads",
            "tranche_steps_total",
            "tranche_pass_duration_seconds_count",
        ];
        assert!(own.iter().all(|name| numbers(&follows).contains(*name)), "{follows}");
    }

    /// Alerts and dashboard are held to the page by `cargo xtask tidy`.
    #[test]
    fn the_page_tells_of_each_metric_and_of_its_type_and_of_no_others() {
        let host = FakeHost::new(
            "node1".parse().unwrap(),
            FakeKernel::boot(Machine::gpus(1, 4)),
            Arc::default(),
            Limits::default(),
        );
        let address = host.observe(Timestamp(1)).gpus.into_keys().next().expect("a GPU");
        host.apply(&Step::EnableVfs { gpu: address.clone(), count: 2 }, Timestamp(1)).expect("it is split");
        let mut seen = host.observe(Timestamp(1));
        let gpu = seen.gpus.get_mut(&address).expect("the GPU");
        gpu.telemetry = Some(Telemetry {
            utilization_percent: Some(42),
            memory_used_mib: Some(1),
            memory_total_mib: Some(2),
            ..Telemetry::default()
        });
        gpu.partitions[0].telemetry =
            Some(PartitionTelemetry { utilization_percent: Some(7), memory_used_mib: Some(2) });
        let inventory = Inventory::from([(seen.host.clone(), seen.into())]);
        let findings = [tranche_core::diagnostics::failover_paused()];
        let (spec, plan) = (Spec::default(), Plan::default());
        let sources = Sources { spec: &spec, plan: &plan, inventory: &inventory, findings: &findings };
        let operation = Operation {
            id: OperationId(Uuid::nil()),
            title: String::new(),
            subject: Subject::Installation,
            goal: Goal::VmOff { vm: "desk-01".parse().unwrap() },
            created_at: Timestamp(1),
            updated_at: Timestamp(1),
            state: OperationState::Running,
            progress_percent: 0,
            findings: Vec::new(),
            log: Vec::new(),
        };
        let metrics = Metrics::default();
        let moved = vec![Moved::Failed];
        let report = PassReport { steps_tried: 0, steps_failed: 0, next_due: None, restored: true, moved };
        metrics.pass(Duration::ZERO, &report);
        let operations = Map::from_iter([(operation.id, operation)]);
        let text = metrics.text(Some(Known { sources, revision: 1, operations: &operations }));
        let end = |kind: &str| match kind {
            "info" => "_info",
            "counter" => "_total",
            _ => "",
        };
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let told: BTreeSet<String> =
            types.map(|(name, kind)| format!("{name}{} {kind}", end(kind))).collect();
        let page = include_str!("../../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `tranche_")?.split_once("` | "));
        let rows = rows.map(|(name, rest)| format!("tranche_{name} {}", rest.split(' ').next().unwrap()));
        assert_eq!(told, rows.collect());
    }
}
