//! Encoder options for devices: the quality and the ceilings that a job asks for, in the words of
//! NVENC, VAAPI and QSV.
//!
//! Drivers differ in the rate controls they have, hence the answer is a list of attempts, the best
//! first: quality under a ceiling, then quality alone or a bit rate. Segments start at keys that the
//! pipeline forces, so every attempt makes a forced key an IDR and has no B pictures, whose order
//! around a cut differs between drivers. No profile beyond Main, High and Main 10 is ever asked for.

use super::{Family, unsupported};
use crate::device::DeviceKind;
use plexbeam_api::Problem;
use std::fmt::Display;

type Options = Vec<(String, String)>;

/// What a job wants of a video encoder, whichever it names.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wanted {
    /// Quantizer-like quality of x264's scale, 1 to 51.
    quality: Option<u32>,
    /// Bits per second.
    bit_rate: Option<u64>,
    max_rate: Option<u64>,
    /// Bits.
    buffer: Option<u64>,
    /// Of x264's names.
    preset: Option<String>,
    /// Most pictures between two keys.
    key_distance: Option<u32>,
    /// As the job says, e.g. `high`.
    profile: Option<String>,
    /// As the job says, e.g. `4.1`.
    level: Option<String>,
}

/// Quality where a job says nothing at all.
const DEFAULT_QUALITY: u32 = 23;

/// Attempts for `family` with `bits` per component on a device of this kind, best first. `options`
/// are the job's, which may be for another encoder. Errors: a rate that is no number.
pub fn attempts(
    kind: DeviceKind,
    family: Family,
    bits: u32,
    options: &[(String, String)],
) -> Result<Vec<Options>, Problem> {
    let wanted = Wanted::read(options)?;
    Ok(match kind {
        DeviceKind::Cuda => vec![nvenc(&wanted, family, bits)],
        DeviceKind::Vaapi => vaapi(&wanted, family, bits),
        DeviceKind::Qsv => qsv(&wanted, family, bits),
        DeviceKind::Vulkan => Vec::new(),
    })
}

impl Wanted {
    fn read(options: &[(String, String)]) -> Result<Self, Problem> {
        let mut wanted = Wanted::default();
        for (key, value) in options {
            match key.as_str() {
                "crf" | "qp" | "cq" | "global_quality" | "q" => {
                    let number: f64 = value.parse().map_err(|_| not_a_number(key, value))?;
                    if number > 0.0 {
                        wanted.quality = Some(number.round().clamp(1.0, 51.0) as u32);
                    }
                }
                "b" => wanted.bit_rate = rate(key, value)?,
                "maxrate" => wanted.max_rate = rate(key, value)?,
                "bufsize" => wanted.buffer = rate(key, value)?,
                "preset" => wanted.preset = Some(value.clone()),
                "g" => wanted.key_distance = value.parse().ok(),
                "profile" => wanted.profile = Some(value.clone()),
                "level" => wanted.level = Some(value.clone()),
                // The rest tunes the encoder that the job names.
                _ => {}
            }
        }
        if wanted.quality.is_none() && wanted.bit_rate.is_none() {
            wanted.quality = Some(DEFAULT_QUALITY);
        }
        Ok(wanted)
    }

    /// The profile of a family, never one that players may lack.
    fn profile(&self, family: Family, bits: u32) -> &'static str {
        match (family, bits) {
            (Family::Hevc, 8) => "main",
            (Family::Hevc, _) => "main10",
            (Family::H264, _) => match self.profile.as_deref() {
                Some("main") => "main",
                Some("baseline" | "constrained_baseline") => "baseline",
                _ => "high",
            },
        }
    }

    /// Position of the preset on x264's scale, 0 for the fastest.
    fn speed(&self) -> usize {
        const VERYFAST: usize = 2;
        let preset = self.preset.as_deref().unwrap_or("veryfast");
        super::X26X_PRESETS
            .iter()
            .position(|known| *known == preset)
            .unwrap_or(VERYFAST)
    }
}

fn not_a_number(key: &str, value: &str) -> Problem {
    unsupported(format!(
        "video encoder option `{key}`: `{value}` is no number"
    ))
}

/// Bits, with the endings that libav knows: `20000k`, `4M`. Zero counts as not said.
fn rate(key: &str, value: &str) -> Result<Option<u64>, Problem> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'k' | b'K') => (&value[..value.len() - 1], 1e3),
        Some(b'm' | b'M') => (&value[..value.len() - 1], 1e6),
        Some(b'g' | b'G') => (&value[..value.len() - 1], 1e9),
        _ => (value, 1.0),
    };
    let number: f64 = digits.parse().map_err(|_| not_a_number(key, value))?;
    let bits = number * unit;
    Ok((bits >= 1.0).then_some(bits as u64))
}

