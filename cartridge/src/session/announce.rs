//! Announcing: each number in order, once, when all its files are held (P3). Holding and posting run
//! side by side, so that a slow PMS does not delay the fetching of what comes next. Each output has a
//! list, a connection and an order of its own; those of second outputs begin after the first one's,
//! so that nothing is known to PMS while the original may still take over.

use super::hold::{Hold, HoldError};
use super::list::List;
use super::ready::{Batch, Ready};
use crate::http::{Call, Connection, Method, Url, within};
use crate::job::Plan;
use crate::log::Log;
use crate::plex;
use plexbeam_api::Segment;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

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
    /// By output.
    told: Vec<mpsc::UnboundedSender<Told>>,
    holding: JoinSet<Result<(), AnnounceError>>,
    posting: JoinSet<()>,
}

impl Announcer {
    /// Begins; nothing is posted before `begun` is true. `announced` becomes true just before the
    /// first post, `numbers` counts the posts.
    pub(super) fn start(
        plan: &Plan,
        hold: &Hold,
        token: Option<&OsStr>,
        begun: watch::Receiver<bool>,
        announced: &Arc<AtomicBool>,
        log: &Log,
    ) -> Self {
        let mut announcer = Announcer {
            told: Vec::new(),
            holding: JoinSet::new(),
            posting: JoinSet::new(),
        };
        let first = watch::Sender::new(false);
        let mut may_begin = begun;
        for (output, list) in std::iter::once(&plan.list)
            .chain(&plan.side_lists)
            .enumerate()
        {
            // What waits here is bounded by the number of segments of the title, a few hundred
            // bytes each.
            let (told, published) = mpsc::unbounded_channel();
            let (give, batches) = mpsc::unbounded_channel();
            let holder = Holder {
                ready: Ready::new(&plan.spec, output),
                is_main: output == 0,
                hold: hold.beside(),
                give,
            };
            let poster = Poster {
                list: List::new(&list.form),
                url: list.url.clone(),
                connection: Connection::new(&list.url, plex::headers(token)),
                first: (output == 0).then(|| (announced.clone(), first.clone())),
                log: log.clone(),
            };
            announcer.told.push(told);
            announcer.holding.spawn(holder.run(published));
            announcer.posting.spawn(poster.run(may_begin, batches));
            may_begin = first.subscribe();
        }
        announcer
    }

    /// A file was published.
    pub(super) fn published(&self, segment: Segment) {
        if let Some(told) = self.told.get(segment.output as usize) {
            let _ = told.send(Told::Published(Box::new(segment)));
        }
    }

    /// Resolves when announcing fails; pending for ever while it goes well.
    pub(super) async fn failed(&mut self) -> AnnounceError {
        match self.holding.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) | None => AnnounceError::Stopped("the holder ended early".into()),
            Some(Err(error)) => AnnounceError::Stopped(error.to_string()),
        }
    }

    /// Nothing more is published: announces what is left, then the end of the list. `drain` bounds
    /// what a PMS that hangs may cost.
    pub(super) async fn finish(mut self, drain: Duration) -> Result<(), AnnounceError> {
        for told in &self.told {
            let _ = told.send(Told::Complete);
        }
        while let Some(held) = self.holding.join_next().await {
            match held {
                Ok(result) => result?,
                Err(error) => return Err(AnnounceError::Stopped(error.to_string())),
            }
        }
        // Past the bound PMS is not listening; the files are here all the same.
        let posted = async { while self.posting.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(drain, posted).await;
        Ok(())
    }
}

/// Waits for the files of each number.
struct Holder {
    ready: Ready,
    /// A title without subtitles is a title; one without pictures is not.
    is_main: bool,
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
            if complete && (any || !self.is_main) {
                let _ = self.give.send(None);
                return Ok(());
            }
            if complete {
                return Err(AnnounceError::Nothing);
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
    /// Told before the first post: the session, and the posters of the other outputs. `None` for
    /// those, and after it was told.
    first: Option<(Arc<AtomicBool>, watch::Sender<bool>)>,
    log: Log,
}

impl Poster {
    /// `None` among the batches is the end of the list.
    async fn run(
        mut self,
        mut begun: watch::Receiver<bool>,
        mut batches: mpsc::UnboundedReceiver<Option<Batch>>,
    ) {
        if begun.wait_for(|begun| *begun).await.is_err() {
            // Nothing came of the first output.
            return;
        }
        loop {
            let batch = match batches.recv().await {
                Some(Some(batch)) => batch,
                Some(None) => break,
                // The job failed: what PMS knows is not the whole title.
                None => return,
            };
            let text = self.list.announce(&batch, now_ms());
            match self.first.take() {
                Some((announced, first)) => {
                    if !announced.swap(true, Ordering::Relaxed) {
                        self.log.first_segment();
                    }
                    self.log
                        .event(format_args!("first segment: number {}", batch.number));
                    self.post(text).await;
                    first.send_replace(true);
                }
                None => self.post(text).await,
            }
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
