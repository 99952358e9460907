//! A planner for devices: which operations a device does, which the processor does in between, and
//! where pictures move from one to the other.
//!
//! Every step falls back alone: what the device did not prove is done by the processor between a
//! download and an upload. The way through is the cheapest by rough weights (`weight`), so that a
//! device that can scale but neither decode nor encode is not visited for that.

mod cuda;
mod qsv;
mod size;
mod vaapi;
mod vulkan;

use super::{
    EncoderPlan, Light, Stage, VideoSource,
    operation::{Curve, Deinterlace, Operation},
    software,
};
use crate::device::{Capabilities, DeviceKind, Family, Step};
use plexbeam_api::Problem;

/// How many pictures deinterlacing makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// One of each two fields.
    PerFrame,
    /// One of each field.
    PerField,
}

/// One device's words. The proofs at start use the same words as the plans, so that what was proved
/// is what runs.
pub struct Dialect {
    /// To this width, height and layout of the frames.
    pub scale: fn(u32, u32, &str) -> String,
    /// To another layout.
    pub convert: fn(&str) -> String,
    /// HDR to BT.709 in `nv12`, by a curve of libplacebo's names; `None`: there is no such filter.
    pub tonemap: fn(&str) -> Option<String>,
    /// All pictures, or with `true` those marked interlaced only; `None`: there is no such filter.
    pub deinterlace: fn(Field, bool) -> Option<String>,
    /// Filter that puts its second input over its first.
    pub overlay: &'static str,
    /// From main memory.
    pub upload: &'static str,
}

/// The words of a kind of device.
pub fn dialect(kind: DeviceKind) -> &'static Dialect {
    match kind {
        DeviceKind::Cuda => &cuda::DIALECT,
        DeviceKind::Vaapi => &vaapi::DIALECT,
        DeviceKind::Qsv => &qsv::DIALECT,
        DeviceKind::Vulkan => &vulkan::DIALECT,
    }
}

/// What a planner for a device must know of a stream besides [`VideoSource`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSource {
    /// Depth and light.
    pub video: VideoSource,
    /// libav's short name of its codec.
    pub codec: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Chroma has half the size both ways, as devices decode it.
    pub is_420: bool,
}

/// The way of a video stream over a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePlan {
    /// The device shall decode. It may refuse a stream; then pictures come in main memory.
    pub decodes: bool,
    /// Put before the first stage's text where pictures come in main memory; empty or ending in a
    /// comma.
    pub from_memory: String,
    /// The same where they come on the device.
    pub from_device: String,
    /// From decoder to encoder. The first is [`Stage::Filters`].
    pub stages: Vec<Stage>,
    /// libav's encoder.
    pub encoder: &'static str,
    /// What that is, when it is the device's: family and bits per component.
    pub encodes: Option<(Family, u32)>,
}

impl DevicePlan {
    /// True when some of the work is the device's.
    pub fn uses_device(&self) -> bool {
        self.decodes
            || self.encodes.is_some()
            || self.from_memory.contains("hwupload")
            || self
                .stages
                .iter()
                .any(|s| s.to_string().contains("hwupload"))
    }

    /// The first stage's text where pictures come in main memory.
    pub fn entry(&self, on_device: bool, text: &str) -> String {
        let before = if on_device {
            &self.from_device
        } else {
            &self.from_memory
        };
        format!("{before}{text}")
    }
}

/// Where pictures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Device,
}

use Place::{Device, Memory};

/// Rough costs of a picture, the processor's scaling being 8. Only their order matters.
mod weight {
    pub(super) const MOVE: u32 = 10;
    pub(super) const ON_DEVICE: u32 = 1;
    pub(super) const SCALE: u32 = 8;
    pub(super) const DEINTERLACE: u32 = 15;
    pub(super) const TONEMAP: u32 = 60;
    pub(super) const OTHER: u32 = 3;
    pub(super) const DECODE: u32 = 30;
    /// Of a kind that is asked for although it neither decodes nor encodes.
    pub(super) const INSISTENT: u32 = 100;
    pub(super) const NEVER: u32 = 1_000_000;
}

/// One operation with what is known before it.
struct Leg<'a> {
    operation: &'a Operation,
    /// More than 8 bits before it.
    deep: bool,
    /// Filter text for the device; `None`: the processor does it. Empty: nothing is to do.
    on_device: Option<String>,
    /// Filter text that holds for both places.
    anywhere: Option<String>,
    cost: u32,
}

