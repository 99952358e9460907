//! Operations as filter text for libav's software filters.

use super::graph::Filter;
use plexbeam_api::{Kind, Problem};

/// Video operations that run as they stand. None of them opens a file.
const VIDEO_FILTERS: &[&str] = &[
    "scale",
    "format",
    "fps",
    "setsar",
    "setdar",
    "yadif",
    "bwdif",
    "crop",
    "pad",
    "transpose",
    "null",
    "hqdn3d",
    "unsharp",
    "vflip",
    "hflip",
    "setparams",
    "zscale",
];
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
/// Moves between memories, which one memory does not need.
const MOVES: &[&str] = &["hwupload", "hwupload_cuda", "hwdownload", "hwmap"];
/// Scalers of devices.
const DEVICE_SCALERS: &[&str] = &[
    "scale_cuda",
    "scale_npp",
    "scale_vaapi",
    "scale_qsv",
    "vpp_qsv",
];

fn unsupported_filter(name: &str) -> Problem {
    Problem::new(
        Kind::Unsupported,
        format!("filter `{name}` is not possible on this worker yet"),
    )
    .at("graphs")
}

/// Filter text of a video line for software, ending in a pixel format that `encoder` takes.
/// `source_depth`: bits per component of the source, for encoders that keep ten.
pub fn video(filters: &[Filter], encoder: &str, source_depth: u32) -> Result<String, Problem> {
    let mut chain: Vec<String> = Vec::new();
    let mut deep = source_depth > 8;
    for filter in filters {
        let name = filter.name.as_str();
        if MOVES.contains(&name) {
            continue;
        }
        if DEVICE_SCALERS.contains(&name) {
            let size = |key, at| filter.argument(key, at).filter(|v| !v.is_empty());
            if let (Some(w), Some(h)) = (size("w", 0), size("h", 1)) {
                chain.push(Filter::new("scale", format!("w={w}:h={h}")).text());
            }
            if let Some(format) = filter.argument("format", 2) {
                deep = format.contains("010") || format.contains("p10");
            }
            continue;
        }
        if !VIDEO_FILTERS.contains(&name) {
            return Err(unsupported_filter(name));
        }
        if name == "format" {
            deep = filter.args.contains("010") || filter.args.contains("p10");
        }
        chain.push(filter.text());
    }
    let keeps_ten = encoder == "libx265";
    let pixels = if deep && keeps_ten {
        "yuv420p10le"
    } else {
        "yuv420p"
    };
    chain.push(format!("format=pix_fmts={pixels}"));
    Ok(chain.join(","))
}

/// Filter text of an audio line, ending in what `encoder` takes.
pub fn audio(
    filters: &[Filter],
    encoder: &str,
    options: &[(String, String)],
) -> Result<String, Problem> {
    let mut chain: Vec<String> = Vec::new();
    for filter in filters {
        if !AUDIO_FILTERS.contains(&filter.name.as_str()) {
            return Err(unsupported_filter(&filter.name));
        }
        chain.push(filter.text());
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

fn channels_layout(count: &str) -> Option<String> {
    let layout = match count {
        "1" => "mono",
        "2" => "stereo",
        "6" => "5.1",
        "8" => "7.1",
        _ => return None,
    };
    Some(layout.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::graph::parse, *};

    fn filters(text: &str) -> Vec<Filter> {
        parse(text)
            .unwrap()
            .into_iter()
            .flat_map(|c| c.filters)
            .collect()
    }

    #[test]
    fn a_line_for_a_device_becomes_one_for_software() {
        let cuda = filters("[0:0]hwupload[0];[0]scale_cuda=w=3840:h=1606:format=p010[1]");
        assert_eq!(
            video(&cuda, "libx265", 10).unwrap(),
            "scale=w=3840:h=1606,format=pix_fmts=yuv420p10le"
        );
        assert_eq!(
            video(&cuda, "libx264", 10).unwrap(),
            "scale=w=3840:h=1606,format=pix_fmts=yuv420p"
        );
    }

    #[test]
    fn filters_that_open_files_are_refused() {
        for bad in [
            "movie=/etc/passwd",
            "subtitles=/x",
            "drawtext=textfile=/x",
            "sendcmd=f=/x",
        ] {
            let problem = video(&filters(bad), "libx264", 8).unwrap_err();
            assert_eq!(problem.kind, Kind::Unsupported, "{bad}");
        }
        assert!(audio(&filters("amovie=/x"), "aac", &[]).is_err());
    }
}
