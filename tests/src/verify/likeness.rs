//! How like a play's picture and sound are to what the `ffmpeg` program makes of the same film at
//! the same settings.
//!
//! Frames are compared in pairs, counted from the end after a seek, sound by samples of the same time of the title:
//! that every frame is there and at its time is judged elsewhere ([`super::findings_of`]), and a
//! frame too many or too early shows here as a picture of another moment.

use crate::{
    argv::{Line, Packaging, Shape},
    fake_pms::JobReport,
    media, probe,
    verify::{segments, settings},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Least mean SSIM of all frames.
pub const LEAST_MEAN: f64 = 0.98;
/// Least SSIM of one frame: a broken or wrong picture is far below.
pub const LEAST_FRAME: f64 = 0.88;
/// Rate at which sounds are compared, Hz.
const RATE: u32 = 16000;
/// Where subtitles are drawn.
const LOWER: &str = "crop=iw:ih/3:0:ih*2/3,";
/// Samples by which they may be apart: Matroska rounds times to a millisecond, once in the film and
/// once in the segments.
const LAG: usize = 11;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Likeness {
    /// Mean SSIM over all frames.
    pub mean: f64,
    /// The frame that is least like the reference's.
    pub least: f64,
    /// Frames compared.
    pub frames: usize,
    /// Our sound's end minus the reference's, seconds.
    pub sound_end: Option<f64>,
    /// Correlation of the waveforms, 1 at best.
    pub sound: Option<f64>,
    /// Burned text: mean SSIM to a reference **without** text, of frames that show none and of frames
    /// that show some.
    pub text: Option<(f64, f64)>,
    /// What is wrong.
    pub findings: Vec<String>,
}

/// Text that must be found in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burned {
    /// None.
    No,
    /// A line from 0.1 s to 0.9 s of each second, in the lower third ([`media::srt_text`]).
    EachSecond,
    /// Pictures, that the line lays over by `overlay`; the graph is one that `ffmpeg` takes.
    Pictures,
}

/// Compares one process's output with `ffmpeg`'s. The file must have been played to its end.
#[track_caller]
pub fn of(line: &Line, job: &JobReport, film: &Path, burned: Burned) -> Likeness {
    let mut found = Likeness::default();
    let (Some(shape), Some(kept)) = (&job.shape, &job.kept) else {
        found
            .findings
            .push("nothing was kept of this process".into());
        return found;
    };
    let work = tempfile::tempdir().expect("a temporary directory");
    let picture = joined(job, shape, kept, work.path(), "video");
    let sound = joined(job, shape, kept, work.path(), "audio");
    let times = frame_times(&picture, shape);
    let Some(first) = times.first().copied() else {
        found.findings.push("no frame to compare".into());
        return found;
    };
    let theirs = settings::picture(line, shape, film, first, work.path());
    if burned == Burned::Pictures {
        let overlaid = settings::overlaid(line, shape, film, work.path());
        compare_pictures(&mut found, &picture, &overlaid, &times, shape, burned);
        let bare = mean(ssim(&picture, &theirs, 0, LOWER).into_iter());
        let with = mean(ssim(&picture, &overlaid, 0, LOWER).into_iter());
        found.text = Some((with, bare));
        if with.is_nan() || bare.is_nan() || bare > with - 0.1 {
            found.findings.push(format!(
                "below, SSIM {with:.4} to ffmpeg's pictures with subtitles, {bare:.4} without"
            ));
        }
    } else {
        compare_pictures(&mut found, &picture, &theirs, &times, shape, burned);
    }
    if shape.sound.is_some() {
        compare_sounds(&mut found, line, shape, film, &sound, work.path());
    }
    found
}

