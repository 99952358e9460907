//! PlexBeam end to end: real programs, a real mount, real media, and a Plex Media Server that is
//! fake but strict.
//!
//! * [`mod@env`]: temporary directories, ports, worker and mount processes; cleans up on drop.
//! * [`wait`]: the only way to wait, always with a deadline and always for a condition.
//! * [`media`]: clips made by the `ffmpeg` program at run time and cached.
//! * [`kit`]: worker and mount as most tests want them, and plays through the real cartridge.
//! * [`argv`]: Plex's recorded command lines, and how a seek changes them (PROTOCOL 7).
//! * [`fake_pms`]: keeps PROTOCOL 1, 5, 6 and 10, plays a client, and lists what the real one would
//!   refuse or lose.
//! * [`original`]: stands in for the real transcoder, well or badly behaved.
//! * [`boxes`], [`container`]: the bytes of MP4, MPEG-TS and Matroska, read by hand.
//! * [`probe`]: what `ffprobe` and `ffmpeg` say of files.
//! * [`verify`]: the checks of a whole play against `ffmpeg`'s reference.
//! * [`corpus`]: recorded command lines, their like, the films they expect, and the judgement.
//!
//! The helpers panic with a full sentence when the machine lacks something; they run in tests only.

pub mod argv;
pub mod boxes;
pub mod container;
pub mod corpus;
pub mod env;
pub mod fake_pms;
pub mod kit;
pub mod media;
pub mod original;
pub mod probe;
pub mod verify;
pub mod wait;

pub use env::TestEnv;
