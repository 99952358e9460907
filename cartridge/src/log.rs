//! Logs: one line per transcode in `master.log`, what happened in `sessions/<job>.log`. Logging never
//! fails a job and never writes to stdout or stderr, which belong to PMS.

use plexbeam_api::{Id, manifest::mpd::Date};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Session logs that are kept; the oldest go first.
const KEEP: usize = 200;

/// The logs of this process. Clones write to the same files.
#[derive(Debug, Clone)]
pub struct Log {
    dir: PathBuf,
    session: Arc<Mutex<Session>>,
}

/// What is known of the session, once it is.
#[derive(Debug, Default)]
struct Session {
    job: Option<Id>,
    events: Option<File>,
}

impl Log {
    /// Logs below this directory, which need not exist or be writable.
    pub fn new(dir: &Path) -> Self {
        Log {
            dir: dir.to_owned(),
            session: Arc::default(),
        }
    }

    /// Opens the session's own log.
    pub fn open_session(&self, job: &Id) {
        let dir = self.dir.join("sessions");
        // Where it cannot be made, opening the log fails and nothing is logged.
        let _ = std::fs::create_dir_all(&dir);
        prune(&dir);
        if let Ok(mut session) = self.session.lock() {
            session.events = append(&dir.join(format!("{job}.log")));
            session.job = Some(job.clone());
        }
    }

    /// Something happened in the session.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        if let Ok(mut session) = self.session.lock()
            && let Some(file) = session.events.as_mut()
        {
            write(file, what);
        }
    }

    /// The one line of this process in `master.log`.
    pub fn master(&self, what: fmt::Arguments<'_>) {
        let _ = std::fs::create_dir_all(&self.dir);
        let job = self.session.lock().ok().and_then(|s| s.job.clone());
        if let Some(mut file) = append(&self.dir.join("master.log")) {
            match job {
                Some(job) => write(&mut file, format_args!("{job} {what}")),
                None => write(&mut file, what),
            }
        }
    }
}

/// Adds a line to `cartridge_events.log`.
pub(crate) fn events(dir: &Path, what: fmt::Arguments<'_>) {
    if let Some(mut file) = append(&dir.join("cartridge_events.log")) {
        write(&mut file, what);
    }
}

fn append(path: &Path) -> Option<File> {
    OpenOptions::new().create(true).append(true).open(path).ok()
}

/// One write per line, so that lines of several processes do not mix.
fn write(file: &mut File, what: fmt::Arguments<'_>) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Date(since.map_or(0, |d| d.as_millis() as u64));
    let what = what.to_string().replace(['\n', '\r'], " ");
    let line = format!("{now} [{}] {what}\n", std::process::id());
    let _ = file.write_all(line.as_bytes());
}

fn prune(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut logs: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .filter(|(_, path)| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    let surplus = (logs.len() + 1).saturating_sub(KEEP);
    for (_, path) in logs.into_iter().take(surplus) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_per_call_and_never_more() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path());
        log.event(format_args!("before the session is known: nowhere"));
        log.open_session(&"a-b".parse().unwrap());
        log.event(format_args!("two\nlines"));
        log.master(format_args!("done"));
        let text = std::fs::read_to_string(dir.path().join("sessions/a-b.log")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("two lines\n"));
        let text = std::fs::read_to_string(dir.path().join("master.log")).unwrap();
        assert!(text.ends_with("] a-b done\n"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_no_error() {
        let log = Log::new(Path::new("/proc/nowhere"));
        log.open_session(&"a".parse().unwrap());
        log.event(format_args!("lost"));
        log.master(format_args!("lost"));
    }

    #[test]
    fn old_session_logs_go() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEEP + 20 {
            std::fs::write(dir.path().join(format!("{n}.log")), "").unwrap();
        }
        std::fs::write(dir.path().join("not-ours.txt"), "").unwrap();
        prune(dir.path());
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, KEEP - 1 + 1);
        assert!(dir.path().join("not-ours.txt").exists());
    }
}
