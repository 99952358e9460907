//! The contract that all PlexBeam programs share: what a job says, what a worker answers, and what
//! the mount shows. Plain values with a JSON form; nothing here does I/O.
//!
//! * [`job`]: what is wanted, typed ([`JobSpec`]), and the short form of the founding document.
//! * [`session`]: what became of it ([`SessionStatus`], [`Accepted`], [`Health`]).
//! * [`event`]: what happens meanwhile, one enum for server-sent events and the job child's pipe.
//! * [`segment`]: a finished file of a session, and what a manifest needs to know of it.
//! * [`checksum`]: what its bytes are checked by when they come.
//! * [`manifest`]: MPD, CSV list and HLS playlist as pure values with a text form.
//! * [`mount`]: the extended attributes by which cartridge and mount talk.
//! * [`media`]: signed URLs of the mount's media route.
//! * [`error`]: one small set of error kinds, and problem JSON (RFC 9457).
//! * [`route`]: paths and header names.

pub mod checksum;
pub mod error;
pub mod event;
pub mod id;
pub mod job;
pub mod manifest;
pub mod media;
pub mod mount;
pub mod route;
mod secret;
pub mod segment;
pub mod session;

pub use error::{Kind, Problem};
pub use event::Event;
pub use id::{FileName, Id};
pub use job::JobSpec;
pub use segment::{Segment, SegmentKey};
pub use session::{Accepted, Health, SessionState, SessionStatus};

/// Version of this contract. It travels in every job and in every [`Health`]; a worker answers a
/// job of another version with [`Kind::Unsupported`] instead of guessing.
pub const API_VERSION: u32 = 1;
