//! Decoders and encoders.

use super::{
    AvError, Dictionary, Frame, Packet, Params, Rational, Result, c, check,
    hw::{self, Device},
    out_of_memory,
};
use ffmpeg_next::ffi;
use std::ffi::c_int;

/// Answer of a receive call.
pub enum Received<T> {
    /// One item.
    Item(T),
    /// Feed more first.
    Again,
    /// Nothing will follow.
    End,
}

fn received<T>(op: &str, code: c_int, item: T) -> Result<Received<T>> {
    if code >= 0 {
        Ok(Received::Item(item))
    } else if code == ffi::AVERROR(libc::EAGAIN) {
        Ok(Received::Again)
    } else if code == ffi::AVERROR_EOF {
        Ok(Received::End)
    } else {
        Err(AvError::new(op, code))
    }
}

/// One open decoder.
pub struct Decoder(*mut ffi::AVCodecContext);

// SAFETY: owns its context alone; libav's worker threads inside are joined by its free call.
unsafe impl Send for Decoder {}

impl Decoder {
    /// Opens the native decoder for these parameters. `threads`: 0 lets libav choose.
    pub fn open(params: &Params, time_base: Rational, threads: u32) -> Result<Self> {
        Self::open_with(params, time_base, threads, None)
    }

    /// Opens a decoder that decodes on `device` what that can decode, the rest by the processor: the
    /// frames tell which. `extra`: frames that the stages behind it hold at once.
    pub fn open_on(
        params: &Params,
        time_base: Rational,
        device: &Device,
        extra: u32,
    ) -> Result<Self> {
        Self::open_with(params, time_base, 0, Some((device, extra)))
    }

    fn open_with(
        params: &Params,
        time_base: Rational,
        threads: u32,
        on: Option<(&Device, u32)>,
    ) -> Result<Self> {
        // SAFETY: the context is freed on every path by Drop; parameters are copied.
        unsafe {
            let name = super::codec_name(params.codec_id());
            let by_name = on.and_then(|(device, _)| hw::decoder_on(device.kind(), &name));
            let codec = match &by_name {
                Some(own) => ffi::avcodec_find_decoder_by_name(c(own).as_ptr()),
                None => ffi::avcodec_find_decoder(params.codec_id()),
            };
            if codec.is_null() {
                return Err(AvError::new(
                    format!("no decoder for {name}"),
                    ffi::AVERROR_DECODER_NOT_FOUND,
                ));
            }
            let context = ffi::avcodec_alloc_context3(codec);
            if context.is_null() {
                return Err(out_of_memory("decoder"));
            }
            let decoder = Decoder(context);
            check(
                "decoder",
                ffi::avcodec_parameters_to_context(context, params.as_ptr()),
            )?;
            (*context).pkt_timebase = time_base;
            (*context).thread_count = threads as c_int;
            if let (Some((device, extra)), Some(_)) = (on, &by_name) {
                hw::decode_on(context, device, extra)?;
            }
            check(
                &format!("open decoder {name}"),
                ffi::avcodec_open2(context, codec, std::ptr::null_mut()),
            )?;
            Ok(decoder)
        }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::AVCodecContext {
        self.0
    }

    /// Lets the decoder leave out pictures that no other needs, while they are to be dropped anyway.
    pub fn skip_non_reference(&mut self, on: bool) {
        // SAFETY: valid context, borrowed mutably; the field may change between packets.
        unsafe {
            (*self.0).skip_frame = if on {
                ffi::AVDiscard::AVDISCARD_NONREF
            } else {
                ffi::AVDiscard::AVDISCARD_DEFAULT
            };
        }
    }

    /// Feeds a packet, or the end. `false`: take frames first, then send it again.
    pub fn send(&mut self, packet: Option<&Packet>) -> Result<bool> {
        let packet = packet.map_or(std::ptr::null_mut(), Packet::as_ptr);
        // SAFETY: the packet is valid or null and only borrowed.
        let code = unsafe { ffi::avcodec_send_packet(self.0, packet) };
        if code == ffi::AVERROR(libc::EAGAIN) {
            return Ok(false);
        }
        if code == ffi::AVERROR_EOF {
            return Ok(true);
        }
        check("decode", code).map(|_| true)
    }

    /// Takes one frame.
    pub fn receive(&mut self) -> Result<Received<Frame>> {
        let frame = Frame::new()?;
        // SAFETY: valid context and frame.
        let code = unsafe { ffi::avcodec_receive_frame(self.0, frame.as_ptr()) };
        received("decode", code, frame)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::avcodec_free_context(&mut self.0) };
    }
}

/// What a video encoder must know besides its options.
#[derive(Debug, Clone, Copy)]
pub struct VideoSettings {
    /// Seconds per tick of frame times.
    pub time_base: Rational,
    /// Frames per second.
    pub frame_rate: Rational,
    /// Keep parameter sets out of the packets (mp4, Matroska).
    pub global_header: bool,
    /// Threads; 0 lets the encoder choose.
    pub threads: u32,
}

/// What an audio encoder must know besides its options.
#[derive(Debug, Clone, Copy)]
pub struct AudioSettings {
    /// Keep the configuration out of the packets (mp4, Matroska).
    pub global_header: bool,
}

