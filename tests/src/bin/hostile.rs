//! Gives a worker films that were damaged on purpose and watches that it lives: each job ends in
//! `completed` or `failed` within its bound, the service answers throughout, and no process is left.
//!
//! The damage follows from a seed and the film's number, so that one film can be made again
//! (`--seed S --first N --files 1`).

use clap::Parser;
use plexbeam_api::{Kind, SessionState, SessionStatus};
use plexbeam_tests::{
    TestEnv, argv,
    corpus::films,
    env::Worker,
    media::{Clip, Film, Subtitle},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Longest that one job may take on a busy machine; far above what the watchdog allows.
const BOUND: Duration = Duration::from_secs(150);
/// Jobs at once.
const AT_ONCE: usize = 3;

/// Give a worker damaged films and watch that it lives.
#[derive(Debug, Parser)]
#[command(name = "hostile", version)]
struct Args {
    /// How many films.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    files: u64,
    /// Number of the first film.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// What the damage follows from.
    #[arg(long, value_name = "SEED", default_value_t = 20_150_617)]
    seed: u64,
    /// Instead: write first inputs for the fuzz targets into this folder.
    #[arg(long, value_name = "DIR")]
    write_seeds: Option<PathBuf>,
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(dir) = &args.write_seeds {
        return match write_seeds(dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hostile: {}: {error}", dir.display());
                ExitCode::FAILURE
            }
        };
    }
    let mut faults = run(&args);
    faults.truncate(20);
    for fault in &faults {
        println!("FAULT {fault}");
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Films of every container and many codecs, two seconds each.
fn bases() -> Vec<(PathBuf, Vec<u8>)> {
    let film = |video: &[&'static str], sound: &'static str, container: &'static str| Film {
        seconds: 2.0,
        size: (160, 90),
        rate: "25",
        gop: 1.0,
        video: video.to_vec(),
        audio: vec![films::sound(sound, 2)],
        container,
        ..Film::default()
    };
    let h264 = &plexbeam_tests::media::H264;
    let clips: Vec<Clip> = vec![
        Film {
            subtitles: vec![Subtitle::Srt, Subtitle::Ass],
            attachments: true,
            ..film(h264, "aac", "mkv")
        }
        .clip(),
        film(&films::HDR10, "eac3", "mkv").clip(),
        film(&films::AV1, "flac", "mkv").clip(),
        film(&films::VP9, "libopus", "mkv").clip(),
        film(h264, "aac", "mp4").clip(),
        film(&films::HEVC, "ac3", "mp4").clip(),
        film(&films::MPEG2, "ac3", "ts").clip(),
        film(h264, "ac3", "m2ts").clip(),
        film(&["mpeg4"], "libmp3lame", "avi").clip(),
        film(h264, "aac", "flv").clip(),
        film(&["mpeg2video"], "mp2", "mpg").clip(),
        film(&["wmv2"], "wmav2", "asf").clip(),
    ];
    clips
        .iter()
        .map(|clip| {
            let path = clip.path();
            let bytes = fs::read(&path).expect("read a clip");
            (path, bytes)
        })
        .collect()
}

/// Damages a film: bits, blocks, lengths in its head, its end, its order.
fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bad = bytes.to_vec();
    for _ in 0..=random.below(3) {
        if bad.is_empty() {
            break;
        }
        let size = bad.len();
        match random.below(9) {
            // Single bits, few or many.
            0 | 1 => {
                for _ in 0..1 << random.below(10) {
                    let at = random.below(size);
                    bad[at] ^= 1 << random.below(8);
                }
            }
            // Bytes in the head, where the structure is.
            2 | 3 => {
                let head = size.min(4096);
                for _ in 0..=random.below(16) {
                    let at = random.below(head);
                    bad[at] = random.next() as u8;
                }
            }
            // A length of extremes.
            4 => {
                let at = random.below(size.saturating_sub(8));
                let value: [u8; 8] = match random.below(4) {
                    0 => [0xff; 8],
                    1 => [0; 8],
                    2 => [0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                    _ => random.next().to_be_bytes(),
                };
                let end = (at + 1 + random.below(8)).min(size);
                bad[at..end].copy_from_slice(&value[..end - at]);
            }
            // Cut off.
            5 => bad.truncate(random.below(size)),
            // A block of zeros or of noise.
            6 => {
                let at = random.below(size);
                let end = (at + random.below(8192)).min(size);
                let noise = random.below(2) == 0;
                for byte in &mut bad[at..end] {
                    *byte = if noise { random.next() as u8 } else { 0 };
                }
            }
            // A block twice, or gone.
            7 => {
                let at = random.below(size);
                let end = (at + random.below(16384)).min(size);
                let block = bad[at..end].to_vec();
                if random.below(2) == 0 {
                    bad.splice(at..at, block);
                } else {
                    bad.drain(at..end);
                }
            }
            // Two blocks change places.
            _ => {
                let half = size / 2;
                let (a, b) = (random.below(half), half + random.below(half));
                let length = random.below(2048).min(size - b).min(half - a);
                for n in 0..length {
                    bad.swap(a + n, b + n);
                }
            }
        }
    }
    bad
}

/// A job that is under way.
struct Running {
    number: u64,
    id: String,
    file: PathBuf,
    started: Instant,
}

fn run(args: &Args) -> Vec<String> {
    let env = TestEnv::new("hostile");
    let at_once = AT_ONCE.to_string();
    let mut worker = env.worker(&["--max-jobs", &at_once, "--retention", "5s"]);
    let bases = bases();
    let mut faults = Vec::new();
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let mut running: Vec<Running> = Vec::new();
    let mut longest = (Duration::ZERO, 0);
    let begun = Instant::now();
    let last = args.first + args.files;
    let mut next = args.first;
    while next < last || !running.is_empty() {
        if let Some(status) = worker.process.try_wait() {
            faults.push(format!("the worker ended with {status}"));
            break;
        }
        while next < last && running.len() < AT_ONCE {
            running.push(start(&env, &worker, &bases, args.seed, next));
            next += 1;
            if (next - args.first).is_multiple_of(100) {
                let seconds = begun.elapsed().as_secs_f64();
                println!("{} films, {seconds:.0} s", next - args.first);
            }
        }
        std::thread::sleep(Duration::from_millis(30));
        running.retain(|job| match outcome(&worker, job) {
            Err(fault) => {
                faults.push(fault);
                false
            }
            Ok(None) => true,
            Ok(Some(end)) => {
                *ends.entry(end).or_default() += 1;
                longest = longest.max((job.started.elapsed(), job.number));
                let _ = fs::remove_file(&job.file);
                false
            }
        });
    }
    if !worker.get("/health").is_ok_and(|r| r.status() == 200) {
        faults.push("the worker does not answer at the end".into());
    }
    // The spare of the next job may stay.
    let left = plexbeam_tests::wait::poll(Duration::from_secs(30), || {
        (children(worker.process.id()) <= 1).then_some(())
    });
    if left.is_none() {
        faults.push(format!(
            "{} processes are left",
            children(worker.process.id())
        ));
    }
    println!(
        "{} films by seed {} in {:.0} s; the longest took {:.1} s (number {})",
        args.files,
        args.seed,
        begun.elapsed().as_secs_f64(),
        longest.0.as_secs_f64(),
        longest.1
    );
    for (end, count) in &ends {
        println!("  {count:>5} {end}");
    }
    faults
}

fn start(
    env: &TestEnv,
    worker: &Worker,
    bases: &[(PathBuf, Vec<u8>)],
    seed: u64,
    number: u64,
) -> Running {
    let mut random = Random(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let (base, bytes) = &bases[number as usize % bases.len()];
    let extension = base.extension().unwrap_or_default().to_string_lossy();
    let file = env.root().join(format!("film-{number}.{extension}"));
    fs::write(&file, damage(bytes, &mut random)).expect("write a damaged film");
    let id = format!("film-{number}");
    let mut arguments = serde_json::json!({ "preset": "ultrafast", "resolution": "160x90" });
    match random.below(4) {
        0 => arguments = serde_json::json!({ "video_codec": "copy" }),
        1 => arguments["seek"] = 1.into(),
        _ => {}
    }
    let kind = ["hls", "dash"][random.below(2)];
    let reply = worker.post(
        plexbeam_api::route::TRANSCODE,
        &serde_json::json!({
            "job_id": id,
            "input": { "type": "file", "path": file },
            "output": { "type": kind, "segment_duration": 1 },
            "arguments": arguments,
        }),
    );
    assert_eq!(reply.status(), 202, "film {number} was not taken");
    Running {
        number,
        id,
        file,
        started: Instant::now(),
    }
}

/// How a job ended, by the kind of its problem; `None` while it runs.
fn outcome(worker: &Worker, job: &Running) -> Result<Option<String>, String> {
    let status: SessionStatus = worker
        .get(&format!("/status/{}", job.id))
        .and_then(|r| r.error_for_status()?.json())
        .map_err(|error| format!("film {}: no status: {error}", job.number))?;
    match (status.state, status.error) {
        (SessionState::Completed, _) => Ok(Some("completed".into())),
        (SessionState::Failed, Some(problem)) => {
            let how = if problem.kind == Kind::Internal {
                // A crash of libav is contained, and worth knowing.
                let crash = ["signal", "stood still", "no sign of life"]
                    .into_iter()
                    .find(|word| problem.detail.contains(word));
                if let Some(word) = crash {
                    println!("film {}: {}", job.number, problem.detail);
                    format!("failed: {word}")
                } else {
                    "failed: in the work".into()
                }
            } else {
                format!("failed: {:?}", problem.kind)
            };
            Ok(Some(how))
        }
        (SessionState::Cancelled, _) => Err(format!("film {}: cancelled by nobody", job.number)),
        (state, _) if job.started.elapsed() > BOUND => Err(format!(
            "film {} is still {state:?} after {} s",
            job.number,
            BOUND.as_secs()
        )),
        _ => Ok(None),
    }
}

/// Child processes of a process.
fn children(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .map(|list| list.split_whitespace().count())
        .sum()
}

/// First inputs for the fuzz targets: what the repository knows of each form.
fn write_seeds(dir: &Path) -> std::io::Result<()> {
    let put = |target: &str, name: &str, bytes: &[u8]| -> std::io::Result<()> {
        fs::create_dir_all(dir.join(target))?;
        fs::write(dir.join(target).join(name), bytes)
    };
    for line in argv::recorded() {
        put("argv", &line.id, line.argv.join("\0").as_bytes())?;
        for (n, pair) in line.argv.windows(2).enumerate() {
            if pair[0] == "-filter_complex" {
                put("graph", &format!("{}-{n}", line.id), pair[1].as_bytes())?;
            }
        }
    }
    let settings = include_str!("../../../deploy/cartridge.toml");
    put("config", "as-delivered", settings.as_bytes())?;
    put("config", "all", settings.replace("\n#", "\n").as_bytes())?;
    let film = Film {
        seconds: 2.0,
        size: (64, 36),
        ..Film::default()
    };
    let work = tempfile::tempdir()?;
    let (film, out) = (film.clip().path(), work.path().join("fragments.mp4"));
    plexbeam_tests::media::ffmpeg([
        "-i",
        film.to_str().expect("UTF-8 path"),
        "-map",
        "0:v",
        "-c",
        "copy",
        "-movflags",
        "+frag_keyframe+empty_moov+default_base_moof",
        "-f",
        "mp4",
        out.to_str().expect("UTF-8 path"),
    ]);
    put("boxes", "fragments", &fs::read(&out)?)
}
