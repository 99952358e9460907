//! The mount that is timed.

use super::{
    SHOWN,
    origin::{Origin, WORKER},
};
use crate::processor::spent;
use plexbeam_api::mount::{Binding, WorkerRow, XATTR_SOURCE, XATTR_WORKERS};
use plexbeam_tests::{
    env::{self, Process, program},
    wait,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mount of ours over the origin.
pub(super) struct Ours {
    process: Process,
    pub(super) point: PathBuf,
    cache: PathBuf,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.process.stop();
        let caches = fs::read_dir(&self.cache).into_iter().flatten().flatten();
        for left in caches.map(|cache| cache.path()).chain([self.point.clone()]) {
            // It may be gone already.
            let _ = rustix::mount::unmount(left, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

impl Ours {
    pub(super) fn start(
        root: &Path,
        name: &str,
        origin: &Origin,
        flags: &[&str],
    ) -> Result<Ours, String> {
        let point = root.join(name);
        fs::create_dir_all(&point).map_err(|e| e.to_string())?;
        let cache = root.join(format!("{name}-cache"));
        let mut command = env::clean(Command::new(program("plexbeam-mount")));
        command
            .arg(&point)
            .args([
                "--worker",
                &origin.url,
                "--cache-in-memory",
                // Its figures are those of the process that serves.
                "--no-supervise",
                "--foreground",
            ])
            .arg("--cache-dir")
            .arg(&cache)
            .args(flags);
        let process = Process::start(name, root, command);
        let ours = Ours {
            process,
            point,
            cache,
        };
        wait::until("the mount knows the worker", SHOWN, || {
            let rows = env::getxattr(&ours.point, XATTR_WORKERS)?;
            let rows: Vec<WorkerRow> = serde_json::from_slice(&rows).ok()?;
            rows.iter().any(|row| row.live).then_some(())
        });
        Ok(ours)
    }

    /// Makes a directory that shows a session.
    pub(super) fn bind(&self, dir: &str, session: &str) -> Result<PathBuf, String> {
        let path = self.point.join(dir);
        fs::create_dir(&path).map_err(|e| e.to_string())?;
        let parsed = |text: &str| text.parse().map_err(|e| format!("{text}: {e}"));
        let binding = Binding {
            worker: parsed(WORKER)?,
            session: parsed(session)?,
            token: "token".into(),
            patterns: vec!["*".into()],
            epoch: 1,
        };
        let value = serde_json::to_vec(&binding).map_err(|e| e.to_string())?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, XATTR_SOURCE, &value, flags).map_err(|e| e.to_string())?;
        Ok(path)
    }

    /// Seconds of processor that the daemon has used.
    pub(super) fn cpu(&self) -> f64 {
        spent(self.process.id()).unwrap_or_default()
    }
}

pub(super) fn shown(path: &Path) {
    wait::until(&format!("{} is shown", path.display()), SHOWN, || {
        fs::metadata(path).ok()
    });
}
