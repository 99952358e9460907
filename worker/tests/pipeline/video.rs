//! What is done to pictures, held against the same work by `ffmpeg`.

use crate::kit::*;
use plexbeam_api::{JobSpec, job::StreamSpec};
use std::{path::Path, process::Command};

/// A job of one video stream that goes through `graph`, which ends in `[1]`.
pub(crate) fn video_job(path: &str, seek: Option<i64>, graph: &str) -> JobSpec {
    let first = seek.map_or(1, |t| (t / 3_000_000) as u32 + 1);
    let mut spec = job(path, seek, dash(first), 3.0);
    spec.graphs = vec![graph.to_owned()];
    spec.outputs[0].streams.truncate(1);
    let StreamSpec {
        codec, frame_rate, ..
    } = &mut spec.outputs[0].streams[0];
    *codec = stream("1", "libx264", &[("crf", "12"), ("preset", "veryfast")]).codec;
    *frame_rate = None;
    spec
}

/// Runs a job and writes its video to a file that `ffmpeg` reads.
pub(crate) fn video_file(dir: &Path, name: &str, spec: &JobSpec) -> String {
    let made = run(spec);
    let parts: Vec<&[u8]> = std::iter::once(made.head(Some(0)))
        .chain(made.media(Some(0)).iter().map(|p| p.1.as_slice()))
        .collect();
    let path = dir.join(name);
    std::fs::write(&path, parts.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What `ffmpeg` makes of the input with this filter chain at the settings of [`video_job`].
pub(crate) fn reference(
    dir: &Path,
    name: &str,
    input: &str,
    before: &[&str],
    chain: &str,
) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let mut args = before.to_vec();
    args.extend(["-i", input, "-filter_complex", chain, "-map", "[out]"]);
    args.extend([
        "-c:v",
        "libx264",
        "-crf",
        "12",
        "-preset",
        "veryfast",
        "-fps_mode",
        "cfr",
    ]);
    args.push(&path);
    ffmpeg(&args);
    path
}

/// Structural similarity of two files, picture by picture in order; `crop` is a filter text that
/// picks a region. Both must have equally many pictures.
pub(crate) fn ssim(a: &str, b: &str, crop: &str) -> f64 {
    let count = |path: &str| probe(path, "v").len();
    assert_eq!(count(a), count(b), "pictures of {a} and {b}");
    let side = |n: usize, name: &str| format!("[{n}:v]setpts=N/TB,format=yuv420p{crop}[{name}]");
    let graph = format!("{};{};[a][b]ssim", side(0, "a"), side(1, "b"));
    let output = Command::new("ffmpeg")
        .args(["-i", a, "-i", b, "-lavfi", &graph, "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let all = text
        .split("All:")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    all.split_whitespace().next().unwrap().parse().unwrap()
}

/// One field of the first video stream, as `ffprobe` tells it.
pub(crate) fn video_field(path: &str, field: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries"])
        .args([&format!("stream={field}"), "-of", "csv=p=0", path])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Two seconds of moving colours in HDR, marked or not.
pub(crate) fn hdr(dir: &Path, name: &str, transfer: Option<&str>) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let params = match transfer {
        Some(transfer) => format!(
            "log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
        ),
        None => "log-level=error".to_owned(),
    };
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=24:duration=2",
        "-vf",
        "format=yuv420p10le",
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        &params,
        &path,
    ]);
    path
}

/// HDR10 and HLG become BT.709, whichever vendor the line was written for.
#[test]
fn hdr_is_mapped_to_sdr_as_ffmpeg_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let pq = hdr(dir.path(), "pq.mkv", Some("smpte2084"));
    let hlg = hdr(dir.path(), "hlg.mkv", Some("arib-std-b67"));
    let unmarked = hdr(dir.path(), "unmarked.mkv", None);
    let chain = |from: &str, curve: &str| {
        format!(
            "[0:v]scale=160:90,{from}zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,\
             tonemap={curve}:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p[out]"
        )
    };
    let marks = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc,";
    for (at, (source, from, curve, graph)) in [
        (
            &pq,
            "",
            "mobius",
            "[0:0]scale=w=160:h=90:force_divisible_by=4[0];[0]format=p010,tonemap=mobius[2];\
             [2]format=pix_fmts=yuv420p|nv12[1]",
        ),
        (
            &hlg,
            "",
            "hable",
            "[0:0]hwupload[0];[0]scale_cuda=w=160:h=90:format=p010[2];[2]tonemap_cuda=hable:\
             format=nv12[1]",
        ),
        (
            &unmarked,
            marks,
            "reinhard",
            "[0:0]scale_vaapi=w=160:h=90:format=p010,hwmap=derive_device=opencl,\
             tonemap_opencl=tonemap=reinhard:t=bt709:m=bt709:p=bt709:format=nv12,\
             hwmap=derive_device=vaapi:reverse=1[1]",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let ours = video_file(
            dir.path(),
            &format!("ours{at}.mp4"),
            &video_job(source, None, graph),
        );
        let theirs = reference(
            dir.path(),
            &format!("theirs{at}.mp4"),
            source,
            &[],
            &chain(from, curve),
        );
        let alike = ssim(&ours, &theirs, "");
        assert!(alike >= 0.98, "{curve}: {alike}");
        for field in ["color_transfer", "color_primaries", "color_space"] {
            assert_eq!(video_field(&ours, field), "bt709", "{curve}");
        }
        let plain = reference(
            dir.path(),
            &format!("plain{at}.mp4"),
            source,
            &[],
            "[0:v]scale=160:90,format=yuv420p[out]",
        );
        let unmapped = ssim(&ours, &plain, "");
        assert!(
            unmapped < 0.97,
            "{curve}: mapping changes nothing? {unmapped}"
        );
    }
}
