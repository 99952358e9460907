//! Times a play against the `ffmpeg` program with the same settings, in one run and as ratios, and
//! says what got worse since the baseline.
//!
//! Both sides take the same film and the same encoder options, by Plex's own words (sp-01). They run
//! in turns, so that a machine that is busy for a while is busy for both. `ffmpeg` reads the film from
//! and writes MPEG-TS segments to local disk; PlexBeam's time holds the cartridge, the worker, the
//! mount and a client that reads everything through the mount.

use clap::Parser;
use plexbeam_api::route;
use plexbeam_tests::{
    TestEnv,
    argv::{self, Line, Place},
    env::{self, Mount, Worker, program},
    fake_pms::{self, Play},
    media::{EAC3, Film},
    probe, wait,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// First announcement over ffmpeg's first segment.
const FIRST_GOAL: f64 = 1.1;
/// Whole job over ffmpeg's.
const WHOLE_GOAL: f64 = 1.1;
/// From the cartridge's start until a worker has the job, milliseconds.
const ACCEPT_GOAL: f64 = 30.0;
/// What counts as worse than the baseline.
const WORSE: f64 = 1.2;
/// Starts of the cartridge that are timed, after two that are not.
const STARTS: usize = 20;

/// Time a play against ffmpeg with the same settings.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Args {
    /// Rounds after the one for warming up.
    #[arg(long, value_name = "N", default_value_t = 3, env = "BENCH_ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of the film.
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
    /// Make this run the baseline.
    #[arg(long, env = "BENCH_SAVE")]
    save: bool,
}

/// The figures that are kept: medians, smaller is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Figures {
    /// First announcement over ffmpeg's first segment.
    first_segment_ratio: f64,
    /// Whole job over ffmpeg's.
    whole_job_ratio: f64,
    /// Cartridge's start to job accepted, milliseconds.
    accept_ms: f64,
    /// Where they were taken; for people.
    machine: String,
}

/// Seconds of one side of one round.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: f64,
    whole: f64,
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
    let film = Film {
        seconds: f64::from(args.seconds),
        size: (1920, 1080),
        video: vec![
            "libx264",
            "-preset",
            "ultrafast",
            "-bf",
            "2",
            "-b:v",
            "10M",
            "-pix_fmt",
            "yuv420p",
        ],
        audio: vec![EAC3],
        ..Film::default()
    }
    .clip()
    .path();
    let bits = fs::metadata(&film).map_err(|e| e.to_string())?.len() as f64 * 8e-6;
    let rate = bits / probe::duration(&film);
    if rate < 8.0 {
        return Err(format!("the film has {rate:.1} Mb/s only"));
    }
    let line = argv::line("sp-01").scaled(1280, 720);
    let cartridge = match &args.cartridge {
        Some(path) => path
            .canonicalize()
            .map_err(|e| format!("{}: {e}", path.display()))?,
        None => program("plexbeam-cartridge"),
    };
    let machine = machine();
    println!("machine    {machine}; load {}", load());
    println!(
        "film       {} s of 1920x1080, {rate:.1} Mb/s, E-AC-3 5.1",
        args.seconds
    );
    println!(
        "job        1280x720, libx264 {}, AAC, segments of 3 s",
        line.output_value("-x264opts:0").unwrap_or_default()
    );

    let env = TestEnv::new("bench");
    let worker = env.worker(&[]);
    let mount = env.mount(&[&worker], &[]);
    let bench = Bench {
        env: &env,
        worker: &worker,
        mount: &mount,
        cartridge,
        film: &film,
        line,
    };
    let mut accepts = Vec::new();
    for n in 0..STARTS + 2 {
        let ms = bench.accept(n)?;
        if n >= 2 {
            accepts.push(ms);
        }
    }
    let mut rounds: Vec<(Run, Run)> = Vec::new();
    for n in 0..=args.rounds {
        let theirs = bench.ffmpeg(n)?;
        let ours = bench.play(n)?;
        println!(
            "{} ffmpeg {:.3} s and {:.3} s, PlexBeam {:.3} s and {:.3} s",
            if n == 0 {
                "warm-up   ".to_owned()
            } else {
                format!("round {n:<4}")
            },
            theirs.first,
            theirs.whole,
            ours.first,
            ours.whole
        );
        if n > 0 {
            rounds.push((theirs, ours));
        }
    }

    println!(
        "\nmedian (best)                        ffmpeg           PlexBeam   ratio (min .. max), of the best   goal"
    );
    let first = ratio("first segment", &rounds, |r| r.first, FIRST_GOAL);
    let whole = ratio("whole job", &rounds, |r| r.whole, WHOLE_GOAL);
    let accept = median(accepts.clone());
    println!(
        "start to job accepted     {accept:.1} ms ({:.1} .. {:.1})   {ACCEPT_GOAL} ms {}",
        least(&accepts),
        most(&accepts),
        verdict(accept, ACCEPT_GOAL),
    );
    println!("\nstages of the last play, seconds since the job was accepted:");
    for (seconds, text) in bench.stages(args.rounds) {
        println!("  {seconds:>8.3}  {text}");
    }

    let figures = Figures {
        first_segment_ratio: round(first),
        whole_job_ratio: round(whole),
        accept_ms: round(accept),
        machine,
    };
    write(&args.last, &figures)?;
    println!();
    compare(&args.baseline, &figures)?;
    if args.save {
        write(&args.baseline, &figures)?;
        println!(
            "{} is now what later runs are compared with",
            args.baseline.display()
        );
    }
    Ok(())
}

