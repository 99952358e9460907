//! Operations as filter text for libav's software filters.

use super::{
    Light, Pictures, Stage, VideoSource,
    graph::{Filter, escape},
    operation::{Curve, Deinterlace, Operation, Overlay, Scale, Tonemap, unsupported},
};
use plexbeam_api::{Kind, Problem};

/// What software does for a video line, ending in a pixel format that `encoder` takes.
pub fn video(
    operations: &[Operation],
    encoder: &str,
    source: VideoSource,
) -> Result<Vec<Stage>, Problem> {
    let mut stages = Vec::new();
    let mut chain: Vec<String> = Vec::new();
    let mut deep = source.depth > 8;
    let pixels = |deep: bool| match deep && encoder == "libx265" {
        true => "yuv420p10le",
        false => "yuv420p",
    };
    // The pixel format in which the last stage leaves its pictures.
    let mut left = None;
    let close = |chain: &mut Vec<String>, deep: bool, left: &mut Option<&str>| {
        let own = pixels(deep);
        if chain.is_empty() && *left == Some(own) {
            return None;
        }
        *left = Some(own);
        chain.push(format!("format=pix_fmts={own}"));
        Some(Stage::Filters(std::mem::take(chain).join(",")))
    };
    for operation in operations {
        match operation {
            Operation::Scale(scale) => chain.push(scale_text(scale)),
            Operation::Format(formats) => {
                deep = formats
                    .iter()
                    .any(|f| f.contains("010") || f.contains("p10"));
                // Of these the end of the chain takes the one that the encoder wants.
                if !formats.iter().all(|f| PLAIN_420.contains(&f.as_str())) {
                    chain.push(format!("format=pix_fmts={}", formats.join("|")));
                }
            }
            Operation::Tonemap(tonemap) => {
                if let Some(text) = tonemap_text(tonemap, source) {
                    chain.push(text);
                    deep = false;
                }
            }
            Operation::Deinterlace(deinterlace) => chain.push(deinterlace_text(*deinterlace)),
            Operation::Rate(args) => chain.push(format!("fps={args}")),
            Operation::Plain(filter) => chain.push(filter.text()),
            Operation::BurnText(burn) => {
                stages.extend(close(&mut chain, deep, &mut left));
                stages.push(Stage::Text(burn.clone()));
            }
            Operation::Overlay(overlay) => {
                stages.extend(close(&mut chain, deep, &mut left));
                stages.push(Stage::Pictures(Box::new(pictures(overlay)?)));
            }
        }
    }
    stages.extend(close(&mut chain, deep, &mut left));
    Ok(stages)
}

/// Formats that differ in depth and layout only.
const PLAIN_420: &[&str] = &[
    "yuv420p",
    "nv12",
    "p010",
    "p010le",
    "yuv420p10",
    "yuv420p10le",
];

/// Refuses a branch, or a place, that cannot be worked out.
pub(super) fn pictures(overlay: &Overlay) -> Result<Pictures, Problem> {
    let mut chain = Vec::new();
    for operation in &overlay.line.operations {
        match operation {
            Operation::Scale(scale) => chain.push(scale_text(scale)),
            Operation::Plain(filter) => chain.push(filter.text()),
            // The canvas is BGRA all along.
            Operation::Format(_) | Operation::Rate(_) => {}
            Operation::Tonemap(_)
            | Operation::Deinterlace(_)
            | Operation::BurnText(_)
            | Operation::Overlay(_) => {
                return Err(unsupported("overlay (with such a branch)"));
            }
        }
    }
    if let Some((w, h)) = &overlay.size {
        chain.push(format!("scale=w={}:h={}", escape(w), escape(h)));
    }
    for expression in [&overlay.x, &overlay.y] {
        let names = [
            "W",
            "main_w",
            "H",
            "main_h",
            "w",
            "overlay_w",
            "h",
            "overlay_h",
        ];
        if crate::libav::evaluate(expression, &names.map(|name| (name, 2.0))).is_none() {
            return Err(Problem::new(
                Kind::Unsupported,
                format!("`{expression}` is no place for an overlay"),
            )
            .at("graphs"));
        }
    }
    Ok(Pictures {
        input: overlay.line.input,
        select: overlay.line.select.clone(),
        chain: chain.join(","),
        x: overlay.x.clone(),
        y: overlay.y.clone(),
    })
}

fn scale_text(scale: &Scale) -> String {
    let mut args = Vec::new();
    if !scale.width.is_empty() {
        args.push(format!("w={}", escape(&scale.width)));
    }
    if !scale.height.is_empty() {
        args.push(format!("h={}", escape(&scale.height)));
    }
    for (key, value) in &scale.options {
        args.push(format!("{key}={}", escape(value)));
    }
    Filter::new("scale", args.join(":")).text()
}

fn deinterlace_text(deinterlace: Deinterlace) -> String {
    let name = if deinterlace.bwdif { "bwdif" } else { "yadif" };
    let mode = if deinterlace.per_field {
        "send_field"
    } else {
        "send_frame"
    };
    let which = if deinterlace.only_marked {
        "interlaced"
    } else {
        "all"
    };
    format!("{name}=mode={mode}:deint={which}")
}

