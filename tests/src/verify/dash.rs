//! DASH: fragments read box by box, then decoded.

use super::{Subject, nal_of};
use crate::{
    argv::{Packaging, Shape},
    boxes,
    fake_pms::job::Track,
    probe,
};

struct Fragment {
    name: String,
    number: u32,
    bytes: Vec<u8>,
    media: boxes::Media,
}

/// All findings for one DASH process.
pub fn check(subject: &mut Subject<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let tracks = subject.job.tracks.clone();
    let kinds: Vec<&str> = tracks.iter().map(|t| t.media.as_str()).collect();
    if kinds.iter().filter(|k| **k == "video").count() != 1
        || kinds.iter().filter(|k| **k == "audio").count() != subject.shape.streams - 1
    {
        findings.push(format!("representations {kinds:?}"));
    }
    let counts: Vec<usize> = tracks.iter().map(|t| t.entries.len()).collect();
    if counts.windows(2).any(|w| w[0] != w[1]) {
        findings.push(format!("segment counts differ between streams: {counts:?}"));
    }
    let mut cuts: Vec<f64> = Vec::new();
    for track in &tracks {
        let starts = stream(subject, track, &mut findings);
        if track.media == "video" {
            cuts = starts;
        } else {
            // Every other stream is cut at the moment the video is (PROTOCOL 7.1).
            for (n, (sound, picture)) in starts.iter().zip(&cuts).enumerate().skip(1) {
                if *sound < picture - 0.2 || *sound > picture + 0.05 {
                    findings.push(format!(
                        "cut {n}: sound at {sound:.4} s, video at {picture:.4} s"
                    ));
                }
            }
        }
    }
    findings
}

/// Checks one stream; gives the starts of its segments in title seconds.
fn stream(subject: &mut Subject<'_>, track: &Track, findings: &mut Vec<String>) -> Vec<f64> {
    let Packaging::Dash { init, media, .. } = &subject.shape.packaging else {
        return Vec::new();
    };
    let init_name = Shape::dash_name(init, &track.id, None);
    let init_bytes = subject.file(&init_name, findings);
    let init = match boxes::init(&init_bytes) {
        Ok(init) => init,
        Err(error) => {
            findings.push(format!("{init_name}: {error}"));
            return Vec::new();
        }
    };
    let scale = f64::from(init.time_scale);
    if u64::from(init.time_scale) != track.time_scale {
        findings.push(format!(
            "{init_name}: `mdhd` counts {} per second, the MPD {}",
            init.time_scale, track.time_scale
        ));
    }
    // An empty edit as long as the seek would move the absolute `tfdt` a second time.
    let shift = init.edit_shift() as f64 / scale;
    if shift.abs() > 0.3 {
        findings.push(format!(
            "{init_name}: `elst` moves the track by {shift:.4} s"
        ));
    }
    let mut fragments = Vec::new();
    let last_read = subject.kept.join(Shape::dash_name(
        media,
        &track.id,
        track.entries.last().map(|e| e.0),
    ));
    for (number, _, _) in &track.entries {
        let name = Shape::dash_name(media, &track.id, Some(*number));
        // A play that was stopped has announced more than its client read.
        if !subject.whole && !subject.kept.join(&name).exists() && !last_read.exists() {
            break;
        }
        let bytes = subject.file(&name, findings);
        match boxes::media(&bytes, &init) {
            Ok(media) => fragments.push(Fragment {
                name,
                number: *number,
                bytes,
                media,
            }),
            Err(error) => findings.push(format!("{name}: {error}")),
        }
    }
    layout(track, &init, &fragments, findings);
    let all: Vec<u8> = init_bytes
        .iter()
        .copied()
        .chain(fragments.iter().flat_map(|f| f.bytes.iter().copied()))
        .collect();
    if let Some(complaint) = probe::decode_complaint(&all) {
        findings.push(format!(
            "{} decoded as one stream: {complaint}",
            track.media
        ));
    }
    for fragment in &fragments {
        let alone = [init_bytes.as_slice(), fragment.bytes.as_slice()].concat();
        if let Some(complaint) = probe::decode_complaint(&alone) {
            findings.push(format!("{} decoded alone: {complaint}", fragment.name));
        }
        if track.media == "video" {
            if fragment.number == subject.shape.first
                && let Some(nal) = nal_of(&alone)
            {
                subject.nal = nal;
            }
            let pictures = probe::coded_pictures(&alone, subject.nal);
            if pictures.len() != fragment.media.samples.len() {
                findings.push(format!(
                    "{}: {} pictures in {} samples",
                    fragment.name,
                    pictures.len(),
                    fragment.media.samples.len()
                ));
            }
            subject.pictures(&fragment.name, &pictures, findings);
        }
    }
    let samples: Vec<boxes::Sample> = fragments
        .iter()
        .flat_map(|f| f.media.samples.iter().copied())
        .collect();
    let title = |pts: i64| (pts + init.edit_shift()) as f64 / scale;
    let starts: Vec<f64> = fragments
        .iter()
        .map(|f| title(f.media.first_pts()))
        .collect();
    if track.media == "video" {
        let mut frames: Vec<(f64, bool)> = samples.iter().map(|s| (title(s.pts), s.sync)).collect();
        frames.sort_by(|a, b| a.0.total_cmp(&b.0));
        subject.frames(&frames, findings);
        subject.cut_times(&starts, super::ROUNDING, 1e-3, findings);
    } else if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
        for sample in &samples {
            if (sample.pts + init.edit_shift()).rem_euclid(1024) != 0 && init.sample_entry == "mp4a"
            {
                findings.push(format!(
                    "sound at tick {} + {} is off the grid of 1024 samples",
                    sample.pts,
                    init.edit_shift()
                ));
                break;
            }
        }
        if samples
            .windows(2)
            .any(|w| w[0].pts + i64::from(w[0].duration) != w[1].pts)
        {
            findings.push("sound frames leave gaps or overlap".into());
        }
        subject.sound_span(
            title(first.pts),
            title(last.pts + i64::from(last.duration)),
            findings,
        );
    }
    starts
}

