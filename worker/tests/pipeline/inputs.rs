//! Sources of every shape, one table of containers and one of sounds; `ffmpeg` makes the sources and
//! says what must come out of them.

use crate::kit::{
    Memory, close, dash, decodes, ffmpeg, job, packets, probe, stream, times, try_run,
};
use plexbeam_api::{
    JobSpec, Kind,
    job::{CodecSpec, InputSpec, Location, Source, StreamSelector},
};
use std::{path::Path, process::Command};

const RATE: &str = "24000/1001";
/// One AAC frame, and the rounding of a millisecond time base.
const SOUND: f64 = 1024.0 / 48_000.0 + 0.0011;

/// A source and where its streams are.
struct Case {
    name: &'static str,
    file: &'static str,
    /// What ffmpeg makes it by. `V` and `A` are the usual inputs, as `-f lavfi -i ...`; `A2` another
    /// sound.
    args: &'static str,
    video: &'static str,
    audio: &'static str,
    /// The same streams as ffmpeg's `-map` takes them.
    maps: [&'static str; 2],
}

const PLAIN: Case = Case {
    name: "",
    file: "a.mkv",
    args: "V A -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a ac3",
    video: "0:0",
    audio: "0:1",
    maps: ["0:0", "0:1"],
};

const CONTAINERS: &[Case] = &[
    Case {
        name: "transport stream that starts at 1.4 s",
        file: "a.ts",
        ..PLAIN
    },
    Case {
        name: "transport stream by hexadecimal ids",
        file: "ids.ts",
        video: "0:#0x100",
        audio: "0:#0x101",
        ..PLAIN
    },
    Case {
        name: "m2ts",
        file: "a.m2ts",
        args: "V A -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a ac3 -mpegts_m2ts_mode 1 -f mpegts",
        ..PLAIN
    },
    Case {
        name: "Matroska that starts at 100 s",
        args: "V A -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a ac3 -output_ts_offset 100",
        ..PLAIN
    },
    Case {
        name: "Matroska by hexadecimal positions",
        file: "ids.mkv",
        video: "0:#0x00",
        audio: "0:#0x01",
        ..PLAIN
    },
    Case {
        name: "mp4 by hexadecimal ids",
        file: "ids.mp4",
        video: "0:#0x01",
        audio: "0:#0x02",
        ..PLAIN
    },
    Case {
        name: "mp4 whose sound begins before its pictures",
        file: "early.mp4",
        args: "-itsoffset -0.3 A -itsoffset 0 V -map 1 -map 0 -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a aac",
        ..PLAIN
    },
    Case {
        name: "mp4 with an empty edit before its pictures",
        file: "late.mp4",
        args: "-itsoffset 1 V -itsoffset 0 A -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a aac",
        ..PLAIN
    },
    Case {
        name: "fragmented mp4",
        file: "frag.mp4",
        args: "V A -c:v libx264 -preset ultrafast -bf 2 -g 48 -c:a aac -movflags frag_keyframe+empty_moov",
        ..PLAIN
    },
    Case {
        name: "variable frame rate",
        args: "V A -vf select='not(eq(mod(n\\,5)\\,3))' -fps_mode vfr -c:v libx264 -preset ultrafast -g 48 -c:a ac3",
        ..PLAIN
    },
    Case {
        name: "one picture each 4 s in the middle",
        args: "V A -vf select='lt(n\\,48)+gt(n\\,215)+not(mod(n\\,96))' -fps_mode vfr -c:v libx264 -preset ultrafast -g 2 -c:a ac3",
        ..PLAIN
    },
    Case {
        name: "cover picture",
        file: "cover.mp4",
        args: "V A -f lavfi -i color=red:size=64x64:duration=0.04:rate=25 -map 0 -map 1 -map 2 -c:v:0 libx264 -preset ultrafast -g 48 -c:v:1 mjpeg -disposition:v:1 attached_pic -c:a aac",
        ..PLAIN
    },
    Case {
        name: "the second of two languages",
        args: "V A A2 -map 0 -map 1 -map 2 -c:v libx264 -preset ultrafast -g 48 -c:a ac3",
        audio: "0:2",
        maps: ["0:0", "0:2"],
        ..PLAIN
    },
    Case {
        name: "AVI with pictures out of order",
        file: "a.avi",
        args: "V A -c:v mpeg4 -bf 2 -g 48 -c:a mp3",
        ..PLAIN
    },
    Case {
        name: "interlaced MPEG-2",
        file: "i.ts",
        args: "V A -c:v mpeg2video -flags +ildct+ilme -bf 2 -g 12 -c:a mp2",
        ..PLAIN
    },
    Case {
        name: "pictures that end before the sound",
        args: "-t 4 V A -c:v libx264 -preset ultrafast -g 48 -c:a ac3",
        ..PLAIN
    },
    Case {
        name: "sound that ends before the pictures",
        args: "V -t 5 A -c:v libx264 -preset ultrafast -g 48 -c:a ac3",
        ..PLAIN
    },
];

/// Makes the source.
fn make(dir: &Path, case: &Case) -> String {
    let path = dir.join(case.file).to_str().unwrap().to_owned();
    let video = format!("-f lavfi -i testsrc2=size=160x90:rate={RATE}:duration=11");
    let sound = |tone| format!("-f lavfi -i sine=frequency={tone}:sample_rate=48000:duration=11");
    let (first, second) = (sound(440), sound(880));
    let text: Vec<&str> = case
        .args
        .split(' ')
        .flat_map(|word| {
            match word {
                "V" => video.as_str(),
                "A" => first.as_str(),
                "A2" => second.as_str(),
                other => other,
            }
            .split(' ')
        })
        .chain([path.as_str()])
        .collect();
    ffmpeg(&text);
    path
}

fn spec(path: &str, case: &Case, seek: Option<i64>) -> JobSpec {
    let first = seek.map_or(1, |s| (s / 3_000_000) as u32 + 1);
    let mut spec = job(path, seek, dash(first), 3.0);
    spec.graphs[0] = spec.graphs[0].replace("0:0", case.video);
    spec.graphs[1] = spec.graphs[1].replace("0:1", case.audio);
    spec
}

/// Frames and sound as ffmpeg makes them from the same source.
fn reference(dir: &Path, path: &str, maps: [&str; 2]) -> (Vec<f64>, f64) {
    let out = dir.join("reference.mkv").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i",
        path,
        "-map",
        maps[0],
        "-map",
        maps[1],
        "-copyts",
        "-start_at_zero",
        "-fps_mode",
        "cfr",
        "-r",
        RATE,
        "-vf",
        "scale=256:144",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-af",
        "aresample=async=1:ochl=stereo:osr=48000",
        "-c:a",
        "aac",
        "-avoid_negative_ts",
        "disabled",
        &out,
    ]);
    let sound = probe(&out, "a");
    (times(&probe(&out, "v")), sound.last().unwrap().0)
}

