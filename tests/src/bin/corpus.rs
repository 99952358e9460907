//! Plays recorded command lines and their like through the whole chain, judges each against `ffmpeg`
//! and prints a table. Ends with 1 when a line is wrong that the README does not name as a limit.

use clap::Parser;
use plexbeam_tests::{corpus, kit::Stage};
use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Lines that are known not to pass, as the README tells: (id, what is wrong).
const LIMITS: &[(&str, &str)] = &[];

/// Judge command lines against ffmpeg.
#[derive(Debug, Parser)]
#[command(name = "corpus", version)]
struct Args {
    /// Only cases whose name begins so; may be repeated.
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// The recorded lines without their variants.
    #[arg(long)]
    recorded: bool,
    /// Say which cases there are.
    #[arg(long)]
    list: bool,
    /// Tell all of each fault.
    #[arg(long, short)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut cases = corpus::recorded();
    if !args.recorded {
        cases.extend(corpus::likes());
    }
    if !args.only.is_empty() {
        cases.retain(|c| args.only.iter().any(|o| c.id.starts_with(o.as_str())));
    }
    if args.list {
        for case in &cases {
            println!("{:<22} {}", case.id, case.about);
        }
        return ExitCode::SUCCESS;
    }
    let limits: BTreeMap<&str, &str> = LIMITS.iter().copied().collect();
    let stage = Stage::new("corpus");
    let started = Instant::now();
    let (mut passed, mut limited, mut failed) = (0, 0, Vec::new());
    for case in &cases {
        let outcome = corpus::judge(&stage, case);
        let limit = limits.get(case.id.as_str());
        let known = limit.map_or_else(String::new, |why| format!("  [limit: {why}]"));
        println!("{:<22} {}{known}", case.id, outcome.row());
        if outcome.passed() {
            passed += 1;
        } else if limit.is_some() {
            limited += 1;
        } else {
            for finding in &outcome.findings {
                let all = args.verbose || finding.len() < 400;
                let text: String = finding
                    .chars()
                    .take(if all { usize::MAX } else { 400 })
                    .collect();
                println!("    {}", text.trim_end().replace('\n', "\n    "));
            }
            println!("    film: {}", case.about);
            failed.push(case.id.clone());
        }
        let _ = std::io::stdout().flush();
    }
    println!(
        "\n{} cases in {:.0} s: {passed} right, {limited} within the README's limits, {} wrong{}{}",
        cases.len(),
        Duration::as_secs_f64(&started.elapsed()),
        failed.len(),
        if failed.is_empty() { "" } else { ": " },
        failed.join(", ")
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
