//! The size that libav's `scale` would make, for scalers that want plain numbers.

use crate::plan::operation::Scale;

/// Options of `scale` that a device's scaler may leave out.
const HARMLESS: [&str; 3] = ["flags", "eval", "interl"];

/// Size after `scale` on pictures of size `before`, by the rules of libavfilter's
/// `ff_scale_adjust_dimensions`; `None` where it is an expression, or where the scaler is asked for
/// more than a size.
pub(super) fn after(scale: &Scale, before: Option<(u32, u32)>) -> Option<(u32, u32)> {
    let option = |name: &str| {
        let found = scale.options.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let known = |key: &str| {
        HARMLESS.contains(&key)
            || matches!(key, "force_original_aspect_ratio" | "force_divisible_by")
    };
    if !scale.options.iter().all(|(key, _)| known(key)) {
        return None;
    }
    let divisor: i64 = match option("force_divisible_by") {
        Some(text) => text.parse().ok().filter(|n| (1..=256).contains(n))?,
        None => 1,
    };
    let (mut w, mut h) = (side(&scale.width)?, side(&scale.height)?);
    let aspect = option("force_original_aspect_ratio").unwrap_or("disable");
    let is_fixed = w > 0 && h > 0 && matches!(aspect, "disable" | "0");
    if is_fixed {
        return pair(w, h);
    }
    let (in_w, in_h) = before.map(|(w, h)| (i64::from(w), i64::from(h)))?;
    // -n keeps the aspect in a multiple of n.
    let (unit_w, unit_h) = (if w < -1 { -w } else { 1 }, if h < -1 { -h } else { 1 });
    if w < 0 && h < 0 {
        (w, h) = (0, 0);
    }
    if w == 0 {
        w = in_w;
    }
    if h == 0 {
        h = in_h;
    }
    if w < 0 {
        w = rescale(h, in_w, in_h * unit_w) * unit_w;
    }
    if h < 0 {
        h = rescale(w, in_h, in_w * unit_h) * unit_h;
    }
    let (fit_w, fit_h) = (rescale(h, in_w, in_h), rescale(w, in_h, in_w));
    match aspect {
        "disable" | "0" => {}
        "decrease" | "1" => {
            w = fit_w.min(w) / divisor * divisor;
            h = fit_h.min(h) / divisor * divisor;
        }
        "increase" | "2" => {
            w = (fit_w.max(w) + divisor - 1) / divisor * divisor;
            h = (fit_h.max(h) + divisor - 1) / divisor * divisor;
        }
        _ => return None,
    }
    pair(w, h)
}

fn side(text: &str) -> Option<i64> {
    match text {
        "" | "iw" | "ih" => Some(0),
        number => number.parse().ok().filter(|n| (-256..=16384).contains(n)),
    }
}

fn pair(w: i64, h: i64) -> Option<(u32, u32)> {
    let fits = |n: i64| u32::try_from(n).ok().filter(|n| (2..=16384).contains(n));
    Some((fits(w)?, fits(h)?))
}

/// `a * b / c` to the nearest, as `av_rescale`.
fn rescale(a: i64, b: i64, c: i64) -> i64 {
    if c <= 0 {
        return 0;
    }
    (a * b + c / 2) / c
}
