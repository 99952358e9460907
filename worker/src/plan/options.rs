//! Encoder options: what the job says for the encoder it names, for the encoder that is taken.

mod device;
mod x26x;

pub use device::attempts as device_attempts;

use super::{EncoderPlan, values};
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

/// Flags of libav's encoders that a job may set. Not among them: those of two passes, which write
/// and read a file.
const FLAGS: &[&str] = &[
    "cgop",
    "low_delay",
    "global_header",
    "bitexact",
    "ilme",
    "ildct",
    "loop",
    "unaligned",
];

/// Most threads that a job may ask an encoder for.
const MAX_THREADS: u32 = 64;

/// Translates options. An unknown name is refused, and so is a value that is no number or plain
/// name: libav would take it for an expression, a list or the name of a file.
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
        let good = match key.as_str() {
            "channel_layout" | "ch_layout" => values::is_layout(value),
            _ => values::is_word(value),
        };
        if !good {
            return Err(bad_value("audio", key, value));
        }
        if !SHAPE.contains(&key.as_str()) {
            out.push((key.clone(), value.clone()));
        }
    }
    Ok(out)
}

fn bad_value(kind: &str, key: &str, value: &str) -> Problem {
    let shown = values::shown(value);
    unsupported(format!(
        "{kind} encoder option `{key}`: `{shown}` is not possible"
    ))
}

/// A value of one of [`X26X`].
fn is_good(key: &str, value: &str) -> bool {
    match key {
        "flags" => value
            .split_inclusive(['+', '-'])
            .map(|flag| flag.trim_end_matches(['+', '-']))
            .all(|flag| flag.is_empty() || FLAGS.contains(&flag)),
        "threads" => value == "auto" || value.parse::<u32>().is_ok_and(|n| n <= MAX_THREADS),
        _ => values::is_word(value),
    }
}

/// The same for a start with less work for each picture; `None` where x264's next faster preset would
/// change what a decoder is told beforehand (`faster` and slower have more reference pictures), or where
/// the job says in detail what is to be done: Plex's `x264opts` leave that preset nothing to save.
pub fn faster(options: &[(String, String)]) -> Option<Vec<(String, String)>> {
    let is_fine = |key: &str| matches!(key, "x264opts" | "x264-params" | "refs" | "rc-lookahead");
    if options.iter().any(|(key, _)| is_fine(key)) {
        return None;
    }
    let mut faster = options.to_vec();
    let (_, preset) = faster.iter_mut().find(|(key, _)| key == "preset")?;
    if preset != "veryfast" {
        return None;
    }
    "superfast".clone_into(preset);
    Some(faster)
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
                x26x::check(key, value)?;
                // An option string of the other encoder has no meaning here.
                if key.starts_with(&name[3..]) {
                    out.push((key.clone(), value.clone()));
                }
            }
            known if X26X.contains(&known) && !is_good(known, value) => {
                return Err(bad_value("video", key, value));
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
        let refused =
            |key: &str, value: &str| translate("libx264", plan, &pairs(&[(key, value)])).is_err();
        for value in [
            "dump_yuv=/x",
            "subme=1:stats=/y",
            // libav takes the backslash away.
            "sta\\ts=/y",
            "'stats'=/y",
            "cqmfile=/z",
            // x264 takes any other name than `flat` and `jvt` for that of a file.
            "cqm=/z",
            "no-stats=/y",
            "nostats=/y",
            "qpfile=/q",
            // Both write `x264_2pass.log`.
            "pass=1",
            "subme=1:pass=1",
            "zones=0,9,stats=/y",
            "opencl_clbin=/o",
            "subme=/etc/passwd",
            "=/y",
        ] {
            for key in ["x264opts", "x264-params", "x265-params"] {
                assert!(refused(key, value), "{key} {value}");
            }
        }
        for (key, value) in [
            ("passlogfile", "/x"),
            ("stats", "/x"),
            ("flags", "+pass1"),
            ("flags", "pass2"),
            ("flags", "+cgop+pass1"),
            ("crf", "while(1,1)"),
            ("threads", "100000"),
            ("preset", "/x"),
            ("tune", "../x"),
        ] {
            assert!(refused(key, value), "{key} {value}");
        }
        assert!(!refused("flags", "+cgop-low_delay"));
        let audio = super::super::encoder("aac").unwrap();
        for (key, value) in [
            ("channel_layout", "stereo,amovie=/x"),
            ("ar", "48000,amovie=/x"),
            ("b", "while(1,1)"),
        ] {
            assert!(
                translate("aac", audio, &pairs(&[(key, value)])).is_err(),
                "{key}"
            );
        }
    }
}
