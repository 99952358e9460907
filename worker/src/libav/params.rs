//! Codec parameters of an elementary stream.

use super::{Result, Transfer, check, frame::layout_text, out_of_memory};
use ffmpeg_next::ffi;

/// Parameters of an elementary stream.
pub struct Params(*mut ffi::AVCodecParameters);

// SAFETY: plain data owned alone.
unsafe impl Send for Params {}

impl Params {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: allocates or answers null.
        let params = unsafe { ffi::avcodec_parameters_alloc() };
        if params.is_null() {
            Err(out_of_memory("codec parameters"))
        } else {
            Ok(Params(params))
        }
    }

    /// # Safety
    /// `from` points to valid codec parameters.
    pub(super) unsafe fn copy_of(from: *const ffi::AVCodecParameters) -> Result<Self> {
        let params = Params::new()?;
        // SAFETY: both are valid.
        check("codec parameters", unsafe {
            ffi::avcodec_parameters_copy(params.0, from)
        })?;
        Ok(params)
    }

    /// Another copy.
    pub fn duplicate(&self) -> Result<Self> {
        // SAFETY: self.0 is valid.
        unsafe { Params::copy_of(self.0) }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::AVCodecParameters {
        self.0
    }

    pub(super) fn get(&self) -> &ffi::AVCodecParameters {
        // SAFETY: valid from new() to drop.
        unsafe { &*self.0 }
    }

    /// Codec id.
    pub fn codec_id(&self) -> super::CodecId {
        self.get().codec_id
    }

    /// Kind of stream.
    pub fn media_type(&self) -> super::MediaType {
        self.get().codec_type
    }

    /// Subtitles that are text, not pictures.
    pub fn is_text_subtitle(&self) -> bool {
        // SAFETY: a static descriptor or null.
        let descriptor = unsafe { ffi::avcodec_descriptor_get(self.codec_id()).as_ref() };
        descriptor.is_some_and(|d| d.props & ffi::AV_CODEC_PROP_TEXT_SUB != 0)
    }

    /// Bits per second; 0 when unknown.
    pub fn bit_rate(&self) -> u64 {
        self.get().bit_rate.max(0) as u64
    }

    /// Profile number; negative when unknown.
    pub fn profile(&self) -> i32 {
        self.get().profile
    }

    /// Profile name, when libav has one.
    pub fn profile_name(&self) -> Option<String> {
        // SAFETY: static text or null.
        unsafe { super::text(ffi::avcodec_profile_name(self.codec_id(), self.profile())) }
    }

    /// Level as the codec counts it; negative when unknown.
    pub fn level(&self) -> i32 {
        self.get().level
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (
            self.get().width.max(0) as u32,
            self.get().height.max(0) as u32,
        )
    }

    /// Sample aspect ratio, when known.
    pub fn sar(&self) -> Option<(u32, u32)> {
        let sar = self.get().sample_aspect_ratio;
        (sar.num > 0 && sar.den > 0).then_some((sar.num as u32, sar.den as u32))
    }

    /// Frames hold two fields.
    pub fn is_interlaced(&self) -> bool {
        !matches!(
            self.get().field_order,
            ffi::AVFieldOrder::AV_FIELD_UNKNOWN | ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE
        )
    }

    /// Frames that come out of the decoder later than they went in.
    pub fn video_delay(&self) -> i32 {
        self.get().video_delay
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.get().sample_rate.max(0) as u32
    }

    /// Channels.
    pub fn channels(&self) -> u32 {
        self.get().ch_layout.nb_channels.max(0) as u32
    }

    /// Channel layout as libav writes it.
    pub fn layout(&self) -> String {
        layout_text(&self.get().ch_layout)
    }

    /// Samples per packet; 0 when it varies.
    pub fn frame_size(&self) -> u32 {
        self.get().frame_size.max(0) as u32
    }

    /// Bits per raw sample or pixel component; 0 when unknown.
    pub fn bit_depth(&self) -> u32 {
        self.get().bits_per_raw_sample.max(0) as u32
    }

    /// Bits per component of the pixel format; 0 when unknown.
    pub fn component_depth(&self) -> u32 {
        let format = self.get().format;
        if self.media_type() != super::MediaType::AVMEDIA_TYPE_VIDEO || format < 0 {
            return self.bit_depth();
        }
        // SAFETY: a pixel format number of libav's own; the answer is a static table entry or null.
        unsafe {
            ffi::av_pix_fmt_desc_get(std::mem::transmute::<i32, ffi::AVPixelFormat>(format))
                .as_ref()
                .map_or(self.bit_depth(), |d| d.comp[0].depth.max(0) as u32)
        }
    }

    /// A subtitle of pictures, not of text.
    pub fn is_picture_subtitle(&self) -> bool {
        // SAFETY: static table entry or null.
        let descriptor = unsafe { ffi::avcodec_descriptor_get(self.codec_id()).as_ref() };
        descriptor.is_some_and(|d| d.props & ffi::AV_CODEC_PROP_BITMAP_SUB as i32 != 0)
    }

    /// A subtitle with styles of its own.
    pub fn is_ass(&self) -> bool {
        matches!(
            self.codec_id(),
            super::CodecId::AV_CODEC_ID_ASS | super::CodecId::AV_CODEC_ID_SSA
        )
    }

    /// How code values become light; `None` when the stream does not say.
    pub fn transfer(&self) -> Option<Transfer> {
        use ffi::AVColorTransferCharacteristic as Trc;
        match self.get().color_trc {
            Trc::AVCOL_TRC_SMPTE2084 | Trc::AVCOL_TRC_ARIB_STD_B67 => Some(Transfer::Hdr),
            Trc::AVCOL_TRC_UNSPECIFIED | Trc::AVCOL_TRC_RESERVED0 | Trc::AVCOL_TRC_RESERVED => None,
            _ => Some(Transfer::Sdr),
        }
    }

    /// Codec configuration (avcC, hvcC, AudioSpecificConfig, Annex B headers, ...).
    pub fn extradata(&self) -> &[u8] {
        let params = self.get();
        if params.extradata.is_null() || params.extradata_size <= 0 {
            return &[];
        }
        // SAFETY: libav keeps `extradata_size` bytes there while the parameters live.
        unsafe { std::slice::from_raw_parts(params.extradata, params.extradata_size as usize) }
    }

    /// Lets the muxer choose its own tag, as the CLI does when it copies between containers.
    pub fn clear_tag(&mut self) {
        // SAFETY: valid and borrowed mutably.
        unsafe { (*self.0).codec_tag = 0 };
    }
}

impl Drop for Params {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::avcodec_parameters_free(&mut self.0) };
    }
}
