//! Packets, frames and codec parameters.

use super::{Rational, Result, check, out_of_memory, rescale};
use ffmpeg_next::ffi;

/// One compressed packet; its bytes are reference counted.
pub struct Packet(*mut ffi::AVPacket);

// SAFETY: owns its AVPacket alone; the bytes behind it are counted atomically by libav.
unsafe impl Send for Packet {}

impl Packet {
    /// An empty packet.
    pub fn new() -> Result<Self> {
        // SAFETY: allocates or answers null.
        let packet = unsafe { ffi::av_packet_alloc() };
        if packet.is_null() {
            Err(out_of_memory("packet"))
        } else {
            Ok(Packet(packet))
        }
    }

    /// A packet that shares the bytes of this one.
    pub fn share(&self) -> Result<Self> {
        // SAFETY: self.0 is a valid packet.
        let packet = unsafe { ffi::av_packet_clone(self.0) };
        if packet.is_null() {
            Err(out_of_memory("packet"))
        } else {
            Ok(Packet(packet))
        }
    }

    /// A packet that holds a copy of these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let packet = Packet::new()?;
        let size = i32::try_from(bytes.len()).map_err(|_| out_of_memory("packet"))?;
        // SAFETY: av_new_packet gives `size` writable bytes plus padding.
        unsafe {
            check("packet", ffi::av_new_packet(packet.0, size))?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (*packet.0).data, bytes.len());
        }
        Ok(packet)
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::AVPacket {
        self.0
    }

    fn get(&self) -> &ffi::AVPacket {
        // SAFETY: valid from new() to drop.
        unsafe { &*self.0 }
    }

    fn get_mut(&mut self) -> &mut ffi::AVPacket {
        // SAFETY: valid from new() to drop, and borrowed mutably.
        unsafe { &mut *self.0 }
    }

    /// Presentation time in the packet's time base, or [`super::NOPTS`].
    pub fn pts(&self) -> i64 {
        self.get().pts
    }

    /// Decoding time in the packet's time base, or [`super::NOPTS`].
    pub fn dts(&self) -> i64 {
        self.get().dts
    }

    /// When it is shown, or decoded where the container has no presentation times (AVI), or
    /// [`super::NOPTS`].
    pub fn time(&self) -> i64 {
        match self.pts() {
            super::NOPTS => self.dts(),
            pts => pts,
        }
    }

    /// Sets both times.
    pub fn set_times(&mut self, pts: i64, dts: i64) {
        self.get_mut().pts = pts;
        self.get_mut().dts = dts;
    }

    /// Length in the packet's time base; 0 when unknown.
    pub fn duration(&self) -> i64 {
        self.get().duration
    }

    /// Sets the length.
    pub fn set_duration(&mut self, duration: i64) {
        self.get_mut().duration = duration;
    }

    /// Bytes of payload.
    pub fn size(&self) -> usize {
        self.get().size.max(0) as usize
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        if self.get().data.is_null() {
            return &[];
        }
        // SAFETY: libav keeps `size` readable bytes at `data` while the packet lives.
        unsafe { std::slice::from_raw_parts(self.get().data, self.size()) }
    }

    /// Stream it came from or goes to.
    pub fn stream(&self) -> usize {
        self.get().stream_index.max(0) as usize
    }

    /// Sets the stream.
    pub fn set_stream(&mut self, stream: usize) {
        self.get_mut().stream_index = stream as i32;
    }

    /// Starts a decodable run.
    pub fn is_key(&self) -> bool {
        self.get().flags & ffi::AV_PKT_FLAG_KEY as i32 != 0
    }

    /// Marked damaged by the demuxer.
    pub fn is_corrupt(&self) -> bool {
        self.get().flags & ffi::AV_PKT_FLAG_CORRUPT as i32 != 0
    }

    /// Converts all times.
    pub fn rescale(&mut self, from: Rational, to: Rational) {
        let packet = self.get_mut();
        packet.pts = rescale(packet.pts, from, to);
        packet.dts = rescale(packet.dts, from, to);
        if packet.duration > 0 {
            packet.duration = rescale(packet.duration, from, to).max(1);
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::av_packet_free(&mut self.0) };
    }
}

/// One decoded picture or run of samples; the buffers behind it are reference counted.
pub struct Frame(*mut ffi::AVFrame);

