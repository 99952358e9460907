//! Subtitles drawn on the picture, held against `ffmpeg`'s `subtitles` and `overlay`.

use crate::{
    kit::*,
    video::{reference, ssim, video_file, video_job},
};
use plexbeam_api::{
    JobSpec,
    job::{BurnSource, FontFile, InputSpec, Location, StreamSelector},
    segment::MediaKind,
};
use std::path::Path;

const SERIF: &str = "/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf";

/// The second lies over 6 s, and begins before the key frame that a seek there starts from.
const SRT: &str = "1\n00:00:00,500 --> 00:00:02,500\nHello world\n\n\
                   2\n00:00:03,200 --> 00:00:07,900\nTwo <i>lines</i>\nof text\n\n\
                   3\n00:00:08,000 --> 00:00:10,000\n{\\an8}Above\n\n";

/// Where text is drawn, at the bottom of 320x180.
const BOTTOM: &str = ",crop=160:44:80:128";
const GRAPH: &str = "[0:0]scale=w=320:h=180:force_divisible_by=4[0];\
    [0]format=pix_fmts=yuv420p|nv12[2];[2]inlineass=font_scale=1.000000:font_path=/plex/Serif.ttf:\
    fontconfig_file=/plex/fonts.conf:language=en:overrides=ScaledBorderAndShadow\\\\\\=yes\\\\\\,\
    Bold\\\\\\=500\\\\\\,PrimaryColour\\\\\\=&H00FFFFFF\\\\\\,OutlineColour\\\\\\=&H00020713:\
    outline=2.6:shadow=1.7:font_size=54[1]";
/// The same for `subtitles`, in the 288 lines of its script.
const STYLE: &str = "FontName=DejaVu Serif,FontSize=14.4,Outline=0.6933,Shadow=0.4533,MarginL=20,\
    MarginR=20,MarginV=20,ScaledBorderAndShadow=yes,Bold=500,PrimaryColour=&H00FFFFFF,\
    OutlineColour=&H00020713";

/// Twelve grey seconds that move a little, a key every two, with what `extra` adds.
fn grey(dir: &Path, name: &str, extra: &[&str]) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let mut args = vec![
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=24:duration=12,hue=s=0.3",
    ];
    args.extend(extra);
    args.extend(["-c:v", "libx264", "-preset", "ultrafast", "-g", "48", &path]);
    ffmpeg(&args);
    path
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    std::fs::write(&path, text).unwrap();
    path
}

/// A job that burns one subtitle stream; `font` travels as `/plex/Serif.ttf`.
fn burn(path: &str, seek: Option<i64>, graph: &str, input: u32, select: StreamSelector) -> JobSpec {
    let mut spec = video_job(path, seek, graph);
    spec.burn_in = vec![BurnSource { input, select }];
    spec.fonts = vec![FontFile {
        path: "/plex/Serif.ttf".to_owned(),
        data: std::fs::read(SERIF).unwrap(),
    }];
    spec
}

/// The job's pictures from 6 s on are those of a job that starts there.
fn same_after_seek(dir: &Path, whole: &str, late: &JobSpec) {
    let late = video_file(dir, "late.mp4", late);
    let rest = dir.join("rest.mp4").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i",
        whole,
        "-vf",
        "select=gte(n\\,144),setpts=N/24/TB",
        "-c:v",
        "libx264",
        "-crf",
        "8",
        "-preset",
        "ultrafast",
        &rest,
    ]);
    let alike = ssim(&rest, &late, BOTTOM);
    assert!(alike >= 0.98, "after a seek: {alike}");
}

/// SRT of the film itself, with Plex's own options, from the start and after a seek.
#[test]
fn plain_text_is_drawn_as_ffmpeg_draws_it() {
    let dir = tempfile::tempdir().unwrap();
    let srt = write(dir.path(), "text.srt", SRT);
    let film = grey(
        dir.path(),
        "film.mkv",
        &["-i", &srt, "-map", "0:v", "-map", "1:s", "-c:s", "srt"],
    );
    let which = StreamSelector::Index { index: 1 };
    let ours = video_file(
        dir.path(),
        "ours.mp4",
        &burn(&film, None, GRAPH, 0, which.clone()),
    );
    let theirs = reference(
        dir.path(),
        "theirs.mp4",
        &film,
        &[],
        &format!("[0:v]scale=320:180,subtitles={srt}:force_style='{STYLE}'[out]"),
    );
    let plain = reference(
        dir.path(),
        "plain.mp4",
        &film,
        &[],
        "[0:v]scale=320:180[out]",
    );
    let alike = ssim(&ours, &theirs, BOTTOM);
    let unlike = ssim(&ours, &plain, BOTTOM);
    assert!(alike >= 0.99, "{alike}");
    assert!(unlike < 0.97, "no text is seen: {unlike}");
    same_after_seek(
        dir.path(),
        &ours,
        &burn(&film, Some(6_000_000), GRAPH, 0, which),
    );
}

