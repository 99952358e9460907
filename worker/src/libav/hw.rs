//! Devices that decode, filter and encode: their contexts, and frames that live in their memory.
//!
//! A [`Device`] and a [`Pool`] are libav's counted references: cloning one is cheap, the last drop
//! closes the device. Both are handed to decoders and filters, which take references of their own.

use super::{Dictionary, Frame, Result, c, check, out_of_memory};
use ffmpeg_next::ffi;
use std::ffi::c_int;

pub use ffmpeg_next::ffi::{AVHWDeviceType as DeviceType, AVPixelFormat as PixelFormat};

/// An open device.
pub struct Device(*mut ffi::AVBufferRef);

// SAFETY: the reference count is atomic, and libav's device contexts are used from several threads
// by design: a decoder, a filter graph and an encoder share one.
unsafe impl Send for Device {}
// SAFETY: as above; a shared borrow only takes further references.
unsafe impl Sync for Device {}

impl Device {
    /// Opens a device; `address` is a render node, a CUDA ordinal or a Vulkan device number. The
    /// driver's words come by [`super::log::capture`].
    pub fn open(kind: DeviceType, address: Option<&str>) -> Result<Self> {
        let mut device = std::ptr::null_mut();
        let address = address.map(c);
        let mut options = Dictionary::new([]);
        // SAFETY: the texts live during the call; the reference is ours on success.
        let code = unsafe {
            ffi::av_hwdevice_ctx_create(
                &mut device,
                kind,
                address.as_ref().map_or(std::ptr::null(), |a| a.as_ptr()),
                *options.as_mut_ptr(),
                0,
            )
        };
        check(&format!("open the {} device", type_name(kind)), code)?;
        Ok(Device(device))
    }

    /// The same hardware by another interface, e.g. QSV over a VAAPI device.
    pub fn derive(&self, kind: DeviceType) -> Result<Self> {
        let mut device = std::ptr::null_mut();
        // SAFETY: self is a valid device; the new reference is ours on success.
        let code = unsafe { ffi::av_hwdevice_ctx_create_derived(&mut device, kind, self.0, 0) };
        check(&format!("derive a {} device", type_name(kind)), code)?;
        Ok(Device(device))
    }

    /// Another reference for a context that frees it itself.
    pub(super) fn reference(&self) -> Result<*mut ffi::AVBufferRef> {
        // SAFETY: self.0 is valid.
        let reference = unsafe { ffi::av_buffer_ref(self.0) };
        if reference.is_null() {
            Err(out_of_memory("device"))
        } else {
            Ok(reference)
        }
    }

    /// What kind of device it is.
    pub fn kind(&self) -> DeviceType {
        // SAFETY: the buffer of a device reference holds its context.
        unsafe { (*(*self.0).data.cast::<ffi::AVHWDeviceContext>()).type_ }
    }
}

impl Clone for Device {
    fn clone(&self) -> Self {
        // Only memory for one small struct is asked for; without it nothing goes on anyway.
        match self.reference() {
            Ok(reference) => Device(reference),
            Err(_) => std::process::abort(),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: ours alone; others hold references of their own.
        unsafe { ffi::av_buffer_unref(&mut self.0) };
    }
}

/// libav's name of a kind of device.
pub fn type_name(kind: DeviceType) -> String {
    // SAFETY: a static text or null.
    unsafe { super::text(ffi::av_hwdevice_get_type_name(kind)) }.unwrap_or_default()
}

/// The format of frames in such a device's memory.
pub fn pixel_format(kind: DeviceType) -> PixelFormat {
    match kind {
        DeviceType::AV_HWDEVICE_TYPE_CUDA => PixelFormat::AV_PIX_FMT_CUDA,
        DeviceType::AV_HWDEVICE_TYPE_VAAPI => PixelFormat::AV_PIX_FMT_VAAPI,
        DeviceType::AV_HWDEVICE_TYPE_QSV => PixelFormat::AV_PIX_FMT_QSV,
        DeviceType::AV_HWDEVICE_TYPE_VULKAN => PixelFormat::AV_PIX_FMT_VULKAN,
        _ => PixelFormat::AV_PIX_FMT_NONE,
    }
}

/// Number of a pixel format by libav's name, e.g. `nv12`.
pub fn pixel_format_of(name: &str) -> Option<PixelFormat> {
    // SAFETY: the text lives during the call.
    let format = unsafe { ffi::av_get_pix_fmt(c(name).as_ptr()) };
    (format != PixelFormat::AV_PIX_FMT_NONE).then_some(format)
}

/// Frames in a device's memory, of one size and layout.
pub struct Pool(*mut ffi::AVBufferRef);

// SAFETY: an atomically counted reference; libav's pools take locks of their own.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool of `count` frames that hold `layout` (`nv12`, `p010le`, ...).
    pub fn new(device: &Device, layout: PixelFormat, size: (u32, u32), count: u32) -> Result<Self> {
        // SAFETY: the device is valid; the new reference is owned by `pool` at once; the fields are
        // set before the context is initialised.
        unsafe {
            let pool = Pool(ffi::av_hwframe_ctx_alloc(device.0));
            if pool.0.is_null() {
                return Err(out_of_memory("frame pool"));
            }
            let context = &mut *(*pool.0).data.cast::<ffi::AVHWFramesContext>();
            context.format = pixel_format(device.kind());
            context.sw_format = layout;
            context.width = size.0 as c_int;
            context.height = size.1 as c_int;
            context.initial_pool_size = count as c_int;
            check("frame pool", ffi::av_hwframe_ctx_init(pool.0))?;
            Ok(pool)
        }
    }

