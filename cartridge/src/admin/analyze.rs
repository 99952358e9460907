//! `analyze`: what the logs tell of the transcodes of this host.

use super::cli::print;
use super::error::{Context, Error};
use super::table::Table;
use crate::log::{EndOfSession, apart, learn, store};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the summary's list of reasons and jobs.
const SHOWN: usize = 15;

/// What to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Counts, times, reasons, the last jobs.
    Summary,
    /// Which of the local transcodes a worker could have had, and what it takes.
    Feasibility,
    /// One job with all that is known of it.
    Detail(String),
    /// The kinds of command lines.
    Patterns,
}

/// One start of the transcoder, as `master.log` tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Start {
    /// When, in UTC.
    pub time: String,
    /// The process.
    pub pid: u32,
    /// The job, where it had one.
    pub job: Option<String>,
    /// True where a worker did it.
    pub remote: bool,
    /// Why not, or what is known of it.
    pub what: String,
}

/// Reads `date [pid] [job] remote: ...` and `... local: ...`; other lines are none of ours.
pub fn starts(text: &str) -> Vec<Start> {
    text.lines()
        .filter_map(|line| {
            let (time, rest) = line.split_once(" [")?;
            let (pid, rest) = rest.split_once("] ")?;
            let (before, remote, what) = match (rest.find("remote: "), rest.find("local: ")) {
                (Some(at), other) if other.is_none_or(|o| at < o) => {
                    (rest.get(..at)?, true, rest.get(at + 8..)?)
                }
                (_, Some(at)) => (rest.get(..at)?, false, rest.get(at + 7..)?),
                _ => return None,
            };
            let job = before.trim();
            Some(Start {
                time: time.to_owned(),
                pid: pid.parse().ok()?,
                job: (!job.is_empty()).then(|| job.to_owned()),
                remote,
                what: what.to_owned(),
            })
        })
        .collect()
}

impl Start {
    /// A measured value of the line, such as `first_segment_ms`.
    fn fact(&self, name: &str) -> Option<&str> {
        let mut words = self.what.split(' ');
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What it would take to have a local transcode on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feasible {
    /// A worker that is there and answers.
    WithAWorker,
    /// A setting.
    BySetting,
    /// A film that the worker can read.
    WithTheFilm,
    /// A later version.
    NotYet,
    /// It belongs to this host.
    Never,
}

impl Feasible {
    /// For a reason of `master.log`.
    pub fn of(reason: &str) -> Self {
        let has = |parts: &[&str]| parts.iter().any(|part| reason.contains(part));
        if has(&[
            "not a playback job",
            "not segmented playback",
            "a question, not a job",
            "no session directory",
            "the output has no video",
        ]) {
            Feasible::Never
        } else if has(&["copy_video", "settings: "]) {
            Feasible::BySetting
        } else if has(&["input", "film", "cannot be opened"]) {
            Feasible::WithTheFilm
        } else if has(&[
            "not supported",
            "burned in",
            "overlaid",
            "unknown option",
            "has no value",
            "second output",
            "bytes",
        ]) {
            Feasible::NotYet
        } else {
            Feasible::WithAWorker
        }
    }

    /// What to do.
    fn text(self) -> &'static str {
        match self {
            Feasible::WithAWorker => "yes: a worker must be there (plexbeam-cartridge doctor)",
            Feasible::BySetting => "yes: change the setting",
            Feasible::WithTheFilm => {
                "yes: the worker must see the film (--export-media, --path-map)"
            }
            Feasible::NotYet => "not yet: PlexBeam lacks it",
            Feasible::Never => "no: it belongs to this host",
        }
    }
}

#[derive(Debug, Serialize)]
struct Summary {
    starts: usize,
    remote: usize,
    local: usize,
    first_segment_ms: Quantiles,
    accepted_ms: Quantiles,
    reasons: Vec<(String, usize)>,
    last: Vec<Start>,
}

#[derive(Debug, Default, Serialize)]
struct Quantiles {
    median: Option<u64>,
    p99: Option<u64>,
}

impl Quantiles {
    fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |part: usize| values.get((values.len().max(1) - 1) * part / 100).copied();
        Quantiles {
            median: at(50),
            p99: at(99),
        }
    }

    fn text(&self) -> String {
        match (self.median, self.p99) {
            (Some(median), Some(p99)) => format!("{median} ms (99 %: {p99} ms)"),
            _ => "not measured yet".into(),
        }
    }
}

fn summary(starts: &[Start]) -> Summary {
    let remote: Vec<&Start> = starts.iter().filter(|s| s.remote).collect();
    let times = |name| {
        Quantiles::of(
            remote
                .iter()
                .filter_map(|s| s.fact(name)?.parse().ok())
                .collect(),
        )
    };
    Summary {
        starts: starts.len(),
        remote: remote.len(),
        local: starts.len() - remote.len(),
        first_segment_ms: times("first_segment_ms"),
        accepted_ms: times("accepted_ms"),
        reasons: reasons(starts),
        last: starts
            .iter()
            .rev()
            .filter(|s| s.job.is_some())
            .take(SHOWN)
            .cloned()
            .collect(),
    }
}

