//! Text subtitles from one codec to another.

use super::{Decoder, Packet, Params, Rational, Result, c, check, out_of_memory};
use ffmpeg_next::ffi;

/// Decodes subtitles, text and pictures.
pub struct SubtitleDecoder(Decoder);

/// What is shown from one time on.
#[derive(Debug, Default)]
pub struct Shown {
    /// Milliseconds from the packet's pts to the start.
    pub delay_ms: u32,
    /// Milliseconds from the packet's pts to the end; `None` until the next one.
    pub end_ms: Option<u32>,
    /// Text events as [`super::ass::Renderer::event`] takes them.
    pub lines: Vec<String>,
    /// Pictures on the decoder's canvas. Empty for a text subtitle, and to clear the canvas.
    pub pictures: Vec<Picture>,
}

/// A picture on the canvas.
pub struct Picture {
    /// Left edge, pixels.
    pub x: usize,
    /// Upper edge, pixels.
    pub y: usize,
    /// Width, pixels.
    pub width: usize,
    /// Rows of `width` pixels each: blue, green, red, alpha, not multiplied.
    pub bgra: Vec<[u8; 4]>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}, {}, {})", self.x, self.y, self.width)
    }
}

impl SubtitleDecoder {
    /// A decoder for a stream.
    pub fn open(params: &Params, time_base: Rational) -> Result<Self> {
        Decoder::open(params, time_base, 1).map(SubtitleDecoder)
    }

    /// Script header of a text subtitle: `[Script Info]` and styles. Empty for pictures.
    pub fn header(&self) -> &[u8] {
        // SAFETY: open context; libav keeps `subtitle_header_size` bytes there while it lives.
        unsafe {
            let context = &*self.0.as_ptr();
            if context.subtitle_header.is_null() || context.subtitle_header_size <= 0 {
                return &[];
            }
            std::slice::from_raw_parts(
                context.subtitle_header,
                context.subtitle_header_size as usize,
            )
        }
    }

    /// Size of the canvas as far as the stream told it by now.
    pub fn canvas(&self) -> Option<(u32, u32)> {
        // SAFETY: open context.
        let context = unsafe { &*self.0.as_ptr() };
        (context.width > 0 && context.height > 0)
            .then_some((context.width as u32, context.height as u32))
    }

    /// Decodes one packet; `None` when nothing is complete yet.
    pub fn decode(&mut self, packet: &Packet) -> Result<Option<Shown>> {
        // SAFETY: the subtitle is zeroed before and freed after use; see `read_rect` for what is
        // read of it.
        unsafe {
            let mut subtitle: ffi::AVSubtitle = std::mem::zeroed();
            let mut got = 0;
            check(
                "decode subtitle",
                ffi::avcodec_decode_subtitle2(
                    self.0.as_ptr(),
                    &mut subtitle,
                    &mut got,
                    packet.as_ptr(),
                ),
            )?;
            if got == 0 {
                return Ok(None);
            }
            let mut shown = Shown {
                delay_ms: subtitle.start_display_time,
                end_ms: Some(subtitle.end_display_time).filter(|end| *end != u32::MAX),
                ..Shown::default()
            };
            for at in 0..subtitle.num_rects as usize {
                read_rect(&**subtitle.rects.add(at), &mut shown);
            }
            ffi::avsubtitle_free(&mut subtitle);
            Ok(Some(shown))
        }
    }
}

/// # Safety
/// `rect` comes from a subtitle that was just decoded: a bitmap has `h` rows of `linesize[0]` bytes
/// at `data[0]` and 256 colours of 32 bit at `data[1]` (avcodec.h).
unsafe fn read_rect(rect: &ffi::AVSubtitleRect, shown: &mut Shown) {
    // SAFETY: null, or a terminated text that lives as long as the rectangle.
    if let Some(line) = unsafe { super::text(rect.ass) } {
        shown.lines.push(line);
        return;
    }
    let (Ok(x), Ok(y), Ok(width), Ok(height), Ok(stride)) = (
        usize::try_from(rect.x),
        usize::try_from(rect.y),
        usize::try_from(rect.w),
        usize::try_from(rect.h),
        usize::try_from(rect.linesize[0]),
    ) else {
        return;
    };
    let bitmap = rect.type_ == ffi::AVSubtitleType::SUBTITLE_BITMAP;
    if !bitmap || width == 0 || height == 0 || stride < width {
        return;
    }
    if rect.data[0].is_null() || rect.data[1].is_null() {
        return;
    }
    // SAFETY: promised by the caller; av_malloc aligns the palette for 32 bit.
    let (indices, palette) = unsafe {
        (
            std::slice::from_raw_parts(rect.data[0], stride * (height - 1) + width),
            std::slice::from_raw_parts(rect.data[1].cast::<u32>(), 256),
        )
    };
    let bgra = indices
        .chunks(stride)
        .flat_map(|row| &row[..width])
        .map(|index| palette[usize::from(*index)].to_le_bytes())
        .collect();
    shown.pictures.push(Picture { x, y, width, bgra });
}

