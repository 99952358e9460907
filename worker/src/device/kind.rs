//! Names of devices.

use crate::libav::hw::DeviceType;
use plexbeam_api::job::HwAccel;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// An interface to a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// NVIDIA: NVDEC, NVENC and CUDA filters.
    Cuda,
    /// Intel and AMD on Linux.
    Vaapi,
    /// Intel Quick Sync.
    Qsv,
    /// Any GPU, and Mesa's software driver: filters only. Experimental.
    Vulkan,
}

impl DeviceKind {
    /// What is tried without a wish, best first: fewer layers between libav and the driver win.
    pub const AUTO: [DeviceKind; 3] = [DeviceKind::Cuda, DeviceKind::Vaapi, DeviceKind::Qsv];

    /// The kind that a job wishes for; `None` leaves it to the worker.
    pub fn of_job(hw: HwAccel) -> Option<Self> {
        match hw {
            HwAccel::Cuda => Some(DeviceKind::Cuda),
            HwAccel::Vaapi => Some(DeviceKind::Vaapi),
            HwAccel::Qsv => Some(DeviceKind::Qsv),
            HwAccel::Auto | HwAccel::None => None,
        }
    }

    /// As settings, reports and events say it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cuda => "cuda",
            DeviceKind::Vaapi => "vaapi",
            DeviceKind::Qsv => "qsv",
            DeviceKind::Vulkan => "vulkan",
        }
    }

    /// libav's number of it.
    pub fn libav(self) -> DeviceType {
        match self {
            DeviceKind::Cuda => DeviceType::AV_HWDEVICE_TYPE_CUDA,
            DeviceKind::Vaapi => DeviceType::AV_HWDEVICE_TYPE_VAAPI,
            DeviceKind::Qsv => DeviceType::AV_HWDEVICE_TYPE_QSV,
            DeviceKind::Vulkan => DeviceType::AV_HWDEVICE_TYPE_VULKAN,
        }
    }

    /// Suffix of libavcodec's encoders for it; `None` where there are none.
    pub fn encoder_suffix(self) -> Option<&'static str> {
        match self {
            DeviceKind::Cuda => Some("nvenc"),
            DeviceKind::Vaapi => Some("vaapi"),
            DeviceKind::Qsv => Some("qsv"),
            DeviceKind::Vulkan => None,
        }
    }

    /// True when it is addressed by a render node.
    pub fn has_node(self) -> bool {
        matches!(self, DeviceKind::Vaapi | DeviceKind::Qsv)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `--hw` asks for: `auto`, `none`, or a kind with an optional address, as in `cuda`,
/// `vaapi:/dev/dri/renderD129`, `cuda:1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wish {
    /// The best that proves itself.
    #[default]
    Auto,
    /// The processor only.
    None,
    /// This kind, and this device of it; `None`: all of that kind.
    Only(DeviceKind, Option<String>),
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, address) = match text.split_once(':') {
            Some((kind, address)) => (kind, Some(address.to_owned())),
            None => (text, None),
        };
        let kind = match kind {
            "auto" if address.is_none() => return Ok(Wish::Auto),
            "none" if address.is_none() => return Ok(Wish::None),
            "cuda" => DeviceKind::Cuda,
            "vaapi" => DeviceKind::Vaapi,
            "qsv" => DeviceKind::Qsv,
            "vulkan" => DeviceKind::Vulkan,
            _ => {
                return Err(format!(
                    "`{text}` is no device; known are auto, none, cuda, vaapi, qsv and vulkan, \
                     the last four with an address if wanted (vaapi:/dev/dri/renderD128)"
                ));
            }
        };
        if address.as_deref() == Some("") {
            return Err(format!("`{text}` has an empty address"));
        }
        Ok(Wish::Only(kind, address))
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Auto => f.write_str("auto"),
            Wish::None => f.write_str("none"),
            Wish::Only(kind, None) => write!(f, "{kind}"),
            Wish::Only(kind, Some(address)) => write!(f, "{kind}:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_written() {
        for text in [
            "auto",
            "none",
            "cuda",
            "cuda:1",
            "vaapi:/dev/dri/renderD129",
            "vulkan",
        ] {
            assert_eq!(text.parse::<Wish>().unwrap().to_string(), text);
        }
        for bad in ["", "nvenc", "none:1", "vaapi:"] {
            assert!(bad.parse::<Wish>().is_err(), "{bad}");
        }
    }
}
