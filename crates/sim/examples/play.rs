//! Plays made-up stories: `play FIRST COUNT`, or one of them with all that happened: `play SEED`.

fn main() {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (first, count) = (args.first().copied().unwrap_or(0), args.get(1).copied());
    let mut bad = Vec::new();
    let planted = match args.get(2) {
        Some(1) => Some(tranche_sim::Planted::NoFenceWait),
        Some(2) => Some(tranche_sim::Planted::BookingAfterStart),
        Some(3) => Some(tranche_sim::Planted::StaleLeaderWrites),
        Some(4) => Some(tranche_sim::Planted::ForgottenShutdown),
        Some(5) => Some(tranche_sim::Planted::GoesOnAtOnce),
        _ => None,
    };
    for seed in first..first + count.unwrap_or(1) {
        let played =
            planted.map_or_else(|| tranche_sim::fuzz(seed), |planted| tranche_sim::fuzz_with(seed, planted));
        let report = played.expect("the story can be played");
        if count.is_none() {
            println!("{}", serde_json::to_string_pretty(&tranche_sim::story(seed)).expect("it is data"));
            for record in &report.records {
                println!("{:>8} {} {:?}", record.at_ms, record.host, record.what);
            }
            for finding in &report.findings {
                println!("{} {}", finding.code, finding.message);
            }
            println!("{:?}", report.placement);
        }
        for violation in report.violations.iter().take(3) {
            println!("seed {seed} at {}: {}", violation.at_ms, violation.what);
        }
        if !report.ok {
            bad.push(seed);
        }
    }
    println!("{} bad: {:?}", bad.len(), bad);
}
