//! Opening an input, within a deadline, and where its times and the job's begin.

use crate::{
    input::{self, InputPolicy},
    libav::{Input, OpenOptions},
};
use plexbeam_api::{
    Kind, Problem,
    job::{InputSpec, TimePolicy},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Containers that may be read. Playlists and scripts are not among them (P8).
const FORMATS: &[&str] = &[
    "matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mpegts", "mpeg", "avi", "flv",
    "asf", "ogg", "wav", "flac", "mp3", "aac", "ac3", "eac3", "dts", "truehd", "rm", "nut", "mxf",
    "ivf", "srt", "ass", "webvtt", "vobsub", "sup", "wtv", "dv",
];
/// Longest time that opening and probing one input may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// An input that was opened and probed.
pub(super) struct OpenInput {
    pub(super) input: Input,
    /// For messages.
    pub(super) name: String,
    /// See [`input::Opened::version`].
    pub(super) version: Option<String>,
    /// Carried with the job.
    pub(super) inline: bool,
    /// Subtracted from every packet's times.
    pub(super) shift_us: i64,
    /// Where to start, in the container's own times.
    pub(super) seek_us: Option<i64>,
}

/// Opens and probes an input.
pub(super) fn open(
    spec: &InputSpec,
    time: TimePolicy,
    policy: &InputPolicy,
    control: &Arc<super::Control>,
) -> Result<OpenInput, Problem> {
    let cancelled = {
        let control = Arc::clone(control);
        Arc::new(move || control.is_cancelled())
    };
    let opened = input::open(&spec.locations, policy, &(cancelled as input::Cancelled))?;
    let name = opened.name;
    let options = OpenOptions {
        name: name.clone(),
        formats: FORMATS,
        probe_size: spec.probe_size,
        analyze_duration_us: spec.analyze_duration_us,
    };
    // The deadline holds for opening only; afterwards reading may take as long as the film.
    let opening = Arc::new(AtomicBool::new(true));
    let deadline = Instant::now() + OPEN_DEADLINE;
    let interrupt = {
        let (control, opening) = (Arc::clone(control), Arc::clone(&opening));
        Arc::new(move || {
            control.is_cancelled()
                || (opening.load(Ordering::Relaxed) && Instant::now() >= deadline)
        })
    };
    let source = Box::new(input::Watched::new(opened.source, Arc::clone(control)));
    let result = Input::open(source, &options, interrupt);
    opening.store(false, Ordering::Relaxed);
    let input = result.map_err(|error| {
        let why = if error.is_interrupted() {
            format!("not readable within {} s", OPEN_DEADLINE.as_secs())
        } else if error.is_invalid_data() {
            "no media file that this worker reads, or damaged".to_owned()
        } else {
            error.to_string()
        };
        Problem::new(Kind::BadInput, format!("input {name}: {why}"))
    })?;
    let start = if opened.inline { 0 } else { input.start_us() };
    let seek = spec.seek_us.filter(|t| *t > 0);
    let shift_us = match (time.copyts, time.start_at_zero) {
        (true, false) => 0,
        (true, true) => start,
        (false, _) => start + seek.unwrap_or(0),
    };
    let seek_us = seek.map(|t| t + start);
    Ok(OpenInput {
        input,
        name,
        version: opened.version,
        inline: opened.inline,
        shift_us,
        seek_us,
    })
}
