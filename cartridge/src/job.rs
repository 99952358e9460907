//! From Plex's command line to a job for a worker, or to the reason why the original runs instead.
//!
//! A job leaves this host only when every option of its line is understood: each is carried into the
//! [`JobSpec`], or dropped by one table with a reason written there. What is left over is
//! a [`Reason`] (P1). Nothing here touches the network; the file system is asked through [`Files`].

mod burn;
mod inputs;
mod keys;
mod options;
mod policy;
mod reason;
mod streams;

pub use reason::Reason;

use crate::argv::{CommandLine, Opt};
use crate::config::{CopyVideo, Work};
use crate::http::Url;
use plexbeam_api::{
    API_VERSION, FileName, Id, JobSpec,
    job::{Container, FramePolicy, HwAccel, LeasePolicy, OutputSpec, Packaging, TimePolicy},
    segment::Digest,
};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What a job is judged by, besides its command line.
pub struct Surroundings<'a> {
    /// Working directory of the process, absolute.
    pub cwd: &'a Path,
    /// Whether jobs that copy the video may leave.
    pub copy_video: CopyVideo,
    /// Work that stays here.
    pub keep_local: &'a [Work],
    /// The files of this host.
    pub files: &'a dyn Files,
}

/// The little that is asked of the file system.
pub trait Files {
    /// Size of a regular file that this process may read.
    fn readable_size(&self, path: &Path) -> std::io::Result<u64>;
    /// Its bytes.
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>>;
    /// What lies in a folder, sorted; nothing where that cannot be told.
    fn list(&self, folder: &Path) -> Vec<PathBuf>;
}

/// The file system of this host.
pub struct HostFiles;

impl Files for HostFiles {
    fn readable_size(&self, path: &Path) -> std::io::Result<u64> {
        let meta = std::fs::metadata(path)?;
        if !meta.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        std::fs::File::open(path)?;
        Ok(meta.len())
    }

    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn list(&self, folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }
}

/// A job that may leave this host, and what PMS expects of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The job, without media URLs; the session adds them when it knows the mount.
    pub spec: JobSpec,
    /// Files that the worker reads by path or by the media route: (index of the input, path).
    pub media: Vec<(usize, PathBuf)>,
    /// Calls to PMS.
    pub pms: PmsPlan,
    /// How segments are announced.
    pub list: ListPlan,
    /// The same for the outputs behind the first, in their order.
    pub side_lists: Vec<ListPlan>,
    /// Names the session may make, `*` for any text ([`plexbeam_api::mount::Binding::patterns`]).
    pub patterns: Vec<String>,
    /// The command line asks for hardware decoding.
    pub hardware_decode: bool,
    /// What the ids of all jobs of this PMS session begin with; `None` where that cannot be told.
    /// PMS starts a new job in a session only to replace the one before (PROTOCOL 1).
    pub session_prefix: Option<String>,
}

/// Where and how much PMS wants to hear.
#[derive(Debug, Clone, PartialEq)]
pub struct PmsPlan {
    /// `-progressurl`.
    pub progress: Url,
    /// Highest level of log lines to send, in PMS's scale; `None` for none.
    pub log_level: Option<u8>,
    /// Which calls this PMS knows.
    pub dialect: Dialect,
}

/// What PMS's age changes in the calls (PROTOCOL 6.1, 6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Until about 2018, known by `seglist` or by a session without a job in its URLs: no
    /// `status=startup`, log lines by `GET /log`.
    Old,
    /// Since then.
    New,
}

/// How segments are announced.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPlan {
    /// `-manifest_name` or `-segment_list`.
    pub url: Url,
    /// What is posted there.
    pub form: ListForm,
}

