//! Times PlexBeam against other programs at the same work, in one run and as ratios, and says what
//! got worse since the baseline.
//!
//! Each group of figures is a module: [`mod@play`] is the whole chain, [`mod@engine`] the worker's own work,
//! [`mount`] the file system, [`cartridge`] the program that Plex starts. A group prints its table
//! and gives the [`Figure`]s that are kept. What is compared runs in turns, so that a machine that is
//! busy for a while is busy for all.

mod cartridge;
mod engine;
mod figure;
mod mount;
mod play;
mod processor;
mod stage;

use clap::{Parser, ValueEnum};
use figure::{Figure, Record};
use plexbeam_tests::env::program;
use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

/// Time PlexBeam against other programs at the same work.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    /// Groups to run [default: all]; may be repeated.
    #[arg(long, value_name = "GROUP", value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Rounds after the one for warming up.
    #[arg(long, value_name = "N", default_value_t = 3, env = "BENCH_ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of the film of the group `play`; other groups take shares of it.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        env = "BENCH_SECONDS"
    )]
    seconds: u32,
    /// The cartridge [default: the one beside this program].
    #[arg(long, value_name = "PATH")]
    cartridge: Option<PathBuf>,
    /// Figures to compare with.
    #[arg(long, value_name = "FILE", default_value = "bench/baseline.json")]
    baseline: PathBuf,
    /// Where this run's figures go.
    #[arg(long, value_name = "FILE", default_value = "bench/last.json")]
    last: PathBuf,
    /// Put this run's figures into the baseline; those of groups that did not run stay.
    #[arg(long, env = "BENCH_SAVE")]
    save: bool,
}

/// What can be run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// A film through cartridge, worker and mount.
    Play,
    /// Jobs on the worker.
    Engine,
    /// The file system.
    Mount,
    /// The program that Plex starts.
    Cartridge,
}

impl Group {
    fn run(self, with: &Context) -> Result<Vec<Figure>, String> {
        match self {
            Group::Play => play::run(with),
            Group::Engine => engine::run(with),
            Group::Mount => mount::run(with),
            Group::Cartridge => cartridge::run(with),
        }
    }
}

/// What all groups are told.
#[derive(Debug)]
pub(crate) struct Context {
    /// Rounds that count.
    pub(crate) rounds: u32,
    /// Length of the usual film in seconds.
    pub(crate) seconds: u32,
    /// The cartridge to measure.
    pub(crate) cartridge: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match bench(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<(), String> {
    let with = Context {
        rounds: args.rounds,
        seconds: args.seconds,
        cartridge: match &args.cartridge {
            Some(path) => path
                .canonicalize()
                .map_err(|e| format!("{}: {e}", path.display()))?,
            None => program("plexbeam-cartridge"),
        },
    };
    let groups = if args.only.is_empty() {
        Group::value_variants()
    } else {
        &args.only
    };
    let machine = machine();
    println!("machine    {machine}; load {}", load());
    let mut figures = Vec::new();
    for group in groups {
        let started = Instant::now();
        println!("\n== {group:?}");
        figures.extend(group.run(&with).map_err(|e| format!("{group:?}: {e}"))?);
        println!("   took {:.0} s", started.elapsed().as_secs_f64());
    }
    println!("\n== Figures (medians)");
    for figure in &figures {
        println!("{figure}");
    }
    let now = Record::of(machine, &figures);
    now.write(&args.last)?;
    println!();
    let baseline = Record::read(&args.baseline)?;
    match &baseline {
        Some(then) => then.compare(&figures),
        None => println!("no baseline to compare with ({})", args.baseline.display()),
    }
    if args.save {
        now.over(baseline).write(&args.baseline)?;
        println!(
            "{} is now what later runs are compared with",
            args.baseline.display()
        );
    }
    Ok(())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("processor of an unknown kind", |(_, name)| name.trim());
    format!("{cores} cores, {model}")
}

/// The load average of the last minute; much above zero means that others disturb.
fn load() -> String {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| Some(text.split(' ').next()?.to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}
