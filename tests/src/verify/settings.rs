//! The command line of a stock `ffmpeg` for the work that one of Plex's lines asks for.
//!
//! Plex's own parts are replaced: decoders by the native ones, filters and encoders of a device by
//! those in software, the key expression by its absolute list. Everything is made from the film's
//! beginning and trimmed, so that a seek's frames are those of a play that had none.

use super::reference;
use crate::{
    argv::{Line, Shape},
    media,
};
use std::path::{Path, PathBuf};

/// Shift of the reference sound's packets, so that priming before zero survives a container.
pub(super) const SOUND_SHIFT: f64 = 10.0;

/// The reference's picture, whose last frame is the film's last; for copied video the film's own
/// from `first` seconds on.
#[track_caller]
pub(super) fn picture(line: &Line, shape: &Shape, film: &Path, first: f64, work: &Path) -> PathBuf {
    let path = work.join("reference-picture.nut");
    let (film, out) = (text(film), text(&path));
    if shape.copy_video {
        // Decoded, not copied: `-ss` is exact only then. Half a frame early against rounding.
        let from = format!("{:.6}", (first - 0.005).max(0.0));
        let deep = crate::probe::pixel_format(Path::new(&film)).contains("10");
        let format = if deep { "yuv420p10le" } else { "yuv420p" };
        media::ffmpeg([
            "-ss",
            &from,
            "-i",
            &film,
            "-map",
            &shape.picture,
            "-fps_mode",
            "passthrough",
            "-c:v",
            "ffv1",
            "-pix_fmt",
            format,
            &out,
        ]);
        return path;
    }
    let filter = filters(line.graph(&shape.picture).unwrap_or_default());
    let mut way = vec!["-map", &shape.picture];
    if !filter.is_empty() {
        way.extend(["-vf", &filter]);
    }
    encoded(line, shape, &film, &way, &out);
    path
}

/// As [`picture`] for a job from the beginning, with what the line's own graph lays over.
#[track_caller]
pub(super) fn overlaid(line: &Line, shape: &Shape, film: &Path, work: &Path) -> PathBuf {
    let path = work.join("reference-overlaid.nut");
    // Subtitles end before the film, and the last one must not hold up its end.
    let graph = line
        .graph(&shape.picture)
        .unwrap_or_default()
        .replace("overlay=", "overlay=shortest=1:");
    let graph = format!("[{}]{graph}[out]", shape.picture);
    let way = ["-filter_complex", &graph, "-map", "[out]"];
    encoded(line, shape, &text(film), &way, &text(&path));
    path
}

/// Encodes what `way` makes of the film with the line's options.
#[track_caller]
fn encoded(line: &Line, shape: &Shape, film: &str, way: &[&str], out: &str) {
    let keys = reference::key_times(Path::new(film), shape);
    let mut args: Vec<String> = ["-copyts", "-start_at_zero", "-i", film]
        .map(str::to_owned)
        .to_vec();
    args.extend(way.iter().map(|&word| word.to_owned()));
    args.extend(encoder(line));
    args.extend(
        [
            "-fps_mode",
            "cfr",
            "-force_key_frames",
            &keys,
            "-f",
            "nut",
            out,
        ]
        .map(str::to_owned),
    );
    media::ffmpeg(args.iter().map(String::as_str));
}

/// The reference's sound, encoded with the line's own options.
#[track_caller]
pub(super) fn sound(line: &Line, shape: &Shape, film: &Path, work: &Path) -> PathBuf {
    let path = work.join("reference-sound.nut");
    let source = shape.sound.clone().unwrap_or_default();
    let mut args: Vec<String> = ["-copyts", "-start_at_zero"].map(str::to_owned).to_vec();
    // Long films are read from shortly before a seek; their times stay the title's.
    if let Some(seek) = shape.seek.filter(|s| *s > 60.0) {
        args.extend(["-ss".to_owned(), format!("{}", seek - 30.0)]);
    }
    args.extend([
        "-i".to_owned(),
        text(film),
        "-map".to_owned(),
        source.clone(),
    ]);
    let own = |name: &str| line.output_value(name).map(str::to_owned);
    match own("-codec:1").as_deref() {
        Some("copy") | None => args.extend(["-c:a".to_owned(), "copy".to_owned()]),
        Some(codec) => {
            if let Some(graph) = line.graph(&source) {
                args.extend(["-af".to_owned(), graph.to_owned()]);
            }
            let codec = match codec {
                "aac_lc" | "libfdk_aac" => "aac",
                "eac3_eae" => "eac3",
                "ac3_eae" => "ac3",
                other => other,
            };
            args.extend(["-c:a".to_owned(), codec.to_owned()]);
            for (theirs, stock) in [("-b:1", "-b:a"), ("-ar:1", "-ar"), ("-ac:1", "-ac")] {
                if let Some(value) = own(theirs) {
                    args.extend([stock.to_owned(), value]);
                }
            }
        }
    }
    let shift = SOUND_SHIFT.to_string();
    args.extend(
        [
            "-avoid_negative_ts",
            "disabled",
            "-output_ts_offset",
            &shift,
            "-f",
            "nut",
            &text(&path),
        ]
        .map(str::to_owned),
    );
    media::ffmpeg(args.iter().map(String::as_str));
    path
}

