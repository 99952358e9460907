//! Sound as filter text for libav.

use super::{
    graph::{Filter, Step},
    operation::unsupported,
};
use plexbeam_api::Problem;

/// Audio operations that run as they stand. None of them opens a file.
const AUDIO_FILTERS: &[&str] = &[
    "aresample",
    "aformat",
    "anull",
    "volume",
    "pan",
    "channelmap",
    "loudnorm",
    "dynaudnorm",
    "acompressor",
    "alimiter",
    "atempo",
];

/// Filter text of an audio line, ending in what `encoder` takes.
pub fn audio(
    steps: &[Step],
    encoder: &str,
    options: &[(String, String)],
) -> Result<String, Problem> {
    let mut chain: Vec<String> = Vec::new();
    for Step { filter, side } in steps {
        if side.is_some() || !AUDIO_FILTERS.contains(&filter.name.as_str()) {
            return Err(unsupported(&filter.name));
        }
        chain.push(match filter.name.as_str() {
            "aresample" => resampler(filter),
            _ => filter.text(),
        });
    }
    let option = |key: &str| {
        options
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    };
    let formats = match encoder {
        "aac" | "ac3" | "eac3" => "fltp",
        "libopus" => "s16|flt",
        "libmp3lame" => "fltp|s16p",
        _ => "s16|s32",
    };
    let mut format = format!("aformat=sample_fmts={formats}");
    match (encoder, option("ar")) {
        // Opus knows no other clock than 48 kHz.
        ("libopus", _) => format.push_str(":sample_rates=48000"),
        (_, Some(rate)) if rate.bytes().all(|b| b.is_ascii_digit()) => {
            format.push_str(&format!(":sample_rates={rate}"));
        }
        ("ac3" | "eac3", _) => format.push_str(":sample_rates=48000|44100|32000"),
        ("libmp3lame", _) => format.push_str(":sample_rates=48000|44100|32000|24000|22050|16000"),
        ("aac", _) => format.push_str(
            ":sample_rates=96000|88200|64000|48000|44100|32000|24000|22050|16000|12000|11025|8000",
        ),
        _ => {}
    }
    let layout = match (
        option("channel_layout").or(option("ch_layout")),
        option("ac"),
    ) {
        (Some(layout), _) => Some(layout.to_owned()),
        (None, Some(count)) => channels_layout(count),
        (None, None) => match encoder {
            "libmp3lame" => Some("stereo|mono".to_owned()),
            "ac3" | "eac3" => Some("5.1|5.1(side)|5.0|quad|3.0|stereo|mono".to_owned()),
            _ => None,
        },
    };
    if let Some(layout) = layout {
        format.push_str(&format!(":channel_layouts={layout}"));
    }
    chain.push(format);
    Ok(chain.join(","))
}

/// `aresample` in the words of libav 5.1 and later: `ocl` and `och` of older command lines are read
/// there, too, but change nothing.
fn resampler(filter: &Filter) -> String {
    let arguments = filter.arguments();
    let named = |names: &[&str]| {
        let found = arguments
            .iter()
            .find(|(key, _)| names.contains(&key.as_str()));
        found.map(|(_, value)| value.clone())
    };
    let layout = named(&["ochl", "out_chlayout", "ocl", "out_channel_layout"])
        .or_else(|| named(&["och", "out_channel_count"]).and_then(|count| channels_layout(&count)));
    let old = ["ocl", "out_channel_layout", "och", "out_channel_count"];
    let mut kept: Vec<String> = arguments
        .iter()
        .filter(|(key, _)| !old.contains(&key.as_str()))
        .filter(|(key, _)| !matches!(key.as_str(), "ochl" | "out_chlayout"))
        .map(|(key, value)| match key.as_str() {
            "" => value.clone(),
            key => format!("{key}={value}"),
        })
        .collect();
    if let Some(layout) = layout {
        kept.push(format!("ochl='{layout}'"));
    }
    Filter::new("aresample", kept.join(":")).text()
}

/// libav's own choice for a number of channels.
fn channels_layout(count: &str) -> Option<String> {
    let layout = match count {
        "1" => "mono",
        "2" => "stereo",
        "3" => "2.1",
        "4" => "4.0",
        "5" => "5.0",
        "6" => "5.1",
        "7" => "6.1",
        "8" => "7.1",
        _ => return None,
    };
    Some(layout.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resamplers_of_all_ages() {
        for (from, to) in [
            (
                "async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000",
                "aresample=async=1:rematrix_maxval=0.000000dB:osr=48000:ochl='stereo'",
            ),
            ("ocl='5.1':osr=48000", "aresample=osr=48000:ochl='5.1'"),
            ("48000:och=1", "aresample=48000:ochl='mono'"),
            ("och=6:ocl=5.1(side)", "aresample=ochl='5.1(side)'"),
            ("async=1", "aresample=async=1"),
        ] {
            assert_eq!(resampler(&Filter::new("aresample", from)), to);
        }
    }
}
