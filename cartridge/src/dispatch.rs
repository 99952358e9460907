//! Which worker takes a job, within the budget of a start (DESIGN 6.2).

use crate::client::{Error, Remedy, Session, Worker};
use crate::config::{Config, Limits};
use crate::http::{Connection, Url};
use crate::session::mount;
use plexbeam_api::{Accepted, JobSpec};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// A source of workers. Blocks; runs on a thread of its own, within the budget for finding one.
pub trait Dispatcher: Send {
    /// Workers worth trying, best first.
    fn candidates(&self) -> Vec<Url>;
}

/// The mount's ranked table: no network is asked.
pub struct MountTable {
    dir: PathBuf,
}

impl Dispatcher for MountTable {
    fn candidates(&self) -> Vec<Url> {
        let mut rows = mount::workers(&self.dir);
        rows.retain(|row| row.live);
        // A full worker may be full of this viewer's own last job, which is about to end; the sort
        // is stable and keeps the mount's ranking otherwise.
        rows.sort_by_key(|row| row.free == 0);
        rows.iter()
            .filter_map(|row| Url::parse(&row.url).ok())
            .collect()
    }
}

/// The configured list.
pub struct Configured(Vec<Url>);

impl Dispatcher for Configured {
    fn candidates(&self) -> Vec<Url> {
        self.0.clone()
    }
}

/// All sources, in the order to ask them.
pub fn dispatchers(dir: &Path, config: &Config) -> Vec<Box<dyn Dispatcher>> {
    vec![
        Box::new(MountTable {
            dir: dir.to_owned(),
        }),
        Box::new(Configured(config.workers.clone())),
    ]
}

/// No worker took the job.
#[derive(Debug, thiserror::Error)]
pub enum NoWorker {
    /// None is known.
    #[error("no worker is configured, and the mount knows none that is live")]
    Unknown,
    /// None was reached, or none took it, in time. The text is the last obstacle.
    #[error("{0}")]
    Failed(String),
}

/// How long a better worker may still answer once a lesser one has.
const PREFER: Duration = Duration::from_millis(50);
/// Workers that are tried at once.
const AT_ONCE: usize = 8;

/// Submits the job to the best worker that answers. `on_submit` hears of each worker just before it
/// is asked, so that the caller can take a job back whose answer got lost.
pub async fn place(
    sources: Vec<Box<dyn Dispatcher>>,
    config: &Config,
    spec: &JobSpec,
    started: Instant,
    mut on_submit: impl FnMut(&Worker),
) -> Result<(Session, Accepted), NoWorker> {
    let Limits { find, accept, .. } = config.limits;
    let (find, accept) = (started + find, started + accept);
    let mut last = NoWorker::Unknown;
    let mut tried: Vec<Url> = Vec::new();
    for source in sources {
        let asking = tokio::task::spawn_blocking(move || source.candidates());
        let Ok(Ok(urls)) = timeout_at(find, asking).await else {
            continue;
        };
        let fresh: Vec<Url> = urls
            .into_iter()
            .filter(|url| !tried.contains(url))
            .collect();
        tried.extend(fresh.iter().cloned());
        let mut race = Race::start(fresh, config, find);
        loop {
            let (worker, mut connection) = match race.best().await {
                Some(Ok(found)) => found,
                Some(Err(why)) => {
                    last = NoWorker::Failed(why);
                    continue;
                }
                None => break,
            };
            on_submit(&worker);
            match worker.submit(&mut connection, spec, accept).await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => {
                    last = NoWorker::Failed(error.to_string());
                    if elsewhere(&error) {
                        continue;
                    }
                    return Err(last);
                }
            }
        }
    }
    Err(last)
}

/// True when another worker is worth asking. After a lost answer none is: the time is up.
fn elsewhere(error: &Error) -> bool {
    match error.remedy() {
        Remedy::OtherWorker => true,
        Remedy::Retry | Remedy::Local => false,
    }
}

type Found = (Worker, Connection);

/// Connections to several workers at once; a dead one ahead in the list costs no time.
struct Race {
    connecting: JoinSet<(usize, Result<Found, String>)>,
    connected: Vec<(usize, Found)>,
    waiting: Vec<usize>,
}

impl Race {
    fn start(urls: Vec<Url>, config: &Config, deadline: Instant) -> Self {
        let mut connecting = JoinSet::new();
        let mut waiting = Vec::new();
        for (rank, url) in urls.into_iter().take(AT_ONCE).enumerate() {
            waiting.push(rank);
            let worker = Worker::new(url, config.api_key.clone());
            connecting.spawn(async move {
                let mut connection = worker.connection();
                let result = connection.open(deadline).await;
                let found = result
                    .map(|()| (worker, connection))
                    .map_err(|error| error.to_string());
                (rank, found)
            });
        }
        Race {
            connecting,
            connected: Vec::new(),
            waiting,
        }
    }

    /// The best worker that is connected, or why one is not; `None` when all are used up.
    async fn best(&mut self) -> Option<Result<Found, String>> {
        let mut patience: Option<Instant> = None;
        loop {
            let best = self.connected.iter().map(|(rank, _)| *rank).min();
            let better_may_come =
                best.is_some_and(|best| self.waiting.iter().any(|&rank| rank < best));
            let until = match (best, patience) {
                (Some(_), _) if !better_may_come => return self.take(),
                (Some(_), Some(until)) => Some(until),
                (Some(_), None) => Some(*patience.insert(Instant::now() + PREFER)),
                (None, _) => None,
            };
            let next = match until {
                Some(until) => match timeout_at(until, self.connecting.join_next()).await {
                    Ok(next) => next,
                    Err(_) => return self.take(),
                },
                None => self.connecting.join_next().await,
            };
            match next {
                None => return self.take(),
                Some(Ok((rank, result))) => {
                    self.waiting.retain(|&waiting| waiting != rank);
                    match result {
                        Ok(found) => self.connected.push((rank, found)),
                        Err(why) => return Some(Err(why)),
                    }
                }
                Some(Err(error)) => return Some(Err(error.to_string())),
            }
        }
    }

    fn take(&mut self) -> Option<Result<Found, String>> {
        let at = self
            .connected
            .iter()
            .enumerate()
            .min_by_key(|(_, (rank, _))| *rank)?
            .0;
        Some(Ok(self.connected.swap_remove(at).1))
    }
}