/// Collects options.
#[derive(Default, Clone)]
struct Out(Options);

impl Out {
    fn set(&mut self, key: &str, value: impl Display) {
        self.0.push((key.to_owned(), format!("{value}")));
    }

    fn set_some(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }
}

fn nvenc(wanted: &Wanted, family: Family, bits: u32) -> Options {
    let mut out = Out::default();
    // NVENC's presets p1 to p7; p3 and below keep up with real time on every card that has it.
    const PRESETS: [&str; 9] = ["p1", "p1", "p2", "p3", "p4", "p4", "p5", "p6", "p7"];
    let own = wanted
        .preset
        .as_deref()
        .filter(|preset| matches!(preset.as_bytes(), [b'p', b'1'..=b'7']));
    out.set("preset", own.unwrap_or(PRESETS[wanted.speed()]));
    out.set("tune", "hq");
    out.set("rc", "vbr");
    match wanted.quality {
        // With a quality the bit rate must be 0, or it is the target.
        Some(quality) => {
            out.set("cq", quality);
            out.set("b", 0);
        }
        None => out.set_some("b", wanted.bit_rate),
    }
    out.set_some("maxrate", wanted.max_rate);
    out.set_some("bufsize", wanted.buffer);
    out.set("profile", wanted.profile(family, bits));
    out.set_some(
        "level",
        wanted.level.as_deref().filter(|_| family == Family::H264),
    );
    out.set_some("g", wanted.key_distance);
    out.set("bf", 0);
    out.set("b_ref_mode", "disabled");
    out.set("rc-lookahead", 0);
    out.set("forced-idr", 1);
    out.0
}

fn vaapi(wanted: &Wanted, family: Family, bits: u32) -> Vec<Options> {
    let mut common = Out::default();
    common.set(
        "profile",
        match wanted.profile(family, bits) {
            "baseline" => "constrained_baseline",
            other => other,
        },
    );
    common.set_some(
        "level",
        wanted.level.as_deref().filter(|_| family == Family::H264),
    );
    common.set_some("g", wanted.key_distance);
    common.set("bf", 0);
    common.set("idr_interval", 0);
    let mut rates = Vec::new();
    if let (Some(quality), Some(max)) = (wanted.quality, wanted.max_rate) {
        let mut out = common.clone();
        out.set("rc_mode", "QVBR");
        out.set("global_quality", quality);
        out.set("b", max);
        out.set("maxrate", max);
        out.set_some("bufsize", wanted.buffer);
        rates.push(out);
    }
    // A ceiling is kept before a quality is: Plex chose it for the network.
    if let Some(max) = wanted.max_rate.or(wanted.bit_rate) {
        let mut out = common.clone();
        out.set("rc_mode", "VBR");
        out.set("b", wanted.bit_rate.unwrap_or(max / 10 * 8).min(max));
        out.set("maxrate", max);
        out.set_some("bufsize", wanted.buffer);
        rates.push(out);
    }
    let mut out = common;
    out.set("rc_mode", "CQP");
    out.set("qp", wanted.quality.unwrap_or(DEFAULT_QUALITY));
    rates.push(out);
    // Newer Intel chips have the low power encoder only.
    let low_power = rates.iter().cloned().map(|mut out| {
        out.set("low_power", 1);
        out
    });
    let all: Vec<Out> = rates.iter().cloned().chain(low_power).collect();
    all.into_iter().map(|out| out.0).collect()
}

