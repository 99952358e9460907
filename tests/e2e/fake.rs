//! The fake PMS itself: a well-behaved transcoder passes, and each kind of misbehaviour is noticed.

use plexbeam_tests::{
    argv::{self, Line},
    env::program,
    fake_pms::{self, End, Play, Report, Rule, WorkerView},
    media::Film,
    original::{FAULT, Fault, TRANSCODE},
};
use rustix::process::Signal;
use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    thread,
    time::Duration,
};

fn film() -> Film {
    Film {
        seconds: 6.0,
        size: (160, 90),
        rate: "24",
        ..Film::default()
    }
}

fn dash() -> Line {
    argv::line("sp-01").with("-r:0", "24").segment_seconds(2)
}

fn segments() -> Line {
    argv::mpegts_line().with("-r:0", "24").segment_seconds(2)
}

fn play<'a>(dir: &Path, line: Line) -> Play<'a> {
    Play::new(dir, &program("fake-original"), line, &film().clip().path()).env(TRANSCODE, "1")
}

fn run(line: Line, fault: Option<&str>) -> Report {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut play = play(dir.path(), line);
    if let Some(fault) = fault {
        play = play.env(FAULT, fault);
    }
    play.patience = Duration::from_secs(if fault == Some("silence") { 3 } else { 20 });
    fake_pms::play(&play).expect("a play")
}

#[test]
fn a_good_dash_transcoder_passes() {
    let report = run(dash(), None);
    report.assert_clean();
    assert_eq!(report.segments, 6, "three segments of two streams");
    assert!(report.bytes > 10_000 && report.ttfs_ms.is_some());
}

#[test]
fn a_good_mpegts_transcoder_passes() {
    let report = run(segments(), None);
    report.assert_clean();
    assert_eq!(report.segments, 3);
}

#[test]
fn a_stop_in_the_middle_is_no_fault() {
    for signal in [Signal::TERM, Signal::KILL] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut play = play(dir.path(), dash());
        play.end = End::Stop { after: 2, signal };
        let report = fake_pms::play(&play).expect("a play");
        report.assert_clean();
        assert_eq!(report.segments, 4);
    }
}

/// A check that cannot fail proves nothing: each fault must be seen, by its own rule.
#[test]
fn every_misbehaviour_is_noticed() {
    let mut unseen = Vec::new();
    for (name, fault) in Fault::ALL {
        let expected = match fault {
            Fault::WrongToken => Rule::WrongToken,
            Fault::WrongMethod => Rule::WrongMethod,
            Fault::WrongUrl => Rule::WrongUrl,
            Fault::HalfFile => Rule::FileNotWhole,
            Fault::MissingFile => Rule::FileMissing,
            Fault::SkippedNumber | Fault::Batch => Rule::NotListed,
            Fault::OutOfOrder => Rule::OutOfOrder,
            Fault::IllTimed => Rule::IllTimed,
            Fault::NoDetail | Fault::NoDuration => Rule::StartupMissing,
            Fault::ClosedPipeline => Rule::PipelineClosed,
            Fault::FastProgress => Rule::ProgressTooOften,
            Fault::ChangedFile => Rule::Changed,
            Fault::Stdout => Rule::Stdout,
            Fault::ExitCode => Rule::ExitStatus,
            Fault::NoLastManifest => Rule::Unfinished,
            Fault::Silence => Rule::ClientStarved,
        };
        let lines = if fault == Fault::NoLastManifest {
            vec![dash()]
        } else {
            vec![dash(), segments()]
        };
        for line in lines {
            let id = line.id.clone();
            // An MPD counts by places, so a wrong number is a wrong time there.
            let expected = match (fault, id.as_str()) {
                (Fault::SkippedNumber | Fault::OutOfOrder, "sp-01") => Rule::IllTimed,
                _ => expected,
            };
            let report = run(line, Some(name));
            if !report.rules().contains(&expected) {
                unseen.push(format!("{name} on {id}: {}", report.explain()));
            }
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}

/// A transcoder that calls before the worker has opened the input: the worker knows no session.
#[test]
fn a_call_before_the_input_is_open_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
            );
        }
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut play = play(dir.path(), dash());
    play.worker = Some(WorkerView {
        url,
        key: String::new(),
    });
    let report = fake_pms::play(&play).expect("a play");
    assert_eq!(report.rules(), [Rule::BeforeProbed], "{}", report.explain());
}
