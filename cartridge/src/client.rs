//! The worker's HTTP interface (DESIGN 3) as the cartridge uses it; every call has a deadline.

mod events;

pub(crate) use events::may_retry;
pub use events::{Follow, Heard, follow};

use crate::config::Secret;
use crate::http::{Call, CallError, Connection, Method, Reply, Url, within};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use plexbeam_api::{
    Accepted, FileName, Id, JobSpec, Kind, Problem, Segment, SessionStatus, checksum::Verifier,
    route, session::Throttle,
};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

/// Bound of the small calls beside a running job.
const SMALL_CALL: Duration = Duration::from_secs(2);
/// Bound of ending a session before the original takes over or the process exits.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Why a call to a worker failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// No reply.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A reply that says no.
    #[error("{peer}: {problem}")]
    Problem {
        /// Which worker.
        peer: Url,
        /// Why.
        problem: Box<Problem>,
    },
    /// A reply that is not understood.
    #[error("{peer}: {what}")]
    Protocol {
        /// Which worker.
        peer: Url,
        /// What.
        what: String,
    },
}

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same call may succeed soon.
    Retry,
    /// This worker cannot, another might.
    OtherWorker,
    /// No worker will.
    Local,
}

impl Error {
    /// The kind -> remedy table.
    pub fn remedy(&self) -> Remedy {
        match self {
            Error::Call(error) => match error {
                CallError::Deadline(_) | CallError::Broken { .. } => Remedy::Retry,
                CallError::Resolve { .. } | CallError::Refused(_) | CallError::TooLarge(_) => {
                    Remedy::OtherWorker
                }
            },
            Error::Problem { problem, .. } => match problem.kind {
                Kind::NotYet | Kind::Deadline => Remedy::Retry,
                Kind::Unauthenticated
                | Kind::NotFound
                | Kind::Gone
                | Kind::Unsupported
                | Kind::Exhausted
                | Kind::Unavailable
                | Kind::Cancelled
                | Kind::Internal
                | Kind::BadInput => Remedy::OtherWorker,
                Kind::InvalidArgument | Kind::Conflict | Kind::TooLarge => Remedy::Local,
            },
            Error::Protocol { .. } => Remedy::OtherWorker,
        }
    }
}

/// A worker: where it is and the key to it.
#[derive(Debug, Clone)]
pub struct Worker {
    base: Url,
    key: Option<Secret>,
}

/// A session on a worker. Each task that talks to it has its own connection.
#[derive(Debug, Clone)]
pub struct Session {
    worker: Worker,
    id: Id,
    token: Secret,
}

impl Worker {
    /// At this base URL.
    pub fn new(base: Url, key: Option<Secret>) -> Self {
        Worker { base, key }
    }

    /// Its base URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A connection that carries the key.
    pub fn connection(&self) -> Connection {
        Connection::new(&self.base, self.headers(None))
    }

