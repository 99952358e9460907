//! A segment that left the mount's cache and the worker's spool comes again, made anew: a file of its
//! own where its bytes are others.

use plexbeam_api::{Segment, mount::Binding, mount::XATTR_SOURCE, session::Accepted};
use plexbeam_tests::{
    TestEnv,
    env::{Mount, Worker},
    media::Film,
    probe, wait,
};
use rustix::{fs::XattrFlags, io::Errno};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const ID: &str = "again-and-again";
const SEGMENTS: usize = 7;

fn name(number: usize) -> String {
    format!("media-{number:05}.ts")
}

/// A job whose segments are all read once, in order, through a bound directory.
fn played(env: &TestEnv, worker: &Worker, mount: &Mount) -> (PathBuf, BTreeMap<String, Vec<u8>>) {
    let film = Film {
        seconds: 28.0,
        size: (640, 360),
        ..Film::default()
    };
    fs::copy(film.clip().path(), env.dir("library").join("movie.mkv")).expect("copy the film");
    let job = serde_json::json!({
        "job_id": ID,
        "input": { "type": "file", "path": "/srv/media/movie.mkv" },
        "output": { "type": "hls", "segment_duration": 4 },
        "arguments": {
            "video_codec": "h264", "audio_codec": "aac",
            "video_bitrate": "1M", "resolution": "640x360"
        }
    });
    let answer = worker.post("/transcode", &job);
    assert_eq!(answer.status(), 202);
    let accepted: Accepted = answer.json().expect("the answer");
    let dir = mount.point.join("play");
    fs::create_dir(&dir).expect("a directory");
    let binding = Binding {
        worker: accepted.worker,
        session: accepted.session,
        token: accepted.token,
        patterns: vec!["media-*.ts".into()],
        epoch: 1,
    };
    let binding = serde_json::to_vec(&binding).expect("JSON");
    rustix::fs::setxattr(&dir, XATTR_SOURCE, &binding, XattrFlags::empty()).expect("bind");
    let first = (0..SEGMENTS).map(|number| {
        let name = name(number);
        let bytes = wait::until("a segment is held", Duration::from_secs(60), || {
            fs::read(dir.join(&name)).ok()
        });
        (name, bytes)
    });
    let first = first.collect();
    let sessions = || worker.sessions().iter().all(|s| s.state.is_end());
    wait::until("the job ends", Duration::from_secs(30), || {
        sessions().then_some(())
    });
    (dir, first)
}

/// True when the worker does not have it.
fn is_dropped(worker: &Worker, name: &str) -> bool {
    let answer = worker.get(&format!("/sessions/{ID}/files"));
    let files: Vec<Segment> = answer.expect("an answer").json().expect("a listing");
    files.iter().all(|file| file.name.as_str() != name)
}

/// Opened and read until it comes, with the errors before that.
fn read(path: &Path) -> (Vec<u8>, Vec<Errno>) {
    let mut errors = Vec::new();
    loop {
        match fs::read(path) {
            Ok(bytes) => return (bytes, errors),
            Err(error) => errors.push(errno(&error)),
        }
        assert!(errors.len() < 3, "{} fails: {errors:?}", path.display());
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).expect("an errno")
}

#[test]
fn a_segment_made_again_is_a_whole_file_with_the_same_pictures() {
    let env = TestEnv::new("again");
    let map = format!("/srv/media={}", env.dir("library").display());
    let worker = env.worker(&["--path-map", &map, "--spool-size", "1500KB"]);
    let small = ["--cache-size", "1500KB", "--read-deadline", "15s"];
    let mut mount = env.mount(&[&worker], &small);
    let (dir, first) = played(&env, &worker, &mount);
    let total: usize = first.values().map(Vec::len).sum();
    assert!(total > 3 << 20, "{total} bytes fit both");

    let mut other = 0;
    for number in 0..3 {
        let (name, old) = (name(number), &first[&name(number)]);
        assert!(is_dropped(&worker, &name), "{name} is in the spool");
        let path = dir.join(&name);
        // All at once: one making serves them.
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || read(&path))
            })
            .collect();
        let all: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader"))
            .collect();
        let new = &all[0].0;
        for (bytes, errors) in &all {
            assert!(bytes == new, "{name}: two readers read differently");
            assert!(errors.iter().all(|e| *e == Errno::STALE), "{errors:?}");
        }
        other += usize::from(new != old);
        assert_eq!(
            fs::metadata(&path).expect("stat").len(),
            new.len() as u64,
            "{name}"
        );
        assert!(fs::read(&path).expect("once more") == *new, "{name}");
        let stamps = |bytes: &[u8]| -> Vec<(Option<f64>, bool)> {
            let packets = probe::packets_of(bytes, Some("v:0"));
            packets.iter().map(|p| (p.pts_time, p.key())).collect()
        };
        assert!(!stamps(old).is_empty());
        assert_eq!(stamps(new), stamps(old), "{name}");
        assert_eq!(probe::decode_complaint(new), None, "{name}");
    }
    println!("{other} of 3 have other bytes than the first time");
    assert!(other > 0, "nothing was tried");

    // The worker dies while one is made again: an error in time, and what is here stays.
    let path = dir.join(name(3));
    let reader = thread::spawn(move || fs::read(path).map_err(|error| errno(&error)));
    drop(worker);
    let bound = Duration::from_secs(40);
    wait::until("the reader is answered", bound, || {
        reader.is_finished().then_some(())
    });
    match reader.join().expect("a reader") {
        Ok(bytes) => assert_eq!(probe::decode_complaint(&bytes), None),
        Err(error) => {
            assert!(
                [Errno::STALE, Errno::IO, Errno::TIMEDOUT].contains(&error),
                "{error}"
            );
        }
    }
    let (here, _) = read(&dir.join(name(2)));
    assert_eq!(probe::decode_complaint(&here), None);
    assert_eq!(mount.process.try_wait(), None);
}
