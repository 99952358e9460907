//! NVIDIA: CUDA filters. Stock FFmpeg has no tone mapping among them.

use super::{Dialect, Field};

pub(super) const DIALECT: Dialect = Dialect {
    scale: |w, h, layout| format!("scale_cuda=w={w}:h={h}:format={layout}"),
    convert: |layout| format!("scale_cuda=format={layout}"),
    tonemap: |_| None,
    deinterlace: |rate, only_marked| {
        let mode = match rate {
            Field::PerFrame => "send_frame",
            Field::PerField => "send_field",
        };
        let which = if only_marked { "interlaced" } else { "all" };
        Some(format!("yadif_cuda=mode={mode}:deint={which}"))
    },
    overlay: "overlay_cuda",
    upload: "hwupload",
};