    fn headers(&self, token: Option<&Secret>) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let mut add = |name: HeaderName, text: String| {
            // What is no header value cannot be a right key either; the worker will say so.
            if let Ok(mut value) = HeaderValue::try_from(text) {
                value.set_sensitive(true);
                headers.push((name, value));
            }
        };
        if let Some(key) = &self.key {
            let name = HeaderName::from_static(route::API_KEY_HEADER);
            add(name, key.expose().to_owned());
        }
        if let Some(token) = token {
            add(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        headers
    }

    /// Submits a job over a connection of [`Worker::connection`].
    pub async fn submit(
        &self,
        connection: &mut Connection,
        spec: &JobSpec,
        deadline: Instant,
    ) -> Result<(Session, Accepted), Error> {
        let body = serde_json::to_vec(spec).map_err(|e| self.protocol(e.to_string()))?;
        let call = Call::new(Method::POST, self.base.join(route::TRANSCODE))
            .body("application/json", body);
        let reply = connection.call(&call, deadline).await?;
        let accepted: Accepted = self.read(&reply)?;
        if accepted.api_version != plexbeam_api::API_VERSION {
            return Err(self.protocol(format!(
                "it speaks version {} of the contract, this is version {}",
                accepted.api_version,
                plexbeam_api::API_VERSION
            )));
        }
        let session = Session {
            worker: self.clone(),
            id: accepted.session.clone(),
            token: Secret::from(accepted.token.clone()),
        };
        Ok((session, accepted))
    }

    /// Cancels the unfinished jobs whose ids begin so, except `but`. Gives how many.
    pub async fn supersede(&self, prefix: &str, but: &Id) -> Result<usize, Error> {
        let mut connection = self.connection();
        let list = Call::new(Method::GET, self.base.join(route::JOBS));
        let reply = connection.call(&list, within(SMALL_CALL)).await?;
        let jobs: Vec<SessionStatus> = self.read(&reply)?;
        let mut count = 0;
        for job in jobs.iter().filter(|job| !job.state.is_end()) {
            if job.job_id != *but && job.job_id.as_str().starts_with(prefix) {
                self.cancel(&job.job_id).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Cancels a job by its id; for the time before its session is known.
    pub async fn cancel(&self, job: &Id) -> Result<(), Error> {
        let call = Call::new(Method::DELETE, self.base.join(&route::transcode(job)));
        let reply = self.connection().call(&call, within(LAST_CALL)).await?;
        self.check(&reply)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, reply: &Reply) -> Result<T, Error> {
        self.check(reply)?;
        serde_json::from_slice(&reply.body)
            .map_err(|e| self.protocol(format!("a reply that is not understood: {e}")))
    }

    fn check(&self, reply: &Reply) -> Result<(), Error> {
        if (200..300).contains(&reply.status) {
            return Ok(());
        }
        Err(self.problem(reply.status, &reply.body))
    }

    fn problem(&self, status: u16, body: &[u8]) -> Error {
        match serde_json::from_slice(body) {
            Ok(problem) => Error::Problem {
                peer: self.base.clone(),
                problem: Box::new(problem),
            },
            Err(_) => self.protocol(format!("status {status} without a reason")),
        }
    }

    fn protocol(&self, what: String) -> Error {
        Error::Protocol {
            peer: self.base.clone(),
            what,
        }
    }
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Its token.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// The worker it is on.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// A connection that carries key and token.
    pub fn connection(&self) -> Connection {
        Connection::new(&self.worker.base, self.worker.headers(Some(&self.token)))
    }

    async fn put(
        &self,
        connection: &mut Connection,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let mut call = Call::new(Method::PUT, self.worker.base.join(path));
        if let Some(body) = body {
            call = call.body("application/json", body);
        }
        let reply = connection.call(&call, within(SMALL_CALL)).await?;
        self.worker.check(&reply)
    }

    /// Says that the owner is alive.
    pub async fn renew(&self, connection: &mut Connection) -> Result<(), Error> {
        self.put(connection, &route::session_lease(&self.id), None)
            .await
    }

    /// Passes PMS's pacing on.
    pub async fn throttle(&self, connection: &mut Connection, on: bool) -> Result<(), Error> {
        let body = serde_json::to_vec(&Throttle { on })
            .map_err(|e| self.worker.protocol(e.to_string()))?;
        self.put(connection, &route::session_throttle(&self.id), Some(body))
            .await
    }

    /// Ends the session and frees its files. Bounded; for a session that nobody will read any more.
    pub async fn end(&self) -> Result<(), Error> {
        self.delete(&route::session(&self.id)).await
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        let call = Call::new(Method::DELETE, self.worker.base.join(path));
        let reply = self.connection().call(&call, within(LAST_CALL)).await?;
        self.worker.check(&reply)
    }

    /// Fetches a file into the one that `create` makes once the worker sends it, and checks the
    /// bytes. What is there after an error is the caller's to remove.
    pub async fn fetch(
        &self,
        connection: &mut Connection,
        segment: &Segment,
        deadline: Instant,
        create: impl AsyncFnOnce() -> Result<std::fs::File, FetchError>,
    ) -> Result<(), FetchError> {
        let path = route::session_file(&self.id, &segment.name);
        let call = Call::new(Method::GET, self.worker.base.join(&path));
        let response = connection
            .send(&call, deadline)
            .await
            .map_err(Error::from)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            let error = self.refusal(status, &mut body, deadline).await;
            return Err(error.into());
        }
        // The directory may be in a mount that comes to hang: nothing else waits for it.
        let mut file = tokio::fs::File::from_std(create().await?);
        let mut verifier = Verifier::new(segment);
        while let Some(data) = self.next_data(&mut body, deadline).await? {
            verifier.update(&data);
            if verifier.size() > segment.size {
                break;
            }
            timeout_at(deadline, file.write_all(&data))
                .await
                .map_err(|_| late())??;
        }
        timeout_at(deadline, file.flush())
            .await
            .map_err(|_| late())??;
        if !verifier.is_right() {
            return Err(FetchError::Damaged(segment.name.clone()));
        }
        Ok(())
    }

    async fn next_data(
        &self,
        body: &mut hyper::body::Incoming,
        deadline: Instant,
    ) -> Result<Option<bytes::Bytes>, Error> {
        use http_body_util::BodyExt;
        loop {
            let peer = self.worker.base.to_string();
            let frame = timeout_at(deadline, body.frame())
                .await
                .map_err(|_| CallError::Deadline(peer.clone()))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    return Err(Error::Call(CallError::Broken {
                        peer,
                        why: error.to_string(),
                    }));
                }
            }
        }
    }

    /// The problem in a body whose status says no.
    async fn refusal(
        &self,
        status: u16,
        body: &mut hyper::body::Incoming,
        deadline: Instant,
    ) -> Error {
        let mut bytes = Vec::new();
        while let Ok(Some(data)) = self.next_data(body, deadline).await {
            bytes.extend_from_slice(&data);
            if bytes.len() > 64 << 10 {
                break;
            }
        }
        self.worker.problem(status, &bytes)
    }
}

/// This host's file system did not do its part in time.
pub(crate) fn late() -> FetchError {
    FetchError::Here(std::io::ErrorKind::TimedOut.into())
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The worker's side.
    #[error(transparent)]
    Worker(#[from] Error),
    /// This host's side.
    #[error("cannot write here: {0}")]
    Here(#[from] std::io::Error),
    /// The bytes are not what was published.
    #[error("{0} did not arrive as it was published")]
    Damaged(FileName),
}
