//! RAII over libav: the only unsafe room of the worker.
//!
//! Each type owns one libav object and frees it on drop. `ffmpeg-next` supplies the bindings; its
//! wrappers are used where they do what a job needs, and raw `ffi` where they do not: options before
//! probing, byte sources with a deadline, the muxers' dynamic buffers, bit stream filters.
//!
//! Threads: every object here may move to another thread (`Send`) and none is shared (`!Sync`).
//! libav keeps no thread-local state in them, and a job has exactly one owner for each; the thread
//! that owns it last drops it. Fields that came or went between FFmpeg 5.1 and 9 are not touched.
#![allow(unsafe_code)]
#![allow(
    clippy::unnecessary_cast,
    reason = "the C types of libav's constants differ between its versions"
)]

pub mod ass;
pub mod bsf;
pub mod codec;
pub mod filter;
pub mod format;
pub mod frame;
pub mod hw;
pub mod log;
pub mod mux;
pub mod packet;
pub mod params;
pub mod subtitle;

pub use bsf::BitstreamFilter;
pub use codec::{AudioSettings, Decoder, Encoder, Received, VideoSettings};
pub use filter::Graph;
pub use format::{ByteSource, Input, OpenOptions, StreamInfo};
pub use frame::{Frame, Layout420, Matrix, Transfer};
pub use mux::Muxer;
pub use packet::Packet;
pub use params::Params;

use ffmpeg_next::ffi;
use std::ffi::{CStr, CString, c_char, c_int};

pub use ffmpeg_next::ffi::{
    AVCodecID as CodecId, AVMediaType as MediaType, AVRational as Rational,
};

/// "No timestamp".
pub const NOPTS: i64 = ffi::AV_NOPTS_VALUE;
/// Microseconds per tick of `AV_TIME_BASE`.
pub const MICROS: Rational = Rational {
    num: 1,
    den: 1_000_000,
};

/// What libav answered, and to which call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvError {
    /// The step that failed, for a person.
    pub op: String,
    /// libav's code (negative errno or tag).
    pub code: c_int,
}

/// Result of a libav call.
pub type Result<T> = std::result::Result<T, AvError>;

impl AvError {
    fn new(op: impl Into<String>, code: c_int) -> Self {
        AvError {
            op: op.into(),
            code,
        }
    }

    /// End of file or of stream.
    pub fn is_eof(&self) -> bool {
        self.code == ffi::AVERROR_EOF
    }

    /// The call was cut short by the interrupt callback.
    pub fn is_interrupted(&self) -> bool {
        self.code == ffi::AVERROR_EXIT
    }

    /// The data is damaged; the next packet may be fine.
    pub fn is_invalid_data(&self) -> bool {
        self.code == ffi::AVERROR_INVALIDDATA
    }
}

impl std::fmt::Display for AvError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = [0 as c_char; 128];
        // SAFETY: the buffer outlives the call, which writes a terminated text into its length.
        let text = unsafe {
            ffi::av_strerror(self.code, text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()
        };
        write!(f, "{}: {text}", self.op)
    }
}

impl std::error::Error for AvError {}

fn check(op: &str, code: c_int) -> Result<c_int> {
    if code < 0 {
        Err(AvError::new(op, code))
    } else {
        Ok(code)
    }
}

fn out_of_memory(op: &str) -> AvError {
    AvError::new(op, ffi::AVERROR(libc::ENOMEM))
}

/// C text; a NUL inside ends it, which libav would do as well.
fn c(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).expect("cut before the first NUL")
}

/// # Safety
/// `text` is null or a terminated C string that lives during the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        None
    } else {
        // SAFETY: promised by the caller.
        Some(
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned(),
        )
    }
}

/// Options for libav, owned.
pub(crate) struct Dictionary(*mut ffi::AVDictionary);