/// What is posted after each segment.
#[derive(Debug, Clone, PartialEq)]
pub enum ListForm {
    /// The whole MPD.
    Mpd {
        /// `-window_size`; `None` keeps all segments listed.
        window: Option<u32>,
        /// `-seg_duration`, microseconds.
        segment_us: i64,
        /// `-init_seg_name`.
        initialization: String,
        /// `-media_seg_name`.
        media: String,
    },
    /// The last rows of the CSV list.
    Csv {
        /// `-segment_list_size`; `None` for all rows.
        size: Option<usize>,
        /// Five columns.
        separate_stream_times: bool,
    },
}

/// Judges a command line (PROTOCOL 2).
pub fn plan(words: &[OsString], around: &Surroundings<'_>) -> Result<Plan, Reason> {
    // Before anything is read: these may hold options that are known to nobody here.
    for (word, reason) in [
        ("-i", Reason::NoInput),
        ("-progressurl", Reason::NoProgressUrl),
    ] {
        if !words.iter().any(|w| w == word) {
            return Err(reason);
        }
    }
    let line = CommandLine::parse(words.iter().cloned())?;
    let progress = line.last_text("progressurl").ok_or(Reason::NoProgressUrl)?;
    let output = main_output(&line)?;
    let list_url = output
        .text("manifest_name")
        .or_else(|| output.text("segment_list"))
        .ok_or(Reason::NoListUrl)?;
    in_session_directory(around.cwd)?;
    if let Some(work) = policy::kept(&line, around.keep_local) {
        return Err(Reason::Kept(work));
    }
    let progress = url("-progressurl", progress)?;
    let list_url = url("the list URL", list_url)?;
    let graphs = streams::graphs(&line)?;
    let streams = streams::streams(&output, &graphs)?;
    if streams.iter().all(streams::encodes_sound) {
        return Err(Reason::NoVideo);
    }
    if around.copy_video == CopyVideo::Local && !streams.iter().any(streams::encodes_video) {
        return Err(Reason::VideoIsCopied);
    }
    let packaging = packaging(&output)?;
    let form = list_form(&output, &packaging)?;
    let mut outputs = vec![OutputSpec {
        packaging,
        streams,
        muxer_options: options::muxer_options(&output)?,
    }];
    let mut side_lists = Vec::new();
    for (options, name) in line.outputs().skip(1) {
        let sink = Output {
            options,
            name: name.to_str().unwrap_or_default(),
        };
        if line.has("map_inlineass") && burn::is_sink(&sink) {
            continue;
        }
        let (output, list) = side_output(options, name, &graphs)?;
        outputs.push(output);
        side_lists.push(list);
    }
    options::all_known(&line)?;
    let inputs = inputs::inputs(&line, around)?;
    let burn_in = burn::sources(&line, &graphs)?;
    let spec = JobSpec {
        api_version: API_VERSION,
        job_id: job_id(&progress, words),
        burn_in,
        fonts: burn::fonts(&graphs, &inputs.specs, around.files),
        inputs: inputs.specs,
        graphs,
        outputs,
        time: time_policy(&line)?,
        lease: LeasePolicy::CARTRIDGE,
        hw_accel: HwAccel::Auto,
        resume: None,
        argv: words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect(),
    };
    Ok(Plan {
        media: inputs.media,
        patterns: patterns(&spec),
        hardware_decode: line.has("hwaccel"),
        session_prefix: session_prefix(&progress, &spec.job_id),
        pms: PmsPlan {
            progress: progress.clone(),
            log_level: log_level(&line)?,
            dialect: dialect(&progress, &list_url),
        },
        list: ListPlan {
            url: list_url,
            form,
        },
        side_lists,
        spec,
    })
}

