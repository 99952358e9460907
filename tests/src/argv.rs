//! Plex's recorded command lines: read, made to fit a place, and changed by a seek (PROTOCOL 7).

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// One line of `commands.jsonl`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Line {
    /// Name of the line.
    #[serde(default)]
    pub id: String,
    /// Arguments without `argv[0]`.
    pub argv: Vec<String>,
    /// Environment that the source shows.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `plex` or `jellyfin`.
    #[serde(default)]
    pub server: String,
    /// Nothing was cut by the source.
    #[serde(default)]
    pub complete: bool,
}

/// The recorded lines.
#[track_caller]
pub fn recorded() -> Vec<Line> {
    let text = include_str!("../fixtures/commands.jsonl");
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| serde_json::from_str(l).expect("commands.jsonl holds one object per line"))
        .collect()
}

/// The recorded line of this name.
#[track_caller]
pub fn line(id: &str) -> Line {
    recorded()
        .into_iter()
        .find(|l| l.id == id)
        .unwrap_or_else(|| panic!("commands.jsonl has no line `{id}`"))
}

/// Reads `{"argv": [...], "env": {...}}` or a bare array.
pub fn parse(text: &str) -> Result<Line, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if value.is_array() {
        let argv = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Ok(Line {
            argv,
            ..Line::default()
        })
    } else {
        serde_json::from_value(value).map_err(|e| e.to_string())
    }
}

/// How the main output becomes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packaging {
    /// `-f dash`.
    Dash {
        /// `-init_seg_name`.
        init: String,
        /// `-media_seg_name`.
        media: String,
        /// `-window_size`.
        window: usize,
    },
    /// `-f ssegment` or `-f segment`.
    Segment {
        /// `-segment_format`.
        format: String,
        /// Output name.
        media: String,
        /// `-segment_header_filename`.
        header: Option<String>,
        /// `-segment_list_size`.
        rows: usize,
        /// `-segment_list_separate_stream_times`: five columns.
        separate: bool,
    },
}

/// A second output: subtitles as text in segments (`-f segment`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// `-segment_format`.
    pub format: String,
    /// Output name.
    pub media: String,
    /// `-segment_header_filename`.
    pub header: Option<String>,
    /// `-segment_start_number`.
    pub first: u32,
    /// `-segment_list_size`.
    pub rows: usize,
    /// `-segment_list_separate_stream_times`: five columns.
    pub separate: bool,
}

/// What PMS has to know of a job to judge it; read from the argv.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// File layout.
    pub packaging: Packaging,
    /// Segment length D in seconds.
    pub seconds: f64,
    /// Number of the first segment.
    pub first: u32,
    /// `-ss` of the main input.
    pub seek: Option<f64>,
    /// The video is copied.
    pub copy_video: bool,
    /// `-r` of the video.
    pub rate: Option<f64>,
    /// Session id in the URLs.
    pub session: String,
    /// Job uuid in the URLs; empty in the old form.
    pub job: String,
    /// Its second output, for subtitles.
    pub side: Option<Side>,
    /// Streams of the main output.
    pub streams: usize,
    /// The input's stream that becomes the picture, as ffmpeg's `-map` reads it (`0:0`, `0:#0x01`).
    pub picture: String,
    /// The input's stream that becomes the sound.
    pub sound: Option<String>,
}

impl Shape {
    /// Where number `n` belongs on the title's timeline when the video is encoded, in seconds.
    pub fn due(&self, number: u32) -> f64 {
        self.seek.unwrap_or(0.0) + f64::from(number.saturating_sub(self.first)) * self.seconds
    }

    /// One frame, in seconds; a bit more than any film's when the argv does not say.
    pub fn frame(&self) -> f64 {
        self.rate.map_or(0.05, |r| 1.0 / r)
    }

    /// Name of a DASH file of representation `id`; `number` is `None` for the init segment.
    pub fn dash_name(pattern: &str, id: &str, number: Option<u32>) -> String {
        let name = pattern.replace("$RepresentationID$", id);
        let Some(number) = number else { return name };
        let Some((before, rest)) = name.split_once("$Number") else {
            return name;
        };
        let (format, after) = rest.split_once('$').unwrap_or((rest, ""));
        let width = format
            .trim_matches(|c| c == '%' || c == 'd')
            .parse::<usize>()
            .unwrap_or(0);
        format!("{before}{number:0width$}{after}")
    }

