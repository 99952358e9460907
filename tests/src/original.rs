//! A stand-in for Plex's own transcoder: writes down how it was started, and can really transcode,
//! with the `ffmpeg` program and another preset, making every call that PMS expects. It can also
//! misbehave on purpose, so that the fake PMS can be shown to notice.

mod pms;

use self::pms::Pms;
use crate::{
    argv::{Line, Packaging, Shape},
    fake_pms::list,
    media,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

/// Where the start is written down.
pub const RECORD: &str = "FAKE_ORIGINAL_RECORD";
/// `1`: really transcode.
pub const TRANSCODE: &str = "FAKE_ORIGINAL_TRANSCODE";
/// Name of a [`Fault`].
pub const FAULT: &str = "FAKE_ORIGINAL_FAULT";
/// Exit code when nothing is transcoded; default 0.
pub const EXIT: &str = "FAKE_ORIGINAL_EXIT";

/// How a program was started, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Arguments, `argv[0]` included.
    pub argv: Vec<OsString>,
    /// Environment, sorted.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: PathBuf,
}

impl Record {
    /// Of this process.
    pub fn here() -> io::Result<Record> {
        let mut vars: Vec<_> = env::vars_os().collect();
        vars.sort();
        Ok(Record {
            argv: env::args_os().collect(),
            env: vars,
            cwd: env::current_dir()?,
        })
    }

    /// Writes one line per value, in hex.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = String::new();
        for arg in &self.argv {
            text.push_str(&format!("argv {}\n", hex(arg)));
        }
        for (name, value) in &self.env {
            text.push_str(&format!("env {} {}\n", hex(name), hex(value)));
        }
        text.push_str(&format!("cwd {}\n", hex(self.cwd.as_os_str())));
        // A reader that waits for the file must not see half of it.
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text)?;
        fs::rename(temporary, path)
    }

    /// Reads what [`Record::write`] wrote.
    pub fn read(path: &Path) -> io::Result<Record> {
        let mut record = Record::default();
        for line in fs::read_to_string(path)?.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let value = |n: usize| unhex(fields.get(n).copied().unwrap_or_default());
            match fields[0] {
                "argv" => record.argv.push(value(1)),
                "env" => record.env.push((value(1), value(2))),
                _ => record.cwd = value(1).into(),
            }
        }
        Ok(record)
    }
}

fn hex(text: &OsStr) -> String {
    text.as_bytes().iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn unhex(text: &str) -> OsString {
    let bytes = (0..text.len() / 2)
        .filter_map(|n| u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok())
        .collect();
    OsString::from_vec(bytes)
}

/// One way to misbehave; each breaks one rule of the fake PMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    WrongToken,
    WrongMethod,
    WrongUrl,
    HalfFile,
    MissingFile,
    SkippedNumber,
    Batch,
    OutOfOrder,
    IllTimed,
    NoDetail,
    NoDuration,
    ClosedPipeline,
    FastProgress,
    ChangedFile,
    Stdout,
    ExitCode,
    NoLastManifest,
    Silence,
}

impl Fault {
    /// All of them with their names.
    pub const ALL: [(&str, Fault); 18] = [
        ("wrong-token", Fault::WrongToken),
        ("wrong-method", Fault::WrongMethod),
        ("wrong-url", Fault::WrongUrl),
        ("half-file", Fault::HalfFile),
        ("missing-file", Fault::MissingFile),
        ("skipped-number", Fault::SkippedNumber),
        ("batch", Fault::Batch),
        ("out-of-order", Fault::OutOfOrder),
        ("ill-timed", Fault::IllTimed),
        ("no-detail", Fault::NoDetail),
        ("no-duration", Fault::NoDuration),
        ("closed-pipeline", Fault::ClosedPipeline),
        ("fast-progress", Fault::FastProgress),
        ("changed-file", Fault::ChangedFile),
        ("stdout", Fault::Stdout),
        ("exit-code", Fault::ExitCode),
        ("no-last-manifest", Fault::NoLastManifest),
        ("silence", Fault::Silence),
    ];

    fn by_name(name: &str) -> Option<Fault> {
        Fault::ALL.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
    }
}

/// Runs the job of this process's argv in its working directory; gives the exit code.
pub fn transcode() -> Result<i32, String> {
    let argv: Vec<String> = env::args().skip(1).collect();
    let fault = env::var(FAULT).ok().and_then(|name| Fault::by_name(&name));
    let line = Line {
        argv,
        ..Line::default()
    };
    let shape = line.shape()?;
    let input = line.value("-i").ok_or("no input")?.to_owned();
    let token = env::var("X_PLEX_TOKEN").unwrap_or_default();
    let progress = line.value("-progressurl").ok_or("no -progressurl")?;
    let mut pms = Pms::connect(progress, &token, fault)?;
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    let made = encode(&line, &shape, &input, work.path())?;
    pms.startup(Path::new(&input))?;
    if fault == Some(Fault::Silence) {
        // As a transcoder that hangs: alive, and nothing comes.
        loop {
            std::thread::park();
        }
    }
    pms.announce(&made, work.path())?;
    if fault == Some(Fault::Stdout) {
        println!("transcoding");
    }
    Ok(i32::from(fault == Some(Fault::ExitCode)))
}