impl Dictionary {
    pub(crate) fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut dictionary = Dictionary(std::ptr::null_mut());
        for (key, value) in pairs {
            dictionary.set(key, value);
        }
        dictionary
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        // SAFETY: both texts are copied by the call; the pointer is ours alone.
        unsafe { ffi::av_dict_set(&mut self.0, c(key).as_ptr(), c(value).as_ptr(), 0) };
    }

    /// For calls that take what they know out of it.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut ffi::AVDictionary {
        &mut self.0
    }

    /// For calls that take it over as a whole.
    pub(crate) fn into_raw(mut self) -> *mut ffi::AVDictionary {
        std::mem::replace(&mut self.0, std::ptr::null_mut())
    }

    /// What is in it; after an open call: what was not known.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut entry: *const ffi::AVDictionaryEntry = std::ptr::null();
        // SAFETY: the entries live as long as the dictionary, which is not changed meanwhile.
        unsafe {
            loop {
                entry = ffi::av_dict_get(
                    self.0,
                    c"".as_ptr(),
                    entry,
                    ffi::AV_DICT_IGNORE_SUFFIX as c_int,
                );
                let Some(found) = entry.as_ref() else { break };
                pairs.push((
                    text(found.key).unwrap_or_default(),
                    text(found.value).unwrap_or_default(),
                ));
            }
        }
        pairs
    }
}

impl Drop for Dictionary {
    fn drop(&mut self) {
        // SAFETY: ours alone; null is allowed.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}

/// Version text of libavcodec, e.g. `59.37.100`.
pub fn avcodec_version() -> String {
    // SAFETY: no arguments, no state.
    let v = unsafe { ffi::avcodec_version() };
    format!("{}.{}.{}", v >> 16, (v >> 8) & 0xff, v & 0xff)
}

/// `a * b / c` in time bases, to the nearest, halves away from zero; [`NOPTS`] stays.
pub fn rescale(value: i64, from: Rational, to: Rational) -> i64 {
    if value == NOPTS {
        return NOPTS;
    }
    // SAFETY: pure arithmetic; time bases of open streams have no zero.
    unsafe { ffi::av_rescale_q(value, from, to) }
}

/// Reads a frame rate as the CLI's `-r` does: `23.976`, `24000/1001`, `ntsc`.
pub fn parse_frame_rate(value: &str) -> Option<Rational> {
    let mut rate = Rational { num: 0, den: 0 };
    // SAFETY: the text is terminated, the result ours.
    let code = unsafe { ffi::av_parse_video_rate(&mut rate, c(value).as_ptr()) };
    (code >= 0 && rate.num > 0 && rate.den > 0).then_some(rate)
}

/// Value of an arithmetic expression in libav's syntax; `None` where it is none or has none.
pub fn evaluate(expression: &str, variables: &[(&str, f64)]) -> Option<f64> {
    let names: Vec<_> = variables.iter().map(|(name, _)| c(name)).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let values: Vec<f64> = variables.iter().map(|(_, value)| *value).collect();
    let mut result = f64::NAN;
    // SAFETY: the names end with a null, there are as many values, and all live during the call.
    let code = unsafe {
        ffi::av_expr_parse_and_eval(
            &mut result,
            c(expression).as_ptr(),
            pointers.as_ptr(),
            values.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            std::ptr::null(),
            std::ptr::null(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        )
    };
    (code >= 0 && result.is_finite()).then_some(result)
}

/// Does libav know a channel layout by that text?
pub fn is_channel_layout(text: &str) -> bool {
    // SAFETY: the layout starts zeroed, as libav asks, and is given back; the text lives meanwhile.
    unsafe {
        let mut layout = std::mem::zeroed::<ffi::AVChannelLayout>();
        let code = ffi::av_channel_layout_from_string(&mut layout, c(text).as_ptr());
        let good = code == 0 && layout.nb_channels > 0;
        ffi::av_channel_layout_uninit(&mut layout);
        good
    }
}

/// Does libav know pictures in main memory by that name?
pub fn is_memory_format(name: &str) -> bool {
    // SAFETY: looks up static tables; the description may be null.
    unsafe {
        ffi::av_pix_fmt_desc_get(ffi::av_get_pix_fmt(c(name).as_ptr()))
            .as_ref()
            .is_some_and(|known| known.flags & ffi::AV_PIX_FMT_FLAG_HWACCEL as u64 == 0)
    }
}

/// libav's short name of a codec id.
pub fn codec_name(id: CodecId) -> String {
    // SAFETY: always a static text.
    unsafe { text(ffi::avcodec_get_name(id)) }.unwrap_or_default()
}

/// Does this build of libav have that encoder?
pub fn has_encoder(name: &str) -> bool {
    // SAFETY: looks a name up in a static table.
    unsafe { !ffi::avcodec_find_encoder_by_name(c(name).as_ptr()).is_null() }
}

/// Does this build of libav have that filter?
pub fn has_filter(name: &str) -> bool {
    // SAFETY: looks a name up in a static table.
    unsafe { !ffi::avfilter_get_by_name(c(name).as_ptr()).is_null() }
}
