//! The inputs of a job: the title by path, staged subtitles carried along.

use super::{Files, Reason, Surroundings, streams};
use crate::argv::{CommandLine, Opt};
use plexbeam_api::job::{DecoderHint, InputSpec, Location, MAX_INLINE_BYTES};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the inputs became.
pub(super) struct Inputs {
    pub(super) specs: Vec<InputSpec>,
    /// (index, path) of those that stay on this host.
    pub(super) media: Vec<(usize, PathBuf)>,
}

/// Subtitle files that PMS stages or that lie beside a title; small, and not on any worker.
const SIDE_FILES: &[&str] = &["srt", "ass", "ssa", "vtt", "smi", "sub"];

pub(super) fn inputs(line: &CommandLine, around: &Surroundings<'_>) -> Result<Inputs, Reason> {
    let mut all = Inputs {
        specs: Vec::new(),
        media: Vec::new(),
    };
    let mut carried = 0;
    for (index, (options, url)) in line.inputs().enumerate() {
        let bad = |why: String| Reason::Input { index, why };
        let path = local_path(url, around.cwd).map_err(bad)?;
        let size = around
            .files
            .readable_size(&path)
            .map_err(|e| bad(e.to_string()))?;
        let location = if index > 0 && is_side_file(&path) {
            carried += usize::try_from(size).unwrap_or(usize::MAX);
            if carried > MAX_INLINE_BYTES {
                return Err(Reason::SideInputsTooLarge(MAX_INLINE_BYTES));
            }
            inline(&path, around.files).map_err(bad)?
        } else {
            all.media.push((index, path.clone()));
            // A path that is no text can only be had by the media route.
            path.to_str().map(|path| Location::Path {
                path: path.to_owned(),
            })
        };
        all.specs
            .push(spec(options, location.into_iter().collect())?);
    }
    if all.media.is_empty() {
        return Err(Reason::Input {
            index: 0,
            why: "there is none".into(),
        });
    }
    Ok(all)
}

/// An absolute path; `file:` is ffmpeg's protocol for plain files.
fn local_path(url: &OsStr, cwd: &Path) -> Result<PathBuf, String> {
    if let Some(text) = url.to_str() {
        let plain = text.strip_prefix("file:").unwrap_or(text);
        let scheme = plain.split_once("://").map(|(scheme, _)| scheme);
        if let Some(scheme) = scheme.filter(|s| s.bytes().all(|b| b.is_ascii_alphanumeric())) {
            return Err(format!("it is a URL of scheme `{scheme}`"));
        }
        if plain == "-" || plain.starts_with("pipe:") || plain.starts_with("concat:") {
            return Err(format!("`{plain}` is no file"));
        }
        return Ok(cwd.join(plain));
    }
    Ok(cwd.join(url))
}

fn is_side_file(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    SIDE_FILES.contains(&extension.to_ascii_lowercase().as_str())
}

fn inline(path: &Path, files: &dyn Files) -> Result<Option<Location>, String> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let name = name
        .parse()
        .or_else(|_| format!("side.{extension}").parse())
        .map_err(|e: plexbeam_api::id::InvalidName| e.to_string())?;
    let data = files.read(path).map_err(|e| e.to_string())?;
    Ok(Some(Location::Inline { name, data }))
}

fn spec(options: &[Opt], locations: Vec<Location>) -> Result<InputSpec, Reason> {
    let mut spec = InputSpec {
        locations,
        seek_us: None,
        accurate_seek: true,
        probe_size: None,
        analyze_duration_us: None,
        decoders: Vec::new(),
    };
    for opt in options {
        match opt.name() {
            "ss" => spec.seek_us = Some(opt.text().and_then(time_us).ok_or(Reason::value(opt))?),
            "noaccurate_seek" => spec.accurate_seek = false,
            "accurate_seek" => spec.accurate_seek = true,
            "probesize" => spec.probe_size = Some(number(opt)?),
            "analyzeduration" => spec.analyze_duration_us = Some(number(opt)?),
            "codec" | "c" => {
                let name = opt.text().ok_or(Reason::value(opt))?;
                if let Some(stream) = opt.specifier().and_then(|s| streams::selector(&s)) {
                    spec.decoders.push(DecoderHint {
                        stream,
                        name: name.to_owned(),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(spec)
}

fn number<T: std::str::FromStr>(opt: &Opt) -> Result<T, Reason> {
    opt.text()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| Reason::value(opt))
}

/// `224`, `224.5`, `00:03:44.000` -> microseconds; not negative.
pub(super) fn time_us(text: &str) -> Option<i64> {
    let mut seconds = 0.0;
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return None;
    }
    for (at, part) in parts.iter().enumerate() {
        let last = at + 1 == parts.len();
        let plain = part
            .bytes()
            .all(|b| b.is_ascii_digit() || (last && b == b'.'));
        if part.is_empty() || !plain {
            return None;
        }
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    (seconds < 1e9).then(|| (seconds * 1e6).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_clock_times() {
        for (text, want) in [
            ("224", Some(224_000_000)),
            ("0", Some(0)),
            ("12.5", Some(12_500_000)),
            ("00:03:44.000", Some(224_000_000)),
            ("1:02:03", Some(3_723_000_000)),
            ("-5", None),
            ("1e3", None),
            ("", None),
            ("1:2:3:4", None),
            ("1.5:2", None),
        ] {
            assert_eq!(time_us(text), want, "{text:?}");
        }
    }

    #[test]
    fn only_plain_files_are_inputs() {
        let cwd = Path::new("/s");
        let path = |text: &str| local_path(OsStr::new(text), cwd);
        assert_eq!(path("/m/a [b]: c.mkv"), Ok("/m/a [b]: c.mkv".into()));
        assert_eq!(path("file:/m/a.mkv"), Ok("/m/a.mkv".into()));
        assert_eq!(path("temp-0.srt"), Ok("/s/temp-0.srt".into()));
        for text in ["http://tuner/1", "rtmp://x", "pipe:0", "-", "concat:a|b"] {
            assert!(path(text).is_err(), "{text}");
        }
    }
}