    /// A copy of `frame` in the device's memory.
    pub fn upload(&self, frame: &Frame) -> Result<Frame> {
        let target = Frame::new()?;
        // SAFETY: both frames and the pool are valid.
        unsafe {
            check(
                "frame of the device",
                ffi::av_hwframe_get_buffer(self.0, target.as_ptr(), 0),
            )?;
            check(
                "upload",
                ffi::av_hwframe_transfer_data(target.as_ptr(), frame.as_ptr(), 0),
            )?;
            check(
                "upload",
                ffi::av_frame_copy_props(target.as_ptr(), frame.as_ptr()),
            )?;
        }
        Ok(target)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: ours alone; null is allowed.
        unsafe { ffi::av_buffer_unref(&mut self.0) };
    }
}

impl Frame {
    /// A grey picture in main memory, for proofs.
    pub fn grey(layout: PixelFormat, size: (u32, u32)) -> Result<Self> {
        let frame = Frame::new()?;
        // SAFETY: format and size are set before the buffers are asked for; filling stays within
        // what av_frame_get_buffer gave (each plane's buffer knows its size).
        unsafe {
            let raw = &mut *frame.as_ptr();
            raw.format = layout as c_int;
            raw.width = size.0 as c_int;
            raw.height = size.1 as c_int;
            check("picture", ffi::av_frame_get_buffer(frame.as_ptr(), 0))?;
            for buffer in raw.buf.iter().filter(|buffer| !buffer.is_null()) {
                std::ptr::write_bytes((**buffer).data, 0x80, (**buffer).size);
            }
        }
        Ok(frame)
    }

    /// Lives in a device's memory.
    pub fn is_on_device(&self) -> bool {
        // SAFETY: valid frame.
        unsafe { !(*self.as_ptr()).hw_frames_ctx.is_null() }
    }

    /// A copy in main memory.
    pub fn download(&self) -> Result<Frame> {
        let target = Frame::new()?;
        // SAFETY: both frames are valid; an empty target takes the pool's own layout.
        unsafe {
            check(
                "download",
                ffi::av_hwframe_transfer_data(target.as_ptr(), self.as_ptr(), 0),
            )?;
            check(
                "download",
                ffi::av_frame_copy_props(target.as_ptr(), self.as_ptr()),
            )?;
        }
        Ok(target)
    }

    /// What the picture holds: its own layout, or that of the device's pool. For messages and for
    /// choosing the layout after a download.
    pub fn layout_name(&self) -> String {
        // SAFETY: valid frame; the buffer of a frames reference holds its context; names are
        // static.
        unsafe {
            let raw = &*self.as_ptr();
            let layout = match raw.hw_frames_ctx.as_ref() {
                Some(pool) => (*pool.data.cast::<ffi::AVHWFramesContext>()).sw_format,
                None => std::mem::transmute::<c_int, PixelFormat>(raw.format),
            };
            super::text(ffi::av_get_pix_fmt_name(layout)).unwrap_or_default()
        }
    }
}

/// Chooses the device's format where the decoder offers it, else the first in main memory: a stream
/// that the device cannot decode is decoded by the processor.
///
/// # Safety
/// Called by libav on a context whose `opaque` holds the wanted format, with a list ended by
/// `AV_PIX_FMT_NONE`.
unsafe extern "C" fn choose_format(
    context: *mut ffi::AVCodecContext,
    offered: *const PixelFormat,
) -> PixelFormat {
    // SAFETY: as promised above; descriptors are static.
    unsafe {
        let wanted = (*context).opaque as usize as c_int;
        let mut fallback = PixelFormat::AV_PIX_FMT_NONE;
        let mut at = offered;
        while *at != PixelFormat::AV_PIX_FMT_NONE {
            if *at as c_int == wanted {
                return *at;
            }
            let descriptor = ffi::av_pix_fmt_desc_get(*at);
            let on_device = descriptor
                .as_ref()
                .is_some_and(|d| d.flags & ffi::AV_PIX_FMT_FLAG_HWACCEL as u64 != 0);
            if fallback == PixelFormat::AV_PIX_FMT_NONE && !on_device {
                fallback = *at;
            }
            at = at.add(1);
        }
        fallback
    }
}

