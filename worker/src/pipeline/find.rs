//! Which streams of the inputs a job means, and what is to be done to each.

use super::{
    OnDevice, av,
    burn::Side,
    open::OpenInput,
    resolve::{AudioWork, DeviceWork, StreamPlan, VideoWork, Work},
    timeline::KeyTimes,
};
use crate::{
    libav::{
        MICROS, MediaType, NOPTS, Params, StreamInfo, Transfer, codec_name, parse_frame_rate,
        rescale,
    },
    plan::{self, Light, Stage, VideoSource, device::DeviceSource, graph, operation},
};
use plexbeam_api::{
    JobSpec, Kind, Problem,
    job::{CodecSpec, Source, StreamSelector, StreamSpec},
    segment::MediaKind,
};

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

/// The streams that this one of an output is made of: more than one where all of a kind are meant.
pub(super) fn find(
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