/// All segments of one kind of stream as one file.
fn joined(job: &JobReport, shape: &Shape, kept: &Path, into: &Path, kind: &str) -> PathBuf {
    let (name, files): (String, Vec<String>) = match &shape.packaging {
        Packaging::Dash { init, media, .. } => {
            let track = job.tracks.iter().find(|t| t.media == kind);
            let id = track.map_or("0", |t| t.id.as_str());
            let numbers = track.into_iter().flat_map(|t| &t.entries).map(|e| e.0);
            let names = std::iter::once(Shape::dash_name(init, id, None))
                .chain(numbers.map(|n| Shape::dash_name(media, id, Some(n))));
            (format!("{kind}.mp4"), names.collect())
        }
        Packaging::Segment {
            format,
            media,
            header,
            ..
        } => {
            let rows = job
                .rows
                .iter()
                .map(|r| Shape::segment_name(media, r.number));
            let end = if format == "mpegts" { "ts" } else { "mkv" };
            (
                format!("{kind}.{end}"),
                header.iter().cloned().chain(rows).collect(),
            )
        }
    };
    // What is missing is a finding of the other checks.
    let bytes: Vec<u8> = files
        .iter()
        .flat_map(|f| fs::read(kept.join(f)).unwrap_or_default())
        .collect();
    let path = into.join(name);
    fs::write(&path, bytes).expect("write a joined file");
    path
}

/// Seconds of the title of each frame, in order of presentation.
fn frame_times(picture: &Path, shape: &Shape) -> Vec<f64> {
    let mut times: Vec<f64> = probe::packets(picture, Some("v:0"))
        .iter()
        .filter_map(|p| Some(p.pts_time? - shift(shape)))
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

/// By how much packets are later than the title's time.
fn shift(shape: &Shape) -> f64 {
    match shape.packaging {
        Packaging::Dash { .. } => 0.0,
        Packaging::Segment { .. } => segments::SHIFT,
    }
}

fn compare_pictures(
    found: &mut Likeness,
    ours: &Path,
    theirs: &Path,
    times: &[f64],
    shape: &Shape,
    burned: Burned,
) {
    let count = |p: &Path| probe::packets(p, Some("v:0")).len();
    let (mine, whole) = (times.len(), count(theirs));
    if mine > whole {
        found
            .findings
            .push(format!("{mine} frames to compare, ffmpeg made {whole}"));
        return;
    }
    // A job from the beginning has the first frame; one after a seek has the last.
    let skip = match shape.seek {
        Some(seek) if seek > 0.0 && !shape.copy_video => whole - mine,
        _ => 0,
    };
    let values = ssim(ours, theirs, skip, "");
    if values.len() != mine {
        found.findings.push(format!(
            "{} of {mine} frames could be compared",
            values.len()
        ));
    }
    found.frames = values.len();
    found.mean = mean(values.iter().copied());
    found.least = values.iter().copied().fold(f64::INFINITY, f64::min);
    match burned {
        Burned::No | Burned::Pictures => {
            if found.mean.is_nan() || found.mean < LEAST_MEAN {
                found.findings.push(format!(
                    "SSIM {:.4}, at least {LEAST_MEAN} is due",
                    found.mean
                ));
            }
            if found.least < LEAST_FRAME {
                let at = values.iter().position(|v| *v <= found.least).unwrap_or(0);
                found.findings.push(format!(
                    "frame {at} at {:.3} s has SSIM {:.4}",
                    times[at], found.least
                ));
            }
        }
        Burned::EachSecond => {
            let lower = ssim(ours, theirs, skip, LOWER);
            let frame = shape.frame();
            let shows = |time: f64| {
                let within = time.rem_euclid(1.0);
                // Frames at the edge of a line count for neither side.
                if within >= 0.1 + frame && within <= 0.9 - frame {
                    Some(true)
                } else if within <= 0.1 - frame || within >= 0.9 + frame {
                    Some(false)
                } else {
                    None
                }
            };
            let of = |want: bool| {
                mean(
                    times
                        .iter()
                        .zip(&lower)
                        .filter(|(t, _)| shows(**t) == Some(want))
                        .map(|(_, v)| *v),
                )
            };
            let (bare, written) = (of(false), of(true));
            found.text = Some((bare, written));
            if bare.is_nan() || bare < LEAST_MEAN {
                found
                    .findings
                    .push(format!("frames without text have SSIM {bare:.4}"));
            }
            if written.is_nan() || written > bare - 0.01 {
                found.findings.push(format!(
                    "no burned text: SSIM {written:.4} to the picture without it, {bare:.4} where none is due"
                ));
            }
        }
    }
}

/// SSIM of each frame of `ours` against `theirs` from frame `skip` on; `area` is a filter for both.
fn ssim(ours: &Path, theirs: &Path, skip: usize, area: &str) -> Vec<f64> {
    let deep = probe::pixel_format(ours).contains("10");
    let format = if deep { "yuv420p10le" } else { "yuv420p" };
    let log = ours.with_extension("ssim");
    let graph = format!(
        "[0:v:0]settb=1/25,setpts=N,{area}format={format}[a];\
         [1:v:0]trim=start_frame={skip},settb=1/25,setpts=N,{area}format={format}[b];\
         [a][b]ssim=stats_file={}",
        log.display()
    );
    let text = |p: &Path| p.to_str().expect("UTF-8 path").to_owned();
    media::ffmpeg([
        "-i",
        &text(ours),
        "-i",
        &text(theirs),
        "-filter_complex",
        &graph,
        "-fps_mode",
        "passthrough",
        "-f",
        "null",
        "-",
    ]);
    fs::read_to_string(&log)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let value = line.split("All:").nth(1)?;
            value.split(' ').next()?.parse().ok()
        })
        .collect()
}

