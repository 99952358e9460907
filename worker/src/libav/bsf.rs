//! Bit stream filters.

use super::{AvError, Packet, Params, Rational, Result, c, check};
use ffmpeg_next::ffi;

/// One bit stream filter between an encoder and a muxer.
pub struct BitstreamFilter(*mut ffi::AVBSFContext);

// SAFETY: owns its context alone.
unsafe impl Send for BitstreamFilter {}

impl BitstreamFilter {
    /// `dump_extra`: repeats the parameter sets in-band before every key frame, so that segments of
    /// different encoders decode on one init segment.
    pub fn repeat_headers(params: &Params, time_base: Rational) -> Result<Self> {
        // SAFETY: the name is static; the context is freed on every path by Drop.
        unsafe {
            let filter = ffi::av_bsf_get_by_name(c"dump_extra".as_ptr());
            if filter.is_null() {
                return Err(AvError::new("dump_extra", ffi::AVERROR_BSF_NOT_FOUND));
            }
            let mut context = std::ptr::null_mut();
            check("dump_extra", ffi::av_bsf_alloc(filter, &mut context))?;
            let bsf = BitstreamFilter(context);
            check(
                "dump_extra",
                ffi::avcodec_parameters_copy((*context).par_in, params.as_ptr()),
            )?;
            (*context).time_base_in = time_base;
            check(
                "dump_extra",
                ffi::av_opt_set(
                    (*context).priv_data,
                    c("freq").as_ptr(),
                    c("keyframe").as_ptr(),
                    0,
                ),
            )?;
            check("dump_extra", ffi::av_bsf_init(context))?;
            Ok(bsf)
        }
    }

    /// Passes one packet through; this filter gives one for one.
    pub fn pass(&mut self, packet: &mut Packet) -> Result<Packet> {
        let out = Packet::new()?;
        // SAFETY: both packets are valid; send takes the content of the first.
        unsafe {
            check(
                "bit stream filter",
                ffi::av_bsf_send_packet(self.0, packet.as_ptr()),
            )?;
            check(
                "bit stream filter",
                ffi::av_bsf_receive_packet(self.0, out.as_ptr()),
            )?;
        }
        Ok(out)
    }
}

impl Drop for BitstreamFilter {
    fn drop(&mut self) {
        // SAFETY: ours alone.
        unsafe { ffi::av_bsf_free(&mut self.0) };
    }
}
