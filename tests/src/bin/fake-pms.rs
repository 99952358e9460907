//! Plays a film as Plex Media Server does and says whether all was as Plex needs it.

use clap::Parser;
use plexbeam_tests::{
    argv::{self, Line},
    env::getxattr,
    fake_pms::{self, End, Live, Pace, Play, Report, WorkerView},
};
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Play a film through a cartridge as Plex Media Server does; exit 0 when all was as Plex needs it.
///
/// Starts the cartridge with a real Plex command line in a new session directory, answers its calls
/// strictly, reads every announced segment through that directory and lists what the real server
/// would refuse or lose.
#[derive(Parser)]
#[command(name = "fake-pms", version)]
struct Args {
    /// Plex's transcode directory: PlexBeam's mount, or any directory.
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// The program to start as "Plex Transcoder".
    #[arg(long, value_name = "PATH")]
    cartridge: PathBuf,
    /// One object of commands.jsonl ({"argv": [...], "env": {...}}) or a bare array.
    #[arg(long, value_name = "FILE.json")]
    argv: PathBuf,
    /// The film, put in the place of the command line's first input.
    #[arg(long, value_name = "FILE")]
    media: PathBuf,
    /// After three segments seek to segment number N, as Plex does: kill, new job, new directory.
    #[arg(long, value_name = "N")]
    seek: Option<u32>,
    /// Read at this many times real time instead of as fast as segments come.
    #[arg(long, value_name = "TIMES")]
    pace: Option<f64>,
    /// Keep copies of everything read under this directory.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Longest wait for the next segment, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    patience: u64,
    /// Print the report as JSON instead of a progress line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(report) => {
            if args.json {
                println!(
                    "{}",
                    serde_json::to_string_pretty(&report).unwrap_or_default()
                );
            } else {
                tell(&report);
            }
            if report.violations.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(error) => {
            eprintln!("fake-pms: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<Report, String> {
    let text =
        std::fs::read_to_string(&args.argv).map_err(|e| format!("{}: {e}", args.argv.display()))?;
    let line: Line = argv::parse(&text).map_err(|e| format!("{}: {e}", args.argv.display()))?;
    let absolute = |path: &PathBuf| {
        path.canonicalize()
            .map_err(|e| format!("{}: {e}", path.display()))
    };
    let mut play = Play::new(
        &absolute(&args.mount)?,
        &absolute(&args.cartridge)?,
        line,
        &absolute(&args.media)?,
    );
    play.seeks.extend(args.seek.map(|number| (3, number)));
    play.end = End::Film;
    play.pace = args.pace.map_or(Pace::Fast, Pace::Times);
    play.patience = Duration::from_secs(args.patience);
    play.keep.clone_from(&args.keep);
    play.worker = worker(&play.dir);
    let terminal = std::io::stderr().is_terminal();
    let printed = AtomicU64::new(0);
    let began = Instant::now();
    let live = move |live: Live| {
        // A terminal gets every segment, a log a line each two seconds.
        let now = began.elapsed().as_millis() as u64;
        if !terminal && now < printed.load(Ordering::Relaxed) + 2_000 && live.segments > 2 {
            return;
        }
        printed.store(now, Ordering::Relaxed);
        let seconds = live.wall.as_secs_f64();
        let mut err = std::io::stderr().lock();
        let _ = write!(
            err,
            "{}{:>5} segments read  {:>8.1} MiB  {:>6.1} Mb/s  {:>5.1}x real time  first segment after {:.2} s{}",
            if terminal { "\r" } else { "" },
            live.segments,
            live.bytes as f64 / f64::from(1 << 20),
            live.bytes as f64 * 8e-6 / seconds.max(0.001),
            live.media / seconds.max(0.001),
            live.first.map_or(0.0, |f| f.as_secs_f64()),
            if terminal { "" } else { "\n" },
        );
        let _ = err.flush();
    };
    if !args.json {
        play.live = Some(&live);
    }
    let report = fake_pms::play(&play).map_err(|e| e.to_string())?;
    if !args.json && terminal {
        eprintln!();
    }
    Ok(report)
}

/// The worker to ask about the input: the cartridge's own setting, or what the mount says.
fn worker(mount: &std::path::Path) -> Option<WorkerView> {
    let key = std::env::var("PLEXBEAM_API_KEY").unwrap_or_default();
    let url = std::env::var("PLEXBEAM_WORKERS")
        .ok()
        .and_then(|list| list.split(',').next().map(|url| url.trim().to_owned()))
        .filter(|url| !url.is_empty())
        .or_else(|| {
            let rows = getxattr(mount, plexbeam_api::mount::XATTR_WORKERS)?;
            let rows: Vec<plexbeam_api::mount::WorkerRow> = serde_json::from_slice(&rows).ok()?;
            rows.into_iter().find(|r| r.live).map(|r| r.url)
        })?;
    Some(WorkerView {
        url: url.trim_end_matches('/').to_owned(),
        key,
    })
}

fn tell(report: &Report) {
    let seconds = report.wall_ms as f64 / 1000.0;
    println!(
        "{} segments, {:.1} MiB read in {seconds:.1} s; first segment after {}",
        report.segments,
        report.bytes as f64 / f64::from(1 << 20),
        report.ttfs_ms.map_or("never".to_owned(), |ms| format!(
            "{:.2} s",
            ms as f64 / 1000.0
        )),
    );
    if report.violations.is_empty() {
        println!("all was as Plex needs it");
    } else {
        println!("{}", report.explain());
    }
}