    /// Name of a segment of [`Packaging::Segment`].
    pub fn segment_name(pattern: &str, number: u32) -> String {
        let Some((before, rest)) = pattern.split_once('%') else {
            return pattern.to_owned();
        };
        let Some((width, after)) = rest.split_once('d') else {
            return pattern.to_owned();
        };
        let width = width.parse::<usize>().unwrap_or(0);
        format!("{before}{number:0width$}{after}")
    }
}

/// Values that PMS puts into a command line.
#[derive(Debug, Clone)]
pub struct Place {
    /// The film.
    pub media: PathBuf,
    /// Port of PMS on 127.0.0.1.
    pub port: u16,
    /// Session id.
    pub session: String,
    /// Job uuid.
    pub job: String,
    /// Session directory of this job.
    pub dir: PathBuf,
}

impl Line {
    fn last_input(&self) -> usize {
        self.argv.iter().rposition(|a| a == "-i").unwrap_or(0)
    }

    /// Value of the first option of this name at or after `from`.
    fn value_from(&self, from: usize, name: &str) -> Option<&str> {
        let at = self.argv[from..].iter().position(|a| a == name)? + from;
        self.argv.get(at + 1).map(String::as_str)
    }

    /// Value of the first option of this name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.value_from(0, name)
    }

    /// Value of the first option of this name behind the inputs.
    pub fn output_value(&self, name: &str) -> Option<&str> {
        self.value_from(self.last_input(), name)
    }

    /// Reads what PMS must know. The error names what is missing.
    pub fn shape(&self) -> Result<Shape, String> {
        let need = |name: &str| {
            self.output_value(name)
                .map(str::to_owned)
                .ok_or_else(|| format!("the argv has no {name}"))
        };
        let number = |name: &str| {
            need(name)?
                .parse::<f64>()
                .map_err(|_| format!("{name} is no number"))
        };
        let progress = need("-progressurl").or_else(|_| {
            self.value("-progressurl")
                .map(str::to_owned)
                .ok_or_else(|| "the argv has no -progressurl".to_owned())
        })?;
        let (session, job) = session_of(&progress)
            .ok_or_else(|| format!("-progressurl is no session URL: {progress}"))?;
        let format = need("-f")?;
        let (packaging, seconds, first) = match format.as_str() {
            "dash" => (
                Packaging::Dash {
                    init: need("-init_seg_name")?,
                    media: need("-media_seg_name")?,
                    window: number("-window_size").unwrap_or(0.0) as usize,
                },
                number("-seg_duration")?,
                number("-skip_to_segment").unwrap_or(1.0) as u32,
            ),
            "ssegment" | "segment" => (
                Packaging::Segment {
                    format: need("-segment_format")?,
                    media: self
                        .argv
                        .iter()
                        .skip(self.last_input())
                        .find(|a| a.contains('%') && a.contains('d') && !a.contains('/'))
                        .cloned()
                        .ok_or("the argv has no output name with %d")?,
                    header: self
                        .output_value("-segment_header_filename")
                        .map(str::to_owned),
                    rows: number("-segment_list_size").unwrap_or(0.0) as usize,
                    separate: self.output_value("-segment_list_separate_stream_times") == Some("1"),
                },
                number("-segment_time")?,
                number("-segment_start_number").unwrap_or(0.0) as u32,
            ),
            other => return Err(format!("-f {other} is no segmented output")),
        };
        let after = &self.argv[self.last_input()..];
        let end = after
            .iter()
            .position(|a| a == "dash" || (a.contains("%05d") && !a.contains('$')))
            .unwrap_or(after.len());
        // The value of `-f` is the first `dash`; the output name the second.
        let end = if format == "dash" {
            after
                .iter()
                .enumerate()
                .filter(|(_, a)| *a == "dash")
                .nth(1)
                .map_or(after.len(), |(n, _)| n)
        } else {
            end
        };
        let sources = self.sources(&after[..end]);
        Ok(Shape {
            packaging,
            seconds,
            first,
            seek: self.value("-ss").and_then(|t| t.parse().ok()),
            copy_video: self.output_value("-codec:0") == Some("copy"),
            rate: self.output_value("-r:0").and_then(|t| t.parse().ok()),
            session,
            job,
            side: self.side(self.last_input() + end),
            streams: after[..end].iter().filter(|a| *a == "-map").count(),
            picture: sources.first().cloned().unwrap_or_else(|| "0:0".to_owned()),
            sound: sources.get(1).cloned(),
        })
    }

    /// The second output, whose options lie behind argument `from`.
    fn side(&self, from: usize) -> Option<Side> {
        let behind = from.checked_add(1).filter(|from| *from < self.argv.len())?;
        let value = |name: &str| self.value_from(behind, name);
        let number = |name: &str| value(name).and_then(|v| v.parse().ok()).unwrap_or(0);
        (value("-f") == Some("segment")).then_some(())?;
        Some(Side {
            format: value("-segment_format")?.to_owned(),
            media: self.argv[behind..]
                .iter()
                .find(|a| a.contains("%05d"))?
                .clone(),
            header: value("-segment_header_filename").map(str::to_owned),
            first: number("-segment_start_number"),
            rows: number("-segment_list_size") as usize,
            separate: value("-segment_list_separate_stream_times") == Some("1"),
        })
    }

    /// The inputs' streams that the main output maps, directly or through a graph that begins with
    /// one, in order.
    fn sources(&self, output: &[String]) -> Vec<String> {
        let mut sources = Vec::new();
        let graphs: Vec<&String> = self
            .argv
            .windows(2)
            .filter(|w| w[0] == "-filter_complex")
            .map(|w| &w[1])
            .collect();
        for map in output.windows(2).filter(|w| w[0] == "-map").map(|w| &w[1]) {
            if !map.starts_with('[') {
                sources.push(map.clone());
                continue;
            }
            // The graph that ends in this label; its first label is where it begins.
            let graph = graphs.iter().find(|g| g.trim_end().ends_with(map.as_str()));
            let begin = graph.and_then(|g| g.trim_start().strip_prefix('[')?.split(']').next());
            sources.extend(begin.map(str::to_owned));
        }
        sources
    }

    /// Text of the filter graph that begins with this stream of an input, without that label and
    /// without the label that it ends in.
    pub fn graph(&self, source: &str) -> Option<&str> {
        let begin = format!("[{source}]");
        self.argv
            .windows(2)
            .filter(|w| w[0] == "-filter_complex")
            .find_map(|w| w[1].trim().strip_prefix(begin.as_str()))
            .map(|rest| match rest.rfind('[') {
                Some(at) if rest.ends_with(']') => &rest[..at],
                _ => rest,
            })
            .map(str::trim)
    }

    /// The line with other values of PMS put in; the media path becomes an `OsString` untouched.
    pub fn placed(&self, place: &Place) -> Result<Vec<OsString>, String> {
        let shape = self.shape()?;
        let old_ids = if shape.job.is_empty() {
            format!("/session/{}/", shape.session)
        } else {
            format!("/session/{}/{}/", shape.session, shape.job)
        };
        let new_ids = if shape.job.is_empty() {
            format!("/session/{}/", place.session)
        } else {
            format!("/session/{}/{}/", place.session, place.job)
        };
        let old_prefix = format!("{}_", shape.session);
        let media_at = self.argv.iter().position(|a| a == "-i").map(|at| at + 1);
        let mut argv: Vec<OsString> = Vec::with_capacity(self.argv.len());
        for (n, arg) in self.argv.iter().enumerate() {
            if Some(n) == media_at {
                argv.push(place.media.clone().into_os_string());
                continue;
            }
            if let Some(name) = staged_name(arg) {
                argv.push(place.dir.join(name).into_os_string());
                continue;
            }
            let mut text = arg.replace(
                "http://127.0.0.1:32400/",
                &format!("http://127.0.0.1:{}/", place.port),
            );
            text = text.replace(&old_ids, &new_ids);
            if n > 0 && self.argv[n - 1].starts_with("-eae_prefix") {
                text = text.replace(&old_prefix, &format!("{}_", place.session));
            }
            argv.push(text.into());
        }
        Ok(argv)
    }

    /// Names of staged files (`temp-0.srt`) that the line reads.
    pub fn staged(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .argv
            .windows(2)
            .filter(|w| w[0] == "-i")
            .filter_map(|w| staged_name(&w[1]))
            .map(str::to_owned)
            .collect();
        names.dedup();
        names
    }

    /// The line that PMS starts after a seek to segment `number`: `-ss T` for each input, the
    /// number, no `-fps_mode cfr`; T = (n - 1) x D for DASH and n x D for segments.
    pub fn seek(&self, number: u32) -> Result<Line, String> {
        let shape = self.shape()?;
        let dash = matches!(shape.packaging, Packaging::Dash { .. });
        let steps = if dash {
            number.saturating_sub(1)
        } else {
            number
        };
        let time = f64::from(steps) * shape.seconds;
        let time = format!("{time}");
        let mut argv: Vec<String> = Vec::new();
        let mut source = self.argv.iter().peekable();
        let inputs = self.last_input();
        let mut index = 0;
        let mut pending = true;
        while let Some(arg) = source.next() {
            index += 1;
            let mut skip_value = false;
            match arg.as_str() {
                "-ss" if index <= inputs => skip_value = true,
                "-fps_mode" | "-vsync" => skip_value = true,
                // PMS writes it before the probing limits of each input.
                "-noaccurate_seek" | "-analyzeduration" | "-i"
                    if pending && index <= inputs + 1 =>
                {
                    argv.extend(["-ss".to_owned(), time.clone(), arg.clone()]);
                    pending = false;
                }
                _ => argv.push(arg.clone()),
            }
            if skip_value {
                source.next();
                index += 1;
            }
            if arg == "-i" {
                pending = true;
            }
            if matches!(arg.as_str(), "-skip_to_segment" | "-segment_start_number")
                && (dash == (arg == "-skip_to_segment"))
            {
                source.next();
                index += 1;
                argv.push(number.to_string());
            }
        }
        if dash && !argv.iter().any(|a| a == "-skip_to_segment") {
            return Err("the argv has no -skip_to_segment to change".into());
        }
        Ok(Line {
            argv,
            ..self.clone()
        })
    }

    /// The line with another value for an option behind the inputs.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Line {
        let from = self.last_input();
        if let Some(at) = self.argv[from..].iter().position(|a| a == name) {
            self.argv[from + at + 1] = value.to_owned();
        }
        self
    }

    /// The line with each argument rewritten.
    #[must_use]
    pub fn map(mut self, rewrite: impl Fn(&str) -> String) -> Line {
        for arg in &mut self.argv {
            *arg = rewrite(arg);
        }
        self
    }

    /// The line with its picture scaled to this size; the filter's kind and format stay.
    #[must_use]
    pub fn scaled(self, width: u32, height: u32) -> Line {
        self.map(|arg| {
            let mut text = arg.to_owned();
            for (key, value) in [("w=", width), ("h=", height)] {
                let mut from = 0;
                while let Some(at) = text[from..].find(key).map(|at| at + from) {
                    from = at + key.len();
                    if !text[..at].ends_with(['=', ':']) || !text.contains("scale") {
                        continue;
                    }
                    let end = text[from..]
                        .find(|c: char| !c.is_ascii_digit())
                        .map_or(text.len(), |e| e + from);
                    text.replace_range(from..end, &value.to_string());
                }
            }
            text
        })
    }

    /// The line with this many seconds per segment, keys included.
    #[must_use]
    pub fn segment_seconds(self, seconds: u32) -> Line {
        let keys = format!("expr:gte(t,n_forced*{seconds})");
        let value = seconds.to_string();
        self.with("-seg_duration", &value)
            .with("-segment_time", &value)
            .with("-force_key_frames:0", &keys)
    }
}