/// Light is mapped in linear BT.709 with 1.0 at 100 cd/m2, as the usual chains of the command line
/// do it, or by BT.2390 in the source's own code values. `None` for a source that is SDR already.
fn tonemap_text(tonemap: &Tonemap, source: VideoSource) -> Option<String> {
    let curve = match tonemap.curve {
        Curve::Clip => Some("clip"),
        Curve::Linear => Some("linear"),
        Curve::Gamma => Some("gamma"),
        Curve::Reinhard => Some("reinhard"),
        Curve::Hable => Some("hable"),
        Curve::Mobius | Curve::Any => Some("mobius"),
        // Not among the curves of libav's filter.
        Curve::Bt2390 => None,
    };
    // Both transfers are defined for BT.2020 (ITU-R BT.2100); not every file says so.
    let marks = match source.light {
        Light::Sdr => return None,
        Light::Hdr => "",
        // PMS asks for tone mapping only where its own analysis found HDR.
        Light::Unmarked => ":color_trc=smpte2084",
    };
    let marks = format!("setparams=color_primaries=bt2020:colorspace=bt2020nc{marks}");
    let to_sdr = "zscale=t=bt709:m=bt709:r=tv,format=yuv420p";
    let Some(curve) = curve else {
        let eetf = bt2390(tonemap.peak.as_deref());
        return Some(format!(
            "{marks},zscale=t=smpte2084:m=gbr:r=full,format=gbrp12,\
             lutrgb=r='{eetf}':g='{eetf}':b='{eetf}',\
             zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,{to_sdr}"
        ));
    };
    let mut map = format!(
        "tonemap=tonemap={curve}:desat={}",
        tonemap.desat.as_deref().map_or("0".to_owned(), escape)
    );
    for (key, value) in [("param", &tonemap.param), ("peak", &tonemap.peak)] {
        if let Some(value) = value {
            map.push_str(&format!(":{key}={}", escape(value)));
        }
    }
    Some(format!(
        "{marks},zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,{map},{to_sdr}"
    ))
}

/// Brightest light of a source that does not say, cd/m2: what most films are graded for, and HLG's
/// nominal peak.
const USUAL_PEAK: f64 = 1000.0;

/// The EETF of ITU-R BT.2390 (5.4.1), for each of R', G' and B' in PQ, to a display of 100 cd/m2 with
/// a black of 0: an expression for libav's `lutrgb`. `peak`: the source's, over 100 cd/m2.
fn bt2390(peak: Option<&str>) -> String {
    let peak = peak
        .and_then(|p| p.parse::<f64>().ok())
        .filter(|p| (1.0..=100.0).contains(p))
        .map_or(USUAL_PEAK, |p| p * 100.0);
    let (source, top) = (pq(peak), pq(100.0) / pq(peak));
    let knee = 1.5 * top - 0.5;
    let rest = 1.0 - knee;
    format!(
        "(st(0,min(val/maxval/{source:.6},1))*0+if(lt(ld(0),{knee:.6}),ld(0),\
         st(1,(ld(0)-{knee:.6})/max({rest:.6},0.000001))*0\
         +(2*pow(ld(1),3)-3*pow(ld(1),2)+1)*{knee:.6}\
         +(pow(ld(1),3)-2*pow(ld(1),2)+ld(1))*{rest:.6}\
         +(3*pow(ld(1),2)-2*pow(ld(1),3))*{top:.6}))*{source:.6}*maxval"
    )
}

/// PQ code (SMPTE ST 2084), 0 to 1, of light in cd/m2.
fn pq(light: f64) -> f64 {
    let y = (light / 10_000.0).powf(0.159_301_757_812_5);
    ((0.835_937_5 + 18.851_562_5 * y) / (1.0 + 18.687_5 * y)).powf(78.843_75)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{graph, operation},
        *,
    };

    const HDR: VideoSource = VideoSource {
        depth: 10,
        light: Light::Hdr,
    };

    fn text(graph: &str, encoder: &str, source: VideoSource) -> String {
        let line = operation::read(&[format!("[0:0]{graph}[9]")], "9").unwrap();
        let stages = video(&line.operations, encoder, source).unwrap();
        let texts: Vec<_> = stages.iter().map(|s| format!("{s}")).collect();
        texts.join(" | ")
    }

    #[test]
    fn a_line_for_a_device_becomes_one_for_software() {
        let cuda = "hwupload[0];[0]scale_cuda=w=3840:h=1606:format=p010";
        assert_eq!(
            text(cuda, "libx265", HDR),
            "scale=w=3840:h=1606,format=pix_fmts=yuv420p10le"
        );
        assert_eq!(
            text(cuda, "libx264", HDR),
            "scale=w=3840:h=1606,format=pix_fmts=yuv420p"
        );
    }

    #[test]
    fn tone_mapping_happens_only_to_hdr() {
        let graph = "scale=w=640:h=360[0];[0]format=p010,tonemap=hable[1];\
                     [1]format=pix_fmts=yuv420p|nv12";
        let hdr = text(graph, "libx264", HDR);
        assert!(hdr.contains("tonemap=tonemap=hable:desat=0"), "{hdr}");
        let sdr = VideoSource {
            depth: 8,
            light: Light::Sdr,
        };
        assert!(!text(graph, "libx264", sdr).contains("tonemap"));
        let unmarked = VideoSource {
            depth: 10,
            light: Light::Unmarked,
        };
        assert!(text(graph, "libx264", unmarked).contains("color_trc=smpte2084"));
        // Ten bits that were mapped to SDR stay eight, also for an encoder that keeps ten.
        assert!(text("tonemap=hable", "libx265", HDR).ends_with("format=pix_fmts=yuv420p"));
    }

    #[test]
    fn audio_filters_that_open_files_are_refused() {
        let line = graph::line(&["[0:1]amovie=/x[2]".to_owned()], "2").unwrap();
        let problem = crate::plan::audio::audio(&line.steps, "aac", &[]).unwrap_err();
        assert_eq!(problem.kind, Kind::Unsupported);
    }
}
