//! Logs: one line per transcode in `master.log`, troubles in `cartridge_events.log`, one folder per
//! playback in `sessions/`, kinds of command lines in `patterns/`. Logging never fails a job, never
//! waits, and never writes to stdout or stderr, which belong to PMS.
//!
//! In `sessions/<job>/`: `argv.json`, `job.json`, `timeline.log` (stages), `result.json` (the end, where
//! PMS did not kill the process). A folder that may hang is left to another process ([`apart`]).

pub mod apart;
pub mod hide;
pub mod learn;
mod place;
pub mod store;

use apart::{Record, Sink};
use hide::Hide;
use plexbeam_api::{Id, JobSpec, job::Location, manifest::mpd::Date};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The logs of this process. Clones write to the same files.
#[derive(Debug, Clone)]
pub struct Log {
    dir: PathBuf,
    started: Instant,
    hide: Arc<Hide>,
    session: Arc<Mutex<Session>>,
    /// Made when the first thing is written.
    sink: Arc<OnceLock<Sink>>,
}

/// What is known of the session, once it is.
#[derive(Debug, Default)]
struct Session {
    job: Option<Id>,
    timeline: Option<PathBuf>,
    /// The timeline, where this process writes it.
    events: Option<File>,
    facts: BTreeMap<&'static str, String>,
    /// The line in `master.log` is written.
    told: bool,
    learned: bool,
    /// Ends when the files beside the timeline are written.
    keeping: Option<mpsc::Receiver<()>>,
}

/// How long the end of a playback waits for its own files.
const KEEPING: Duration = Duration::from_millis(300);

/// How a playback ended: `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndOfSession {
    /// `remote` or `local`.
    pub ran: String,
    /// Exit code; `None` where the original took over.
    pub exit: Option<u8>,
    /// Why it ran locally; `None` for a remote one.
    pub reason: Option<String>,
    /// From the start, seconds.
    pub seconds: f64,
    /// `worker`, `device`, `accepted_ms`, `probed_ms`, `first_segment_ms`, as far as they were known.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

impl Log {
    /// Logs below this directory, which need not exist or be writable. With `hide_names` no path of the
    /// command line is written down.
    pub fn new(dir: &Path, words: &[OsString], hide_names: bool) -> Self {
        let hide = match hide_names {
            true => Hide::paths_of(words),
            false => Hide::default(),
        };
        Log {
            dir: dir.to_owned(),
            started: Instant::now(),
            hide: Arc::new(hide),
            session: Arc::default(),
            sink: Arc::default(),
        }
    }

    fn sink(&self) -> &Sink {
        self.sink.get_or_init(|| Sink::of(&self.dir))
    }

    fn put(&self, record: &Record) {
        self.sink().put(record);
    }

    /// Opens the session's folder. What is large or slow about it is done beside the job.
    pub fn open_session(&self, spec: &JobSpec) {
        let sessions = self.dir.join("sessions");
        let dir = sessions.join(spec.job_id.as_str());
        let timeline = dir.join("timeline.log");
        let events = match self.sink() {
            Sink::Here => store::open(&timeline),
            Sink::Apart(_) => None,
        };
        if let Ok(mut session) = self.session.lock() {
            session.events = events;
            session.timeline = Some(timeline);
            session.job = Some(spec.job_id.clone());
            session.learned = true;
        }
        let (log, spec) = (self.clone(), without_data(spec));
        let (kept, keeping) = mpsc::channel::<()>();
        // Where no thread can be had, these files are missing.
        let _ = std::thread::Builder::new()
            .name("log".into())
            .stack_size(256 << 10)
            .spawn(move || {
                log.keep(&dir, spec);
                drop(kept);
            });
        if let Ok(mut session) = self.session.lock() {
            session.keeping = Some(keeping);
        }
    }

    fn keep(&self, dir: &Path, mut spec: JobSpec) {
        let words: Vec<OsString> = spec.argv.drain(..).map(OsString::from).collect();
        let job = serde_json::to_string_pretty(&spec).unwrap_or_default();
        // As text: a name may stand anywhere in it. It also makes the folder.
        self.put(&Record::Append {
            path: dir.join("job.json"),
            text: self.hide.text(&job),
        });
        self.replace(&dir.join("argv.json"), &self.shown(&words));
        self.learn(&words, true, "for a worker");
        self.put(&Record::Prune {
            sessions: self.dir.join("sessions"),
        });
    }

    fn replace(&self, path: &Path, value: &impl Serialize) {
        if let Ok(value) = serde_json::to_value(value) {
            let path = path.to_owned();
            self.put(&Record::Replace { path, value });
        }
    }

    fn learn(&self, words: &[OsString], remote: bool, verdict: &str) {
        let shape = learn::shape(words);
        match self.sink() {
            Sink::Here => learn::count(&self.dir, &shape, remote, verdict, || self.shown(words)),
            Sink::Apart(_) => self.put(&Record::Learn {
                dir: self.dir.clone(),
                shape,
                remote,
                verdict: verdict.to_owned(),
                example: self.shown(words),
            }),
        }
    }

    fn shown(&self, words: &[OsString]) -> Vec<String> {
        let shown = |word: &OsString| self.hide.text(&word.to_string_lossy());
        words.iter().map(shown).collect()
    }

    /// A measured value or a name that belongs to the session's result.
    pub fn fact(&self, name: &'static str, value: impl fmt::Display) {
        if let Ok(mut session) = self.session.lock() {
            session.facts.insert(name, value.to_string());
        }
    }

    /// The same for a moment: milliseconds since the start.
    pub fn moment(&self, name: &'static str) {
        self.fact(name, self.started.elapsed().as_millis());
    }

