//! Random calls on bound and plain directories, mixed with what a worker publishes, against a model:
//! a real directory for the upper layer, and for each bound directory the names that it must show.
//!
//! Once on the file system alone, with no kernel, and once through a real mount. A failure names its
//! seed and step.

mod model;
mod sides;

use self::{
    model::Model,
    sides::{Call, Kernelless, OnDisk, Seen, Side},
};
use crate::support::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::io::Errno;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names of one directory; the last ones are those that workers publish.
const NAMES: &[&str] = &[
    "a",
    "b",
    "c",
    "chunk-stream0-00001.m4s",
    "chunk-stream0-00002.m4s",
    "chunk-stream0-00003.m4s",
    "chunk-stream0-00004.m4s",
];

fn path(rng: &mut StdRng) -> PathBuf {
    let depth = rng.random_range(1..=3);
    (0..depth)
        .map(|level| {
            // Few directories, so that calls meet.
            let names = if level + 1 < depth { 3 } else { NAMES.len() };
            NAMES[rng.random_range(0..names)]
        })
        .collect()
}

fn call(rng: &mut StdRng) -> Call {
    let (one, two) = (path(rng), path(rng));
    let data = |rng: &mut StdRng| bytes_of(rng.random(), rng.random_range(0..9_000)).to_vec();
    match rng.random_range(0..20) {
        0..=2 => Call::Mkdir(one),
        3 => Call::Write(one, data(rng)),
        4 => Call::CreateNew(one, data(rng)),
        5 => Call::Append(one, data(rng)),
        6 => Call::Truncate(one, rng.random_range(0..9_000)),
        7 | 8 => Call::Unlink(one),
        9 => Call::Rmdir(one),
        10 | 11 => Call::Rename(one, two),
        12 => Call::Link(one, two),
        13 => Call::Chmod(one, rng.random_range(0..0o1000) | 0o600),
        14 => Call::Stat(one),
        15 => Call::List(one),
        _ => Call::Read(one),
    }
}

/// What the worker or the cartridge does.
fn event(rng: &mut StdRng, worker: &FakeWorker, side: &mut dyn Side, model: &mut Model) -> String {
    if rng.random_range(0..3) == 0 {
        let mut dir = path(rng);
        if rng.random_range(0..4) > 0 {
            // Names that are directories most often.
            dir = PathBuf::from(NAMES[rng.random_range(0..3)]);
        }
        let (session, epoch) = model.next_session(&dir, rng.random_range(0..5) == 0);
        worker.new_session(&session);
        let published = rng.random_range(0..3);
        for _ in 0..published {
            publish(rng, worker, model, &session);
        }
        let ours = side.bind(&dir, &binding("worker-1", &session, epoch));
        assert_eq!(ours, model.bind(&dir, &session, epoch), "bind {dir:?}");
        settle(side, model);
        return format!("bind {dir:?} to {session}, epoch {epoch}");
    }
    if rng.random_range(0..8) == 0 {
        let dir = PathBuf::from(NAMES[rng.random_range(0..3)]);
        remove_all(side, model, &dir);
        return format!("rm -r {dir:?}");
    }
    let sessions = match rng.random_range(0..6) {
        0 => model.sessions(),
        _ => model.bound_sessions(),
    };
    if sessions.is_empty() {
        return "nothing".to_owned();
    }
    let session = sessions[rng.random_range(0..sessions.len())].clone();
    if rng.random_range(0..6) == 0 {
        worker.drop_session(&session);
        model.drop_session(&session);
        format!("the worker drops {session}")
    } else {
        let name = publish(rng, worker, model, &session);
        settle(side, model);
        format!("{session} publishes {name}")
    }
}

fn publish(rng: &mut StdRng, worker: &FakeWorker, model: &mut Model, session: &str) -> String {
    let number = rng.random_range(1..=4);
    let name = media_name(0, number);
    if model.publishes(session, &name) {
        return name;
    }
    let bytes = bytes_of(rng.random(), rng.random_range(1..40_000));
    let file = segment(&name, &bytes, Some(0), Some(number));
    worker.publish(session, file, &bytes);
    model.publish(session, &name, &bytes);
    name
}

