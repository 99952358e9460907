//! Opening the bytes of an input: a path under its policy, an HTTP URL by ranges, or inline data.
//!
//! Nothing else reaches libav: it reads from a [`ByteSource`] of ours and may open no resource by
//! itself (P8).

mod http;
mod watched;

pub use watched::Watched;

use crate::libav::ByteSource;
use plexbeam_api::{Kind, Problem, job::Location};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::Cursor,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What paths a job may read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InputPolicy {
    /// `(from, to)` prefixes, first match wins: a path as the Plex host sees it -> here.
    pub path_maps: Vec<(String, String)>,
    /// When not empty, a path must lie (after symlinks are resolved) under one of these.
    pub media_roots: Vec<PathBuf>,
}

impl InputPolicy {
    /// The path here of a path on the Plex host. A prefix matches whole components only; `Z:\media`
    /// style targets keep their own separators.
    pub fn map(&self, path: &str) -> String {
        for (from, to) in &self.path_maps {
            let from = from.trim_end_matches('/');
            if let Some(rest) = path.strip_prefix(from)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                let windows = to.contains('\\');
                let to = to.trim_end_matches(['/', '\\']);
                let rest = if windows {
                    rest.replace('/', "\\")
                } else {
                    rest.to_owned()
                };
                return format!("{to}{rest}");
            }
        }
        path.to_owned()
    }

    /// Opens a regular file that the policy allows.
    fn open(&self, path: &str) -> Result<File, Problem> {
        let mapped = self.map(path);
        let refuse = |detail: String| Problem::new(Kind::BadInput, detail);
        let real = Path::new(&mapped)
            .canonicalize()
            .map_err(|e| refuse(format!("input {mapped} cannot be opened: {e}")))?;
        if !self.media_roots.is_empty() {
            let inside = self
                .media_roots
                .iter()
                .filter_map(|root| root.canonicalize().ok())
                .any(|root| real.starts_with(root));
            if !inside {
                return Err(refuse(format!(
                    "input {mapped} lies outside every --media-root of this worker"
                )));
            }
        }
        let file = File::open(&real)
            .map_err(|e| refuse(format!("input {mapped} cannot be opened: {e}")))?;
        let metadata = file
            .metadata()
            .map_err(|e| refuse(format!("input {mapped} cannot be read: {e}")))?;
        if !metadata.is_file() {
            return Err(refuse(format!("input {mapped} is not a regular file")));
        }
        if metadata.len() == 0 {
            return Err(refuse(format!("input {mapped} is empty")));
        }
        Ok(file)
    }
}

/// An opened location.
pub struct Opened {
    /// Its bytes.
    pub source: Box<dyn ByteSource>,
    /// File name for the demuxer's guess and for messages; never a whole URL.
    pub name: String,
    /// Tells this version of these bytes from all others; `None` where nothing does.
    pub version: Option<String>,
    /// True for data carried with the job.
    pub inline: bool,
}

/// Asked while a source waits; true ends the wait.
pub type Cancelled = Arc<dyn Fn() -> bool + Send + Sync>;

/// Opens the first location that can be opened. The error of the last one is told.
pub fn open(
    locations: &[Location],
    policy: &InputPolicy,
    cancelled: &Cancelled,
) -> Result<Opened, Problem> {
    let mut last = Problem::new(Kind::InvalidArgument, "an input has no location");
    for location in locations {
        match open_one(location, policy, cancelled) {
            Ok(opened) => return Ok(opened),
            Err(problem) => last = problem,
        }
    }
    Err(last)
}

fn open_one(
    location: &Location,
    policy: &InputPolicy,
    cancelled: &Cancelled,
) -> Result<Opened, Problem> {
    match location {
        Location::Path { path } => {
            let source = Box::new(policy.open(path)?);
            let name = path.rsplit('/').next().unwrap_or(path).to_owned();
            Ok(Opened {
                version: version_of(&source),
                source,
                name,
                inline: false,
            })
        }
        Location::Url { url } => {
            let (source, name) = http::HttpSource::open(url, Arc::clone(cancelled))?;
            Ok(Opened {
                version: source.version(),
                source: Box::new(source),
                name,
                inline: false,
            })
        }
        Location::Inline { name, data } => Ok(Opened {
            source: Box::new(Cursor::new(data.clone())),
            name: name.to_string(),
            // The job's words hold its content.
            version: Some("inline".to_owned()),
            inline: true,
        }),
    }
}

/// A file that was written to, replaced or given another time of change has another.
fn version_of(file: &File) -> Option<String> {
    let meta = file.metadata().ok()?;
    Some(format!(
        "file {:x} {:x} {} {}.{:09} {}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(maps: &[(&str, &str)]) -> InputPolicy {
        let path_maps = maps
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        InputPolicy {
            path_maps,
            media_roots: Vec::new(),
        }
    }

    #[test]
    fn a_path_map_matches_whole_components() {
        let maps = policy(&[("/srv/media", "/mnt/nas/"), ("/data/", "Z:\\media")]);
        assert_eq!(maps.map("/srv/media/a/b.mkv"), "/mnt/nas/a/b.mkv");
        assert_eq!(maps.map("/srv/media2/a.mkv"), "/srv/media2/a.mkv");
        assert_eq!(maps.map("/data/x/y.mkv"), "Z:\\media\\x\\y.mkv");
    }

    #[test]
    fn a_file_that_was_touched_or_replaced_is_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let film = dir.path().join("film.mkv");
        std::fs::write(&film, b"film").unwrap();
        let version = || version_of(&File::open(&film).unwrap()).unwrap();
        let first = version();
        assert_eq!(first, version());
        let of_file = std::fs::metadata(&film).unwrap().modified().unwrap();
        let later = of_file + std::time::Duration::from_nanos(1);
        File::options()
            .write(true)
            .open(&film)
            .unwrap()
            .set_modified(later)
            .unwrap();
        let touched = version();
        assert_ne!(first, touched);
        let other = dir.path().join("other.mkv");
        std::fs::write(&other, b"FILM").unwrap();
        File::options()
            .write(true)
            .open(&other)
            .unwrap()
            .set_modified(later)
            .unwrap();
        std::fs::rename(&other, &film).unwrap();
        assert_ne!(touched, version());
    }

    #[test]
    fn a_link_does_not_lead_out_of_the_media_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("outside"), b"x").unwrap();
        std::fs::write(root.join("inside"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        let policy = InputPolicy {
            path_maps: Vec::new(),
            media_roots: vec![root.clone()],
        };
        let open = |name: &str| policy.open(root.join(name).to_str().unwrap());
        assert!(open("inside").is_ok());
        for bad in ["link", "../outside", "missing", "."] {
            assert_eq!(open(bad).unwrap_err().kind, Kind::BadInput, "{bad}");
        }
    }
}