fn all(made: &Memory, rendition: u32) -> Vec<&[u8]> {
    let media = made.media(Some(rendition));
    std::iter::once(made.head(Some(rendition)))
        .chain(media.into_iter().map(|part| part.1.as_slice()))
        .collect()
}

/// What is wrong with this case, as text.
fn judge(dir: &Path, case: &Case) -> Result<(), String> {
    let path = make(dir, case);
    let run = |seek| try_run(&spec(&path, case, seek)).map_err(|p| format!("{seek:?}: {p}"));
    let whole = run(None)?;
    let (frames, sound_end) = reference(dir, &path, case.maps);
    let ours = times(&packets(dir, "v", &all(&whole, 0)));
    decodes(dir, &all(&whole, 0));
    // Of an AVI with pictures out of order ffmpeg guesses the first one's time a frame too late.
    let guessed = usize::from(path.ends_with(".avi"));
    if ours.len() != frames.len() && ours.len() + guessed != frames.len() {
        return Err(format!(
            "{} frames, ffmpeg makes {}",
            ours.len(),
            frames.len()
        ));
    }
    if let Some((ours, theirs)) = ours
        .iter()
        .zip(&frames)
        .find(|(a, b)| (*a - *b).abs() > 0.0011)
    {
        return Err(format!("a frame at {ours}, ffmpeg's at {theirs}"));
    }
    let heard = times(&packets(dir, "a", &all(&whole, 1)));
    decodes(dir, &all(&whole, 1));
    let end = *heard.last().unwrap();
    // Silence up to the pictures' end is ours alone, so that no segment lacks its sound.
    let longest = sound_end.max(*frames.last().unwrap());
    if end < sound_end - SOUND || end > longest + SOUND {
        return Err(format!("the last sound at {end}, ffmpeg's at {sound_end}"));
    }
    let gap = heard
        .windows(2)
        .find(|w| (w[1] - w[0] - 1024.0 / 48_000.0).abs() > 0.001);
    if let Some(gap) = gap {
        return Err(format!("sound jumps from {} to {}", gap[0], gap[1]));
    }
    let seek = 3_000_000;
    let late = run(Some(seek))?;
    for rendition in [0, 1] {
        let told = |m: &Memory, skip: usize| -> Vec<(i64, i64)> {
            let media = m.media(Some(rendition));
            media
                .iter()
                .skip(skip)
                .map(|(s, _)| (s.pts, s.duration))
                .collect()
        };
        let (ours, due) = (told(&late, 0), told(&whole, 1));
        if ours != due {
            return Err(format!(
                "rendition {rendition} after a seek: {ours:?}, due {due:?}"
            ));
        }
        decodes(dir, &all(&late, rendition));
    }
    Ok(())
}

