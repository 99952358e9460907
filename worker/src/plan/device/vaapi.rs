//! Intel and AMD by VAAPI.

use super::{Dialect, Field};

pub(super) const DIALECT: Dialect = Dialect {
    scale: |w, h, layout| format!("scale_vaapi=w={w}:h={h}:format={layout}"),
    convert: |layout| format!("scale_vaapi=format={layout}"),
    // One curve, the driver's own.
    tonemap: |_| Some("tonemap_vaapi=format=nv12:t=bt709:m=bt709:p=bt709".to_owned()),
    deinterlace: |rate, only_marked| {
        let rate = match rate {
            Field::PerFrame => "frame",
            Field::PerField => "field",
        };
        let auto = u8::from(only_marked);
        Some(format!("deinterlace_vaapi=rate={rate}:auto={auto}"))
    },
    overlay: "overlay_vaapi",
    upload: "hwupload",
};