/// One open encoder.
pub struct Encoder(*mut ffi::AVCodecContext);

// SAFETY: owns its context alone; the encoder's threads are joined by its free call.
unsafe impl Send for Encoder {}

impl Encoder {
    /// Opens a video encoder for pictures like `first`, which may live on a device. Gives back the
    /// options that it did not know.
    pub fn open_video(
        name: &str,
        first: &Frame,
        settings: VideoSettings,
        options: &[(String, String)],
    ) -> Result<(Self, Vec<(String, String)>)> {
        let encoder = Self::alloc(name)?;
        // SAFETY: valid context and frame; plain fields are set before the context is opened.
        unsafe {
            let (context, frame) = (&mut *encoder.0, &*first.as_ptr());
            context.width = frame.width;
            context.height = frame.height;
            context.pix_fmt = std::mem::transmute::<i32, ffi::AVPixelFormat>(frame.format);
            context.sample_aspect_ratio = frame.sample_aspect_ratio;
            context.color_range = frame.color_range;
            context.color_primaries = frame.color_primaries;
            context.color_trc = frame.color_trc;
            context.colorspace = frame.colorspace;
            context.chroma_sample_location = frame.chroma_location;
            context.time_base = settings.time_base;
            context.framerate = settings.frame_rate;
            context.thread_count = settings.threads as c_int;
            if settings.global_header {
                context.flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            }
            hw::encode_from_device(context, first)?;
        }
        encoder.open(name, options)
    }

    /// Opens an audio encoder for samples like `first`, with times in 1 / sample rate.
    pub fn open_audio(
        name: &str,
        first: &Frame,
        settings: AudioSettings,
        options: &[(String, String)],
    ) -> Result<(Self, Vec<(String, String)>)> {
        let encoder = Self::alloc(name)?;
        // SAFETY: as above.
        unsafe {
            let (context, frame) = (&mut *encoder.0, &*first.as_ptr());
            context.sample_fmt = std::mem::transmute::<i32, ffi::AVSampleFormat>(frame.format);
            context.sample_rate = frame.sample_rate;
            check(
                "encoder",
                ffi::av_channel_layout_copy(&mut context.ch_layout, &frame.ch_layout),
            )?;
            context.time_base = Rational {
                num: 1,
                den: frame.sample_rate,
            };
            if settings.global_header {
                context.flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
            }
        }
        encoder.open(name, options)
    }

    fn alloc(name: &str) -> Result<Self> {
        // SAFETY: static lookup; allocation is checked.
        unsafe {
            let codec = ffi::avcodec_find_encoder_by_name(c(name).as_ptr());
            if codec.is_null() {
                return Err(AvError::new(
                    format!("no encoder {name}"),
                    ffi::AVERROR_ENCODER_NOT_FOUND,
                ));
            }
            let context = ffi::avcodec_alloc_context3(codec);
            if context.is_null() {
                Err(out_of_memory("encoder"))
            } else {
                Ok(Encoder(context))
            }
        }
    }

    fn open(
        self,
        name: &str,
        options: &[(String, String)],
    ) -> Result<(Self, Vec<(String, String)>)> {
        let mut dictionary = Dictionary::new(options.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        // SAFETY: the context was allocated for its own codec, hence the null codec here.
        unsafe {
            check(
                &format!("open encoder {name}"),
                ffi::avcodec_open2(self.0, std::ptr::null(), dictionary.as_mut_ptr()),
            )?;
        }
        Ok((self, dictionary.pairs()))
    }

    /// Samples per frame that the encoder wants; 0 takes any.
    pub fn frame_size(&self) -> usize {
        // SAFETY: open context.
        unsafe { (*self.0).frame_size.max(0) as usize }
    }

    /// Seconds per tick of frames and packets.
    pub fn time_base(&self) -> Rational {
        // SAFETY: open context.
        unsafe { (*self.0).time_base }
    }

    /// Parameters of the stream it makes.
    pub fn params(&self) -> Result<Params> {
        let params = Params::new()?;
        // SAFETY: open context, valid parameters.
        check("encoder", unsafe {
            ffi::avcodec_parameters_from_context(params.as_ptr(), self.0)
        })?;
        Ok(params)
    }

    /// Feeds a frame, or the end.
    pub fn send(&mut self, frame: Option<&Frame>) -> Result<bool> {
        let frame = frame.map_or(std::ptr::null_mut(), Frame::as_ptr);
        // SAFETY: the frame is valid or null and only borrowed.
        let code = unsafe { ffi::avcodec_send_frame(self.0, frame) };
        if code == ffi::AVERROR(libc::EAGAIN) {
            return Ok(false);
        }
        if code == ffi::AVERROR_EOF {
            return Ok(true);
        }
        check("encode", code).map(|_| true)
    }

    /// Takes one packet.
    pub fn receive(&mut self) -> Result<Received<Packet>> {
        let packet = Packet::new()?;
        // SAFETY: valid context and packet.
        let code = unsafe { ffi::avcodec_receive_packet(self.0, packet.as_ptr()) };
        received("encode", code, packet)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::avcodec_free_context(&mut self.0) };
    }
}
