//! The worker's own work against the `ffmpeg` program at the same settings: whole jobs by wall time,
//! processor time and memory, and starts from the beginning, after a seek, of a film seen before, and
//! of eight jobs at once.
//!
//! Both read from local disk and make MPEG-TS segments of 4 s with x264 `veryfast` and stereo AAC. The
//! pixel format that the worker chose is handed to `ffmpeg`, lest one of them encodes 10 bits.

mod run;

use crate::{
    Context,
    figure::{Figure, median, ratio, ratio_head},
};
use plexbeam_tests::{
    TestEnv,
    corpus::films,
    media::{Clip, EAC3, Film},
};
use run::{Taken, Task, Until};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Wall and processor time of a whole job over ffmpeg's.
const WHOLE_GOAL: f64 = 1.05;
/// First segment over ffmpeg's.
const FIRST_GOAL: f64 = 0.9;
/// First segment of a film that was opened before, over ffmpeg's.
const AGAIN_GOAL: f64 = 0.8;
/// Peak memory over ffmpeg's.
const MEMORY_GOAL: f64 = 1.15;
/// Jobs started at once.
const CROWD: usize = 8;

/// One kind of film.
struct Kind {
    /// Part of the figures' names.
    name: &'static str,
    film: PathBuf,
    /// Target.
    size: (u32, u32),
}

fn kinds(with: &Context) -> Vec<Kind> {
    let seconds = f64::from(with.seconds);
    let clip = |video: &[&'static str], size, seconds: f64| -> Clip {
        Film {
            seconds: seconds.max(6.0).round(),
            size,
            gop: 2.0,
            video: video.to_vec(),
            audio: vec![EAC3],
            ..Film::default()
        }
        .clip()
    };
    let h264 = [
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        "2",
        "-b:v",
        "10M",
        "-pix_fmt",
        "yuv420p",
    ];
    vec![
        Kind {
            name: "h264_1080p",
            film: clip(&h264, (1920, 1080), seconds / 3.0).path(),
            size: (1280, 720),
        },
        Kind {
            name: "hevc10_1080p",
            film: clip(&films::HDR10, (1920, 1080), seconds / 3.0).path(),
            size: (1280, 720),
        },
        Kind {
            name: "hevc10_2160p",
            film: clip(&films::HDR10, (3840, 2160), seconds / 7.5).path(),
            size: (1920, 1080),
        },
    ]
}

/// All figures of the engine.
pub(crate) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    let env = TestEnv::new("bench-engine");
    let places = CROWD.to_string();
    let worker = env.worker(&["--max-jobs", &places]);
    let kinds = kinds(with);
    let mut figures = Vec::new();
    ratio_head("ffmpeg");
    for kind in &kinds {
        let task = Task::new(&env, &worker, &kind.film, kind.size)?;
        let mut rounds = Vec::new();
        for n in 0..=with.rounds {
            let pair = in_turns(n, || task.ffmpeg(Until::End), || task.worker(Until::End))?;
            if n > 0 {
                rounds.push(pair);
            }
        }
        let of = |value: fn(&Taken) -> f64| -> Vec<(f64, f64)> {
            rounds.iter().map(|(a, b)| (value(a), value(b))).collect()
        };
        let name = kind.name;
        let mut line = |what: &str, value: fn(&Taken) -> f64, goal: f64| {
            let middle = ratio(&format!("{name}: {what}"), &of(value));
            let key = format!("engine_{name}_{what}").replace(' ', "_");
            figures.push(Figure::less(key, middle, "").goal(goal));
        };
        line("whole job", |t| t.whole, WHOLE_GOAL);
        line("processor", |t| t.cpu, WHOLE_GOAL);
        line("peak MiB", |t| t.peak, MEMORY_GOAL);
    }
    let beside = TestEnv::new("bench-engine-eager");
    let eager = beside.worker(&["--max-jobs", &places, "--fast-start"]);
    figures.extend(starts(with, &env, &worker, &eager, &kinds[0])?);
    drop(eager);
    figures.extend(crowd(with, &env, &worker, &kinds[0])?);
    Ok(figures)
}

