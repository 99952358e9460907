//! Clips made at run time by the `ffmpeg` program and cached by their parameters, so that no media
//! lies in the repository and a second run starts at once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What a clip holds. [`Clip::path`] makes it on first use.
#[derive(Debug, Clone)]
pub struct Clip {
    args: Vec<String>,
    extension: &'static str,
    label: String,
    /// Text files that the command names as `{0}`, `{1}`, ...; part of the identity.
    texts: Vec<(&'static str, String)>,
    /// A file that the command names as `{file}`: extension and bytes.
    file: Option<(&'static str, Vec<u8>)>,
}

/// Parameters of the usual clip; [`Default`] is 30 s of 640x360 at 24000/1001, H.264 with B-frames
/// and a key every 2 s, AC-3 5.1.
#[derive(Debug, Clone)]
pub struct Film {
    /// Length in seconds.
    pub seconds: f64,
    /// Picture.
    pub size: (u32, u32),
    /// Frames per second as ffmpeg reads it.
    pub rate: &'static str,
    /// Seconds from key frame to key frame.
    pub gop: f64,
    /// Video encoder and its options.
    pub video: Vec<&'static str>,
    /// Audio tracks.
    pub audio: Vec<Audio>,
    /// Subtitle tracks.
    pub subtitles: Vec<Subtitle>,
    /// Attach a font and a cover picture.
    pub attachments: bool,
    /// Seconds by which the first picture comes after the first sound.
    pub late_video: f64,
    /// `mkv`, `mp4` or `ts`.
    pub container: &'static str,
}

/// One audio track: a sine by which it can be told from the others.
#[derive(Debug, Clone, Copy)]
pub struct Audio {
    /// Encoder.
    pub codec: &'static str,
    /// Channels: 2 or 6.
    pub channels: u32,
    /// Tone in Hz.
    pub tone: u32,
    /// Language tag.
    pub language: &'static str,
}

/// One text subtitle track with a line each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtitle {
    /// SubRip.
    Srt,
    /// Advanced SubStation Alpha.
    Ass,
}

/// Fast H.264 with B-frames whose keys stand only where they are asked for.
pub const H264: [&str; 9] = [
    "libx264",
    "-preset",
    "ultrafast",
    "-bf",
    "2",
    "-x264-params",
    "keyint=infinite:scenecut=0:b-pyramid=none",
    "-pix_fmt",
    "yuv420p",
];

/// HEVC Main 10.
pub const HEVC10: [&str; 7] = [
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "keyint=-1:scenecut=0:bframes=2:open-gop=0:log-level=error",
    "-pix_fmt",
    "yuv420p10le",
];

/// AC-3 5.1 at 440 Hz, English.
pub const AC3: Audio = Audio {
    codec: "ac3",
    channels: 6,
    tone: 440,
    language: "eng",
};

/// E-AC-3 5.1 at 440 Hz, English.
pub const EAC3: Audio = Audio {
    codec: "eac3",
    ..AC3
};

impl Default for Film {
    fn default() -> Self {
        Film {
            seconds: 30.0,
            size: (640, 360),
            rate: "24000/1001",
            gop: 2.0,
            video: H264.to_vec(),
            audio: vec![AC3],
            subtitles: Vec::new(),
            attachments: false,
            late_video: 0.0,
            container: "mkv",
        }
    }
}

/// The text of a SubRip file with a line each second.
pub fn srt_text(seconds: u32) -> String {
    let mut text = String::new();
    for at in 0..seconds {
        let stamp = |ms: u32| {
            format!(
                "{:02}:{:02}:{:02},{ms:03}",
                at / 3600,
                at / 60 % 60,
                at % 60
            )
        };
        text.push_str(&format!(
            "{}\n{} --> {}\nline {at}\n\n",
            at + 1,
            stamp(100),
            stamp(900)
        ));
    }
    text
}

impl Film {
    /// The clip with these parameters.
    pub fn clip(&self) -> Clip {
        self.with_picture(None)
    }

    /// The clip continued to `seconds` or a little more: its picture's packets over and over, a whole
    /// number of times, sound and texts made for the whole length, so that nothing jumps where the
    /// picture begins anew.
    #[track_caller]
    pub fn continued(&self, seconds: f64) -> Clip {
        let picture = Film {
            audio: Vec::new(),
            subtitles: Vec::new(),
            attachments: false,
            container: "mkv",
            ..self.clone()
        };
        let picture = picture.clip().path();
        let once = crate::probe::duration(&picture);
        let times = (seconds / once).ceil();
        let seconds = times * once;
        Film {
            seconds,
            ..self.clone()
        }
        .with_picture(Some((&picture, times as u32)))
    }

