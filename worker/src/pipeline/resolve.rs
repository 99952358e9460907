//! From a job's words to open inputs and certain streams.

use super::{
    Again, OnDevice, Outlet, Ready, Shared, Task, av,
    burn::Side,
    demux::Target,
    spawn,
    timeline::{CutRule, KeyTimes},
};
use crate::{
    input::{self, InputPolicy},
    libav::{
        Input, MICROS, MediaType, NOPTS, OpenOptions, Params, Rational, StreamInfo, Transfer,
        codec_name,
        hw::{self, Device},
        parse_frame_rate, rescale,
    },
    plan::{
        self, Light, Stage, VideoSource,
        device::{DevicePlan, DeviceSource},
        graph, operation,
    },
};
use plexbeam_api::{
    JobSpec, Kind, Problem,
    job::{
        CodecSpec, Container, InputSpec, Packaging, Source, StreamSelector, StreamSpec, TimePolicy,
    },
    segment::{Digest, MediaKind},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::Scope,
    time::{Duration, Instant},
};

/// Containers that may be read. Playlists and scripts are not among them (P8).
const FORMATS: &[&str] = &[
    "matroska", "webm", "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "mpegts", "mpeg", "avi", "flv",
    "asf", "ogg", "wav", "flac", "mp3", "aac", "ac3", "eac3", "dts", "truehd", "rm", "nut", "mxf",
    "ivf", "srt", "ass", "webvtt", "vobsub", "sup", "wtv", "dv",
];
/// Longest time that opening and probing one input may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// An input that was opened and probed.
pub(super) struct OpenInput {
    pub(super) input: Input,
    /// For messages.
    pub(super) name: String,
    /// See [`input::Opened::version`].
    version: Option<String>,
    /// Carried with the job.
    pub(super) inline: bool,
    /// Subtracted from every packet's times.
    pub(super) shift_us: i64,
    /// Where to start, in the container's own times.
    pub(super) seek_us: Option<i64>,
}

/// What holds for the whole job.
pub(super) struct Facts {
    /// Start of the job on the output's timeline, microseconds.
    pub(super) from_us: i64,
    /// The same for the whole job, where only a part of it is made again.
    pub(super) origin_us: i64,
    /// The job starts inside the title.
    pub(super) is_seek: bool,
    /// Length of the title.
    pub(super) duration_us: Option<i64>,
    /// Demuxer of the first input.
    pub(super) format: String,
    /// Streams of all inputs, for [`plexbeam_api::Event::Probed`].
    pub(super) streams: Vec<plexbeam_api::event::InputStream>,
    /// As the job says.
    pub(super) time: TimePolicy,
    /// What encodes the video, for [`plexbeam_api::Event::Probed`].
    pub(super) encoded_by: String,
}

/// One output with its streams found.
pub(super) struct OutputPlan {
    /// Position in the job.
    pub(super) at: usize,
    pub(super) packaging: Packaging,
    pub(super) muxer_options: Vec<(String, String)>,
    pub(super) streams: Vec<StreamPlan>,
}

impl OutputPlan {
    /// Subtitles as text: its segments follow their own packets.
    pub(super) fn is_text(&self) -> bool {
        matches!(&self.packaging, Packaging::Segment { container, .. } if container.is_text())
    }

    /// Number of the first segment that is made.
    pub(super) fn begins_at(&self, again: Option<&Again>) -> u32 {
        match again {
            // Subtitles are counted from the first, whichever is wanted.
            Some(again) if !self.is_text() => again.number,
            _ => CutRule::new(&self.packaging).first_number,
        }
    }
}

/// One stream of an output.
pub(super) struct StreamPlan {
    pub(super) input: usize,
    pub(super) index: usize,
    pub(super) work: Work,
    /// Subtitles drawn on it, in the order of the stages that draw.
    pub(super) sides: Vec<Side>,
    pub(super) metadata: Vec<(String, String)>,
}