fn qsv(wanted: &Wanted, family: Family, bits: u32) -> Vec<Options> {
    let mut common = Out::default();
    // x264's names without the two fastest.
    common.set("preset", super::X26X_PRESETS[wanted.speed().max(2)]);
    common.set("profile", wanted.profile(family, bits));
    common.set_some("g", wanted.key_distance);
    common.set("bf", 0);
    common.set("forced_idr", 1);
    common.set("async_depth", 4);
    if family == Family::H264 {
        common.set("look_ahead", 0);
    }
    let mut rates = Vec::new();
    if let (Some(quality), Some(max)) = (wanted.quality, wanted.max_rate) {
        // Taken as QVBR.
        let mut out = common.clone();
        out.set("global_quality", quality);
        out.set("b", max);
        out.set("maxrate", max);
        out.set_some("bufsize", wanted.buffer);
        rates.push(out);
    }
    if let Some(max) = wanted.max_rate.or(wanted.bit_rate) {
        let mut out = common.clone();
        out.set("b", wanted.bit_rate.unwrap_or(max / 10 * 8).min(max));
        out.set("maxrate", max);
        out.set_some("bufsize", wanted.buffer);
        rates.push(out);
    }
    // Taken as ICQ.
    let mut out = common;
    out.set("global_quality", wanted.quality.unwrap_or(DEFAULT_QUALITY));
    rates.push(out);
    rates.into_iter().map(|out| out.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::hw::encoder_knows;

    fn pairs(list: &[(&str, &str)]) -> Options {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    const PLEX: &[(&str, &str)] = &[
        ("crf", "16"),
        ("maxrate", "20000k"),
        ("bufsize", "40000k"),
        ("preset", "veryfast"),
        ("level", "4.1"),
        ("profile", "high"),
        ("g", "72"),
        ("x264opts", "subme=0:me_range=4"),
    ];

    fn encoder(kind: DeviceKind, family: Family) -> String {
        format!("{}_{}", family.codec(), kind.encoder_suffix().unwrap())
    }

    #[test]
    fn every_option_exists_in_this_libavcodec() {
        let given = [
            PLEX,
            &[],
            &[("b", "4M")],
            &[("qp", "15"), ("maxrate", "9M")],
        ];
        for kind in DeviceKind::AUTO {
            for (family, bits) in [(Family::H264, 8), (Family::Hevc, 8), (Family::Hevc, 10)] {
                let name = encoder(kind, family);
                for options in given {
                    let all = attempts(kind, family, bits, &pairs(options)).unwrap();
                    assert!(!all.is_empty());
                    for (key, _) in all.iter().flatten() {
                        assert!(encoder_knows(&name, key), "{name} has no option {key}");
                    }
                }
            }
        }
        assert!(!encoder_knows("h264_nvenc", "no-such-option"));
    }

    #[test]
    fn every_attempt_forces_idr_and_has_no_b_pictures() {
        for kind in DeviceKind::AUTO {
            for family in [Family::H264, Family::Hevc] {
                for options in attempts(kind, family, 8, &pairs(PLEX)).unwrap() {
                    let get = |key: &str| {
                        let found = options.iter().find(|(k, _)| k == key);
                        found.map(|(_, v)| v.as_str())
                    };
                    assert_eq!(get("bf"), Some("0"));
                    let forced = match kind {
                        DeviceKind::Cuda => get("forced-idr") == Some("1"),
                        DeviceKind::Qsv => get("forced_idr") == Some("1"),
                        // Its encoder makes every picture of type I an IDR that is asked for.
                        _ => get("idr_interval") == Some("0"),
                    };
                    assert!(forced, "{kind} {options:?}");
                }
            }
        }
    }

    #[test]
    fn quality_and_ceiling_survive_in_each_vendors_words() {
        let has = |options: &Options, key: &str, value: &str| {
            options.contains(&(key.to_owned(), value.to_owned()))
        };
        let nv = &attempts(DeviceKind::Cuda, Family::H264, 8, &pairs(PLEX)).unwrap()[0];
        assert!(has(nv, "cq", "16") && has(nv, "maxrate", "20000000") && has(nv, "preset", "p2"));
        let va = attempts(DeviceKind::Vaapi, Family::H264, 8, &pairs(PLEX)).unwrap();
        assert!(has(&va[0], "rc_mode", "QVBR") && has(&va[0], "global_quality", "16"));
        assert!(has(&va[1], "rc_mode", "VBR") && has(&va[1], "maxrate", "20000000"));
        assert!(has(&va[2], "rc_mode", "CQP") && has(&va[2], "qp", "16"));
        assert!(has(&va[3], "low_power", "1"));
        let qs = attempts(DeviceKind::Qsv, Family::Hevc, 10, &pairs(PLEX)).unwrap();
        assert!(has(&qs[0], "profile", "main10") && has(&qs[0], "global_quality", "16"));
        // A line for another vendor's encoder says quality by other names.
        let line = pairs(&[("qp", "15"), ("maxrate", "20121k"), ("sei", "-a53_cc")]);
        let nv = &attempts(DeviceKind::Cuda, Family::Hevc, 8, &line).unwrap()[0];
        assert!(
            has(nv, "cq", "15") && has(nv, "maxrate", "20121000") && has(nv, "profile", "main")
        );
    }

    #[test]
    fn no_attempt_leaves_the_usual_profiles() {
        let odd = pairs(&[("profile", "rext"), ("crf", "20")]);
        for kind in DeviceKind::AUTO {
            for (family, bits) in [(Family::H264, 8), (Family::Hevc, 8), (Family::Hevc, 10)] {
                for options in attempts(kind, family, bits, &odd).unwrap() {
                    let profile = options.iter().find(|(k, _)| k == "profile");
                    let profile = profile.map(|(_, v)| v.as_str());
                    assert!(
                        matches!(profile, Some("high" | "main" | "main10")),
                        "{profile:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rates_that_are_no_numbers_are_refused() {
        for bad in [("maxrate", "fast"), ("crf", "x"), ("b", "k")] {
            assert!(attempts(DeviceKind::Cuda, Family::H264, 8, &pairs(&[bad])).is_err());
        }
    }
}
