//! How a [`Problem`] leaves the service: one table from its kind to an HTTP status, and the reasons
//! why the service does not start.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use plexbeam_api::{Kind, Problem};
use std::{net::SocketAddr, path::PathBuf};

/// The one table of the HTTP edge. No catch-all: a new kind must say what it is here.
pub fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::InvalidArgument => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::NotYet => StatusCode::CONFLICT,
        Kind::Gone => StatusCode::GONE,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Deadline => StatusCode::REQUEST_TIMEOUT,
        Kind::Cancelled => StatusCode::CONFLICT,
        Kind::BadInput => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Seconds after which a caller may try again; `None` where trying again does not help.
fn retry_after(kind: Kind) -> Option<u32> {
    match kind {
        Kind::NotYet => Some(1),
        Kind::Exhausted => Some(5),
        Kind::Unavailable => Some(2),
        Kind::Deadline => Some(1),
        Kind::InvalidArgument
        | Kind::Unauthenticated
        | Kind::NotFound
        | Kind::Gone
        | Kind::Conflict
        | Kind::TooLarge
        | Kind::Unsupported
        | Kind::Cancelled
        | Kind::BadInput
        | Kind::Internal => None,
    }
}

/// A refused request: problem JSON with the status of its kind, or with a status that only HTTP
/// has (403, 405, 416).
#[derive(Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal of this kind, saying `detail`.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem::new(kind, detail).into()
    }

    /// The same with another status than the table's.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with one header more.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = status_of(problem.kind);
        let mut headers = Vec::new();
        if let Some(seconds) = retry_after(problem.kind) {
            headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        Refusal {
            problem: Box::new(problem),
            status,
            headers,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(mut self) -> Response {
        self.problem.status = self.status.as_u16();
        if self.status.is_server_error() && self.problem.kind == Kind::Internal {
            tracing::error!(detail = %self.problem.detail, "request failed");
        }
        let mut response = (self.status, Json(self.problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

/// Why the service does not start. The text is the fact, [`StartError::hint`] the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag or its environment twin has no usable value.
    #[error("{name}: {fact}")]
    Setting {
        /// Flag as typed.
        name: &'static str,
        /// What is wrong with the value; the value itself unless it is a secret.
        fact: String,
    },
    /// No key, and others than this host could connect.
    #[error("will not listen on {0} without an API key: every host that reaches it could run jobs")]
    OpenToAll(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The spool folder cannot be used.
    #[error("cannot use the spool folder {}: {fact}", path.display())]
    Spool {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        fact: String,
    },
    /// Anything else of the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl StartError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StartError::Setting { .. } => Some("see plexbeam-worker serve --help"),
            StartError::OpenToAll(_) => Some(
                "set a key with --api-key or PLEXBEAM_API_KEY, or listen on 127.0.0.1 with --listen",
            ),
            StartError::Listen { .. } => Some("choose another address with --listen"),
            StartError::Spool { .. } => Some("choose another folder with --spool"),
            StartError::System { .. } => None,
        }
    }

    /// Exit code: 2 for what the administrator asked, 1 for what the system refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Setting { .. } | StartError::OpenToAll(_) => 2,
            StartError::Listen { .. } | StartError::Spool { .. } | StartError::System { .. } => 1,
        }
    }
}
