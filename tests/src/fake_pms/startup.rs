//! The calls that must come before the first announcement (PROTOCOL 6.1), judged against what
//! `ffprobe` says of the film.

use crate::probe;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// What PMS expects to be told.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Streams of the film by index: kind and whether `progress/stream` is sent for it.
    streams: Vec<(u32, String)>,
    /// Length in seconds; 0 when unknown.
    duration: f64,
    /// Where it ends, seconds from its start; 0 when unknown.
    end: f64,
}

impl Expected {
    /// What `ffprobe` says of the film; nothing when it is no media. Asked once per film and
    /// length, since plays of one film may follow each other quickly.
    pub fn of(media: &Path) -> Expected {
        static KNOWN: Mutex<Option<HashMap<(PathBuf, u64), Expected>>> = Mutex::new(None);
        let size = std::fs::metadata(media).map_or(0, |m| m.len());
        let mut known = KNOWN.lock();
        let known = known.get_or_insert_default();
        known
            .entry((media.to_owned(), size))
            .or_insert_with(|| Expected::ask(media))
            .clone()
    }

    fn ask(media: &Path) -> Expected {
        let known = std::process::Command::new("ffprobe")
            .args(["-v", "quiet"])
            .arg(media)
            .status()
            .is_ok_and(|s| s.success());
        if !known {
            return Expected::default();
        }
        let kinds = ["video", "audio", "subtitle"];
        Expected {
            streams: probe::streams(media)
                .into_iter()
                .filter(|s| kinds.contains(&s.codec_type.as_str()) && !s.attached_picture())
                .map(|s| (s.index, s.codec_type))
                .collect(),
            duration: probe::duration(media),
            end: probe::title_end(media),
        }
    }
}

/// The start-up calls seen so far.
#[derive(Debug, Clone, Default)]
pub struct Startup {
    startup: bool,
    streams: Vec<HashMap<String, String>>,
    details: Vec<HashMap<String, String>>,
    duration: Option<f64>,
    size: bool,
}

/// What a start-up call was, with its query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `progress?status=startup`.
    Startup,
    /// `progress/stream`.
    Stream,
    /// `progress/streamDetail`.
    Detail,
    /// `progress?duration=`.
    Duration,
    /// `progress?width=&height=`.
    Size,
}

impl Startup {
    /// Takes one call; gives what is wrong with it or its place.
    pub fn take(&mut self, call: Call, query: &HashMap<String, String>) -> Option<String> {
        let late = |what: &str| Some(format!("{what} came after a later step of the start-up"));
        let need = |names: &[&str]| {
            let missing: Vec<&str> = names
                .iter()
                .copied()
                .filter(|n| query.get(*n).is_none_or(String::is_empty))
                .collect();
            (!missing.is_empty()).then(|| format!("{call:?} call without {}", missing.join(", ")))
        };
        match call {
            // Also of a second process, which took over before anything was announced: it tells all
            // from the beginning, and what the first one told no longer counts.
            Call::Startup => {
                *self = Startup {
                    startup: true,
                    ..Startup::default()
                };
                None
            }
            Call::Stream => {
                self.streams.push(query.clone());
                if !self.details.is_empty() || self.duration.is_some() {
                    return late("progress/stream");
                }
                need(&["index", "id", "codec", "type"])
            }
            Call::Detail => {
                self.details.push(query.clone());
                if self.duration.is_some() {
                    return late("streamDetail");
                }
                let mut names = vec!["index", "id", "codec", "type"];
                match query.get("type").map(String::as_str) {
                    Some("video") => names.extend(["width", "height", "interlaced"]),
                    Some("audio") => names.extend(["channels", "layout", "sampleRate"]),
                    _ => {}
                }
                need(&names)
            }
            Call::Duration => {
                self.duration = query.get("duration").and_then(|d| d.parse().ok());
                if self.duration.is_none() {
                    return Some("duration is no number".into());
                }
                (self.size).then(|| "duration came after the picture's size".into())
            }
            Call::Size => {
                self.size = true;
                let positive = |name: &str| {
                    query
                        .get(name)
                        .and_then(|v| v.parse::<u32>().ok())
                        .is_some_and(|v| v > 0)
                };
                (!positive("width") || !positive("height"))
                    .then(|| "width or height is no positive number".into())
            }
        }
    }

    /// What is missing, now that a segment is announced.
    pub fn missing(&self, expected: &Expected) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.startup {
            missing.push("no progress?status=startup".to_owned());
        }
        let told = |calls: &[HashMap<String, String>], index: u32, kind: &str| {
            let index = index.to_string();
            calls
                .iter()
                .any(|c| c.get("index") == Some(&index) && c.get("type").is_some_and(|t| t == kind))
        };
        for (index, kind) in &expected.streams {
            if kind != "subtitle" && !told(&self.streams, *index, kind) {
                missing.push(format!("no progress/stream for {kind} stream {index}"));
            }
            if !told(&self.details, *index, kind) {
                missing.push(format!("no streamDetail for {kind} stream {index}"));
            }
        }
        match self.duration {
            None => missing.push("no duration".to_owned()),
            Some(told) if expected.duration > 0.0 && (told - expected.duration).abs() > 1.0 => {
                missing.push(format!(
                    "duration {told} instead of {:.3}",
                    expected.duration
                ));
            }
            Some(_) => {}
        }
        if !self.size {
            missing.push("no width and height of the video output".to_owned());
        }
        missing
    }
}

impl Expected {
    /// Where the film ends, seconds from its start; 0 when unknown.
    pub fn end(&self) -> f64 {
        self.end
    }
}
