//! Flags and their `PLEXBEAM_*` twins, and what they make of the library's configuration.

use clap::Parser;
use plexbeam_fusefs::{
    BadWorkerUrl, CacheConfig, FsConfig, RemoteConfig, Secret, Shown, WorkerUrl,
};
use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

const COMMANDS: &str = "Commands for a mount that is there:
  plexbeam-mount status MOUNTPOINT [--json]  how it is doing
  plexbeam-mount upgrade MOUNTPOINT          go on with the program that is installed now
  plexbeam-mount umount MOUNTPOINT           take it back

As mount.plexbeam it is the helper of mount(8); see the README for /etc/fstab.";

/// Show the segments of PlexBeam workers as files.
///
/// The directory under the mountpoint stays usable through the mount: Plex makes its session
/// directories there, and a local transcoder writes there. `sessions/` shows all sessions of the
/// workers. Without --foreground the command returns when the mount is there.
#[derive(Parser)]
#[command(name = "plexbeam-mount", version, about, after_help = COMMANDS)]
pub(crate) struct CliArgs {
    /// Directory to mount on; Plex's transcoder directory
    #[arg(value_name = "MOUNTPOINT", env = "PLEXBEAM_MOUNTPOINT")]
    mountpoint: PathBuf,

    /// Worker to fetch from, as http://HOST:PORT; may be repeated
    #[arg(
        long = "worker",
        value_name = "URL",
        env = "PLEXBEAM_WORKERS",
        value_delimiter = ',',
        help_heading = "Workers"
    )]
    workers: Vec<MaybeWorker>,

    /// The flag's own twin, beside the list that all programs share.
    #[arg(long, hide = true, env = "PLEXBEAM_WORKER", value_delimiter = ',')]
    worker_alias: Vec<MaybeWorker>,

    /// Key shared with the workers
    #[arg(
        long,
        value_name = "K",
        env = "PLEXBEAM_API_KEY",
        hide_env_values = true,
        help_heading = "Workers"
    )]
    api_key: Option<Key>,

    /// Folder that takes what is written [default: the directory under the mountpoint]
    #[arg(
        long,
        value_name = "DIR",
        env = "PLEXBEAM_BACKING",
        help_heading = "Storage"
    )]
    backing: Option<PathBuf>,

    /// Folder of the segment cache [default: plexbeam-mount-UID in the temporary folder]
    #[arg(
        long,
        value_name = "DIR",
        env = "PLEXBEAM_CACHE_DIR",
        help_heading = "Storage"
    )]
    cache_dir: Option<PathBuf>,

    /// Mount a tmpfs with large pages on the cache folder: faster, and spares the disk; needs root
    #[arg(long, env = "PLEXBEAM_CACHE_IN_MEMORY", help_heading = "Storage")]
    pub(crate) cache_in_memory: bool,

    /// Most bytes of segments kept on this host; a hard ceiling
    #[arg(
        long,
        value_name = "SIZE",
        env = "PLEXBEAM_CACHE_SIZE",
        default_value = "2GiB",
        help_heading = "Storage"
    )]
    cache_size: Size,

    /// Longest wait of a read for bytes from a worker
    #[arg(
        long,
        value_name = "TIME",
        env = "PLEXBEAM_READ_DEADLINE",
        default_value = "20s",
        help_heading = "Storage"
    )]
    read_deadline: Time,

    /// Serve input files to workers here, under signed URLs
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PLEXBEAM_EXPORT_MEDIA",
        help_heading = "Media"
    )]
    export_media: Option<SocketAddr>,

    /// Copy all bytes by hand also where the kernel can pass files through
    #[arg(long, env = "PLEXBEAM_NO_PASSTHROUGH", help_heading = "Process")]
    no_passthrough: bool,

    /// Let other users than the mounting one use the mount
    #[arg(long, env = "PLEXBEAM_ALLOW_OTHER", help_heading = "Process")]
    allow_other: bool,

    /// Show segments and sessions as this user's, by number [default: the owner of the directory]
    #[arg(
        long,
        value_name = "UID",
        env = "PLEXBEAM_UID",
        help_heading = "Process"
    )]
    uid: Option<u32>,

    /// Show segments and sessions as this group's, by number [default: the directory's group]
    #[arg(
        long,
        value_name = "GID",
        env = "PLEXBEAM_GID",
        help_heading = "Process"
    )]
    gid: Option<u32>,

    /// Bits, octal, that segments (of 0666) and sessions (of 0777) are shown without
    /// [default: 0644 for segments, 0640 and 0750 under sessions/]
    #[arg(long, value_name = "MASK", env = "PLEXBEAM_UMASK", value_parser = octal, help_heading = "Process")]
    umask: Option<u16>,

    /// Stay in the foreground and log to standard error
    #[arg(long, env = "PLEXBEAM_FOREGROUND", help_heading = "Process")]
    foreground: bool,

    /// Stay without the process that watches over the mount and replaces it when it dies or hangs
    #[arg(long, env = "PLEXBEAM_NO_SUPERVISE", help_heading = "Process")]
    pub(crate) no_supervise: bool,

    /// Time without an answer after which the mount counts as hung and is replaced
    #[arg(
        long,
        value_name = "TIME",
        env = "PLEXBEAM_HANG_TIMEOUT",
        default_value = "5s",
        help_heading = "Process"
    )]
    hang_timeout: Time,

    /// File with settings: the long flags without dashes, as TOML; flags and environment win
    /// [default: /etc/plexbeam/mount.toml, where it is]
    #[arg(
        long,
        value_name = "FILE",
        env = "PLEXBEAM_MOUNT_CONFIG",
        help_heading = "Process"
    )]
    pub(crate) config: Option<PathBuf>,

    /// Append the log to this file
    #[arg(
        long,
        value_name = "FILE",
        env = "PLEXBEAM_LOG_FILE",
        help_heading = "Process"
    )]
    pub(crate) log_file: Option<PathBuf>,

    /// What is logged, e.g. `info` or `plexbeam_fusefs=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "PLEXBEAM_LOG",
        default_value = "info",
        help_heading = "Process"
    )]
    pub(crate) log: String,

    /// Given by the command to its background process, which answers on its standard output.
    #[arg(long, hide = true)]
    pub(crate) tell_parent: bool,

    /// Given by the supervisor to the process that serves.
    #[arg(long, hide = true)]
    pub(crate) instance: bool,

    /// What this was read from, for the processes that the supervisor starts.
    #[arg(skip)]
    pub(crate) arguments: Vec<OsString>,
}

