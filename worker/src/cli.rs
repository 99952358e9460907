//! Flags and their environment twins, turned into the rooms' settings.

use crate::{
    config::{
        ChildConfig, Secret, ServeConfig, SessionConfig, StoreConfig, default_job_memory,
        default_max_jobs,
    },
    device::Wish,
    error::StartError,
    input::InputPolicy,
};
use clap::{Args, Parser, Subcommand};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Transcode for Plex on this machine.
#[derive(Debug, Parser)]
#[command(name = "plexbeam-worker", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take jobs over HTTP and serve their segments.
    Serve(Box<ServeArgs>),
    /// Try every encoder of this machine and say which work.
    Probe(ProbeArgs),
    /// The process of one job, started by `serve`.
    #[command(hide = true)]
    Job(JobArgs),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one.
    ///
    /// Others than loopback need an API key.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8765",
        env = "PLEXBEAM_LISTEN"
    )]
    pub listen: SocketAddr,

    /// Key that callers send in X-API-Key.
    ///
    /// Prefer the environment: flags are visible to all users of this machine.
    #[arg(
        long,
        value_name = "KEY",
        env = "PLEXBEAM_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,

    /// Jobs that run at once [default: half of the cores].
    #[arg(long, value_name = "N", env = "PLEXBEAM_MAX_JOBS", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_jobs: Option<u32>,

    /// Jobs that may wait for a place.
    #[arg(long, value_name = "N", default_value_t = 16, env = "PLEXBEAM_MAX_QUEUE", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub max_queue: u32,

    /// Folder for finished segments; a subfolder of it is used and emptied at start.
    ///
    /// Default: one in the system's temporary folder, per port.
    #[arg(long, value_name = "DIR", env = "PLEXBEAM_SPOOL")]
    pub spool: Option<PathBuf>,

    /// Most bytes of segments on disk, e.g. 8GiB or 500MB.
    #[arg(long, value_name = "SIZE", default_value = "8GiB", env = "PLEXBEAM_SPOOL_SIZE", value_parser = parse_size)]
    pub spool_size: u64,

    /// Device that decodes and encodes: auto, none, cuda, vaapi or qsv, the last three with an
    /// address if wanted, e.g. vaapi:/dev/dri/renderD129 or cuda:1.
    ///
    /// What does not prove itself at start is not used. `vulkan` is experimental: it filters on a
    /// Vulkan device and encodes on the processor.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "PLEXBEAM_HW"
    )]
    pub hw: Wish,

    /// A path as the Plex host sees it and what it is here, e.g. /media=/mnt/nas; may be repeated.
    ///
    /// [env: PLEXBEAM_PATH_MAP, comma separated]
    #[arg(long, value_name = "FROM=TO")]
    pub path_map: Vec<String>,

    /// Folder that jobs may read from; may be repeated. Without any, jobs may read every path.
    ///
    /// [env: PLEXBEAM_MEDIA_ROOT, comma separated]
    #[arg(long, value_name = "DIR")]
    pub media_root: Vec<PathBuf>,

    /// How long running jobs may go on after the first SIGTERM, e.g. 10s; a second one ends at once.
    #[arg(long, value_name = "TIME", default_value = "10s", env = "PLEXBEAM_DRAIN_TIMEOUT", value_parser = parse_time)]
    pub drain_timeout: Duration,

    /// How long an ended session keeps its files after the last access.
    #[arg(long, value_name = "TIME", default_value = "24h", env = "PLEXBEAM_RETENTION", value_parser = parse_time)]
    pub retention: Duration,

    /// Ceiling of the private memory of one job, e.g. 4GiB; 0 for none [default: half of the
    /// machine's memory, from 2GiB to 8GiB].
    #[arg(long, value_name = "SIZE", env = "PLEXBEAM_JOB_MEMORY", value_parser = parse_ceiling)]
    pub job_memory: Option<u64>,

    /// Encode the first segment of a job with x264's next faster preset, where the job names `veryfast`
    /// and no finer options.
    ///
    /// It is there sooner and looks as well, but may take more than twice the bytes.
    #[arg(long, env = "PLEXBEAM_FAST_START")]
    pub fast_start: bool,

    /// Jobs whose first segments are kept in the spool, so that the same title started again in the
    /// same way is there at once; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 16, env = "PLEXBEAM_KEEP_BEGINNINGS", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub keep_beginnings: u16,

    /// File that gets the bound address once the worker listens.
    #[arg(long, value_name = "PATH", env = "PLEXBEAM_ADDRESS_FILE")]
    pub address_file: Option<PathBuf>,
}

