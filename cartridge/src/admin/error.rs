//! What goes wrong in the administrator's commands: a fact and, where there is one, a remedy.

use std::io;
use std::path::{Path, PathBuf};

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No known place holds Plex.
    #[error("no Plex Media Server was found (looked in {0})")]
    NoPlex(String),
    /// The folder named has no transcoder.
    #[error("{0} holds no `Plex Transcoder`")]
    NoTranscoder(PathBuf),
    /// The transcoder is not whole, or no program.
    #[error("{path}: {why}")]
    NotWhole {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The cartridge is in place and Plex's own transcoder is nowhere.
    #[error("`{0}` is the cartridge, and Plex's own transcoder is not beside it")]
    OriginalLost(PathBuf),
    /// It is installed in another folder.
    #[error("it is installed in {0}")]
    Elsewhere(PathBuf),
    /// There is nothing to work on.
    #[error("PlexBeam is not installed here")]
    NotInstalled,
    /// A file operation failed.
    #[error("cannot {what} {path}: {why}")]
    File {
        /// The operation.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The installation's own notes cannot be read.
    #[error("{path} is damaged: {why}")]
    State {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The worker's URL cannot be used.
    #[error("worker `{url}`: {why}")]
    Worker {
        /// As given.
        url: String,
        /// Why.
        why: crate::http::UrlError,
    },
    /// A name that the logs do not know.
    #[error("the logs know no job `{0}`")]
    NoJob(String),
    /// A doctor's finding.
    #[error("{what}")]
    Unhealthy {
        /// The first check that failed.
        what: String,
        /// What to do.
        fix: String,
    },
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::NoPlex(_) => "name the folder that holds `Plex Transcoder` with --plex-dir",
            Error::NoTranscoder(_) => "install or update Plex, then run this again",
            Error::NotWhole { .. } => {
                "wait until Plex's installation has finished, then run this again; \
                 if it stays so, install Plex anew"
            }
            Error::OriginalLost(_) => {
                "install Plex anew (its package brings the transcoder), then run this again"
            }
            Error::Elsewhere(_) => "run `plexbeam-cartridge uninstall` first",
            Error::NotInstalled => "run `plexbeam-cartridge install`",
            Error::File { why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
                "run this as root"
            }
            Error::File { why, .. } if why.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "make the file system writable, or install into the image"
            }
            Error::File { why, .. } if why.kind() == io::ErrorKind::StorageFull => {
                "free some space; nothing is half done, run this again"
            }
            Error::File { why, .. } if why.kind() == io::ErrorKind::TimedOut => {
                "see that the share or mount with that folder answers, or set log_dir to another one"
            }
            Error::File { .. } => return None,
            Error::State { .. } => "remove that file and run `plexbeam-cartridge install` again",
            Error::Worker { .. } => "write it as http://HOST:8765",
            Error::NoJob(_) => "`plexbeam-cartridge analyze` lists the jobs",
            Error::Unhealthy { fix, .. } => return Some(fix.clone()),
        };
        Some(text.to_owned())
    }
}

/// Gives an I/O error its file and operation.
pub(super) trait Context<T> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|why| Error::File {
            what,
            path: path.to_owned(),
            why: why.into(),
        })
    }
}
