//! Text subtitles as glyph bitmaps: libass, which FFmpeg's own subtitle filters use.
//!
//! The declarations are those of `ass/ass.h` and `ass/ass_types.h` of libass 0.17; only the leading
//! fields of its two open structures are looked at, which its API promises to keep.

use super::{AvError, Result, c, out_of_memory};
use ffmpeg_next::ffi as av;
use std::{
    ffi::{c_char, c_double, c_int, c_longlong, c_uchar, c_void},
    marker::PhantomData,
    ptr::NonNull,
};

#[repr(C)]
struct RawImage {
    w: c_int,
    h: c_int,
    stride: c_int,
    bitmap: *mut c_uchar,
    color: u32,
    dst_x: c_int,
    dst_y: c_int,
    next: *mut RawImage,
}

#[repr(C)]
struct RawTrack {
    n_styles: c_int,
    max_styles: c_int,
    n_events: c_int,
    max_events: c_int,
    styles: *mut c_void,
    events: *mut c_void,
    style_format: *mut c_char,
    event_format: *mut c_char,
    track_type: c_int,
    play_res_x: c_int,
    play_res_y: c_int,
    timer: c_double,
    wrap_style: c_int,
    scaled_border_and_shadow: c_int,
    kerning: c_int,
    language: *mut c_char,
    matrix: c_int,
}

#[link(name = "ass")]
unsafe extern "C" {
    fn ass_library_init() -> *mut c_void;
    fn ass_library_done(library: *mut c_void);
    fn ass_set_message_cb(
        library: *mut c_void,
        callback: unsafe extern "C" fn(c_int, *const c_char, *mut c_void, *mut c_void),
        data: *mut c_void,
    );
    fn ass_set_style_overrides(library: *mut c_void, list: *mut *mut c_char);
    fn ass_add_font(library: *mut c_void, name: *const c_char, data: *const c_char, size: c_int);
    fn ass_renderer_init(library: *mut c_void) -> *mut c_void;
    fn ass_renderer_done(renderer: *mut c_void);
    fn ass_set_frame_size(renderer: *mut c_void, w: c_int, h: c_int);
    fn ass_set_storage_size(renderer: *mut c_void, w: c_int, h: c_int);
    fn ass_set_font_scale(renderer: *mut c_void, scale: c_double);
    fn ass_set_fonts(
        renderer: *mut c_void,
        default_font: *const c_char,
        default_family: *const c_char,
        provider: c_int,
        config: *const c_char,
        update: c_int,
    );
    fn ass_render_frame(
        renderer: *mut c_void,
        track: *mut RawTrack,
        now: c_longlong,
        change: *mut c_int,
    ) -> *mut RawImage;
    fn ass_new_track(library: *mut c_void) -> *mut RawTrack;
    fn ass_free_track(track: *mut RawTrack);
    fn ass_process_codec_private(track: *mut RawTrack, data: *mut c_char, size: c_int);
    fn ass_process_chunk(
        track: *mut RawTrack,
        data: *mut c_char,
        size: c_int,
        start: c_longlong,
        duration: c_longlong,
    );
    fn ass_set_check_readorder(track: *mut RawTrack, check: c_int);
}

/// `ASS_FONTPROVIDER_AUTODETECT`: fonts of this machine fill in what the script's own lack.
const AUTODETECT: c_int = 1;

/// Says nothing. `ass_set_message_cb` passes a `va_list`, which is a pointer or is passed as one by
/// the C ABIs of x86-64 and AArch64; it is not looked at.
unsafe extern "C" fn silent(_: c_int, _: *const c_char, _: *mut c_void, _: *mut c_void) {}

/// What a script looks like before its first event.
pub struct Script<'a> {
    /// `[Script Info]` and styles, as libav's decoders give them ([`super::subtitle::SubtitleDecoder::header`]).
    pub header: &'a [u8],
    /// Fields that win over the script's: `FontSize=16`, `ScaledBorderAndShadow=yes`.
    pub overrides: &'a [String],
    /// Fonts by file name.
    pub fonts: &'a [(String, Vec<u8>)],
    /// Family for what names no font that exists.
    pub family: Option<&'a str>,
    /// Factor for all text.
    pub font_scale: f64,
    /// Size of the video that the script was made for, pixels.
    pub storage: (u32, u32),
}

/// A script that grows while it is drawn.
pub struct Renderer {
    library: NonNull<c_void>,
    renderer: *mut c_void,
    track: *mut RawTrack,
}

// SAFETY: owns all three objects; libass keeps no thread-local state in them.
unsafe impl Send for Renderer {}

/// Matrix by which a script's colours are meant to become Y'CbCr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptMatrix {
    /// The video's own.
    Video,
    /// BT.601.
    Bt601,
    /// BT.709.
    Bt709,
}

