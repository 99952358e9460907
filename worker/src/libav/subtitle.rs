//! Text subtitles from one codec to another.

use super::{Decoder, Packet, Params, Rational, Result, c, check, out_of_memory};
use ffmpeg_next::ffi;

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