/// Both, the other one first in every second round: a machine that gets slower while it works, or
/// faster, favours neither.
fn in_turns<A, B>(
    round: u32,
    theirs: impl FnOnce() -> Result<A, String>,
    ours: impl FnOnce() -> Result<B, String>,
) -> Result<(A, B), String> {
    if round.is_multiple_of(2) {
        Ok((theirs()?, ours()?))
    } else {
        let ours = ours()?;
        Ok((theirs()?, ours))
    }
}

/// Time to the first segment. Each first start reads a film that the worker has not seen: a copy.
/// Starts are short and vary more than whole jobs, so there are twice as many rounds of them.
fn starts(
    with: &Context,
    env: &TestEnv,
    worker: &plexbeam_tests::env::Worker,
    eager: &plexbeam_tests::env::Worker,
    kind: &Kind,
) -> Result<Vec<Figure>, String> {
    let folder = env.dir("copies");
    let (mut begin, mut again, mut sought, mut fast) = (vec![], vec![], vec![], vec![]);
    let seek = (plexbeam_tests::probe::duration(&kind.film) / 8.0).floor() * 4.0;
    for n in 0..=2 * with.rounds {
        let copy = fresh(&folder, &kind.film, n)?;
        let task = Task::new_unseen(env, worker, &copy, kind.size);
        let twice = || Ok((task.worker(Until::First)?, task.worker(Until::First)?));
        let (theirs, (first, second)) = in_turns(n, || task.ffmpeg(Until::First), twice)?;
        let (theirs, first, second) = (theirs.first, first.first, second.first);
        let at_once = Task::new_unseen(env, eager, &copy, kind.size);
        let at_once = at_once.worker(Until::First)?.first;
        let later = task.from(seek);
        let start = Until::First;
        let (of_theirs, of_ours) = in_turns(n, || later.ffmpeg(start), || later.worker(start))?;
        let pair = (of_theirs.first, of_ours.first);
        if n > 0 {
            begin.push((theirs, first));
            again.push((theirs, second));
            sought.push(pair);
            fast.push((theirs, at_once));
        }
        let _ = fs::remove_file(&copy);
    }
    Ok(vec![
        Figure::less("engine_first", ratio("first segment", &begin), "").goal(FIRST_GOAL),
        Figure::less(
            "engine_first_fast",
            ratio("first segment, --fast-start", &fast),
            "",
        )
        .goal(AGAIN_GOAL),
        Figure::less(
            "engine_first_again",
            ratio("first segment, film seen before", &again),
            "",
        )
        .goal(AGAIN_GOAL),
        Figure::less(
            "engine_first_seek",
            ratio("first segment after a seek", &sought),
            "",
        )
        .goal(FIRST_GOAL),
    ])
}

fn fresh(folder: &Path, film: &Path, n: u32) -> Result<PathBuf, String> {
    let copy = folder.join(format!("film-{n}.mkv"));
    fs::copy(film, &copy).map_err(|e| format!("{}: {e}", copy.display()))?;
    Ok(copy)
}

/// Eight jobs started together, until the last of them has its first segment.
fn crowd(
    with: &Context,
    env: &TestEnv,
    worker: &plexbeam_tests::env::Worker,
    kind: &Kind,
) -> Result<Vec<Figure>, String> {
    let folder = env.dir("crowd");
    let mut pairs = Vec::new();
    for n in 0..with.rounds.min(2) {
        let copy = fresh(&folder, &kind.film, n)?;
        let task = Task::new_unseen(env, worker, &copy, kind.size);
        let last = |runs: Vec<Result<Taken, String>>| -> Result<f64, String> {
            runs.into_iter()
                .try_fold(0.0, |most: f64, run| Ok(most.max(run?.first)))
        };
        let together = |side: &(dyn Fn() -> Result<Taken, String> + Sync)| {
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..CROWD).map(|_| scope.spawn(side)).collect();
                all.into_iter()
                    .map(|t| t.join().unwrap_or_else(|_| Err("a thread died".into())))
                    .collect()
            })
        };
        pairs.push(in_turns(
            n,
            || last(together(&|| task.ffmpeg(Until::First))),
            || last(together(&|| task.worker(Until::First))),
        )?);
    }
    let middle = ratio("eight at once, the last one's first", &pairs);
    println!(
        "{:<34} {:>8} {:>8.3}",
        "  its wall time",
        "",
        median(pairs.iter().map(|p| p.1).collect())
    );
    Ok(vec![
        Figure::less("engine_eight_first", middle, "").goal(FIRST_GOAL + 0.1),
    ])
}
