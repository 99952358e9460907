//! Plex is never worse off (P1): what PlexBeam cannot or should not do, the original does, started
//! with the same argv, environment and working directory.

use crate::kit::{Stage, cartridge_env, cartridge_log};
use plexbeam_tests::{
    TestEnv, argv,
    argv::Place,
    env::{free_port, program},
    fake_pms::{self, Play},
    media::Film,
    original::{EXIT, Record, TRANSCODE},
};
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

/// Starts the cartridge as PMS does, with everything known to the byte.
struct Start {
    env: TestEnv,
    program: PathBuf,
    cwd: PathBuf,
    vars: Vec<(OsString, OsString)>,
}

impl Start {
    fn new(name: &str, workers: &str) -> Start {
        let env = TestEnv::new(name);
        let bin = env.dir("Plex Media Server");
        let path = bin.join("Plex Transcoder");
        fs::copy(program("plexbeam-cartridge"), &path).expect("install the cartridge");
        // A name that is no UTF-8.
        let cwd = env
            .dir("Transcode/Sessions")
            .join(OsStr::from_bytes(b"plex-transcode-\xff session"));
        fs::create_dir(&cwd).expect("the session directory");
        let mut vars: Vec<(OsString, OsString)> = cartridge_env(&env, workers)
            .into_iter()
            .map(|(n, v)| (n.into(), v.into()))
            .collect();
        let more: [(&str, &[u8]); 5] = [
            ("X_PLEX_TOKEN", b"xxxxxxxxxxxxxxxxxxxx"),
            ("LD_LIBRARY_PATH", b"/usr/lib/plexmediaserver/lib"),
            (
                "FFMPEG_EXTERNAL_LIBS",
                b"/var/lib/Application\\ Support/Codecs/x/",
            ),
            ("NOT_UTF8", b"\xfe\xff"),
            ("EMPTY", b""),
        ];
        vars.extend(more.map(|(n, v)| (n.into(), OsStr::from_bytes(v).to_owned())));
        vars.push((EXIT.into(), "7".into()));
        vars.sort();
        Start {
            env,
            program: path,
            cwd,
            vars,
        }
    }