/// Plans the operations of a line for a device. Errors: as [`software::video`].
pub fn video(
    operations: &[Operation],
    encoder: EncoderPlan,
    source: &DeviceSource,
    can: &Capabilities,
) -> Result<DevicePlan, Problem> {
    let (mut legs, mut deep) = legs(operations, source, can);
    let (family, keeps_ten) = match encoder.name {
        "libx265" => (Family::Hevc, true),
        _ => (Family::H264, false),
    };
    let narrow = Operation::Format(vec!["yuv420p".to_owned()]);
    if deep && !keeps_ten {
        legs.push(Leg {
            operation: &narrow,
            deep: true,
            on_device: convert(can, true, false),
            anywhere: None,
            cost: weight::OTHER,
        });
        deep = false;
    }
    let bits = if deep { 10 } else { 8 };
    let encodes = can.encodes(family, bits).then_some((family, bits));
    let decodes = source.is_420 && can.decodes(&source.codec, source.video.depth);
    let depth = source.video.depth > 8;
    let Some(places) = cheapest(&legs, depth, deep, can, decodes, encodes.is_some()) else {
        // Pictures cannot leave or reach the device where they must.
        return Ok(DevicePlan {
            decodes: false,
            from_memory: String::new(),
            from_device: String::new(),
            stages: software::video(operations, encoder.name, source.video)?,
            encoder: encoder.name,
            encodes: None,
        });
    };
    let mut writer = Writer::new(can, source.video, keeps_ten);
    let (entry, rest) = match places.split_first() {
        Some((entry, rest)) => (*entry, rest),
        None => (Memory, &[][..]),
    };
    let start_deep = source.video.depth > 8;
    let end = *rest.last().unwrap_or(&entry);
    let start = *rest.first().unwrap_or(&entry);
    writer.legs(&legs, rest, start)?;
    writer.finish(end, deep, encodes)?;
    let (from_memory, from_device) = match start {
        Device => (format!("{},", upload(can.kind, start_deep)), String::new()),
        Memory => (String::new(), format!("{},", download(start_deep))),
    };
    Ok(DevicePlan {
        // A stream that is to be filtered in memory at once is decoded there only when planned so.
        decodes: decodes && entry == Device,
        from_memory,
        from_device,
        stages: writer.stages,
        encoder: encodes.map_or(encoder.name, |_| device_encoder(can.kind, family)),
        encodes,
    })
}

/// libav's encoder of a family on a device.
fn device_encoder(kind: DeviceKind, family: Family) -> &'static str {
    match (kind, family) {
        (DeviceKind::Cuda, Family::H264) => "h264_nvenc",
        (DeviceKind::Cuda, Family::Hevc) => "hevc_nvenc",
        (DeviceKind::Vaapi, Family::H264) => "h264_vaapi",
        (DeviceKind::Vaapi, Family::Hevc) => "hevc_vaapi",
        (DeviceKind::Qsv, Family::H264) => "h264_qsv",
        (DeviceKind::Qsv, Family::Hevc) => "hevc_qsv",
        // Proves no encoder, hence is not asked.
        (DeviceKind::Vulkan, Family::H264) => "libx264",
        (DeviceKind::Vulkan, Family::Hevc) => "libx265",
    }
}

fn layout(deep: bool) -> &'static str {
    if deep { "p010le" } else { "nv12" }
}

fn upload(kind: DeviceKind, deep: bool) -> String {
    format!("format=pix_fmts={},{}", layout(deep), dialect(kind).upload)
}

fn download(deep: bool) -> String {
    format!("hwdownload,format=pix_fmts={}", layout(deep))
}

/// Text of a change of depth on the device.
fn convert(can: &Capabilities, from_deep: bool, to_deep: bool) -> Option<String> {
    match (from_deep, to_deep) {
        (true, false) if can.can(Step::Narrow) => Some((dialect(can.kind).convert)("nv12")),
        (true, false) | (false, true) => None,
        (true, true) | (false, false) => Some(String::new()),
    }
}