/// Lets a decoder that is not open yet decode on `device`. `extra`: frames that the stages behind it
/// hold at once; a pool that runs dry would stop the decoder for ever.
///
/// # Safety
/// `context` is valid, has a codec and is not open.
pub(super) unsafe fn decode_on(
    context: *mut ffi::AVCodecContext,
    device: &Device,
    extra: u32,
) -> Result<()> {
    // SAFETY: promised by the caller; the context frees the reference it is given.
    unsafe {
        (*context).hw_device_ctx = device.reference()?;
        (*context).opaque = pixel_format(device.kind()) as c_int as usize as *mut _;
        (*context).get_format = Some(choose_format);
        (*context).extra_hw_frames = extra as c_int;
    }
    Ok(())
}

/// Gives every filter of a parsed graph that works on a device this one.
///
/// # Safety
/// `graph` is valid, parsed and not configured yet.
pub(super) unsafe fn filter_on(
    graph: *mut ffi::AVFilterGraph,
    device: &Device,
    extra: u32,
) -> Result<()> {
    // SAFETY: promised by the caller; `filters` holds `nb_filters` valid contexts, and each frees
    // the reference it is given.
    unsafe {
        for at in 0..(*graph).nb_filters as usize {
            let filter = &mut **(*graph).filters.add(at);
            filter.extra_hw_frames = extra as c_int;
            if filter.hw_device_ctx.is_null() {
                filter.hw_device_ctx = device.reference()?;
            }
        }
    }
    Ok(())
}

/// Tells a graph's source that its frames live in the memory that `first` lives in.
///
/// # Safety
/// `source` is a `buffer` filter of a graph that is not configured yet.
pub(super) unsafe fn feed_from_device(
    source: *mut ffi::AVFilterContext,
    first: &Frame,
) -> Result<()> {
    // SAFETY: promised by the caller; the call takes a reference of its own, and the parameters are
    // freed with av_free as their documentation says.
    unsafe {
        let raw = &*first.as_ptr();
        if raw.hw_frames_ctx.is_null() {
            return Ok(());
        }
        let parameters = ffi::av_buffersrc_parameters_alloc();
        if parameters.is_null() {
            return Err(out_of_memory("filter source"));
        }
        (*parameters).hw_frames_ctx = raw.hw_frames_ctx;
        let code = ffi::av_buffersrc_parameters_set(source, parameters);
        ffi::av_free(parameters.cast());
        check("filter source", code).map(|_| ())
    }
}

/// Lets an encoder that is not open yet take frames from the memory that `first` lives in.
///
/// # Safety
/// `context` is valid and not open.
pub(super) unsafe fn encode_from_device(
    context: *mut ffi::AVCodecContext,
    first: &Frame,
) -> Result<()> {
    // SAFETY: promised by the caller; the context frees the reference it is given.
    unsafe {
        let pool = (*first.as_ptr()).hw_frames_ctx;
        if !pool.is_null() {
            (*context).hw_frames_ctx = ffi::av_buffer_ref(pool);
            if (*context).hw_frames_ctx.is_null() {
                return Err(out_of_memory("encoder"));
            }
        }
    }
    Ok(())
}

/// Does this libavcodec's encoder know that option? Asks the encoder's own class and libavcodec's
/// general one; needs no hardware.
pub fn encoder_knows(encoder: &str, option: &str) -> bool {
    // SAFETY: static tables; a pointer to a class pointer is what av_opt_find takes with FAKE_OBJ.
    unsafe {
        let found = ffi::avcodec_find_encoder_by_name(c(encoder).as_ptr());
        let general = ffi::avcodec_get_class();
        let classes = [
            found.as_ref().map_or(std::ptr::null(), |e| e.priv_class),
            general,
        ];
        classes
            .iter()
            .filter(|class| !class.is_null())
            .any(|class| {
                let mut class = *class;
                !ffi::av_opt_find(
                    (&raw mut class).cast(),
                    c(option).as_ptr(),
                    std::ptr::null(),
                    0,
                    ffi::AV_OPT_SEARCH_FAKE_OBJ as c_int,
                )
                .is_null()
            })
    }
}

/// Does this libavfilter's filter know that option?
pub fn filter_knows(filter: &str, option: &str) -> bool {
    // SAFETY: as above.
    unsafe {
        let found = ffi::avfilter_get_by_name(c(filter).as_ptr());
        let Some(mut class) = found
            .as_ref()
            .map(|f| f.priv_class)
            .filter(|c| !c.is_null())
        else {
            return false;
        };
        !ffi::av_opt_find(
            (&raw mut class).cast(),
            c(option).as_ptr(),
            std::ptr::null(),
            0,
            (ffi::AV_OPT_SEARCH_FAKE_OBJ | ffi::AV_OPT_SEARCH_CHILDREN) as c_int,
        )
        .is_null()
    }
}

