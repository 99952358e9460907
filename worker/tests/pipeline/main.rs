//! The pipeline on clips made at run time, with a sink in memory; `ffprobe` and `ffmpeg` judge.

mod kit;
mod timeline;
mod video;
