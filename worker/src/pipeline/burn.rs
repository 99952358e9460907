//! Subtitles that become part of the picture: the streams they come from, and text (`inlineass`).

use super::{
    Shared, av,
    blend::{self, Mask},
    feed::Feed,
    video::Picture,
};
use crate::{
    libav::{
        MICROS, Matrix, NOPTS, Params, Rational,
        ass::{Renderer, Script, ScriptMatrix},
        rescale,
        subtitle::SubtitleDecoder,
    },
    plan::operation::BurnText,
};
use plexbeam_api::{Kind, Problem};

/// How much earlier than the start subtitles of the pictures' own input are read: what began this
/// long before is still seen. Longer would cost more reading before the first picture.
pub(super) const SUBTITLE_LEAD_US: i64 = 10_000_000;

/// A subtitle stream that is drawn on a video stream.
pub(super) struct Side {
    pub(super) input: usize,
    pub(super) index: usize,
    pub(super) params: Params,
    pub(super) time_base: Rational,
    /// Attached to its container or sent with the job, by file name.
    pub(super) fonts: Vec<(String, Vec<u8>)>,
    /// Family of the font that the job names for text which names none.
    pub(super) family: Option<String>,
    /// Size of the video it was made for, pixels.
    pub(super) storage: (u32, u32),
}

/// Draws text on pictures.
pub(super) struct TextBurner {
    feed: Feed,
    decoder: SubtitleDecoder,
    renderer: Renderer,
    time_base: Rational,
    size: (i32, i32),
}

/// The last event of a stream without lengths is seen this long.
const UNKNOWN_MS: i64 = 5_000;

impl TextBurner {
    pub(super) fn new(burn: &BurnText, side: &Side, feed: Feed) -> Result<Self, Problem> {
        let decoder = SubtitleDecoder::open(&side.params, side.time_base).map_err(|e| av(&e))?;
        let script = Script {
            header: decoder.header(),
            overrides: &overrides(burn, side.params.is_ass(), side.family.as_deref()),
            fonts: &side.fonts,
            family: side.family.as_deref(),
            font_scale: number(&burn.font_scale).unwrap_or(1.0),
            storage: side.storage,
        };
        let renderer = Renderer::new(&script).map_err(|e| av(&e))?;
        Ok(TextBurner {
            feed,
            decoder,
            renderer,
            time_base: side.time_base,
            size: (0, 0),
        })
    }

    /// Draws what is said at the picture's time.
    pub(super) fn draw(&mut self, picture: &mut Picture, shared: &Shared) -> Result<(), Problem> {
        let time_us = rescale(picture.frame.pts(), picture.time_base, MICROS);
        for packet in self.feed.take(time_us, shared) {
            if packet.pts() == NOPTS {
                continue;
            }
            let start_ms = rescale(packet.pts(), self.time_base, MICROS).div_euclid(1000);
            let length_ms = rescale(packet.duration(), self.time_base, MICROS) / 1000;
            match self.decoder.decode(&packet) {
                Ok(Some(shown)) => {
                    let delay_ms = i64::from(shown.delay_ms);
                    let shown_ms = match shown.end_ms {
                        Some(end) if i64::from(end) > delay_ms => i64::from(end) - delay_ms,
                        _ if length_ms > 0 => length_ms,
                        _ => UNKNOWN_MS,
                    };
                    for line in &shown.lines {
                        self.renderer.event(line, start_ms + delay_ms, shown_ms);
                    }
                }
                Ok(None) => {}
                Err(error) => shared.note(format!("a subtitle was left out: {error}")),
            }
        }
        let size = (picture.frame.width(), picture.frame.height());
        if self.size != size {
            self.size = size;
            self.renderer
                .set_size(size.0.max(0) as u32, size.1.max(0) as u32);
        }
        let matrix = match self.renderer.matrix() {
            ScriptMatrix::Video => picture.frame.matrix(),
            ScriptMatrix::Bt601 => Matrix::Bt601,
            ScriptMatrix::Bt709 => Matrix::Bt709,
        };
        let full = picture.frame.is_full_range();
        let mut ours = false;
        for glyph in self.renderer.render(time_us.div_euclid(1000)) {
            if !ours {
                picture.frame.make_writable().map_err(|e| av(&e))?;
                ours = true;
            }
            let mask = Mask {
                width: glyph.width,
                height: glyph.height,
                stride: glyph.stride,
                coverage: glyph.coverage,
                colour: blend::to_yuv(glyph.rgb, matrix, full),
                alpha: glyph.alpha,
            };
            blend::draw_mask(&mut picture.frame, glyph.x, glyph.y, &mask)
                .ok_or_else(cannot_draw)?;
        }
        Ok(())
    }
}

/// The plan has a picture drawn on that is no 4:2:0 picture in memory.
pub(super) fn cannot_draw() -> Problem {
    Problem::new(
        Kind::Internal,
        "subtitles cannot be drawn on pictures of this pixel format",
    )
}

fn number(text: &Option<String>) -> Option<f64> {
    text.as_ref()?.parse().ok()
}

/// Lines of the script that libav makes of plain text.
const SCRIPT_LINES: f64 = 288.0;
/// Lines that new versions of PMS count its sizes in (`font_size=54`, `outline=2.6`); old ones, which
/// know no `outline`, count them in [`SCRIPT_LINES`].
const NEW_LINES: f64 = 1080.0;
/// Distance of plain text from the edges in old versions of PMS, of [`SCRIPT_LINES`].
const MARGIN: f64 = 20.0;

/// Style fields for libass. A script brings its own styles, which stay; plain text has none.
fn overrides(burn: &BurnText, is_script: bool, family: Option<&str>) -> Vec<String> {
    let mut fields = Vec::new();
    if let Some(language) = &burn.language {
        fields.push(format!("Language={language}"));
    }
    if is_script {
        return fields;
    }
    let unit = match (&burn.outline, &burn.shadow) {
        (None, None) => 1.0,
        _ => SCRIPT_LINES / NEW_LINES,
    };
    if let Some(family) = family {
        fields.push(format!("FontName={family}"));
    }
    for (field, value) in [
        ("FontSize", &burn.font_size),
        ("Outline", &burn.outline),
        ("Shadow", &burn.shadow),
    ] {
        if let Some(value) = number(value) {
            fields.push(format!("{field}={:.4}", value * unit));
        }
    }
    let margin = number(&burn.margin).map_or(MARGIN, |margin| margin * unit);
    for field in ["MarginL", "MarginR", "MarginV"] {
        fields.push(format!("{field}={}", margin.round()));
    }
    fields.extend(burn.overrides.iter().cloned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_in_the_lines_that_the_sender_counts_in() {
        let old = BurnText {
            font_size: Some("18".into()),
            ..BurnText::default()
        };
        let fields = overrides(&old, false, Some("DejaVu Sans"));
        assert!(
            fields.contains(&"FontSize=18.0000".to_owned()),
            "{fields:?}"
        );
        assert!(fields.contains(&"FontName=DejaVu Sans".to_owned()));
        let new = BurnText {
            font_size: Some("54".into()),
            outline: Some("2.6".into()),
            overrides: vec!["FontName=Noto Sans".into()],
            ..BurnText::default()
        };
        let fields = overrides(&new, false, Some("DejaVu Sans"));
        assert!(
            fields.contains(&"FontSize=14.4000".to_owned()),
            "{fields:?}"
        );
        assert_eq!(
            fields.last().map(String::as_str),
            Some("FontName=Noto Sans")
        );
        assert!(
            overrides(&new, true, None).is_empty(),
            "a script stays as it is"
        );
    }
}
