//! Video operations: what a graph asks for, freed from the vendor it was written for.
//!
//! [`read`] takes any vendor's spelling. Moves between memories (`hwupload`, `hwdownload`, `hwmap`)
//! say where something happens, not what, and vanish; so do hardware pixel formats. A planner is a
//! function from `&[Operation]` to what its device runs; `software` is the one that takes
//! every operation.

use super::{
    graph::{self, Filter, Line, Step},
    values::{self, Form},
};
use plexbeam_api::{Kind, Problem, job::StreamSelector};

mod inlineass;
pub use inlineass::BurnText;

/// The way of a video stream from its decoder to its encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoLine {
    /// Which input of the job.
    pub input: u32,
    /// Which of its streams.
    pub select: StreamSelector,
    /// What happens on the way, in order.
    pub operations: Vec<Operation>,
}

/// One thing that is done to pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Another size.
    Scale(Scale),
    /// One of these pixel formats, none of a device: `yuv420p`, `nv12`, `p010le`.
    Format(Vec<String>),
    /// HDR to SDR.
    Tonemap(Tonemap),
    /// Fields to frames.
    Deinterlace(Deinterlace),
    /// `fps`: checked arguments, as they stand in a graph.
    Rate(String),
    /// Text subtitles drawn on the picture.
    BurnText(Box<BurnText>),
    /// A second stream, of picture subtitles, laid on top.
    Overlay(Box<Overlay>),
    /// A harmless filter with checked arguments, which software runs as it stands.
    Plain(Filter),
}

/// Another size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Width: a number, `-1`, `-2` or an expression of libav's `scale`. Empty: as it comes.
    pub width: String,
    /// Height, likewise.
    pub height: String,
    /// Other options of libav's `scale`, unescaped: `force_original_aspect_ratio`,
    /// `force_divisible_by`, `flags`, colour matrices. Empty for a device's scaler.
    pub options: Vec<(String, String)>,
}

impl Scale {
    /// Both sides in pixels, where the graph says them as numbers and nothing may change them.
    pub fn size(&self) -> Option<(u32, u32)> {
        let plain = self
            .options
            .iter()
            .all(|(key, value)| key != "force_original_aspect_ratio" || value == "disable");
        match (self.width.parse(), self.height.parse()) {
            (Ok(w), Ok(h)) if plain && w > 0 && h > 0 => Some((w, h)),
            _ => None,
        }
    }
}

/// HDR to SDR: BT.2020 with PQ or HLG becomes BT.709.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tonemap {
    /// Curve.
    pub curve: Curve,
    /// Desaturation of bright colours, as the graph says; `None`: the planner's default.
    pub desat: Option<String>,
    /// Tuning of the curve.
    pub param: Option<String>,
    /// Peak of the source over reference white; `None` takes it from the stream.
    pub peak: Option<String>,
}

/// Curve of a [`Tonemap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// Whatever the device has.
    Any,
    /// Cut off.
    Clip,
    /// Straight.
    Linear,
    /// Gamma.
    Gamma,
    /// Reinhard.
    Reinhard,
    /// Hable, "filmic".
    Hable,
    /// Mobius.
    Mobius,
    /// The EETF of ITU-R BT.2390.
    Bt2390,
}

/// Fields to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deinterlace {
    /// A picture per field instead of one per frame.
    pub per_field: bool,
    /// Leave pictures alone that are not marked interlaced.
    pub only_marked: bool,
    /// `bwdif` rather than `yadif`.
    pub bwdif: bool,
}

/// A second stream on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The stream, and what is done to it before.
    pub line: VideoLine,
    /// Left edge: an expression of libav's `overlay` in `W`, `H`, `w`, `h`.
    pub x: String,
    /// Upper edge, likewise.
    pub y: String,
    /// Size that the upper picture gets, where the overlay filter scales itself (`overlay_qsv`).
    pub size: Option<(String, String)>,
}

/// Moves between memories.
const MOVES: &[&str] = &["hwupload", "hwupload_cuda", "hwdownload", "hwmap"];
/// Pixel formats that are memories of devices.
const DEVICE_FORMATS: &[&str] = &[
    "cuda",
    "vaapi",
    "vaapi_vld",
    "qsv",
    "opencl",
    "vulkan",
    "drm_prime",
    "d3d11",
    "videotoolbox_vld",
];
/// Filters that software runs as they stand. None of them opens a file.
const PLAIN: &[&str] = &[
    "setsar",
    "setdar",
    "crop",
    "pad",
    "transpose",
    "null",
    "hqdn3d",
    "unsharp",
    "vflip",
    "hflip",
    "setparams",
    "zscale",
    "colorspace",
    "setfield",
    "fieldorder",
];

/// Reads the video line that ends in `label`.
pub fn read(graphs: &[String], label: &str) -> Result<VideoLine, Problem> {
    let mut burns = 0;
    video_line(&graph::line(graphs, label)?, &mut burns)
}

fn video_line(line: &Line, burns: &mut usize) -> Result<VideoLine, Problem> {
    let mut operations = Vec::new();
    for step in &line.steps {
        step_operations(step, burns, &mut operations)?;
    }
    Ok(VideoLine {
        input: line.input,
        select: line.select.clone(),
        operations,
    })
}