/// An output behind the first: text subtitles in segments, with a list of their own.
fn side_output(
    options: &[Opt],
    name: &OsStr,
    graphs: &[String],
) -> Result<(OutputSpec, ListPlan), Reason> {
    let name = name.to_str().ok_or(Reason::SideOutput)?;
    let output = Output { options, name };
    let list = output.text("segment_list").ok_or(Reason::SideOutput)?;
    if !matches!(output.text("f"), Some("segment" | "ssegment")) {
        return Err(Reason::SideOutput);
    }
    let container = match output.text("segment_format") {
        Some("ass") => Container::Ass,
        Some("srt") => Container::Srt,
        Some("webvtt") => Container::WebVtt,
        _ => return Err(Reason::SideOutput),
    };
    let packaging = segment(&output, container)?;
    let list = ListPlan {
        url: url("the list URL", list)?,
        form: list_form(&output, &packaging)?,
    };
    let spec = OutputSpec {
        packaging,
        streams: streams::streams(&output, graphs)?,
        muxer_options: options::muxer_options(&output)?,
    };
    Ok((spec, list))
}

/// The output that playback reads: name and options.
struct Output<'a> {
    options: &'a [Opt],
    name: &'a str,
}

impl<'a> Output<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.options.iter().rfind(|o| o.name() == name)?.text()
    }

    /// A number, or `default` when the option is absent.
    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, Reason> {
        match self.options.iter().rfind(|o| o.name() == name) {
            None => Ok(default),
            Some(opt) => opt
                .text()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| Reason::value(opt)),
        }
    }

    /// By how much a cut may come early, seconds.
    fn tolerance(&self, name: &'static str) -> Result<f64, Reason> {
        let seconds: f64 = self.number(name, DEFAULT_TOLERANCE)?;
        if (0.0..1e6).contains(&seconds) {
            Ok(seconds)
        } else {
            Err(Reason::BadValue(format!("-{name}"), seconds.to_string()))
        }
    }

    /// A positive number of seconds.
    fn seconds(&self, name: &'static str, default: f64) -> Result<f64, Reason> {
        let seconds: f64 = self.number(name, default)?;
        if seconds.is_finite() && seconds > 0.0 && seconds < 1e6 {
            Ok(seconds)
        } else {
            Err(Reason::BadValue(format!("-{name}"), seconds.to_string()))
        }
    }
}

/// The first output, when it is one that is cut into announced segments.
fn main_output(line: &CommandLine) -> Result<Output<'_>, Reason> {
    let (options, name) = line.outputs().next().ok_or(Reason::NoListUrl)?;
    let name = name.to_str().ok_or(Reason::NoListUrl)?;
    Ok(Output { options, name })
}

/// PMS's own session directories carry this prefix; thumbnails, detection and optimising run elsewhere.
fn in_session_directory(cwd: &Path) -> Result<(), Reason> {
    let name = cwd.file_name().unwrap_or_default();
    if cwd.is_absolute() && name.as_encoded_bytes().starts_with(b"plex-transcode-") {
        Ok(())
    } else {
        Err(Reason::NotASessionDirectory)
    }
}

fn url(what: &'static str, text: &str) -> Result<Url, Reason> {
    Url::parse(text).map_err(|error| Reason::Url { what, error })
}

fn packaging(output: &Output<'_>) -> Result<Packaging, Reason> {
    let format = output.text("f").ok_or(Reason::NoFormat)?;
    match format {
        "dash" => dash(output),
        "ssegment" | "segment" | "stream_segment" => match output.text("segment_format") {
            Some("mpegts") => segment(output, Container::MpegTs),
            Some("matroska") => segment(output, Container::Matroska),
            Some(other) => Err(Reason::Format(other.to_owned())),
            None => Err(Reason::NoFormat),
        },
        other => Err(Reason::Format(other.to_owned())),
    }
}

/// `-time_delta` and `-segment_time_delta` when absent: what Plex's fork uses for films.
const DEFAULT_TOLERANCE: f64 = 0.0625;

