//! Films with flipped bits, of which more can be made than an error.

use crate::kit::{clip, close, dash, decodes, job, packets, run, segments, times, try_run};
use plexbeam_api::{
    Kind,
    job::{CodecSpec, Container, JobSpec, Source, StreamSelector},
};

/// Where the tags of this type lie in an FLV file (Adobe Flash Video File Format 10.1, E.4): 8 is
/// sound, 9 video.
fn tags(film: &[u8], wanted: u8) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 9 + 4;
    while let Some(head) = film.get(at..at + 11) {
        let size = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        if head[0] == wanted {
            found.push(at);
        }
        at += 11 + size + 4;
    }
    found
}

/// All streams as they are, from 3 s on.
fn copied(film: &str) -> JobSpec {
    let mut spec = job(film, None, segments(Container::MpegTs, 0, None), 3.0);
    spec.graphs.clear();
    for (stream, index) in spec.outputs[0].streams.iter_mut().zip(0..) {
        stream.codec = CodecSpec::Copy { before_start: true };
        stream.forced_keys = None;
        stream.source = Source::Stream {
            input: 0,
            select: StreamSelector::Index { index },
            optional: false,
        };
    }
    spec
}

/// One picture and a moment of sound twelve days ahead: both are played where they belong, whether
/// they are encoded or copied.
#[test]
fn a_time_that_is_far_ahead_is_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip(dir.path(), "whole.flv", 12, &["-c:a", "aac", "-ac", "2"]);
    let mut film = std::fs::read(&whole).unwrap();
    for (kind, number) in [(8, 200), (9, 100)] {
        let tag = tags(&film, kind)[number];
        // The highest byte of the milliseconds comes last.
        film[tag + 7] ^= 0x40;
    }
    let damaged = dir.path().join("damaged.flv");
    std::fs::write(&damaged, film).unwrap();
    let damaged = damaged.to_str().unwrap();

    let [right, made] = [&whole, damaged].map(|path| run(&job(path, None, dash(1), 3.0)));
    for rendition in [Some(0), Some(1)] {
        let mut parts = vec![made.head(rendition)];
        parts.extend(made.media(rendition).iter().map(|p| p.1.as_slice()));
        decodes(dir.path(), &parts);
        assert!(made.media(rendition).len() >= 4);
        // Not shown where they differ: they are whole segments.
        assert!(made.media(rendition) == right.media(rendition));
    }

    let [right, made] = [&whole, damaged].map(|path| run(&copied(path)));
    // The container rounds to milliseconds.
    for kind in ["v", "a"] {
        let [right, made] = [&right, &made].map(|job| {
            let parts: Vec<&[u8]> = job.media(None).iter().map(|p| p.1.as_slice()).collect();
            decodes(dir.path(), &parts);
            times(&packets(dir.path(), kind, &parts))
        });
        close(&made, &right, 0.0015);
    }
}

/// The sound of half a minute lies before all but the first pictures: more than any queue holds. It is
/// the film of which the two are side by side.
#[test]
fn sound_that_lies_far_before_its_pictures_is_no_dead_end() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip(dir.path(), "whole.flv", 45, &["-c:a", "aac", "-ac", "2"]);
    let film = std::fs::read(&whole).unwrap();
    let (sounds, pictures) = (tags(&film, 8), tags(&film, 9));
    assert!(sounds.len() > 1700);
    let (sound, picture) = (sounds[1700], pictures[12]);
    let mut early = film[..picture].to_vec();
    let mut rest = Vec::new();
    let mut at = picture;
    while at < film.len() {
        let size = u32::from_be_bytes([0, film[at + 1], film[at + 2], film[at + 3]]) as usize;
        let end = at + 11 + size + 4;
        let to = if film[at] == 8 && at < sound {
            &mut early
        } else {
            &mut rest
        };
        to.extend_from_slice(&film[at..end]);
        at = end;
    }
    let apart = dir.path().join("apart.flv");
    std::fs::write(&apart, [early, rest].concat()).unwrap();

    let [right, made] =
        [&whole, apart.to_str().unwrap()].map(|path| run(&job(path, None, dash(1), 3.0)));
    for rendition in [Some(0), Some(1)] {
        assert!(made.media(rendition).len() >= 14);
        // Not shown where they differ: they are whole segments.
        assert!(made.media(rendition) == right.media(rendition));
    }
}

/// One picture of which only the time of showing lies an hour ahead: it is shown when it is decoded,
/// and its neighbours when they were to be. Two within a moment end the job.
#[test]
fn a_copied_picture_that_would_be_shown_far_ahead_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip(dir.path(), "whole.flv", 12, &["-c:a", "aac", "-ac", "2"]);
    let mut film = std::fs::read(&whole).unwrap();
    // Behind the tag's header and two bytes of the codec's: how much later it is shown (E.4.3.2).
    let pictures = tags(&film, 9);
    film[pictures[100] + 11 + 2] ^= 0x40;
    let damaged = dir.path().join("damaged.flv");
    std::fs::write(&damaged, &film).unwrap();

    let [right, made] = [whole.as_str(), damaged.to_str().unwrap()].map(|path| {
        let job = run(&copied(path));
        let parts: Vec<&[u8]> = job.media(None).iter().map(|p| p.1.as_slice()).collect();
        decodes(dir.path(), &parts);
        times(&packets(dir.path(), "v", &parts))
    });
    let moved: Vec<f64> = made
        .iter()
        .copied()
        .filter(|at| right.iter().all(|other| (at - other).abs() > 0.0015))
        .collect();
    assert!(moved.len() <= 1, "{moved:?}");
    // In order of showing, those between its two places are one place off.
    close(&made, &right, 0.045);

    // Where many do not say it, their order is not known.
    film[pictures[110] + 11 + 2] ^= 0x40;
    std::fs::write(&damaged, film).unwrap();
    let problem = try_run(&copied(damaged.to_str().unwrap())).err();
    assert_eq!(problem.map(|problem| problem.kind), Some(Kind::Unsupported));
}
