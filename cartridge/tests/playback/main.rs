//! The real program between a worker and a PMS that keep the contract. The numbers in the names are
//! the promises of DESIGN 1.

mod contract;
mod fakes;
mod faults;
mod fuse;
mod hanging;
mod logs;
mod original;
mod places;
mod plain;
mod signals;
mod steps;
mod untouched;

use fakes::{Pms, SESSION, Worker, chunk, header, init, probed, progress, row};
use plexbeam_api::session::SessionState;
use rustix::process::Signal;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// The budgets of a start are for an idle host; what is tested here must hold on a busy one, too.
const SETTINGS: &str = "find_ms = 3000\naccept_ms = 5000\nqueue_ms = 1500\n";

/// A session directory, a title, a worker, a PMS and an original that records how it was started.
struct Scene {
    root: TempDir,
    dir: PathBuf,
    worker: Arc<Worker>,
    pms: Arc<Pms>,
}

impl Scene {
    async fn new() -> Self {
        Scene::with(Worker::start().await).await
    }

    async fn with(worker: Arc<Worker>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("plex-transcode-sess-job-1");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(root.path().join("title.mkv"), "not read by the cartridge").unwrap();
        original::install(root.path());
        let pms = Pms::start(dir.clone()).await;
        Scene {
            root,
            dir,
            worker,
            pms,
        }
    }

    fn url(&self, tail: &str) -> String {
        format!("{}{SESSION}{tail}", self.pms.base)
    }

    /// A line of the recorded ones, turned to this scene.
    fn argv(&self, id: &str) -> Vec<OsString> {
        let line = include_str!("../../../tests/fixtures/commands.jsonl")
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .find(|line| line["id"] == id)
            .unwrap();
        let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
        let mut after = String::new();
        let mut argv = Vec::new();
        for word in words {
            let ours = match after.as_str() {
                "-i" => self.root.path().join("title.mkv").display().to_string(),
                "-progressurl" => self.url("/progress"),
                "-manifest_name" | "-segment_list" => {
                    self.url("/manifest?X-Plex-Http-Pipeline=infinite")
                }
                _ => word.clone(),
            };
            argv.push(ours.into());
            after = word;
        }
        argv
    }

    fn command(&self, argv: &[OsString]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexbeam-cartridge"));
        command
            .arg0("/usr/lib/plexmediaserver/Plex Transcoder")
            .args(argv)
            .current_dir(&self.dir)
            .env("PLEXBEAM_CONFIG", self.root.path().join("cartridge.toml"))
            .env("PLEXBEAM_WORKERS", &self.worker.base)
            .env("PLEXBEAM_API_KEY", "the-key")
            .env("PLEXBEAM_ORIGINAL", original::path(self.root.path()))
            .env("PLEXBEAM_LOG_DIR", self.root.path().join("log"))
            .env("X_PLEX_TOKEN", "plex-token")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        std::fs::write(self.root.path().join("cartridge.toml"), SETTINGS).unwrap();
        command
    }

    fn start(&self, id: &str) -> Child {
        self.command(&self.argv(id)).spawn().unwrap()
    }

    fn publish_inits(&self) {
        self.worker.publish(&init(0, b"init 0"), b"init 0");
        self.worker.publish(&init(1, b"init 1"), b"init 1");
    }

    fn publish_chunks(&self, number: u32) {
        for rendition in [1, 0] {
            let bytes = format!("chunk {rendition} {number}").into_bytes();
            self.worker
                .publish(&chunk(rendition, number, &bytes), &bytes);
        }
    }

    /// Waits until PMS has been sent so many lists.
    async fn until_lists(&self, count: usize) {
        let what = format!("{count} lists at PMS");
        let lists =
            |all: &Vec<fakes::Heard>| all.iter().filter(|h| h.tail == "/manifest").count() >= count;
        self.pms.heard.until(&what, lists).await;
    }

    fn log(&self) -> String {
        let log = self.root.path().join("log");
        let session = log.join("sessions/sess-job-1/timeline.log");
        [session, log.join("master.log")]
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .concat()
    }
}

