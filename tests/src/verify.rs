//! The checks of a whole play: what a client got, against what `ffmpeg` and `ffprobe` say of the
//! film. Every check collects its findings, so that one run tells all that is wrong.
//!
//! [`mod@reference`] is what must come out, [`dash`] and [`segments`] look at what did, [`likeness`]
//! compares picture and sound.

pub mod dash;
pub mod likeness;
pub mod reference;
pub mod segments;
mod settings;

use crate::{
    argv::{Packaging, Shape},
    container::{Nal, Picture},
    fake_pms::{JobReport, Report},
    probe,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Times of frames may differ by the rounding of a millisecond time base, once.
pub const ROUNDING: f64 = 0.0015;

/// What a check of one process needs.
#[derive(Debug)]
pub struct Subject<'a> {
    /// What was seen.
    pub job: &'a JobReport,
    /// Its command line.
    pub shape: &'a Shape,
    /// The film.
    pub media: &'a Path,
    /// Copies of the files read.
    pub kept: PathBuf,
    /// The film was played to its end.
    pub whole: bool,
    /// Video codec of the segments.
    pub nal: Nal,
}

impl Subject<'_> {
    /// Bytes of a kept file; a missing one is a finding.
    fn file(&self, name: &str, findings: &mut Vec<String>) -> Vec<u8> {
        fs::read(self.kept.join(name)).unwrap_or_else(|error| {
            findings.push(format!("{name}: {error}"));
            Vec::new()
        })
    }

    /// The pictures of one segment: an encoded one begins with the only IDR, headers before it;
    /// a copied one begins with a key.
    fn pictures(&self, name: &str, pictures: &[Picture], findings: &mut Vec<String>) {
        let Some(first) = pictures.first() else {
            findings.push(format!("{name}: no picture"));
            return;
        };
        if self.shape.copy_video {
            if !first.idr && !first.cra {
                findings.push(format!("{name}: the first picture is no key"));
            }
            return;
        }
        if !first.idr {
            findings.push(format!("{name}: the first picture is no IDR"));
        }
        if !first.headers {
            findings.push(format!("{name}: no parameter sets before the IDR"));
        }
        let others = pictures.iter().skip(1).filter(|p| p.idr || p.cra).count();
        if others > 0 {
            findings.push(format!("{name}: {others} more keys behind the first"));
        }
    }

    /// Starts of the video segments against the source's keys, `rounding` seconds apart at the most, or
    /// against their numbers, `early` seconds before these at the most.
    fn cut_times(&self, starts: &[f64], rounding: f64, early: f64, findings: &mut Vec<String>) {
        let frame = self.shape.frame();
        if self.shape.copy_video {
            let frames = reference::copied(self.media, self.shape);
            let cuts = reference::copied_cuts(&frames, self.shape.seconds, 0.0625);
            let due = if self.whole {
                &cuts[..]
            } else {
                &cuts[..starts.len().min(cuts.len())]
            };
            let differ = starts.len() != due.len()
                || starts
                    .iter()
                    .zip(due)
                    .any(|(a, b)| (a - b).abs() > rounding);
            if differ {
                findings.push(format!(
                    "cuts at {starts:.3?}, by the source's keys {due:.3?}"
                ));
            }
            return;
        }
        for (n, start) in starts.iter().enumerate() {
            let number = self.shape.first + n as u32;
            let due = self.shape.due(number);
            if *start < due - early || *start > due + frame {
                findings.push(format!(
                    "number {number} begins at {start:.4} s, due at {due:.4} s"
                ));
            }
        }
    }

    /// All frames against the reference: as many, at the same times, the same ones keys.
    /// `frames` are (title time, key), in order of presentation.
    fn frames(&self, frames: &[(f64, bool)], findings: &mut Vec<String>) {
        let due = if self.shape.copy_video {
            reference::copied(self.media, self.shape)
        } else {
            reference::encoded(self.media, self.shape)
        };
        let due = if self.whole {
            &due[..]
        } else {
            &due[..frames.len().min(due.len())]
        };
        if frames.len() != due.len() {
            findings.push(format!(
                "{} video frames, ffmpeg makes {}; ours {:?}..{:?}, ffmpeg's {:?}..{:?}",
                frames.len(),
                due.len(),
                frames.first(),
                frames.last(),
                due.first(),
                due.last()
            ));
        }
        let wrong: Vec<String> = frames
            .iter()
            .zip(due)
            .enumerate()
            .filter(|(_, (ours, theirs))| {
                (ours.0 - theirs.0).abs() > ROUNDING || ours.1 != theirs.1
            })
            .map(|(n, (ours, theirs))| format!("frame {n} is {ours:?}, ffmpeg's {theirs:?}"))
            .collect();
        if !wrong.is_empty() {
            findings.push(format!(
                "{} frames differ: {}",
                wrong.len(),
                wrong[..wrong.len().min(3)].join("; ")
            ));
        }
    }

    /// Sound must reach as far as the film's, and begin where the job begins.
    fn sound_span(&self, first: f64, end: f64, findings: &mut Vec<String>) {
        let begin = if self.shape.copy_video {
            reference::copied(self.media, self.shape)
                .first()
                .map_or(0.0, |f| f.0.min(self.shape.seek.unwrap_or(0.0)))
        } else {
            self.shape.seek.unwrap_or(0.0)
        };
        // The first segment's sound begins where it does when the title is played through: at the
        // moment of the video's cut in order of decoding.
        if first < begin - 0.2 || first > begin + 0.3 {
            findings.push(format!(
                "sound begins at {first:.4} s, the job at {begin:.4} s"
            ));
        }
        let film = probe::title_end(self.media);
        if self.whole && (end - film).abs() > 0.25 {
            findings.push(format!("sound ends at {end:.3} s, the film at {film:.3} s"));
        }
    }
}

/// Checks every process of a play; panics with all findings. Only the last process may have come to
/// the film's end.
#[track_caller]
pub fn play(report: &Report, media: &Path) {
    let last = report.jobs.len().saturating_sub(1);
    let mut findings = Vec::new();
    for (n, job) in report.jobs.iter().enumerate() {
        for finding in findings_of(job, media, n == last && job.exit == Some(0)) {
            findings.push(format!("process {n}: {finding}"));
        }
    }
    assert!(
        findings.is_empty(),
        "{} findings:\n  {}\n{}",
        findings.len(),
        findings.join("\n  "),
        report.explain()
    );
}

/// What is wrong with the output of one process.
#[track_caller]
pub fn findings_of(job: &JobReport, media: &Path, whole: bool) -> Vec<String> {
    let (Some(shape), Some(kept)) = (&job.shape, &job.kept) else {
        return vec!["nothing was kept of this process".into()];
    };
    let mut subject = Subject {
        job,
        shape,
        media,
        kept: kept.clone(),
        whole,
        nal: Nal::H264,
    };
    match &shape.packaging {
        Packaging::Dash { .. } => dash::check(&mut subject),
        Packaging::Segment { .. } => segments::check(&mut subject),
    }
}

/// The codec of the video in these bytes.
fn nal_of(bytes: &[u8]) -> Option<Nal> {
    match probe::video_codec(bytes)?.as_str() {
        "h264" => Some(Nal::H264),
        "hevc" => Some(Nal::Hevc),
        _ => None,
    }
}
