//! What a mount is made of. Each room sees only its own struct.

use rustix::fd::OwnedFd;
use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// A text that must never be printed: a key or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself; only for the header or signature that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// For `#[serde(with = …)]` on a [`Secret`] in what its owner alone may read: a file of mode 0600, or
/// a socket between two processes of one program.
pub mod plain {
    use super::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    /// As the text itself.
    pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.reveal())
    }

    /// From the text itself.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Base URL of a worker, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerUrl(String);

/// Why a text is no [`WorkerUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWorkerUrl {
    /// TLS to workers is not there.
    #[error("`{0}`: https to a worker is not there yet; use http:// on a network that you trust")]
    Https(String),
    /// Anything else.
    #[error("`{0}` is no worker URL; write it as http://HOST:PORT")]
    Malformed(String),
}

impl WorkerUrl {
    /// The URL as it is sent to and shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkerUrl {
    type Err = BadWorkerUrl;

    fn from_str(text: &str) -> Result<Self, BadWorkerUrl> {
        let malformed = || BadWorkerUrl::Malformed(text.to_owned());
        let url = url::Url::parse(text.trim()).map_err(|_| malformed())?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(BadWorkerUrl::Https(text.to_owned())),
            _ => return Err(malformed()),
        }
        let bare = url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if bare {
            Ok(WorkerUrl(url.as_str().trim_end_matches('/').to_owned()))
        } else {
            Err(malformed())
        }
    }
}

/// Everything about one mount.
#[derive(Debug, Clone)]
pub struct FsConfig {
    /// Where it is seen.
    pub mountpoint: PathBuf,
    /// The upper layer; `None` is the directory under the mountpoint.
    pub backing: Option<PathBuf>,
    /// The directory under the mountpoint, for one that an earlier instance may still cover: it is
    /// mounted beneath that one, which is then taken away. `None`: nothing may be mounted there.
    pub under: Option<Arc<OwnedFd>>,
    /// Users other than the mounting one may use it. PMS is usually another user.
    pub allow_other: bool,
    /// Owner and mode of what workers made.
    pub shown: Shown,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// Offer kernel passthrough where the kernel grants it. Off is for tests of the other path.
    pub passthrough: bool,
    /// Longest wait of a read. It must stay below `fs.fuse.default_request_timeout`.
    pub read_deadline: Duration,
    /// Cache room.
    pub cache: CacheConfig,
    /// Workers room.
    pub remote: RemoteConfig,
    /// Media route; `None` is off.
    pub media: Option<MediaConfig>,
}

/// How segments in bound directories and everything under `sessions/` are shown. What is written
/// through the mount keeps the owner and the mode that it was written with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Owner; `None` is that of the session's directory, under `sessions/` that of the root.
    pub uid: Option<u32>,
    /// Group; `None` likewise.
    pub gid: Option<u32>,
    /// Bits to take from 0666 of files and 0777 of directories; `None` is 0644 for segments, and
    /// 0640 and 0750 under `sessions/`.
    pub umask: Option<u16>,
}

impl Shown {
    /// Owner and group instead of these.
    pub(crate) fn owner(self, (uid, gid): (u32, u32)) -> (u32, u32) {
        (self.uid.unwrap_or(uid), self.gid.unwrap_or(gid))
    }

    /// Permission bits: `full` without the mask, or `usual` where there is none.
    pub(crate) fn mode(self, full: u16, usual: u16) -> u16 {
        self.umask.map_or(usual, |umask| full & !umask)
    }
}

/// The media route.
#[derive(Debug, Clone)]
pub struct MediaConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// A socket that listens there already, shared by all instances of a mount; `None` makes one.
    pub socket: Option<Arc<TcpListener>>,
    /// Signs the URLs where there is no key; `None` makes one.
    pub secret: Option<Secret>,
}

impl MediaConfig {
    /// A route of one instance alone.
    pub fn new(address: SocketAddr) -> Self {
        MediaConfig {
            address,
            socket: None,
            secret: None,
        }
    }
}

impl FsConfig {
    /// Defaults for this mountpoint: no workers, no media route.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        FsConfig {
            mountpoint: mountpoint.into(),
            backing: None,
            under: None,
            allow_other: false,
            shown: Shown::default(),
            threads: 4,
            passthrough: true,
            read_deadline: Duration::from_secs(20),
            cache: CacheConfig::default(),
            remote: RemoteConfig::default(),
            media: None,
        }
    }
}

/// Where segments are kept, and how many bytes of them.
#[derive(Debug, Clone)]
pub struct CacheConfig {
    /// Folder of the cache; each mountpoint has a folder of its own in it. What bound directories
    /// held is found there again by the next instance. `None` makes a private temporary one.
    pub dir: Option<PathBuf>,
    /// Hard ceiling in bytes: kept, pinned by an open handle, and being downloaded, together.
    pub ceiling: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            dir: None,
            ceiling: 2 << 30,
        }
    }
}

/// The workers and how they are spoken to.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// All workers; nothing else is ever sent a request.
    pub workers: Vec<WorkerUrl>,
    /// Shared key; `None` for workers on loopback.
    pub api_key: Option<Secret>,
    /// Silence on the event stream after which it counts as broken. Workers beat each second.
    pub silence: Duration,
    /// Pause between two looks at a worker's health.
    pub health_every: Duration,
    /// Downloads at a time, per bound directory.
    pub parallel: usize,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        RemoteConfig {
            workers: Vec::new(),
            api_key: None,
            silence: Duration::from_secs(5),
            health_every: Duration::from_millis(1500),
            parallel: 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_urls_are_plain_http_without_a_path() {
        for good in ["http://10.0.0.2:8765", "http://gpu:8765/", "http://[::1]:1"] {
            assert!(good.parse::<WorkerUrl>().is_ok(), "{good}");
        }
        assert_eq!(
            "https://gpu:8765".parse::<WorkerUrl>(),
            Err(BadWorkerUrl::Https("https://gpu:8765".into()))
        );
        for bad in [
            "gpu:8765",
            "",
            "http://",
            "ftp://gpu",
            "http://gpu/x",
            "http://a:b@gpu/",
        ] {
            assert!(
                matches!(bad.parse::<WorkerUrl>(), Err(BadWorkerUrl::Malformed(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let config = RemoteConfig {
            api_key: Some(Secret::new("hunter2")),
            ..RemoteConfig::default()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