/// Waits for the end; gives exit code and what was written to stdout and stderr.
async fn end(child: Child) -> (Option<i32>, Vec<u8>, Vec<u8>) {
    let ending = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output());
    let output = ending.await.expect("the cartridge did not end").unwrap();
    assert_eq!(output.status.signal(), None);
    (output.status.code(), output.stdout, output.stderr)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p3_a_dash_job_is_told_to_pms_in_its_order() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    // A renewed lease means: accepted, followed, and the next step is the worker's.
    let told = scene
        .worker
        .told
        .until("a lease", |told| told.renewed > 0)
        .await;
    assert_eq!(told.keys, [Some("the-key".to_owned())]);
    assert!(scene.pms.heard.get().is_empty(), "nothing before `probed`");
    scene.worker.emit(probed());
    scene.worker.emit(progress(5.0));
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    scene.publish_chunks(2);
    scene.publish_chunks(3);
    scene.until_lists(3).await;
    scene.worker.emit(progress(100.0));
    scene.worker.state(SessionState::Completed);
    let (code, stdout, stderr) = end(child).await;
    assert_eq!(code, Some(0), "{}", scene.log());
    assert!(stdout.is_empty() && stderr.is_empty());

    let heard = scene.pms.heard.get();
    let start: Vec<_> = heard
        .iter()
        .take(7)
        .map(|h| (h.method.as_str(), h.tail.as_str(), h.query.as_str()))
        .collect();
    assert_eq!(
        start,
        [
            ("PUT", "/progress", "status=startup"),
            (
                "PUT",
                "/progress/stream",
                "index=0&id=0&codec=h264&type=video"
            ),
            (
                "PUT",
                "/progress/stream",
                "index=1&id=1&codec=aac&type=audio"
            ),
            (
                "PUT",
                "/progress/streamDetail",
                "index=0&id=0&codec=h264&type=video&interlaced=0"
            ),
            (
                "PUT",
                "/progress/streamDetail",
                "index=1&id=1&codec=aac&type=audio"
            ),
            ("PUT", "/progress", "duration=60.000000"),
            ("PUT", "/progress", "width=1280&height=720"),
        ]
    );
    for call in &heard {
        assert_eq!(call.headers["x-plex-token"], "plex-token");
        assert_eq!(call.headers["x-plex-http-pipeline"], "infinite");
        assert!(
            call.headers["user-agent"]
                .to_str()
                .unwrap()
                .starts_with("Lavf/")
        );
    }
    let told: Vec<_> = heard
        .iter()
        .filter(|h| h.query.starts_with("progress="))
        .collect();
    assert!(
        told[0].query.starts_with("progress=5.0&size=0"),
        "{}",
        told[0].query
    );
    assert!(told.last().unwrap().query.starts_with("progress=100.0"));
    for pair in told.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(500));
    }

    let lists = scene.pms.calls("/manifest");
    assert_eq!(lists.len(), 4, "one for each number, and the end");
    assert!(
        lists.iter().all(|l| l.connection == lists[0].connection),
        "one connection"
    );
    assert!(
        lists
            .iter()
            .all(|l| l.query == "X-Plex-Http-Pipeline=infinite")
    );
    for (at, list) in lists.iter().enumerate() {
        let end = at == 3;
        let kind = if end { "static" } else { "dynamic" };
        assert!(
            list.body.contains(&format!("type=\"{kind}\"")),
            "{}",
            list.body
        );
        let entries = list.body.matches("d=\"3000\"").count();
        assert_eq!(entries, 2, "two timelines of equal segments");
        if at > 0 {
            let repeat = format!(" r=\"{}\"", at.min(2));
            assert_eq!(list.body.matches(&repeat).count(), 2, "{}", list.body);
        }
        let number = at.min(2) + 1;
        for name in ["init-stream0.m4s", "init-stream1.m4s"] {
            assert!(list.present.contains(name));
        }
        for rendition in 0..2 {
            let name = format!("chunk-stream{rendition}-{number:05}.m4s");
            assert!(
                list.present.contains(&name),
                "announced before it was here: {name}"
            );
        }
    }
    let file = std::fs::read(scene.dir.join("chunk-stream0-00002.m4s")).unwrap();
    assert_eq!(file, b"chunk 0 2");
    assert_eq!(names(&scene.dir).len(), 8, "no temporary file is left");
    let told = scene.worker.told.get();
    assert_eq!(
        told.ended,
        ["sess-job-1"],
        "nobody reads from the worker any more"
    );
    assert_eq!(told.cancelled, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p3_rows_of_a_segment_list_come_one_by_one_behind_the_header() {
    let scene = Scene::new().await;
    let child = scene.start("sp-02");
    scene.worker.emit(probed());
    scene.worker.publish(&row(0, b"zero"), b"zero");
    scene.worker.publish(&header(b"head"), b"head");
    for number in 1..7 {
        scene.worker.publish(&row(number, b"more"), b"more");
    }
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let lists = scene.pms.calls("/manifest");
    assert_eq!(lists.len(), 7);
    assert!(lists[0].present.contains("header"));
    assert_eq!(
        lists[0].body,
        "media-00000.ts,0.000000,1.000000,0.990000,1.000000\n"
    );
    for (at, list) in lists.iter().enumerate() {
        let rows: Vec<&str> = list.body.lines().collect();
        assert_eq!(rows.len(), (at + 1).min(5));
        let want = format!("media-{at:05}.ts,{at}.000000,");
        assert!(rows.last().unwrap().starts_with(&want), "{rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_throttle_goes_to_the_worker_and_back() {
    let scene = Scene::new().await;
    scene.pms.can_throttle.change(|on| *on = true);
    let mut child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.worker.emit(progress(1.0));
    scene
        .worker
        .told
        .until("throttle on", |t| t.throttled == [true])
        .await;
    scene.pms.can_throttle.change(|on| *on = false);
    // No new progress: the cartridge asks again by itself while it is throttled.
    scene
        .worker
        .told
        .until("throttle off", |t| t.throttled == [true, false])
        .await;
    let told = scene.pms.heard.get();
    let told: Vec<_> = told
        .iter()
        .filter(|h| h.query.starts_with("progress="))
        .collect();
    assert!(told[0].query.contains("&speed=2.0"));
    assert!(!told[1].query.contains("speed"), "left out while throttled");
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_broken_event_stream_is_resumed_where_it_broke() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    scene.worker.break_streams();
    scene
        .worker
        .told
        .until("a second connection", |t| t.followed.len() == 2)
        .await;
    assert_eq!(scene.worker.told.get().followed, [None, Some(6)]);
    scene.publish_chunks(2);
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    assert_eq!(scene.pms.calls("/manifest").len(), 3);
    assert_eq!(
        scene.worker.told.get().fetched.len(),
        6,
        "nothing is fetched twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_cancels_the_job() {
    for (signal, playing) in [(Signal::TERM, true), (Signal::INT, false)] {
        let scene = Scene::new().await;
        let child = scene.start("sp-01");
        scene
            .worker
            .told
            .until("a lease", |told| told.renewed > 0)
            .await;
        if playing {
            scene.worker.emit(probed());
            scene.publish_inits();
            scene.publish_chunks(1);
            scene.until_lists(1).await;
        }
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(end(child).await.0, Some(255));
        assert_eq!(scene.worker.told.get().cancelled, ["sess-job-1"]);
        assert!(!original::ran(scene.root.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_pipes_and_a_missing_pms_do_not_stop_a_job() {
    let scene = Scene::new().await;
    let mut argv = scene.argv("sp-01");
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for word in &mut argv {
        let text = word.to_str().unwrap();
        *word = text.replace(&scene.pms.base, &gone).into();
    }
    let mut child = scene.command(&argv).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.publish_chunks(2);
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    assert!(scene.dir.join("chunk-stream1-00002.m4s").exists());
}
