//! Readers and writers of a mount that comes and goes.

use crate::{Held, support::*};
use rustix::fs::{Mode, OFlags, RawDir};
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Readers and writers that go on until they are stopped; each error is noted.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    errors: Arc<Mutex<BTreeMap<String, u64>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(root: &Path, held: &Held) -> Self {
        let mut load = Load {
            stop: Arc::default(),
            done: Arc::default(),
            errors: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let (dir, files) = (held.dir.clone(), held.files.clone());
            load.spawn("read", move || {
                for (name, bytes) in &files {
                    let read = fs::read(dir.join(name))?;
                    assert!(read == *bytes, "{name} has other bytes");
                }
                Ok(())
            });
        }
        let (dir, expected) = (held.dir.clone(), held.files.len());
        load.spawn("list", move || {
            // Not by `readdir(3)`, which takes ENOENT for the end of the directory.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&dir, flags, Mode::empty())?;
            let kind = rustix::fs::fstatfs(&opened)?.f_type;
            let mut buffer = Vec::with_capacity(16 << 10);
            let mut names = 0;
            let mut list = RawDir::new(&opened, buffer.spare_capacity_mut());
            while let Some(name) = list.next() {
                let name = name?.file_name().to_owned();
                fs::symlink_metadata(dir.join(name.to_str().unwrap()))?;
                names += 1;
            }
            assert!(names >= expected + 2, "{names} names, file system {kind:x}");
            Ok(())
        });
        let own = root.join("own");
        fs::create_dir(&own).unwrap();
        load.spawn("write", move || {
            let (one, two) = (own.join("one"), own.join("two"));
            fs::write(&one, "written through the mount")?;
            // By two absolute paths it could look up one before an upgrade and the other after it:
            // two file systems, so EXDEV.
            let here = fs::File::open(&own)?;
            rustix::fs::renameat(&here, "one", &here, "two")?;
            assert_eq!(fs::read(&two)?, b"written through the mount");
            fs::remove_file(&two)?;
            fs::create_dir(own.join("sub"))?;
            fs::remove_dir(own.join("sub"))
        });
        load
    }

    fn spawn(
        &mut self,
        what: &'static str,
        mut once: impl FnMut() -> io::Result<()> + Send + 'static,
    ) {
        let (stop, done) = (self.stop.clone(), self.done.clone());
        let errors = self.errors.clone();
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match once() {
                    Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        let text = format!("{what}: {error}");
                        *errors.lock().unwrap().entry(text).or_default() += 1;
                    }
                }
            }
        }));
    }

    /// Returns when every thread may have come round since.
    pub(crate) fn go_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the load goes on", || {
            self.done.load(Ordering::Relaxed) > before + 8
        });
    }

    pub(crate) fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let errors = self.errors.lock().unwrap();
        errors.clone()
    }
}
