//! Demuxing from a byte source of ours.

use super::{
    AvError, Dictionary, NOPTS, Packet, Params, Rational, Result, c, check, out_of_memory,
};
use ffmpeg_next::ffi;
use std::{
    ffi::{c_int, c_void},
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

/// Where a demuxer reads from.
pub trait ByteSource: Read + Seek + Send {}
impl<T: Read + Seek + Send> ByteSource for T {}

/// Bytes that libav asks for at once. Large, because each call may be a network round trip.
const READ_SIZE: usize = 256 << 10;

/// Says whether opening or reading should stop.
pub type Interrupt = Arc<dyn Fn() -> bool + Send + Sync>;

/// How an input is opened.
#[derive(Default)]
pub struct OpenOptions {
    /// File name for the demuxer's guess; nothing is opened by it.
    pub name: String,
    /// Demuxers that may be chosen, libav's short names.
    pub formats: &'static [&'static str],
    /// Upper bound of bytes read for probing.
    pub probe_size: Option<u64>,
    /// Upper bound of media time read for probing, microseconds.
    pub analyze_duration_us: Option<i64>,
}

/// What a container says of one stream.
pub struct StreamInfo {
    /// Position in the container.
    pub index: usize,
    /// Id in the container; 0 when it has none.
    pub id: u32,
    /// Codec parameters.
    pub params: Params,
    /// Seconds per tick of its packets.
    pub time_base: Rational,
    /// Frame rate, guessed from container and codec; 0/1 when unknown.
    pub frame_rate: Rational,
    /// Time of its first packet in its time base; [`NOPTS`] when unknown.
    pub start: i64,
    /// Its own length in microseconds, when stream or tags tell it.
    pub duration_us: Option<i64>,
    /// Tags, e.g. `language`, `title`, `filename`, `mimetype`.
    pub metadata: Vec<(String, String)>,
    /// Disposition bits (`AV_DISPOSITION_*`).
    pub disposition: u32,
}

impl StreamInfo {
    /// One tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.metadata
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, v)| v.as_str())
    }

    /// A cover picture, not moving video.
    pub fn is_attached_picture(&self) -> bool {
        self.disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as u32 != 0
    }

    /// Disposition `default`.
    pub fn is_default(&self) -> bool {
        self.disposition & ffi::AV_DISPOSITION_DEFAULT as u32 != 0
    }
}

/// What the C callbacks see. Boxed, so that its address holds; the io error is kept because libav
/// turns it into a bare code.
struct Io {
    source: Box<dyn ByteSource>,
    interrupt: Interrupt,
    error: Option<std::io::Error>,
}

/// Matroska's statistics tag `DURATION`: `01:23:45.678000000`.
fn clock_us(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hours: f64 = parts.next()?.parse().ok()?;
    let minutes: f64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let us = (hours * 3600.0 + minutes * 60.0 + seconds) * 1e6;
    (us > 0.0 && us < 1e15).then_some(us as i64)
}

/// One open input.
pub struct Input {
    context: *mut ffi::AVFormatContext,
    avio: *mut ffi::AVIOContext,
    io: *mut Io,
    /// Its streams.
    pub streams: Vec<StreamInfo>,
}

// SAFETY: owns context, I/O context and the boxed source alone; the source itself is Send.
unsafe impl Send for Input {}

unsafe extern "C" fn read(opaque: *mut c_void, buffer: *mut u8, size: c_int) -> c_int {
    // SAFETY: opaque is our boxed Io, alive until Drop and used by one thread at a time; libav
    // gives `size` writable bytes.
    let (io, buffer) = unsafe {
        (
            &mut *opaque.cast::<Io>(),
            std::slice::from_raw_parts_mut(buffer, size.max(0) as usize),
        )
    };
    loop {
        if (io.interrupt)() {
            return ffi::AVERROR_EXIT;
        }
        match io.source.read(buffer) {
            Ok(0) => return ffi::AVERROR_EOF,
            Ok(n) => return n as c_int,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let code = error.raw_os_error().unwrap_or(libc::EIO);
                io.error = Some(error);
                return ffi::AVERROR(code);
            }
        }
    }
}

unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as in read().
    let io = unsafe { &mut *opaque.cast::<Io>() };
    let answer = match whence & !(ffi::AVSEEK_FORCE as c_int) {
        w if w == ffi::AVSEEK_SIZE as c_int => io.source.stream_position().and_then(|here| {
            let size = io.source.seek(SeekFrom::End(0))?;
            io.source.seek(SeekFrom::Start(here))?;
            Ok(size)
        }),
        libc::SEEK_SET if offset >= 0 => io.source.seek(SeekFrom::Start(offset as u64)),
        libc::SEEK_CUR => io.source.seek(SeekFrom::Current(offset)),
        libc::SEEK_END => io.source.seek(SeekFrom::End(offset)),
        _ => return i64::from(ffi::AVERROR(libc::EINVAL)),
    };
    match answer {
        Ok(position) => position as i64,
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(libc::EIO);
            io.error = Some(error);
            i64::from(ffi::AVERROR(code))
        }
    }
}

unsafe extern "C" fn interrupted(opaque: *mut c_void) -> c_int {
    // SAFETY: as in read(); only the shared flag is looked at.
    let io = unsafe { &*opaque.cast::<Io>() };
    c_int::from((io.interrupt)())
}

impl Input {
    /// Opens and probes. No other resource is ever opened: the protocol list is empty, so a
    /// playlist, a concat script or an MP4 data reference finds nothing (P8).
    pub fn open(
        source: Box<dyn ByteSource>,
        options: &OpenOptions,
        interrupt: Interrupt,
    ) -> Result<Self> {
        // SAFETY: `this` owns all three from the moment they exist, and Drop frees each of them
        // that is not null. avformat_open_input frees the context itself when it fails.
        unsafe {
            let mut this = Input {
                context: std::ptr::null_mut(),
                avio: std::ptr::null_mut(),
                io: Box::into_raw(Box::new(Io {
                    source,
                    interrupt,
                    error: None,
                })),
                streams: Vec::new(),
            };
            let buffer = ffi::av_malloc(READ_SIZE);
            if buffer.is_null() {
                return Err(out_of_memory("input buffer"));
            }
            this.avio = ffi::avio_alloc_context(
                buffer.cast(),
                READ_SIZE as c_int,
                0,
                this.io.cast(),
                Some(read),
                None,
                Some(seek),
            );
            if this.avio.is_null() {
                ffi::av_free(buffer);
                return Err(out_of_memory("input"));
            }
            let context = ffi::avformat_alloc_context();
            if context.is_null() {
                return Err(out_of_memory("input"));
            }
            (*context).pb = this.avio;
            (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO as c_int;
            (*context).interrupt_callback = ffi::AVIOInterruptCB {
                callback: Some(interrupted),
                opaque: this.io.cast(),
            };
            let mut dictionary = Dictionary::new([
                ("protocol_whitelist", ""),
                ("format_whitelist", options.formats.join(",").as_str()),
            ]);
            if let Some(size) = options.probe_size {
                dictionary.set("probesize", &size.max(32).to_string());
            }
            if let Some(duration) = options.analyze_duration_us {
                dictionary.set("analyzeduration", &duration.max(0).to_string());
            }
            let mut opened = context;
            let code = ffi::avformat_open_input(
                &mut opened,
                c(&options.name).as_ptr(),
                std::ptr::null(),
                dictionary.as_mut_ptr(),
            );
            check("open input", code)?;
            this.context = opened;
            if (*opened).probe_score <= ffi::AVPROBE_SCORE_MAX as c_int / 4 {
                // A score this low is a guess: libav takes random bytes for MP3 at times.
                return Err(AvError::new("open input", ffi::AVERROR_INVALIDDATA));
            }
            check(
                "probe streams",
                ffi::avformat_find_stream_info(opened, std::ptr::null_mut()),
            )?;
            this.read_streams()?;
            Ok(this)
        }
    }

    fn read_streams(&mut self) -> Result<()> {
        // SAFETY: open context; its stream array has nb_streams valid entries.
        unsafe {
            for index in 0..(*self.context).nb_streams as usize {
                let stream = *(*self.context).streams.add(index);
                let metadata = Dictionary((*stream).metadata);
                let pairs = metadata.pairs();
                // The dictionary belongs to the stream.
                let _ = metadata.into_raw();
                let own = (*stream).duration;
                let tagged = pairs
                    .iter()
                    .find(|(k, _)| k == "DURATION")
                    .map(|(_, v)| v.as_str());
                let duration_us = if own == NOPTS || own <= 0 {
                    tagged.and_then(clock_us)
                } else {
                    Some(super::rescale(own, (*stream).time_base, super::MICROS))
                };
                self.streams.push(StreamInfo {
                    index,
                    start: (*stream).start_time,
                    duration_us,
                    id: (*stream).id.max(0) as u32,
                    params: Params::copy_of((*stream).codecpar)?,
                    time_base: (*stream).time_base,
                    frame_rate: ffi::av_guess_frame_rate(
                        self.context,
                        stream,
                        std::ptr::null_mut(),
                    ),
                    metadata: pairs,
                    disposition: (*stream).disposition as u32,
                });
            }
        }
        Ok(())
    }

    /// Demuxer name, e.g. `matroska,webm`.
    pub fn format(&self) -> String {
        // SAFETY: open context; static text.
        unsafe { super::text((*(*self.context).iformat).name) }.unwrap_or_default()
    }

    /// Length in microseconds, when the container tells.
    pub fn duration_us(&self) -> Option<i64> {
        // SAFETY: open context.
        let duration = unsafe { (*self.context).duration };
        (duration != NOPTS && duration > 0).then_some(duration)
    }

    /// Earliest time of the container in microseconds; 0 when it does not tell.
    pub fn start_us(&self) -> i64 {
        // SAFETY: open context.
        let start = unsafe { (*self.context).start_time };
        if start == NOPTS { 0 } else { start }
    }

    /// Tells the demuxer which streams nobody wants.
    pub fn discard_except(&mut self, wanted: impl Fn(usize) -> bool) {
        // SAFETY: open context, valid stream array.
        unsafe {
            for index in 0..(*self.context).nb_streams as usize {
                (**(*self.context).streams.add(index)).discard = if wanted(index) {
                    ffi::AVDiscard::AVDISCARD_DEFAULT
                } else {
                    ffi::AVDiscard::AVDISCARD_ALL
                };
            }
        }
    }

    /// Goes to a key frame at or before a time of `stream`, in its time base.
    pub fn seek(&mut self, stream: usize, time: i64) -> Result<()> {
        // SAFETY: open context; the index is one of its streams.
        let code = unsafe {
            ffi::av_seek_frame(
                self.context,
                stream as c_int,
                time,
                ffi::AVSEEK_FLAG_BACKWARD as c_int,
            )
        };
        check("seek", code).map(|_| ())
    }

    /// The next packet of any wanted stream; `None` at the end.
    pub fn read(&mut self) -> Result<Option<Packet>> {
        let packet = Packet::new()?;
        // SAFETY: open context, valid packet.
        let code = unsafe { ffi::av_read_frame(self.context, packet.as_ptr()) };
        if code == ffi::AVERROR_EOF {
            return Ok(None);
        }
        check("read input", code)?;
        Ok(Some(packet))
    }

    /// The byte source's own words about its last failure.
    pub fn take_io_error(&mut self) -> Option<std::io::Error> {
        // SAFETY: the box lives until Drop; no callback runs while we are borrowed mutably.
        unsafe { (*self.io).error.take() }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // SAFETY: each is ours and freed once, the context before what it reads from. With
        // AVFMT_FLAG_CUSTOM_IO libav leaves the I/O context alone; its buffer may have been
        // replaced by libav, hence it is freed through the context.
        unsafe {
            if !self.context.is_null() {
                ffi::avformat_close_input(&mut self.context);
            }
            if !self.avio.is_null() {
                ffi::av_freep((&raw mut (*self.avio).buffer).cast());
                ffi::avio_context_free(&mut self.avio);
            }
            drop(Box::from_raw(self.io));
        }
    }
}
