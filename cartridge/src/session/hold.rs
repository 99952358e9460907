//! P3: a file is announced only when it is held on this host, whole and checked. Either the mount
//! holds it, or, in an ordinary directory, it is downloaded: under a temporary name, then renamed.

use super::mount;
use crate::client::{self, FetchError, Session};
use crate::http::{Connection, within};
use plexbeam_api::{FileName, Segment};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a published file may take to be here.
const HOLD: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a published file is not here.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    /// The binding is over: PMS has begun to remove the directory.
    #[error("the mount no longer takes {0}: the session directory is being removed")]
    Over(FileName),
    /// Not within the bound.
    #[error("{name} did not arrive in time: {why}")]
    Deadline {
        /// Which file.
        name: FileName,
        /// The last obstacle.
        why: String,
    },
    /// The download failed for good.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Names that were downloaded, so that they can be removed before the original takes over.
pub(super) type Downloads = Arc<Mutex<Vec<PathBuf>>>;

/// Where published files come to be held.
pub(super) enum Hold {
    /// By the mount, in this bound directory.
    Mount(PathBuf),
    /// By download into an ordinary directory.
    Download(Box<Download>),
}

/// Fetches files of a session into a directory.
pub(super) struct Download {
    dir: PathBuf,
    session: Session,
    connection: Connection,
    made: Downloads,
}

impl Hold {
    /// By download from this session; `made` grows with each file.
    pub(super) fn download(dir: PathBuf, session: &Session, made: Downloads) -> Self {
        Hold::Download(Box::new(Download {
            dir,
            connection: session.connection(),
            session: session.clone(),
            made,
        }))
    }

    /// Returns when the file is held under its final name.
    pub(super) async fn hold(&mut self, segment: &Segment) -> Result<(), HoldError> {
        let deadline = within(HOLD);
        match self {
            Hold::Mount(dir) => mounted(dir, &segment.name, deadline).await,
            Hold::Download(download) => download.hold(segment, deadline).await,
        }
    }
}

async fn mounted(dir: &Path, name: &FileName, mut deadline: Instant) -> Result<(), HoldError> {
    loop {
        let (path, asked) = (dir.to_owned(), name.clone());
        let answer = tokio::task::spawn_blocking(move || mount::held(&path, &asked)).await;
        let why = match answer {
            Ok(Ok(held)) if held.name == *name => return Ok(()),
            Ok(Ok(_)) => "the mount answers for another file".to_owned(),
            Ok(Err(Errno::NODATA)) => return Err(HoldError::Over(name.clone())),
            // The mount bounds its wait; this is how it says so.
            Ok(Err(Errno::AGAIN | Errno::INTR)) => "the mount does not hold it yet".to_owned(),
            // Full of what nobody has read yet: as long as the viewer pauses, nothing is late.
            Ok(Err(Errno::BUSY)) => {
                deadline = within(HOLD);
                continue;
            }
            Ok(Err(errno)) => {
                // It may be coming back (a restart): not for ever.
                sleep(PAUSE).await;
                errno.to_string()
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(HoldError::Deadline {
                name: name.clone(),
                why,
            });
        }
    }
}

impl Download {
    async fn hold(&mut self, segment: &Segment, deadline: Instant) -> Result<(), HoldError> {
        // A leading dot is no file name of any session, so that this one cannot be asked for.
        let temporary = self.dir.join(format!(".{}.part", segment.name));
        let last = self.dir.join(segment.name.as_str());
        loop {
            let fetched = self
                .session
                .fetch(&mut self.connection, segment, &temporary, deadline)
                .await;
            let error = match fetched {
                Ok(()) => {
                    std::fs::rename(&temporary, &last).map_err(FetchError::from)?;
                    if let Ok(mut made) = self.made.lock() {
                        made.push(last);
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            let _ = std::fs::remove_file(&temporary);
            let again = match &error {
                FetchError::Worker(error) => client::may_retry(error),
                FetchError::Damaged(_) => true,
                FetchError::Here(_) => false,
            };
            if !again {
                return Err(error.into());
            }
            if Instant::now() >= deadline {
                return Err(HoldError::Deadline {
                    name: segment.name.clone(),
                    why: error.to_string(),
                });
            }
            sleep(PAUSE).await;
        }
    }
}