fn step_operations(
    step: &Step,
    burns: &mut usize,
    out: &mut Vec<Operation>,
) -> Result<(), Problem> {
    let filter = &step.filter;
    let name = filter.name.as_str();
    if let Some(side) = &step.side {
        if !matches!(
            name,
            "overlay"
                | "overlay_cuda"
                | "overlay_vaapi"
                | "overlay_qsv"
                | "overlay_opencl"
                | "overlay_vulkan"
        ) {
            return Err(unsupported(name));
        }
        let a = Arguments::of(filter, &["x", "y"]);
        let place = |names: &[&str]| -> Result<String, Problem> {
            let place = a.any(names).unwrap_or_else(|| "0".into());
            argument(name, names[0], Form::Expression, place)
        };
        let size = match a.any(&["w"]).zip(a.any(&["h"])) {
            Some((w, h)) => Some((
                argument(name, "w", Form::Expression, w)?,
                argument(name, "h", Form::Expression, h)?,
            )),
            None => None,
        };
        out.push(Operation::Overlay(Box::new(Overlay {
            x: place(&["x", "overlay_x"])?,
            y: place(&["y", "overlay_y"])?,
            line: video_line(side, burns)?,
            size,
        })));
        return Ok(());
    }
    if MOVES.contains(&name) {
        return Ok(());
    }
    match name {
        "scale" => out.push(Operation::Scale(software_scale(filter)?)),
        "scale_cuda" | "scale_npp" | "scale_vaapi" | "scale_qsv" | "scale_vulkan"
        | "scale_opencl" | "scale_rkrga" => device_scale(filter, out)?,
        "vpp_qsv" => {
            let a = Arguments::of(filter, &[]);
            match a.get("deinterlace").as_deref() {
                None | Some("0") => {}
                Some(_) => out.push(Operation::Deinterlace(Deinterlace {
                    per_field: false,
                    only_marked: true,
                    bwdif: false,
                })),
            }
            if let Some(rate) = a.get("framerate") {
                let rate = argument(name, "framerate", Form::Rate, rate)?;
                out.push(Operation::Rate(format!("fps={}", graph::escape(&rate))));
            }
            if a.get("tonemap").is_some_and(|t| t != "0") {
                out.push(Operation::Tonemap(Tonemap::of(Curve::Any)));
            }
            device_scale(filter, out)?;
        }
        "format" => {
            let formats = Arguments::of(filter, &["pix_fmts"])
                .get("pix_fmts")
                .unwrap_or_default();
            let formats: Vec<String> = formats
                .split('|')
                .filter(|f| !f.is_empty() && !DEVICE_FORMATS.contains(f))
                .map(|f| argument(name, "pix_fmts", Form::Pixels, f.to_owned()))
                .collect::<Result<_, _>>()?;
            if !formats.is_empty() {
                out.push(Operation::Format(formats));
            }
        }
        "tonemap" | "tonemap_opencl" | "tonemap_cuda" | "tonemap_vaapi" | "tonemap_vulkan"
        | "tonemapx" => out.extend(tonemap(filter)?),
        "libplacebo" => {
            let a = Arguments::of(filter, &["w", "h"]);
            if let Some(curve) = a.get("tonemapping") {
                out.push(Operation::Tonemap(Tonemap::of(curve_of(&curve)?)));
            }
            device_scale(filter, out)?;
        }
        "yadif" | "yadif_cuda" | "yadif_videotoolbox" | "bwdif" | "bwdif_cuda" | "bwdif_vulkan" => {
            let a = Arguments::of(filter, &["mode", "parity", "deint"]);
            out.push(Operation::Deinterlace(Deinterlace {
                per_field: a.get("mode").map_or(name.starts_with("bwdif"), |m| {
                    matches!(
                        m.as_str(),
                        "1" | "3" | "send_field" | "send_field_nospatial"
                    )
                }),
                only_marked: a
                    .get("deint")
                    .is_some_and(|d| d == "1" || d == "interlaced"),
                bwdif: name.starts_with("bwdif"),
            }));
        }
        "deinterlace_vaapi" | "deinterlace_qsv" => {
            let a = Arguments::of(filter, &["mode", "rate", "auto"]);
            out.push(Operation::Deinterlace(Deinterlace {
                per_field: a.get("rate").is_some_and(|r| r == "field" || r == "2"),
                only_marked: a.get("auto").is_some_and(|v| v == "1"),
                bwdif: false,
            }));
        }
        "fps" => {
            let options = values::checked(filter)?;
            let text = values::text("fps", &options);
            out.push(Operation::Rate(text.replacen("fps=", "", 1)));
        }
        "inlineass" => {
            out.push(Operation::BurnText(Box::new(BurnText::read(
                filter, *burns,
            )?)));
            *burns += 1;
        }
        name if PLAIN.contains(&name) => {
            let options = values::checked(filter)?;
            let text = values::text(name, &options);
            let args = text.split_once('=').map_or("", |(_, args)| args);
            out.push(Operation::Plain(Filter::new(name, args)));
        }
        _ => return Err(unsupported(name)),
    }
    Ok(())
}

