//! Vulkan: filters only. libplacebo does all of them, since `scale_vulkan` keeps the layout and
//! knows one scaler of poor quality.
//!
//! Its defaults are changed where they would show: a scaler near that of the processor, no dynamic
//! peak detection, which would make a picture depend on where the job began, and tone mapping by the
//! largest component, as libav's `tonemap` does it.

use super::Dialect;
use crate::libav::hw::filter_knows;

const SCALER: &str = "normalize_sar=0:downscaler=catmull_rom:disable_linear=1";

pub(super) const DIALECT: Dialect = Dialect {
    scale: |w, h, layout| format!("libplacebo=w={w}:h={h}:format={layout}:{SCALER}"),
    convert: |layout| format!("libplacebo=format={layout}:{SCALER}"),
    tonemap: |curve| {
        // Newer libplacebo has one mode.
        let mode = match filter_knows("libplacebo", "tonemapping_mode") {
            true => ":tonemapping_mode=max",
            false => "",
        };
        Some(format!(
            "libplacebo=tonemapping={curve}{mode}:peak_detect=0:colorspace=bt709:\
             color_primaries=bt709:color_trc=bt709:range=tv:format=nv12:normalize_sar=0"
        ))
    },
    deinterlace: |_, _| None,
    overlay: "overlay_vulkan",
    upload: "hwupload",
};
