//! A PMS that answers slowly, wrongly or not at all: playback goes on, nothing hangs, nothing piles up.

use crate::fakes::{Mood, probed, progress, row};
use crate::{Scene, end};
use plexbeam_api::event::LogLevel;
use plexbeam_api::session::SessionState;
use rustix::process::{Pid, Signal};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// A job of five numbers to its end.
async fn whole_job(scene: &Scene, child: tokio::process::Child) {
    scene.worker.emit(probed());
    scene.worker.emit(progress(10.0));
    scene.worker.log(LogLevel::Error, "a line");
    scene.publish_inits();
    (1..=5).for_each(|number| scene.publish_chunks(number));
    scene.worker.state(SessionState::Completed);
    let (code, stdout, stderr) = end(child).await;
    assert_eq!(code, Some(0), "{}", scene.log());
    assert!(stdout.is_empty() && stderr.is_empty());
    for number in 1..=5 {
        let name = format!("chunk-stream0-{number:05}.m4s");
        assert!(scene.dir.join(name).exists(), "{number}");
    }
    assert!(!crate::original::ran(scene.root.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pms_with_bad_answers_hears_everything_all_the_same() {
    for mood in [
        Mood::Slow(Duration::from_millis(250)),
        Mood::Status(404),
        Mood::Status(401),
        Mood::Status(500),
        Mood::Status(302),
        Mood::Closing,
    ] {
        let scene = Scene::new().await;
        scene.pms.mood.change(|m| *m = mood);
        whole_job(&scene, scene.start("sp-01")).await;
        let lists = scene.pms.calls("/manifest");
        assert_eq!(lists.len(), 6, "{mood:?}: one for each number, and the end");
        for (at, list) in lists.iter().enumerate() {
            let numbers = format!(" r=\"{}\"", at.min(4));
            assert!(
                at == 0 || list.body.contains(&numbers),
                "{mood:?}: {}",
                list.body
            );
        }
        let connections = |mood| mood != Mood::Closing;
        if connections(mood) {
            assert!(lists.iter().all(|l| l.connection == lists[0].connection));
        }
        let startup = scene.pms.heard.get();
        let told = startup
            .iter()
            .filter(|h| h.query.starts_with("status="))
            .count();
        assert_eq!(told, 1, "{mood:?}: nothing is said twice");
    }
}

/// The files come whatever PMS does; the end is PMS's own signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_pms_that_never_answers_holds_nothing_up() {
    for mood in [Mood::Silent, Mood::Endless] {
        let scene = Scene::new().await;
        scene.pms.mood.change(|m| *m = mood);
        let child = scene.start("sp-01");
        scene.worker.emit(probed());
        scene.publish_inits();
        (1..=5).for_each(|number| scene.publish_chunks(number));
        scene
            .worker
            .told
            .until("all files are fetched", |t| t.fetched.len() == 12)
            .await;
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(end(child).await.0, Some(255), "{}", scene.log());
        assert_eq!(scene.worker.told.get().cancelled, ["sess-job-1"]);
    }
}

/// Servers below HTTP: they close at once, answer nonsense, or half of an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_pms_that_speaks_no_http_is_survived() {
    for answer in [
        &b""[..],
        b"\xff\x00 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let scene = Scene::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            }
        });
        let argv: Vec<_> = scene
            .argv("sp-01")
            .iter()
            .map(|w| w.to_str().unwrap().replace(&scene.pms.base, &base).into())
            .collect();
        let child = scene.command(&argv).spawn().unwrap();
        whole_job(&scene, child).await;
    }
}

/// Resident bytes of a process.
fn resident(child: &tokio::process::Child) -> u64 {
    let path = format!("/proc/{}/status", child.id().unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Thousands of segments, lists and log lines later the process is as small as before.
#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_over_thousands_of_calls() {
    const WARM: u32 = 300;
    const MORE: u32 = 2_500;
    let scene = Scene::new().await;
    let child = scene.start("sp-02");
    scene.worker.emit(probed());
    scene
        .worker
        .publish(&crate::fakes::header(b"head"), b"head");
    let mut before = 0;
    for number in 0..WARM + MORE {
        scene.worker.publish(&row(number, b"segment"), b"segment");
        scene.worker.log(LogLevel::Error, "a line for PMS's log");
        scene.worker.emit(progress(1.0));
        let count = number + 1;
        // Not all at once: what waits to be fetched is a matter of the worker's pace.
        if count % 50 == 0 {
            scene.until_lists(count as usize).await;
        }
        if count == WARM {
            before = resident(&child);
        }
    }
    let after = resident(&child);
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let grown = after.saturating_sub(before);
    assert!(
        grown < 1 << 20,
        "{before} bytes after {WARM} segments, {after} after {MORE} more"
    );
}
