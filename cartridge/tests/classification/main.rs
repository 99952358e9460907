//! What becomes of every command line that is known: a table for people (`table.txt`), compared word
//! by word. `make golden` writes it anew; the difference is to be read before it is committed.

use plexbeam_api::job::{CodecSpec, Packaging, StreamSpec};
use plexbeam_cartridge::config::CopyVideo;
use plexbeam_cartridge::job::{self, Files, Plan, Reason, Surroundings};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A host on which every file is there: the line alone decides.
struct AllFiles;

impl Files for AllFiles {
    fn readable_size(&self, _path: &Path) -> std::io::Result<u64> {
        Ok(5)
    }
    fn read(&self, _path: &Path) -> std::io::Result<Vec<u8>> {
        Ok(b"bytes".to_vec())
    }
    fn list(&self, _folder: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Where playback runs; lines whose source does not tell the directory are judged here.
const SESSION: &str = "/transcode/Transcode/Sessions/plex-transcode-abc-def";

struct Line {
    id: String,
    kind: String,
    complete: bool,
    cwd: String,
    argv: Vec<OsString>,
}

fn lines(text: &str) -> Vec<Line> {
    let line = |text: &str| {
        let line: serde_json::Value = serde_json::from_str(text).unwrap();
        let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
        Line {
            id: line["id"].as_str().unwrap().to_owned(),
            kind: line["kind"].as_str().unwrap().to_owned(),
            complete: line["complete"].as_bool().unwrap_or(true),
            cwd: line["cwd"].as_str().unwrap_or(SESSION).to_owned(),
            argv: words.into_iter().map(OsString::from).collect(),
        }
    };
    text.lines().map(line).collect()
}

/// Lines of real servers.
fn recorded() -> Vec<Line> {
    lines(include_str!("../../../tests/fixtures/commands.jsonl"))
}

/// Kinds of calls of which no recorded line exists, made up after PROTOCOL 2.
fn made() -> Vec<Line> {
    lines(include_str!("../../../tests/fixtures/made.jsonl"))
}

fn judged(line: &Line, copy_video: CopyVideo) -> Result<Plan, Reason> {
    let around = Surroundings {
        cwd: Path::new(&line.cwd),
        copy_video,
        keep_local: &[],
        files: &AllFiles,
    };
    job::plan(&line.argv, &around)
}

/// What leaves, in a few words.
fn shape(plan: &Plan) -> String {
    let outputs = plan.spec.outputs.iter().map(|output| {
        let (form, seconds, first) = match &output.packaging {
            Packaging::Dash {
                segment_seconds,
                first_number,
                ..
            } => ("dash".to_owned(), segment_seconds, first_number),
            Packaging::Segment {
                container,
                segment_seconds,
                first_number,
                ..
            } => {
                let form = format!("{container:?}").to_lowercase();
                (form, segment_seconds, first_number)
            }
            Packaging::Hls {
                segment_seconds,
                first_number,
                ..
            } => ("hls".to_owned(), segment_seconds, first_number),
        };
        let codec = |stream: &StreamSpec| match &stream.codec {
            CodecSpec::Copy { .. } => "copy".to_owned(),
            CodecSpec::Encode { encoder, .. } => encoder.clone(),
        };
        let codecs: Vec<String> = output.streams.iter().map(codec).collect();
        format!("{form} {seconds} s from {first}: {}", codecs.join(" "))
    });
    outputs.collect::<Vec<_>>().join(" + ")
}

fn row(line: &Line) -> [String; 5] {
    let [normal, copied] = [CopyVideo::Local, CopyVideo::Remote].map(|policy| judged(line, policy));
    let word = |plan: &Result<Plan, Reason>| match plan {
        Ok(_) => "remote".to_owned(),
        Err(_) => "local".to_owned(),
    };
    let why = match (&normal, &copied) {
        (Ok(plan), Ok(_)) => shape(plan),
        (Err(reason), Ok(plan)) => format!("{reason}; {}", shape(plan)),
        (Err(a), Err(b)) if a == b => a.to_string(),
        (Err(a), Err(b)) => format!("{a}; {b}"),
        (Ok(_), Err(b)) => format!("WRONG: a wider policy keeps it: {b}"),
    };
    let cut = if line.complete {
        ""
    } else {
        " (cut off by its source)"
    };
    [
        line.id.clone(),
        format!("{}{cut}", line.kind),
        word(&normal),
        word(&copied),
        why,
    ]
}

fn table() -> String {
    let head = ["id", "kind", "default", "copy", "why, or what leaves"].map(str::to_owned);
    let recorded: Vec<_> = recorded().iter().map(row).collect();
    let made: Vec<_> = made().iter().map(row).collect();
    let widths: Vec<usize> = (0..4)
        .map(|column| {
            let cells = recorded.iter().chain(&made).chain([&head]);
            cells.map(|row| row[column].chars().count()).max().unwrap()
        })
        .collect();
    let mut text = "Which command lines leave the Plex host: `default` as delivered, `copy` with\n\
                    copy_video = \"remote\". Written by `make golden`; every file exists.\n"
        .to_owned();
    for (title, rows) in [
        (
            "lines of real servers (tests/fixtures/commands.jsonl)",
            recorded,
        ),
        (
            "made-up lines of other kinds (tests/fixtures/made.jsonl)",
            made,
        ),
    ] {
        let _ = writeln!(text, "\n== {title}");
        for row in std::iter::once(&head).chain(&rows) {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(text, "{cell:<width$} | ");
            }
            let _ = writeln!(text, "{}", row[4]);
        }
    }
    text
}

#[test]
fn every_known_line_is_judged_as_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/classification/table.txt");
    let now = table();
    if std::env::var_os("PLEXBEAM_GOLDEN").is_some_and(|v| v == "write") {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<String> = golden
        .lines()
        .filter(|line| !now.lines().any(|l| l == *line))
        .map(|line| format!("- {line}"))
        .chain(
            now.lines()
                .filter(|line| !golden.lines().any(|l| l == *line))
                .map(|line| format!("+ {line}")),
        )
        .collect();
    assert!(
        now == golden,
        "the table differs; where that is meant, run `make golden`\n{}",
        changed.join("\n")
    );
}

/// Whatever the table says: what is no playback stays, under the widest policy too.
#[test]
fn what_is_no_playback_never_leaves() {
    const PLAYBACK: [&str; 6] = [
        "dash-video",
        "hw-vaapi",
        "hw-nvenc",
        "mkv-segment",
        "mpegts-segment",
        "subtitle",
    ];
    let mut other = 0;
    for line in recorded().iter().chain(&made()) {
        if !PLAYBACK.contains(&line.kind.as_str()) {
            other += 1;
            assert!(judged(line, CopyVideo::Remote).is_err(), "{}", line.id);
        }
    }
    assert!(other >= 35, "{other} lines of other kinds");
}