/// Flags of `probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Device to try besides the processor; as for `serve`.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "PLEXBEAM_HW"
    )]
    pub hw: Wish,

    /// Try this alone, in this process: `software`, or a device with its address.
    #[arg(long, value_name = "DEVICE", hide = true)]
    pub only: Option<String>,
}

/// Flags of `job`.
#[derive(Debug, Clone, Copy, Args)]
pub struct JobArgs {
    /// Process id of the worker.
    #[arg(long)]
    pub parent: u32,

    /// Ceiling of private memory in bytes.
    #[arg(long)]
    pub memory: Option<u64>,

    /// How long the job may stand still, milliseconds.
    #[arg(long)]
    pub stall_ms: u64,
}

impl ServeArgs {
    /// The settings of the service. `env` looks up what clap cannot: lists in the environment.
    /// `program` is this binary, which is also the job child.
    pub fn into_config(
        self,
        env: impl Fn(&str) -> Option<String>,
        program: PathBuf,
    ) -> Result<ServeConfig, StartError> {
        let list = |name: &str| -> Vec<String> {
            let text = env(name).unwrap_or_default();
            let parts = text.split(',').map(str::trim);
            parts
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let api_key = self.api_key.map(check_key).transpose()?;
        if api_key.is_none() && !self.listen.ip().to_canonical().is_loopback() {
            return Err(StartError::OpenToAll(self.listen));
        }
        let maps = match self.path_map.is_empty() {
            true => list("PLEXBEAM_PATH_MAP"),
            false => self.path_map,
        };
        let roots = match self.media_root.is_empty() {
            true => list("PLEXBEAM_MEDIA_ROOT")
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            false => self.media_root,
        };
        let policy = InputPolicy {
            path_maps: maps
                .iter()
                .map(|map| parse_map(map))
                .collect::<Result<_, _>>()?,
            media_roots: check_roots(roots)?,
        };
        let mut child = ChildConfig::of(program);
        child.memory = match self.job_memory {
            None => Some(default_job_memory()),
            Some(0) => None,
            set => set,
        };
        Ok(ServeConfig {
            listen: self.listen,
            api_key,
            address_file: self.address_file,
            spool: self.spool,
            hw: self.hw,
            drain_timeout: self.drain_timeout,
            sessions: SessionConfig {
                max_jobs: self.max_jobs.unwrap_or_else(default_max_jobs),
                max_queue: self.max_queue,
                retention: self.retention,
                policy,
                fast_start: self.fast_start,
                beginnings: self.keep_beginnings.into(),
                ..SessionConfig::default()
            },
            store: StoreConfig {
                ceiling: self.spool_size,
                patience: self.retention.max(Duration::from_secs(60)),
                ..StoreConfig::default()
            },
            child,
        })
    }
}

fn setting(name: &'static str, fact: impl Into<String>) -> StartError {
    StartError::Setting {
        name,
        fact: fact.into(),
    }
}

fn check_key(key: String) -> Result<Secret, StartError> {
    if key.is_empty() {
        return Err(setting(
            "--api-key",
            "the key is empty; leave the setting out to run without one on loopback",
        ));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(setting(
            "--api-key",
            "the key must be of visible ASCII characters, since it travels in a header",
        ));
    }
    Ok(Secret::new(key))
}

fn parse_map(text: &str) -> Result<(String, String), StartError> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err(setting("--path-map", format!("`{text}` is not FROM=TO"))),
    }
}