/// What is done to a stream.
pub(super) enum Work {
    Copy { before_start: bool },
    Video(Box<VideoWork>),
    Audio(AudioWork),
    Subtitle { encoder: &'static str },
    Attachment,
}

/// How a video stream is encoded.
#[derive(Clone)]
pub(super) struct VideoWork {
    /// From decoder to encoder.
    pub(super) stages: Vec<Stage>,
    pub(super) encoder: &'static str,
    pub(super) options: Vec<(String, String)>,
    pub(super) keys: Option<KeyTimes>,
    pub(super) rate: Option<Rational>,
    /// Time of the stream's first picture on the output's timeline, and what it is counted in.
    pub(super) first_picture: (i64, Rational),
    pub(super) global_header: bool,
    /// When the first segment ends, where this video decides that.
    pub(super) first: Option<FirstEnd>,
    /// Options for the first segment alone.
    pub(super) fast_start: Option<Vec<(String, String)>>,
    /// The device that does some of it.
    pub(super) device: Option<DeviceWork>,
}

/// The end of the first segment that a job makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstEnd {
    pub(super) rule: CutRule,
    pub(super) number: u32,
}

/// What a device does for a video stream.
#[derive(Clone)]
pub(super) struct DeviceWork {
    pub(super) device: Device,
    pub(super) plan: DevicePlan,
    /// Options of its encoder, best first; empty where the processor encodes.
    pub(super) attempts: Vec<Vec<(String, String)>>,
}

impl VideoWork {
    /// What the events call the encoding device.
    pub(super) fn device_name(&self) -> String {
        match &self.device {
            None => "software".to_owned(),
            Some(on) => {
                let name = hw::type_name(on.device.kind());
                match on.plan.encodes {
                    Some(_) => name,
                    None => format!("{name}+software"),
                }
            }
        }
    }
}

/// How an audio stream is encoded.
#[derive(Clone)]
pub(super) struct AudioWork {
    /// Filter text for libav.
    pub(super) chain: String,
    pub(super) encoder: &'static str,
    pub(super) options: Vec<(String, String)>,
    pub(super) global_header: bool,
}

/// Everything found.
pub(super) struct Resolved {
    /// Of all inputs together; see [`super::Sink::opened`].
    pub(super) versions: Option<Digest>,
    pub(super) inputs: Vec<OpenInput>,
    pub(super) outputs: Vec<OutputPlan>,
    pub(super) facts: Facts,
}