    /// Runs it; gives the exit and what the original wrote down.
    #[track_caller]
    fn run(&self, argv: &[OsString]) -> (ExitStatus, Record) {
        let output = Command::new(&self.program)
            .args(argv)
            .env_clear()
            .envs(self.vars.iter().map(|(n, v)| (n, v)))
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .output()
            .expect("start the cartridge");
        assert!(output.stdout.is_empty(), "wrote to stdout");
        let path = self.env.root().join("original.record");
        let record = Record::read(&path).unwrap_or_else(|e| {
            panic!(
                "the original was not started ({e}): {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        fs::remove_file(path).expect("forget the record");
        (output.status, record)
    }

    #[track_caller]
    fn check(&self, argv: &[OsString]) {
        let (status, record) = self.run(argv);
        assert_eq!(status.code(), Some(7), "the original's exit code");
        assert_eq!(&record.argv[1..], argv);
        assert_eq!(record.env, self.vars);
        assert_eq!(record.cwd, self.cwd);
    }
}

/// sp-01 with a film whose name is no UTF-8.
fn dash(env: &TestEnv, cwd: &Path) -> Vec<OsString> {
    let media = env
        .root()
        .join(OsStr::from_bytes(b"film \xe9 'x' $y & [z].mkv"));
    let film = Film {
        seconds: 3.0,
        size: (96, 54),
        ..Film::default()
    };
    fs::copy(film.clip().path(), &media).expect("copy the film");
    argv::line("sp-01")
        .placed(&Place {
            media,
            port: free_port(),
            session: "session".into(),
            job: "00000000-0000-4000-8000-000000000009".into(),
            dir: cwd.to_owned(),
        })
        .expect("sp-01 is a segmented line")
}

#[test]
fn without_a_worker_the_original_is_started_untouched() {
    let start = Start::new("dead-worker", &format!("http://127.0.0.1:{}", free_port()));
    start.check(&dash(&start.env, &start.cwd));
    let start = Start::new("no-worker", "");
    start.check(&dash(&start.env, &start.cwd));
    assert!(
        fs::read_dir(&start.cwd).expect("list").next().is_none(),
        "nothing of ours is left in the session directory"
    );
}

#[test]
fn a_wrong_key_ends_with_the_original() {
    let env = TestEnv::new("wrong-key");
    let worker = env.worker(&[]);
    let mut start = Start::new("wrong-key-start", &worker.url);
    for (name, value) in &mut start.vars {
        if name == "PLEXBEAM_API_KEY" {
            *value = "another".into();
        }
    }
    start.check(&dash(&start.env, &start.cwd));
    assert!(worker.sessions().is_empty());
}

/// Thumbnails, detection, Optimize, capability queries: no worker is asked, although one is there.
#[test]
fn what_is_not_for_us_goes_to_the_original_at_once() {
    let env = TestEnv::new("not-for-us");
    let worker = env.worker(&[]);
    let mut start = Start::new("not-for-us-start", &worker.url);
    for (name, value) in &mut start.vars {
        if name == "PLEXBEAM_API_KEY" {
            *value = worker.key.clone().into();
        }
    }
    let os = |line: &[String]| -> Vec<OsString> { line.iter().map(OsString::from).collect() };
    for line in argv::recorded() {
        if line.server == "plex" && line.shape().is_err() {
            start.check(&os(&line.argv));
        }
    }
    start.check(&[]);
    start.check(&["-encoders".into()]);
    start.check(&["-version".into()]);
    // An option that nobody knows.
    let mut argv = dash(&start.env, &start.cwd);
    argv.splice(0..0, ["-never_heard_of:0".into(), "1".into()]);
    start.check(&argv);
    // The copy of the video is not sent away unless asked for.
    let copy = argv::line("mc-01").argv;
    for (name, value) in &mut start.vars {
        if name == "PLEXBEAM_COPY_VIDEO" {
            *value = "local".into();
        }
    }
    start.check(&os(&copy));
    assert!(worker.sessions().is_empty(), "the worker was asked");
}

/// The mount is up and no worker is: the original writes into the mount as into any folder, and
/// PMS sees a normal local job.
#[test]
fn the_original_plays_through_the_mount() {
    let env = TestEnv::new("local-play");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let mount = env.mount_urls([dead.as_str()].into_iter(), &[], false);
    let film = Film {
        seconds: 8.0,
        size: (320, 180),
        rate: "24",
        ..Film::default()
    };
    let line = argv::line("sp-01").with("-r:0", "24").segment_seconds(2);
    let mut play = Play::new(
        &mount.point,
        &program("plexbeam-cartridge"),
        line,
        &film.clip().path(),
    );
    for (name, value) in cartridge_env(&env, &dead) {
        play = play.env(name, value);
    }
    play = play.env(TRANSCODE, "1");
    let report = fake_pms::play(&play).expect("a play");
    report.assert_clean();
    assert_eq!(report.segments, 8);
    assert!(env.root().join("original.record").exists());
}

/// The first segments lie in the mount, PMS is still busy with the first call, and the cartridge gives
/// up: the original takes over in the same directory, and PMS sees one whole start.
#[test]
fn the_original_takes_over_in_a_bound_directory() {
    let stage = Stage::new("take-over");
    let film = Film {
        seconds: 40.0,
        size: (320, 180),
        rate: "24",
        ..Film::default()
    };
    // Slow, so that the worker is still at it when the cartridge gives up.
    let line = argv::line("sp-01")
        .scaled(320, 180)
        .with("-r:0", "24")
        .with("-preset:0", "veryslow")
        .segment_seconds(2);
    let config = stage.env.root().join("impatient.toml");
    fs::write(&config, "first_segment_ms = 1500\n").expect("write the settings");
    let mut play = stage
        .play(line, &film.clip().path())
        .env("PLEXBEAM_CONFIG", config)
        .env(TRANSCODE, "1");
    play.first_answer_after = Duration::from_secs(4);
    let report = fake_pms::play(&play).expect("a play");
    let log = cartridge_log(&stage.env);
    assert!(stage.original().exists(), "{log}");
    assert!(log.contains("no segment came in time"), "{log}");
    report.assert_clean();
    assert_eq!(report.segments, 40);
    let sessions = stage.worker.sessions();
    assert!(sessions.iter().all(|s| s.state.is_end()), "{sessions:?}");
}

/// With no mount at all the segments are downloaded into the session directory.
#[test]
fn a_plain_directory_works_without_the_mount() {
    let stage = Stage::new("no-mount");
    let plain = stage.env.dir("plain");
    let film = Film {
        seconds: 12.0,
        size: (320, 180),
        ..Film::default()
    };
    let mut play = stage.play(argv::line("sp-01").scaled(320, 180), &film.clip().path());
    play.dir = plain;
    play.seeks = vec![(2, 3)];
    stage.check(&play);
}

/// A missing film is the original's to complain of.
#[test]
fn a_missing_film_goes_to_the_original() {
    let env = TestEnv::new("missing");
    let worker = env.worker(&[]);
    let mut start = Start::new("missing-start", &worker.url);
    for (name, value) in &mut start.vars {
        if name == "PLEXBEAM_API_KEY" {
            *value = worker.key.clone().into();
        }
    }
    let mut argv = dash(&start.env, &start.cwd);
    let media = argv.iter().position(|a| a == "-i").expect("an input") + 1;
    argv[media] = "/nonexistent/film.mkv".into();
    start.check(&argv);
}
