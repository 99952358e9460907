//! Announcing: each number in order, once, when all its files are held (P3). Holding and posting run
//! side by side, so that a slow PMS does not delay the fetching of what comes next.

use super::hold::{Hold, HoldError};
use super::list::List;
use super::ready::{Batch, Ready};
use crate::http::{Call, Connection, Method, Url, within};
use crate::job::{ListPlan, Plan};
use crate::log::Log;
use crate::plex;
use plexbeam_api::Segment;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Bound of one post. Long, because a connection that is given up looks like a crash to PMS, and
/// nothing but later posts waits for it; Plex's own transcoder would wait for ever.
const POST: Duration = Duration::from_secs(30);

/// Why announcing ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnnounceError {
    /// A published file is not here.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The job ended without one segment.
    #[error("the job ended without a segment")]
    Nothing,
    /// A task of ours ended where it must not.
    #[error("announcing stopped: {0}")]
    Stopped(String),
}

/// What the announcer is told.
enum Told {
    Published(Box<Segment>),
    Complete,
}

/// Runs beside the session. Dropping it stops it.
pub(super) struct Announcer {
    told: mpsc::UnboundedSender<Told>,
    holding: JoinHandle<Result<(), AnnounceError>>,
    posting: JoinHandle<()>,
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.holding.abort();
        self.posting.abort();
    }
}

impl Announcer {
    /// Begins; nothing is posted before `begun` is true. `announced` becomes true just before the
    /// first post, `numbers` counts the posts.
    pub(super) fn start(
        plan: &Plan,
        hold: Hold,
        token: Option<&OsStr>,
        begun: watch::Receiver<bool>,
        announced: Arc<AtomicBool>,
        log: Log,
    ) -> Self {
        // What waits here is bounded by the number of segments of the title, a few hundred bytes each.
        let (told, published) = mpsc::unbounded_channel();
        let (give, batches) = mpsc::unbounded_channel();
        let holder = Holder {
            ready: Ready::new(&plan.spec),
            hold,
            give,
        };
        let poster = Poster::new(&plan.list, token, announced, log);
        Announcer {
            told,
            holding: tokio::spawn(holder.run(published)),
            posting: tokio::spawn(poster.run(begun, batches)),
        }
    }

    /// A file was published.
    pub(super) fn published(&self, segment: Segment) {
        let _ = self.told.send(Told::Published(Box::new(segment)));
    }

    /// Resolves when announcing fails; pending for ever while it goes well.
    pub(super) async fn failed(&mut self) -> AnnounceError {
        match (&mut self.holding).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) => AnnounceError::Stopped("the holder ended early".into()),
            Err(error) => AnnounceError::Stopped(error.to_string()),
        }
    }

    /// Nothing more is published: announces what is left, then the end of the list. `drain` bounds
    /// what a PMS that hangs may cost.
    pub(super) async fn finish(mut self, drain: Duration) -> Result<(), AnnounceError> {
        let _ = self.told.send(Told::Complete);
        match (&mut self.holding).await {
            Ok(result) => result?,
            Err(error) => return Err(AnnounceError::Stopped(error.to_string())),
        }
        // Past the bound PMS is not listening; the files are here all the same.
        let _ = tokio::time::timeout(drain, &mut self.posting).await;
        Ok(())
    }
}

/// Waits for the files of each number.
struct Holder {
    ready: Ready,
    hold: Hold,
    give: mpsc::UnboundedSender<Option<Batch>>,
}

impl Holder {
    async fn run(
        mut self,
        mut published: mpsc::UnboundedReceiver<Told>,
    ) -> Result<(), AnnounceError> {
        let mut any = false;
        while let Some(told) = published.recv().await {
            let complete = matches!(told, Told::Complete);
            match told {
                Told::Published(segment) => self.ready.add(*segment),
                Told::Complete => self.ready.complete(),
            }
            while let Some(batch) = self.ready.pop() {
                for segment in batch.heads.iter().chain(&batch.media) {
                    self.hold.hold(segment).await?;
                }
                any = true;
                let _ = self.give.send(Some(batch));
            }
            if complete {
                let _ = self.give.send(None);
                return if any {
                    Ok(())
                } else {
                    Err(AnnounceError::Nothing)
                };
            }
        }
        Ok(())
    }
}

/// Posts the list over one connection that stays open until the process ends (PROTOCOL 6).
struct Poster {
    list: List,
    url: Url,
    connection: Connection,
    announced: Arc<AtomicBool>,
    posted: AtomicU64,
    log: Log,
}

impl Poster {
    fn new(plan: &ListPlan, token: Option<&OsStr>, announced: Arc<AtomicBool>, log: Log) -> Self {
        Poster {
            list: List::new(&plan.form),
            url: plan.url.clone(),
            connection: Connection::new(&plan.url, plex::headers(token)),
            announced,
            posted: AtomicU64::new(0),
            log,
        }
    }

    /// `None` among the batches is the end of the list.
    async fn run(
        mut self,
        mut begun: watch::Receiver<bool>,
        mut batches: mpsc::UnboundedReceiver<Option<Batch>>,
    ) {
        let _ = begun.wait_for(|begun| *begun).await;
        loop {
            let batch = match batches.recv().await {
                Some(Some(batch)) => batch,
                Some(None) => break,
                // The job failed: what PMS knows is not the whole title.
                None => return,
            };
            self.announced.store(true, Ordering::Relaxed);
            let text = self.list.announce(&batch, now_ms());
            if self.posted.fetch_add(1, Ordering::Relaxed) == 0 {
                self.log
                    .event(format_args!("first segment: number {}", batch.number));
            }
            self.post(text).await;
        }
        if let Some(text) = self.list.end() {
            self.post(text).await;
        }
    }

    async fn post(&mut self, text: String) {
        let mut call = Call::new(Method::POST, self.url.clone());
        call.body = text.into();
        // As Plex's own transcoder sends it (PROTOCOL 6.6).
        call.chunked = true;
        match self.connection.call(&call, within(POST)).await {
            Ok(reply) if (200..300).contains(&reply.status) => {}
            Ok(reply) => self
                .log
                .event(format_args!("PMS answers {} to the list", reply.status)),
            Err(error) => self.log.event(format_args!("PMS and the list: {error}")),
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_millis() as u64)
}
