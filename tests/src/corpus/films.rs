//! The films that lines expect.

use crate::{
    argv::Line,
    media::{Audio, EAC3, Film, Subtitle},
};
use std::path::PathBuf;

/// Seconds of a film, or of what lies behind a seek.
const SECONDS: f64 = 12.0;

/// Hz; a frame of 1024 samples holds no whole number of its periods, at 48 nor at 96 kHz, so that sound
/// that is a frame off is not alike.
const TONE: u32 = 350;

/// A film to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is, in a few words.
    pub about: String,
    film: Film,
    /// Its picture is played over and over until this second.
    looped: Option<f64>,
}

impl Wanted {
    /// The file.
    #[track_caller]
    pub fn path(&self) -> PathBuf {
        match self.looped {
            Some(seconds) => {
                let short = Film {
                    seconds: SECONDS / 2.0,
                    ..self.film.clone()
                };
                short.continued(seconds).path()
            }
            None => self.film.clip().path(),
        }
    }
}

/// HEVC Main 10 with the metadata of HDR10 mastering.
pub const HDR10: [&str; 13] = [
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "keyint=-1:scenecut=0:bframes=2:open-gop=0:log-level=error:hdr10=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400",
    "-pix_fmt",
    "yuv420p10le",
    "-color_primaries",
    "bt2020",
    "-color_trc",
    "smpte2084",
    "-colorspace",
    "bt2020nc",
];

/// HEVC Main.
pub const HEVC: [&str; 7] = [
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "keyint=-1:scenecut=0:bframes=2:open-gop=0:log-level=error",
    "-pix_fmt",
    "yuv420p",
];

/// AV1, 10 bit.
pub const AV1: [&str; 7] = [
    "libaom-av1",
    "-cpu-used",
    "8",
    "-crf",
    "20",
    "-pix_fmt",
    "yuv420p10le",
];

/// VP9.
pub const VP9: [&str; 9] = [
    "libvpx-vp9",
    "-cpu-used",
    "8",
    "-deadline",
    "realtime",
    "-b:v",
    "2M",
    "-pix_fmt",
    "yuv420p",
];

/// Interlaced MPEG-2.
pub const MPEG2: [&str; 9] = [
    "mpeg2video",
    "-flags",
    "+ildct+ilme",
    "-b:v",
    "3M",
    "-bf",
    "2",
    "-pix_fmt",
    "yuv420p",
];

/// A sound track by its encoder and channels.
pub const fn sound(codec: &'static str, channels: u32) -> Audio {
    Audio {
        codec,
        channels,
        tone: TONE,
        ..EAC3
    }
}

/// The film that a line's decoders, maps and seek speak of.
#[must_use]
pub fn expected_by(line: &Line) -> Wanted {
    let decoder = |track: &str| line.value(track).unwrap_or_default().to_owned();
    let copied = line.output_value("-codec:0") == Some("copy");
    let (video, name): (Vec<&str>, &str) = match decoder("-codec:0").as_str() {
        "hevc" if copied => (HEVC.to_vec(), "HEVC"),
        "hevc" => (HDR10.to_vec(), "HEVC HDR10"),
        "av1" | "libdav1d" => (AV1.to_vec(), "AV1"),
        _ => (crate::media::H264.to_vec(), "H.264"),
    };
    let (track, sound_name) = match decoder("-codec:1").as_str() {
        "aac" => (sound("aac", 6), "AAC 5.1"),
        "ac3" => (sound("ac3", 6), "AC-3 5.1"),
        _ => (sound("eac3", 6), "E-AC-3 5.1"),
    };
    // Streams behind the sound that the line maps are text.
    let text = line
        .argv
        .iter()
        .filter_map(|a| a.strip_prefix("0:")?.parse::<usize>().ok())
        .max()
        .map_or(0, |last| last.saturating_sub(1));
    let burned = line.argv.iter().any(|a| a == "-map_inlineass");
    let seek = line.shape().ok().and_then(|s| s.seek);
    let rate = match line.output_value("-r:0") {
        Some("23.975999999999999") | None => "24000/1001",
        Some(_) => "24",
    };
    Wanted {
        about: format!("{name}, {sound_name}, {rate}, {text} texts"),
        film: Film {
            seconds: SECONDS,
            size: if burned { (320, 180) } else { super::SIZE },
            rate,
            video,
            audio: vec![track],
            subtitles: vec![if burned { Subtitle::Srt } else { Subtitle::Ass }; text],
            ..Film::default()
        },
        looped: seek.map(|s| s + SECONDS),
    }
}
