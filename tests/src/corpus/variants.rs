//! Lines like the recorded ones: the same words with another film, track, seek or option.

use super::{
    Case, SIZE,
    films::{AV1, HDR10, HEVC, MPEG2, VP9, sound},
    shapes,
};
use crate::{
    argv::{Line, line, mpegts_line},
    media::{Film, H264, Subtitle},
    verify::likeness::Burned,
};

/// DASH to x264: the line that most variants change.
fn software() -> Line {
    line("nv-05").segment_seconds(3).scaled(SIZE.0, SIZE.1)
}

fn film() -> Film {
    Film {
        seconds: 7.0,
        size: SIZE,
        rate: "24",
        audio: vec![sound("eac3", 6)],
        ..Film::default()
    }
}

fn case(id: &str, line: Line, film: Film, about: &str) -> Case {
    Case {
        id: id.to_owned(),
        line,
        film: Box::new(move || film.clip().path()),
        about: about.to_owned(),
        burned: Burned::No,
    }
}

/// The line with other decoder words in front of the input.
fn decoders(line: Line, video: &str, audio: &str) -> Line {
    let mut line = line;
    let end = line.argv.iter().position(|a| a == "-i").unwrap_or(0);
    for n in 0..end {
        match line.argv[n].as_str() {
            "-codec:0" => video.clone_into(&mut line.argv[n + 1]),
            "-codec:1" => audio.clone_into(&mut line.argv[n + 1]),
            _ => {}
        }
    }
    line
}

/// Variants of recorded lines.
#[must_use]
pub fn likes() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(sources());
    cases.extend(sounds());
    cases.extend(times());
    cases.extend(words());
    cases.extend(shapes::films());
    cases.extend(shapes::pictures());
    cases
}

/// Codecs and containers.
fn sources() -> Vec<Case> {
    let mut cases = Vec::new();
    for (id, decoder, video, container) in [
        ("like-h264-mp4", "h264", H264.to_vec(), "mp4"),
        ("like-h264-m2ts", "h264", H264.to_vec(), "m2ts"),
        ("like-h264-ts", "h264", H264.to_vec(), "ts"),
        ("like-hevc-mp4", "hevc", HEVC.to_vec(), "mp4"),
        ("like-hdr10-ts", "hevc", HDR10.to_vec(), "ts"),
        ("like-av1-mp4", "av1", AV1.to_vec(), "mp4"),
        ("like-vp9-mkv", "vp9", VP9.to_vec(), "mkv"),
        ("like-mpeg4-avi", "mpeg4", vec!["mpeg4", "-q:v", "3"], "avi"),
    ] {
        let source = Film {
            video,
            container,
            audio: vec![sound("ac3", 6)],
            ..film()
        };
        let line = decoders(software(), decoder, "ac3");
        cases.push(case(id, line, source, container));
    }
    let mpeg2 = Film {
        video: MPEG2.to_vec(),
        container: "ts",
        rate: "24",
        audio: vec![sound("mp2", 2)],
        ..film()
    };
    cases.push(case(
        "like-mpeg2-ts",
        decoders(software(), "mpeg2video", "mp2"),
        mpeg2,
        "interlaced MPEG-2",
    ));
    cases.push(case(
        "like-mpegts",
        mpegts_line().segment_seconds(3).scaled(SIZE.0, SIZE.1),
        film(),
        "MPEG-TS segments",
    ));
    cases
}

/// Sound codecs, each by the name that Plex gives its decoder.
fn sounds() -> Vec<Case> {
    let mut cases = Vec::new();
    for (id, decoder, encoder, channels) in [
        ("like-aac51", "aac", "aac", 6),
        ("like-dts", "dca", "dca", 6),
        ("like-truehd", "truehd_eae", "truehd", 6),
        ("like-flac", "flac", "flac", 6),
        ("like-opus", "opus", "libopus", 6),
        ("like-mp3", "mp3", "libmp3lame", 2),
    ] {
        let source = Film {
            audio: vec![sound(encoder, channels)],
            ..film()
        };
        cases.push(case(
            id,
            decoders(software(), "h264", decoder),
            source,
            encoder,
        ));
    }
    cases
}