impl Renderer {
    /// A renderer with no events.
    pub fn new(script: &Script<'_>) -> Result<Self> {
        // SAFETY: `this` owns what exists so far and frees it on every path; libass copies all
        // texts and bytes that it is given here.
        unsafe {
            let library =
                NonNull::new(ass_library_init()).ok_or_else(|| out_of_memory("text renderer"))?;
            ass_set_message_cb(library.as_ptr(), silent, std::ptr::null_mut());
            let mut this = Renderer {
                library,
                renderer: std::ptr::null_mut(),
                track: std::ptr::null_mut(),
            };
            for (name, data) in script.fonts {
                let size = c_int::try_from(data.len()).map_err(|_| out_of_memory("font"))?;
                ass_add_font(
                    library.as_ptr(),
                    c(name).as_ptr(),
                    data.as_ptr().cast(),
                    size,
                );
            }
            let overrides: Vec<_> = script.overrides.iter().map(|o| c(o)).collect();
            let mut list: Vec<*mut c_char> =
                overrides.iter().map(|o| o.as_ptr().cast_mut()).collect();
            list.push(std::ptr::null_mut());
            ass_set_style_overrides(library.as_ptr(), list.as_mut_ptr());
            this.renderer = ass_renderer_init(library.as_ptr());
            if this.renderer.is_null() {
                return Err(out_of_memory("text renderer"));
            }
            let family = script.family.map(c);
            ass_set_fonts(
                this.renderer,
                std::ptr::null(),
                family.as_ref().map_or(std::ptr::null(), |f| f.as_ptr()),
                AUTODETECT,
                std::ptr::null(),
                1,
            );
            ass_set_font_scale(this.renderer, script.font_scale.clamp(0.01, 100.0));
            let (w, h) = script.storage;
            ass_set_storage_size(this.renderer, side(w), side(h));
            this.track = ass_new_track(library.as_ptr());
            if this.track.is_null() {
                return Err(out_of_memory("text renderer"));
            }
            // The same packet never comes twice, and after a seek numbers may begin anew.
            ass_set_check_readorder(this.track, 0);
            let mut header = script.header.to_vec();
            let size = c_int::try_from(header.len()).map_err(|_| out_of_memory("script"))?;
            header.push(0);
            ass_process_codec_private(this.track, header.as_mut_ptr().cast(), size);
            if (*this.track).event_format.is_null() {
                return Err(AvError::new("subtitle header", av::AVERROR_INVALIDDATA));
            }
            Ok(this)
        }
    }

    /// Adds an event in Matroska's form, `ReadOrder,Layer,Style,...,Text`; milliseconds.
    pub fn event(&mut self, line: &str, start_ms: i64, duration_ms: i64) {
        let mut line = line.as_bytes().to_vec();
        let Ok(size) = c_int::try_from(line.len()) else {
            return;
        };
        line.push(0);
        // SAFETY: the track is ours, and no image of it is borrowed: they borrow `self`.
        unsafe {
            ass_process_chunk(
                self.track,
                line.as_mut_ptr().cast(),
                size,
                start_ms,
                duration_ms,
            );
        }
    }

    /// Size of the pictures that text is drawn on.
    pub fn set_size(&mut self, width: u32, height: u32) {
        // SAFETY: valid renderer.
        unsafe { ass_set_frame_size(self.renderer, side(width), side(height)) };
    }

    /// By which matrix its colours are meant.
    pub fn matrix(&self) -> ScriptMatrix {
        // SAFETY: valid track; the fields up to this one are part of its API.
        match unsafe { (*self.track).matrix } {
            // Missing: what the first renderers did (ass_types.h). 3, 4: named.
            0 | 3 | 4 => ScriptMatrix::Bt601,
            5 | 6 => ScriptMatrix::Bt709,
            _ => ScriptMatrix::Video,
        }
    }

    /// What is seen at a time, bottom layer first.
    pub fn render(&mut self, now_ms: i64) -> Glyphs<'_> {
        // SAFETY: valid renderer and track; the images live until the next call on the renderer,
        // which the borrow of `self` keeps away.
        let next =
            unsafe { ass_render_frame(self.renderer, self.track, now_ms, std::ptr::null_mut()) };
        Glyphs {
            next,
            of: PhantomData,
        }
    }
}

fn side(pixels: u32) -> c_int {
    c_int::try_from(pixels).unwrap_or(0)
}

impl Drop for Renderer {
    fn drop(&mut self) {
        // SAFETY: ours alone; the library goes last, as its API asks.
        unsafe {
            if !self.track.is_null() {
                ass_free_track(self.track);
            }
            if !self.renderer.is_null() {
                ass_renderer_done(self.renderer);
            }
            ass_library_done(self.library.as_ptr());
        }
    }
}

/// Bitmaps of one moment.
pub struct Glyphs<'a> {
    next: *mut RawImage,
    of: PhantomData<&'a Renderer>,
}

/// One bitmap of one colour.
pub struct Glyph<'a> {
    /// Left edge on the picture; may be negative.
    pub x: i32,
    /// Upper edge on the picture; may be negative.
    pub y: i32,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// Coverage, 0 to 255; the last row ends at `width`.
    pub coverage: &'a [u8],
    /// Red, green, blue.
    pub rgb: [u8; 3],
    /// 255 is opaque.
    pub alpha: u8,
}

impl<'a> Iterator for Glyphs<'a> {
    type Item = Glyph<'a>;

    fn next(&mut self) -> Option<Glyph<'a>> {
        loop {
            // SAFETY: null, or an image of the list that the renderer keeps while it is borrowed.
            let image = unsafe { self.next.as_ref() }?;
            self.next = image.next;
            let (Ok(width), Ok(height), Ok(stride)) = (
                usize::try_from(image.w),
                usize::try_from(image.h),
                usize::try_from(image.stride),
            ) else {
                continue;
            };
            if width == 0 || height == 0 || stride < width || image.bitmap.is_null() {
                continue;
            }
            let size = stride * (height - 1) + width;
            let [red, green, blue, transparency] = image.color.to_be_bytes();
            return Some(Glyph {
                x: image.dst_x,
                y: image.dst_y,
                width,
                height,
                stride,
                // SAFETY: ass.h: `h` rows of `stride` bytes, of which the last may end at `w`.
                coverage: unsafe { std::slice::from_raw_parts(image.bitmap, size) },
                rgb: [red, green, blue],
                alpha: 255 - transparency,
            });
        }
    }
}
