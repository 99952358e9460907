//! The planners over every recorded line, for each kind of device and each missing capability. The
//! texts under `golden/` are for reading; the rules below judge them. `UPDATE_GOLDEN=1` writes them
//! anew.

use plexbeam_worker::{
    device::{Capabilities, DeviceKind, Family, Step},
    libav::{has_filter, hw::filter_knows},
    plan::{
        self, Light, Stage, VideoSource,
        device::{DevicePlan, DeviceSource},
        graph, operation,
    },
};
use serde_json::Value;
use std::{fmt::Write, path::Path};

/// A recorded line's video.
struct Line {
    id: String,
    source: DeviceSource,
    operations: Vec<operation::Operation>,
    encoder: String,
    options: Vec<(String, String)>,
}

fn lines() -> Vec<Line> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/commands.jsonl"
    );
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter_map(read).collect()
}

fn read(line: &str) -> Option<Line> {
    let row: Value = serde_json::from_str(line).unwrap();
    let argv: Vec<String> = serde_json::from_value(row["argv"].clone()).ok()?;
    let values = |name: &str| {
        let pairs = argv.windows(2).filter(move |pair| pair[0] == name);
        pairs.map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    let graphs = values("-filter_complex");
    // PMS maps the video first.
    let label = values("-map").into_iter().find(|m| m.starts_with('['))?;
    let label = label.trim_matches(['[', ']']);
    let video = operation::read(&graphs, label).ok()?;
    let is_video = |name: &String| {
        plan::encoder(name).is_some_and(|e| matches!(e.name, "libx264" | "libx265"))
    };
    let at = argv.iter().rposition(|a| a == "-codec:0")?;
    let encoder = argv.get(at + 1).filter(|name| is_video(name))?.clone();
    let options = argv[at..].windows(2).filter_map(|pair| {
        let key = pair[0].strip_prefix('-')?.strip_suffix(":0")?;
        (key != "codec").then(|| (key.to_owned(), pair[1].clone()))
    });
    let text = graphs.concat();
    let deep = text.contains("tonemap") || text.contains("p010");
    let codec = values("-codec:0").first().filter(|_| deep).cloned();
    Some(Line {
        id: row["id"].as_str().unwrap().to_owned(),
        source: DeviceSource {
            video: VideoSource {
                depth: if deep { 10 } else { 8 },
                light: if deep { Light::Hdr } else { Light::Sdr },
            },
            codec: codec.map_or("h264", |_| "hevc").to_owned(),
            size: if deep { (3840, 2160) } else { (1920, 1080) },
            is_420: true,
        },
        operations: video.operations,
        encoder,
        options: options.collect(),
    })
}

/// A device that proved all that its kind can in this FFmpeg.
fn whole(kind: DeviceKind) -> Capabilities {
    let mut can = Capabilities::none(kind, "x");
    can.steps.extend(Step::ALL);
    if kind == DeviceKind::Vulkan {
        return can;
    }
    for (codec, bits) in [("h264", 8), ("hevc", 8), ("hevc", 10)] {
        can.decode.insert((codec.to_owned(), bits));
    }
    can.encode
        .extend([(Family::H264, 8), (Family::Hevc, 8), (Family::Hevc, 10)]);
    can
}

/// The same with one thing missing, each with its name.
fn lacking(kind: DeviceKind) -> Vec<(String, Capabilities)> {
    let mut all = vec![("all".to_owned(), whole(kind))];
    for step in Step::ALL {
        let mut can = whole(kind);
        can.steps.remove(&step);
        all.push((format!("no {}", step.words()), can));
    }
    if kind != DeviceKind::Vulkan {
        let mut can = whole(kind);
        can.decode.clear();
        all.push(("no decode".to_owned(), can));
        let mut can = whole(kind);
        can.encode.clear();
        all.push(("no encode".to_owned(), can));
        let mut can = whole(kind);
        can.encode.remove(&(Family::Hevc, 10));
        all.push(("no encode of 10 bit".to_owned(), can));
    }
    all
}

fn plan_of(line: &Line, can: &Capabilities) -> DevicePlan {
    let encoder = plan::encoder(&line.encoder).unwrap();
    plan::device::video(&line.operations, encoder, &line.source, can).unwrap()
}

fn text_of(plan: &DevicePlan) -> String {
    let from = if plan.decodes { "device" } else { "memory" };
    let mut stages: Vec<String> = plan.stages.iter().map(Stage::to_string).collect();
    stages[0] = plan.entry(plan.decodes, &stages[0]);
    format!("{from} > {} > {}", stages.join(" | "), plan.encoder)
}

fn golden(kind: DeviceKind) -> String {
    let mut out = format!(
        "Plans for {kind}: where the decoder leaves pictures > filters > encoder. What a missing \
         capability does not change is left out.\n"
    );
    for line in lines() {
        let source = &line.source;
        let _ = writeln!(
            out,
            "\n== {} ({}, {} bit, {}x{}, for {})",
            line.id, source.codec, source.video.depth, source.size.0, source.size.1, line.encoder
        );
        let mut first = String::new();
        for (name, can) in lacking(kind) {
            let plan = plan_of(&line, &can);
            let text = text_of(&plan);
            if first.is_empty() {
                first.clone_from(&text);
                let _ = writeln!(out, "{name}: {text}");
                if let Some((family, bits)) = plan.encodes {
                    let attempts = plan::device_attempts(kind, family, bits, &line.options);
                    for options in attempts.unwrap() {
                        let pairs: Vec<_> =
                            options.iter().map(|(k, v)| format!("{k}={v}")).collect();
                        let _ = writeln!(out, "    {}", pairs.join(" "));
                    }
                }
            } else if text != first {
                let _ = writeln!(out, "{name}: {text}");
            }
        }
    }
    out
}

fn held_against_golden(kind: DeviceKind) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = dir.join(format!("{kind}.txt"));
    let now = golden(kind);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (at, (now, kept)) in now.lines().zip(kept.lines()).enumerate() {
        assert_eq!(now, kept, "{}:{}", path.display(), at + 1);
    }
    assert_eq!(
        now.lines().count(),
        kept.lines().count(),
        "{}",
        path.display()
    );
}

