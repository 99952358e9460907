//! Where things are on this host (PROTOCOL 1.4), below a root that is `/` but in tests and images.

use super::error::Error;
use super::swap::TRANSCODER;
use crate::config;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Home of the cartridge and of its notes.
pub const HOME: &str = "/opt/plex-cartridge";
/// Where systemd looks for units of the administrator.
pub const UNIT: &str = "/etc/systemd/system/plexbeam-watchdog.service";

/// Everything below this directory.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

/// A folder with a transcoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plex {
    /// The folder, without the root.
    pub dir: PathBuf,
    /// How it came there, as far as it can be told.
    pub kind: &'static str,
}

/// The user that Plex runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
}

impl Root {
    /// Everything lies below `dir`.
    pub fn new(dir: &Path) -> Self {
        Root(dir.to_owned())
    }

    /// An absolute path, below the root.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// True for the machine itself.
    pub fn is_host(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Home of the cartridge.
    pub fn home(&self) -> PathBuf {
        self.at(HOME)
    }

    /// The cartridge's program at home.
    pub fn program(&self) -> PathBuf {
        self.home().join("plexbeam-cartridge")
    }

    /// The settings file.
    pub fn config(&self) -> PathBuf {
        self.at(config::CONFIG)
    }

    /// Folder of the logs: as the environment or the settings name it.
    pub fn log_dir(&self) -> PathBuf {
        let env = self.env();
        let named = config::log_dir(&env);
        // Settings that cannot be read name no folder; the transcoder logs to the usual one then.
        let dir = named.or_else(|| Some(config::Config::load(&env).ok()?.log_dir));
        self.at(dir.unwrap_or_else(|| config::LOG_DIR.into()))
    }

    /// Plex's folder: the one that is named, or the first known one that holds a transcoder.
    pub fn plex(&self, named: Option<&Path>) -> Result<Plex, Error> {
        if let Some(dir) = named {
            return match self.holds_plex(dir) {
                true => Ok(Plex {
                    dir: dir.to_owned(),
                    kind: self.kind(dir),
                }),
                false => Err(Error::NoTranscoder(dir.to_owned())),
            };
        }
        let candidates = self.candidates();
        let found = candidates.iter().find(|dir| self.holds_plex(dir));
        match found {
            Some(dir) => Ok(Plex {
                dir: dir.clone(),
                kind: self.kind(dir),
            }),
            None => {
                let all: Vec<String> = candidates.iter().map(|d| d.display().to_string()).collect();
                Err(Error::NoPlex(all.join(", ")))
            }
        }
    }

    /// A transcoder under either of its names.
    fn holds_plex(&self, dir: &Path) -> bool {
        let path = self.at(dir).join(TRANSCODER);
        path.exists() || super::files::with_suffix(&path, ".real").exists()
    }

    fn candidates(&self) -> Vec<PathBuf> {
        let mut all = vec![
            PathBuf::from("/usr/lib/plexmediaserver"),
            PathBuf::from("/var/packages/PlexMediaServer/target"),
        ];
        let volumes = self.children("/", |name| name.starts_with("volume"));
        all.extend(volumes.map(|v| v.join("@appstore/PlexMediaServer")));
        let shares = self.children("/share", |_| true);
        all.extend(shares.map(|s| s.join(".qpkg/PlexMediaServer")));
        all
    }

    fn children(
        &self,
        dir: &str,
        wanted: fn(&str) -> bool,
    ) -> impl Iterator<Item = PathBuf> + use<> {
        let dir = PathBuf::from(dir);
        let entries = fs::read_dir(self.at(&dir)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name()).collect();
        names.retain(|name| name.to_str().is_some_and(wanted));
        names.sort();
        names.into_iter().map(move |name| dir.join(name))
    }

    fn kind(&self, dir: &Path) -> &'static str {
        let starts = |prefix: &str| dir.starts_with(prefix);
        let there = |path: &str| self.at(path).exists();
        if starts("/var/packages") {
            "Synology DSM 7"
        } else if dir
            .components()
            .any(|c| c.as_os_str() == OsStr::new("@appstore"))
        {
            "Synology DSM 6"
        } else if starts("/share") {
            "QNAP"
        } else if there("/etc/cont-init.d") && there("/app") || there("/docker-mods") {
            "LinuxServer container"
        } else if there("/.dockerenv") || there("/run/.containerenv") {
            "container"
        } else if there("/var/lib/dpkg/info/plexmediaserver.list") {
            "Debian package"
        } else if there("/var/lib/rpm") || there("/usr/lib/sysimage/rpm") {
            "RPM package"
        } else {
            "folder"
        }
    }

