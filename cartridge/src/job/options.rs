//! What becomes of each option that is not part of a stream's description: one table, so that
//! nothing is lost by accident.

use super::{Output, Reason, burn};
use crate::argv::{CommandLine, End, Opt};

/// Options of an encoder that travel as they stand; the worker plans them for its device and
/// refuses those that it does not know.
pub(super) const ENCODER: &[&str] = &[
    "ac",
    "ar",
    "async_depth",
    "b",
    "bf",
    "bufsize",
    "channel_layout",
    "compression_level",
    "crf",
    "forced-idr",
    "forced_idr",
    "g",
    "global_quality",
    "keyint_min",
    "level",
    "look_ahead",
    "low_power",
    "maxrate",
    "minrate",
    "pix_fmt",
    "preset",
    "profile",
    "q",
    "qmax",
    "qmin",
    "qp",
    "quality",
    "rc",
    "rc-lookahead",
    "rc_mode",
    "refs",
    "sc_threshold",
    "sei",
    "spatial-aq",
    "spatial_aq",
    "temporal-aq",
    "threads",
    "tune",
    "x264-params",
    "x264opts",
    "x265-params",
];

/// Options that change nothing for a worker: name, values known to be harmless (none listed: all),
/// reason.
const DROPPED: &[(&str, &[&str], &str)] = &[
    (
        "avoid_negative_ts",
        &["disabled"],
        "times are never shifted",
    ),
    ("break_non_keyframes", &["0"], "cuts are at key frames"),
    ("copytb", &["0", "1", "-1"], "the cutter sets time bases"),
    (
        "delete_removed",
        &["false", "0"],
        "files stay while the session lives",
    ),
    (
        "extra_window_size",
        &[],
        "files stay while the session lives",
    ),
    (
        "fflags",
        &["+flush_packets", "flush_packets"],
        "files appear whole",
    ),
    (
        "flags",
        &["+global_header", "global_header"],
        "follows from the packaging",
    ),
    (
        "individual_header_trailer",
        &["0"],
        "follows from the header's name; PAT and PMT go on",
    ),
    ("map_chapters", &["-1"], "chapters are never copied"),
    ("map_metadata", &["-1"], "metadata is never copied"),
    (
        "segment_copyts",
        &["0", "1"],
        "cuts are on the title's timeline anyway",
    ),
    (
        "segment_list_unfinished",
        &["0", "1"],
        "the open segment is not listed (P3)",
    ),
    ("strict_ts", &["0"], "times are never forced"),
    ("use_template", &["1"], "the only form"),
    ("use_timeline", &["1"], "the only form"),
];

/// Options of one stream of an output.
const STREAM: &[&str] = &[
    "c",
    "codec",
    "copypriorss",
    "force_key_frames",
    "metadata",
    "r",
];

/// Options of an output that the packaging, the list and the streams read.
const OUTPUT: &[&str] = &[
    "dash_segment_type",
    "f",
    "init_seg_name",
    "manifest_name",
    "map",
    "max_delay",
    "media_seg_name",
    "min_seg_duration",
    "seg_duration",
    "segment_format",
    "segment_format_options",
    "segment_header_filename",
    "segment_list",
    "segment_list_separate_stream_times",
    "segment_list_size",
    "segment_list_type",
    "segment_start_number",
    "segment_time",
    "segment_time_delta",
    "skip_to_segment",
    "time_delta",
    "window_size",
];

/// Options of an input: read, or a statement on decoding that the worker's planner makes anew.
const INPUT: &[&str] = &[
    "accurate_seek",
    "analyzeduration",
    "c",
    "codec",
    "eae_prefix",
    "hwaccel",
    "hwaccel_device",
    "hwaccel_fallback_threshold",
    "hwaccel_output_format",
    "noaccurate_seek",
    "probesize",
    "ss",
    "threads",
];

/// Options that speak of the whole run wherever they stand. Devices are the worker's own.
const GLOBAL: &[&str] = &[
    "copyts",
    "filter_complex",
    "filter_hw_device",
    "fps_mode",
    "hide_banner",
    "init_hw_device",
    "loglevel",
    "loglevel_plex",
    "map_inlineass",
    "nostats",
    "nostdin",
    "progressurl",
    "start_at_zero",
    "stats",
    "vaapi_device",
    "vsync",
    "y",
];

/// True for an option that is left out on purpose.
pub(super) fn is_dropped(name: &str, value: &str) -> bool {
    DROPPED
        .iter()
        .any(|(n, values, _)| *n == name && (values.is_empty() || values.contains(&value)))
}

/// Options of the inner muxer: what shifts times inside the segments, and what Plex sets for it.
pub(super) fn muxer_options(output: &Output<'_>) -> Result<Vec<(String, String)>, Reason> {
    let mut pairs = Vec::new();
    for opt in output.options {
        let text = || opt.text().ok_or_else(|| Reason::value(opt));
        match opt.name() {
            "max_delay" => pairs.push(("max_delay".to_owned(), text()?.to_owned())),
            "segment_format_options" => {
                for pair in text()?.split(':') {
                    let (key, value) = pair.split_once('=').ok_or_else(|| Reason::value(opt))?;
                    pairs.push((key.to_owned(), value.to_owned()));
                }
            }
            _ => {}
        }
    }
    Ok(pairs)
}

/// Fails on the first option that nobody reads where it stands.
pub(super) fn all_known(line: &CommandLine) -> Result<(), Reason> {
    for group in &line.groups {
        if let End::Output(name) = &group.end
            && burn::is_sink(&Output {
                options: &group.options,
                name: name.to_str().unwrap_or_default(),
            })
        {
            continue;
        }
        for opt in &group.options {
            let name = opt.name();
            let known = GLOBAL.contains(&name)
                || match group.end {
                    End::Input(_) => INPUT.contains(&name),
                    End::Output(_) => known_in_output(opt),
                    End::Line => false,
                };
            if !known {
                return Err(Reason::option(opt));
            }
        }
    }
    Ok(())
}

fn known_in_output(opt: &Opt) -> bool {
    let name = opt.name();
    // Without a stream it would be for all streams; Plex never writes that.
    let of_stream = ENCODER.contains(&name) || STREAM.contains(&name);
    let for_stream = of_stream && opt.specifier().is_some();
    let text = opt.text().unwrap_or_default();
    OUTPUT.contains(&name) || for_stream || is_dropped(name, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_is_sorted_and_no_reason_is_empty() {
        for table in [ENCODER, STREAM, OUTPUT, INPUT, GLOBAL] {
            assert!(table.is_sorted_by(|a, b| a < b));
        }
        assert!(DROPPED.is_sorted_by(|a, b| a.0 < b.0));
        assert!(DROPPED.iter().all(|(_, _, why)| !why.is_empty()));
    }
}
