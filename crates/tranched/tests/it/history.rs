//! The history of a host: what is asked of it, and what becomes of it when it cannot be written.

use std::fs;
use std::sync::Arc;

use camino::Utf8Path;
use serde_json::Value;
use tranche_core::history::{Measured, Quantity, Window};
use tranche_core::name::Timestamp;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine, usage};
use tranche_host::linux::LinuxHost;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::SAMPLES_FILE_NAME;
use tranched::clock;
use tranched::config::{Config, HistoryConfig};
use tranched::history::History;

use crate::served::Served;

const NOW: Timestamp = Timestamp(1_700_000_040_000);

fn busy_host() -> Arc<dyn Host> {
    let kernel = Arc::new(FakeKernel::boot(Machine::preset("gpus").unwrap()));
    let hypervisor = Box::new(FakeHypervisor::new(kernel.clone()));
    let catalogue = Arc::new(Catalogue::builtin());
    let host = LinuxHost::new("node1".parse().unwrap(), kernel, Limits::default(), catalogue, hypervisor);
    Arc::new(host.with_usage(usage))
}

fn history(dir: &Utf8Path, days: u64) -> (History, Measured) {
    let history = HistoryConfig { days, ..HistoryConfig::default() };
    let config = Config { state_dir: dir.to_owned(), history, ..Config::default() };
    let host = busy_host();
    let gpu = Measured::Gpu(host.observe(NOW).gpus.into_keys().next().unwrap());
    (History::new(&config, "node1".parse().unwrap(), host, None), gpu)
}

/// How many looks at a GPU a history tells of, by its means.
fn told(history: &History, gpu: &Measured) -> usize {
    let window = Window::new(NOW.0 / 1_000 - 600, NOW.0 / 1_000 + 600, Some(30)).unwrap();
    let shown = history.show(gpu, &window);
    let load = shown.series.iter().find(|series| series.quantity == Quantity::UtilizationPercent);
    load.map_or(0, |series| series.means.iter().flatten().count())
}

fn look(history: &History, times: u64) {
    (0..times).for_each(|time| history.look(Timestamp(NOW.0 + time * 30_000)));
}

#[test]
fn what_was_measured_is_there_before_it_is_written_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let (before, gpu) = history(path, 7);
    look(&before, 4);
    assert_eq!(told(&before, &gpu), 4);
    before.write(NOW.0 / 1_000 + 120, true);
    assert_eq!(told(&before, &gpu), 4);
    drop(before);
    let (after, gpu) = history(path, 7);
    assert_eq!(told(&after, &gpu), 4);
}

#[test]
fn a_file_that_is_broken_is_put_aside_and_the_history_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    fs::write(path.join(SAMPLES_FILE_NAME), vec![b'x'; 8_192]).unwrap();
    let (history, gpu) = history(path, 7);
    look(&history, 2);
    history.write(NOW.0 / 1_000 + 60, true);
    assert_eq!(told(&history, &gpu), 2);
    assert!(path.join(format!("{SAMPLES_FILE_NAME}.unread")).exists());
}

#[test]
fn what_cannot_be_written_waits_in_memory_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap().join("not-there-yet");
    let (history, gpu) = history(&path, 7);
    look(&history, 3);
    history.write(NOW.0 / 1_000 + 90, false);
    assert_eq!(told(&history, &gpu), 3);
    fs::create_dir(&path).unwrap();
    history.write(NOW.0 / 1_000 + 120, true);
    assert_eq!(told(&history, &gpu), 3);
    assert!(path.join(SAMPLES_FILE_NAME).exists());
}

#[test]
fn with_no_days_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(dir.path()).unwrap();
    let (history, gpu) = history(path, 0);
    look(&history, 3);
    history.write(NOW.0 / 1_000 + 90, true);
    assert_eq!(told(&history, &gpu), 3);
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}

#[tokio::test]
async fn a_part_of_a_history_is_asked_for_within_limits() {
    let served = Served::start(Machine::preset("gpus").unwrap()).await;
    let gpu: Value = served.get("/v1/gpus").await.json()[0].clone();
    let path = format!("/v1/gpus/node1/{}/history", gpu["address"].as_str().unwrap());
    let answer = served.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["host"], "node1");
    assert_eq!(answer.json()["step_s"], 30);
    let now = clock::now().0;
    for (query, refused) in [
        ("?from=5000&to=5000".to_owned(), "'to' is not after 'from'"),
        (format!("?from=0&to={now}&step_s=30"), "2000 are allowed"),
        ("?from=5&span_s=60".to_owned(), "said twice"),
        ("?step_s=31".to_owned(), "no multiple of 30"),
        ("?from=-1".to_owned(), "query is wrong"),
        ("?days=7".to_owned(), "unknown field"),
    ] {
        let answer = served.get(&format!("{path}{query}")).await;
        assert_eq!(answer.status, 422, "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(refused), "{query}: {detail}");
    }
    for missing in
        ["/v1/gpus/node1/0000:99:00.0/history", "/v1/gpus/node9/0000:01:00.0/history", "/v1/vms/none/history"]
    {
        assert_eq!(served.get(missing).await.status, 404, "{missing}");
    }
    served.stop().await.unwrap();
}