#[test]
fn every_container_comes_out_as_ffmpeg_makes_it() {
    let only = std::env::var("PLEXBEAM_CASE").ok();
    let mut wrong = Vec::new();
    for case in CONTAINERS {
        if only.as_ref().is_some_and(|only| !case.name.contains(only)) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        match judge(dir.path(), case) {
            Ok(()) => println!("{}: ok", case.name),
            Err(why) => wrong.push(format!("{}: {why}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sound of one layout by one codec.
struct Sound {
    codec: &'static str,
    layout: &'static str,
    rate: &'static str,
    file: &'static str,
    /// The filter that Plex writes, or none.
    filter: &'static str,
    /// Options of the encoder, as in the older spelling.
    options: &'static [(&'static str, &'static str)],
    /// ffmpeg's words for the same.
    theirs: &'static str,
    /// Encoder.
    encoder: &'static str,
}

const DOWN: &str = "aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000";
const STEREO: Sound = Sound {
    codec: "ac3",
    layout: "5.1",
    rate: "48000",
    file: "a.mkv",
    filter: DOWN,
    options: &[("b", "192k")],
    theirs: "-af aresample=async=1:ochl=stereo:rematrix_maxval=1:osr=48000 -c:a aac -b:a 192k",
    encoder: "aac",
};

const SOUNDS: &[Sound] = &[
    STEREO,
    Sound {
        codec: "eac3",
        ..STEREO
    },
    Sound {
        codec: "truehd -strict -2",
        ..STEREO
    },
    Sound {
        codec: "dca -strict -2",
        layout: "5.1(side)",
        ..STEREO
    },
    Sound {
        codec: "flac",
        layout: "7.1",
        ..STEREO
    },
    Sound {
        codec: "libopus",
        layout: "5.1",
        ..STEREO
    },
    Sound {
        codec: "aac",
        layout: "5.1",
        file: "a.mp4",
        ..STEREO
    },
    Sound {
        codec: "aac",
        layout: "7.1",
        ..STEREO
    },
    Sound {
        codec: "libvorbis",
        layout: "stereo",
        rate: "44100",
        ..STEREO
    },
    Sound {
        codec: "pcm_s24le",
        layout: "5.1",
        rate: "96000",
        ..STEREO
    },
    Sound {
        codec: "pcm_s16le",
        layout: "mono",
        rate: "44100",
        file: "a.avi",
        ..STEREO
    },
    Sound {
        codec: "libmp3lame",
        layout: "stereo",
        rate: "44100",
        ..STEREO
    },
    Sound {
        layout: "7.1",
        codec: "flac",
        filter: "aresample=async=1:ocl='5.1':rematrix_maxval=0.000000dB:osr=48000",
        theirs: "-af aresample=async=1:ochl=5.1:rematrix_maxval=1:osr=48000 -c:a aac -b:a 192k",
        ..STEREO
    },
    Sound {
        filter: "aresample=async=1:och=2:osr=44100",
        theirs: "-af aresample=async=1:ochl=stereo:osr=44100 -c:a aac -b:a 192k",
        ..STEREO
    },
    Sound {
        filter: "anull",
        options: &[("channel_layout", "stereo"), ("ar", "44100"), ("b", "192k")],
        theirs: "-ac 2 -ar 44100 -c:a aac -b:a 192k",
        ..STEREO
    },
    Sound {
        filter: "anull",
        options: &[("ac", "1"), ("ar", "48000"), ("b", "96k")],
        theirs: "-ac 1 -ar 48000 -c:a aac -b:a 96k",
        encoder: "aac_lc",
        ..STEREO
    },
    Sound {
        codec: "truehd -strict -2",
        filter: "aresample=async=1:ochl='5.1':rematrix_maxval=0.000000dB:osr=48000",
        options: &[("b", "448k")],
        theirs: "-af aresample=async=1:ochl=5.1:osr=48000 -c:a eac3 -b:a 448k",
        encoder: "eac3_eae",
        ..STEREO
    },
    Sound {
        codec: "flac",
        filter: "aresample=async=1:ochl='5.1':rematrix_maxval=0.000000dB:osr=48000",
        options: &[("b", "448k")],
        theirs: "-af aresample=async=1:ochl=5.1:osr=48000 -c:a ac3 -b:a 448k",
        encoder: "ac3_eae",
        ..STEREO
    },
    Sound {
        codec: "aac",
        filter: DOWN,
        options: &[("b", "128k")],
        theirs: "-af aresample=async=1:ochl=stereo:rematrix_maxval=1:osr=48000 -c:a libopus -b:a 128k",
        encoder: "libopus",
        ..STEREO
    },
];

/// Channels, seconds and mean level in dB of decoded sound.
fn measure(path: &str) -> (String, f64, Vec<f64>) {
    let output = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-hide_banner",
            "-i",
            path,
            "-af",
            "astats=measure_overall=none:measure_perchannel=RMS_level,ashowinfo",
        ])
        .args(["-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let level = |line: &str| line.rsplit_once("RMS level dB: ")?.1.trim().parse().ok();
    let levels: Vec<f64> = text.lines().filter_map(level).collect();
    let mut samples = 0;
    let (mut layout, mut rate) = (String::new(), 48_000.0);
    for line in text
        .lines()
        .filter(|l| l.contains("ashowinfo") && l.contains("nb_samples:"))
    {
        let field = |name: &str| {
            let rest = line.split_once(name)?.1;
            Some(rest.split_whitespace().next()?.to_owned())
        };
        samples += field("nb_samples:")
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0);
        rate = field("rate:").and_then(|n| n.parse().ok()).unwrap_or(rate);
        layout = field("chlayout:")
            .or(field("channel_layout:"))
            .unwrap_or(layout);
    }
    (layout, samples as f64 / rate, levels)
}

#[test]
fn every_sound_comes_out_as_ffmpeg_makes_it() {
    let mut wrong = Vec::new();
    for sound in SOUNDS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(sound.file).to_str().unwrap().to_owned();
        // Channels of different tones at one level, which a wrong matrix would show.
        let channels = match sound.layout {
            "mono" => 1,
            "stereo" => 2,
            "7.1" => 8,
            _ => 6,
        };
        let tones: Vec<String> = (0..channels)
            .map(|n| format!("0.2*sin({}*2*PI*t)", 300 + 170 * n))
            .collect();
        let source = format!(
            "aevalsrc={}:c={}:s={}:d=7",
            tones.join("|"),
            sound.layout,
            sound.rate
        );
        let picture = format!("testsrc2=size=64x64:rate={RATE}:duration=7");
        let mut args = vec!["-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &source];
        args.extend(["-c:v", "libx264", "-preset", "ultrafast", "-c:a"]);
        args.extend(sound.codec.split(' '));
        args.push(&path);
        ffmpeg(&args);
        let theirs = dir.path().join("theirs.mp4").to_str().unwrap().to_owned();
        let mut args = vec!["-i", &path, "-map", "0:1"];
        args.extend(sound.theirs.split(' '));
        args.push(&theirs);
        ffmpeg(&args);
        let mut spec = job(&path, None, dash(1), 3.0);
        spec.graphs[1] = format!("[0:1] {}[2]", sound.filter);
        spec.outputs[0].streams[1] = stream("2", sound.encoder, sound.options);
        let what = format!(
            "{} {} {} by {} to {}",
            sound.codec, sound.layout, sound.rate, sound.filter, sound.encoder
        );
        let made = match try_run(&spec) {
            Ok(made) => made,
            Err(problem) => {
                wrong.push(format!("{what}: {problem}"));
                continue;
            }
        };
        let parts = all(&made, 1);
        decodes(dir.path(), &parts);
        let ours = crate::kit::file(dir.path(), &parts);
        let (ours, theirs) = (measure(&ours), measure(&theirs));
        let frame = 1536.0 / 48_000.0 + 0.001;
        // What is quieter than -60 dB is the encoders' noise.
        let heard = |a: f64| a.max(-60.0);
        let mut levels = ours.2.iter().zip(&theirs.2);
        let level_off = levels.any(|(a, b)| (heard(*a) - heard(*b)).abs() > 0.3);
        if ours.0 != theirs.0
            || ours.2.len() != theirs.2.len()
            || (ours.1 - theirs.1).abs() > frame
            || level_off
        {
            wrong.push(format!("{what}: {ours:?}, ffmpeg's {theirs:?}"));
        } else {
            println!("{what}: ok, {ours:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A sound of its own in a second input, with its own start.
#[test]
fn a_second_input_has_the_same_clock() {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path(), &PLAIN);
    let other = make(dir.path(), &CONTAINERS[0]);
    let mut made = spec(&path, &PLAIN, Some(6_000_000));
    let extra = InputSpec {
        locations: vec![Location::Path { path: other }],
        ..made.inputs[0].clone()
    };
    made.inputs.push(extra);
    made.graphs[1] = made.graphs[1].replace("0:1", "1:1");
    let late = try_run(&made).unwrap();
    made.graphs[1] = made.graphs[1].replace("1:1", "0:1");
    made.inputs.pop();
    let plain = try_run(&made).unwrap();
    let sound = |m: &Memory| times(&packets(dir.path(), "a", &all(m, 1)));
    close(&sound(&late), &sound(&plain), 0.0);
}

/// A copy needs to know when pictures are shown. Where the container does not say it, the job is
/// refused before its first segment, and not made wrong.
#[test]
fn pictures_without_times_are_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let case = CONTAINERS.iter().find(|c| c.file == "a.avi").unwrap();
    let path = make(dir.path(), case);
    let mut copy = spec(&path, case, None);
    copy.outputs[0].streams[0].codec = CodecSpec::Copy { before_start: true };
    copy.outputs[0].streams[0].source = Source::Stream {
        input: 0,
        select: StreamSelector::Index { index: 0 },
        optional: false,
    };
    copy.outputs[0].streams[0].forced_keys = None;
    let problem = try_run(&copy).map(|_| ()).unwrap_err();
    assert_eq!(problem.kind, Kind::Unsupported, "{problem}");
}
