//! Encoder options: what the job says for the encoder it names, for the encoder that is taken.

mod device;

pub use device::attempts as device_attempts;

use super::EncoderPlan;
use crate::device::Family;
use plexbeam_api::{Kind, Problem, segment::MediaKind};

/// Options that x264 and x265 take as they stand.
const X26X: &[&str] = &[
    "b",
    "maxrate",
    "minrate",
    "bufsize",
    "crf",
    "qp",
    "preset",
    "tune",
    "profile",
    "level",
    "g",
    "keyint_min",
    "bf",
    "refs",
    "sc_threshold",
    "forced-idr",
    "x264opts",
    "x264-params",
    "x265-params",
    "rc-lookahead",
    "aq-mode",
    "threads",
    "flags",
    "colorspace",
    "color_primaries",
    "color_trc",
    "color_range",
];
/// Options of device encoders that say nothing to a software encoder.
const DEVICE_ONLY: &[&str] = &[
    "sei",
    "forced_idr",
    "rc",
    "cq",
    "spatial-aq",
    "temporal-aq",
    "rc_mode",
    "low_power",
    "q",
    "global_quality",
    "look_ahead",
    "async_depth",
    "delay",
    "zerolatency",
    "surfaces",
    "gpu",
    "multipass",
    "2pass",
    "b_ref_mode",
    "compression_level",
    "idr_interval",
    "coder",
    "tag",
];
/// Options of audio encoders; the first four shape the filter graph instead.
const AUDIO: &[&str] = &[
    "ar",
    "ac",
    "channel_layout",
    "ch_layout",
    "b",
    "profile",
    "cutoff",
    "compression_level",
    "vbr",
    "application",
    "frame_duration",
    "aac_coder",
    "strict",
    "q",
    "dialnorm",
    "rematrix_maxval",
];
const SHAPE: &[&str] = &["ar", "ac", "channel_layout", "ch_layout", "rematrix_maxval"];
/// Keys of x264's and x265's own option strings that open files.
const FILE_KEYS: &[&str] = &[
    "stats",
    "dump-yuv",
    "cqmfile",
    "qpfile",
    "log-file",
    "tcfile-in",
    "tcfile-out",
    "csv",
    "recon",
    "analysis-save",
    "analysis-load",
    "analysis-reuse-file",
    "lambda-file",
    "dhdr10-info",
    "scaling-list",
    "zonefile",
    "nalu-file",
    "opencl-clbin",
];
const X26X_PRESETS: &[&str] = &[
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
];

fn unsupported(detail: String) -> Problem {
    Problem::new(Kind::Unsupported, detail)
}

/// Translates options. An unknown name, or one that would open a file, is refused with its name.
pub fn translate(
    requested: &str,
    plan: EncoderPlan,
    options: &[(String, String)],
) -> Result<Vec<(String, String)>, Problem> {
    match plan.media {
        MediaKind::Video => video(requested, plan.name, options),
        MediaKind::Audio => audio(options),
        _ => Ok(Vec::new()),
    }
}

fn audio(options: &[(String, String)]) -> Result<Vec<(String, String)>, Problem> {
    let mut out = Vec::new();
    for (key, value) in options {
        if !AUDIO.contains(&key.as_str()) {
            return Err(unsupported(format!(
                "audio encoder option `{key}` is unknown"
            )));
        }
        if !SHAPE.contains(&key.as_str()) {
            out.push((key.clone(), value.clone()));
        }
    }
    Ok(out)
}

fn video(
    requested: &str,
    name: &str,
    options: &[(String, String)],
) -> Result<Vec<(String, String)>, Problem> {
    let software = requested == name;
    let mut out: Vec<(String, String)> = Vec::new();
    for (key, value) in options {
        match key.as_str() {
            "x264opts" | "x264-params" | "x265-params" => {
                refuse_files(key, value)?;
                // An option string of the other encoder has no meaning here.
                if key.starts_with(&name[3..]) {
                    out.push((key.clone(), value.clone()));
                }
            }
            "qp" if !software => out.push(("crf".to_owned(), value.clone())),
            "preset" if !X26X_PRESETS.contains(&value.as_str()) => {}
            "profile" if !software => {}
            key if X26X.contains(&key) => out.push((key.to_owned(), value.clone())),
            key if DEVICE_ONLY.contains(&key) => {}
            _ => {
                return Err(unsupported(format!(
                    "video encoder option `{key}` is unknown"
                )));
            }
        }
    }
    let has = |out: &[(String, String)], key: &str| out.iter().any(|(k, _)| k == key);
    if !has(&out, "preset") {
        // A line made for a device expects real time, which the encoders' default does not reach.
        let preset = if name == "libx265" {
            "ultrafast"
        } else {
            "veryfast"
        };
        out.push(("preset".to_owned(), preset.to_owned()));
    }
    if !has(&out, "forced-idr") {
        out.push(("forced-idr".to_owned(), "1".to_owned()));
    }
    if name == "libx265" {
        // A segment must start with an IDR and hold no picture that needs the one before.
        let own = "open-gop=0:log-level=error";
        match out.iter_mut().find(|(k, _)| k == "x265-params") {
            Some((_, value)) => value.push_str(&format!(":{own}")),
            None => out.push(("x265-params".to_owned(), own.to_owned())),
        }
    }
    Ok(out)
}

fn refuse_files(option: &str, value: &str) -> Result<(), Problem> {
    for pair in value.split(':') {
        let key = pair
            .split('=')
            .next()
            .unwrap_or(pair)
            .trim()
            .replace('_', "-");
        if FILE_KEYS.contains(&key.as_str()) {
            return Err(unsupported(format!(
                "`{key}` in `{option}` would open a file"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn plex_software_options_pass_unchanged() {
        let plan = super::super::encoder("libx264").unwrap();
        let given = pairs(&[
            ("crf", "16"),
            ("maxrate", "20000k"),
            ("bufsize", "40000k"),
            ("preset", "veryfast"),
            (
                "x264opts",
                "subme=0:me_range=4:rc_lookahead=10:me=dia:no_chroma_me:8x8dct=0",
            ),
        ]);
        let out = translate("libx264", plan, &given).unwrap();
        assert_eq!(out[..given.len()], given[..]);
    }

    #[test]
    fn device_options_become_software_ones() {
        let plan = super::super::encoder("hevc_vaapi").unwrap();
        let out = translate(
            "hevc_vaapi",
            plan,
            &pairs(&[("qp", "15"), ("maxrate", "20121k"), ("sei", "-a53_cc")]),
        )
        .unwrap();
        assert!(out.contains(&("crf".to_owned(), "15".to_owned())));
        assert!(!out.iter().any(|(k, _)| k == "sei" || k == "qp"));
    }

    #[test]
    fn options_that_open_files_are_refused() {
        let plan = super::super::encoder("libx264").unwrap();
        for value in ["dump_yuv=/x", "a=1:stats=/y", "cqmfile=/z"] {
            assert!(translate("libx264", plan, &pairs(&[("x264opts", value)])).is_err());
        }
        assert!(translate("libx264", plan, &pairs(&[("passlogfile", "/x")])).is_err());
    }
}