    /// Something happened in the session.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        let Ok(mut session) = self.session.lock() else {
            return;
        };
        let text = || line(&self.hide, what);
        if let Some(file) = session.events.as_mut() {
            let _ = file.write_all(text().as_bytes());
        } else if let (Some(path), Sink::Apart(_)) = (session.timeline.clone(), self.sink()) {
            self.put(&Record::Append { path, text: text() });
        }
    }

    /// PMS hears of the first segment: from here on it is a transcode of a worker, however PMS ends it.
    pub fn first_segment(&self) {
        self.moment("first_segment_ms");
        self.event(format_args!(
            "first segment announced after {} ms",
            self.started.elapsed().as_millis()
        ));
        let facts = self.session.lock().map(|session| {
            let facts = session.facts.iter();
            facts
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        });
        self.master(format_args!("remote: {}", facts.unwrap_or_default()));
    }

    /// The end of a playback that stays this process to its end.
    pub fn ended(&self, code: u8) {
        let told = self.session.lock().is_ok_and(|session| session.told);
        if !told {
            self.master(format_args!("remote: exit {code} before the first segment"));
        } else if code != 0 && code != 255 {
            self.trouble(format_args!("remote: exit {code} after the first segment"));
        }
        let keeping = self.session.lock().ok().and_then(|mut s| s.keeping.take());
        // Nothing is ever sent: it ends with the sender, or in time.
        let _ = keeping.map(|keeping| keeping.recv_timeout(KEEPING));
        self.event(format_args!("exit {code}"));
        self.result("remote", Some(code), None);
    }

    /// The original takes over, or has the job from the beginning.
    pub fn local(&self, words: &[OsString], reason: &str) {
        self.master(format_args!("local: {reason}"));
        let (session, learned) = match self.session.lock() {
            Ok(session) => (session.job.is_some(), session.learned),
            Err(_) => return,
        };
        if session {
            self.event(format_args!("local: {reason}"));
            self.result("local", None, Some(self.hide.text(reason)));
            self.trouble(format_args!("local: {reason}"));
        }
        if !learned {
            self.learn(words, false, &self.hide.text(reason));
        }
    }

    fn result(&self, ran: &str, exit: Option<u8>, reason: Option<String>) {
        let Ok(session) = self.session.lock() else {
            return;
        };
        let Some(job) = &session.job else { return };
        let facts = session.facts.iter();
        let end = EndOfSession {
            ran: ran.to_owned(),
            exit,
            reason,
            seconds: self.started.elapsed().as_secs_f64(),
            facts: facts
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        let dir = self.dir.join("sessions").join(job.as_str());
        self.replace(&dir.join("result.json"), &end);
    }

    /// The one line of this process in `master.log`.
    pub fn master(&self, what: fmt::Arguments<'_>) {
        let job = match self.session.lock() {
            Ok(mut session) => {
                session.told = true;
                session.job.clone()
            }
            Err(_) => None,
        };
        let text = match job {
            Some(job) => line(&self.hide, format_args!("{job} {what}")),
            None => line(&self.hide, what),
        };
        let path = self.dir.join("master.log");
        self.put(&Record::Line { path, text });
    }

    /// Something that an administrator should know of, in `cartridge_events.log`.
    pub fn trouble(&self, what: fmt::Arguments<'_>) {
        let job = self.session.lock().ok().and_then(|s| s.job.clone());
        let job = job.map_or(String::new(), |job| format!("{job} "));
        let text = line(&self.hide, format_args!("{job}{what}"));
        let path = self.dir.join(EVENTS);
        self.put(&Record::Line { path, text });
    }
}

/// Installation, updates, troubles.
const EVENTS: &str = "cartridge_events.log";

/// Adds a line to `cartridge_events.log`, where its directory is there.
pub(crate) fn events(dir: &Path, what: fmt::Arguments<'_>) {
    if dir.is_dir() {
        let text = line(&Hide::default(), what);
        store::append_rotated(&dir.join(EVENTS), text.as_bytes());
    }
}

/// A line with date and process, whatever is in the text.
fn line(hide: &Hide, what: fmt::Arguments<'_>) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Date(since.map_or(0, |d| d.as_millis() as u64));
    let what = hide.text(&what.to_string()).replace(['\n', '\r'], " ");
    format!("{now} [{}] {what}\n", std::process::id())
}

/// The job without the contents of its side files.
fn without_data(spec: &JobSpec) -> JobSpec {
    let mut spec = spec.clone();
    for location in spec
        .inputs
        .iter_mut()
        .flat_map(|input| &mut input.locations)
    {
        match location {
            Location::Inline { data, .. } => *data = Vec::new(),
            Location::Path { .. } | Location::Url { .. } => {}
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_written_is_no_error() {
        let log = Log::new(Path::new("/proc/nowhere"), &[], false);
        log.event(format_args!("lost"));
        log.master(format_args!("lost"));
        log.local(&["-version".into()], "lost");
        log.ended(1);
    }

    #[test]
    fn a_start_that_stays_here_is_one_line_and_one_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["-i", "/films/The Name.mkv", "-f", "null", "-"].map(OsString::from);
        let log = Log::new(dir.path(), &words, true);
        log.local(&words, "no input /films/The Name.mkv\nat all");
        let text = std::fs::read_to_string(dir.path().join("master.log")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.contains("] local: no input <media ") && text.ends_with(" at all\n"),
            "{text}"
        );
        let patterns = learn::patterns(dir.path());
        assert_eq!((patterns.len(), patterns[0].1, patterns[0].2), (1, 0, 1));
        let all = format!("{text}{patterns:?}");
        assert!(!all.contains("The Name"), "{all}");
        assert!(!dir.path().join("sessions").exists());
        assert!(!dir.path().join(EVENTS).exists());
    }
}