    /// The clip, with its video copied so many times from a file where there is one.
    fn with_picture(&self, copied: Option<(&Path, u32)>) -> Clip {
        let mut args: Vec<String> = Vec::new();
        let mut texts = Vec::new();
        let add = |args: &mut Vec<String>, list: &[&str]| {
            args.extend(list.iter().map(|&a| a.to_owned()));
        };
        let seconds = format!("{:.3}", self.seconds);
        let (width, height) = self.size;
        if self.late_video > 0.0 {
            add(&mut args, &["-itsoffset", &format!("{}", self.late_video)]);
        }
        let video_seconds = format!("{:.3}", self.seconds - self.late_video);
        let picture = format!(
            "testsrc2=size={width}x{height}:rate={}:duration={video_seconds}",
            self.rate
        );
        match copied {
            Some((file, times)) => {
                let again = times.saturating_sub(1).to_string();
                let file = file.to_str().expect("cache path is UTF-8");
                add(&mut args, &["-stream_loop", &again, "-i", file]);
            }
            None => add(&mut args, &["-f", "lavfi", "-i", &picture]),
        }
        for track in &self.audio {
            let sound = format!(
                "sine=frequency={}:sample_rate=48000:duration={seconds}",
                track.tone
            );
            add(&mut args, &["-f", "lavfi", "-i", &sound]);
        }
        for subtitle in &self.subtitles {
            // ASS is made from the same text by ffmpeg's encoder.
            let index = texts.len();
            add(&mut args, &["-f", "srt", "-i", &format!("{{{index}}}")]);
            let _ = subtitle;
            texts.push(("srt", srt_text(self.seconds as u32)));
        }
        add(&mut args, &["-map", "0:v"]);
        for n in 0..self.audio.len() + self.subtitles.len() {
            add(&mut args, &["-map", &format!("{}:0", n + 1)]);
        }
        if copied.is_some() {
            add(&mut args, &["-c:v", "copy"]);
        } else {
            add(&mut args, &["-c:v"]);
            add(&mut args, &self.video);
            let keys = format!("expr:gte(t,n_forced*{})", self.gop);
            add(&mut args, &["-force_key_frames", &keys]);
        }
        for (n, track) in self.audio.iter().enumerate() {
            let channels = track.channels.to_string();
            add(&mut args, &[&format!("-c:a:{n}"), track.codec]);
            add(&mut args, &[&format!("-ac:a:{n}"), &channels]);
            // ffmpeg counts its encoders of DTS and TrueHD as experiments.
            if matches!(track.codec, "dca" | "truehd") {
                add(&mut args, &[&format!("-strict:a:{n}"), "-2"]);
            }
            let language = format!("language={}", track.language);
            add(&mut args, &[&format!("-metadata:s:a:{n}"), &language]);
        }
        for (n, subtitle) in self.subtitles.iter().enumerate() {
            let codec = match subtitle {
                Subtitle::Srt => "srt",
                Subtitle::Ass => "ass",
            };
            add(&mut args, &[&format!("-c:s:{n}"), codec]);
            add(&mut args, &[&format!("-metadata:s:s:{n}"), "language=eng"]);
        }
        if self.attachments {
            // Any bytes will do for a font that is only copied.
            texts.push((
                "ttf",
                "not really a font, but carried like one\n".repeat(40),
            ));
            let font = format!("{{{}}}", texts.len() - 1);
            add(&mut args, &["-attach", &font]);
            add(
                &mut args,
                &["-metadata:s:t:0", "mimetype=application/x-truetype-font"],
            );
            add(&mut args, &["-metadata:s:t:0", "filename=font.ttf"]);
            add(&mut args, &["-attach", "{cover}"]);
            add(&mut args, &["-metadata:s:t:1", "mimetype=image/jpeg"]);
            add(&mut args, &["-metadata:s:t:1", "filename=cover.jpg"]);
        }
        // Packets are left out by their decoding time: a copy would lose pictures of the last second.
        if copied.is_none() {
            add(&mut args, &["-t", &seconds]);
        }
        let label = format!(
            "{width}x{height}-{}-gop{}-{}s",
            self.video[0], self.gop, self.seconds
        );
        Clip {
            args,
            extension: self.container,
            label,
            texts,
            file: None,
        }
    }
}

impl Clip {
    /// A clip by ffmpeg's own arguments, without `-y`, progress options and output name.
    pub fn custom(label: &str, extension: &'static str, args: &[&str]) -> Clip {
        Clip {
            args: args.iter().map(|&a| a.to_owned()).collect(),
            extension,
            label: label.to_owned(),
            texts: Vec::new(),
            file: None,
        }
    }

