//! Settings: the file's, and over it the environment's. The only place that knows their names.
//!
//! | file key | environment | default |
//! |---|---|---|
//! | | `PLEXBEAM_CONFIG` | `/etc/plexbeam/cartridge.toml` |
//! | `workers` | `PLEXBEAM_WORKERS` (comma list) | none: the mount's table alone |
//! | `api_key` | `PLEXBEAM_API_KEY` | none |
//! | `original` | `PLEXBEAM_ORIGINAL` | the program's own path with `.real`, else [`ORIGINAL`] |
//! | `fallback_to_local` | `PLEXBEAM_FALLBACK_TO_LOCAL` | true |
//! | `log_dir` | `PLEXBEAM_LOG_DIR` | [`LOG_DIR`] |
//! | `hide_names` | `PLEXBEAM_HIDE_NAMES` | false |
//! | `copy_video` | `PLEXBEAM_COPY_VIDEO` (`local`, `remote`) | `local` |
//! | `keep_local` | `PLEXBEAM_KEEP_LOCAL` (comma list) | nothing |
//! | `find_ms`, `accept_ms`, `queue_ms`, `probe_ms`, `first_segment_ms` | | 500, 1500, 3000, 10000, 60000 |
//!
//! A setting that cannot be read is an error, and its consequence is the original transcoder (P1);
//! [`original`] works without any other setting.

use crate::http::{Url, UrlError};
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the settings are looked for.
pub const CONFIG: &str = "/etc/plexbeam/cartridge.toml";
/// Where the original transcoder is, when nothing better is known.
pub const ORIGINAL: &str = "/usr/lib/plexmediaserver/Plex Transcoder.real";
/// Where logs go.
pub const LOG_DIR: &str = "/var/log/plex-cartridge";

/// Jobs that copy the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyVideo {
    /// Run here: they cost little, and the media is here.
    #[default]
    Local,
    /// May leave.
    Remote,
}

/// Work that a worker could do, and that the settings may keep on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Nothing leaves.
    Everything,
    /// HDR to SDR.
    ToneMapping,
    /// Burned-in text subtitles.
    BurnedText,
    /// Burned-in picture subtitles.
    BurnedPictures,
    /// Text subtitles beside the film, as an output of their own.
    SideSubtitles,
}

impl Work {
    /// All of them with their names in the settings.
    pub const ALL: [(&str, Work); 5] = [
        ("everything", Work::Everything),
        ("tone_mapping", Work::ToneMapping),
        ("burned_text", Work::BurnedText),
        ("burned_pictures", Work::BurnedPictures),
        ("side_subtitles", Work::SideSubtitles),
    ];

    /// Its name in the settings.
    pub fn name(self) -> &'static str {
        let known = Work::ALL.iter().find(|(_, work)| *work == self);
        known.map_or("", |(name, _)| name)
    }

    fn by_name(name: &str) -> Option<Self> {
        let known = Work::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, work)| *work)
    }
}

/// A shared key; never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// All settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Workers to try where the mount knows none, best first.
    pub workers: Vec<Url>,
    /// Key for the workers and for media URLs.
    pub api_key: Option<Secret>,
    /// False: a job that was meant for a worker and cannot run there fails instead of running here.
    pub fallback_to_local: bool,
    /// Where logs go.
    pub log_dir: PathBuf,
    /// No path of a command line is written into a log.
    pub hide_names: bool,
    /// Jobs that copy the video.
    pub copy_video: CopyVideo,
    /// Work that stays on this host.
    pub keep_local: Vec<Work>,
    /// Bounds of waiting.
    pub limits: Limits,
}

