//! What this machine can really do: every step of every device is tried on a few frames, because a
//! listed encoder proves nothing.
//!
//! [`kind`] names devices and what is wished for, [`prove`] tries one, [`apart`] does that in
//! processes of their own, since a driver may abort or hang, and [`ladder`] chooses for a job: the
//! best device first, the processor last.

pub mod apart;
pub mod kind;
pub mod ladder;
pub mod prove;
pub mod table;

pub use apart::prove_apart;
pub use kind::{DeviceKind, Wish};
pub use ladder::{Ladder, Rung};

use plexbeam_api::session::DeviceReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Result of `plexbeam-worker probe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// libavcodec's version.
    pub ffmpeg: String,
    /// What was tried, software first.
    pub devices: Vec<DeviceReport>,
    /// The devices that can do something, best first.
    pub capabilities: Vec<Capabilities>,
}

impl Probe {
    /// True when video can be encoded here at all.
    pub fn is_usable(&self) -> bool {
        let makes_h264 =
            |device: &DeviceReport| device.encoders.iter().any(|name| name == "libx264");
        self.devices.iter().any(makes_h264)
    }
}

/// A codec family that devices encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// H.264.
    H264,
    /// HEVC.
    Hevc,
}

impl Family {
    /// libav's short name of the codec.
    pub fn codec(self) -> &'static str {
        match self {
            Family::H264 => "h264",
            Family::Hevc => "hevc",
        }
    }
}

/// A step between decoder and encoder that a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Main memory to the device and back, 8 bits.
    Transfer8,
    /// The same with 10 bits.
    Transfer10,
    /// Scaling, 8 bits.
    Scale8,
    /// Scaling, 10 bits.
    Scale10,
    /// 10 bits to 8 without change of colours.
    Narrow,
    /// HDR10 in 10 bits to SDR in 8.
    Tonemap,
    /// Deinterlacing, 8 bits.
    Deinterlace,
    /// One picture over another.
    Overlay,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 8] = [
        Step::Transfer8,
        Step::Transfer10,
        Step::Scale8,
        Step::Scale10,
        Step::Narrow,
        Step::Tonemap,
        Step::Deinterlace,
        Step::Overlay,
    ];

    /// Words for a person.
    pub fn words(self) -> &'static str {
        match self {
            Step::Transfer8 => "upload and download",
            Step::Transfer10 => "upload and download, 10 bit",
            Step::Scale8 => "scale",
            Step::Scale10 => "scale, 10 bit",
            Step::Narrow => "10 bit to 8 bit",
            Step::Tonemap => "tone map",
            Step::Deinterlace => "deinterlace",
            Step::Overlay => "overlay",
        }
    }
}

/// What one device proved. Decoding and encoding stand apart: some GPUs only decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Which interface.
    pub kind: DeviceKind,
    /// Render node, CUDA ordinal or Vulkan device number.
    pub address: String,
    /// Codecs (libav's short names) and bits per component that it decodes.
    pub decode: BTreeSet<(String, u32)>,
    /// Codecs and bits per component that it encodes.
    pub encode: BTreeSet<(Family, u32)>,
    /// Steps between.
    pub steps: BTreeSet<Step>,
    /// Encoders that were open at once when the driver refused another; `None`: it refused none.
    pub sessions: Option<u32>,
}

impl Capabilities {
    /// A device that can nothing yet.
    pub fn none(kind: DeviceKind, address: &str) -> Self {
        Capabilities {
            kind,
            address: address.to_owned(),
            decode: BTreeSet::new(),
            encode: BTreeSet::new(),
            steps: BTreeSet::new(),
            sessions: None,
        }
    }

    /// True when the step was proved.
    pub fn can(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }

    /// True when it encodes that.
    pub fn encodes(&self, family: Family, bits: u32) -> bool {
        self.encode.contains(&(family, bits))
    }

    /// True when it decodes that.
    pub fn decodes(&self, codec: &str, bits: u32) -> bool {
        self.decode.contains(&(codec.to_owned(), bits))
    }

    /// True when a job gains from it: it decodes or encodes something, or the administrator chose a
    /// kind that does neither (Vulkan).
    pub fn is_of_use(&self) -> bool {
        let frames = self.can(Step::Transfer8) || self.can(Step::Transfer10);
        frames
            && (self.kind == DeviceKind::Vulkan
                || !self.decode.is_empty()
                || !self.encode.is_empty())
    }
}

/// libavcodec's version as `libavcodec major.minor.micro`.
pub fn version_text() -> String {
    format!("libavcodec {}", crate::libav::avcodec_version())
}