/// Decodes text subtitles and encodes them again (for example SubRip to ASS).
pub struct SubtitleConverter {
    decoder: Decoder,
    encoder: *mut ffi::AVCodecContext,
}

// SAFETY: owns both contexts alone.
unsafe impl Send for SubtitleConverter {}

/// One converted event.
pub struct SubtitleEvent {
    /// The encoded packet without times.
    pub packet: Packet,
    /// Milliseconds to add to the source packet's pts.
    pub delay_ms: u32,
    /// How long it is shown, milliseconds; 0 when the source packet tells.
    pub duration_ms: u32,
}

impl SubtitleConverter {
    /// A converter from a stream's parameters to the named encoder (`ass`, `srt`, `webvtt`).
    pub fn open(from: &Params, time_base: Rational, encoder: &str) -> Result<Self> {
        let decoder = Decoder::open(from, time_base, 1)?;
        // SAFETY: the context is freed by Drop on every path; the subtitle header is copied with
        // libav's allocator, which frees it with the context.
        unsafe {
            let codec = ffi::avcodec_find_encoder_by_name(c(encoder).as_ptr());
            let context = ffi::avcodec_alloc_context3(codec);
            if codec.is_null() || context.is_null() {
                return Err(out_of_memory("subtitle encoder"));
            }
            let this = SubtitleConverter {
                decoder,
                encoder: context,
            };
            (*context).time_base = super::MICROS;
            let header = &*this.decoder.as_ptr();
            if !header.subtitle_header.is_null() && header.subtitle_header_size > 0 {
                let size = header.subtitle_header_size as usize;
                let copy: *mut u8 = ffi::av_mallocz(size + 1).cast();
                if copy.is_null() {
                    return Err(out_of_memory("subtitle header"));
                }
                std::ptr::copy_nonoverlapping(header.subtitle_header, copy, size);
                (*context).subtitle_header = copy;
                (*context).subtitle_header_size = size as i32;
            }
            check(
                &format!("open subtitle encoder {encoder}"),
                ffi::avcodec_open2(context, codec, std::ptr::null_mut()),
            )?;
            Ok(this)
        }
    }

    /// Parameters of the stream it makes.
    pub fn params(&self) -> Result<Params> {
        let params = Params::new()?;
        // SAFETY: open context, valid parameters.
        check("subtitle", unsafe {
            ffi::avcodec_parameters_from_context(params.as_ptr(), self.encoder)
        })?;
        Ok(params)
    }

    /// Converts one packet; a packet that holds no event gives `None`.
    pub fn convert(&mut self, packet: &Packet) -> Result<Option<SubtitleEvent>> {
        // SAFETY: the subtitle is zeroed before and freed after use; the output buffer's length is
        // passed along, and libav writes at most that.
        unsafe {
            let mut subtitle: ffi::AVSubtitle = std::mem::zeroed();
            let mut got = 0;
            check(
                "decode subtitle",
                ffi::avcodec_decode_subtitle2(
                    self.decoder.as_ptr(),
                    &mut subtitle,
                    &mut got,
                    packet.as_ptr(),
                ),
            )?;
            if got == 0 {
                return Ok(None);
            }
            let delay_ms = subtitle.start_display_time;
            let shown = subtitle.end_display_time;
            subtitle.end_display_time = shown.saturating_sub(delay_ms);
            subtitle.start_display_time = 0;
            let mut buffer = vec![0u8; 1 << 20];
            let size = ffi::avcodec_encode_subtitle(
                self.encoder,
                buffer.as_mut_ptr(),
                buffer.len() as i32,
                &subtitle,
            );
            ffi::avsubtitle_free(&mut subtitle);
            let size = check("encode subtitle", size)? as usize;
            if size == 0 {
                return Ok(None);
            }
            let duration_ms = if shown == u32::MAX {
                0
            } else {
                shown.saturating_sub(delay_ms)
            };
            Ok(Some(SubtitleEvent {
                packet: Packet::from_bytes(&buffer[..size])?,
                delay_ms,
                duration_ms,
            }))
        }
    }
}

impl Drop for SubtitleConverter {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::avcodec_free_context(&mut self.encoder) };
    }
}