/// As `rm -r` does it, on both.
fn remove_all(side: &mut dyn Side, model: &mut Model, path: &Path) {
    let mut both = |call: &Call| {
        let expected = model.apply(call);
        assert_eq!(side.apply(call), expected, "{}", call.brief());
        expected
    };
    match both(&Call::List(path.to_path_buf())) {
        Ok(Seen::Names(names)) => {
            for name in names {
                remove_all(side, model, &path.join(name));
            }
            let call = Call::Rmdir(path.to_path_buf());
            assert_eq!(model.apply(&call), Ok(Seen::Done));
            assert_eq!(side.apply(&call), Ok(Seen::Done));
        }
        _ => drop(both(&Call::Unlink(path.to_path_buf()))),
    }
}

/// Waits until every bound directory shows what the model says, or never will.
fn settle(side: &mut dyn Side, model: &mut Model) {
    for (dir, name, expected) in model.expected_names() {
        let ours = side.wait_held(&dir, &name);
        assert_eq!(ours.is_ok(), expected, "{dir:?} {name}: {ours:?}");
        if !expected {
            assert_eq!(ours, Err(Errno::NODATA), "{dir:?} {name}");
        }
    }
    model.settled();
}

fn compare_all(side: &mut dyn Side, model: &mut Model) {
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let listed = model.apply(&Call::List(dir.clone()));
        assert_eq!(side.apply(&Call::List(dir.clone())), listed, "list {dir:?}");
        let Ok(Seen::Names(names)) = listed else {
            continue;
        };
        for name in names {
            let path = dir.join(name);
            let stat = model.apply(&Call::Stat(path.clone()));
            assert_eq!(side.apply(&Call::Stat(path.clone())), stat, "stat {path:?}");
            if matches!(
                stat,
                Ok(Seen::Attributes {
                    directory: true,
                    ..
                })
            ) {
                open.push(path);
            } else {
                let read = model.apply(&Call::Read(path.clone()));
                assert!(
                    side.apply(&Call::Read(path.clone())) == read,
                    "read {path:?}"
                );
            }
        }
    }
}

fn run(worker: &FakeWorker, side: &mut dyn Side, seed: u64, steps: u32) {
    let plain = tempfile::tempdir().unwrap();
    let mut model = Model::new(OnDisk::new(plain.path()), format!("x{seed}"));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut told = String::new();
    for step in 0..steps {
        if rng.random_range(0..4) == 0 {
            told = event(&mut rng, worker, side, &mut model);
        } else {
            let call = call(&mut rng);
            let expected = model.apply(&call);
            let ours = side.apply(&call);
            assert!(
                ours == expected,
                "seed {seed}, step {step}: {}: {}, not {}; last event: {told}",
                call.brief(),
                brief(&ours),
                brief(&expected)
            );
        }
        if step % 100 == 99 {
            compare_all(side, &mut model);
        }
    }
    assert!(
        model.held_ever() > 10,
        "too little was held to mean anything"
    );
    let ended = model.ended();
    eventually("the sessions of removed directories are ended", || {
        let told = worker.lock().ended.clone();
        ended.iter().all(|session| told.contains(&id(session)))
    });
    for name in NAMES {
        remove_all(side, &mut model, Path::new(name));
    }
}

fn brief(seen: &Result<Seen, Errno>) -> String {
    match seen {
        Ok(Seen::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_file_system_alone_agrees_with_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let worker = FakeWorker::start("worker-1");
    fs::create_dir(dir.path().join("root")).unwrap();
    let mut side = Kernelless::new(dir.path(), &worker);
    for seed in 0..6 {
        run(&worker, &mut side, seed, 2_000);
    }
}

#[test]
fn a_mount_agrees_with_its_model() {
    if !can_mount() {
        return;
    }
    for (passthrough, seeds) in [(true, 20..22), (false, 30..32)] {
        let env = Env::with(|config| config.passthrough = passthrough);
        let mut side = OnDisk::new(&env.path(""));
        for seed in seeds {
            run(&env.worker, &mut side, seed, 1_000);
        }
    }
}
