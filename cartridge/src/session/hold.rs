//! P3: a file is announced only when it is held on this host, whole and checked. Either the mount
//! holds it, or, in an ordinary directory, it is downloaded: under a temporary name, then renamed.

use super::downloads::Downloads;
use super::mount;
use crate::client::{self, FetchError, Session};
use crate::http::{Connection, within};
use plexbeam_api::{FileName, Segment, mount::Held};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a published file may take to be here.
const HOLD: Duration = Duration::from_secs(30);
/// A mount that says nothing for so much longer hangs.
const SILENCE: Duration = Duration::from_secs(5);
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
    downloads: Downloads,
}

impl Hold {
    /// By download from this session.
    pub(super) fn download(dir: PathBuf, session: &Session, downloads: Downloads) -> Self {
        Hold::Download(Box::new(Download {
            dir,
            connection: session.connection(),
            session: session.clone(),
            downloads,
        }))
    }

    /// The same with a connection of its own, to be used beside this one.
    pub(super) fn beside(&self) -> Self {
        match self {
            Hold::Mount(dir) => Hold::Mount(dir.clone()),
            Hold::Download(one) => {
                Hold::download(one.dir.clone(), &one.session, one.downloads.clone())
            }
        }
    }

    /// Returns when the file is held under its final name.
    pub(super) async fn hold(&mut self, segment: &Segment) -> Result<(), HoldError> {
        let deadline = within(HOLD);
        match self {
            Hold::Mount(dir) => {
                let ask = || {
                    let (dir, name) = (dir.clone(), segment.name.clone());
                    tokio::task::spawn_blocking(move || mount::held(&dir, &name))
                };
                mounted(ask, &segment.name, deadline).await
            }
            Hold::Download(download) => download.hold(segment, deadline).await,
        }
    }
}

/// Asks until the mount holds the file. Each answer is waited for by the mount, within its bound.
async fn mounted<A>(
    ask: impl Fn() -> A,
    name: &FileName,
    mut deadline: Instant,
) -> Result<(), HoldError>
where
    A: Future<Output = Result<Result<Held, Errno>, tokio::task::JoinError>>,
{
    loop {
        // The mount bounds its wait, unless it hangs.
        let Ok(answer) = timeout_at(deadline + SILENCE, ask()).await else {
            return Err(HoldError::Deadline {
                name: name.clone(),
                why: "the mount does not answer".to_owned(),
            });
        };
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
        let last = self.dir.join(segment.name.as_str());
        let mut temporary = self.downloads.temporary(&last);
        loop {
            let fetched = self
                .session
                .fetch(&mut self.connection, segment, deadline, async || {
                    temporary.create(deadline).await
                })
                .await;
            let error = match fetched {
                Ok(()) => return Ok(temporary.settle(last, deadline).await?),
                Err(error) => error,
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use plexbeam_api::segment::Digest;
    use std::cell::Cell;

    /// As the mount answers: after its own wait of a second, by the count of questions before.
    async fn asked(answers: impl Fn(u32) -> Result<Held, Errno>) -> (Result<(), HoldError>, u32) {
        let count = Cell::new(0);
        let ask = || {
            let answer = answers(count.replace(count.get() + 1));
            async {
                sleep(Duration::from_secs(1)).await;
                Ok(answer)
            }
        };
        let name = "media-00001.ts".parse().unwrap();
        let result = mounted(ask, &name, within(HOLD)).await;
        (result, count.get())
    }

    fn held() -> Held {
        Held {
            name: "media-00001.ts".parse().unwrap(),
            size: 1,
            digest: Digest::of(b"x"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewers_pause_lasts_as_long_as_it_likes() {
        let hours = 3 * 3600;
        let (result, count) = asked(|n| match n {
            _ if n < hours => Err(Errno::BUSY),
            // Then it has to come like any other.
            _ if n < hours + 20 => Err(Errno::AGAIN),
            _ => Ok(held()),
        })
        .await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(count, hours + 21);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_does_not_come_has_a_deadline() {
        let (result, count) = asked(|_| Err(Errno::AGAIN)).await;
        assert!(
            matches!(result, Err(HoldError::Deadline { .. })),
            "{result:?}"
        );
        assert_eq!(u64::from(count), HOLD.as_secs());
        let (result, _) = asked(|n| match n {
            0 => Err(Errno::IO),
            _ => Err(Errno::NODATA),
        })
        .await;
        assert!(matches!(result, Err(HoldError::Over(_))), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mount_that_hangs_has_a_deadline() {
        let name = "media-00001.ts".parse().unwrap();
        let started = Instant::now();
        let result = mounted(std::future::pending, &name, within(HOLD)).await;
        assert!(
            matches!(result, Err(HoldError::Deadline { .. })),
            "{result:?}"
        );
        assert_eq!(started.elapsed(), HOLD + SILENCE);
    }
}
