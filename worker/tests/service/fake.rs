//! A job child that follows a script: the words of the job's `argv`, one after the other.

use plexbeam_api::{
    Event, FileName, Kind, Problem, Segment,
    checksum::Checksum,
    event::{LogLevel, LogLine, Probed, Progress},
    segment::{Digest, SegmentKind},
};
use plexbeam_worker::{
    child::{self, Inheritance, message::JobOrder},
    pipeline::{Again, Control, Sink},
};
use std::{sync::Arc, time::Duration};

/// Set in the environment of children only.
pub(crate) const ENV: &str = "PLEXBEAM_TEST_CHILD";

/// Not a test: in a child it is the child's `main`.
#[test]
fn entry() {
    if std::env::var_os(ENV).is_none() {
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name).unwrap();
        args[at + 1].parse::<u64>().unwrap()
    };
    let inheritance = Inheritance {
        parent: value("--parent") as u32,
        memory: None,
        stall: Duration::from_millis(value("--stall-ms")),
    };
    let code = match child::main(inheritance, run) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("child: {error}");
            3
        }
    };
    std::process::exit(code);
}

/// The bytes of segment `n`.
pub(crate) fn bytes(n: u32, size: usize) -> Vec<u8> {
    (0..size).map(|i| (i as u32 * 31 + n) as u8).collect()
}

fn segment(kind: SegmentKind, number: Option<u32>, name: &str, data: &[u8]) -> Segment {
    Segment {
        output: 0,
        rendition: None,
        kind,
        number,
        name: name.parse::<FileName>().unwrap(),
        size: data.len() as u64,
        digest: Digest::of(data),
        checksum: Some(Checksum::of(data)),
        time_scale: 90_000,
        pts: i64::from(number.unwrap_or(0)) * 90_000,
        duration: 90_000,
        times: None,
        rendition_info: None,
    }
}

/// Makes a segment again: the bytes of the first time, each one greater.
fn make_again(again: &Again, sink: &mut dyn Sink) -> Result<(), Problem> {
    for name in &again.wanted {
        let mut data = bytes(again.number, 40_000);
        data.iter_mut()
            .for_each(|byte| *byte = byte.wrapping_add(1));
        let number = Some(again.number);
        sink.publish(
            segment(SegmentKind::Media, number, name.as_str(), &data),
            data,
        )?;
    }
    Ok(())
}

fn run(order: &JobOrder, sink: &mut dyn Sink, control: &Arc<Control>) -> Result<(), Problem> {
    let spec = &order.spec;
    if let Some(again) = &order.again {
        if spec.argv.iter().any(|word| word == "never-again") {
            return Err(Problem::new(Kind::BadInput, "the film is gone"));
        }
        if spec.argv.iter().any(|word| word == "slow-again") {
            while control.pass() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        return make_again(again, sink);
    }
    let cancelled = || Problem::new(Kind::Cancelled, "cancelled");
    let mut skipping = false;
    for word in &spec.argv {
        if !control.pass() {
            return Err(cancelled());
        }
        if skipping && word != "then" {
            continue;
        }
        skipping = false;
        let mut parts = word.split(':');
        let verb = parts.next().unwrap();
        let mut number = || parts.next().map_or(0, |text| text.parse::<u32>().unwrap());
        match verb {
            "never-again" | "slow-again" => {}
            "probed" => sink.event(Event::Probed(Probed {
                duration_us: Some(60_000_000),
                format: "fake".into(),
                streams: Vec::new(),
                pictures: Vec::new(),
                device: order
                    .device
                    .as_ref()
                    .map_or("software", |can| can.kind.name())
                    .into(),
            }))?,
            // Nothing of what follows up to `then` unless on a device.
            "on-device" => skipping = order.device.is_none(),
            "then" => {}
            "progress" => sink.event(Event::Progress(Progress {
                frames: u64::from(number()),
                speed: Some(2.0),
                ..Progress::default()
            }))?,
            // seg:FROM:COUNT:SIZE
            "seg" => {
                let (from, count, size) = (number(), number(), number());
                for n in from..from + count {
                    let data = bytes(n, size as usize);
                    let name = format!("media-{n:05}.ts");
                    let entry = segment(SegmentKind::Media, Some(n), &name, &data);
                    sink.publish(entry, data)?;
                }
            }
            "playlist" => {
                let data = bytes(0, number() as usize);
                let entry = segment(SegmentKind::Playlist, None, "index.m3u8", &data);
                sink.publish(entry, data)?;
            }
            // A version of the inputs, in words.
            "opened" => {
                let version = parts.next().unwrap_or_default();
                sink.opened(Digest::of(version.as_bytes()))?;
            }
            // init:VARIANT
            "init" => {
                let data = bytes(number(), 100);
                let entry = segment(SegmentKind::Init, None, "init.mp4", &data);
                sink.publish(entry, data)?;
            }
            // A segment of a DASH rendition. part:NUMBER:SIZE:VARIANT
            "part" => {
                let (n, size, variant) = (number(), number(), number());
                let data = bytes(n + variant, size as usize);
                let name = format!("chunk-{n:05}.m4s");
                let mut entry = segment(SegmentKind::Media, Some(n), &name, &data);
                entry.rendition = Some(0);
                sink.publish(entry, data)?;
            }
            // A segment with other bytes than `seg` makes. other:NUMBER:SIZE
            "other" => {
                let n = number();
                let data = bytes(n + 100, number() as usize);
                let name = format!("media-{n:05}.ts");
                sink.publish(segment(SegmentKind::Media, Some(n), &name, &data), data)?;
            }
            // Publishes a file whose length is not the one announced.
            "lie" => {
                let mut entry = segment(SegmentKind::Media, Some(9), "media-00009.ts", b"abc");
                entry.size = 4;
                sink.publish(entry, b"abc".to_vec())?;
            }
            "log" => sink.event(Event::Log(LogLine {
                level: LogLevel::Info,
                message: parts.collect::<Vec<_>>().join(":"),
            }))?,
            "until-throttled" => {
                while !control.is_throttled() && !control.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            // Progress for as long as it may run; counts up.
            "work" => {
                let mut frames = 0;
                while control.pass() {
                    frames += 1;
                    sink.event(Event::Progress(Progress {
                        frames,
                        ..Progress::default()
                    }))?;
                    std::thread::sleep(Duration::from_millis(2));
                }
                return Err(cancelled());
            }
            "deaf" => loop {
                std::thread::sleep(Duration::from_secs(60));
            },
            "crash" => {
                eprintln!("http://h/media/x?signature=5ec2e7 was the last straw");
                std::process::abort();
            }
            "panic" => panic!("a stage went wrong"),
            "exit" => std::process::exit(7),
            "driver-fails" => {
                let what = "the driver said no to http://h/media/x?signature=5ec2e7";
                return Err(Problem::new(Kind::Internal, what));
            }
            "fail" => {
                return Err(Problem::new(Kind::BadInput, "the input is no media"));
            }
            other => panic!("unknown word {other}"),
        }
    }
    Ok(())
}
