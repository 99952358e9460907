//! A fake worker on loopback, a mount on a temporary directory, and waiting with a deadline.

// Also where this file is included by its path.
#[path = "support/worker.rs"]
mod worker;

pub(crate) use worker::*;

use bytes::Bytes;
use plexbeam_api::{
    Id, Segment,
    checksum::Checksum,
    mount::{Binding, XATTR_CACHE, XATTR_HELD, XATTR_SOURCE},
    segment::{Digest, SegmentKind},
};
use plexbeam_fusefs::{FsConfig, Mounted, Secret, mount};
use rustix::io::Errno;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Key of all fake workers.
pub(crate) const KEY: &str = "test-key";

/// False, loudly, where no mount can be made.
pub(crate) fn can_mount() -> bool {
    let possible = rustix::process::geteuid().is_root() && std::fs::exists("/dev/fuse").unwrap();
    if !possible {
        eprintln!("\n*** SKIPPED: this test needs root and /dev/fuse ***\n");
    }
    possible
}

/// Waits until the condition holds; panics after half a minute.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes that depend on the seed and do not repeat.
pub(crate) fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// A media segment of one rendition.
pub(crate) fn segment(
    name: &str,
    bytes: &Bytes,
    rendition: Option<u32>,
    number: Option<u32>,
) -> Segment {
    Segment {
        output: 0,
        rendition,
        kind: if number.is_some() {
            SegmentKind::Media
        } else {
            SegmentKind::Init
        },
        number,
        name: name.parse().unwrap(),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        checksum: Some(Checksum::of(bytes)),
        time_scale: 1000,
        pts: 0,
        duration: 5000,
        times: None,
        rendition_info: None,
    }
}

/// A mount with one fake worker.
pub(crate) struct Env {
    // The mount ends before its directories.
    _mounted: Mounted,
    pub(crate) worker: FakeWorker,
    pub(crate) dir: tempfile::TempDir,
}

impl Env {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A mount of another configuration.
    pub(crate) fn with(change: impl FnOnce(&mut FsConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let worker = FakeWorker::start("worker-1");
        let mountpoint = dir.path().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let mut config = FsConfig::new(&mountpoint);
        config.allow_other = true;
        config.cache.dir = Some(dir.path().join("cache"));
        config.remote.workers = vec![worker.url()];
        config.remote.api_key = Some(Secret::new(KEY));
        config.remote.health_every = Duration::from_millis(200);
        change(&mut config);
        let mounted = mount(&config).unwrap();
        mounted.wait_workers(Duration::from_secs(20));
        Env {
            _mounted: mounted,
            worker,
            dir,
        }
    }

    /// A path in the mount.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }

    /// Makes a directory and binds it.
    pub(crate) fn bind(&self, dir: &str, session: &str) -> PathBuf {
        let path = self.path(dir);
        std::fs::create_dir(&path).unwrap();
        self.bind_again(dir, session, 1).unwrap();
        path
    }

    pub(crate) fn bind_again(&self, dir: &str, session: &str, epoch: u64) -> Result<(), Errno> {
        set(
            &self.path(dir),
            XATTR_SOURCE,
            &binding("worker-1", session, epoch),
        )
    }

    /// The announcement's wait, as the cartridge does it.
    pub(crate) fn wait_held(&self, dir: &str, name: &str) -> Result<String, Errno> {
        wait_held(&self.path(dir), name)
    }

    pub(crate) fn cache_usage(&self) -> plexbeam_api::mount::CacheUsage {
        let json = get_attribute(&self.path(""), XATTR_CACHE).unwrap();
        serde_json::from_str(&json).unwrap()
    }
}

pub(crate) fn wait_held(dir: &std::path::Path, name: &str) -> Result<String, Errno> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match get_attribute(dir, &format!("{XATTR_HELD}.{name}")) {
            Err(Errno::AGAIN | Errno::BUSY) => {
                assert!(Instant::now() < deadline, "{name} is never held")
            }
            other => return other,
        }
    }
}

pub(crate) fn binding(worker: &str, session: &str, epoch: u64) -> Vec<u8> {
    let binding = Binding {
        worker: id(worker),
        session: id(session),
        token: "very-secret-token".into(),
        patterns: vec![
            "init-stream*.m4s".into(),
            "chunk-stream*-*.m4s".into(),
            "header".into(),
        ],
        epoch,
    };
    serde_json::to_vec(&binding).unwrap()
}

pub(crate) fn set(path: &std::path::Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

pub(crate) fn get_attribute(path: &std::path::Path, name: &str) -> Result<String, Errno> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(path, name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(String::from_utf8(value).unwrap())
}

pub(crate) fn names(path: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The errno of a failed call.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}