/// Reasons of the local ones, most frequent first.
fn reasons(starts: &[Start]) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for start in starts.iter().filter(|s| !s.remote) {
        *counts.entry(&start.what).or_default() += 1;
    }
    let mut all: Vec<_> = counts
        .into_iter()
        .map(|(reason, n)| (reason.to_owned(), n))
        .collect();
    all.sort_by_key(|(reason, n)| (usize::MAX - n, reason.clone()));
    all
}

/// Tells it.
pub fn run(dir: &Path, ask: &Ask, json: bool) -> Result<(), Error> {
    let job = match ask {
        Ask::Detail(job) => job.parse::<plexbeam_api::Id>().ok(),
        Ask::Summary | Ask::Feasibility | Ask::Patterns => None,
    };
    let job = job.as_ref().map(|id| id.as_str());
    let logs = apart::readable(dir, job).on("read the logs in", dir)?;
    let starts = starts(&store::read_rotated(&logs.dir().join("master.log")));
    match ask {
        Ask::Summary => tell(json, &summary(&starts), summary_lines),
        Ask::Feasibility => tell(json, &feasibility(&starts), |all| feasibility_lines(all)),
        Ask::Patterns => tell(json, &patterns(logs.dir()), |all| pattern_lines(all)),
        Ask::Detail(job) => {
            let mut found = detail(logs.dir(), &starts, job)?;
            found.folder = dir.join("sessions").join(job);
            tell(json, &found, detail_lines);
        }
    }
    Ok(())
}

fn tell<T: Serialize>(json: bool, value: &T, lines: impl FnOnce(&T) -> Vec<String>) {
    match json {
        true => print(&[serde_json::to_string_pretty(value).unwrap_or_default()]),
        false => print(&lines(value)),
    }
}

fn summary_lines(all: &Summary) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} transcodes: {} on workers, {} here",
            all.starts, all.remote, all.local
        ),
        format!("a worker has accepted after {}", all.accepted_ms.text()),
        format!("first segment after {}", all.first_segment_ms.text()),
        String::new(),
    ];
    let mut table = Table::new(&["#times", "why here"]);
    for (reason, count) in all.reasons.iter().take(SHOWN) {
        table.row([count.to_string(), reason.clone()]);
    }
    lines.extend(table.lines());
    lines.push(String::new());
    let mut table = Table::new(&["last jobs", "job", "where", "what"]);
    for start in &all.last {
        let place = if start.remote { "worker" } else { "here" };
        let job = start.job.clone().unwrap_or_default();
        table.row([
            start.time.clone(),
            job,
            place.to_owned(),
            start.what.clone(),
        ]);
    }
    lines.extend(table.lines());
    lines
}

#[derive(Debug, Serialize)]
struct Step {
    feasible: Feasible,
    transcodes: usize,
    percent_of_all: f64,
    reasons: Vec<(String, usize)>,
}

fn feasibility(starts: &[Start]) -> Vec<Step> {
    let mut steps: BTreeMap<Feasible, Vec<(String, usize)>> = BTreeMap::new();
    for (reason, count) in reasons(starts) {
        steps
            .entry(Feasible::of(&reason))
            .or_default()
            .push((reason, count));
    }
    steps
        .into_iter()
        .map(|(feasible, reasons)| {
            let transcodes = reasons.iter().map(|(_, n)| n).sum();
            Step {
                feasible,
                transcodes,
                percent_of_all: (transcodes as f64 * 1000.0 / starts.len().max(1) as f64).round()
                    / 10.0,
                reasons,
            }
        })
        .collect()
}

fn feasibility_lines(steps: &[Step]) -> Vec<String> {
    let mut table = Table::new(&["#times", "#% of all", "on a worker?", "why here"]);
    for step in steps {
        for (n, (reason, count)) in step.reasons.iter().enumerate() {
            let share = match n {
                0 => format!("{:.1}", step.percent_of_all),
                _ => String::new(),
            };
            table.row([
                count.to_string(),
                share,
                step.feasible.text().to_owned(),
                reason.clone(),
            ]);
        }
    }
    table.lines()
}

#[derive(Debug, Serialize)]
struct Kind {
    #[serde(flatten)]
    pattern: learn::Pattern,
    remote: u64,
    local: u64,
}

fn patterns(dir: &Path) -> Vec<Kind> {
    learn::patterns(dir)
        .into_iter()
        .map(|(pattern, remote, local)| Kind {
            pattern,
            remote,
            local,
        })
        .collect()
}

fn pattern_lines(kinds: &[Kind]) -> Vec<String> {
    let mut table = Table::new(&["pattern", "#worker", "#here", "verdict at first", "options"]);
    for kind in kinds {
        let pattern = &kind.pattern;
        table.row([
            pattern.id.clone(),
            kind.remote.to_string(),
            kind.local.to_string(),
            pattern.verdict.clone(),
            pattern.shape.clone(),
        ]);
    }
    table.lines()
}

#[derive(Debug, Serialize)]
struct Detail {
    job: String,
    starts: Vec<Start>,
    result: Option<EndOfSession>,
    argv: Vec<String>,
    timeline: Vec<String>,
    folder: PathBuf,
}

