//! Segment lists: MPEG-TS and Matroska, whose packets are shifted by 10 s and whose rows are not.

use super::{ROUNDING, Subject, nal_of};
use crate::{
    argv::{Packaging, Shape},
    container, probe,
};

/// Shift of packet times against the title that Plex's options ask for (PROTOCOL 7.2).
pub const SHIFT: f64 = 10.0;

/// All findings for one process with a segment list.
pub fn check(subject: &mut Subject<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    let Packaging::Segment {
        format,
        media,
        header,
        ..
    } = &subject.shape.packaging
    else {
        return findings;
    };
    let (format, media) = (format.clone(), media.clone());
    let header_bytes = match header {
        Some(name) => subject.file(name, &mut findings),
        None => Vec::new(),
    };
    let mut all = header_bytes.clone();
    let mut frames: Vec<(f64, bool)> = Vec::new();
    let mut sound: Vec<(f64, f64)> = Vec::new();
    let mut starts = Vec::new();
    for row in subject.job.rows.clone() {
        let name = Shape::segment_name(&media, row.number);
        if !subject.whole && !subject.kept.join(&name).exists() {
            break;
        }
        let bytes = subject.file(&name, &mut findings);
        all.extend_from_slice(&bytes);
        let alone = [header_bytes.as_slice(), bytes.as_slice()].concat();
        if let Some(complaint) = probe::decode_complaint(&alone) {
            findings.push(format!("{name} decoded alone: {complaint}"));
        }
        if row.number == subject.shape.first
            && let Some(nal) = nal_of(&alone)
        {
            subject.nal = nal;
        }
        subject.pictures(
            &name,
            &probe::coded_pictures(&alone, subject.nal),
            &mut findings,
        );
        let packets = probe::packets_of(&alone, None);
        let of = |kind: &str| -> Vec<&probe::Packet> {
            packets.iter().filter(|p| p.codec_type == kind).collect()
        };
        let (video, audio) = (of("video"), of("audio"));
        if audio.is_empty() {
            findings.push(format!("{name}: no sound"));
        }
        let title = |p: &probe::Packet| p.pts_time.map(|t| t - SHIFT);
        let first = video.iter().filter_map(|p| title(p)).reduce(f64::min);
        match first {
            None => findings.push(format!("{name}: no video")),
            Some(first) => {
                starts.push(first);
                if (row.start - first).abs() > subject.shape.frame() {
                    findings.push(format!(
                        "{name}: the row begins at {:.4} s, video at {first:.4} s of the title",
                        row.start
                    ));
                }
            }
        }
        let frame = subject.shape.frame();
        let last = video.iter().filter_map(|p| title(p)).reduce(f64::max);
        if let (Some(last), Some((_, end))) = (last, row.ends)
            && (end - last - frame).abs() > 2.0 * frame
        {
            findings.push(format!(
                "{name}: the row's video ends at {end}, its last frame begins at {last:.4}"
            ));
        }
        for packet in &video {
            match title(packet) {
                Some(time) => frames.push((time, packet.key())),
                None => findings.push(format!("{name}: a video packet without time")),
            }
        }
        sound.extend(
            audio
                .iter()
                .filter_map(|p| Some((title(p)?, p.duration_time.unwrap_or(0.0)))),
        );
    }
    if let Some(complaint) = probe::decode_complaint(&all) {
        findings.push(format!("decoded as one stream: {complaint}"));
    }
    if format == "mpegts"
        && let Err(error) = container::check_continuity(&all)
    {
        findings.push(error);
    }
    frames.sort_by(|a, b| a.0.total_cmp(&b.0));
    subject.frames(&frames, &mut findings);
    // The container's clock rounds once more.
    subject.cut_times(&starts, 2.0 * ROUNDING, 2.0 * ROUNDING, &mut findings);
    let rate = probe::packets_rate(&all);
    if let (Some(first), Some(last)) = (sound.first(), sound.last()) {
        if let Some(rate) = rate {
            let off = sound.iter().find(|(time, _)| {
                let frames = time * f64::from(rate) / 1024.0;
                (frames - frames.round()).abs() * 1024.0 / f64::from(rate) > ROUNDING * 0.6
            });
            if let Some((time, _)) = off {
                findings.push(format!(
                    "sound at {time:.6} s is off the grid of 1024 samples"
                ));
            }
            let length = 1024.0 / f64::from(rate);
            let gap = sound
                .windows(2)
                .find(|w| (w[1].0 - w[0].0 - length).abs() > 2.0 * ROUNDING);
            if let Some(w) = gap {
                findings.push(format!(
                    "sound steps from {:.4} s to {:.4} s",
                    w[0].0, w[1].0
                ));
            }
        }
        subject.sound_span(first.0, last.0 + last.1, &mut findings);
    }
    findings
}