/// What ffmpeg made, ready to be announced.
enum Made {
    Dash(list::Mpd),
    Segments {
        rows: Vec<list::CsvRow>,
        header: Option<String>,
        size: usize,
    },
}

/// Lets ffmpeg make everything in `work`, with its own muxers: good enough from a title's start.
fn encode(line: &Line, shape: &Shape, input: &str, work: &Path) -> Result<Made, String> {
    let seconds = shape.seconds.to_string();
    let keys = format!("expr:gte(t,n_forced*{seconds})");
    let first = shape.first.to_string();
    let rate = line.output_value("-r:0").map(str::to_owned);
    let mut args: Vec<String> = Vec::new();
    let add = |args: &mut Vec<String>, list: &[&str]| {
        args.extend(list.iter().map(|&a| a.to_owned()));
    };
    if let Some(seek) = shape.seek {
        add(&mut args, &["-ss", &seek.to_string()]);
    }
    add(&mut args, &["-i", input, "-copyts", "-start_at_zero"]);
    add(&mut args, &["-map", "0:v:0", "-map", "0:a:0"]);
    if shape.copy_video {
        add(&mut args, &["-c:v", "copy"]);
    } else {
        let video = [
            "-vf",
            "scale=320:-2,format=yuv420p",
            "-c:v",
            "libx264",
            "-preset",
            "superfast",
            "-force_key_frames",
            keys.as_str(),
        ];
        add(&mut args, &video);
        if let Some(rate) = &rate {
            add(&mut args, &["-r", rate]);
        }
    }
    add(&mut args, &["-c:a", "aac", "-ac", "2", "-b:a", "128k"]);
    add(&mut args, &["-map_metadata", "-1", "-map_chapters", "-1"]);
    let path = |name: &str| work.join(name).to_string_lossy().into_owned();
    match &shape.packaging {
        Packaging::Dash { init, media, .. } => {
            let dash = [
                "-f",
                "dash",
                "-seg_duration",
                seconds.as_str(),
                "-window_size",
                "0",
                "-init_seg_name",
                init.as_str(),
                "-media_seg_name",
                media.as_str(),
                "-adaptation_sets",
                "id=0,streams=v id=1,streams=a",
            ];
            add(&mut args, &dash);
            let mpd = path("all.mpd");
            args.push(mpd.clone());
            media::ffmpeg(args.iter().map(String::as_str));
            let text = fs::read_to_string(mpd).map_err(|e| e.to_string())?;
            Ok(Made::Dash(list::mpd(&text)?))
        }
        Packaging::Segment {
            format,
            media: name,
            header,
            rows: size,
            ..
        } => {
            let (csv, out) = (path("all.csv"), path(name));
            let segment = [
                "-f",
                "segment",
                "-segment_format",
                format.as_str(),
                "-segment_time",
                seconds.as_str(),
                "-segment_start_number",
                first.as_str(),
                "-segment_time_delta",
                "0.0625",
                "-segment_list",
                csv.as_str(),
                "-segment_list_type",
                "csv",
            ];
            add(&mut args, &segment);
            let header_path = header.as_deref().map(path);
            if let Some(header) = &header_path {
                add(&mut args, &["-segment_header_filename", header]);
                add(
                    &mut args,
                    &[
                        "-individual_header_trailer",
                        "0",
                        "-flags",
                        "+global_header",
                    ],
                );
            }
            if format == "mpegts" {
                add(&mut args, &["-max_delay", "5000000"]);
            } else {
                add(
                    &mut args,
                    &["-segment_format_options", "output_ts_offset=10"],
                );
            }
            args.push(out);
            media::ffmpeg(args.iter().map(String::as_str));
            let text = fs::read_to_string(csv).map_err(|e| e.to_string())?;
            let mut rows = list::csv(&text, false)?;
            // ffmpeg's own rows begin at decode times; the keys stand on the grid.
            let last = rows.len().saturating_sub(1);
            for (n, row) in rows.iter_mut().enumerate() {
                row.times.0 = n as f64 * shape.seconds;
                if n < last {
                    row.times.1 = (n + 1) as f64 * shape.seconds;
                }
            }
            Ok(Made::Segments {
                rows,
                header: header.clone(),
                size: *size,
            })
        }
    }
}
