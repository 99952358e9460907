//! Operations on a device: which of them it does, and in what words.

mod cuda;
mod qsv;
mod vaapi;
mod vulkan;

use crate::device::DeviceKind;

/// How many pictures deinterlacing makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// One of each two fields.
    PerFrame,
    /// One of each field.
    PerField,
}

/// One device's words. The proofs at start use the same words as the plans, so that what was proved
/// is what runs.
pub struct Dialect {
    /// To this width, height and layout of the frames.
    pub scale: fn(u32, u32, &str) -> String,
    /// To another layout.
    pub convert: fn(&str) -> String,
    /// HDR to BT.709 in `nv12`, by a curve of libplacebo's names; `None`: there is no such filter.
    pub tonemap: fn(&str) -> Option<String>,
    /// All pictures, or with `true` those marked interlaced only; `None`: there is no such filter.
    pub deinterlace: fn(Field, bool) -> Option<String>,
    /// Filter that puts its second input over its first.
    pub overlay: &'static str,
    /// From main memory.
    pub upload: &'static str,
}

/// The words of a kind of device.
pub fn dialect(kind: DeviceKind) -> &'static Dialect {
    match kind {
        DeviceKind::Cuda => &cuda::DIALECT,
        DeviceKind::Vaapi => &vaapi::DIALECT,
        DeviceKind::Qsv => &qsv::DIALECT,
        DeviceKind::Vulkan => &vulkan::DIALECT,
    }
}