fn compare_sounds(
    found: &mut Likeness,
    line: &Line,
    shape: &Shape,
    film: &Path,
    ours: &Path,
    work: &Path,
) {
    let theirs = settings::sound(line, shape, film, work);
    let span = |path: &Path, shift: f64| {
        let mut packets: Vec<(f64, f64)> = probe::packets(path, Some("a:0"))
            .iter()
            .filter_map(|p| Some((p.pts_time? - shift, p.duration_time.unwrap_or(0.0))))
            .collect();
        packets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (first, last) = (packets.first().copied(), packets.last().copied());
        Some((first?.0, last?.0 + last?.1, last?.1))
    };
    let (Some((begin, end, length)), Some((_, due, _))) = (
        span(ours, shift(shape)),
        span(&theirs, settings::SOUND_SHIFT),
    ) else {
        found.findings.push("no sound to compare".into());
        return;
    };
    found.sound_end = Some(end - due);
    if (end - due).abs() > length + super::ROUNDING {
        found.findings.push(format!(
            "sound ends at {end:.4} s, ffmpeg's at {due:.4} s: more than a frame of {length:.4} s apart"
        ));
    }
    let (mine, other) = (
        waveform(ours, shift(shape), begin),
        waveform(&theirs, settings::SOUND_SHIFT, begin),
    );
    // The first frames after a start and the last before the end may differ by the encoder's delay.
    let lead = RATE as usize / 5;
    let until = mine.len().min(other.len()).saturating_sub(lead);
    if until <= lead {
        found.findings.push("hardly any sound to compare".into());
        return;
    }
    let product = |x: &[f32], y: &[f32]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let b = &other[lead..until];
    let (a, alike) = (lead - LAG..=lead + LAG)
        .map(|from| {
            let a = &mine[from..(from + b.len()).min(mine.len())];
            (a, product(a, b) / (product(a, a) * product(b, b)).sqrt())
        })
        .max_by(|x, y| x.1.total_cmp(&y.1))
        .unwrap_or((b, f64::NAN));
    found.sound = Some(alike);
    if alike.is_nan() || alike < 0.97 {
        found.findings.push(format!(
            "the sound's correlation with ffmpeg's is {alike:.3}"
        ));
    }
    let level = 10.0 * (product(a, a) / product(b, b)).log10();
    if level.is_nan() || level.abs() > 0.5 {
        found
            .findings
            .push(format!("the sound is {level:+.2} dB against ffmpeg's"));
    }
}

/// Samples of the sound from `from` seconds of the title on, silence where there is none.
fn waveform(path: &Path, shift: f64, from: f64) -> Vec<f32> {
    let out = path.with_extension("f32");
    let filter = format!(
        "asetpts=PTS-{shift}/TB,aresample=48000:async=1:first_pts=0,atrim=start={:.6},aresample={RATE},aformat=sample_fmts=flt:channel_layouts=mono",
        from.max(0.0)
    );
    media::ffmpeg([
        "-copyts",
        "-i",
        path.to_str().expect("UTF-8 path"),
        "-map",
        "0:a:0",
        "-af",
        &filter,
        "-f",
        "f32le",
        out.to_str().expect("UTF-8 path"),
    ]);
    fs::read(&out)
        .unwrap_or_default()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u32), |(s, n), v| (s + v, n + 1));
    sum / f64::from(count)
}
