//! One job, by the worker and by `ffmpeg`, timed and weighed.

use crate::processor::{ended_children_cpu, spent};
use plexbeam_api::{event::Event, route, segment::SegmentKind};
use plexbeam_tests::{TestEnv, env::Worker, env::http_client, probe, wait};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Length of a segment, seconds.
const SEGMENT: u32 = 4;
/// Between two looks at a process's memory.
const WATCH: Duration = Duration::from_millis(50);
/// Longest that a worker is waited for after a job was ended.
const QUIET: Duration = Duration::from_secs(10);
/// Processes that spend less than a tick of processor time in this do nothing.
const STILL: Duration = Duration::from_millis(100);
/// Longest that a job may take.
const BOUND: Duration = Duration::from_secs(300);

/// How far a job is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// To its first segment; then it is ended.
    First,
    /// To its end.
    End,
}

/// What a job took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    /// Seconds to the first whole segment.
    pub(super) first: f64,
    /// Seconds to the end.
    pub(super) whole: f64,
    /// Processor seconds; whole jobs only.
    pub(super) cpu: f64,
    /// Peak of resident memory, MiB; whole jobs only.
    pub(super) peak: f64,
}

/// A film and what is made of it.
pub(super) struct Task<'a> {
    env: &'a TestEnv,
    worker: &'a Worker,
    film: &'a Path,
    size: (u32, u32),
    /// Start, seconds.
    seek: f64,
    /// What the worker encodes.
    format: String,
}

static COUNT: AtomicU64 = AtomicU64::new(0);

impl<'a> Task<'a> {
    /// Runs one job of it to learn the pixel format that the worker chooses.
    pub(super) fn new(
        env: &'a TestEnv,
        worker: &'a Worker,
        film: &'a Path,
        size: (u32, u32),
    ) -> Result<Self, String> {
        let mut task = Task::new_unseen(env, worker, film, size);
        let (id, _) = task.submit()?;
        task.follow(&id, Until::First, Instant::now())?;
        let bytes = worker
            .get(&route::session_file(
                &id.parse().map_err(|e| format!("{e}"))?,
                &"media-00000.ts".parse().map_err(|e| format!("{e}"))?,
            ))
            .and_then(|r| r.error_for_status()?.bytes())
            .map_err(|e| e.to_string())?;
        let path = env.root().join("first.ts");
        fs::write(&path, &bytes).map_err(|e| e.to_string())?;
        task.format = probe::pixel_format(&path);
        task.end(&id);
        Ok(task)
    }

    /// Of 8 bits, without a job before.
    pub(super) fn new_unseen(
        env: &'a TestEnv,
        worker: &'a Worker,
        film: &'a Path,
        size: (u32, u32),
    ) -> Self {
        Task {
            env,
            worker,
            film,
            size,
            seek: 0.0,
            format: "yuv420p".to_owned(),
        }
    }

    /// The same from `seek` seconds on.
    pub(super) fn from(self, seek: f64) -> Self {
        Task { seek, ..self }
    }