/// Bounds of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until a worker is found.
    pub find: Duration,
    /// From the start until a worker has accepted.
    pub accept: Duration,
    /// From then until it has a place for the job.
    pub queue: Duration,
    /// From acceptance until it has opened the input.
    pub probe: Duration,
    /// From then until the first segment can be announced.
    pub first_segment: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            find: Duration::from_millis(500),
            accept: Duration::from_millis(1_500),
            queue: Duration::from_secs(3),
            probe: Duration::from_secs(10),
            first_segment: Duration::from_secs(60),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            workers: Vec::new(),
            api_key: None,
            fallback_to_local: true,
            log_dir: LOG_DIR.into(),
            hide_names: false,
            copy_video: CopyVideo::default(),
            keep_local: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {why}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// The file is no TOML, or names a key that does not exist.
    #[error("{path}: {why} (the keys are listed in the README under Settings)")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What and where.
        why: String,
    },
    /// A value is not one of those allowed.
    #[error("{name} must be {must_be}")]
    Value {
        /// Which setting.
        name: &'static str,
        /// What is allowed.
        must_be: &'static str,
    },
    /// A worker's URL cannot be used.
    #[error("worker `{url}`: {why}")]
    Worker {
        /// As configured.
        url: String,
        /// Why.
        why: UrlError,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workers: Option<Vec<String>>,
    api_key: Option<Secret>,
    original: Option<PathBuf>,
    fallback_to_local: Option<bool>,
    log_dir: Option<PathBuf>,
    hide_names: Option<bool>,
    copy_video: Option<CopyVideo>,
    keep_local: Option<Vec<Work>>,
    find_ms: Option<u64>,
    accept_ms: Option<u64>,
    queue_ms: Option<u64>,
    probe_ms: Option<u64>,
    first_segment_ms: Option<u64>,
}

/// Looks a variable up; a test gives its own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Config {
    /// Reads the file and the environment.
    pub fn load(env: Env<'_>) -> Result<Self, Error> {
        let file = read(env)?;
        let defaults = Config::default();
        let texts = match variable(env, "PLEXBEAM_WORKERS")? {
            Some(list) => list.split(',').map(|url| url.trim().to_owned()).collect(),
            None => file.workers.unwrap_or_default(),
        };
        let mut workers = Vec::new();
        for url in texts.iter().filter(|url| !url.is_empty()) {
            workers.push(Url::parse(url).map_err(|why| Error::Worker {
                url: shown(url),
                why,
            })?);
        }
        let fallback = switch(env, "PLEXBEAM_FALLBACK_TO_LOCAL")?.or(file.fallback_to_local);
        let hide_names = switch(env, "PLEXBEAM_HIDE_NAMES")?.or(file.hide_names);
        let copy_video = match variable(env, "PLEXBEAM_COPY_VIDEO")?.as_deref() {
            None => file.copy_video,
            Some("local") => Some(CopyVideo::Local),
            Some("remote") => Some(CopyVideo::Remote),
            Some(_) => {
                return Err(Error::Value {
                    name: "PLEXBEAM_COPY_VIDEO",
                    must_be: "local or remote",
                });
            }
        };
        let keep_local = match variable(env, "PLEXBEAM_KEEP_LOCAL")? {
            None => file.keep_local.unwrap_or_default(),
            Some(list) => list
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(|name| {
                    Work::by_name(name).ok_or(Error::Value {
                        name: "PLEXBEAM_KEEP_LOCAL",
                        must_be: "a list of everything, tone_mapping, burned_text, burned_pictures, side_subtitles",
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        let api_key = variable(env, "PLEXBEAM_API_KEY")?
            .map(Secret)
            .or(file.api_key);
        if let Some(key) = &api_key
            && !key.expose().bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Error::Value {
                name: "PLEXBEAM_API_KEY",
                must_be: "printable ASCII without blanks",
            });
        }
        let time = |ms: Option<u64>, default: Duration| ms.map_or(default, Duration::from_millis);
        let limits = defaults.limits;
        Ok(Config {
            workers,
            api_key,
            fallback_to_local: fallback.unwrap_or(defaults.fallback_to_local),
            log_dir: log_dir(env).or(file.log_dir).unwrap_or(defaults.log_dir),
            hide_names: hide_names.unwrap_or(defaults.hide_names),
            copy_video: copy_video.unwrap_or_default(),
            keep_local,
            limits: Limits {
                find: time(file.find_ms, limits.find),
                accept: time(file.accept_ms, limits.accept),
                queue: time(file.queue_ms, limits.queue),
                probe: time(file.probe_ms, limits.probe),
                first_segment: time(file.first_segment_ms, limits.first_segment),
            },
        })
    }
}

/// The log directory as far as the environment names it; works with a broken file, too.
pub fn log_dir(env: Env<'_>) -> Option<PathBuf> {
    set(env, "PLEXBEAM_LOG_DIR").map(PathBuf::from)
}

/// The original transcoder: as configured, else beside this program. `argv0` is how it was started,
/// `exe` where the kernel says it lies.
pub fn original(env: Env<'_>, argv0: &OsStr, exe: Option<&Path>) -> PathBuf {
    let configured = set(env, "PLEXBEAM_ORIGINAL").map(PathBuf::from);
    if let Some(path) = configured.or_else(|| read(env).ok()?.original) {
        return path;
    }
    // A bare name was found along PATH and says nothing of the directory.
    let argv0 = Some(Path::new(argv0)).filter(|p| p.components().count() > 1);
    argv0
        .into_iter()
        .chain(exe)
        .map(|path| {
            let mut real = path.as_os_str().to_owned();
            real.push(".real");
            PathBuf::from(real)
        })
        .find(|path| path.exists())
        .unwrap_or_else(|| ORIGINAL.into())
}

fn read(env: Env<'_>) -> Result<File, Error> {
    let (path, named) = match set(env, "PLEXBEAM_CONFIG") {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(CONFIG), false),
    };
    match text(&path) {
        Ok(text) => toml::from_str(&text).map_err(|error| Error::Parse {
            path,
            // Without the source line, which may hold the key.
            why: error.message().to_owned(),
        }),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && !named => Ok(File::default()),
        Err(why) => Err(Error::Read { path, why }),
    }
}

/// Nobody writes a longer one.
const MAX_FILE: u64 = 1 << 20;

/// A regular file's text. A pipe would be waited for, and a device may never end.
fn text(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, Read};
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(Error::other("larger than 1 MiB")),
        false => Ok(text),
    }
}