/// Opens the inputs and finds the streams.
///
/// To make files again only their output is planned, and the job starts where that segment began.
pub(super) fn resolve(
    task: Task<'_>,
    control: &Arc<super::Control>,
    device: Option<&OnDevice>,
) -> Result<Resolved, Problem> {
    let Task {
        spec,
        policy,
        again,
        fast_start,
        ..
    } = task;
    let mut inputs = Vec::new();
    for input in &spec.inputs {
        inputs.push(open(input, spec.time, policy, control)?);
    }
    let first = &inputs[0];
    let from_us = match (spec.time.copyts, spec.time.start_at_zero) {
        (true, true) => spec.inputs[0].seek_us.unwrap_or(0),
        (true, false) => spec.inputs[0].seek_us.unwrap_or(0) + first.input.start_us(),
        (false, _) => 0,
    };
    let mut facts = Facts {
        from_us,
        origin_us: from_us,
        is_seek: spec.inputs[0].seek_us.is_some_and(|t| t > 0),
        duration_us: first.input.duration_us(),
        format: first.input.format(),
        streams: inputs
            .iter()
            .enumerate()
            .flat_map(|(i, input)| {
                input
                    .input
                    .streams
                    .iter()
                    .map(move |s| super::describe::input_stream(i as u32, s))
            })
            .collect(),
        time: spec.time,
        encoded_by: "software".to_owned(),
    };
    let mut outputs = Vec::new();
    for (o, output) in spec.outputs.iter().enumerate() {
        if again.is_some_and(|a| a.output as usize != o) {
            continue;
        }
        let global_header = match &output.packaging {
            Packaging::Dash { .. } => true,
            Packaging::Segment { container, .. } => *container == Container::Matroska,
            Packaging::Hls { .. } => false,
        };
        let mut streams = Vec::new();
        for (s, stream) in output.streams.iter().enumerate() {
            let field = format!("outputs[{o}].streams[{s}]");
            let found =
                find(spec, stream, &inputs, global_header, device).map_err(|p| match p.field {
                    Some(_) => p,
                    None => p.at(field),
                })?;
            streams.extend(found);
        }
        if streams.is_empty() {
            return Err(Problem::new(
                Kind::BadInput,
                "the input has none of the streams asked for",
            ));
        }
        let muxer_options = output.muxer_options.clone();
        let mut plan = OutputPlan {
            at: o,
            packaging: output.packaging.clone(),
            muxer_options,
            streams,
        };
        let first = FirstEnd {
            rule: CutRule::new(&plan.packaging),
            number: plan.begins_at(again),
        };
        let video = plan.streams.iter_mut().find(|s| {
            let info = &inputs[s.input].input.streams[s.index];
            info.params.media_type() == MediaType::AVMEDIA_TYPE_VIDEO
        });
        if let Some(Work::Video(work)) = video.map(|s| &mut s.work) {
            work.first = Some(first);
            if fast_start && work.encoder == "libx264" {
                work.fast_start = plan::faster(&work.options);
            }
        }
        outputs.push(plan);
    }
    if let (Some(again), [output]) = (again, outputs.as_mut_slice()) {
        start_again(again, output, &mut inputs, &mut facts);
    }
    for (i, input) in inputs.iter_mut().enumerate() {
        let used = |index: usize| {
            outputs.iter().flat_map(|o| &o.streams).any(|s| {
                (s.input == i && s.index == index)
                    || s.sides.iter().any(|s| s.input == i && s.index == index)
            })
        };
        input.input.discard_except(used);
    }
    let videos = outputs.iter().flat_map(|o| &o.streams);
    let by = videos.filter_map(|stream| match &stream.work {
        Work::Video(work) => Some(work.device_name()),
        Work::Copy { .. } | Work::Audio(_) | Work::Subtitle { .. } | Work::Attachment => None,
    });
    if let Some(by) = by.reduce(|first, next| if first == "software" { next } else { first }) {
        facts.encoded_by = by;
    }
    let versions: Option<Vec<&str>> = inputs.iter().map(|i| i.version.as_deref()).collect();
    Ok(Resolved {
        versions: versions.map(|all| Digest::of(all.join("\n").as_bytes())),
        inputs,
        outputs,
        facts,
    })
}

/// How far a stored time may be off its key, for rounding: far less than any two keys are apart.
const KEY_SLACK_US: i64 = 1_000;

/// Moves the start of the job to that of a segment.
fn start_again(
    again: &Again,
    output: &mut OutputPlan,
    inputs: &mut [OpenInput],
    facts: &mut Facts,
) {
    // Numbers of subtitles follow their packets from the first: nothing but counting finds them.
    if output.is_text() || (again.start_us <= again.base_us && !facts.is_seek) {
        return;
    }
    let is_video = |stream: &StreamPlan| {
        let info = &inputs[stream.input].input.streams[stream.index];
        info.params.media_type() == MediaType::AVMEDIA_TYPE_VIDEO
    };
    let mut copied = false;
    for at in 0..output.streams.len() {
        if is_video(&output.streams[at])
            && let Work::Copy { before_start } = &mut output.streams[at].work
        {
            *before_start = true;
            copied = true;
        }
    }
    facts.from_us = match copied {
        true => again.start_us + KEY_SLACK_US,
        // Rounded to a microsecond it may lie behind its frame.
        false => again.start_us - 1,
    };
    facts.is_seek = true;
    for input in inputs {
        input.seek_us = Some(facts.from_us + input.shift_us);
    }
}

