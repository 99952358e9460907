//! From a job's words to open inputs and certain streams.

use super::{
    Again, OnDevice, Task,
    burn::Side,
    find::find,
    open::{OpenInput, open},
    timeline::{CutRule, KeyTimes},
};
use crate::{
    libav::{
        MediaType, Rational,
        hw::{self, Device},
    },
    plan::{self, Stage, device::DevicePlan},
};
use plexbeam_api::{
    Kind, Problem,
    job::{Container, Packaging, TimePolicy},
    segment::Digest,
};
use std::sync::Arc;

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