/// A variable that is set and not empty.
fn set(env: Env<'_>, name: &str) -> Option<OsString> {
    env(name).filter(|value| !value.is_empty())
}

fn variable(env: Env<'_>, name: &'static str) -> Result<Option<String>, Error> {
    set(env, name)
        .map(|value| {
            value.into_string().map_err(|_| Error::Value {
                name,
                must_be: "UTF-8",
            })
        })
        .transpose()
}

/// A variable that is yes or no.
fn switch(env: Env<'_>, name: &'static str) -> Result<Option<bool>, Error> {
    match variable(env, name)?.as_deref() {
        None => Ok(None),
        Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
        Some("false" | "0" | "no" | "off") => Ok(Some(false)),
        Some(_) => Err(Error::Value {
            name,
            must_be: "true or false",
        }),
    }
}

/// A URL for a message: nothing of what stands before an `@`.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("...@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        let map: HashMap<_, _> = pairs.iter().copied().collect();
        move |name| map.get(name).map(OsString::from)
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cartridge.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (dir, path)
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let (_dir, path) = file(
            "workers = [\"http://a:1\"]\napi_key = \"k\"\ncopy_video = \"remote\"\nfind_ms = 9\n",
        );
        let config = Config::load(&env(&[("PLEXBEAM_CONFIG", &path)])).unwrap();
        assert_eq!(config.workers, [Url::parse("http://a:1").unwrap()]);
        assert_eq!(config.api_key.as_ref().unwrap().expose(), "k");
        assert_eq!(config.copy_video, CopyVideo::Remote);
        assert_eq!(config.limits.find, Duration::from_millis(9));
        assert!(config.fallback_to_local);
        let config = Config::load(&env(&[
            ("PLEXBEAM_CONFIG", &path),
            ("PLEXBEAM_WORKERS", "http://b:2, http://c:3,"),
            ("PLEXBEAM_COPY_VIDEO", "local"),
            ("PLEXBEAM_API_KEY", ""),
            ("PLEXBEAM_FALLBACK_TO_LOCAL", "false"),
            ("PLEXBEAM_LOG_DIR", "/logs"),
        ]))
        .unwrap();
        assert_eq!(config.workers.len(), 2);
        assert_eq!(config.copy_video, CopyVideo::Local);
        assert_eq!(
            config.api_key.as_ref().unwrap().expose(),
            "k",
            "empty is unset"
        );
        assert!(!config.fallback_to_local);
        assert_eq!(config.log_dir, Path::new("/logs"));
    }

    #[test]
    fn work_is_kept_by_its_names() {
        let (_dir, path) = file("keep_local = [\"tone_mapping\", \"burned_text\"]\n");
        let keep = |pairs: &[(&str, &str)]| Config::load(&env(pairs)).map(|c| c.keep_local);
        let two = [Work::ToneMapping, Work::BurnedText];
        assert_eq!(keep(&[("PLEXBEAM_CONFIG", &path)]).unwrap(), two);
        let names = Work::ALL.map(|(name, _)| name).join(" , ");
        let all = keep(&[("PLEXBEAM_CONFIG", &path), ("PLEXBEAM_KEEP_LOCAL", &names)]);
        assert_eq!(all.unwrap(), Work::ALL.map(|(_, work)| work));
        let bad = keep(&[("PLEXBEAM_CONFIG", &path), ("PLEXBEAM_KEEP_LOCAL", "films")]);
        assert!(bad.unwrap_err().to_string().contains("tone_mapping"));
        for (name, work) in Work::ALL {
            assert_eq!(work.name(), name);
            let (_dir, path) = file(&format!("keep_local = [\"{name}\"]"));
            assert_eq!(
                keep(&[("PLEXBEAM_CONFIG", &path)]).unwrap(),
                [work],
                "{name}"
            );
        }
    }

    #[test]
    fn what_cannot_be_used_is_named_without_secrets() {
        let (_dir, path) = file("api_key = \"hush-hush\"\nwrokers = []\n");
        let config = |pairs: &[(&str, &str)]| {
            let error = Config::load(&env(pairs)).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
            error
        };
        assert!(config(&[("PLEXBEAM_CONFIG", &path)]).contains("wrokers"));
        assert!(config(&[("PLEXBEAM_CONFIG", "/nonexistent/x")]).contains("/nonexistent/x"));
        let none = |name, value| {
            let (_dir, path) = file("");
            config(&[("PLEXBEAM_CONFIG", &path), (name, value)])
        };
        assert!(none("PLEXBEAM_COPY_VIDEO", "maybe").contains("local or remote"));
        assert!(none("PLEXBEAM_FALLBACK_TO_LOCAL", "x").contains("true or false"));
        assert!(none("PLEXBEAM_WORKERS", "https://a").contains("https is not supported"));
        assert!(none("PLEXBEAM_WORKERS", "http://hush@a").contains("...@a"));
        assert!(none("PLEXBEAM_API_KEY", "hush\nhush").contains("printable"));
    }

    #[test]
    fn the_original_is_found_beside_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("Plex Transcoder.real");
        let started = dir.path().join("Plex Transcoder");
        let (_keep, path) = file("");
        let none = [("PLEXBEAM_CONFIG", path.as_str())];
        let find = |argv0: &Path, exe: Option<&Path>| original(&env(&none), argv0.as_os_str(), exe);
        assert_eq!(find(&started, None), Path::new(ORIGINAL), "not there yet");
        std::fs::write(&real, "").unwrap();
        assert_eq!(find(&started, None), real);
        assert_eq!(find(Path::new("Plex Transcoder"), Some(&started)), real);
        let (_keep, path) = file("original = \"/opt/plex/t\"\n");
        let pairs = [("PLEXBEAM_CONFIG", path.as_str())];
        let found = original(&env(&pairs), started.as_os_str(), None);
        assert_eq!(found, Path::new("/opt/plex/t"));
    }
}