/// `/transcode/session/<session>/<job>/progress` or the old form without a job.
fn session_of(url: &str) -> Option<(String, String)> {
    let rest = url.split_once("/transcode/session/")?.1;
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        [session, job, last] if last.starts_with("progress") => {
            Some((session.to_string(), job.to_string()))
        }
        [session, last] if last.starts_with("progress") => {
            Some((session.to_string(), String::new()))
        }
        _ => None,
    }
}

/// The name of a file that PMS stages in the session directory.
fn staged_name(arg: &str) -> Option<&str> {
    let name = Path::new(arg).file_name()?.to_str()?;
    (arg.starts_with('/') && name.starts_with("temp-") && name.ends_with(".srt")).then_some(name)
}

/// sp-02's line with MPEG-TS inside, as clients that take no Matroska get it (sp-12's options).
#[track_caller]
pub fn mpegts_line() -> Line {
    let mut line = line("sp-01");
    let at = line
        .argv
        .iter()
        .position(|a| a == "-f")
        .expect("sp-01 has an output");
    line.argv.truncate(at);
    let list = line
        .value("-progressurl")
        .expect("sp-01 has a progress URL")
        .replace("/progress", "/manifest?X-Plex-Http-Pipeline=infinite");
    let tail = [
        "-segment_format",
        "mpegts",
        "-f",
        "ssegment",
        "-individual_header_trailer",
        "0",
        "-segment_time",
        "1",
        "-segment_start_number",
        "0",
        "-segment_time_delta",
        "0.0625",
        "-segment_list",
        list.as_str(),
        "-segment_list_type",
        "csv",
        "-segment_list_size",
        "5",
        "-segment_list_separate_stream_times",
        "1",
        "-segment_list_unfinished",
        "1",
        "-max_delay",
        "5000000",
        "-avoid_negative_ts",
        "disabled",
        "-map_metadata",
        "-1",
        "-map_chapters",
        "-1",
        "media-%05d.ts",
    ];
    line.argv.extend(tail.iter().map(|&a| a.to_owned()));
    line.id = "sp-01-mpegts".into();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that PMS itself made after seeks are what [`Line::seek`] makes of the first start.
    #[test]
    fn a_seek_changes_a_line_as_pms_does() {
        let start = line("mc-01");
        for (id, number) in [("mc-02", 100), ("mc-03", 152), ("mc-19", 196)] {
            let recorded = line(id);
            let (a, b) = (recorded.shape().unwrap(), start.shape().unwrap());
            let made = start
                .seek(number)
                .unwrap()
                .map(|arg| arg.replace(&b.job, &a.job));
            assert_eq!(made.argv, recorded.argv, "{id}");
        }
    }

    #[test]
    fn shapes_of_all_segmented_lines_are_read() {
        let mut encoded = 0;
        let mut copied = 0;
        for line in recorded() {
            if line.server != "plex" || !line.complete {
                continue;
            }
            let Ok(shape) = line.shape() else { continue };
            if shape.copy_video {
                copied += 1
            } else {
                encoded += 1
            }
            assert!(shape.seconds > 0.0 && shape.streams >= 2, "{}", line.id);
            if let Some(seek) = shape.seek {
                let n = f64::from(shape.first - 1);
                assert_eq!(seek, n * shape.seconds, "{}", line.id);
            }
        }
        assert_eq!((encoded, copied), (9, 18));
    }

    #[test]
    fn names_are_expanded() {
        let media = "chunk-stream$RepresentationID$-$Number%05d$.m4s";
        assert_eq!(
            Shape::dash_name(media, "1", Some(7)),
            "chunk-stream1-00007.m4s"
        );
        assert_eq!(Shape::segment_name("media-%05d.ts", 28), "media-00028.ts");
    }

    #[test]
    fn only_scale_filters_are_scaled() {
        let line = line("sp-01").scaled(640, 360);
        let graph = line.output_value("-filter_complex").unwrap();
        assert_eq!(
            graph,
            "[0:0]scale=w=640:h=360:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1]"
        );
    }
}