// SAFETY: owns its AVFrame alone; buffers are counted atomically by libav.
unsafe impl Send for Frame {}

impl Frame {
    /// An empty frame.
    pub fn new() -> Result<Self> {
        // SAFETY: allocates or answers null.
        let frame = unsafe { ffi::av_frame_alloc() };
        if frame.is_null() {
            Err(out_of_memory("frame"))
        } else {
            Ok(Frame(frame))
        }
    }

    /// A frame that shares the buffers of this one.
    pub fn share(&self) -> Result<Self> {
        // SAFETY: self.0 is a valid frame.
        let frame = unsafe { ffi::av_frame_clone(self.0) };
        if frame.is_null() {
            Err(out_of_memory("frame"))
        } else {
            Ok(Frame(frame))
        }
    }

    /// A silent audio frame of what stream parameters say; `None` when they say too little.
    pub fn silence_of(params: &Params, samples: usize) -> Option<Self> {
        let told = params.get();
        if told.format < 0 || told.sample_rate <= 0 || told.ch_layout.nb_channels <= 0 {
            return None;
        }
        let like = Frame::new().ok()?;
        // SAFETY: a fresh frame takes a format number of libav's own and a copied layout.
        unsafe {
            (*like.0).format = told.format;
            (*like.0).sample_rate = told.sample_rate;
            if ffi::av_channel_layout_copy(&mut (*like.0).ch_layout, &told.ch_layout) < 0 {
                return None;
            }
        }
        like.silence_like(samples).ok()
    }

    /// A silent audio frame like `self` in format, rate and layout, of `samples` samples.
    pub fn silence_like(&self, samples: usize) -> Result<Self> {
        let frame = Frame::new()?;
        // SAFETY: both frames are valid; format and layout are set before the buffers are asked
        // for, and av_samples_set_silence stays within nb_samples.
        unsafe {
            (*frame.0).format = (*self.0).format;
            (*frame.0).sample_rate = (*self.0).sample_rate;
            (*frame.0).nb_samples = samples as i32;
            check(
                "silence",
                ffi::av_channel_layout_copy(&mut (*frame.0).ch_layout, &(*self.0).ch_layout),
            )?;
            check("silence", ffi::av_frame_get_buffer(frame.0, 0))?;
            ffi::av_samples_set_silence(
                (*frame.0).extended_data,
                0,
                samples as i32,
                (*frame.0).ch_layout.nb_channels,
                std::mem::transmute::<i32, ffi::AVSampleFormat>((*frame.0).format),
            );
        }
        Ok(frame)
    }

    /// Copies `count` samples of `from`, starting at `from_at`, to `at` of this frame. Both must be
    /// of one format and layout; ranges outside either frame are refused.
    pub fn copy_samples(
        &mut self,
        at: usize,
        from: &Frame,
        from_at: usize,
        count: usize,
    ) -> Result<()> {
        if at + count > self.samples()
            || from_at + count > from.samples()
            || self.format() != from.format()
            || self.channels() != from.channels()
        {
            return Err(super::AvError::new(
                "copy samples",
                ffi::AVERROR(libc::EINVAL),
            ));
        }
        // SAFETY: ranges and formats were just checked; the destination buffers are our own, made
        // by silence_like() and not shared yet.
        unsafe {
            ffi::av_samples_copy(
                (*self.0).extended_data,
                (*from.0).extended_data as *const *mut u8,
                at as i32,
                from_at as i32,
                count as i32,
                (*self.0).ch_layout.nb_channels,
                std::mem::transmute::<i32, ffi::AVSampleFormat>((*self.0).format),
            );
        }
        Ok(())
    }

