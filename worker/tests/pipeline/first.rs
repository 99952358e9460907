//! The first segment is there as soon as its own pictures are, however slowly the rest comes.

use crate::kit::{Memory, clip, dash, decodes, ffmpeg, job, packets, probe, segments, times};
use plexbeam_api::{
    Event, JobSpec, Problem, Segment,
    job::{CodecSpec, Container, Location, Packaging},
    segment::SegmentKind,
};
use plexbeam_worker::{
    input::InputPolicy,
    pipeline::{self, Control, Sink, Task},
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Longest that the rest of a film is kept back. The worker gives an input up after 20 s of silence.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the rest of the film may be sent.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn is_open(&self) -> bool {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    /// False where it stayed shut for [`PATIENCE`].
    fn wait(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .opened
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        *open
    }
}

/// Serves `film` by ranges; what lies at `shut` and behind only once the gate is open. Its threads end
/// with their connections and with the test's process.
fn serve(film: Vec<u8>, shut: usize, gate: &Arc<Gate>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/film.mkv", listener.local_addr().unwrap());
    let (film, gate) = (Arc::new(film), Arc::clone(gate));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (film, gate) = (Arc::clone(&film), Arc::clone(&gate));
            std::thread::spawn(move || answer(stream, &film, shut, &gate));
        }
    });
    url
}

/// One request; the connection is closed behind it.
fn answer(mut stream: TcpStream, film: &[u8], shut: usize, gate: &Gate) -> Option<()> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone().ok()?).lines() {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("range: bytes=") {
            let (from, to) = text.split_once('-')?;
            range = Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?));
        }
    }
    let (from, to) = range?;
    let end = (to + 1).min(film.len());
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Range: bytes {from}-{}/{}\r\n\r\n",
        end - from,
        end - 1,
        film.len()
    )
    .ok()?;
    if from < shut {
        stream.write_all(&film[from..end.min(shut)]).ok()?;
    }
    if end > shut {
        if !gate.wait() {
            return None;
        }
        stream.write_all(&film[from.max(shut)..end]).ok()?;
    }
    Some(())
}

/// Opens the gate when the first segment is published, and notes whether it was shut till then.
struct Opens<'a> {
    memory: Memory,
    gate: &'a Gate,
    was_shut: Option<bool>,
}

impl Sink for Opens<'_> {
    fn event(&mut self, event: Event) -> Result<(), Problem> {
        self.memory.event(event)
    }

    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem> {
        if segment.kind == SegmentKind::Media && self.was_shut.is_none() {
            self.was_shut = Some(!self.gate.is_open());
            self.gate.open();
        }
        self.memory.publish(segment, bytes)
    }
}

/// Position in the file of the first video packet at or after a time.
fn position(film: &str, seconds: f64) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v"])
        .args([
            "-show_entries",
            "packet=pts_time,pos",
            "-of",
            "csv=p=0",
            film,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| {
            let (time, at) = line.split_once(',')?;
            Some((time.parse::<f64>().ok()?, at.parse::<usize>().ok()?))
        })
        .find(|(time, _)| *time >= seconds)
        .unwrap()
        .1
}

/// A look-ahead of 60 pictures would wait for 2.5 s of film behind the segment's 3 s; the source gives
/// less than that.
#[test]
fn the_first_segment_does_not_wait_for_later_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let noise = [
        "-vf",
        "noise=alls=30:allf=t",
        "-b:v",
        "8M",
        "-minrate",
        "8M",
    ];
    let rate = ["-maxrate", "8M", "-bufsize", "2M"];
    let path = clip(dir.path(), "clip.mkv", 12, &[&noise[..], &rate].concat());
    let film = std::fs::read(&path).unwrap();
    // The worker takes what comes first, at least 32 KiB, and then blocks of 512 KiB, each when it is
    // whole: wherever these begin, one ends in the last 512 KiB.
    let shut = position(&path, 3.6) + (512 << 10);
    assert!(shut < position(&path, 4.6), "the film's rate is too low");
    for packaging in [dash(1), segments(Container::MpegTs, 0, None)] {
        let gate = Arc::new(Gate::default());
        let mut spec = job(&path, None, packaging, 3.0);
        spec.inputs[0].locations = vec![Location::Url {
            url: serve(film.clone(), shut, &gate),
        }];
        let CodecSpec::Encode { options, .. } = &mut spec.outputs[0].streams[0].codec else {
            panic!("the video is encoded");
        };
        for (key, value) in options {
            if key == "x264opts" {
                *value = "rc_lookahead=60".to_owned();
            }
        }
        let mut sink = Opens {
            memory: Memory::default(),
            gate: &gate,
            was_shut: None,
        };
        let result = pipeline::run(&spec, &InputPolicy::default(), &mut sink, &Control::new());
        gate.open();
        result.unwrap();
        assert_eq!(sink.was_shut, Some(true));
        let rendition = (!sink.memory.head(Some(0)).is_empty()).then_some(0);
        assert_eq!(sink.memory.media(rendition).len(), 4);
    }
}