/// A worker, or the empty text that a variable left blank gives.
#[derive(Debug, Clone)]
pub(crate) struct MaybeWorker(Option<WorkerUrl>);

impl std::str::FromStr for MaybeWorker {
    type Err = BadWorkerUrl;

    fn from_str(text: &str) -> Result<Self, BadWorkerUrl> {
        if text.trim().is_empty() {
            Ok(MaybeWorker(None))
        } else {
            text.parse().map(|worker| MaybeWorker(Some(worker)))
        }
    }
}

/// A key; not shown by `--help` or in debug output.
#[derive(Clone)]
pub(crate) struct Key(String);

impl std::str::FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What cannot stand in a header would fail at each request.
        if text.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
            Ok(Key(text.to_owned()))
        } else {
            Err("the key may hold visible ASCII characters only".into())
        }
    }
}

fn octal(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mask| *mask <= 0o777)
        .ok_or_else(|| "write octal digits up to 777, such as 027".into())
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [
            ("", 1),
            ("b", 1),
            ("k", 1 << 10),
            ("kib", 1 << 10),
            ("kb", 1_000),
            ("m", 1 << 20),
            ("mib", 1 << 20),
            ("mb", 1_000_000),
            ("g", 1 << 30),
            ("gib", 1 << 30),
            ("gb", 1_000_000_000),
            ("t", 1 << 40),
            ("tib", 1 << 40),
            ("tb", 1_000_000_000_000),
        ];
        number_and_unit(text, &units)
            .filter(|bytes| *bytes >= 1 << 20)
            .map(Size)
            .ok_or_else(|| "write a size of at least 1MiB, such as 512MiB or 2GiB".into())
    }
}

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(Duration);

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [
            ("ms", 1),
            ("s", 1_000),
            ("", 1_000),
            ("m", 60_000),
            ("min", 60_000),
        ];
        number_and_unit(text, &units)
            .filter(|ms| (100..=600_000).contains(ms))
            .map(|ms| Time(Duration::from_millis(ms)))
            .ok_or_else(|| "write a time from 100ms to 10m, such as 20s".into())
    }
}

fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// A path that stays right when the process changes its directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

impl CliArgs {
    /// The process is to stay.
    pub(crate) fn stays(&self) -> bool {
        self.foreground || self.tell_parent
    }

    /// Time without an answer after which the mount counts as hung.
    pub(crate) fn hang_timeout(&self) -> Duration {
        self.hang_timeout.0
    }

    /// Folder of the caches, when it was named.
    pub(crate) fn cache_dir(&self) -> Option<PathBuf> {
        self.cache_dir.as_deref().map(absolute)
    }

    /// The library's configuration.
    pub(crate) fn fs_config(&self) -> FsConfig {
        let named = |list: &[MaybeWorker]| {
            let mut workers: Vec<WorkerUrl> = Vec::new();
            for worker in list.iter().filter_map(|worker| worker.0.as_ref()) {
                if !workers.contains(worker) {
                    workers.push(worker.clone());
                }
            }
            workers
        };
        let mut workers = named(&self.workers);
        if workers.is_empty() {
            workers = named(&self.worker_alias);
        }
        // A variable left blank is no key.
        let api_key = self.api_key.as_ref().filter(|key| !key.0.is_empty());
        FsConfig {
            backing: self.backing.as_deref().map(absolute),
            allow_other: self.allow_other,
            shown: Shown {
                uid: self.uid,
                gid: self.gid,
                umask: self.umask,
            },
            passthrough: !self.no_passthrough,
            read_deadline: self.read_deadline.0,
            cache: CacheConfig {
                dir: self.cache_dir.as_deref().map(absolute),
                ceiling: self.cache_size.0,
            },
            remote: RemoteConfig {
                workers,
                api_key: api_key.map(|key| Secret::new(&key.0)),
                ..RemoteConfig::default()
            },
            media: self.export_media.map(plexbeam_fusefs::MediaConfig::new),
            ..FsConfig::new(absolute(&self.mountpoint))
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CliArgs::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!("2GiB".parse(), Ok(Size(2 << 30)));
        assert_eq!("32 MiB".parse(), Ok(Size(32 << 20)));
        assert_eq!("5MB".parse(), Ok(Size(5_000_000)));
        assert_eq!("1048576".parse(), Ok(Size(1 << 20)));
        for bad in ["", "0", "1KiB", "2XiB", "-1GiB", "99999999999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        assert_eq!("20s".parse(), Ok(Time(Duration::from_secs(20))));
        assert_eq!("500ms".parse(), Ok(Time(Duration::from_millis(500))));
        assert!("0s".parse::<Time>().is_err());
    }

    #[test]
    fn workers_come_as_flags_or_as_one_list() {
        let args = CliArgs::try_parse_from([
            "plexbeam-mount",
            "/m",
            "--worker",
            "http://a:1",
            "--worker",
            "http://b:2,http://a:1/",
        ]);
        let workers = args.unwrap().fs_config().remote.workers;
        let workers: Vec<&str> = workers.iter().map(WorkerUrl::as_str).collect();
        assert_eq!(workers, ["http://a:1", "http://b:2"]);
        let blank = ["plexbeam-mount", "/m", "--worker", "", "--api-key", ""];
        let blank = CliArgs::try_parse_from(blank).unwrap().fs_config().remote;
        assert!(blank.workers.is_empty() && blank.api_key.is_none());
        let refused = CliArgs::try_parse_from(["plexbeam-mount", "/m", "--worker", "https://a:1"]);
        assert!(refused.err().unwrap().to_string().contains("not there yet"));
    }
}