    /// Shortens an audio frame to its first `samples` samples.
    pub fn truncate_samples(&mut self, samples: usize) {
        let samples = samples.min(self.samples());
        // SAFETY: valid frame; fewer samples than the buffers hold.
        unsafe { (*self.0).nb_samples = samples as i32 };
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::AVFrame {
        self.0
    }

    fn get(&self) -> &ffi::AVFrame {
        // SAFETY: valid from new() to drop.
        unsafe { &*self.0 }
    }

    /// Presentation time: what the decoder or filter set, else its best guess.
    pub fn pts(&self) -> i64 {
        let frame = self.get();
        if frame.pts == super::NOPTS {
            frame.best_effort_timestamp
        } else {
            frame.pts
        }
    }

    /// Best guess of a decoded frame's time, which mends what containers leave out.
    pub fn best_pts(&self) -> i64 {
        let frame = self.get();
        if frame.best_effort_timestamp == super::NOPTS {
            frame.pts
        } else {
            frame.best_effort_timestamp
        }
    }

    /// Sets the presentation time.
    pub fn set_pts(&mut self, pts: i64) {
        // SAFETY: valid frame, borrowed mutably.
        unsafe { (*self.0).pts = pts };
    }

    /// Asks the encoder for a key frame here, or leaves the choice to it. Without this the decoded
    /// frame's own type would reach the encoder and ruin its rate control.
    pub fn set_key(&mut self, key: bool) {
        let kind = if key {
            ffi::AVPictureType::AV_PICTURE_TYPE_I
        } else {
            ffi::AVPictureType::AV_PICTURE_TYPE_NONE
        };
        // SAFETY: valid frame, borrowed mutably.
        unsafe { (*self.0).pict_type = kind };
    }

    /// Width in pixels.
    pub fn width(&self) -> i32 {
        self.get().width
    }

    /// Height in pixels.
    pub fn height(&self) -> i32 {
        self.get().height
    }

    /// Pixel or sample format number.
    pub fn format(&self) -> i32 {
        self.get().format
    }

    /// Sample aspect ratio; 0/1 when unknown.
    pub fn sar(&self) -> Rational {
        self.get().sample_aspect_ratio
    }

    /// How the pixels lie, for formats that can be drawn on.
    pub fn layout_420(&self) -> Option<Layout420> {
        use ffi::AVPixelFormat as Pixel;
        let is = |format: Pixel| self.format() == format as i32;
        let (interleaved, depth, shift) = match () {
            () if is(Pixel::AV_PIX_FMT_YUV420P) => (false, 8, 0),
            () if is(Pixel::AV_PIX_FMT_NV12) => (true, 8, 0),
            () if is(Pixel::AV_PIX_FMT_YUV420P10LE) => (false, 10, 0),
            () if is(Pixel::AV_PIX_FMT_P010LE) => (true, 10, 6),
            () => return None,
        };
        Some(Layout420 {
            interleaved,
            depth,
            shift,
        })
    }

    /// Matrix of the Y'CbCr values; what is not marked is told by its size, as players do.
    pub fn matrix(&self) -> Matrix {
        use ffi::AVColorSpace as Space;
        match self.get().colorspace {
            Space::AVCOL_SPC_BT709 => Matrix::Bt709,
            Space::AVCOL_SPC_BT2020_NCL | Space::AVCOL_SPC_BT2020_CL => Matrix::Bt2020,
            Space::AVCOL_SPC_UNSPECIFIED if self.height() > 576 => Matrix::Bt709,
            _ => Matrix::Bt601,
        }
    }

    /// Values use all codes ("PC range") instead of 16 to 235.
    pub fn is_full_range(&self) -> bool {
        self.get().color_range == ffi::AVColorRange::AVCOL_RANGE_JPEG
    }

    /// Makes the pixels ours alone, so that they may be changed.
    pub fn make_writable(&mut self) -> Result<()> {
        // SAFETY: valid frame, borrowed mutably; shared buffers are copied.
        check("frame", unsafe { ffi::av_frame_make_writable(self.0) }).map(|_| ())
    }

    /// A plane's bytes and the bytes from row to row, after [`Frame::make_writable`]. `None` for
    /// one that does not exist or lies upside down.
    pub fn plane_mut(&mut self, plane: usize) -> Option<(&mut [u8], usize)> {
        let frame = self.get();
        let data = *frame.data.get(plane)?;
        let stride = usize::try_from(frame.linesize[plane]).ok()?;
        let height = usize::try_from(frame.height).ok()?;
        let rows = if plane == 0 {
            height
        } else {
            height.div_ceil(2)
        };
        // SAFETY: valid frame.
        let writable = unsafe { ffi::av_frame_is_writable(self.0) } > 0;
        if data.is_null() || stride == 0 || !writable || self.layout_420().is_none() {
            return None;
        }
        // SAFETY: planes of a 4:2:0 frame have as many rows of `linesize` bytes; the buffer is ours
        // alone (checked) and borrowed mutably.
        Some((
            unsafe { std::slice::from_raw_parts_mut(data, stride * rows) },
            stride,
        ))
    }

    /// A picture of these pixels, rows of `width` each, in BGRA.
    pub fn from_bgra(width: usize, pixels: &[[u8; 4]]) -> Result<Self> {
        let height = pixels.len() / width.max(1);
        let frame = Frame::new()?;
        // SAFETY: format and size are set before the buffer is asked for; each row is copied into
        // `width * 4` bytes of its own, which is at most `linesize`.
        unsafe {
            (*frame.0).format = ffi::AVPixelFormat::AV_PIX_FMT_BGRA as i32;
            (*frame.0).width = width as i32;
            (*frame.0).height = height as i32;
            check("picture", ffi::av_frame_get_buffer(frame.0, 0))?;
            for (at, row) in pixels.chunks_exact(width.max(1)).enumerate() {
                let to = (*frame.0).data[0].add(at * (*frame.0).linesize[0] as usize);
                std::ptr::copy_nonoverlapping(row.as_ptr().cast(), to, width * 4);
            }
        }
        Ok(frame)
    }

    /// The pixels of a picture in BGRA, rows of its width each; `None` for another format.
    pub fn to_bgra(&self) -> Option<Vec<[u8; 4]>> {
        let frame = self.get();
        let (width, height) = (
            usize::try_from(frame.width).ok()?,
            frame.height.max(0) as usize,
        );
        if frame.format != ffi::AVPixelFormat::AV_PIX_FMT_BGRA as i32 || frame.data[0].is_null() {
            return None;
        }
        let mut pixels = Vec::with_capacity(width * height);
        for row in 0..height {
            // SAFETY: a BGRA frame has `height` rows of at least `width * 4` bytes, `linesize`
            // (which may be negative) apart.
            let row = unsafe {
                let from = frame.data[0].offset(row as isize * frame.linesize[0] as isize);
                std::slice::from_raw_parts(from, width * 4)
            };
            pixels.extend(row.chunks_exact(4).map(|p| [p[0], p[1], p[2], p[3]]));
        }
        Some(pixels)
    }

    /// Samples per channel.
    pub fn samples(&self) -> usize {
        self.get().nb_samples.max(0) as usize
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> i32 {
        self.get().sample_rate
    }

    /// Channels.
    pub fn channels(&self) -> i32 {
        self.get().ch_layout.nb_channels
    }

    /// Gives an audio frame without a known channel order the usual layout of its channel count.
    pub fn default_layout(&mut self) {
        // SAFETY: valid frame; the call replaces the layout in place.
        unsafe {
            if (*self.0).ch_layout.order == ffi::AVChannelOrder::AV_CHANNEL_ORDER_UNSPEC {
                let channels = (*self.0).ch_layout.nb_channels;
                ffi::av_channel_layout_default(&mut (*self.0).ch_layout, channels);
            }
        }
    }

    /// Channel layout as libav writes it.
    pub fn layout(&self) -> String {
        layout_text(&self.get().ch_layout)
    }
}

pub(super) fn layout_text(layout: &ffi::AVChannelLayout) -> String {
    let mut buffer = [0u8; 128];
    // SAFETY: writes a terminated text of at most the buffer's length.
    unsafe {
        let code =
            ffi::av_channel_layout_describe(layout, buffer.as_mut_ptr().cast(), buffer.len());
        if code < 0 {
            String::new()
        } else {
            super::text(buffer.as_ptr().cast()).unwrap_or_default()
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::av_frame_free(&mut self.0) };
    }
}

/// How the samples of a 4:2:0 picture lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout420 {
    /// Cb and Cr alternate in one plane.
    pub interleaved: bool,
    /// Bits per sample; above 8 a sample is two bytes, little endian.
    pub depth: u32,
    /// Zero bits below the sample.
    pub shift: u32,
}

/// Matrix between R'G'B' and Y'CbCr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// SD.
    Bt601,
    /// HD.
    Bt709,
    /// UHD and HDR.
    Bt2020,
}

/// How code values become light.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// PQ or HLG.
    Hdr,
    /// Any other.
    Sdr,
}

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

    fn get(&self) -> &ffi::AVCodecParameters {
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