/// Follows depth and size through the operations; also whether the end has more than 8 bits.
fn legs<'a>(
    operations: &'a [Operation],
    source: &DeviceSource,
    can: &Capabilities,
) -> (Vec<Leg<'a>>, bool) {
    let words = dialect(can.kind);
    let mut deep = source.video.depth > 8;
    let mut size = Some(source.size);
    let mut legs = Vec::new();
    for operation in operations {
        let before = deep;
        let mut anywhere = None;
        let mut on_device = None;
        let mut cost = weight::OTHER;
        match operation {
            Operation::Scale(scale) => {
                cost = weight::SCALE;
                size = size::after(scale, size);
                let step = if deep { Step::Scale10 } else { Step::Scale8 };
                on_device = size
                    .filter(|(w, h)| can.can(step) && w % 2 == 0 && h % 2 == 0)
                    .map(|(w, h)| (words.scale)(w, h, layout(deep)));
            }
            Operation::Format(formats) => {
                deep = formats
                    .iter()
                    .any(|f| f.contains("010") || f.contains("p10"));
                on_device = convert(can, before, deep);
            }
            Operation::Tonemap(tonemap) => match source.video.light {
                // Software leaves SDR alone, too.
                Light::Sdr => anywhere = Some(String::new()),
                light => {
                    cost = weight::TONEMAP;
                    // The device believes the pictures' own marks only.
                    if light == Light::Hdr && deep && can.can(Step::Tonemap) {
                        on_device = (words.tonemap)(curve(tonemap.curve));
                    }
                    deep = false;
                }
            },
            Operation::Deinterlace(deinterlace) => {
                cost = weight::DEINTERLACE;
                if !deep && can.can(Step::Deinterlace) {
                    on_device = deinterlace_text(words, *deinterlace);
                }
            }
            Operation::Rate(args) => anywhere = Some(format!("fps={args}")),
            Operation::Plain(filter) => match filter.name.as_str() {
                "null" => anywhere = Some(String::new()),
                "setsar" | "setdar" | "setparams" | "setfield" => anywhere = Some(filter.text()),
                "hqdn3d" | "unsharp" | "vflip" | "hflip" | "colorspace" | "fieldorder" => {}
                // The rest may change the size.
                _ => size = None,
            },
            Operation::BurnText(_) | Operation::Overlay(_) => {}
        }
        if can.kind == DeviceKind::Vulkan {
            cost *= weight::INSISTENT;
        }
        legs.push(Leg {
            operation,
            deep: before,
            on_device,
            anywhere,
            cost,
        });
    }
    (legs, deep)
}

fn deinterlace_text(words: &Dialect, deinterlace: Deinterlace) -> Option<String> {
    let field = match deinterlace.per_field {
        true => Field::PerField,
        false => Field::PerFrame,
    };
    (words.deinterlace)(field, deinterlace.only_marked)
}

/// libplacebo's name of a curve.
fn curve(curve: Curve) -> &'static str {
    match curve {
        Curve::Any | Curve::Bt2390 => "bt.2390",
        Curve::Clip => "clip",
        Curve::Linear => "linear",
        Curve::Gamma => "gamma",
        Curve::Reinhard => "reinhard",
        Curve::Hable => "hable",
        Curve::Mobius => "mobius",
    }
}

/// Where pictures come from, then where each leg is done, by the smallest sum of weights. The places
/// of `legs` are behind the first entry. `None`: there is no way.
fn cheapest(
    legs: &[Leg<'_>],
    start_deep: bool,
    end_deep: bool,
    can: &Capabilities,
    decodes: bool,
    encodes: bool,
) -> Option<Vec<Place>> {
    const PLACES: [Place; 2] = [Memory, Device];
    let moved = |deep: bool| {
        let step = if deep {
            Step::Transfer10
        } else {
            Step::Transfer8
        };
        if can.can(step) {
            weight::MOVE
        } else {
            weight::NEVER
        }
    };
    let between = |from: Place, to: Place, deep: bool| match from == to {
        true => 0,
        false => moved(deep),
    };
    // Cost of being at each place, and the way there.
    let mut ways: [(u32, Vec<Place>); 2] = [
        (if decodes { weight::DECODE } else { 0 }, vec![Memory]),
        (if decodes { 0 } else { weight::NEVER }, vec![Device]),
    ];
    for (at, leg) in legs.iter().enumerate() {
        let deep = if at == 0 { start_deep } else { leg.deep };
        ways = PLACES.map(|to| {
            let work = match (to, &leg.anywhere, &leg.on_device) {
                (_, Some(_), _) => 0,
                (Memory, None, _) => leg.cost,
                (Device, None, Some(_)) => weight::ON_DEVICE,
                (Device, None, None) => weight::NEVER,
            };
            let via = PLACES
                .iter()
                .zip(&ways)
                .map(|(from, (cost, way))| (cost + between(*from, to, deep), way));
            // The first of equals, so that plans do not change by chance.
            let (cost, way) = via.min_by_key(|(cost, _)| *cost).unwrap_or((0, &ways[0].1));
            let mut way = way.clone();
            way.push(to);
            (cost + work, way)
        });
    }
    let end = if encodes { Device } else { Memory };
    let last = PLACES
        .iter()
        .zip(ways)
        .map(|(from, (cost, way))| (cost + between(*from, end, end_deep), way));
    last.min_by_key(|(cost, _)| *cost)
        .filter(|(cost, _)| *cost < weight::NEVER)
        .map(|(_, way)| way)
}

/// Writes legs as stages.
struct Writer<'a> {
    can: &'a Capabilities,
    source: VideoSource,
    keeps_ten: bool,
    stages: Vec<Stage>,
    text: Vec<String>,
}