fn open(
    spec: &InputSpec,
    time: TimePolicy,
    policy: &InputPolicy,
    control: &Arc<super::Control>,
) -> Result<OpenInput, Problem> {
    let cancelled = {
        let control = Arc::clone(control);
        Arc::new(move || control.is_cancelled())
    };
    let opened = input::open(&spec.locations, policy, &(cancelled as input::Cancelled))?;
    let name = opened.name;
    let options = OpenOptions {
        name: name.clone(),
        formats: FORMATS,
        probe_size: spec.probe_size,
        analyze_duration_us: spec.analyze_duration_us,
    };
    // The deadline holds for opening only; afterwards reading may take as long as the film.
    let opening = Arc::new(AtomicBool::new(true));
    let deadline = Instant::now() + OPEN_DEADLINE;
    let interrupt = {
        let (control, opening) = (Arc::clone(control), Arc::clone(&opening));
        Arc::new(move || {
            control.is_cancelled()
                || (opening.load(Ordering::Relaxed) && Instant::now() >= deadline)
        })
    };
    let source = Box::new(input::Watched::new(opened.source, Arc::clone(control)));
    let result = Input::open(source, &options, interrupt);
    opening.store(false, Ordering::Relaxed);
    let input = result.map_err(|error| {
        let why = if error.is_interrupted() {
            format!("not readable within {} s", OPEN_DEADLINE.as_secs())
        } else if error.is_invalid_data() {
            "no media file that this worker reads, or damaged".to_owned()
        } else {
            error.to_string()
        };
        Problem::new(Kind::BadInput, format!("input {name}: {why}"))
    })?;
    let start = if opened.inline { 0 } else { input.start_us() };
    let seek = spec.seek_us.filter(|t| *t > 0);
    let shift_us = match (time.copyts, time.start_at_zero) {
        (true, false) => 0,
        (true, true) => start,
        (false, _) => start + seek.unwrap_or(0),
    };
    let seek_us = seek.map(|t| t + start);
    Ok(OpenInput {
        input,
        name,
        version: opened.version,
        inline: opened.inline,
        shift_us,
        seek_us,
    })
}

/// Positions of the streams that a selector means.
fn select(streams: &[StreamInfo], selector: &StreamSelector) -> Vec<usize> {
    match selector {
        StreamSelector::Index { index } => streams
            .iter()
            .filter(|s| s.index == *index as usize)
            .map(|s| s.index)
            .collect(),
        StreamSelector::Id { id } => {
            // Matroska's demuxer leaves the ids unset: then the position is meant (PROTOCOL 3).
            let has_ids = streams.iter().any(|s| s.id != 0);
            let matches = |s: &&StreamInfo| {
                if has_ids {
                    s.id == *id
                } else {
                    s.index == *id as usize
                }
            };
            streams.iter().filter(matches).map(|s| s.index).collect()
        }
        StreamSelector::Kind { media, nth } => {
            let of_kind = streams
                .iter()
                .filter(|s| super::describe::media_kind(s.params.media_type()) == *media)
                .filter(|s| *media != MediaKind::Video || !s.is_attached_picture())
                .map(|s| s.index);
            match nth {
                Some(nth) => of_kind.skip(*nth as usize).take(1).collect(),
                None => of_kind.collect(),
            }
        }
    }
}