pub(super) fn unsupported(name: &str) -> Problem {
    Problem::new(
        Kind::Unsupported,
        format!("filter `{name}` is not possible on this worker yet"),
    )
    .at("graphs")
}

/// A checked argument of `filter`.
fn argument(filter: &str, option: &str, form: Form, value: String) -> Result<String, Problem> {
    match values::check(form, &value) {
        Ok(()) => Ok(value),
        Err(why) => Err(values::refused(format!(
            "filter `{filter}`: `{}` for `{option}` {why}",
            values::shown(&value)
        ))),
    }
}

/// Arguments of a filter, the positional ones named.
pub(super) struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// `positions`: names of the arguments that may stand without one, in order.
    pub(super) fn of(filter: &Filter, positions: &[&str]) -> Self {
        let mut next = positions.iter();
        Arguments(
            filter
                .arguments()
                .into_iter()
                .filter_map(|(name, value)| match name.as_str() {
                    "" => next.next().map(|name| ((*name).to_owned(), value)),
                    _ => Some((name, value)),
                })
                .collect(),
        )
    }

    /// The last one of this name, unless empty.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.any(&[name])
    }

    /// The last one of these names, unless empty.
    pub(super) fn any(&self, names: &[&str]) -> Option<String> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| names.contains(&key.as_str()))
            .map(|(_, value)| value.clone())
            .filter(|value| !value.is_empty())
    }
}

fn software_scale(filter: &Filter) -> Result<Scale, Problem> {
    let mut scale = Scale {
        width: String::new(),
        height: String::new(),
        options: Vec::new(),
    };
    let mut size = None;
    for (key, value) in values::checked(filter)? {
        match key {
            "w" => scale.width = value,
            "h" => scale.height = value,
            "size" => size = Some(value),
            key => scale.options.push((key.to_owned(), value)),
        }
    }
    // `scale=s=hd720` names a size.
    if let Some(size) = size.filter(|_| scale.width.is_empty()) {
        scale.width = size;
    }
    Ok(scale)
}

/// The size and the pixel format, each where it is named.
fn device_scale(filter: &Filter, out: &mut Vec<Operation>) -> Result<(), Problem> {
    let a = Arguments::of(filter, &["w", "h", "format"]);
    let name = filter.name.as_str();
    if let (Some(width), Some(height)) = (a.any(&["w", "width"]), a.any(&["h", "height"])) {
        out.push(Operation::Scale(Scale {
            width: argument(name, "w", Form::Expression, width)?,
            height: argument(name, "h", Form::Expression, height)?,
            options: Vec::new(),
        }));
    }
    let format = a.any(&["format", "out_format"]);
    if let Some(format) = format.filter(|f| f != "same" && !DEVICE_FORMATS.contains(&f.as_str())) {
        let format = argument(name, "format", Form::Pixels, format)?;
        out.push(Operation::Format(vec![format]));
    }
    Ok(())
}

impl Tonemap {
    /// This curve with the planner's defaults.
    pub fn of(curve: Curve) -> Self {
        Tonemap {
            curve,
            desat: None,
            param: None,
            peak: None,
        }
    }
}

fn tonemap(filter: &Filter) -> Result<Vec<Operation>, Problem> {
    let positions: &[&str] = match filter.name.as_str() {
        "tonemap" => &["tonemap", "param", "desat", "peak"],
        _ => &["tonemap"],
    };
    let a = Arguments::of(filter, positions);
    let curve = match a.get("tonemap") {
        Some(name) => curve_of(&name)?,
        None => Curve::Any,
    };
    let number = |option: &str| match a.get(option) {
        Some(value) if !values::is_number(&value) => Err(values::refused(format!(
            "filter `{}`: `{}` for `{option}` is no number",
            filter.name,
            values::shown(&value)
        ))),
        value => Ok(value),
    };
    let mut operations = vec![Operation::Tonemap(Tonemap {
        curve,
        desat: number("desat")?,
        param: number("param")?,
        peak: number("peak")?,
    })];
    if let Some(format) = a
        .get("format")
        .filter(|f| !DEVICE_FORMATS.contains(&f.as_str()))
    {
        let format = argument(&filter.name, "format", Form::Pixels, format)?;
        operations.push(Operation::Format(vec![format]));
    }
    Ok(operations)
}

fn curve_of(name: &str) -> Result<Curve, Problem> {
    Ok(match name {
        "auto" | "none" | "0" => Curve::Any,
        "clip" => Curve::Clip,
        "linear" => Curve::Linear,
        "gamma" => Curve::Gamma,
        "reinhard" => Curve::Reinhard,
        "hable" => Curve::Hable,
        "mobius" => Curve::Mobius,
        "bt2390" | "bt.2390" | "spline" => Curve::Bt2390,
        _ => {
            return Err(
                Problem::new(Kind::Unsupported, format!("tone curve `{name}` is unknown"))
                    .at("graphs"),
            );
        }
    })
}

#[cfg(test)]
mod tests;
