//! A play through the whole chain against `ffmpeg`: both take the same film and the same encoder
//! options, by Plex's own words (sp-01). `ffmpeg` reads the film from and writes MPEG-TS segments to
//! local disk; PlexBeam's time holds the cartridge, the worker, the mount and a client that reads
//! everything through the mount.

use crate::{
    Context,
    figure::{Figure, ratio, ratio_head},
    stage::{Stage, film, session_log},
};
use plexbeam_tests::{
    argv::{self, Line},
    fake_pms::{self, Play},
    probe,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// First announcement over ffmpeg's first segment.
const FIRST_GOAL: f64 = 1.1;
/// Whole job over ffmpeg's.
const WHOLE_GOAL: f64 = 1.1;

/// Seconds of one side of one round.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: f64,
    whole: f64,
}

/// Time to the first segment and of the whole job.
pub(crate) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    let film = film(with)?;
    let line = argv::line("sp-01").scaled(1280, 720);
    println!(
        "job        1280x720, libx264 {}, AAC, segments of 3 s",
        line.output_value("-x264opts:0").unwrap_or_default()
    );
    let stage = Stage::new("bench-play");
    let bench = Bench {
        stage: &stage,
        cartridge: &with.cartridge,
        film: &film,
        line,
    };
    let mut rounds: Vec<(Run, Run)> = Vec::new();
    for n in 0..=with.rounds {
        let theirs = bench.ffmpeg(n)?;
        let ours = bench.play(n)?;
        if n > 0 {
            rounds.push((theirs, ours));
        }
    }
    ratio_head("ffmpeg");
    let of = |value: fn(&Run) -> f64| -> Vec<(f64, f64)> {
        rounds.iter().map(|(a, b)| (value(a), value(b))).collect()
    };
    let first = ratio("first segment", &of(|r| r.first));
    let whole = ratio("whole job", &of(|r| r.whole));
    println!("stages of the last play, seconds since the job was accepted:");
    for (seconds, text) in bench.stages(with.rounds) {
        println!("  {seconds:>8.3}  {text}");
    }
    Ok(vec![
        Figure::less("first_segment_ratio", first, "").goal(FIRST_GOAL),
        Figure::less("whole_job_ratio", whole, "").goal(WHOLE_GOAL),
    ])
}

struct Bench<'a> {
    stage: &'a Stage,
    cartridge: &'a Path,
    film: &'a Path,
    line: Line,
}

impl Bench<'_> {
    fn logs(&self, round: u32) -> PathBuf {
        self.stage.env.dir(&format!("log-{round}"))
    }

    /// One play by the real chain.
    fn play(&self, round: u32) -> Result<Run, String> {
        let mut play = Play::new(
            &self.stage.mount.point,
            self.cartridge,
            self.line.clone(),
            self.film,
        );
        for (name, value) in self.stage.settings(&self.logs(round)) {
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
        let dir = self.stage.env.dir(&format!("ffmpeg-{round}"));
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
