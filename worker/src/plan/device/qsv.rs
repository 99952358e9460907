//! Intel Quick Sync.

use super::{Dialect, Field};
use crate::libav::hw::filter_knows;

pub(super) const DIALECT: Dialect = Dialect {
    scale: |w, h, layout| format!("vpp_qsv=w={w}:h={h}:format={layout}"),
    convert: |layout| format!("vpp_qsv=format={layout}"),
    // From FFmpeg 6 on.
    tonemap: |_| {
        filter_knows("vpp_qsv", "tonemap").then(|| {
            "vpp_qsv=tonemap=1:format=nv12:out_color_matrix=bt709:out_color_primaries=bt709:\
             out_color_transfer=bt709"
                .to_owned()
        })
    },
    // It makes one picture of each pair of fields only.
    deinterlace: |rate, _| match rate {
        Field::PerFrame => Some("vpp_qsv=deinterlace=2".to_owned()),
        Field::PerField => None,
    },
    overlay: "overlay_qsv",
    // The runtime needs all surfaces at once.
    upload: "hwupload=extra_hw_frames=64",
};