/// The graph's filters behind its first label, as one chain for software; text and pictures that are
/// laid over stay away.
fn filters(graph: &str) -> String {
    let mut chain = Vec::new();
    for part in graph
        .split(';')
        .flat_map(|p| split_filters(strip_labels(p)))
    {
        let (name, args) = part.split_once('=').unwrap_or((part, ""));
        match name.trim() {
            "" | "inlineass" | "hwupload" | "hwdownload" | "hwmap" | "overlay" => {}
            "format"
                if args.contains("cuda") || args.contains("vaapi") || args.contains("opencl") => {}
            // Plex offers both; only one of them is what x264 gets in software.
            "format" => chain.push(format!(
                "format={}",
                args.replace("|nv12", "").replace("p010le", "yuv420p10le")
            )),
            "scale_cuda" | "scale_vaapi" | "scale_qsv" | "vpp_qsv" | "scale_npp" => {
                let mut scale = Vec::new();
                let mut format = None;
                for arg in args.split(':') {
                    match arg.split_once('=') {
                        Some(("w" | "h", _)) => scale.push(arg),
                        Some(("format", value)) => format = Some(value),
                        _ => {}
                    }
                }
                if !scale.is_empty() {
                    chain.push(format!("scale={}", scale.join(":")));
                }
                let format = match format {
                    Some(f) if f.contains("10") => "yuv420p10le",
                    _ => "yuv420p",
                };
                chain.push(format!("format={format}"));
            }
            "tonemap" | "tonemap_cuda" | "tonemap_opencl" | "tonemap_vaapi" | "tonemapx" => {
                chain.push(tonemap(args));
            }
            "yadif_cuda" | "deinterlace_vaapi" | "deinterlace_qsv" => {
                chain.push("yadif".to_owned())
            }
            _ => chain.push(part.to_owned()),
        }
    }
    chain.join(",")
}

/// HDR to SDR as FFmpeg's own filters do it.
fn tonemap(args: &str) -> String {
    let curve = ["mobius", "hable", "reinhard", "clip", "linear", "gamma"]
        .into_iter()
        .find(|c| args.contains(c))
        .unwrap_or("hable");
    format!(
        "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap={curve}:desat=0,zscale=t=bt709:m=bt709:r=tv"
    )
}

/// A chain's text without the labels around it.
fn strip_labels(part: &str) -> &str {
    let mut rest = part.trim();
    while let Some(inner) = rest.strip_prefix('[') {
        rest = inner.split_once(']').map_or("", |(_, r)| r).trim_start();
    }
    match rest.rfind('[') {
        Some(at) if rest.ends_with(']') => &rest[..at],
        _ => rest,
    }
}

/// Filters of a chain; a comma behind a backslash belongs to an argument.
fn split_filters(chain: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut escaped = false;
    for (at, c) in chain.char_indices() {
        match c {
            '\\' => {
                escaped = true;
                continue;
            }
            ',' if !escaped => {
                parts.push(&chain[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&chain[from..]);
    parts
}

/// The video encoder in software, with what of the line's options it knows.
fn encoder(line: &Line) -> Vec<String> {
    let codec = line.output_value("-codec:0").unwrap_or("libx264");
    let hevc = codec.contains("hevc") || codec.contains("265");
    let mut args = vec![
        "-c:v".to_owned(),
        if hevc { "libx265" } else { "libx264" }.to_owned(),
    ];
    let mut add = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    // Of an option that stands twice the last one counts.
    let own = |name: &str| {
        let pair = line.argv.windows(2).rev().find(|w| w[0] == name)?;
        Some(pair[1].as_str())
    };
    for (theirs, stock) in [
        ("-crf:0", "-crf"),
        ("-qp:0", "-crf"),
        ("-b:0", "-b:v"),
        ("-maxrate:0", "-maxrate"),
        ("-bufsize:0", "-bufsize"),
        ("-r:0", "-r"),
    ] {
        if let Some(value) = own(theirs) {
            add(stock, value);
        }
    }
    add("-preset", own("-preset:0").unwrap_or("veryfast"));
    if hevc {
        add("-x265-params", "keyint=-1:scenecut=0:log-level=error");
    } else {
        add(
            "-x264opts",
            own("-x264opts:0").unwrap_or("keyint=infinite:scenecut=0"),
        );
        add("-forced-idr", "1");
    }
    args
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8 path").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_of_devices_become_software() {
        assert_eq!(
            filters("[0:0]hwupload[0];[0]scale_cuda=w=1280:h=720:format=p010[1]"),
            "scale=w=1280:h=720,format=yuv420p10le"
        );
        assert_eq!(
            filters(
                "[0:0]scale=w=160:h=90:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1]"
            ),
            "scale=w=160:h=90:force_divisible_by=4,format=pix_fmts=yuv420p"
        );
        assert_eq!(
            filters(r"[1]inlineass=font_scale=1:overrides=A\\\=b\\\,C\\\=d:outline=2[2]"),
            ""
        );
    }
}
