//! A directory that stands for a host, and all that can be told of it.

use plexbeam_cartridge::admin::files::Owner;
use plexbeam_cartridge::admin::install::Install;
use plexbeam_cartridge::admin::places::Root;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

pub(crate) const PLEX: &str = "/usr/lib/plexmediaserver";

/// What distinguishes one file from another: kind, mode, user, group, bytes or link target, and the
/// time of the last change.
pub(crate) type Entry = (u32, u32, u32, Vec<u8>, (i64, i64));

/// All entries below a root.
pub(crate) type Snapshot = BTreeMap<PathBuf, Entry>;

/// A host with a Debian package of Plex.
pub(crate) struct Host {
    dir: TempDir,
    /// A program that carries the signature and does nothing.
    pub(crate) program: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            program: dir.path().join("downloaded/plexbeam-cartridge"),
            dir,
        };
        for folder in [
            PLEX,
            "/opt",
            "/etc/systemd/system",
            "/var/log",
            "/var/lib/dpkg/info",
        ] {
            fs::create_dir_all(host.at(folder)).unwrap();
        }
        fs::create_dir_all(host.program.parent().unwrap()).unwrap();
        let signed = b"#!/bin/sh\n# \x01plexbeam-cartridge-signature\x010.0.1\x01\nexit 0\n";
        script(&host.program, signed, 0o755);
        fs::write(host.at(PLEX).join("Plex Media Server"), "a server").unwrap();
        fs::write(host.at("/var/lib/dpkg/info/plexmediaserver.list"), "").unwrap();
        host.package("1.40.0.7998-c29d4c0c8", 0o755);
        host.age();
        host
    }

    /// The path below this host.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().at(path)
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(&self.dir.path().join("root"))
    }

    pub(crate) fn transcoder(&self) -> PathBuf {
        self.at(PLEX).join("Plex Transcoder")
    }

    pub(crate) fn real(&self) -> PathBuf {
        self.at(PLEX).join("Plex Transcoder.real")
    }

    /// As dpkg installs a version: a new file beside, then a rename.
    pub(crate) fn package(&self, version: &str, mode: u32) {
        let new = self.at(PLEX).join("Plex Transcoder.dpkg-new");
        script(&new, original(version).as_bytes(), mode);
        fs::rename(&new, self.transcoder()).unwrap();
        let status = format!("Package: plexmediaserver\nStatus: x\nVersion: {version}\n");
        fs::write(self.at("/var/lib/dpkg/status"), status).unwrap();
    }

    /// Everything becomes an hour and some nanoseconds old.
    fn age(&self) {
        let root = self.at("/");
        let status = Command::new("touch")
            .args(["-h", "-d", "2024-02-03 04:05:06.123456789"])
            .args(walk(&root))
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn install(&self) -> Install {
        Install {
            root: self.root(),
            plex_dir: None,
            worker: Some("http://192.0.2.7:8765".into()),
            api_key: Some("the key".to_owned().into()),
            program: self.program.clone(),
        }
    }

    /// All that can be told of the host.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let root = self.at("/");
        walk(&root)
            .into_iter()
            .map(|path| {
                let meta = path.symlink_metadata().unwrap();
                let bytes = match (meta.is_file(), meta.is_symlink()) {
                    (true, _) => fs::read(&path).unwrap(),
                    (_, true) => fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                    _ => Vec::new(),
                };
                let times = (meta.mtime(), meta.mtime_nsec());
                let name = path.strip_prefix(&root).unwrap().to_owned();
                (name, (meta.mode(), meta.uid(), meta.gid(), bytes, times))
            })
            .collect()
    }

    /// The cartridge is what Plex starts, and the original of this version is beside it.
    #[track_caller]
    pub(crate) fn assert_installed(&self, version: &str) {
        assert_eq!(
            fs::read(self.transcoder()).unwrap(),
            fs::read(&self.program).unwrap(),
            "the cartridge is in place"
        );
        assert_eq!(
            fs::read_to_string(self.real()).unwrap(),
            original(version),
            "the original is beside it"
        );
        let mut names: Vec<_> = fs::read_dir(self.at(PLEX))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "Plex Media Server",
                "Plex Transcoder",
                "Plex Transcoder.real"
            ]
        );
    }

    pub(crate) fn events(&self) -> String {
        fs::read_to_string(self.at("/var/log/plex-cartridge/cartridge_events.log"))
            .unwrap_or_default()
    }

    /// The real tool on this host.
    pub(crate) fn tool(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_plexbeam-cartridge"))
            .args(words)
            .arg("--root")
            .arg(self.at("/"))
            .env_remove("PLEXBEAM_API_KEY")
            .output()
            .unwrap()
    }
}

/// The original transcoder of this version.
pub(crate) fn original(version: &str) -> String {
    format!("#!/bin/sh\n# {version}\nexit 42\n")
}

/// What the owner of a file is.
pub(crate) fn owner(path: &Path) -> (u32, u32, u32) {
    let owner = Owner::of(&path.metadata().unwrap());
    (owner.uid, owner.gid, owner.mode)
}

fn script(path: &Path, text: &[u8], mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All below, children before their folder, so that times can be set in this order.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            all.extend(walk(&path));
        } else {
            all.push(path);
        }
    }
    all.push(dir.to_owned());
    all
}