    /// Posts the job; gives its id and the moment.
    fn submit(&self) -> Result<(String, Instant), String> {
        let id = format!("bench-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let (width, height) = self.size;
        let mut arguments = serde_json::json!({
            "resolution": format!("{width}x{height}"),
            "quality": 23,
            "preset": "veryfast",
            "audio_bitrate": "192k",
        });
        if self.seek > 0.0 {
            arguments["seek"] = self.seek.into();
        }
        let body = serde_json::json!({
            "job_id": id,
            "input": { "type": "file", "path": self.film },
            "output": { "type": "hls", "segment_duration": SEGMENT },
            "arguments": arguments,
        });
        let started = Instant::now();
        let reply = self.worker.post(route::TRANSCODE, &body);
        if reply.status() != 202 {
            return Err(format!("the job was not taken: {:?}", reply.text()));
        }
        Ok((id, started))
    }

    /// Waits for the first segment or the end; gives both times in seconds. The worker tells them, so
    /// that nobody asks meanwhile and costs it time.
    fn follow(&self, id: &str, until: Until, started: Instant) -> Result<(f64, f64), String> {
        let session = id.parse().map_err(|e| format!("{id}: {e}"))?;
        let events = http_client()
            .get(format!(
                "{}{}",
                self.worker.url,
                route::session_events(&session)
            ))
            .header(route::API_KEY_HEADER, &self.worker.key)
            .timeout(BOUND)
            .send()
            .and_then(|response| response.error_for_status())
            .map_err(|e| e.to_string())?;
        let mut first = None;
        for line in BufReader::new(events).lines() {
            let line = line.map_err(|e| format!("the events of {id}: {e}"))?;
            let Some(event) = line.strip_prefix("data:") else {
                continue;
            };
            let event: Event = serde_json::from_str(event).map_err(|e| e.to_string())?;
            let now = started.elapsed().as_secs_f64();
            match event {
                Event::Segment(segment) if segment.kind == SegmentKind::Media => {
                    let first = *first.get_or_insert(now);
                    if until == Until::First {
                        return Ok((first, first));
                    }
                }
                Event::State(change) if change.state.is_end() => {
                    return match (change.problem, first) {
                        (None, Some(first)) => Ok((first, now)),
                        (problem, _) => Err(format!("{:?}: {problem:?}", change.state)),
                    };
                }
                Event::Segment(_)
                | Event::State(_)
                | Event::Probed(_)
                | Event::Progress(_)
                | Event::Log(_) => {}
            }
        }
        Err(format!("the events of {id} broke off"))
    }

    /// Ends a job and its session.
    fn end(&self, id: &str) {
        if let Ok(session) = id.parse() {
            let _ = http_client()
                .delete(format!("{}{}", self.worker.url, route::session(&session)))
                .header(route::API_KEY_HEADER, &self.worker.key)
                .send();
        }
        // Its process must be gone before something else is timed, and the next one's libraries be
        // loaded: that takes a processor for two tenths of a second.
        let _ = wait::poll(QUIET, || {
            let all = self.worker.sessions();
            all.iter()
                .all(|s| s.session.as_str() != id || s.state.is_end())
                .then_some(())
        });
        let pid = self.worker.process.id();
        let mut before = None;
        let _ = wait::poll(QUIET, || {
            std::thread::sleep(STILL);
            let now: Vec<(u32, Option<f64>)> = children(pid)
                .into_iter()
                .map(|child| (child, spent(child)))
                .collect();
            let quiet = !now.is_empty() && before.as_ref() == Some(&now);
            before = Some(now);
            quiet.then_some(())
        });
    }

    /// By the worker.
    pub(super) fn worker(&self, until: Until) -> Result<Taken, String> {
        let pid = self.worker.process.id();
        let before = ended_children_cpu(pid);
        let parked = children(pid);
        let (id, started) = self.submit()?;
        if until == Until::First {
            let (first, whole) = self.follow(&id, until, started)?;
            self.end(&id);
            return Ok(Taken {
                first,
                whole,
                ..Taken::default()
            });
        }
        let stop = AtomicBool::new(false);
        let (times, peak) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0.0_f64;
                while !stop.load(Ordering::Relaxed) {
                    // The job is the spare of before, or a child of its own; a new spare is small.
                    for child in children(pid).iter().chain(&parked) {
                        most = most.max(peak_mib(*child));
                    }
                    std::thread::sleep(WATCH);
                }
                most
            });
            let times = self.follow(&id, until, started);
            stop.store(true, Ordering::Relaxed);
            (times, watch.join().unwrap_or_default())
        });
        let (first, whole) = times?;
        // The job's process is waited for a moment after its last word.
        let cpu = wait::poll(Duration::from_secs(10), || {
            let spent = ended_children_cpu(pid) - before;
            (spent > 0.0).then_some(spent)
        })
        .unwrap_or(f64::NAN);
        self.end(&id);
        Ok(Taken {
            first,
            whole,
            cpu,
            peak,
        })
    }

    /// By `ffmpeg`.
    pub(super) fn ffmpeg(&self, until: Until) -> Result<Taken, String> {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = self.env.dir(&format!("ffmpeg-{n}"));
        let before = ended_children_cpu(std::process::id());
        let started = Instant::now();
        let mut child = Command::new("ffmpeg")
            .args(self.arguments()?)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("start ffmpeg (`make setup` installs it): {e}"))?;
        let pid = child.id();
        let list = child.stdout.take().ok_or("no pipe from ffmpeg")?;
        let mut lines = BufReader::new(list).lines();
        // A name stands in the list when its file is whole.
        let name = lines.next().transpose().map_err(|e| e.to_string())?;
        let first = started.elapsed().as_secs_f64();
        let mut taken = Taken {
            first,
            whole: first,
            ..Taken::default()
        };
        if until == Until::First {
            let _ = child.kill();
            let _ = child.wait();
        } else {
            let stop = AtomicBool::new(false);
            taken.peak = std::thread::scope(|scope| {
                let watch = scope.spawn(|| {
                    let mut most = 0.0_f64;
                    while !stop.load(Ordering::Relaxed) {
                        most = most.max(peak_mib(pid));
                        std::thread::sleep(WATCH);
                    }
                    most
                });
                lines.for_each(drop);
                stop.store(true, Ordering::Relaxed);
                watch.join().unwrap_or_default()
            });
            let status = child.wait().map_err(|e| e.to_string())?;
            taken.whole = started.elapsed().as_secs_f64();
            taken.cpu = ended_children_cpu(std::process::id()) - before;
            if !status.success() {
                let mut text = String::new();
                if let Some(mut pipe) = child.stderr.take() {
                    let _ = pipe.read_to_string(&mut text);
                }
                return Err(format!("ffmpeg ended with {status}: {text}"));
            }
        }
        let _ = fs::remove_dir_all(&dir);
        match name {
            Some(_) => Ok(taken),
            None => Err("ffmpeg made no segment".into()),
        }
    }

    fn arguments(&self) -> Result<Vec<String>, String> {
        let film = self.film.to_str().ok_or("the film's path is not UTF-8")?;
        let (width, height) = self.size;
        let scale = format!(
            "scale=w={width}:h={height}:force_original_aspect_ratio=decrease:force_divisible_by=2"
        );
        let keys = format!("expr:gte(t,n_forced*{SEGMENT})");
        let (seek, length) = (self.seek.to_string(), SEGMENT.to_string());
        let mut args = vec!["-nostdin", "-nostats", "-loglevel", "error"];
        if self.seek > 0.0 {
            args.extend(["-ss", &seek]);
        }
        args.extend([
            "-i",
            film,
            "-map",
            "0:v:0",
            "-map",
            "0:a:0",
            "-vf",
            &scale,
            "-pix_fmt",
            &self.format,
            "-c:v",
            "libx264",
            "-preset",
            "veryfast",
            "-crf",
            "23",
            "-fps_mode",
            "cfr",
            "-force_key_frames",
            &keys,
            "-forced-idr",
            "1",
            "-c:a",
            "aac",
            "-ac",
            "2",
            "-ar",
            "48000",
            "-b:a",
            "192k",
            "-f",
            "segment",
            "-segment_format",
            "mpegts",
            "-segment_time",
            &length,
            "-segment_list_type",
            "flat",
            "-segment_list",
            "pipe:1",
            "media-%05d.ts",
        ]);
        Ok(args.into_iter().map(str::to_owned).collect())
    }
}

/// `VmHWM` of a process, MiB; 0 when it is gone.
fn peak_mib(pid: u32) -> f64 {
    fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status")))
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
        })
        .map_or(0.0, |kib| kib / 1024.0)
}

/// Child processes of a process.
fn children(pid: u32) -> Vec<u32> {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}