fn check_roots(roots: Vec<PathBuf>) -> Result<Vec<PathBuf>, StartError> {
    for root in &roots {
        if !root.is_absolute() {
            let fact = format!("`{}` is no absolute path", root.display());
            return Err(setting("--media-root", fact));
        }
    }
    Ok(roots)
}

/// `8GiB`, `500MB`, `64K`, `123456`: a number and a unit, powers of 1024 with `i` or alone.
fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size like 8GiB, 500MB or 1000000");
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    match number.checked_mul(factor) {
        Some(0) | None => Err(bad()),
        Some(size) => Ok(size),
    }
}

/// A size, or 0 for no ceiling.
fn parse_ceiling(text: &str) -> Result<u64, String> {
    match text {
        "0" => Ok(0),
        size => parse_size(size),
    }
}

/// `500ms`, `10s`, `5m`, `24h`, `10` (seconds).
fn parse_time(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no time like 500ms, 10s, 5m or 24h");
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let millis = match unit.trim() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    // Timers count from now and must not overflow.
    let longest = 3650 * 86_400_000;
    millis
        .filter(|&millis| millis <= longest)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str], env: &[(&str, &str)]) -> Result<ServeConfig, StartError> {
        let argv = ["plexbeam-worker", "serve"].iter().chain(args);
        let Command::Serve(args) = Cli::try_parse_from(argv).unwrap().command else {
            panic!("serve");
        };
        let look = |name: &str| {
            let pair = env.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        };
        args.into_config(look, "/bin/plexbeam-worker".into())
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_key_only_loopback() {
        for open in ["0.0.0.0:1", "192.168.1.2:1", "[::]:1", "[2001:db8::1]:1"] {
            let error = config(&["--listen", open], &[]).unwrap_err();
            assert!(matches!(error, StartError::OpenToAll(_)), "{open}");
            assert!(error.hint().unwrap().contains("--api-key"));
            assert!(config(&["--listen", open, "--api-key", "k"], &[]).is_ok());
        }
        for closed in [
            "127.0.0.1:1",
            "127.1.2.3:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(config(&["--listen", closed], &[]).is_ok(), "{closed}");
        }
    }

    #[test]
    fn lists_come_from_flags_or_else_from_the_environment() {
        let env = [
            ("PLEXBEAM_PATH_MAP", "/a=/b, Z:\\media=/mnt"),
            ("PLEXBEAM_MEDIA_ROOT", "/mnt,"),
        ];
        let policy = |args: &[&str]| config(args, &env).unwrap().sessions.policy;
        let from_env = policy(&[]);
        assert_eq!(from_env.path_maps.len(), 2);
        assert_eq!(from_env.path_maps[1].0, "Z:\\media");
        assert_eq!(from_env.media_roots, [PathBuf::from("/mnt")]);
        let flags = policy(&["--path-map", "/x,y=/z", "--media-root", "/with,comma"]);
        assert_eq!(flags.path_maps, [("/x,y".to_owned(), "/z".to_owned())]);
        assert_eq!(flags.media_roots, [PathBuf::from("/with,comma")]);
    }

    #[test]
    fn bad_settings_name_their_flag() {
        for (args, flag) in [
            (["--api-key", ""], "--api-key"),
            (["--api-key", "two words"], "--api-key"),
            (["--path-map", "nothing"], "--path-map"),
            (["--media-root", "relative"], "--media-root"),
        ] {
            let error = config(&args, &[]).unwrap_err();
            assert!(error.to_string().starts_with(flag), "{error}");
            assert!(!error.to_string().contains("two words"), "{error}");
        }
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("8GiB"), Ok(8 << 30));
        assert_eq!(parse_size("32m"), Ok(32 << 20));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert_eq!(parse_size("7"), Ok(7));
        for bad in ["", "0", "GiB", "8XB", "-1", "99999999999999999999", "1.5G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "s", "1w", "99999999999d"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
