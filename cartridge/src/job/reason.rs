//! Why a job stays on this host.

use crate::argv::{self, Opt};
use crate::config::Work;
use crate::http::UrlError;

/// Why the original transcoder runs instead of a worker.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Reason {
    /// The command line cannot be read.
    #[error(transparent)]
    Argv(#[from] argv::Error),
    /// What a build can do, asked at PMS's start.
    #[error("no input: a question, not a job")]
    NoInput,
    /// Thumbnails, analysis.
    #[error("no -progressurl: not a playback job")]
    NoProgressUrl,
    /// Optimising, downloads, progressive playback, detection.
    #[error("no manifest or segment list URL: not segmented playback")]
    NoListUrl,
    /// A URL that is not plain HTTP.
    #[error("{what}: {error}")]
    Url {
        /// Which.
        what: &'static str,
        /// Why.
        error: UrlError,
    },
    /// Not started by PMS for playback.
    #[error("the working directory is no session directory (plex-transcode-...)")]
    NotASessionDirectory,
    /// Music.
    #[error("the output has no video")]
    NoVideo,
    /// By policy.
    #[error("keep_local names `{}`", .0.name())]
    Kept(Work),
    /// By policy.
    #[error("the video is not encoded, and copy_video is \"local\"")]
    VideoIsCopied,
    /// A second output that is no subtitles in announced segments.
    #[error("a second output is no segmented text with a list")]
    SideOutput,
    /// Burned-in text subtitles of which it is not said which.
    #[error("inlineass and -map_inlineass do not belong together")]
    InlineAss,
    /// The output names no container.
    #[error("the output names no format")]
    NoFormat,
    /// A muxer that is not known.
    #[error("output format `{0}` is not supported")]
    Format(String),
    /// An option that is readable, but whose effect on a worker is not settled.
    #[error("option `{0}` is not supported here")]
    Option(String),
    /// A value that is not understood.
    #[error("`{0}` has a value that is not supported: `{1}`")]
    BadValue(String, String),
    /// An input that is no readable local file.
    #[error("input {index} is no readable local file: {why}")]
    Input {
        /// Which.
        index: usize,
        /// Why.
        why: String,
    },
    /// Side inputs that do not fit into a job.
    #[error("the side inputs hold more than {0} bytes")]
    SideInputsTooLarge(usize),
}

impl Reason {
    /// The value of this option is not understood.
    pub(super) fn value(opt: &Opt) -> Self {
        let value = opt.value.as_deref().unwrap_or_default();
        Reason::BadValue(opt.flag().to_owned(), value.to_string_lossy().into_owned())
    }

    /// This option is not understood where it stands.
    pub(super) fn option(opt: &Opt) -> Self {
        Reason::Option(opt.flag().to_owned())
    }
}