/// A codec that can decode `codec` (libav's short name) on devices of this kind: its own decoder
/// with a hardware back end, or one of the vendor's (`h264_qsv`). `None`: never on such a device.
pub fn decoder_on(kind: DeviceType, codec: &str) -> Option<String> {
    let own = match kind {
        DeviceType::AV_HWDEVICE_TYPE_QSV => format!("{codec}_qsv"),
        _ => native_decoder(codec)?,
    };
    // SAFETY: static tables; configurations are listed until null.
    unsafe {
        let decoder = ffi::avcodec_find_decoder_by_name(c(&own).as_ptr());
        if decoder.is_null() {
            return None;
        }
        for at in 0.. {
            let config = ffi::avcodec_get_hw_config(decoder, at).as_ref()?;
            let by_device = config.methods & ffi::AV_CODEC_HW_CONFIG_METHOD_HW_DEVICE_CTX as c_int;
            if config.device_type == kind && by_device != 0 {
                return Some(own);
            }
        }
    }
    None
}

/// The decoder of libav's own that has hardware back ends: for AV1 not the usual one.
fn native_decoder(codec: &str) -> Option<String> {
    let name = match codec {
        "h264" | "hevc" | "vp8" | "vp9" | "av1" | "vc1" | "wmv3" | "mpeg4" => codec,
        "mpeg2video" => "mpeg2video",
        _ => return None,
    };
    Some(name.to_owned())
}

impl super::Params {
    /// True when chroma has half the size in both directions, as devices take it.
    pub fn is_420(&self) -> bool {
        // SAFETY: valid parameters of a video stream hold a pixel format number or -1; descriptors
        // are static.
        unsafe {
            let number = (*self.as_ptr()).format;
            if number < 0 {
                return false;
            }
            ffi::av_pix_fmt_desc_get(std::mem::transmute::<c_int, PixelFormat>(number))
                .as_ref()
                .is_some_and(|d| d.log2_chroma_w == 1 && d.log2_chroma_h == 1)
        }
    }
}

/// `AVMasteringDisplayMetadata`, which the bindings leave out.
#[repr(C)]
struct Mastering {
    display_primaries: [[ffi::AVRational; 2]; 3],
    white_point: [ffi::AVRational; 2],
    min_luminance: ffi::AVRational,
    max_luminance: ffi::AVRational,
    has_primaries: c_int,
    has_luminance: c_int,
}

/// `AVContentLightMetadata`.
#[repr(C)]
struct ContentLight {
    max_cll: std::ffi::c_uint,
    max_fall: std::ffi::c_uint,
}

// Of libavutil/mastering_display_metadata.h; both allocate the side data and answer null without
// memory.
unsafe extern "C" {
    fn av_mastering_display_metadata_create_side_data(frame: *mut ffi::AVFrame) -> *mut Mastering;
    fn av_content_light_metadata_create_side_data(frame: *mut ffi::AVFrame) -> *mut ContentLight;
}

impl Frame {
    /// Marks a picture as HDR10 with usual mastering values, for proofs of tone mapping.
    pub fn mark_hdr10(&mut self) -> Result<()> {
        let ratio = |num, den| ffi::AVRational { num, den };
        // SAFETY: valid frame, borrowed mutably; the side data is owned by the frame, and its
        // fields are plain numbers.
        unsafe {
            let raw = &mut *self.as_ptr();
            raw.color_primaries = ffi::AVColorPrimaries::AVCOL_PRI_BT2020;
            raw.color_trc = ffi::AVColorTransferCharacteristic::AVCOL_TRC_SMPTE2084;
            raw.colorspace = ffi::AVColorSpace::AVCOL_SPC_BT2020_NCL;
            raw.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
            let mastering = av_mastering_display_metadata_create_side_data(raw);
            let light = av_content_light_metadata_create_side_data(raw);
            let (Some(mastering), Some(light)) = (mastering.as_mut(), light.as_mut()) else {
                return Err(out_of_memory("mastering data"));
            };
            let primaries = [(34000, 16000), (13250, 34500), (7500, 3000)];
            for (to, (x, y)) in mastering.display_primaries.iter_mut().zip(primaries) {
                *to = [ratio(x, 50_000), ratio(y, 50_000)];
            }
            mastering.white_point = [ratio(15_635, 50_000), ratio(16_450, 50_000)];
            mastering.max_luminance = ratio(1000, 1);
            mastering.min_luminance = ratio(1, 10_000);
            mastering.has_primaries = 1;
            mastering.has_luminance = 1;
            light.max_cll = 1000;
            light.max_fall = 400;
        }
        Ok(())
    }
}
