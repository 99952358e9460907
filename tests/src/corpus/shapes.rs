//! Films of an odd shape: times that begin anywhere, rates that change, covers, chapters, and pictures
//! as subtitles.

use super::{Case, SIZE};
use crate::{
    argv::{Line, line},
    media::{self, Clip},
    verify::likeness::Burned,
};

/// Of the films with subtitles, so that there is something to see.
const WIDE: (u32, u32) = (320, 180);

/// A box is shown for a second and a half from this second on, with this left edge.
const BOXES: [(f64, u16); 3] = [(1.0, 40), (3.0, 80), (5.0, 20)];
/// Of a box: width, height, upper edge.
const BOX: (u16, u16, u16) = (160, 32, 130);

/// DASH to x264 in segments of 3 s.
fn software() -> Line {
    line("nv-05").segment_seconds(3)
}

/// Seven seconds of H.264 and E-AC-3 5.1 by further inputs and the words before the output's name.
fn clip(
    label: &str,
    extension: &'static str,
    (size, rate): ((u32, u32), &str),
    inputs: &[&str],
    words: &[&str],
) -> Clip {
    let (width, height) = size;
    let picture = format!("testsrc2=size={width}x{height}:rate={rate}:duration=7");
    let mut args = vec!["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i"];
    args.push("sine=frequency=350:sample_rate=48000:duration=7");
    args.extend(inputs);
    args.extend(["-map", "0:v", "-map", "1:a", "-c:v:0"]);
    args.extend(media::H264);
    args.extend(["-c:a", "eac3", "-ac", "6"]);
    args.extend(words);
    Clip::custom(label, extension, &args)
}

fn case(id: &str, line: Line, clip: Clip, about: &str) -> Case {
    Case {
        id: id.to_owned(),
        line,
        film: Box::new(move || clip.path()),
        about: about.to_owned(),
        burned: Burned::No,
    }
}

/// Times, rates and what else a container carries.
pub(super) fn films() -> Vec<Case> {
    let small = || software().scaled(SIZE.0, SIZE.1);
    let mut cases = Vec::new();
    let negative = ["-avoid_negative_ts", "disabled", "-output_ts_offset"];
    for (id, extension, offset) in [
        ("like-negative-mp4", "mp4", "-0.5"),
        ("like-start-mkv", "mkv", "5"),
        ("like-start-mp4", "mp4", "5"),
        ("like-start-ts", "ts", "90000"),
    ] {
        let words = [&negative[..], &[offset]].concat();
        let about = format!("its time begins at {offset} s");
        let film = clip(id, extension, (SIZE, "24"), &[], &words);
        cases.push(case(id, small(), film, &about));
    }
    if let Ok(line) = small().seek(2) {
        let film = clip(
            "seek-start",
            "mkv",
            (SIZE, "24"),
            &[],
            &["-output_ts_offset", "5"],
        );
        cases.push(case("like-seek-start", line, film, "a seek, time from 5 s"));
    }
    for (id, rate, words) in [
        ("like-23976fps", "24000/1001", "23.975999999999999"),
        ("like-5994fps", "60000/1001", "59.94005994005994"),
    ] {
        let film = clip(id, "mkv", (SIZE, rate), &[], &[]);
        cases.push(case(id, small().with("-r:0", words), film, rate));
    }
    let few = [
        "-vf",
        "select=mod(n\\,5)*mod(n\\,7)",
        "-fps_mode",
        "passthrough",
    ];
    let film = clip("vfr", "mkv", (SIZE, "24"), &[], &few);
    cases.push(case("like-vfr", small(), film, "pictures left out of 24"));
    let covered = clip(
        "cover",
        "mp4",
        (SIZE, "24"),
        &["-i", "{cover}", "-f", "ffmetadata", "-i", "{file}"],
        &[
            "-map",
            "2:v",
            "-c:v:1",
            "mjpeg",
            "-bf:v:1",
            "0",
            "-disposition:v:1",
            "attached_pic",
            "-map_chapters",
            "3",
        ],
    );
    let covered = covered.with_file("txt", CHAPTERS.into());
    cases.push(case(
        "like-cover-mp4",
        small(),
        covered,
        "cover as a stream, two chapters",
    ));
    cases
}

const CHAPTERS: &str = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=3000\ntitle=One\n\
                        [CHAPTER]\nTIMEBASE=1/1000\nSTART=3000\nEND=7000\ntitle=Two\n";

/// Subtitles that are pictures, laid over by the line's graph as PMS has it done in software.
pub(super) fn pictures() -> Vec<Case> {
    [("like-pgs", "copy", "mkv"), ("like-dvbsub", "dvbsub", "ts")]
        .into_iter()
        .map(|(id, codec, extension)| {
            let (width, height) = WIDE;
            let line = software().scaled(width, height).map(|arg| {
                arg.replace(
                    "[0]format=pix_fmts=yuv420p|nv12[1]",
                    "[0]format=pix_fmts=yuv420p[3];[3][0:2]overlay=eof_action=pass[1]",
                )
            });
            let film = clip(
                id,
                extension,
                (WIDE, "24"),
                &["-i", "{file}"],
                &["-map", "2:s", "-c:s", codec],
            );
            let mut case = case(id, line, film.with_file("sup", pgs()), codec);
            case.burned = Burned::Pictures;
            case
        })
        .collect()
}

/// A Blu-ray subtitle stream (PGS): white boxes, and a clear after each. `ffmpeg` reads but does not
/// write it.
fn pgs() -> Vec<u8> {
    let mut out = Vec::new();
    let mut segment = |seconds: f64, kind: u8, payload: &[u8]| {
        out.extend(b"PG");
        out.extend(((seconds * 90_000.0) as u32).to_be_bytes());
        out.extend([0; 4]);
        out.push(kind);
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload);
    };
    let words =
        |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|v| v.to_be_bytes()).collect() };
    let (width, height, top) = BOX;
    let size = words(&[WIDE.0 as u16, WIDE.1 as u16]);
    for (at, (from, left)) in BOXES.into_iter().enumerate() {
        let to = from + 1.5;
        let composition = |number: u16, objects: u8| {
            let head = [size.clone(), vec![0x10], words(&[number])].concat();
            [head, vec![0x80, 0, 0, objects]].concat()
        };
        let number = 2 * at as u16;
        let object = [vec![0, 0, 0, 0], words(&[left, top])].concat();
        let window = [vec![1, 0], words(&[left, top, width, height])].concat();
        segment(from, 0x16, &[composition(number, 1), object].concat());
        segment(from, 0x17, &window);
        // Colour 1 as Y, Cr, Cb, opacity.
        segment(from, 0x14, &[0, 0, 1, 235, 128, 128, 255]);
        let run = [0, 0xC0 | (width >> 8) as u8, width as u8, 1, 0, 0];
        let rows = run.repeat(usize::from(height));
        let length = (rows.len() as u32 + 4).to_be_bytes();
        let head = [&[0, 0, 0, 0xC0], &length[1..], &words(&[width, height])].concat();
        segment(from, 0x15, &[head, rows].concat());
        segment(from, 0x80, &[]);
        segment(to, 0x16, &composition(number + 1, 0));
        segment(to, 0x17, &window);
        segment(to, 0x80, &[]);
    }
    out
}
