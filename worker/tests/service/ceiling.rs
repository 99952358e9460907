//! The spool's ceiling is hard (P6), and the encoder waits for its readers.

use super::{bench::*, fake};
use axum::http::StatusCode;
use plexbeam_api::{Event, Kind, SessionState};
use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Looks at the folder all the time, on a thread of its own.
struct Watchman {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watchman {
    fn over(bench: &Bench) -> Self {
        let (most, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (dir, m, s) = (bench.sessions_dir(), most.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut before = HashMap::new();
            while !s.load(Ordering::Relaxed) {
                // What both looks saw was there at one moment, the one between them.
                let now = files(&dir);
                let both = now.iter().filter_map(|(inode, size)| {
                    before.get(inode).map(|earlier: &u64| *size.min(earlier))
                });
                m.fetch_max(both.sum(), Ordering::Relaxed);
                before = now;
            }
        });
        Watchman {
            most,
            stop,
            thread: Some(thread),
        }
    }

    fn most(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

/// Sizes of all files below, by inode.
fn files(dir: &Path) -> HashMap<u64, u64> {
    let mut sizes = HashMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return sizes;
    };
    for entry in entries.filter_map(Result::ok) {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sizes.extend(files(&entry.path())),
            Ok(meta) => drop(sizes.insert(meta.ino(), meta.len())),
            Err(_) => {}
        }
    }
    sizes
}

const SIZE: u64 = 40_000;

#[tokio::test]
async fn p6_a_job_of_ten_times_the_spool_is_read_to_its_end() {
    let ceiling = 6 * SIZE;
    let bench = Bench::with(|config| config.store.ceiling = ceiling);
    let watchman = Watchman::over(&bench);
    bench
        .start("j", &["playlist:500", "seg:0:60:40000", "playlist:600"])
        .await;
    let mut stream = bench.stream("/sessions/j/events", &[]).await;
    let mut read = 0;
    while let Some(frame) = stream.event().await {
        let Event::Segment(segment) = frame.session_event() else {
            continue;
        };
        let path = format!("/sessions/j/files/{}", segment.name);
        let reply = bench.get(&path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        if let Some(n) = segment.number {
            assert_eq!(n, read);
            assert_eq!(reply.body, fake::bytes(n, SIZE as usize));
            read += 1;
        }
    }
    assert_eq!(read, 60);
    bench.until_state("j", SessionState::Completed).await;
    let most = watchman.most();
    assert!(most <= ceiling, "{most} bytes on disk, {ceiling} allowed");
    assert!(most >= 2 * SIZE, "{most}: the watchman saw nothing");
    let list = bench.get("/sessions/j/files").await.json();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["name"])
        .collect();
    assert!(
        names.contains(&&serde_json::json!("index.m3u8")),
        "{names:?}"
    );
}

#[tokio::test]
async fn p6_without_a_reader_the_encoder_waits_and_can_be_ended() {
    let ceiling = 6 * SIZE;
    let bench = Bench::with(|config| config.store.ceiling = ceiling);
    let watchman = Watchman::over(&bench);
    bench.start("j", &["seg:0:60:40000"]).await;
    until("the spool to fill", || async {
        bench.peek("j").await.filter(|s| s.segments == 6)
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let waiting = bench.peek("j").await.unwrap();
    assert_eq!(
        (waiting.state, waiting.segments),
        (SessionState::Running, 6)
    );
    // One read makes room for exactly one more.
    bench.get("/sessions/j/files/media-00000.ts").await;
    until("the seventh", || async {
        bench.peek("j").await.filter(|s| s.segments == 7)
    })
    .await;
    // Half a read does not.
    let half = [("range", "bytes=0-19999")];
    bench
        .call_with(
            axum::http::Method::GET,
            "/sessions/j/files/media-00001.ts",
            "",
            &half,
        )
        .await;
    bench.get("/health").await;
    assert_eq!(bench.peek("j").await.unwrap().segments, 7);
    bench.delete("/sessions/j").await;
    until("all bytes to go", || async {
        (on_disk(&bench.sessions_dir()) == 0).then_some(())
    })
    .await;
    assert!(watchman.most() <= ceiling);
}

#[tokio::test]
async fn p6_two_jobs_share_one_ceiling() {
    let ceiling = 7 * SIZE;
    let bench = Bench::with(|config| config.store.ceiling = ceiling);
    let watchman = Watchman::over(&bench);
    for id in ["a", "b"] {
        bench.start(id, &["seg:0:30:40000"]).await;
    }
    let read_all = async |id: &str| {
        let mut stream = bench.stream(&format!("/sessions/{id}/events"), &[]).await;
        let mut read = 0;
        while let Some(frame) = stream.event().await {
            if let Event::Segment(segment) = frame.session_event() {
                let path = format!("/sessions/{id}/files/{}", segment.name);
                let body = bench.get(&path).await.body;
                assert_eq!(body, fake::bytes(read, SIZE as usize));
                read += 1;
            }
        }
        assert_eq!(read, 30);
    };
    tokio::join!(read_all("a"), read_all("b"));
    let most = watchman.most();
    assert!(most <= ceiling, "{most} bytes on disk, {ceiling} allowed");
}

#[tokio::test]
async fn a_segment_larger_than_the_spool_fails_the_job_with_the_remedy() {
    let bench = Bench::with(|config| config.store.ceiling = SIZE - 1);
    bench.start("j", &["seg:0:1:40000"]).await;
    let status = bench.until_state("j", SessionState::Failed).await;
    let problem = status.error.unwrap();
    assert_eq!(problem.kind, Kind::Exhausted);
    assert!(problem.detail.contains("--spool-size"), "{problem}");
}
