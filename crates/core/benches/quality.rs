//! How many VMs run again after the loss of a host, in many random clusters: planned, by first-fit decreasing, and at
//! best. Run it with `cargo bench -p tranche-core --bench quality`.

#![expect(unused, reason = "it shares the tests' models and uses a part of each")]

#[path = "../tests/it/fleet.rs"]
mod fleet;
#[path = "../tests/it/quality.rs"]
mod quality;
#[path = "../tests/it/world.rs"]
mod world;

const CLUSTERS: u64 = 200;

fn main() {
    println!("fill   VMs lost   first-fit decreasing   planned   optimum   planned of the optimum");
    for fill in [75, 85, 92] {
        let outcomes: Vec<_> = (1..=CLUSTERS).map(|seed| quality::one_host_lost(seed, fill)).collect();
        let sum = |of: fn(&quality::Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
        let fewer = outcomes.iter().filter(|outcome| outcome.planned < outcome.first_fit).count();
        let (planned, optimum) = (sum(|outcome| outcome.planned), sum(|outcome| outcome.optimum));
        println!(
            "{fill} %   {:8}   {:20}   {planned:7}   {optimum:7}   {:.2} %",
            sum(|outcome| outcome.lost),
            sum(|outcome| outcome.first_fit),
            100.0 * planned as f64 / optimum as f64
        );
        assert_eq!(fewer, 0, "fewer than first-fit decreasing in {fewer} clusters");
    }
}