fn find(
    spec: &JobSpec,
    stream: &StreamSpec,
    inputs: &[OpenInput],
    global_header: bool,
    device: Option<&OnDevice>,
) -> Result<Vec<StreamPlan>, Problem> {
    let (input, selector, filtered, optional) = match &stream.source {
        Source::Stream {
            input,
            select,
            optional,
        } => (*input, select.clone(), Filtered::No, *optional),
        Source::Graph { label } => {
            let video = match &stream.codec {
                CodecSpec::Encode { encoder, .. } => {
                    plan::encoder(encoder).is_some_and(|e| e.media == MediaKind::Video)
                }
                CodecSpec::Copy { .. } => false,
            };
            if video {
                let line = operation::read(&spec.graphs, label)?;
                let filtered = Filtered::Video(line.operations);
                (line.input, line.select, filtered, false)
            } else {
                let line = graph::line(&spec.graphs, label)?;
                (line.input, line.select, Filtered::Audio(line.steps), false)
            }
        }
    };
    let input = input as usize;
    let streams = &inputs
        .get(input)
        .ok_or_else(|| Problem::new(Kind::InvalidArgument, format!("there is no input {input}")))?
        .input
        .streams;
    let found = select(streams, &selector);
    if found.is_empty() && !optional {
        return Err(Problem::new(
            Kind::BadInput,
            format!("input {} has no stream {selector:?}", inputs[input].name),
        ));
    }
    let mut plans = Vec::new();
    for index in found {
        let info = &streams[index];
        let mut work = work(stream, info, &filtered, global_header, device)?;
        if let Work::Video(video) = &mut work
            && info.start != NOPTS
        {
            let shift = rescale(inputs[input].shift_us, MICROS, info.time_base);
            video.first_picture.0 = info.start.saturating_sub(shift);
        }
        let mut metadata = stream.metadata.clone();
        if matches!(work, Work::Attachment) {
            // A font without its name and type is of no use.
            metadata.extend(info.metadata.iter().cloned());
        }
        plans.push(StreamPlan {
            input,
            index,
            sides: sides(spec, &work, inputs, info)?,
            work,
            metadata,
        });
    }
    Ok(plans)
}

/// The subtitle streams that a video's stages draw.
fn sides(
    spec: &JobSpec,
    work: &Work,
    inputs: &[OpenInput],
    video: &StreamInfo,
) -> Result<Vec<Side>, Problem> {
    let Work::Video(work) = work else {
        return Ok(Vec::new());
    };
    let mut sides = Vec::new();
    for stage in &work.stages {
        let (input, selector, font) = match stage {
            Stage::Filters(_) => continue,
            Stage::Text(burn) => {
                let from = spec.burn_in.get(burn.source).ok_or_else(|| {
                    Problem::new(Kind::InvalidArgument, "`inlineass` has no stream").at("burn_in")
                })?;
                (from.input, &from.select, burn.font_path.as_deref())
            }
            Stage::Pictures(pictures) => (pictures.input, &pictures.select, None),
        };
        let input = input as usize;
        let open = inputs.get(input).ok_or_else(|| {
            Problem::new(Kind::InvalidArgument, format!("there is no input {input}"))
        })?;
        let bad = |what: String| Problem::new(Kind::BadInput, format!("input {}{what}", open.name));
        let streams = &open.input.streams;
        let found = select(streams, selector);
        let info = found
            .first()
            .map(|index| &streams[*index])
            .ok_or_else(|| bad(format!(" has no subtitle stream {selector:?}")))?;
        let is_text = !info.params.is_picture_subtitle();
        if info.params.media_type() != MediaType::AVMEDIA_TYPE_SUBTITLE
            || (is_text && matches!(stage, Stage::Pictures(_)))
        {
            return Err(bad(format!(
                ": stream {} cannot be drawn on the picture so",
                info.index
            )));
        }
        let named = spec
            .fonts
            .iter()
            .find(|f| Some(f.path.as_str()) == font)
            .and_then(|f| super::font::family(&f.data));
        sides.push(Side {
            input,
            index: info.index,
            params: info.params.duplicate().map_err(|e| av(&e))?,
            time_base: info.time_base,
            fonts: fonts(spec, streams),
            family: named,
            storage: video.params.size(),
        });
    }
    Ok(sides)
}