fn dash(output: &Output<'_>) -> Result<Packaging, Reason> {
    let old_us: f64 = output.number("min_seg_duration", 5e6)?;
    if !matches!(output.text("dash_segment_type"), None | Some("mp4")) {
        return Err(Reason::BadValue(
            "-dash_segment_type".into(),
            "not mp4".into(),
        ));
    }
    let name = |option: &'static str, default: &str| -> Result<String, Reason> {
        let name = output.text(option).unwrap_or(default);
        // A slash would leave the session's directory.
        if name.contains('/') || !name.contains("$RepresentationID$") {
            return Err(Reason::BadValue(format!("-{option}"), name.to_owned()));
        }
        Ok(name.to_owned())
    };
    Ok(Packaging::Dash {
        segment_seconds: output.seconds("seg_duration", old_us / 1e6)?,
        first_number: output.number("skip_to_segment", 1)?,
        tolerance_seconds: output.tolerance("time_delta")?,
        init_name: name("init_seg_name", "init-stream$RepresentationID$.m4s")?,
        media_name: name(
            "media_seg_name",
            "chunk-stream$RepresentationID$-$Number%05d$.m4s",
        )?,
    })
}

fn segment(output: &Output<'_>, container: Container) -> Result<Packaging, Reason> {
    let header_name = output
        .text("segment_header_filename")
        .map(|name| name.parse::<FileName>())
        .transpose()
        .map_err(|e| Reason::BadValue("-segment_header_filename".into(), e.to_string()))?;
    if output.name.contains('/') || !output.name.contains('%') {
        return Err(Reason::BadValue("the output".into(), output.name.into()));
    }
    Ok(Packaging::Segment {
        container,
        segment_seconds: output.seconds("segment_time", 2.0)?,
        first_number: output.number("segment_start_number", 0)?,
        tolerance_seconds: output.tolerance("segment_time_delta")?,
        media_name: output.name.to_owned(),
        header_name,
    })
}

fn list_form(output: &Output<'_>, packaging: &Packaging) -> Result<ListForm, Reason> {
    match packaging {
        Packaging::Dash {
            segment_seconds,
            init_name,
            media_name,
            ..
        } => Ok(ListForm::Mpd {
            window: match output.number("window_size", 0)? {
                0 => None,
                size => Some(size),
            },
            segment_us: (segment_seconds * 1e6).round() as i64,
            initialization: init_name.clone(),
            media: media_name.clone(),
        }),
        Packaging::Segment { .. } | Packaging::Hls { .. } => {
            if !matches!(output.text("segment_list_type"), None | Some("csv")) {
                let kind = output.text("segment_list_type").unwrap_or_default();
                return Err(Reason::BadValue("-segment_list_type".into(), kind.into()));
            }
            Ok(ListForm::Csv {
                // 0 and "as many as fit an int" both mean all (PROTOCOL 6.7).
                size: match output.number("segment_list_size", 0_usize)? {
                    0 | 2_147_483_647.. => None,
                    size => Some(size),
                },
                separate_stream_times: match output.text("segment_list_separate_stream_times") {
                    None | Some("0") => false,
                    Some(_) => true,
                },
            })
        }
    }
}

fn time_policy(line: &CommandLine) -> Result<TimePolicy, Reason> {
    let mode = line.last_text("fps_mode").or(line.last_text("vsync"));
    let frames = match mode {
        // Absent is "auto", which is constant rate from the first picture for these muxers.
        None | Some("auto" | "-1") => FramePolicy::CfrFromFirst,
        Some("cfr" | "1") => FramePolicy::CfrFromZero,
        Some("vfr" | "2") => FramePolicy::Vfr,
        Some("passthrough" | "0") => FramePolicy::Passthrough,
        Some(other) => return Err(Reason::BadValue("-fps_mode".into(), other.into())),
    };
    Ok(TimePolicy {
        copyts: line.has("copyts"),
        start_at_zero: line.has("start_at_zero"),
        frames,
    })
}

/// `-loglevel_plex` in the scale of PROTOCOL 6.5.
fn log_level(line: &CommandLine) -> Result<Option<u8>, Reason> {
    match line.last_text("loglevel_plex").unwrap_or("quiet") {
        "quiet" => Ok(None),
        "panic" | "fatal" | "error" => Ok(Some(0)),
        "warning" => Ok(Some(1)),
        "info" => Ok(Some(2)),
        "verbose" => Ok(Some(3)),
        "debug" | "trace" => Ok(Some(4)),
        other => Err(Reason::BadValue("-loglevel_plex".into(), other.into())),
    }
}

