//! A filter graph with one input and one output, built for the frames that really come.

use super::{
    AvError, Frame, Rational, Received, Result, c, check,
    hw::{self, Device},
    out_of_memory,
};
use ffmpeg_next::ffi;

/// A configured graph: frames in at one end, out at the other.
pub struct Graph {
    graph: *mut ffi::AVFilterGraph,
    source: *mut ffi::AVFilterContext,
    sink: *mut ffi::AVFilterContext,
}

// SAFETY: owns the graph and, through it, both ends; filter threads are joined by its free call.
unsafe impl Send for Graph {}

impl Graph {
    /// A video graph for pictures like `first` in `time_base`. `chain` is filter text without
    /// labels, e.g. `scale=w=1280:h=720,format=yuv420p`.
    pub fn video(chain: &str, first: &Frame, time_base: Rational, rate: Rational) -> Result<Self> {
        Self::video_on(chain, first, time_base, rate, None)
    }

    /// As [`Graph::video`], with the device that the chain's filters work on and the number of
    /// frames that the stages behind it hold at once. `first` may live on that device.
    pub fn video_on(
        chain: &str,
        first: &Frame,
        time_base: Rational,
        rate: Rational,
        on: Option<(&Device, u32)>,
    ) -> Result<Self> {
        let sar = first.sar();
        let mut args = format!(
            "video_size={}x{}:pix_fmt={}:time_base={}/{}:pixel_aspect={}/{}",
            first.width(),
            first.height(),
            first.format(),
            time_base.num,
            time_base.den,
            sar.num,
            sar.den.max(1)
        );
        if rate.num > 0 && rate.den > 0 {
            args.push_str(&format!(":frame_rate={}/{}", rate.num, rate.den));
        }
        Self::build("buffer", "buffersink", &args, chain, Some(first), on)
    }

    /// An audio graph for samples like `first` in `time_base`.
    pub fn audio(chain: &str, first: &Frame, time_base: Rational) -> Result<Self> {
        // SAFETY: a format number of a decoded frame; the answer is a static text or null.
        let format = unsafe {
            super::text(ffi::av_get_sample_fmt_name(std::mem::transmute::<
                i32,
                ffi::AVSampleFormat,
            >(first.format())))
        }
        .unwrap_or_default();
        let args = format!(
            "time_base={}/{}:sample_rate={}:sample_fmt={format}:channel_layout={}",
            time_base.num,
            time_base.den,
            first.sample_rate(),
            first.layout()
        );
        Self::build("abuffer", "abuffersink", &args, chain, None, None)
    }

    fn build(
        source: &str,
        sink: &str,
        args: &str,
        chain: &str,
        first: Option<&Frame>,
        on: Option<(&Device, u32)>,
    ) -> Result<Self> {
        // SAFETY: the graph is owned by `this` from its first line on and freed by Drop; the
        // in/out lists are freed on both paths; names are copied by libav.
        unsafe {
            let graph = ffi::avfilter_graph_alloc();
            if graph.is_null() {
                return Err(out_of_memory("filter graph"));
            }
            let mut this = Graph {
                graph,
                source: std::ptr::null_mut(),
                sink: std::ptr::null_mut(),
            };
            this.source = this.create(source, "in", Some(args))?;
            if let Some(first) = first {
                hw::feed_from_device(this.source, first)?;
            }
            this.sink = this.create(sink, "out", None)?;
            let mut outputs = ffi::avfilter_inout_alloc();
            let mut inputs = ffi::avfilter_inout_alloc();
            if outputs.is_null() || inputs.is_null() {
                ffi::avfilter_inout_free(&mut outputs);
                ffi::avfilter_inout_free(&mut inputs);
                return Err(out_of_memory("filter graph"));
            }
            (*outputs).name = ffi::av_strdup(c"in".as_ptr());
            (*outputs).filter_ctx = this.source;
            (*outputs).pad_idx = 0;
            (*outputs).next = std::ptr::null_mut();
            (*inputs).name = ffi::av_strdup(c"out".as_ptr());
            (*inputs).filter_ctx = this.sink;
            (*inputs).pad_idx = 0;
            (*inputs).next = std::ptr::null_mut();
            let code = ffi::avfilter_graph_parse_ptr(
                graph,
                c(chain).as_ptr(),
                &mut inputs,
                &mut outputs,
                std::ptr::null_mut(),
            );
            ffi::avfilter_inout_free(&mut outputs);
            ffi::avfilter_inout_free(&mut inputs);
            check(&format!("filter `{chain}`"), code)?;
            if let Some((device, extra)) = on {
                hw::filter_on(graph, device, extra)?;
            }
            check(
                &format!("filter `{chain}`"),
                ffi::avfilter_graph_config(graph, std::ptr::null_mut()),
            )?;
            Ok(this)
        }
    }

    unsafe fn create(
        &self,
        filter: &str,
        name: &str,
        args: Option<&str>,
    ) -> Result<*mut ffi::AVFilterContext> {
        let args = args.map(c);
        let mut context = std::ptr::null_mut();
        // SAFETY: the graph is valid; texts live during the call.
        unsafe {
            let found = ffi::avfilter_get_by_name(c(filter).as_ptr());
            if found.is_null() {
                return Err(AvError::new(
                    format!("no filter {filter}"),
                    ffi::AVERROR_FILTER_NOT_FOUND,
                ));
            }
            check(
                &format!("filter {filter}"),
                ffi::avfilter_graph_create_filter(
                    &mut context,
                    found,
                    c(name).as_ptr(),
                    args.as_ref().map_or(std::ptr::null(), |a| a.as_ptr()),
                    std::ptr::null_mut(),
                    self.graph,
                ),
            )?;
        }
        Ok(context)
    }

    /// Feeds a frame, or the end.
    pub fn send(&mut self, frame: Option<&Frame>) -> Result<()> {
        let frame = frame.map_or(std::ptr::null_mut(), Frame::as_ptr);
        // SAFETY: valid source; KEEP_REF leaves the caller's frame alone.
        let code = unsafe {
            ffi::av_buffersrc_add_frame_flags(
                self.source,
                frame,
                ffi::AV_BUFFERSRC_FLAG_KEEP_REF as i32,
            )
        };
        check("filter", code).map(|_| ())
    }

    /// Takes one frame; its time is in [`Graph::time_base`].
    pub fn receive(&mut self) -> Result<Received<Frame>> {
        let frame = Frame::new()?;
        // SAFETY: valid sink and frame.
        let code = unsafe { ffi::av_buffersink_get_frame(self.sink, frame.as_ptr()) };
        if code >= 0 {
            Ok(Received::Item(frame))
        } else if code == ffi::AVERROR(libc::EAGAIN) {
            Ok(Received::Again)
        } else if code == ffi::AVERROR_EOF {
            Ok(Received::End)
        } else {
            Err(AvError::new("filter", code))
        }
    }

    /// Seconds per tick of outgoing frames.
    pub fn time_base(&self) -> Rational {
        // SAFETY: configured sink.
        unsafe { ffi::av_buffersink_get_time_base(self.sink) }
    }

    /// Frame rate at the output; 0/1 when unknown.
    pub fn frame_rate(&self) -> Rational {
        // SAFETY: configured sink.
        unsafe { ffi::av_buffersink_get_frame_rate(self.sink) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: frees the filters with the graph; ours alone.
        unsafe { ffi::avfilter_graph_free(&mut self.graph) };
    }
}
