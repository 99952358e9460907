//! One small set of error kinds between programs, and their form on the wire.

use serde::{Deserialize, Serialize};

/// What went wrong, as far as a caller must tell apart. Each edge translates it by one table:
/// HTTP status in the worker, errno in the mount, retry / fall back / fail in the cartridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request is malformed; the same request fails anywhere.
    InvalidArgument,
    /// No or wrong key or token.
    Unauthenticated,
    /// No such job, session or file.
    NotFound,
    /// The file will exist but is not complete yet.
    NotYet,
    /// The file existed and was dropped.
    Gone,
    /// Same id, other content.
    Conflict,
    /// Body, count or size beyond a limit.
    TooLarge,
    /// Understood, and this worker cannot do it; the message names the option or filter.
    Unsupported,
    /// All places or bytes are taken; try again later.
    Exhausted,
    /// Starting, draining or unreachable.
    Unavailable,
    /// A wait ended at its bound.
    Deadline,
    /// Asked to stop.
    Cancelled,
    /// The input is missing, empty, truncated or no media.
    BadInput,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// Stable last part of the problem `type` URI.
    pub fn slug(self) -> &'static str {
        match self {
            Kind::InvalidArgument => "invalid-argument",
            Kind::Unauthenticated => "unauthenticated",
            Kind::NotFound => "not-found",
            Kind::NotYet => "not-yet",
            Kind::Gone => "gone",
            Kind::Conflict => "conflict",
            Kind::TooLarge => "too-large",
            Kind::Unsupported => "unsupported",
            Kind::Exhausted => "exhausted",
            Kind::Unavailable => "unavailable",
            Kind::Deadline => "deadline",
            Kind::Cancelled => "cancelled",
            Kind::BadInput => "bad-input",
            Kind::Internal => "internal",
        }
    }
}

/// Problem JSON (RFC 9457), with our extension members `kind` and `field`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:plexbeam:problem:<slug>`; stable, made for programs.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// Short text of the kind.
    pub title: String,
    /// HTTP status; 0 where the problem did not come by HTTP.
    #[serde(default)]
    pub status: u16,
    /// One sentence for a person: names the thing and the remedy. Holds no secret.
    pub detail: String,
    /// Dotted path of the offending member of the request, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The kind, again, for serde users.
    pub kind: Kind,
}

impl Problem {
    /// A problem of this kind, saying `detail`.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Problem {
            type_uri: format!("urn:plexbeam:problem:{}", kind.slug()),
            title: kind.slug().replace('-', " "),
            status: 0,
            detail: detail.into(),
            field: None,
            kind,
        }
    }

    /// The same, naming the member of the request that is to blame.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}