/// Fonts attached to a container, and those of the job.
fn fonts(spec: &JobSpec, streams: &[StreamInfo]) -> Vec<(String, Vec<u8>)> {
    let is_font = |name: &str| {
        let name = name.to_ascii_lowercase();
        [".ttf", ".otf", ".ttc", ".otc"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let attached = streams
        .iter()
        .filter(|s| s.params.media_type() == MediaType::AVMEDIA_TYPE_ATTACHMENT)
        .filter_map(|s| {
            let name = s.tag("filename")?;
            let kind = s.tag("mimetype").unwrap_or_default();
            let font = is_font(name) || kind.contains("font") || kind.contains("truetype");
            font.then(|| (name.to_owned(), s.params.extradata().to_vec()))
        });
    let sent = spec.fonts.iter().map(|font| {
        let name = font.path.rsplit('/').next().unwrap_or_default();
        (name.to_owned(), font.data.clone())
    });
    attached.chain(sent).collect()
}

fn video_source(params: &Params) -> VideoSource {
    let depth = params.component_depth();
    VideoSource {
        depth,
        light: match params.transfer() {
            Some(Transfer::Hdr) => Light::Hdr,
            None if depth > 8 => Light::Unmarked,
            Some(Transfer::Sdr) | None => Light::Sdr,
        },
    }
}

/// What the job's graphs do to a stream.
enum Filtered {
    No,
    Video(Vec<operation::Operation>),
    Audio(Vec<graph::Step>),
}

fn work(
    stream: &StreamSpec,
    info: &StreamInfo,
    filtered: &Filtered,
    global_header: bool,
    device: Option<&OnDevice>,
) -> Result<Work, Problem> {
    let CodecSpec::Encode { encoder, options } = &stream.codec else {
        if info.params.media_type() == MediaType::AVMEDIA_TYPE_ATTACHMENT {
            return Ok(Work::Attachment);
        }
        let before_start = matches!(stream.codec, CodecSpec::Copy { before_start: true });
        return Ok(Work::Copy { before_start });
    };
    let plan = plan::encoder(encoder).ok_or_else(|| {
        Problem::new(Kind::Unsupported, format!("encoder `{encoder}` is unknown"))
    })?;
    let is = super::describe::media_kind(info.params.media_type());
    if is != plan.media {
        return Err(Problem::new(
            Kind::BadInput,
            format!(
                "stream {} is {is:?} and cannot be encoded by {encoder}",
                info.index
            ),
        ));
    }
    if is == MediaKind::Subtitle && !info.params.is_text_subtitle() {
        return Err(Problem::new(
            Kind::Unsupported,
            format!(
                "the subtitles of stream {} are pictures and cannot become {encoder} text",
                info.index
            ),
        ));
    }
    let own = plan::encoder_options(encoder, plan, options)?;
    Ok(match plan.media {
        MediaKind::Video => Work::Video(Box::new(video_work(
            stream,
            (plan, own, options),
            info,
            match filtered {
                Filtered::Video(operations) => operations,
                Filtered::No | Filtered::Audio(_) => &[],
            },
            global_header,
            device,
        )?)),
        MediaKind::Audio => Work::Audio(AudioWork {
            chain: plan::software_audio(
                match filtered {
                    Filtered::Audio(steps) => steps,
                    Filtered::No | Filtered::Video(_) => &[],
                },
                plan.name,
                options,
            )?,
            encoder: plan.name,
            options: own,
            global_header,
        }),
        _ => Work::Subtitle { encoder: plan.name },
    })
}

type Options = Vec<(String, String)>;

fn video_work(
    stream: &StreamSpec,
    (encoder, own, asked): (plan::EncoderPlan, Options, &Options),
    info: &StreamInfo,
    operations: &[operation::Operation],
    global_header: bool,
    device: Option<&OnDevice>,
) -> Result<VideoWork, Problem> {
    let source = video_source(&info.params);
    let mut work = VideoWork {
        stages: Vec::new(),
        encoder: encoder.name,
        options: own,
        keys: stream.forced_keys.as_ref().and_then(KeyTimes::new),
        rate: match &stream.frame_rate {
            None => None,
            Some(text) => Some(parse_frame_rate(text).ok_or_else(|| {
                Problem::new(Kind::InvalidArgument, format!("frame rate `{text}`"))
            })?),
        },
        first_picture: (NOPTS, info.time_base),
        global_header,
        first: None,
        fast_start: None,
        device: None,
    };
    if let Some(OnDevice { device, can }) = device {
        let source = DeviceSource {
            video: source,
            codec: codec_name(info.params.codec_id()),
            size: info.params.size(),
            is_420: info.params.is_420(),
        };
        let plan = plan::device::video(operations, encoder, &source, can)?;
        if plan.uses_device() {
            let attempts = match plan.encodes {
                Some((family, bits)) => plan::device_attempts(can.kind, family, bits, asked)?,
                None => Vec::new(),
            };
            work.encoder = plan.encoder;
            work.stages.clone_from(&plan.stages);
            work.device = Some(DeviceWork {
                device: device.clone(),
                plan,
                attempts,
            });
            return Ok(work);
        }
    }
    work.stages = plan::software_video(operations, encoder.name, source)?;
    Ok(work)
}

/// Packets that wait for a video decoder. Few: how far the demuxer reads ahead is how far the audio
/// is encoded ahead, which on a small machine takes its time from the first segment.
const VIDEO_QUEUE: usize = 12;
/// Packets that wait for an audio decoder; small ones, and a late start reads many at once.
const AUDIO_QUEUE: usize = 1024;

impl StreamPlan {
    /// Starts the threads of this stream and says where its packets, and those of the subtitles drawn
    /// on it, go: input, index, target.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        source: &StreamInfo,
        facts: &'scope Facts,
        outlet: Outlet,
    ) -> Result<Vec<(usize, usize, Target)>, Problem> {
        let mut burned = Vec::new();
        let main = self.start_main(scope, shared, source, facts, outlet, &mut burned)?;
        // A subtitle comes before the pictures that it is drawn on.
        burned.push((self.input, self.index, main));
        Ok(burned)
    }

    fn start_main<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        source: &StreamInfo,
        facts: &'scope Facts,
        outlet: Outlet,
        burned: &mut Vec<(usize, usize, Target)>,
    ) -> Result<Target, Problem> {
        let params = source.params.duplicate().map_err(|e| av(&e))?;
        let time_base = source.time_base;
        let ready = |params| Ready {
            media: super::describe::media_kind(source.params.media_type()),
            params,
            time_base,
            frame_rate: source.frame_rate,
            encoded: false,
            metadata: self.metadata.clone(),
        };
        match &self.work {
            Work::Copy { before_start } => {
                let lane = super::copy::CopyLane::new(outlet, ready(params), *before_start);
                Ok(Target::Copy(Box::new(lane)))
            }
            Work::Attachment => Ok(Target::Attachment {
                outlet,
                ready: Box::new(ready(params)),
            }),
            Work::Subtitle { encoder } => {
                let converter = super::subtitle::SubtitleLane::new(
                    outlet,
                    &params,
                    time_base,
                    encoder,
                    self.metadata.clone(),
                )?;
                Ok(Target::Subtitle(Box::new(converter)))
            }
            Work::Video(work) => {
                let (sender, packets) = sync_channel(VIDEO_QUEUE);
                let source = super::video::Source {
                    params,
                    time_base,
                    frame_rate: source.frame_rate,
                };
                let (frames_in, frames) = sync_channel(super::video::FRAME_QUEUE);
                let mut subtitles = Vec::new();
                for side in &self.sides {
                    let (inlet, feed) = super::feed::feed(side.input != self.input);
                    burned.push((side.input, side.index, Target::Burn(inlet)));
                    subtitles.push(super::video::Subtitles { side, feed });
                }
                let nodes = super::video::nodes(&work.stages, subtitles)?;
                spawn(scope, shared, "decode", move || {
                    let result = super::video::run(
                        &source, work, nodes, facts, &packets, &frames_in, shared,
                    );
                    // Before the encoder sees its queue end and wonders why.
                    if let Err(problem) = &result {
                        shared.fail(problem.clone());
                    }
                    result
                });
                let metadata = &self.metadata;
                spawn(scope, shared, "encode", move || {
                    super::encode::run(work, facts, metadata, &frames, &outlet, shared)
                });
                Ok(Target::Video(sender))
            }
            Work::Audio(work) => {
                let (sender, packets) = sync_channel(AUDIO_QUEUE);
                let metadata = &self.metadata;
                spawn(scope, shared, "audio", move || {
                    super::audio::run(
                        work, &params, time_base, facts, metadata, &packets, &outlet, shared,
                    )
                });
                Ok(Target::Audio(sender))
            }
        }
    }
}
