//! Lists of sessions and files, and what an owner does to its session besides reading.

use super::{App, IdPath};
use crate::error::Refusal;
use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use plexbeam_api::{Kind, Problem, Segment, SessionStatus, session::Throttle};

pub(super) async fn list(State(app): State<App>) -> Json<Vec<SessionStatus>> {
    Json(app.registry.list())
}

pub(super) async fn files(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<Json<Vec<Segment>>, Refusal> {
    Ok(Json(app.registry.get(&id)?.files()))
}

pub(super) async fn end(State(app): State<App>, IdPath(id): IdPath) -> Result<StatusCode, Refusal> {
    app.registry.free(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn beat(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<StatusCode, Refusal> {
    app.registry.get(&id)?.beat();
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn throttle(
    State(app): State<App>,
    IdPath(id): IdPath,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let session = app.registry.get(&id)?;
    let wish: Throttle = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(
            Kind::InvalidArgument,
            format!("the body must be {{\"on\": true}} or {{\"on\": false}}: {error}"),
        )
        .at("on")
    })?;
    session.throttle(wish.on);
    Ok(StatusCode::NO_CONTENT)
}