struct Bench<'a> {
    env: &'a TestEnv,
    worker: &'a Worker,
    mount: &'a Mount,
    cartridge: PathBuf,
    film: &'a Path,
    line: Line,
}

impl Bench<'_> {
    fn settings(&self, logs: &Path) -> Vec<(&'static str, OsString)> {
        let config = self.env.root().join("cartridge.toml");
        // Settings of this machine do not count.
        let _ = fs::write(&config, "");
        vec![
            ("PLEXBEAM_CONFIG", config.into()),
            ("PLEXBEAM_WORKERS", self.worker.url.clone().into()),
            ("PLEXBEAM_API_KEY", self.env.key().into()),
            ("PLEXBEAM_ORIGINAL", "/bin/false".into()),
            ("PLEXBEAM_LOG_DIR", logs.into()),
        ]
    }

    fn logs(&self, round: u32) -> PathBuf {
        self.env.dir(&format!("log-{round}"))
    }

    /// One play by the real chain.
    fn play(&self, round: u32) -> Result<Run, String> {
        let mut play = Play::new(
            &self.mount.point,
            &self.cartridge,
            self.line.clone(),
            self.film,
        );
        for (name, value) in self.settings(&self.logs(round)) {
            play = play.env(name, value);
        }
        // Long pauses of a busy machine are no fault here; PMS's patience is tested elsewhere.
        play.patience = Duration::from_secs(120);
        play.throttle_ahead = f64::INFINITY;
        let report = fake_pms::play(&play).map_err(|e| e.to_string())?;
        if !report.violations.is_empty() {
            return Err(report.explain());
        }
        let job = report.jobs.first().ok_or("no job was played")?;
        Ok(Run {
            first: job.first_post_ms.ok_or("nothing was announced")? as f64 / 1e3,
            whole: job.wall_ms as f64 / 1e3,
        })
    }

    /// The same by ffmpeg: the line's own options, the keys as an absolute list.
    fn ffmpeg(&self, round: u32) -> Result<Run, String> {
        let dir = self.env.dir(&format!("ffmpeg-{round}"));
        let args = self.ffmpeg_args()?;
        let started = Instant::now();
        let mut child = Command::new("ffmpeg")
            .args(&args)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("start ffmpeg (`make setup` installs it): {e}"))?;
        let list = child.stdout.take().ok_or("no pipe from ffmpeg")?;
        let mut lines = BufReader::new(list).lines();
        // A name stands in the list when its file is whole.
        let name = lines.next().transpose().map_err(|e| e.to_string())?;
        let first = started.elapsed().as_secs_f64();
        lines.for_each(drop);
        let status = child.wait().map_err(|e| e.to_string())?;
        let whole = started.elapsed().as_secs_f64();
        if name.is_none() || !status.success() {
            let mut text = String::new();
            if let Some(mut pipe) = child.stderr.take() {
                let _ = pipe.read_to_string(&mut text);
            }
            return Err(format!("ffmpeg {args:?} ended with {status}: {text}"));
        }
        let _ = fs::remove_dir_all(&dir);
        Ok(Run { first, whole })
    }

    fn ffmpeg_args(&self) -> Result<Vec<String>, String> {
        let film = self
            .film
            .to_str()
            .ok_or("the film's path is not UTF-8")?
            .to_owned();
        let shape = self.line.shape()?;
        let steps = (probe::duration(self.film) / shape.seconds).ceil() as u32;
        let keys: Vec<String> = (0..=steps)
            .map(|n| format!("{}", f64::from(n) * shape.seconds))
            .collect();
        // Of the inputs' options only the limits of probing mean something to a stock ffmpeg.
        let mut args: Vec<String> = ["-y", "-nostdin", "-nostats", "-loglevel", "error"]
            .map(str::to_owned)
            .to_vec();
        let mut words = self.line.argv.iter();
        while let Some(word) = words.next() {
            let plex_only = [
                "-eae_prefix",
                "-init_hw_device",
                "-filter_hw_device",
                "-loglevel",
                "-loglevel_plex",
                "-progressurl",
            ];
            let input_codec = word.starts_with("-codec") && !args.contains(&film);
            if word == "-f" {
                break;
            } else if word == "-i" {
                words.next();
                args.extend(["-i".to_owned(), film.clone()]);
            } else if word.starts_with("-force_key_frames") {
                words.next();
                args.extend([word.clone(), keys.join(",")]);
            } else if input_codec || plex_only.iter().any(|name| word.starts_with(name)) {
                words.next();
            } else if word != "-y" && word != "-nostats" {
                args.push(word.clone());
            }
        }
        let seconds = shape.seconds.to_string();
        args.extend(
            [
                "-f",
                "segment",
                "-segment_format",
                "mpegts",
                "-segment_time",
                &seconds,
                "-segment_time_delta",
                "0.0625",
                "-segment_list_type",
                "flat",
                "-segment_list",
                "pipe:1",
                "media-%05d.ts",
            ]
            .map(str::to_owned),
        );
        Ok(args)
    }

    /// From the start of the cartridge's process until its log says that a worker has the job. The
    /// log is looked at each 0.2 ms, so the figure is not too small.
    fn accept(&self, n: usize) -> Result<f64, String> {
        let logs = self.env.dir(&format!("accept-{n}"));
        let session = format!("bench{n}");
        let dir = self
            .mount
            .point
            .join("Transcode/Sessions")
            .join(format!("plex-transcode-{session}-job{n}"));
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        // Connects and is never answered; the cartridge is killed before that matters.
        let silent = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let place = Place {
            media: self.film.to_owned(),
            port: silent.local_addr().map_err(|e| e.to_string())?.port(),
            session,
            job: format!("job{n}"),
            dir: dir.clone(),
        };
        let mut command = env::clean(Command::new(&self.cartridge));
        command
            .args(self.line.placed(&place)?)
            .current_dir(&dir)
            .env("X_PLEX_TOKEN", "token")
            .envs(self.settings(&logs))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut seen = None;
        while seen.is_none() && started.elapsed() < Duration::from_secs(10) {
            if session_log(&logs).contains(" accepted by ") {
                seen = Some(started.elapsed());
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        for session in self.worker.sessions() {
            let url = format!("{}{}", self.worker.url, route::session(&session.session));
            let _ = env::http_client()
                .delete(url)
                .header(route::API_KEY_HEADER, self.env.key())
                .send();
        }
        wait::until("the worker is idle", Duration::from_secs(30), || {
            self.worker
                .sessions()
                .iter()
                .all(|s| s.state.is_end())
                .then_some(())
        });
        let _ = fs::remove_dir_all(&dir);
        seen.map(|t| t.as_secs_f64() * 1e3)
            .ok_or_else(|| format!("no worker took the job: {}", session_log(&logs)))
    }

    /// What the cartridge wrote down of a round, against the moment when a worker had the job.
    fn stages(&self, round: u32) -> Vec<(f64, String)> {
        let log = session_log(&self.logs(round));
        let lines: Vec<(f64, &str)> = log
            .lines()
            .filter_map(|line| {
                let (stamp, rest) = line.split_once("Z ")?;
                let (_, clock) = stamp.split_once('T')?;
                let seconds = clock.split(':').try_fold(0.0, |sum, part| {
                    Some(sum * 60.0 + part.parse::<f64>().ok()?)
                })?;
                Some((
                    seconds,
                    rest.split_once("] ").map_or(rest, |(_, text)| text),
                ))
            })
            .collect();
        let zero = lines
            .iter()
            .find(|(_, text)| text.starts_with("accepted"))
            .map_or(0.0, |(at, _)| *at);
        lines
            .into_iter()
            .map(|(at, text)| (at - zero, text.to_owned()))
            .collect()
    }
}

/// The cartridge's log of the one session that wrote to this directory.
fn session_log(logs: &Path) -> String {
    fs::read_dir(logs.join("sessions"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect()
}

/// Prints one line and gives the median of the rounds' ratios.
fn ratio(name: &str, rounds: &[(Run, Run)], of: impl Fn(Run) -> f64, goal: f64) -> f64 {
    let ratios: Vec<f64> = rounds.iter().map(|&(a, b)| of(b) / of(a)).collect();
    let theirs = median(rounds.iter().map(|r| of(r.0)).collect());
    let ours = median(rounds.iter().map(|r| of(r.1)).collect());
    let middle = median(ratios.clone());
    let best = |side: fn(&(Run, Run)) -> Run| {
        least(&rounds.iter().map(|r| of(side(r))).collect::<Vec<_>>())
    };
    let (their_best, our_best) = (best(|r| r.0), best(|r| r.1));
    println!(
        "{name:<25} {theirs:>7.3} s ({their_best:.3}) {ours:>7.3} s ({our_best:.3})   {middle:.3} ({:.3} .. {:.3}), {:.3}   {goal} {}",
        least(&ratios),
        most(&ratios),
        our_best / their_best,
        verdict(middle, goal),
    );
    middle
}

fn verdict(value: f64, goal: f64) -> &'static str {
    if value <= goal { "met" } else { "MISSED" }
}

fn compare(baseline: &Path, now: &Figures) -> Result<(), String> {
    let text = match fs::read_to_string(baseline) {
        Ok(text) => text,
        Err(error) => {
            println!(
                "no baseline to compare with ({}: {error})",
                baseline.display()
            );
            return Ok(());
        }
    };
    let then: Figures =
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", baseline.display()))?;
    println!("baseline of {}", then.machine);
    let mut worse = 0;
    for (name, was, is) in [
        (
            "first segment",
            then.first_segment_ratio,
            now.first_segment_ratio,
        ),
        ("whole job", then.whole_job_ratio, now.whole_job_ratio),
        ("cartridge start to accepted", then.accept_ms, now.accept_ms),
    ] {
        if is > was * WORSE {
            worse += 1;
            println!(
                "WORSE      {name}: {is:.3}, was {was:.3}: {:.0} % more",
                (is / was - 1.0) * 100.0
            );
        }
    }
    if worse == 0 {
        println!("nothing got worse by more than 20 %");
    }
    Ok(())
}

fn write(path: &Path, figures: &Figures) -> Result<(), String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| wrong(&e))?;
    }
    let text = serde_json::to_string_pretty(figures).map_err(|e| wrong(&e))?;
    fs::write(path, text + "\n").map_err(|e| wrong(&e))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.as_slice() {
        [] => f64::NAN,
        all => (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0,
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
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
