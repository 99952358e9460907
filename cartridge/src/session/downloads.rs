//! The names that downloads give to files of the session directory. Until the first announcement all
//! of them can be taken back, and then no more are given: the original writes the same names.
//!
//! Every step runs on a thread, because the directory may be in a file system that hangs, and runs
//! to its end there even where nobody waits any more. So each one holds the lock from its decision to
//! its last system call, and taking back comes either before it or after it.

use crate::bounded::bounded;
use crate::client::{self, FetchError};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a file system may take to remove a name while everything else waits.
const REMOVE: Duration = Duration::from_millis(300);

/// The names of one playback; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Downloads {
    given: Arc<Mutex<Given>>,
    /// PMS may know of a segment: what is there stays.
    announced: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Given {
    names: Vec<PathBuf>,
    taken_back: bool,
}

/// A file that has not its final name yet. Dropped, also in the middle of a step, it leaves nothing.
pub(super) struct Temporary {
    path: PathBuf,
    downloads: Downloads,
    /// It may be there.
    made: bool,
}

impl Downloads {
    /// None yet; they stay once this is true.
    pub(super) fn new(announced: Arc<AtomicBool>) -> Self {
        Downloads {
            given: Arc::default(),
            announced,
        }
    }

    /// A place for the file that is to be `last` in the end.
    pub(super) fn temporary(&self, last: &Path) -> Temporary {
        let name = last.file_name().unwrap_or_default().to_string_lossy();
        Temporary {
            // A leading dot is no file name of any session, so that this one cannot be asked for.
            path: last.with_file_name(format!(".{name}.part")),
            downloads: self.clone(),
            made: false,
        }
    }

    /// Removes every name that was given and refuses all others. Blocks as long as the file system does.
    pub(super) fn take_back(&self) {
        self.change(|given| {
            given.taken_back = true;
            for path in std::mem::take(&mut given.names) {
                let _ = fs::remove_file(path);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Given) -> T) -> T {
        change(&mut self.given.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One step, on a thread.
    async fn step<T: Send + 'static>(
        &self,
        deadline: Instant,
        step: impl FnOnce(&mut Given) -> io::Result<T> + Send + 'static,
    ) -> Result<T, FetchError> {
        let downloads = self.clone();
        let running = tokio::task::spawn_blocking(move || {
            downloads.change(|given| match given.taken_back {
                true => Err(io::Error::other("the original takes over")),
                false => step(given),
            })
        });
        match timeout_at(deadline, running).await {
            Ok(done) => Ok(done.map_err(io::Error::other)??),
            Err(_) => Err(client::late()),
        }
    }
}

impl Given {
    fn forget(&mut self, path: &Path) {
        self.names.retain(|name| name != path);
    }
}

impl Temporary {
    /// Opens it empty. What has its name is from a process that was killed, or from an earlier try.
    pub(super) async fn create(&mut self, deadline: Instant) -> Result<File, FetchError> {
        self.made = true;
        let path = self.path.clone();
        let create = move |given: &mut Given| {
            let _ = fs::remove_file(&path);
            given.forget(&path);
            given.names.push(path.clone());
            File::create_new(path)
        };
        self.downloads.step(deadline, create).await
    }

    /// Gives it its final name.
    pub(super) async fn settle(
        &mut self,
        last: PathBuf,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        let (path, announced) = (self.path.clone(), self.downloads.announced.clone());
        let settle = move |given: &mut Given| {
            fs::rename(&path, &last)?;
            given.forget(&path);
            match announced.load(Ordering::Relaxed) {
                // The original will not take over any more.
                true => given.names = Vec::new(),
                false => given.names.push(last),
            }
            Ok(())
        };
        self.downloads.step(deadline, settle).await?;
        self.made = false;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.made {
            let (path, downloads) = (std::mem::take(&mut self.path), self.downloads.clone());
            let discard = move |given: &mut Given| {
                let _ = fs::remove_file(&path);
                given.forget(&path);
            };
            let _ = bounded(REMOVE, move || downloads.change(discard));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::within;
    use std::io::Write;
    use std::sync::mpsc;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    async fn download(downloads: Downloads, last: PathBuf) -> Result<(), FetchError> {
        let deadline = within(Duration::from_secs(10));
        let mut temporary = downloads.temporary(&last);
        let mut file = temporary.create(deadline).await?;
        file.write_all(b"ours")?;
        temporary.settle(last, deadline).await
    }

    #[tokio::test]
    async fn nothing_is_given_after_the_names_were_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let last = |n: u32| dir.path().join(format!("media-{n:05}.ts"));
        let downloads = Downloads::default();
        download(downloads.clone(), last(1)).await.unwrap();
        let deadline = within(Duration::from_secs(10));
        let mut open = downloads.temporary(&last(2));
        drop(open.create(deadline).await.unwrap());
        downloads.take_back();
        assert_eq!(names(dir.path()), [] as [&str; 0]);
        // What the original writes under the same name is not touched.
        fs::write(last(2), b"the original's").unwrap();
        open.settle(last(2), deadline).await.unwrap_err();
        drop(open);
        download(downloads, last(2)).await.unwrap_err();
        assert_eq!(fs::read(last(2)).unwrap(), b"the original's");
        assert_eq!(names(dir.path()).len(), 1);
    }

    #[tokio::test]
    async fn a_step_that_nobody_waits_for_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let downloads = Downloads::default();
        let mut temporary = downloads.temporary(&dir.path().join("media-00001.ts"));
        // The file system hangs: the step is under way when the task is given up.
        let (let_go, held_up) = mpsc::channel::<()>();
        let other = downloads.clone();
        let (tell, told) = mpsc::channel();
        let slow = std::thread::spawn(move || {
            other.change(|_| {
                tell.send(()).unwrap();
                held_up.recv().unwrap();
            });
        });
        told.recv().unwrap();
        temporary
            .create(within(Duration::from_millis(10)))
            .await
            .unwrap_err();
        drop(temporary);
        let_go.send(()).unwrap();
        slow.join().unwrap();
        downloads.take_back();
        // Those that were waiting go through now, in any order.
        while Arc::strong_count(&downloads.given) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn names_are_not_collected_once_they_stay() {
        let dir = tempfile::tempdir().unwrap();
        let downloads = Downloads::new(Arc::new(AtomicBool::new(true)));
        for n in 0..10 {
            let last = dir.path().join(format!("media-{n:05}.ts"));
            download(downloads.clone(), last).await.unwrap();
        }
        assert_eq!(downloads.change(|given| given.names.capacity()), 0);
        assert_eq!(names(dir.path()).len(), 10);
    }
}