/// Behind the first segment another encoder goes on: not a frame, a decoding time or a parameter set
/// tells where. The judge is one run of `ffmpeg` with the same options.
#[test]
fn no_seam_shows_behind_the_first_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 12, &[]);
    let reference = dir.path().join("one.mp4").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i",
        &path,
        "-map",
        "0:0",
        "-fps_mode",
        "cfr",
        "-r",
        "23.975999999999999",
        "-vf",
        "scale=256:144",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-force_key_frames",
        "0,3,6,9",
        "-avoid_negative_ts",
        "disabled",
        "-use_editlist",
        "0",
        &reference,
    ]);
    let theirs = decoding_times(&reference);
    let expected = times(&probe(&reference, "v"));
    let mut firsts = Vec::new();
    let in_detail = job(&path, None, dash(1), 3.0);
    let mut spec = in_detail.clone();
    plain(&mut spec);
    for (spec, fast) in [(&in_detail, false), (&spec, false), (&spec, true)] {
        let made = run_fast(spec, fast);
        let mut parts = vec![made.head(Some(0))];
        parts.extend(made.media(Some(0)).iter().map(|p| p.1.as_slice()));
        decodes(dir.path(), &parts);
        let ours = decoding_times(&crate::kit::file(dir.path(), &parts));
        assert_eq!(ours.len(), theirs.len());
        let step = 1001.0 / 24000.0;
        for (n, (one, other)) in ours.iter().zip(&theirs).enumerate() {
            let same = (one - ours[0] - (other - theirs[0])).abs() < 0.001;
            let on_grid = n == 0 || (one - ours[n - 1] - step).abs() < 0.001;
            assert!(same && on_grid, "frame {n}: {one} against {other}");
        }
        let shown = times(&packets(dir.path(), "v", &parts));
        assert_eq!(shown.len(), expected.len());
        for (one, other) in shown.iter().zip(&expected) {
            let same = (one - shown[0] - (other - expected[0])).abs() < 0.001;
            assert!(same, "{one} against {other}");
        }
        firsts.push(made);
    }
    let [_, slow, fast] = firsts.as_slice() else {
        panic!("three runs");
    };
    assert_eq!(fast.head(Some(0)), slow.head(Some(0)), "one init segment");
    let of = |made: &Memory, n: usize| made.media(Some(0))[n].1.clone();
    assert_ne!(of(fast, 0), of(slow, 0), "the start was not a fast one");
    // All that follows is the work of an encoder that began there, with the job's own preset.
    assert_eq!(of(fast, 1), of(slow, 1));
}

/// What the job says in detail holds from the first picture on.
#[test]
fn a_fast_start_keeps_what_the_job_says_in_detail() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 6, &[]);
    let spec = job(&path, None, dash(1), 3.0);
    let (slow, fast) = (run_fast(&spec, false), run_fast(&spec, true));
    assert_eq!(fast.media(Some(0)), slow.media(Some(0)));
}

fn run_fast(spec: &JobSpec, fast: bool) -> Memory {
    let policy = InputPolicy::default();
    let mut task = Task::new(spec, &policy);
    task.fast_start = fast;
    let mut sink = Memory::default();
    pipeline::run_task(task, &mut sink, &Control::new()).unwrap();
    sink
}

/// Leaves the video its preset and rate control.
fn plain(spec: &mut JobSpec) {
    let CodecSpec::Encode { options, .. } = &mut spec.outputs[0].streams[0].codec else {
        panic!("the video is encoded");
    };
    options.retain(|(key, _)| key != "x264opts");
}

/// Two pictures a segment: fewer than the encoder decodes ahead of what it shows.
#[test]
fn a_first_segment_of_few_pictures_is_followed_without_a_step_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 6, &[]);
    let mut packaging = dash(1);
    if let Packaging::Dash {
        segment_seconds, ..
    } = &mut packaging
    {
        *segment_seconds = 1.0;
    }
    let mut spec = job(&path, None, packaging, 1.0);
    spec.outputs[0].streams[0].frame_rate = Some("2".to_owned());
    let in_detail = spec.clone();
    plain(&mut spec);
    for (spec, fast) in [(&in_detail, false), (&spec, false), (&spec, true)] {
        let made = run_fast(spec, fast);
        let mut parts = vec![made.head(Some(0))];
        parts.extend(made.media(Some(0)).iter().map(|p| p.1.as_slice()));
        decodes(dir.path(), &parts);
        let decoded = decoding_times(&crate::kit::file(dir.path(), &parts));
        assert!(decoded.len() >= 12, "two a second: {decoded:?}");
        assert!(decoded.windows(2).all(|two| two[0] < two[1]), "{decoded:?}");
    }
}

/// Decoding times of all video packets, in the order of the file.
fn decoding_times(path: &str) -> Vec<f64> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v"])
        .args(["-show_entries", "packet=dts_time", "-of", "csv=p=0", path])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.trim_end_matches(',').parse().ok())
        .collect()
}