/// Rates, starts, seeks.
fn times() -> Vec<Case> {
    let mut cases = Vec::new();
    for (id, rate, words) in [
        ("like-25fps", "25", "25"),
        ("like-2997fps", "30000/1001", "29.97002997002997"),
        ("like-50fps", "50", "50"),
    ] {
        let source = Film { rate, ..film() };
        cases.push(case(id, software().with("-r:0", words), source, rate));
    }
    let late = Film {
        late_video: 1.5,
        ..film()
    };
    cases.push(case(
        "like-late-video",
        software(),
        late,
        "video 1.5 s after the sound",
    ));
    for number in [2, 4] {
        let id = format!("like-seek-{number}");
        if let Ok(line) = software().seek(number) {
            let source = Film {
                seconds: 13.0,
                ..film()
            };
            cases.push(case(&id, line, source, "a seek in encoded video"));
        }
    }
    let ts = Film {
        container: "ts",
        seconds: 10.0,
        ..film()
    };
    if let Ok(line) = software().seek(2) {
        cases.push(case(
            "like-seek-ts",
            line,
            ts,
            "MPEG-TS, whose time begins at 1.4 s",
        ));
    }
    cases
}

/// Options and tracks.
fn words() -> Vec<Case> {
    let mut cases = Vec::new();
    let two = Film {
        audio: vec![
            sound("ac3", 2),
            crate::media::Audio {
                tone: 500,
                language: "fre",
                ..sound("eac3", 6)
            },
        ],
        subtitles: vec![Subtitle::Srt],
        attachments: true,
        ..film()
    };
    let other = software().map(|a| a.replace("[0:1]", "[0:2]"));
    cases.push(case(
        "like-other-track",
        other,
        two,
        "second language, font and cover attached",
    ));
    let three = Film {
        container: "mp4",
        audio: ["eng", "fre", "ger"]
            .into_iter()
            .zip([500, 425, 350])
            .map(|(language, tone)| crate::media::Audio {
                tone,
                language,
                ..sound("eac3", 6)
            })
            .collect(),
        ..film()
    };
    let third = software().map(|a| a.replace("[0:1]", "[0:3]"));
    cases.push(case(
        "like-third-track",
        third,
        three,
        "third of three languages",
    ));
    let ids = software().map(|a| {
        a.replace("[0:0]", "[0:#0x100]")
            .replace("[0:1]", "[0:#0x101]")
    });
    let ts = Film {
        container: "ts",
        ..film()
    };
    cases.push(case("like-hex-ids", ids, ts, "streams by id"));
    let mut repeated = software();
    if let Some(at) = repeated.argv.iter().rposition(|a| a == "-crf:0") {
        let twice = ["-crf:0".to_owned(), "40".to_owned()];
        repeated.argv.splice(at..at, twice);
    }
    cases.push(case(
        "like-repeated",
        repeated,
        film(),
        "an option twice: the last one counts",
    ));
    let hdr = Film {
        video: HDR10.to_vec(),
        ..film()
    };
    for curve in ["hable", "mobius"] {
        let chain = format!(",format=p010,tonemap={curve}[0];[0]");
        let line =
            decoders(software(), "hevc", "eac3_eae").map(|a| a.replacen("[0];[0]", &chain, 1));
        cases.push(case(
            &format!("like-tonemap-{curve}"),
            line,
            hdr.clone(),
            "HDR10 to SDR",
        ));
    }
    let burned = Film {
        size: (320, 180),
        subtitles: vec![Subtitle::Ass],
        ..film()
    };
    let mut text = case(
        "like-burned-ass",
        decoders(line("nv-08").scaled(320, 180), "h264", "eac3_eae"),
        burned,
        "ASS burned in",
    );
    text.burned = Burned::EachSecond;
    cases.push(text);
    let plain = line("nv-02").scaled(SIZE.0, SIZE.1);
    cases.push(case(
        "like-aac-lc",
        plain.with("-codec:1", "aac_lc"),
        film(),
        "Plex's name for the AAC encoder",
    ));
    cases
}
