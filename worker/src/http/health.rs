//! Liveness for everybody, details for who has the key.

use super::{App, auth::Caller};
use crate::{device, error::Refusal};
use axum::{Extension, Json, extract::State, response::IntoResponse};
use plexbeam_api::{
    API_VERSION, Health, Kind,
    session::{DeviceReport, HealthDetail},
};
use serde_json::json;

pub(super) async fn health(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Json<Health> {
    let status = match app.registry.is_draining() {
        true => "draining",
        false => "ok",
    };
    let detail = match caller {
        Caller::Full => Some(detail(&app)),
        Caller::Session | Caller::Anybody => None,
    };
    Json(Health {
        status: status.to_owned(),
        api_version: API_VERSION,
        detail,
    })
}

fn detail(app: &App) -> HealthDetail {
    let counts = app.registry.counts();
    let (ffmpeg, devices) = match app.probe.get() {
        Some(probe) => (probe.ffmpeg.clone(), probe.devices.clone()),
        None => (device::version_text(), Vec::<DeviceReport>::new()),
    };
    HealthDetail {
        worker: app.worker.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ffmpeg,
        devices,
        active: counts.active,
        queued: counts.queued,
        max_jobs: counts.max_jobs,
        speed: app.registry.speed(),
    }
}

pub(super) async fn ready(State(app): State<App>) -> Result<impl IntoResponse, Refusal> {
    if app.is_ready() {
        return Ok(Json(json!({ "status": "ready" })));
    }
    let why = match (app.registry.is_draining(), app.probe.get()) {
        (true, _) => "the worker is stopping",
        (false, Some(probe)) if !probe.is_usable() => {
            "no video encoder works here; plexbeam-worker probe tells more"
        }
        (false, _) => "the worker is starting",
    };
    Err(Refusal::new(Kind::Unavailable, why))
}
