//! The pipeline on clips made at run time, with a sink in memory; `ffprobe` and `ffmpeg` judge.

mod again;
mod burn;
mod damage;
mod first;
mod inputs;
mod kit;
mod overlay;
mod timeline;
mod video;
mod vulkan;
mod words;
