//! The settings of each room, as plain values; [`crate::cli`] builds them.

use crate::{device::Wish, input::InputPolicy};
use sha2::{Digest, Sha256};
use std::{ffi::OsString, fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// A key or token: compared in constant time, never shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps this text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// 256 random bits as 64 hex digits.
    pub fn random() -> Self {
        let mut text = String::with_capacity(64);
        for byte in rand::random::<[u8; 32]>() {
            text.push_str(&format!("{byte:02x}"));
        }
        Secret(text)
    }

    /// True when `offered` is this secret. The time taken tells nothing of where they differ: both
    /// sides are hashed first and all bytes of the hashes are compared.
    pub fn is(&self, offered: &[u8]) -> bool {
        let ours = Sha256::digest(self.0.as_bytes());
        let theirs = Sha256::digest(offered);
        let differ = ours
            .iter()
            .zip(theirs.iter())
            .fold(0u8, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differ) == 0
    }

    /// The text, for the one answer that must carry it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// All settings of `plexbeam-worker serve`.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Shared key; `None` only on loopback.
    pub api_key: Option<Secret>,
    /// Written with the bound address once the socket listens.
    pub address_file: Option<PathBuf>,
    /// Folder that holds our marked subfolder; `None` takes one in the system's temporary folder.
    pub spool: Option<PathBuf>,
    /// Device wished for.
    pub hw: Wish,
    /// How long running jobs may go on after the first stop signal.
    pub drain_timeout: Duration,
    /// Sessions and places.
    pub sessions: SessionConfig,
    /// Ceiling of the spool.
    pub store: StoreConfig,
    /// The job child.
    pub child: ChildConfig,
}

/// Places, queue and retention.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Jobs that run at once.
    pub max_jobs: u32,
    /// Jobs that may wait for a place.
    pub max_queue: u32,
    /// How long an ended session keeps its files after the last access.
    pub retention: Duration,
    /// Ended sessions that are remembered at most; the oldest goes first.
    pub max_ended: usize,
    /// What paths a job may read.
    pub policy: InputPolicy,
    /// See [`crate::pipeline::Task::fast_start`].
    pub fast_start: bool,
    /// Jobs whose first files are kept for the next start of the same.
    pub beginnings: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            max_jobs: default_max_jobs(),
            max_queue: 16,
            retention: Duration::from_secs(24 * 3600),
            max_ended: 1000,
            policy: InputPolicy::default(),
            fast_start: false,
            beginnings: 16,
        }
    }
}

/// Half of the cores, at least one: one software encoder keeps about two cores busy.
pub fn default_max_jobs() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    (cores / 2).clamp(1, 64) as u32
}

/// Ceiling and patience of the spool.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Most bytes of segments on disk, those being written included.
    pub ceiling: u64,
    /// How long a job may wait for room before it fails.
    pub patience: Duration,
    /// An ended session that was read this lately keeps what nobody fetched yet.
    pub grace: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            ceiling: 8 << 30,
            patience: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(30),
        }
    }
}

/// Ceiling of a job's private memory where none is set: half of the machine's, from 2 to 8 GiB. A
/// software job in 4K takes below 2 GiB; a hostile file takes what it gets.
pub fn default_job_memory() -> u64 {
    let total = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        })
        .map_or(8 << 30, |kib| kib << 10);
    (total / 2).clamp(2 << 30, 8 << 30)
}

/// How the job child is started.
#[derive(Debug, Clone)]
pub struct ChildConfig {
    /// Program; the worker itself.
    pub program: PathBuf,
    /// Arguments that make it a job child; `--parent PID` is appended.
    pub args: Vec<OsString>,
    /// Environment added to the worker's own.
    pub env: Vec<(OsString, OsString)>,
    /// Ceiling of the child's private memory in bytes; `None` for none.
    pub memory: Option<u64>,
    /// Silence after which a child counts as hung. It says that it is alive each second.
    pub silence: Duration,
    /// How long a job may read nothing and make nothing, neither paused nor waiting for room in the
    /// spool. Longer than the longest stall of a network that is still waited for (20 s), and than
    /// the longest single frame.
    pub stall: Duration,
    /// From the message to cancel until it is killed.
    pub cancel_grace: Duration,
    /// Longest that the next spare waits for a job's first segment. Loading it costs tenths of a
    /// second of processor time that would be that segment's.
    pub spare_patience: Duration,
}

impl ChildConfig {
    /// `PROGRAM job`.
    pub fn of(program: PathBuf) -> Self {
        ChildConfig {
            program,
            args: vec!["job".into()],
            env: Vec::new(),
            memory: None,
            silence: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(2),
            spare_patience: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_itself_only_and_is_never_shown() {
        let key = Secret::new("k-1234");
        assert!(key.is(b"k-1234"));
        for wrong in ["", "k-123", "k-12345", "K-1234"] {
            assert!(!key.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{key:?}").contains("1234"));
        assert_ne!(Secret::random().reveal(), Secret::random().reveal());
        assert_eq!(Secret::random().reveal().len(), 64);
    }
}