/// `<session>-`, where the job's id is `<session>-<job>` as PMS wrote them.
fn session_prefix(progress: &Url, job: &Id) -> Option<String> {
    let (_, tail) = progress.path().split_once("/session/")?;
    let mut parts = tail.split('/');
    let prefix = format!("{}-", parts.next().filter(|s| s.len() >= 4)?);
    let rest = job.as_str().strip_prefix(&prefix)?;
    (parts.next() == Some(rest)).then_some(prefix)
}

fn dialect(progress: &Url, list: &Url) -> Dialect {
    let path = |url: &Url| url.path().split('?').next().unwrap_or_default().to_owned();
    let parts = match path(progress).split_once("/session/") {
        // The last part is `progress`.
        Some((_, tail)) => tail.split('/').filter(|part| !part.is_empty()).count(),
        None => 3,
    };
    match path(list).ends_with("/seglist") || parts < 3 {
        true => Dialect::Old,
        false => Dialect::New,
    }
}

/// Derived from PMS's session and job, so that the same start is the same job. Old versions have no
/// job part; there the command line tells one start from the next.
fn job_id(progress: &Url, words: &[OsString]) -> Id {
    let path = progress.path().split('?').next().unwrap_or_default();
    let tail = path.split_once("/session/").map_or(path, |(_, tail)| tail);
    let parts: Vec<&str> = tail
        .split('/')
        .filter(|part| !part.is_empty() && *part != "progress")
        .collect();
    let plain = parts.join("-");
    let text: String = plain
        .trim_start_matches('.')
        .chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '_',
        })
        .take(100)
        .collect();
    let exact = parts.len() > 1 && text == plain;
    let id = if exact {
        text
    } else {
        let mut all = plain.into_bytes();
        for word in words {
            all.push(0);
            all.extend_from_slice(word.as_encoded_bytes());
        }
        format!("{text}-{}", &Digest::of(&all).0[..16])
    };
    // Invariant: at most 117 characters of the allowed set, not empty, no leading dot.
    id.parse().unwrap_or_else(|_| fallback_id(words))
}

fn fallback_id(words: &[OsString]) -> Id {
    let joined = words.join(OsStr::new("\0"));
    let digest = Digest::of(joined.as_encoded_bytes()).0;
    // Invariant: 64 hexadecimal digits are a valid id.
    digest.parse().expect("a digest is an id")
}

fn patterns(spec: &JobSpec) -> Vec<String> {
    let mut patterns = Vec::new();
    for output in &spec.outputs {
        match &output.packaging {
            Packaging::Dash {
                init_name,
                media_name,
                ..
            } => patterns.extend([starred(init_name), starred(media_name)]),
            Packaging::Segment {
                media_name,
                header_name,
                ..
            } => {
                patterns.push(starred(media_name));
                patterns.extend(header_name.as_ref().map(|n| n.as_str().to_owned()));
            }
            Packaging::Hls {
                media_name,
                playlist_name,
                ..
            } => patterns.extend([starred(media_name), playlist_name.as_str().to_owned()]),
        }
    }
    patterns
}

/// `chunk-stream$RepresentationID$-$Number%05d$.m4s` -> `chunk-stream*-*.m4s`.
fn starred(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find(['$', '%']) {
        let (before, from) = rest.split_at(at);
        let end = match from.strip_prefix('$') {
            Some(inside) => inside.find('$').map(|i| i + 2),
            None => from.find('d').map(|i| i + 1),
        };
        out.push_str(before);
        out.push('*');
        rest = end.map_or("", |end| &from[end..]);
    }
    out + rest
}

#[cfg(test)]
mod tests;
