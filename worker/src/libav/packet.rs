//! Packets.

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
