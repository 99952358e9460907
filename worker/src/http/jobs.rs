//! Submitting, watching and cancelling jobs.

use super::{App, IdPath, MAX_BODY};
use crate::{device::DeviceKind, error::Refusal, plan};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use futures_util::StreamExt;
use plexbeam_api::{
    API_VERSION, Accepted, JobSpec, Kind, Problem, SessionStatus,
    event::{LogLevel, LogLine},
    job::{LeasePolicy, ShortJob},
    route,
    session::Urls,
};
use serde::{Deserialize, de::IgnoredAny};
use std::time::Duration;

/// Longest that a request body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(60);
/// Longest grace of a lease: a day.
const MAX_LEASE_MS: u64 = 24 * 3600 * 1000;

pub(super) async fn submit(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let body = read_body(&headers, body).await?;
    let spec = parse(&body)?;
    drop(body);
    check(&spec)?;
    // The check may ask libav, which may read a table from disk the first time.
    let spec = tokio::task::spawn_blocking(move || plan::check(&spec).map(|()| spec))
        .await
        .map_err(|error| Problem::new(Kind::Internal, format!("checking the job: {error}")))??;
    let notes = device_note(&app, &spec).into_iter().collect();
    let session = app.registry.submit(spec, notes)?;
    let id = session.id();
    Ok((
        StatusCode::ACCEPTED,
        Json(Accepted {
            job_id: id.clone(),
            session: id.clone(),
            token: session.token().reveal().to_owned(),
            worker: app.worker.clone(),
            api_version: API_VERSION,
            urls: Urls {
                status: route::status(id),
                events: route::session_events(id),
                files: route::session_files(id),
                cancel: route::transcode(id),
            },
        }),
    ))
}

pub(super) async fn cancel(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<StatusCode, Refusal> {
    app.registry.cancel(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn status(
    State(app): State<App>,
    IdPath(id): IdPath,
) -> Result<Json<SessionStatus>, Refusal> {
    let session = app.registry.get(&id)?;
    session.polled();
    Ok(Json(session.status()))
}

/// The whole body, bounded in bytes and time.
async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            Kind::TooLarge,
            format!("the body of a job may have {MAX_BODY} bytes"),
        )
    };
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    let read = async {
        let mut bytes = Vec::with_capacity(announced.unwrap_or(0));
        let mut stream = body.into_data_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| {
                Problem::new(
                    Kind::InvalidArgument,
                    format!("the body could not be read: {error}"),
                )
            })?;
            if bytes.len() + chunk.len() > MAX_BODY {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(bytes))
    };
    tokio::time::timeout(BODY_LIMIT, read)
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                Kind::Deadline,
                format!("the body did not arrive within {} s", BODY_LIMIT.as_secs()),
            ))
        })
}

/// The members that tell which form a body has, and of which version.
#[derive(Deserialize)]
struct Shape {
    api_version: Option<serde_json::Value>,
    inputs: Option<IgnoredAny>,
    outputs: Option<IgnoredAny>,
    input: Option<IgnoredAny>,
    output: Option<IgnoredAny>,
}

/// A job in either form. Errors: `InvalidArgument` with the field, `Unsupported` for another
/// version of the contract, and what the short form's conversion says.
fn parse(body: &[u8]) -> Result<JobSpec, Problem> {
    let shape: Shape = serde_json::from_slice(body).map_err(|error| {
        Problem::new(
            Kind::InvalidArgument,
            format!("the body is no JSON object of a job: {error}"),
        )
    })?;
    let long = shape.inputs.is_some() || shape.outputs.is_some() || shape.api_version.is_some();
    if !long && (shape.input.is_some() || shape.output.is_some()) {
        return typed::<ShortJob>(body)?.into_spec();
    }
    if let Some(version) = &shape.api_version
        && version.as_u64() != Some(u64::from(API_VERSION))
    {
        return Err(Problem::new(
            Kind::Unsupported,
            format!(
                "this worker speaks api_version {API_VERSION}, the job {version}; run the same \
                 release on both sides"
            ),
        )
        .at("api_version"));
    }
    typed(body)
}

fn typed<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Problem> {
    let mut from = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let path = error.path().to_string();
        let problem = Problem::new(Kind::InvalidArgument, error.inner().to_string());
        match path.as_str() {
            "." => problem,
            _ => problem.at(path),
        }
    })
}

/// What neither the types nor [`plan::check`] say of a job.
fn check(spec: &JobSpec) -> Result<(), Problem> {
    if let LeasePolicy::Owner {
        pause_after_ms,
        free_after_ms,
    } = spec.lease
        && (pause_after_ms == 0 || free_after_ms < pause_after_ms || free_after_ms > MAX_LEASE_MS)
    {
        return Err(Problem::new(
            Kind::InvalidArgument,
            format!("0 < pause_after_ms <= free_after_ms <= {MAX_LEASE_MS} must hold"),
        )
        .at("lease"));
    }
    Ok(())
}

/// A line for the job's log when the device that it wishes for is not there.
fn device_note(app: &App, spec: &JobSpec) -> Option<LogLine> {
    let wished = DeviceKind::of_job(spec.hw_accel)?;
    let probe = app.probe.get()?;
    if probe.capabilities.iter().any(|can| can.kind == wished) {
        return None;
    }
    let tried = probe
        .devices
        .iter()
        .find(|device| device.name == wished.name());
    let why = match tried {
        Some(report) => report.error.clone().unwrap_or_default(),
        None => "the worker's --hw leaves it out".to_owned(),
    };
    let instead = match probe.capabilities.first() {
        Some(other) => other.kind.name(),
        None => "software",
    };
    Some(LogLine {
        level: LogLevel::Warning,
        message: format!("hw_accel {wished} is not used ({why}); encoding by {instead}"),
    })
}