    /// With a file that the arguments name as `{file}`.
    #[must_use]
    pub fn with_file(self, extension: &'static str, bytes: Vec<u8>) -> Clip {
        Clip {
            file: Some((extension, bytes)),
            ..self
        }
    }

    /// This clip played over and over until `seconds`, its packets unchanged.
    pub fn looped(&self, seconds: f64) -> Clip {
        let inner = self.path();
        let mut clip = Clip::custom(
            &format!("loop{seconds}-{}", self.label),
            self.extension,
            &[
                "-stream_loop",
                "-1",
                "-i",
                inner.to_str().expect("cache path is UTF-8"),
            ],
        );
        clip.args.extend(
            ["-map", "0", "-c", "copy", "-t"]
                .iter()
                .map(|&a| a.to_owned()),
        );
        clip.args.push(format!("{seconds:.3}"));
        clip
    }

    /// The file, made now unless the cache has it. Several processes may ask at once: each makes
    /// its own under a temporary name and the last rename wins with the same content.
    #[track_caller]
    pub fn path(&self) -> PathBuf {
        let dir = cache_dir();
        let mut identity = format!("{:?}{:?}{}", self.args, self.texts, self.extension);
        if let Some(file) = &self.file {
            identity.push_str(&format!("{file:?}"));
        }
        let label: String = self
            .label
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let name = format!("{label}-{}.{}", short_hash(&identity), self.extension);
        let path = dir.join(&name);
        if path.exists() {
            return path;
        }
        let work = tempfile::Builder::new()
            .prefix(".making-")
            .tempdir_in(&dir)
            .expect("temporary directory in the media cache");
        let mut args = self.args.clone();
        for (n, (extension, text)) in self.texts.iter().enumerate() {
            let file = work.path().join(format!("text{n}.{extension}"));
            fs::write(&file, text).expect("write a clip's text");
            let from = format!("{{{n}}}");
            for arg in args.iter_mut().filter(|a| **a == from) {
                *arg = file.to_string_lossy().into_owned();
            }
        }
        if let Some((extension, bytes)) = &self.file {
            let file = work.path().join(format!("file.{extension}"));
            fs::write(&file, bytes).expect("write a clip's file");
            for arg in args.iter_mut().filter(|a| **a == "{file}") {
                *arg = file.to_string_lossy().into_owned();
            }
        }
        for arg in args.iter_mut().filter(|a| **a == "{cover}") {
            let cover = work.path().join("cover.jpg").to_string_lossy().into_owned();
            let picture = "color=red:size=64x64:duration=1";
            ffmpeg(["-f", "lavfi", "-i", picture, "-frames:v", "1", &cover]);
            *arg = cover;
        }
        let made = work.path().join(&name);
        ffmpeg(
            args.iter()
                .map(String::as_str)
                .chain([made.to_str().expect("UTF-8")]),
        );
        fs::rename(&made, &path).expect("rename a finished clip");
        path
    }
}

/// Runs `ffmpeg -y` quietly with these arguments and panics with its words when it fails.
#[track_caller]
pub fn ffmpeg<'a>(args: impl IntoIterator<Item = &'a str>) {
    let args: Vec<&str> = args.into_iter().collect();
    let output = Command::new("ffmpeg")
        .args(["-y", "-nostdin", "-hide_banner", "-v", "error"])
        .args(&args)
        .stdin(Stdio::null())
        .output()
        .expect("ffmpeg must be installed (`make setup`)");
    assert!(
        output.status.success(),
        "ffmpeg {}\n{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `target/plexbeam-media`, beside the programs.
fn cache_dir() -> PathBuf {
    let target = crate::env::target_dir();
    let dir = target
        .parent()
        .map_or_else(|| target.clone(), Path::to_owned)
        .join("plexbeam-media");
    fs::create_dir_all(&dir).expect("create the media cache");
    dir
}

/// FNV-1a: stable over Rust versions, which the standard hasher does not promise.
fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
