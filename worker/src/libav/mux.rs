//! A muxer that writes into memory, to be cut by its owner.
//!
//! The bytes since the last [`Muxer::take`] lie in one of libav's dynamic buffers, marked as not
//! seekable: what was taken is never rewritten. States follow each other: streams are added, the
//! header is written, packets follow, the trailer ends it. Calls out of that order are errors here,
//! because libav answers some of them with a crash.

use super::{AvError, Dictionary, Packet, Params, Rational, Result, c, check, out_of_memory};
use ffmpeg_next::ffi;
use std::ffi::c_int;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Streams,
    Packets,
    Ended,
}

/// One muxer on a memory buffer.
pub struct Muxer {
    context: *mut ffi::AVFormatContext,
    stage: Stage,
}

// SAFETY: owns its context and buffer alone.
unsafe impl Send for Muxer {}

impl Muxer {
    /// A muxer by libav's short name: `mp4`, `mpegts`, `matroska`, `ass`, ...
    pub fn new(format: &str) -> Result<Self> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the name is a static lookup; Drop frees the context on every later path.
        unsafe {
            check(
                &format!("muxer {format}"),
                ffi::avformat_alloc_output_context2(
                    &mut context,
                    std::ptr::null(),
                    c(format).as_ptr(),
                    std::ptr::null(),
                ),
            )?;
            let mut muxer = Muxer {
                context,
                stage: Stage::Streams,
            };
            muxer.open_buffer()?;
            Ok(muxer)
        }
    }

    fn open_buffer(&mut self) -> Result<()> {
        // SAFETY: valid context without a buffer; the new one is owned by it.
        unsafe {
            let mut pb = std::ptr::null_mut();
            check("muxer buffer", ffi::avio_open_dyn_buf(&mut pb))?;
            (*pb).seekable = 0;
            (*self.context).pb = pb;
        }
        Ok(())
    }

    fn at(&self, stage: Stage, op: &str) -> Result<()> {
        if self.stage == stage {
            Ok(())
        } else {
            Err(AvError::new(op, ffi::AVERROR(libc::EINVAL)))
        }
    }

    /// Adds a stream with the wished time base and gives its index.
    pub fn add_stream(
        &mut self,
        params: &Params,
        time_base: Rational,
        frame_rate: Rational,
        metadata: &[(String, String)],
    ) -> Result<usize> {
        self.at(Stage::Streams, "add stream")?;
        // SAFETY: valid context in its first stage; parameters are copied; the metadata dictionary
        // passes into the stream's ownership.
        unsafe {
            let stream = ffi::avformat_new_stream(self.context, std::ptr::null());
            let Some(stream) = stream.as_mut() else {
                return Err(out_of_memory("stream"));
            };
            check(
                "stream",
                ffi::avcodec_parameters_copy(stream.codecpar, params.as_ptr()),
            )?;
            (*stream.codecpar).codec_tag = 0;
            stream.time_base = time_base;
            if frame_rate.num > 0 && frame_rate.den > 0 {
                stream.avg_frame_rate = frame_rate;
            }
            stream.sample_aspect_ratio = (*stream.codecpar).sample_aspect_ratio;
            stream.metadata =
                Dictionary::new(metadata.iter().map(|(k, v)| (k.as_str(), v.as_str()))).into_raw();
            Ok(stream.index as usize)
        }
    }

    /// Writes the header with these options of the muxer. An option that it does not know is an
    /// error that names it.
    pub fn write_header(&mut self, options: &[(String, String)]) -> Result<()> {
        self.at(Stage::Streams, "write header")?;
        let mut dictionary = Dictionary::new(options.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        // SAFETY: valid context with its streams.
        unsafe {
            check(
                "write header",
                ffi::avformat_write_header(self.context, dictionary.as_mut_ptr()),
            )?;
        }
        self.stage = Stage::Packets;
        match dictionary.pairs().first() {
            None => Ok(()),
            Some((key, _)) => Err(AvError::new(
                format!("muxer option `{key}`"),
                ffi::AVERROR_OPTION_NOT_FOUND,
            )),
        }
    }

    /// The time base that the muxer really uses for a stream; packets must come in it.
    pub fn time_base(&self, stream: usize) -> Rational {
        // SAFETY: valid context; the index is checked against its stream count.
        unsafe {
            let count = (*self.context).nb_streams as usize;
            assert!(stream < count, "stream {stream} of {count}");
            (**(*self.context).streams.add(stream)).time_base
        }
    }

    /// Sets an option of the running muxer, e.g. `mpegts_flags`.
    pub fn set_option(&mut self, key: &str, value: &str) -> Result<()> {
        self.at(Stage::Packets, key)?;
        // SAFETY: the private data belongs to the open muxer; texts are read during the call.
        let code = unsafe {
            ffi::av_opt_set(
                (*self.context).priv_data,
                c(key).as_ptr(),
                c(value).as_ptr(),
                0,
            )
        };
        check(&format!("muxer option `{key}`"), code).map(|_| ())
    }

    /// Writes one packet; order over all streams is the caller's work.
    pub fn write(&mut self, packet: &Packet) -> Result<()> {
        self.at(Stage::Packets, "write packet")?;
        // SAFETY: valid context and packet; the packet's bytes are only read.
        check("write packet", unsafe {
            ffi::av_write_frame(self.context, packet.as_ptr())
        })
        .map(|_| ())
    }

    /// Makes the muxer write what it holds back (fragment, cluster, PES packets).
    pub fn flush(&mut self) -> Result<()> {
        self.at(Stage::Packets, "flush")?;
        // SAFETY: a null packet is libav's flush call, allowed before the trailer only.
        check("flush", unsafe {
            ffi::av_write_frame(self.context, std::ptr::null_mut())
        })
        .map(|_| ())
    }

    /// Writes the trailer; only [`Muxer::take`] may follow.
    pub fn write_trailer(&mut self) -> Result<()> {
        self.at(Stage::Packets, "write trailer")?;
        self.stage = Stage::Ended;
        // SAFETY: header written, trailer not yet.
        check("write trailer", unsafe {
            ffi::av_write_trailer(self.context)
        })
        .map(|_| ())
    }

    /// The bytes written since the last call.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        // SAFETY: the buffer is ours; closing it hands its memory over, which is copied and freed
        // with libav's own allocator. A new buffer takes its place before any other call.
        unsafe {
            let mut data: *mut u8 = std::ptr::null_mut();
            let size: c_int = ffi::avio_close_dyn_buf((*self.context).pb, &mut data);
            (*self.context).pb = std::ptr::null_mut();
            let bytes = if data.is_null() || size <= 0 {
                Vec::new()
            } else {
                std::slice::from_raw_parts(data, size as usize).to_vec()
            };
            ffi::av_free(data.cast());
            self.open_buffer()?;
            Ok(bytes)
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        // SAFETY: ours alone. A written header wants its trailer, which frees the muxer's insides;
        // its bytes are thrown away.
        unsafe {
            if self.stage == Stage::Packets && !(*self.context).pb.is_null() {
                ffi::av_write_trailer(self.context);
            }
            if !(*self.context).pb.is_null() {
                let mut data: *mut u8 = std::ptr::null_mut();
                ffi::avio_close_dyn_buf((*self.context).pb, &mut data);
                ffi::av_free(data.cast());
                (*self.context).pb = std::ptr::null_mut();
            }
            ffi::avformat_free_context(self.context);
        }
    }
}
