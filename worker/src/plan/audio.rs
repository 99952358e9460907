//! Sound as filter text for libav.

use super::{
    graph::{Filter, Step},
    operation::unsupported,
    values,
};
use plexbeam_api::Problem;

/// Audio operations that run with their options checked. None of them opens a file.
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
            "aresample" => resampler(filter)?,
            name => values::text(name, &values::checked(filter)?),
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
        (_, Some(rate)) => {
            let rate: u32 = rate.parse().map_err(|_| {
                values::refused(format!("`{}` is no sample rate", values::shown(rate)))
            })?;
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
        (Some(layout), _) if values::is_layout(layout) => Some(layout.to_owned()),
        (Some(layout), _) => {
            return Err(values::refused(format!(
                "`{}` is no channel layout",
                values::shown(layout)
            )));
        }
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
fn resampler(filter: &Filter) -> Result<String, Problem> {
    let mut layout = None;
    let mut count = None;
    let mut kept = Vec::new();
    for (key, value) in values::checked(filter)? {
        match key {
            "ochl" | "ocl" => layout = Some(value),
            "och" => count = channels_layout(&value),
            _ => kept.push((key, value)),
        }
    }
    kept.extend(layout.or(count).map(|layout| ("ochl", layout)));
    Ok(values::text("aresample", &kept))
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
                "aresample=async=1:rematrix_maxval=0.000000dB:osr=48000:ochl=stereo",
            ),
            ("ocl='5.1':osr=48000", "aresample=osr=48000:ochl=5.1"),
            ("48000:och=1", "aresample=sample_rate=48000:ochl=mono"),
            ("och=6:ocl=5.1(side)", "aresample=ochl=5.1(side)"),
            ("async=1", "aresample=async=1"),
        ] {
            assert_eq!(resampler(&Filter::new("aresample", from)).unwrap(), to);
        }
    }
}