/// SRT that PMS staged beside the film, sent along with the job.
#[test]
fn a_staged_file_is_drawn_from_its_own_input() {
    let dir = tempfile::tempdir().unwrap();
    let srt = write(dir.path(), "text.srt", SRT);
    let film = grey(dir.path(), "film.mp4", &["-bf", "2"]);
    let select = StreamSelector::Kind {
        media: MediaKind::Subtitle,
        nth: Some(0),
    };
    let with_text = |seek: Option<i64>| {
        let mut spec = burn(&film, seek, GRAPH, 1, select.clone());
        spec.inputs.push(InputSpec {
            locations: vec![Location::Inline {
                name: "temp-0.srt".parse().unwrap(),
                data: SRT.as_bytes().to_vec(),
            }],
            ..spec.inputs[0].clone()
        });
        spec
    };
    let ours = video_file(dir.path(), "ours.mp4", &with_text(None));
    let theirs = reference(
        dir.path(),
        "theirs.mp4",
        &film,
        &[],
        &format!("[0:v]scale=320:180,subtitles={srt}:force_style='{STYLE}'[out]"),
    );
    let alike = ssim(&ours, &theirs, BOTTOM);
    assert!(alike >= 0.99, "{alike}");
    same_after_seek(dir.path(), &ours, &with_text(Some(6_000_000)));
}

/// A script with styles, places and a font that only its own container has; ten bits stay ten.
#[test]
fn a_script_keeps_its_styles_and_fonts() {
    let dir = tempfile::tempdir().unwrap();
    let script = |family: &str| {
        format!(
            "[Script Info]\nScriptType: v4.00+\nPlayResX: 640\nPlayResY: 360\n\
             ScaledBorderAndShadow: yes\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, \
             PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
             StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, \
             MarginL, MarginR, MarginV, Encoding\nStyle: Big,{family},60,&H0000FFFF,&H000000FF,\
             &H00400000,&H80000000,0,0,0,0,100,100,2,0,1,3,2,2,10,10,30,1\n\n[Events]\nFormat: \
             Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n\
             Dialogue: 0,0:00:00.50,0:00:05.00,Big,,0,0,0,,Quartz {{\\c&H0000FF&}}gamma\n\
             Dialogue: 1,0:00:03.00,0:00:09.00,Big,,0,0,0,,{{\\an5\\frz10}}Glyphs\n"
        )
    };
    // A serif font under a name that no machine has.
    let font = std::fs::read(SERIF).unwrap();
    let wide = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
    let (from, to) = (wide("DejaVu Serif"), wide("Qzxjvu Serif"));
    let mut renamed = font.clone();
    let places: Vec<usize> = (0..font.len() - from.len())
        .filter(|at| font[*at..].starts_with(&from))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        renamed[at..at + to.len()].copy_from_slice(&to);
    }
    let attached = dir.path().join("Own.ttf").to_str().unwrap().to_owned();
    std::fs::write(&attached, renamed).unwrap();
    let own = write(dir.path(), "own.ass", &script("Qzxjvu Serif"));
    let known = write(dir.path(), "known.ass", &script("DejaVu Serif"));
    let film = grey(
        dir.path(),
        "film.mkv",
        &[
            "-i",
            &own,
            "-map",
            "0:v",
            "-map",
            "1:s",
            "-c:s",
            "copy",
            "-attach",
            &attached,
            "-metadata:s:t",
            "mimetype=application/x-truetype-font",
        ],
    );
    let graph = "[0:0]scale=w=320:h=180[0];[0]format=p010[2];[2]hwdownload,format=p010,\
                 inlineass=font_scale=1.0:language=en:outline=2.6:shadow=1.7:font_size=54[3];\
                 [3]hwupload[1]";
    let which = StreamSelector::Kind {
        media: MediaKind::Subtitle,
        nth: Some(0),
    };
    let mut spec = burn(&film, None, graph, 0, which);
    spec.fonts.clear();
    spec.outputs[0].streams[0].codec =
        stream("1", "libx265", &[("crf", "8"), ("preset", "ultrafast")]).codec;
    let ours = video_file(dir.path(), "ours.mp4", &spec);
    assert_eq!(crate::video::video_field(&ours, "pix_fmt"), "yuv420p10le");
    let theirs = |name: &str, script: &str| {
        reference(
            dir.path(),
            name,
            &film,
            &[],
            &format!("[0:v]scale=320:180,format=yuv420p10,ass={script},format=yuv420p[out]"),
        )
    };
    let alike = ssim(&ours, &theirs("theirs.mp4", &known), "");
    assert!(alike >= 0.99, "{alike}");
    // Without the attached font the fallback is seen.
    let fallback = ssim(&ours, &theirs("fallback.mp4", &own), "");
    assert!(fallback < alike - 0.005, "{fallback} against {alike}");
}