#[test]
fn cuda_plans_are_as_kept() {
    held_against_golden(DeviceKind::Cuda);
}

#[test]
fn vaapi_plans_are_as_kept() {
    held_against_golden(DeviceKind::Vaapi);
}

#[test]
fn qsv_plans_are_as_kept() {
    held_against_golden(DeviceKind::Qsv);
}

#[test]
fn vulkan_plans_are_as_kept() {
    held_against_golden(DeviceKind::Vulkan);
}

const KINDS: [DeviceKind; 4] = [
    DeviceKind::Cuda,
    DeviceKind::Vaapi,
    DeviceKind::Qsv,
    DeviceKind::Vulkan,
];

/// Filters that leave pictures where they are.
const ANYWHERE: [&str; 6] = ["null", "fps", "setsar", "setdar", "setparams", "setfield"];

/// Walks a plan: every filter finds its pictures where it works, exists in this libavfilter with the
/// options it is given, and the last one leaves them where the encoder takes them.
fn judge(kind: DeviceKind, plan: &DevicePlan, starts_on_device: bool) {
    let shown = text_of(plan);
    let mut on_device = starts_on_device;
    for (at, stage) in plan.stages.iter().enumerate() {
        let Stage::Filters(text) = stage else {
            assert!(!on_device, "drawn on a device: {shown}");
            continue;
        };
        let text = match at {
            0 => plan.entry(starts_on_device, text),
            _ => text.clone(),
        };
        for filter in graph::parse(&text)
            .unwrap()
            .into_iter()
            .flat_map(|c| c.filters)
        {
            let name = filter.name.as_str();
            assert!(has_filter(name), "no filter {name}: {shown}");
            let of_device =
                name.ends_with(kind.name()) || (kind == DeviceKind::Vulkan && name == "libplacebo");
            match name {
                "hwupload" => {
                    assert!(!on_device, "uploaded twice: {shown}");
                    on_device = true;
                }
                "hwdownload" => {
                    assert!(on_device, "downloaded twice: {shown}");
                    on_device = false;
                }
                _ if ANYWHERE.contains(&name) => {}
                _ => assert_eq!(on_device, of_device, "{name} works elsewhere: {shown}"),
            }
            if of_device {
                for (key, _) in filter.arguments() {
                    assert!(filter_knows(name, &key), "{name} has no option {key}");
                }
            }
        }
    }
    let takes = match (plan.encodes, kind) {
        (None, _) => !on_device,
        // These upload by themselves.
        (Some(_), DeviceKind::Cuda | DeviceKind::Qsv) => true,
        (Some(_), DeviceKind::Vaapi | DeviceKind::Vulkan) => on_device,
    };
    assert!(takes, "the encoder does not take it: {shown}");
    assert!(
        plan.encodes.is_some() || plan.encoder.starts_with("libx26"),
        "{shown}"
    );
}

#[test]
fn pictures_are_where_each_filter_and_the_encoder_want_them() {
    let lines = lines();
    assert!(lines.len() >= 16, "only {} lines were read", lines.len());
    let mut plans = 0;
    for kind in KINDS {
        for (name, can) in lacking(kind) {
            for line in &lines {
                let plan = plan_of(line, &can);
                // Nothing that is drawn gets lost on the way.
                let drawn = |o: &&operation::Operation| {
                    matches!(
                        o,
                        operation::Operation::BurnText(_) | operation::Operation::Overlay(_)
                    )
                };
                let draws = |s: &&Stage| !matches!(s, Stage::Filters(_));
                assert_eq!(
                    plan.stages.iter().filter(draws).count(),
                    line.operations.iter().filter(drawn).count(),
                    "{} on {kind}, {name}: {}",
                    line.id,
                    text_of(&plan)
                );
                judge(kind, &plan, false);
                judge(kind, &plan, plan.decodes);
                if name == "no encode" {
                    assert!(plan.encodes.is_none());
                }
                if name == "no decode" {
                    assert!(!plan.decodes);
                }
                plans += 1;
            }
        }
    }
    assert!(plans >= 500, "{plans}");
}
