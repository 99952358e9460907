//! What was seen: faults by rule, and the figures of each process.

use super::job::{Row, SideSeen, Track};
use crate::argv::Shape;
use serde::Serialize;
use std::{fmt, path::PathBuf};

/// What the real PMS would refuse or lose, or a client would suffer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Another method than PROTOCOL 6 names.
    WrongMethod,
    /// No or another `X-Plex-Token`.
    WrongToken,
    /// Unknown session, job or path.
    WrongUrl,
    /// A call that cannot be read.
    Malformed,
    /// An announced file does not exist.
    FileMissing,
    /// An announced file is empty, short, or not what it should be.
    FileNotWhole,
    /// A name's bytes or a number's times changed after they were announced.
    Changed,
    /// A number was left out, or several were announced by one call.
    NotListed,
    /// Numbers or calls in a wrong order.
    OutOfOrder,
    /// Times against PROTOCOL 7.
    IllTimed,
    /// A start-up call or a field of it is missing (PROTOCOL 6.1).
    StartupMissing,
    /// The pipelined connection ended before the process, or there was a second one.
    PipelineClosed,
    /// PMS was called before the worker had opened the input.
    BeforeProbed,
    /// Progress more often than each half second.
    ProgressTooOften,
    /// Something was written to stdout.
    Stdout,
    /// The process ended otherwise than it should.
    ExitStatus,
    /// A client waited longer than it does.
    ClientStarved,
    /// The job ended without its last manifest, or before the film did.
    Unfinished,
    /// PMS could not remove the session directory.
    Remove,
    /// A file of the session directory could not be read.
    Read,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// What was seen of one process.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// Job uuid.
    pub job: String,
    /// Number of the first segment.
    pub first_number: u32,
    /// From the start of the process to the client holding its first segment, milliseconds.
    pub ttfs_ms: Option<u64>,
    /// From the start of the process to the first list or manifest, milliseconds.
    pub first_post_ms: Option<u64>,
    /// From the start of the process to its first call, milliseconds.
    pub first_call_ms: Option<u64>,
    /// Segments read by the client, all streams.
    pub segments: u64,
    /// Bytes read by the client, init and header included.
    pub bytes: u64,
    /// Wall time of the process, milliseconds.
    pub wall_ms: u64,
    /// How it ended; `None` when PMS killed it.
    pub exit: Option<i32>,
    /// Replies with `canThrottle`.
    pub throttled: u32,
    /// Times that PMS took `canThrottle` back.
    pub released: u32,
    /// Times that the client, once PMS had slowed the job, found the next segment not announced.
    pub waited: u32,
    /// Most that was announced beyond the client, media seconds.
    pub most_ahead: f64,
    /// The end of its stderr.
    pub stderr: String,
    /// The shape of its command line.
    #[serde(skip)]
    pub shape: Option<Shape>,
    /// Where the files read were kept.
    #[serde(skip)]
    pub kept: Option<PathBuf>,
    /// DASH: what was announced of each representation.
    #[serde(skip)]
    pub tracks: Vec<Track>,
    /// Segment lists: the rows announced.
    #[serde(skip)]
    pub rows: Vec<Row>,
    /// The second output.
    #[serde(skip)]
    pub side: SideSeen,
    /// All calls, in order, as `METHOD path?query`.
    #[serde(skip)]
    pub calls: Vec<String>,
    /// Wall time of the removal of its directory.
    pub remove_ms: u64,
}

/// What was seen of a whole play.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// First process: from its start to the client holding the first segment, milliseconds.
    pub ttfs_ms: Option<u64>,
    /// Segments read, all processes and streams.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// From the start of the first process to the end.
    pub wall_ms: u64,
    /// Faults; empty is a pass.
    pub violations: Vec<Violation>,
    /// Per process.
    pub jobs: Vec<JobReport>,
}

impl Report {
    /// Panics with all faults, calls and logs when there is a fault.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{}", self.explain());
    }

    /// All faults, calls and logs as text.
    pub fn explain(&self) -> String {
        let mut text = format!("{} violations:\n", self.violations.len());
        for violation in self.violations.iter().take(40) {
            text.push_str(&format!("  {violation}\n"));
        }
        for job in &self.jobs {
            text.push_str(&format!(
                "job {}: exit {:?}, {} segments, first call {:?} ms, first post {:?} ms\n",
                job.job, job.exit, job.segments, job.first_call_ms, job.first_post_ms
            ));
            for call in job.calls.iter().take(60) {
                text.push_str(&format!("  {call}\n"));
            }
            text.push_str(&format!("stderr:\n{}\n", job.stderr));
        }
        text
    }

    /// The rules broken.
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.violations.iter().map(|v| v.rule).collect();
        rules.dedup();
        rules
    }
}
