//! The HTTP edge (DESIGN 3): routes, who may call them, and problem JSON for everything that is
//! refused.

mod auth;
mod events;
mod files;
mod health;
mod jobs;
mod sessions;

use crate::{
    config::Secret,
    device::{Ladder, Probe},
    error::Refusal,
    session::Registry,
    shutdown::Shutdown,
};
use axum::{
    Router,
    extract::{FromRequestParts, Path},
    http::{StatusCode, Uri, request::Parts},
    middleware,
    routing::{delete, get, post, put},
};
use plexbeam_api::{FileName, Id, Kind, route};
use std::sync::{Arc, OnceLock};

/// Largest request body: [`plexbeam_api::job::MAX_INLINE_BYTES`] in base64, and the job around it.
pub const MAX_BODY: usize = 24 << 20;

/// What the routes work on; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// All sessions.
    pub registry: Arc<Registry>,
    /// Shared key; `None` opens all routes to loopback callers.
    pub key: Option<Secret>,
    /// This worker.
    pub worker: Id,
    /// This start of this worker.
    pub boot: Id,
    /// Set once the encoders are proved.
    pub probe: Arc<OnceLock<Probe>>,
    /// Starts job children.
    pub spawner: Arc<crate::child::Spawner>,
    /// Stage of the service.
    pub shutdown: Shutdown,
}

impl App {
    /// Takes what the devices proved; jobs may use them from now on. Once.
    pub fn set_probe(&self, probe: Probe) {
        self.registry.set_ladder(Ladder::new(&probe));
        let _ = self.probe.set(probe);
    }

    /// True when probed, warm and taking jobs.
    pub fn is_ready(&self) -> bool {
        let usable = self.probe.get().is_some_and(Probe::is_usable);
        usable && self.spawner.is_warm() && !self.registry.is_draining()
    }
}

/// All routes, behind the check of `auth`.
pub fn app(state: App) -> Router {
    Router::new()
        .route(route::HEALTH, get(health::health))
        .route(route::READY, get(health::ready))
        .route(route::TRANSCODE, post(jobs::submit))
        .route("/transcode/{id}", delete(jobs::cancel))
        .route("/status/{id}", get(jobs::status))
        .route(route::JOBS, get(sessions::list))
        .route(route::SESSIONS, get(sessions::list))
        .route(route::EVENTS, get(events::worker))
        .route("/sessions/{id}", delete(sessions::end))
        .route("/sessions/{id}/events", get(events::session))
        .route("/sessions/{id}/lease", put(sessions::beat))
        .route("/sessions/{id}/throttle", put(sessions::throttle))
        .route("/sessions/{id}/files", get(sessions::files))
        .route("/sessions/{id}/files/{name}", get(files::file))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(state.clone(), auth::guard))
        .with_state(state)
}

async fn no_route(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(Kind::NotFound, format!("there is no route {path}"))
}

async fn no_method(method: axum::http::Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(
        Kind::InvalidArgument,
        format!("{path} does not take {method}"),
    )
    .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The `{id}` of a path. A text that is no id names nothing: 404.
struct IdPath(Id);

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::new(Kind::NotFound, error.body_text()))?;
        id(text).map(IdPath)
    }
}

/// The `{id}` and `{name}` of a path.
struct FilePath(Id, FileName);

impl<S: Send + Sync> FromRequestParts<S> for FilePath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path((text, name)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::new(Kind::NotFound, error.body_text()))?;
        let name = FileName::try_from(name)
            .map_err(|error| Refusal::new(Kind::NotFound, error.to_string()))?;
        Ok(FilePath(id(text)?, name))
    }
}

fn id(text: String) -> Result<Id, Refusal> {
    Id::try_from(text).map_err(|error| Refusal::new(Kind::NotFound, error.to_string()))
}