impl<'a> Writer<'a> {
    fn new(can: &'a Capabilities, source: VideoSource, keeps_ten: bool) -> Self {
        Writer {
            can,
            source,
            keeps_ten,
            stages: Vec::new(),
            text: Vec::new(),
        }
    }

    /// `places`: one per leg; `here`: where the first one finds its pictures.
    fn legs(&mut self, legs: &[Leg<'_>], places: &[Place], start: Place) -> Result<(), Problem> {
        let mut here = start;
        let mut at = 0;
        while let (Some(leg), Some(place)) = (legs.get(at), places.get(at)) {
            self.go(here, *place, leg.deep);
            here = *place;
            if *place == Device {
                let text = leg.anywhere.as_ref().or(leg.on_device.as_ref());
                self.text.extend(text.filter(|t| !t.is_empty()).cloned());
                at += 1;
                continue;
            }
            let run = places[at..].iter().take_while(|p| **p == Memory).count();
            let end = at + run;
            self.memory(&legs[at..end])?;
            at = end;
        }
        Ok(())
    }

    fn go(&mut self, from: Place, to: Place, deep: bool) {
        match (from, to) {
            (Memory, Device) => self.text.push(upload(self.can.kind, deep)),
            (Device, Memory) => self.text.push(download(deep)),
            (Memory, Memory) | (Device, Device) => {}
        }
    }

    /// Operations that the processor does in a row. Ten bits are kept, since the last of the legs
    /// says where they end.
    fn memory(&mut self, legs: &[Leg<'_>]) -> Result<(), Problem> {
        let operations: Vec<Operation> = legs.iter().map(|leg| leg.operation.clone()).collect();
        let source = VideoSource {
            depth: if legs.first().is_some_and(|leg| leg.deep) {
                10
            } else {
                8
            },
            ..self.source
        };
        for stage in software::video(&operations, "libx265", source)? {
            self.stage(stage);
        }
        Ok(())
    }

    fn stage(&mut self, stage: Stage) {
        match stage {
            Stage::Filters(text) => self.text.push(text),
            other @ (Stage::Text(_) | Stage::Pictures(_)) => {
                self.end_text();
                self.stages.push(other);
            }
        }
    }

    /// The first stage is filters always, so that the way into it can be put before.
    fn end_text(&mut self) {
        let text = std::mem::take(&mut self.text).join(",");
        match (text.is_empty(), self.stages.is_empty()) {
            (true, true) => self.stages.push(Stage::Filters("null".to_owned())),
            (true, false) => {}
            (false, _) => self.stages.push(Stage::Filters(text)),
        }
    }

    /// Brings pictures to the encoder in what it takes.
    fn finish(
        &mut self,
        here: Place,
        deep: bool,
        encodes: Option<(Family, u32)>,
    ) -> Result<(), Problem> {
        match (encodes, here) {
            (Some(_), Device) => {}
            // These encoders take pictures in main memory as well and upload them themselves.
            (Some(_), Memory) if matches!(self.can.kind, DeviceKind::Cuda | DeviceKind::Qsv) => {
                self.text.push(format!("format=pix_fmts={}", layout(deep)));
            }
            (Some(_), Memory) => self.text.push(upload(self.can.kind, deep)),
            (None, _) => {
                self.go(here, Memory, deep);
                let pixels = if deep && self.keeps_ten {
                    "yuv420p10le"
                } else {
                    "yuv420p"
                };
                self.text.push(format!("format=pix_fmts={pixels}"));
            }
        }
        self.end_text();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
