//! Command lines of real servers and their like, each with a film of the kind that it expects, and
//! what is to be judged of it.
//!
//! [`recorded`] are the complete segmented lines as they stand but for the picture's size; [`likes`]
//! are variants of them: other codecs, containers, track numbers, seeks, options. [`judge`] plays a
//! case through the whole chain and compares what came out with `ffmpeg`'s.

pub mod films;
mod shapes;
mod variants;

pub use variants::likes;

use crate::{
    argv::{self, Line},
    fake_pms::{self, Play},
    kit::{Stage, cartridge_log},
    verify::{
        self,
        likeness::{self, Burned, Likeness},
    },
};
use std::{
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

/// Picture of the lines whose filters scale.
pub const SIZE: (u32, u32) = (160, 90);

/// One line with its film.
pub struct Case {
    /// Name of the recorded line, or of the variant.
    pub id: String,
    /// The command line.
    pub line: Line,
    /// Makes the film, or finds it in the cache.
    pub film: Box<dyn Fn() -> PathBuf + Send + Sync>,
    /// What film it is, in a few words.
    pub about: String,
    /// Text that must be seen in the picture.
    pub burned: Burned,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.about)
    }
}

/// What a case came to.
#[derive(Debug)]
pub struct Outcome {
    /// The original ran, and the reason in the cartridge's log.
    pub local: Option<String>,
    /// Segments read.
    pub segments: u64,
    /// Picture and sound against `ffmpeg`'s.
    pub likeness: Likeness,
    /// Everything that is wrong.
    pub findings: Vec<String>,
}

impl Outcome {
    /// It ran on the worker and nothing is wrong.
    pub fn passed(&self) -> bool {
        self.local.is_none() && self.findings.is_empty()
    }

    /// One line of a table.
    pub fn row(&self) -> String {
        if let Some(why) = &self.local {
            return format!("LOCAL   {why}");
        }
        let l = &self.likeness;
        let verdict = if self.findings.is_empty() {
            "ok     "
        } else {
            "FAULTS "
        };
        let mut row = format!(
            "{verdict} {:>3} segments, {:>4} frames, SSIM {:.4} (least {:.4})",
            self.segments, l.frames, l.mean, l.least
        );
        if let Some((bare, written)) = l.text {
            row.push_str(&format!(", text {written:.4} / none {bare:.4}"));
        }
        if let (Some(end), Some(alike)) = (l.sound_end, l.sound) {
            row.push_str(&format!(", sound {:+.1} ms, alike {alike:.3}", end * 1e3));
        }
        row
    }
}

/// The complete segmented lines that real servers wrote.
#[track_caller]
pub fn recorded() -> Vec<Case> {
    argv::recorded()
        .into_iter()
        .filter(|l| l.server == "plex" && l.complete && l.shape().is_ok())
        .map(|line| {
            let film = films::expected_by(&line);
            let burned = line.argv.iter().any(|a| a == "-map_inlineass");
            // Text needs room to be seen.
            let (width, height) = if burned { (320, 180) } else { SIZE };
            Case {
                id: line.id.clone(),
                about: film.about.clone(),
                line: line.scaled(width, height),
                film: Box::new(move || film.path()),
                burned: if burned {
                    Burned::EachSecond
                } else {
                    Burned::No
                },
            }
        })
        .collect()
}

/// Plays a case through cartridge, worker and mount and judges all of it, then plays it once more: the
/// worker may begin with files of the first time, and must go on with the same.
#[track_caller]
pub fn judge(stage: &Stage, case: &Case) -> Outcome {
    let film = (case.film)();
    let play = stage.play(case.line.clone(), &film);
    let _ = fs::remove_dir_all(stage.env.dir("kept"));
    let report = match fake_pms::play(&play) {
        Ok(report) => report,
        Err(error) => {
            return Outcome {
                local: None,
                segments: 0,
                likeness: Likeness::default(),
                findings: vec![error.to_string()],
            };
        }
    };
    let local = stage.original().exists();
    let _ = fs::remove_file(stage.original());
    let mut outcome = Outcome {
        local: local.then(|| reason(&cartridge_log(&stage.env))),
        segments: report.segments,
        likeness: Likeness::default(),
        findings: report.violations.iter().map(ToString::to_string).collect(),
    };
    if local {
        return outcome;
    }
    if !outcome.findings.is_empty() {
        outcome.findings.push(report.explain());
        outcome.findings.push(cartridge_log(&stage.env));
    }
    for job in &report.jobs {
        let judged = judged(|| {
            let findings = verify::findings_of(job, &film, job.exit == Some(0));
            let likeness = likeness::of(&case.line, job, &film, case.burned);
            (findings, likeness)
        });
        match judged {
            Ok((findings, likeness)) => {
                outcome.findings.extend(findings);
                outcome.findings.extend(likeness.findings.iter().cloned());
                outcome.likeness = likeness;
            }
            Err(failed) => outcome.findings.push(failed),
        }
    }
    outcome.findings.extend(differences(stage, &play));
    outcome
}

/// The helpers of the tests panic when ffmpeg refuses what they were given.
fn judged<T>(judge: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(judge)).map_err(|panic| {
        panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "the judgement itself failed".to_owned())
    })
}

/// What goes wrong when a film is played that was played before: its first segment may be of the first
/// time and all others of the second.
fn differences(stage: &Stage, play: &Play<'_>) -> Vec<String> {
    let told = stage.worker.process.log().len();
    let _ = fs::remove_dir_all(stage.env.dir("kept"));
    let report = match fake_pms::play(play) {
        Ok(report) => report,
        Err(error) => return vec![format!("played again: {error}")],
    };
    let mut findings: Vec<String> = (report.violations.iter())
        .map(|violation| format!("played again: {violation}"))
        .collect();
    if stage.original().exists() {
        let _ = fs::remove_file(stage.original());
        let why = reason(&cartridge_log(&stage.env));
        findings.push(format!("played again, it ran locally: {why}"));
    }
    for job in &report.jobs {
        let found = judged(|| verify::findings_of(job, &play.media, job.exit == Some(0)));
        let found = found.unwrap_or_else(|failed| vec![failed]);
        findings.extend(
            found
                .iter()
                .map(|finding| format!("played again: {finding}")),
        );
    }
    let log = stage.worker.process.log();
    let news = log.get(told..).unwrap_or_default();
    let differs = |line: &&str| line.contains("not the same as in an earlier job");
    findings.extend(news.lines().filter(differs).map(str::to_owned));
    findings
}

/// The last reason for running locally in the cartridge's log.
fn reason(log: &str) -> String {
    log.lines()
        .rev()
        .find_map(|line| line.split_once("local: ").map(|(_, why)| why.to_owned()))
        .unwrap_or_else(|| "no reason in the log".to_owned())
}
