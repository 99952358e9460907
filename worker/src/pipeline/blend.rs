//! Drawing on 4:2:0 pictures of 8 and 10 bits: bitmaps of one colour, and pictures of many.

use crate::libav::{Frame, Layout420, Matrix};

/// What is laid on top: for a pixel, its colour as Y'CbCr in 8 bits and its opacity, 0 to 255.
trait Layer {
    fn width(&self) -> usize;
    fn height(&self) -> usize;
    fn at(&self, x: usize, y: usize) -> ([u8; 3], u32);
}

/// Coverage of one colour.
pub(super) struct Mask<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) stride: usize,
    pub(super) coverage: &'a [u8],
    /// From [`to_yuv`].
    pub(super) colour: [u8; 3],
    pub(super) alpha: u8,
}

impl Layer for Mask<'_> {
    fn width(&self) -> usize {
        self.width
    }
    fn height(&self) -> usize {
        self.height
    }
    fn at(&self, x: usize, y: usize) -> ([u8; 3], u32) {
        let coverage = u32::from(self.coverage[y * self.stride + x]);
        (self.colour, (coverage * u32::from(self.alpha) + 127) / 255)
    }
}

/// A picture with its own colours and opacities.
pub(super) struct Image {
    width: usize,
    /// Y', Cb, Cr, opacity.
    pixels: Vec<[u8; 4]>,
}

impl Image {
    /// From rows of `width` pixels each.
    pub(super) fn from_bgra(width: usize, pixels: &[[u8; 4]], matrix: Matrix, full: bool) -> Self {
        let pixels = pixels
            .iter()
            .map(|[blue, green, red, alpha]| {
                let [y, u, v] = match alpha {
                    0 => [0; 3],
                    _ => to_yuv([*red, *green, *blue], matrix, full),
                };
                [y, u, v, *alpha]
            })
            .collect();
        Image { width, pixels }
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.pixels.len() / self.width.max(1))
    }
}

impl Layer for Image {
    fn width(&self) -> usize {
        self.width
    }
    fn height(&self) -> usize {
        self.size().1
    }
    fn at(&self, x: usize, y: usize) -> ([u8; 3], u32) {
        let [luma, u, v, alpha] = self.pixels[y * self.width + x];
        ([luma, u, v], u32::from(alpha))
    }
}

/// A colour in 8 bits of Y'CbCr.
pub(super) fn to_yuv(rgb: [u8; 3], matrix: Matrix, full: bool) -> [u8; 3] {
    let (kr, kb) = match matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
        Matrix::Bt2020 => (0.2627, 0.0593),
    };
    let [r, g, b] = rgb.map(|c| f64::from(c) / 255.0);
    let luma = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (cb, cr) = (
        (b - luma) / (2.0 * (1.0 - kb)),
        (r - luma) / (2.0 * (1.0 - kr)),
    );
    let code = |value: f64| value.round().clamp(0.0, 255.0) as u8;
    if full {
        [
            code(luma * 255.0),
            code(cb * 255.0 + 128.0),
            code(cr * 255.0 + 128.0),
        ]
    } else {
        [
            code(luma * 219.0 + 16.0),
            code(cb * 224.0 + 128.0),
            code(cr * 224.0 + 128.0),
        ]
    }
}

/// Draws `layer` with its upper left corner at `x`, `y`; what lies outside the picture is left out.
/// `None` when the picture is not of a kind that can be drawn on.
pub(super) fn draw_mask(frame: &mut Frame, x: i32, y: i32, layer: &Mask<'_>) -> Option<()> {
    draw(frame, x, y, layer)
}

/// As [`draw_mask`].
pub(super) fn draw_image(frame: &mut Frame, x: i32, y: i32, layer: &Image) -> Option<()> {
    draw(frame, x, y, layer)
}

/// A rectangle of the picture that the layer covers, and where the layer's origin lies.
struct Place {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
    x: i32,
    y: i32,
}

