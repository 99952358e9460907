//! What worker and job child say to each other over their socket pair: JSON frames, each behind its
//! length as a big-endian `u32`.

use crate::{device::Capabilities, input::InputPolicy, pipeline::Again};
use plexbeam_api::{Event, FileName, JobSpec, Problem, Segment, segment::Digest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

/// Longest frame to a child: a job with all its inline data in base64, and some.
pub const MAX_TO_CHILD: u32 = 48 << 20;
/// Longest frame from a child, whatever its input made of it.
pub const MAX_FROM_CHILD: u32 = 4 << 20;

/// Worker to child.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToChild {
    /// The one job of its life. First message.
    Job(Box<JobOrder>),
    /// Answer to [`FromChild::Reserve`]: write it to this name in the job's folder.
    Granted {
        /// Name on disk; written as `.NAME.part`, then renamed.
        file: String,
    },
    /// Answer to [`FromChild::Reserve`]: there will be no room.
    Refused {
        /// Why.
        problem: Problem,
    },
    /// Hold or go on.
    Paused {
        /// True: hold.
        on: bool,
    },
    /// Pacing.
    Throttled {
        /// True: slow.
        on: bool,
    },
    /// Stop soon.
    Cancel,
}

/// A job and where its files go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobOrder {
    /// The job.
    pub spec: JobSpec,
    /// What it may read.
    pub policy: InputPolicy,
    /// Its folder in the spool.
    pub dir: PathBuf,
    /// Files of it that were dropped and are to be made again; `None`: all of the job.
    #[serde(default)]
    pub again: Option<Again>,
    /// The device to use where it can; `None`: the processor does everything.
    #[serde(default)]
    pub device: Option<Capabilities>,
    /// See [`crate::pipeline::Task::fast_start`].
    #[serde(default)]
    pub fast_start: bool,
}

/// Child to worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromChild {
    /// Loaded and waiting for its job.
    Ready,
    /// Sent each second, whatever the pipeline does.
    Alive,
    /// Its inputs are open, and these versions of them; see [`crate::pipeline::Sink::opened`].
    Opened {
        /// The same for the same versions of all inputs.
        inputs: Digest,
    },
    /// [`Event::Probed`], [`Event::Progress`] or [`Event::Log`].
    Event(Event),
    /// Asks for room; nothing is written before the answer. One at a time.
    Reserve {
        /// Name in the session.
        name: FileName,
        /// Its size.
        bytes: u64,
    },
    /// The file granted last is whole and under its final name on disk.
    Published(Segment),
    /// The job is done; last message.
    Done,
    /// The job failed; last message.
    Failed(Problem),
}

/// The bytes of one frame.
pub fn frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes)
}

/// The message in the body of a frame.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(io::Error::from)
}

/// Checks the length of a frame.
pub fn length(prefix: [u8; 4], max: u32) -> io::Result<usize> {
    let length = u32::from_be_bytes(prefix);
    if length > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    Ok(length as usize)
}

/// Writes one frame, blocking.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// Reads one frame, blocking; `None` at the end of the stream.
pub fn read<T: DeserializeOwned>(from: &mut impl Read, max: u32) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match from.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut body = vec![0; length(prefix, max)?];
    from.read_exact(&mut body)?;
    parse(&body).map(Some)
}