fn detail(dir: &Path, starts: &[Start], job: &str) -> Result<Detail, Error> {
    let unknown = || Error::NoJob(job.to_owned());
    // A name that is none of ours must not lead out of the folder.
    let id: plexbeam_api::Id = job.parse().map_err(|_| unknown())?;
    let folder = dir.join("sessions").join(id.as_str());
    let read = |name: &str| fs::read(folder.join(name)).ok();
    let starts: Vec<Start> = starts
        .iter()
        .filter(|s| s.job.as_deref() == Some(job))
        .cloned()
        .collect();
    if starts.is_empty() && !folder.is_dir() {
        return Err(unknown());
    }
    let timeline = read("timeline.log").unwrap_or_default();
    Ok(Detail {
        job: job.to_owned(),
        starts,
        result: read("result.json").and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        argv: read("argv.json")
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default(),
        timeline: String::from_utf8_lossy(&timeline)
            .lines()
            .map(str::to_owned)
            .collect(),
        folder,
    })
}

fn detail_lines(all: &Detail) -> Vec<String> {
    let mut lines = vec![format!("job {}", all.job)];
    for start in &all.starts {
        let place = if start.remote { "on a worker" } else { "here" };
        lines.push(format!("{} {place}: {}", start.time, start.what));
    }
    match &all.result {
        Some(end) => lines.push(format!(
            "ended after {:.1} s, {}{}",
            end.seconds,
            end.exit
                .map_or("the original took over".to_owned(), |code| format!(
                    "exit {code}"
                )),
            end.reason
                .as_ref()
                .map_or(String::new(), |why| format!(": {why}"))
        )),
        None => lines.push("no result: it still runs, or Plex killed it (stop, seek)".into()),
    }
    lines.push(String::new());
    lines.extend(all.timeline.iter().cloned());
    lines.push(String::new());
    lines.push(format!("arguments: {}", all.argv.join(" ")));
    lines.push(format!("files: {}", all.folder.display()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-01T00:00:00.000Z [7] s-1 remote: accepted_ms=5 device=software first_segment_ms=900 worker=w\n\
2026-01-01T00:00:01.000Z [8] local: no -progressurl: not a playback job\n\
2026-01-01T00:00:02.000Z [9] s-2 local: gpu:8765 refuses the connection\n\
a line of somebody else\n\
2026-01-01T00:00:03.000Z [10] local: the video is not encoded, and copy_video is \"local\"\n\
2026-01-01T00:00:04.000Z [11] local: no -progressurl: not a playback job\n";

    #[test]
    fn the_log_is_read_as_it_is_written() {
        let all = starts(LOG);
        assert_eq!(all.len(), 5);
        assert_eq!(
            (all[0].pid, all[0].job.as_deref(), all[0].remote),
            (7, Some("s-1"), true)
        );
        assert_eq!(all[0].fact("first_segment_ms"), Some("900"));
        assert_eq!((all[2].job.as_deref(), all[2].remote), (Some("s-2"), false));
        let sum = summary(&all);
        assert_eq!((sum.starts, sum.remote, sum.local), (5, 1, 4));
        assert_eq!(sum.first_segment_ms.median, Some(900));
        assert_eq!(sum.reasons[0].1, 2);
        let steps = feasibility(&all);
        let counts: Vec<_> = steps.iter().map(|s| (s.feasible, s.transcodes)).collect();
        assert_eq!(
            counts,
            [
                (Feasible::WithAWorker, 1),
                (Feasible::BySetting, 1),
                (Feasible::Never, 2)
            ]
        );
        assert_eq!(steps[2].percent_of_all, 40.0);
    }

    /// Each reason that the cartridge can give is put where a person would put it.
    #[test]
    fn reasons_are_judged() {
        use crate::job::Reason;
        let local = |reason: Reason| Feasible::of(&reason.to_string());
        assert_eq!(local(Reason::NoInput), Feasible::Never);
        assert_eq!(local(Reason::NoProgressUrl), Feasible::Never);
        assert_eq!(local(Reason::NoListUrl), Feasible::Never);
        assert_eq!(local(Reason::NoVideo), Feasible::Never);
        assert_eq!(local(Reason::NotASessionDirectory), Feasible::Never);
        assert_eq!(local(Reason::VideoIsCopied), Feasible::BySetting);
        assert_eq!(local(Reason::Format("x".into())), Feasible::NotYet);
        assert_eq!(local(Reason::Option("x".into())), Feasible::NotYet);
        let unreadable = Reason::Input {
            index: 0,
            why: "gone".into(),
        };
        assert_eq!(local(unreadable), Feasible::WithTheFilm);
        assert_eq!(
            Feasible::of("the worker had no place in time"),
            Feasible::WithAWorker
        );
    }

    #[test]
    fn a_job_that_is_not_known_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        for job in ["../../etc", "x", ""] {
            assert!(
                matches!(detail(dir.path(), &[], job), Err(Error::NoJob(_))),
                "{job}"
            );
        }
    }
}