/// `tfdt`, `sidx`, `mfhd` and the order of boxes.
fn layout(track: &Track, init: &boxes::Init, fragments: &[Fragment], findings: &mut Vec<String>) {
    let scale = f64::from(init.time_scale);
    let mut expected: Option<i64> = None;
    for fragment in fragments {
        let media = &fragment.media;
        let name = &fragment.name;
        let order: Vec<&str> = media.order.iter().map(String::as_str).collect();
        if order.first() != Some(&"styp") || !order.contains(&"sidx") {
            findings.push(format!(
                "{name}: boxes {order:?}, `styp` and `sidx` come first"
            ));
        }
        if let Some(due) = expected
            && media.tfdt as i64 != due
        {
            findings.push(format!("{name}: `tfdt` {} where {due} was due", media.tfdt));
        }
        expected = Some(media.tfdt as i64 + media.duration());
        let own = media.first_pts() + init.edit_shift();
        match media.sidx {
            Some((sidx_scale, ept, duration)) => {
                let ept_ticks = ept as f64 * scale / f64::from(sidx_scale.max(1));
                // Of sound with priming ffmpeg, and so Plex, tells the time before the edit list.
                let unedited =
                    track.media == "audio" && (ept_ticks - media.first_pts() as f64).abs() <= 1.0;
                if (ept_ticks - own.max(0) as f64).abs() > 1.0 && !unedited {
                    findings.push(format!(
                        "{name}: `sidx` begins at {ept_ticks} ticks, the samples at {own}"
                    ));
                }
                let told = duration as f64 / f64::from(sidx_scale.max(1));
                let real = media.duration() as f64 / scale;
                if (told - real).abs() > 0.1 {
                    findings.push(format!(
                        "{name}: `sidx` lasts {told:.4} s, samples {real:.4} s"
                    ));
                }
            }
            None => findings.push(format!("{name}: no `sidx`")),
        }
        // The decode time of absolute media lies at most a few frames before its presentation.
        let tfdt = media.tfdt as f64 / scale;
        let title = own as f64 / scale;
        if tfdt < title - 0.3 || tfdt > title + 0.3 {
            findings.push(format!(
                "{name}: `tfdt` {tfdt:.4} s, title time {title:.4} s"
            ));
        }
        // One fragment per segment, counted as the segments are (PROTOCOL 7.1).
        if media.sequence != [fragment.number] {
            findings.push(format!("{name}: `mfhd` numbers {:?}", media.sequence));
        }
        if !media.samples.first().is_some_and(|s| s.sync) {
            findings.push(format!("{name}: the first sample is no sync sample"));
        }
        let entry = track.entries.iter().find(|e| e.0 == fragment.number);
        if let Some((_, t, d)) = entry {
            let tick = scale / track.time_scale as f64;
            if (own.max(0) as f64 - *t as f64 * tick).abs() > 0.001 * scale
                && track.media == "video"
            {
                findings.push(format!(
                    "{name}: t={t} in the MPD, the samples begin at {own}"
                ));
            }
            if (media.duration() as f64 - *d as f64 * tick).abs() > 0.06 * scale {
                findings.push(format!(
                    "{name}: d={d} in the MPD, samples {}",
                    media.duration()
                ));
            }
        }
    }
}