    /// The user that Plex runs as, by the names that its packages use.
    pub fn user(&self) -> Option<User> {
        let passwd = fs::read_to_string(self.at("/etc/passwd")).ok()?;
        ["plex", "abc", "PlexMediaServer"].iter().find_map(|name| {
            let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(User {
                name: (*name).to_owned(),
                uid: fields.next()?.parse().ok()?,
                gid: fields.next()?.parse().ok()?,
            })
        })
    }

    /// Plex's version, as its package tells it or as its server program holds it.
    pub fn plex_version(&self, dir: &Path) -> Option<String> {
        self.dpkg_version()
            .or_else(|| self.synology_version())
            .or_else(|| version_inside(&self.at(dir).join("Plex Media Server")))
    }

    fn dpkg_version(&self) -> Option<String> {
        let status = fs::read_to_string(self.at("/var/lib/dpkg/status")).ok()?;
        let stanza = status
            .split("\n\n")
            .find(|s| s.lines().any(|l| l == "Package: plexmediaserver"))?;
        let version = stanza.lines().find_map(|l| l.strip_prefix("Version: "))?;
        Some(version.trim().to_owned())
    }

    fn synology_version(&self) -> Option<String> {
        let info = fs::read_to_string(self.at("/var/packages/PlexMediaServer/INFO")).ok()?;
        let version = info.lines().find_map(|l| l.strip_prefix("version="))?;
        Some(version.trim_matches('"').to_owned())
    }
}

/// The first text like `1.43.0.10492-121068a07` in a program.
fn version_inside(program: &Path) -> Option<String> {
    let bytes = fs::read(program).ok()?;
    memchr::memchr_iter(b'-', &bytes).find_map(|dash| {
        let number = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let before = bytes.get(..dash)?;
        let start = before
            .iter()
            .rposition(|b| !number(b))
            .map_or(0, |at| at + 1);
        let digits = before.get(start..)?;
        let tail = bytes.get(dash + 1..)?;
        let len = tail.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let four = digits
            .split(|b| *b == b'.')
            .filter(|p| !p.is_empty())
            .count()
            == 4;
        let fits = four && (7..=12).contains(&len) && digits.len() <= 24;
        let text = bytes.get(start..dash + 1 + len).filter(|_| fits)?;
        Some(String::from_utf8_lossy(text).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn plex_is_found_in_all_its_places() {
        for (files, dir, kind) in [
            (
                &["var/lib/dpkg/info/plexmediaserver.list"][..],
                "/usr/lib/plexmediaserver",
                "Debian package",
            ),
            (
                &["var/lib/rpm/x"],
                "/usr/lib/plexmediaserver",
                "RPM package",
            ),
            (&[".dockerenv"], "/usr/lib/plexmediaserver", "container"),
            (
                &[".dockerenv", "docker-mods"],
                "/usr/lib/plexmediaserver",
                "LinuxServer container",
            ),
            (&[], "/volume2/@appstore/PlexMediaServer", "Synology DSM 6"),
            (
                &[],
                "/var/packages/PlexMediaServer/target",
                "Synology DSM 7",
            ),
            (&[], "/share/CACHEDEV1_DATA/.qpkg/PlexMediaServer", "QNAP"),
        ] {
            let transcoder = format!("{}/{TRANSCODER}", &dir[1..]);
            let root = tree(&[files, &[transcoder.as_str()]].concat());
            let plex = Root::new(root.path()).plex(None).unwrap();
            assert_eq!((plex.dir.to_str(), plex.kind), (Some(dir), kind));
        }
        let empty = tree(&["volume1/x"]);
        let error = Root::new(empty.path()).plex(None).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/volume1/@appstore/PlexMediaServer")
        );
        assert!(error.hint().unwrap().contains("--plex-dir"));
        let odd = tree(&["srv/plex/Plex Transcoder.real"]);
        let odd = Root::new(odd.path());
        assert!(odd.plex(Some(Path::new("/srv/plex"))).is_ok());
        assert!(odd.plex(Some(Path::new("/srv"))).is_err());
    }

    #[test]
    fn versions_of_packages_and_of_the_program() {
        let root = tree(&["usr/lib/plexmediaserver/Plex Media Server"]);
        let here = Root::new(root.path());
        let dir = Path::new("/usr/lib/plexmediaserver");
        assert_eq!(here.plex_version(dir), None);
        let text = b"\0 -x 1.2-3 a-b 1.43.0.10492-121068a07\0tail";
        fs::write(here.at(dir).join("Plex Media Server"), text).unwrap();
        assert_eq!(
            here.plex_version(dir).as_deref(),
            Some("1.43.0.10492-121068a07")
        );
        fs::create_dir_all(here.at("/var/lib/dpkg")).unwrap();
        let status = "Package: a\nVersion: 1\n\nPackage: plexmediaserver\nVersion: 1.42.1-x\n";
        fs::write(here.at("/var/lib/dpkg/status"), status).unwrap();
        assert_eq!(here.plex_version(dir).as_deref(), Some("1.42.1-x"));
    }
}