fn draw(frame: &mut Frame, x: i32, y: i32, layer: &impl Layer) -> Option<()> {
    let layout = frame.layout_420()?;
    let clip = |from: i32, length: usize, side: i32| {
        let end = i64::from(from) + length as i64;
        let side = i64::from(side.max(0));
        (
            i64::from(from).clamp(0, side) as usize,
            end.clamp(0, side) as usize,
        )
    };
    let (left, right) = clip(x, layer.width(), frame.width());
    let (top, bottom) = clip(y, layer.height(), frame.height());
    if left >= right || top >= bottom {
        return Some(());
    }
    let place = Place {
        left,
        right,
        top,
        bottom,
        x,
        y,
    };
    let (plane, stride) = frame.plane_mut(0)?;
    draw_luma(plane, stride, layout, &place, layer);
    if layout.interleaved {
        let (plane, stride) = frame.plane_mut(1)?;
        draw_chroma(plane, stride, layout, &place, layer, 1, 2, 0);
        draw_chroma(plane, stride, layout, &place, layer, 2, 2, 1);
    } else {
        for component in [1, 2] {
            let (plane, stride) = frame.plane_mut(component)?;
            draw_chroma(plane, stride, layout, &place, layer, component, 1, 0);
        }
    }
    Some(())
}

/// Mixes a sample of `layout`, the `at`th of a row, with an 8 bit value.
fn mix(row: &mut [u8], at: usize, layout: Layout420, value: u32, alpha: u32) {
    let blend = |old: u32, new: u32| (old * (255 - alpha) + new * alpha + 127) / 255;
    if layout.depth == 8 {
        row[at] = blend(u32::from(row[at]), value) as u8;
    } else {
        let old = u16::from_le_bytes([row[2 * at], row[2 * at + 1]]) >> layout.shift;
        let new = blend(u32::from(old), value << (layout.depth - 8)) << layout.shift;
        row[2 * at..2 * at + 2].copy_from_slice(&(new as u16).to_le_bytes());
    }
}

fn draw_luma(
    plane: &mut [u8],
    stride: usize,
    layout: Layout420,
    place: &Place,
    layer: &impl Layer,
) {
    for y in place.top..place.bottom {
        let row = &mut plane[y * stride..(y + 1) * stride];
        let own_y = (y as i64 - i64::from(place.y)) as usize;
        for x in place.left..place.right {
            let (colour, alpha) = layer.at((x as i64 - i64::from(place.x)) as usize, own_y);
            if alpha > 0 {
                mix(row, x, layout, u32::from(colour[0]), alpha);
            }
        }
    }
}

/// Each chroma sample covers four pixels; it is mixed by their mean opacity.
#[allow(clippy::too_many_arguments, reason = "one call site, plain numbers")]
fn draw_chroma(
    plane: &mut [u8],
    stride: usize,
    layout: Layout420,
    place: &Place,
    layer: &impl Layer,
    component: usize,
    step: usize,
    offset: usize,
) {
    for cy in place.top / 2..place.bottom.div_ceil(2) {
        let row = &mut plane[cy * stride..(cy + 1) * stride];
        for cx in place.left / 2..place.right.div_ceil(2) {
            let (mut alphas, mut colours) = (0, 0);
            for y in (2 * cy).max(place.top)..(2 * cy + 2).min(place.bottom) {
                for x in (2 * cx).max(place.left)..(2 * cx + 2).min(place.right) {
                    let (colour, alpha) = layer.at(
                        (x as i64 - i64::from(place.x)) as usize,
                        (y as i64 - i64::from(place.y)) as usize,
                    );
                    alphas += alpha;
                    colours += alpha * u32::from(colour[component]);
                }
            }
            if let Some(value) = (colours + alphas / 2).checked_div(alphas) {
                mix(row, cx * step + offset, layout, value, (alphas + 2) / 4);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_and_black_are_the_ends_of_the_range() {
        for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
            assert_eq!(to_yuv([255; 3], matrix, false), [235, 128, 128]);
            assert_eq!(to_yuv([0; 3], matrix, false), [16, 128, 128]);
            assert_eq!(to_yuv([255; 3], matrix, true), [255, 128, 128]);
        }
        // ITU-R BT.601, 100 % red and blue.
        assert_eq!(to_yuv([255, 0, 0], Matrix::Bt601, false), [81, 90, 240]);
        assert_eq!(to_yuv([0, 0, 255], Matrix::Bt601, false), [41, 240, 110]);
    }
}
