//! What it costs to look at a host, and to keep a fake one.

use std::sync::Arc;

use divan::Bencher;
use tranche_core::name::Timestamp;
use tranche_core::step::Step;
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeHost, FakeKernel, Machine};

fn main() {
    divan::main();
}

fn host(preset: &str) -> FakeHost {
    let machine = Machine::preset(preset).expect("a preset");
    let catalogue = Arc::new(Catalogue::builtin());
    FakeHost::new("node1".parse().expect("a name"), FakeKernel::boot(machine), catalogue, Limits::default())
}

/// Eight GPUs of 16 partitions.
#[divan::bench]
fn observe_128_partitions(bencher: Bencher<'_, '_>) {
    let host = host("big");
    for gpu in host.observe(Timestamp(0)).gpus.into_keys() {
        host.apply(&Step::EnableVfs { gpu, count: 16 }, Timestamp(0)).expect("virtual functions");
    }
    bencher.bench_local(|| host.observe(Timestamp(1)));
}

/// Two GPUs, not partitioned.
#[divan::bench]
fn observe_two_gpus(bencher: Bencher<'_, '_>) {
    let host = host("gpus");
    bencher.bench_local(|| host.observe(Timestamp(1)));
}

#[divan::bench]
fn boot_a_fake_host() -> FakeHost {
    host("gpus")
}

/// This machine, through its real `/sys` and `/proc`.
#[divan::bench]
fn inspect_this_machine(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| tranche_host::inspect("/".into(), None));
}

#[divan::bench]
fn read_the_catalogue() -> Catalogue {
    Catalogue::builtin()
}
