//! Vulkan: filters only. libplacebo does all of them, since `scale_vulkan` keeps the layout and
//! knows one scaler of poor quality.

use super::Dialect;

pub(super) const DIALECT: Dialect = Dialect {
    scale: |w, h, layout| format!("libplacebo=w={w}:h={h}:format={layout}:normalize_sar=0"),
    convert: |layout| format!("libplacebo=format={layout}:normalize_sar=0"),
    tonemap: |curve| {
        Some(format!(
            "libplacebo=tonemapping={curve}:colorspace=bt709:color_primaries=bt709:\
             color_trc=bt709:range=tv:format=nv12:normalize_sar=0"
        ))
    },
    deinterlace: |_, _| None,
    overlay: "overlay_vulkan",
    upload: "hwupload",
};
