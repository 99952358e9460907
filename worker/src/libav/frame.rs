//! Frames: decoded pictures and sound, and how a picture's samples are to be read.

use super::{Params, Rational, Result, check, out_of_memory};
use ffmpeg_next::ffi;

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
