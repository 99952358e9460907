//! The real binary as a process: start, address, refusals, signals, and what it leaves behind.

use super::bench::{children_of, lives, on_disk, signal};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_plexbeam-worker");
const LIMIT: Duration = Duration::from_secs(30);

fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ask() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Worker {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
    key: Option<&'static str>,
}

impl Worker {
    fn start(args: &[&str], key: Option<&'static str>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args, key)
    }

    fn start_in(dir: TempDir, args: &[&str], key: Option<&'static str>) -> Self {
        let address = dir.path().join("address");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(BIN);
        command
            .arg("serve")
            .arg("--spool")
            .arg(dir.path())
            .arg("--address-file")
            .arg(&address)
            .args(args)
            .env("PLEXBEAM_LISTEN", "127.0.0.1:0")
            .env("PLEXBEAM_LOG", "debug")
            .stdin(Stdio::null())
            .stderr(log);
        match key {
            Some(key) => command.env("PLEXBEAM_API_KEY", key),
            None => command.env_remove("PLEXBEAM_API_KEY"),
        };
        let mut child = command.spawn().unwrap();
        let addr = until("the address file", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            std::fs::read_to_string(&address).ok()?.trim().parse().ok()
        });
        Worker {
            child,
            addr,
            dir,
            key,
        }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.addr).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let key = match self.key {
            Some(key) => format!("X-API-Key: {key}\r\n"),
            None => String::new(),
        };
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{key}Content-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}",
            self.addr
        )
        .unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).unwrap();
        let end = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&reply[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = String::from_utf8_lossy(&reply[end + 4..]).into_owned();
        (status, body)
    }

    fn until_ready(&self) {
        until("it to be ready", || {
            (self.call("GET", "/ready", "").0 == 200).then_some(())
        });
    }

    fn submit(&self, id: &str, input: &Path) -> (u16, Value) {
        self.submit_at(id, input, "ultrafast")
    }

    /// Not 320 pixels wide: there the AVX-512 code of x264 r3095 reads memory that nobody wrote (with
    /// `MALLOC_PERTURB_` `ffmpeg` shows it, too), and one encode is not like the next.
    fn submit_at(&self, id: &str, input: &Path, preset: &str) -> (u16, Value) {
        let job = json!({
            "job_id": id,
            "input": { "type": "file", "path": input },
            "output": { "type": "hls", "segment_duration": 2 },
            "arguments": { "preset": preset, "resolution": "384x216" }
        });
        let (status, body) = self.call("POST", "/transcode", &job.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }

    fn status(&self, id: &str) -> Value {
        let (_, body) = self.call("GET", &format!("/status/{id}"), "");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits for the job's good end.
    fn until_completed(&self, id: &str) {
        let last = until("the end", || {
            let status = self.status(id);
            let state = status["state"].as_str().unwrap().to_owned();
            matches!(state.as_str(), "completed" | "failed").then_some(status)
        });
        assert_eq!(last["state"], "completed", "{last}");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn sessions(&self) -> PathBuf {
        self.dir.path().join("plexbeam-spool/sessions")
    }

    fn wait(&mut self) -> ExitStatus {
        until("its end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails at once with exit code and the words of standard error.
fn refused(args: &[&str]) -> (i32, String) {
    let output = Command::new(BIN)
        .arg("serve")
        .args(args)
        .env("PLEXBEAM_LISTEN", "127.0.0.1:0")
        .env_remove("PLEXBEAM_API_KEY")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

fn ffmpeg(args: &[&str], to: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error"]).args(args).arg(to);
    assert!(command.status().unwrap().success());
}

/// A clip of 9 seconds.
pub(crate) fn short_clip(dir: &Path) -> PathBuf {
    let path = dir.join("short.mkv");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=9"];
    let audio = ["-f", "lavfi", "-i", "sine=d=9"];
    let codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"];
    ffmpeg(&[&video[..], &audio, &codecs].concat(), &path);
    path
}

/// One that is not transcoded before a test ends: the short one, a hundred times.
fn long_clip(dir: &Path) -> PathBuf {
    let short = short_clip(dir);
    let path = dir.join("long.mkv");
    let looped = [
        "-stream_loop",
        "100",
        "-i",
        short.to_str().unwrap(),
        "-c",
        "copy",
    ];
    ffmpeg(&looped, &path);
    path
}

/// Frames of the first video stream, as ffprobe counts and sees them.
fn frames(of: &str) -> Value {
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args([
            "-show_entries",
            "stream=nb_read_frames,width,height",
            "-of",
            "json",
        ])
        .arg(of)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&probe.stderr);
    assert!(errors.is_empty(), "{of}: {errors}");
    let found: Value = serde_json::from_slice(&probe.stdout).unwrap();
    found["streams"][0].clone()
}

#[test]
fn p8_it_will_not_listen_to_everybody_without_a_key() {
    let (code, text) = refused(&["--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(text.contains("without an API key"), "{text}");
    assert!(
        text.contains("--api-key") && text.contains("127.0.0.1"),
        "{text}"
    );
    let open = Worker::start(&["--listen", "0.0.0.0:0"], Some("k"));
    assert!(open.addr.ip().is_unspecified());
}

#[test]
fn a_start_that_fails_says_why_and_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (code, text) = refused(&["--listen", &addr]);
    assert_eq!(code, 1);
    assert!(text.contains(&addr) && text.contains("hint: "), "{text}");
    let worker = Worker::start(&[], None);
    let spool = worker.dir.path().to_str().unwrap();
    let (code, text) = refused(&["--listen", "127.0.0.1:0", "--spool", spool]);
    assert_eq!(code, 1);
    assert!(text.contains("another worker uses it"), "{text}");
    for bad in [
        &["--spool-size", "much"][..],
        &["--max-jobs", "0"],
        &["--hw", "gpu"],
        &["--path-map", "x"],
        &["--listen", "nowhere"],
    ] {
        let (code, text) = refused(bad);
        assert_eq!(code, 2, "{bad:?}");
        assert!(text.contains(bad[0]), "{text}");
    }
}

#[test]
fn a_real_title_becomes_a_playlist_that_ffprobe_plays() {
    let worker = Worker::start(&["--max-jobs", "2"], None);
    let input = short_clip(worker.dir.path());
    worker.until_ready();
    assert!(
        worker
            .log()
            .contains(&format!("listening on http://{}", worker.addr))
    );
    let (status, accepted) = worker.submit("film", &input);
    assert_eq!(status, 202, "{accepted}");
    worker.until_completed("film");
    let playlist = format!("http://{}/sessions/film/files/index.m3u8", worker.addr);
    let reference = worker.dir.path().join("reference.ts");
    let source = ["-copyts", "-start_at_zero", "-i", input.to_str().unwrap()];
    let encode = [
        "-fps_mode",
        "cfr",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-an",
    ];
    let scale = ["-vf", "scale=384:216"];
    ffmpeg(&[&source[..], &encode, &scale].concat(), &reference);
    assert_eq!(frames(&playlist), frames(reference.to_str().unwrap()));
}

/// Digest of a segment's video as the encoder made it.
fn video_of(url: &str) -> String {
    let digest = Command::new("ffmpeg")
        .args(["-v", "error", "-i", url, "-map", "0:v", "-c", "copy"])
        .args(["-f", "md5", "-"])
        .output()
        .unwrap();
    assert!(digest.status.success(), "{url}");
    String::from_utf8(digest.stdout).unwrap()
}

/// The flag reaches the job: its first segment has other bytes, all others are the same.
#[test]
fn a_fast_start_is_made_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let input = short_clip(dir.path());
    let made = [&[][..], &["--fast-start"]].map(|args| {
        let worker = Worker::start(args, None);
        worker.until_ready();
        let (status, accepted) = worker.submit_at("film", &input, "veryfast");
        assert_eq!(status, 202, "{accepted}");
        worker.until_completed("film");
        let folder = format!("http://{}/sessions/film/files", worker.addr);
        [0, 1, 2].map(|n| video_of(&format!("{folder}/media-0000{n}.ts")))
    });
    let [slow, fast] = made;
    assert_ne!(slow[0], fast[0], "the start was not a fast one");
    assert_eq!(slow[1..], fast[1..]);
}

#[test]
fn bad_inputs_fail_with_a_reason() {
    let worker = Worker::start(&["--max-jobs", "2"], None);
    let dir = worker.dir.path().to_owned();
    std::fs::write(dir.join("empty.mkv"), b"").unwrap();
    std::fs::write(dir.join("text.mkv"), b"this is no film\n".repeat(100)).unwrap();
    for name in ["missing", "empty", "text"] {
        let (status, _) = worker.submit(name, &dir.join(format!("{name}.mkv")));
        assert_eq!(status, 202);
        let status = until(name, || {
            Some(worker.status(name)).filter(|status| status["state"] == "failed")
        });
        assert_eq!(status["error"]["kind"], "bad-input", "{status}");
        assert_eq!(status["segments"], 0);
    }
}

/// A film that takes what memory it gets costs its own job only.
#[test]
fn p6_a_job_above_its_memory_fails_alone() {
    let worker = Worker::start(&["--hw", "none", "--job-memory", "48MiB"], None);
    worker.until_ready();
    let clip = worker.dir.path().join("large.mkv");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=3840x2160:r=25:d=1"];
    ffmpeg(&[&video[..], &["-c:v", "mpeg4"]].concat(), &clip);
    for id in ["a", "b"] {
        assert_eq!(worker.submit(id, &clip).0, 202);
        let status = until("its end", || {
            let status = worker.status(id);
            (status["state"] == "failed" || status["state"] == "completed").then_some(status)
        });
        assert_eq!(status["state"], "failed", "{status}");
        let detail = status["error"]["detail"].as_str().unwrap();
        assert!(!detail.is_empty(), "{status}");
    }
    assert_eq!(worker.call("GET", "/health", "").0, 200);
    // The same film within the usual ceiling.
    let usual = Worker::start(&["--hw", "none"], None);
    usual.until_ready();
    assert_eq!(usual.submit("c", &clip).0, 202);
    until("its end", || {
        (usual.status("c")["state"] == "completed").then_some(())
    });
}

#[test]
fn killing_a_job_fails_it_and_killing_the_worker_ends_its_jobs() {
    let mut worker = Worker::start(&["--max-jobs", "1"], None);
    let input = long_clip(worker.dir.path());
    worker.until_ready();
    let worker_pid = worker.child.id();
    let spare = children_of(worker_pid);
    assert_eq!(spare.len(), 1, "the parked one");
    worker.submit("one", &input);
    until("a segment", || {
        (worker.status("one")["segments"].as_u64()? > 0).then_some(())
    });
    signal("KILL", spare[0]);
    let status = until("the failure", || {
        Some(worker.status("one")).filter(|status| status["state"] == "failed")
    });
    assert_eq!(status["error"]["kind"], "internal");
    assert!(
        status["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("signal 9")
    );
    worker.submit("two", &input);
    until("another segment", || {
        (worker.status("two")["segments"].as_u64()? > 0).then_some(())
    });
    let children = until("job and spare", || {
        Some(children_of(worker_pid)).filter(|pids| pids.len() == 2)
    });
    signal("KILL", worker_pid);
    worker.wait();
    for pid in children {
        until("a child to die with its worker", || {
            (!lives(pid)).then_some(())
        });
    }
    // What a dead worker left is gone at the next start.
    assert!(on_disk(&worker.sessions()) > 0);
    let dir = std::mem::replace(&mut worker.dir, tempfile::tempdir().unwrap());
    let _ = std::fs::remove_file(dir.path().join("address"));
    let again = Worker::start_in(dir, &[], None);
    assert_eq!(on_disk(&again.sessions()), 0);
}

#[test]
fn p5_an_owner_whose_connection_breaks_is_paused_and_goes_on_when_it_is_back() {
    let worker = Worker::start(&["--max-jobs", "1"], None);
    let input = long_clip(worker.dir.path());
    worker.until_ready();
    let job = json!({
        "api_version": 1,
        "job_id": "film",
        "inputs": [{ "locations": [{ "type": "path", "path": input }] }],
        "outputs": [{
            "packaging": {
                "type": "hls", "segment_seconds": 2.0, "first_number": 0,
                "media_name": "media-%05d.ts", "playlist_name": "index.m3u8"
            },
            "streams": [{
                "source": {
                    "from": "stream", "input": 0,
                    "select": { "by": "kind", "media": "video", "nth": 0 }
                },
                "codec": {
                    "do": "encode", "encoder": "libx264", "options": [["preset", "ultrafast"]]
                }
            }]
        }],
        "time": { "copyts": true, "start_at_zero": true, "frames": "cfr_from_zero" },
        "lease": { "kind": "owner", "pause_after_ms": 400, "free_after_ms": 60000 }
    });
    let (status, body) = worker.call("POST", "/transcode", &job.to_string());
    assert_eq!(status, 202, "{body}");
    let connect = || {
        let mut socket = TcpStream::connect(worker.addr).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        write!(
            socket,
            "GET /sessions/film/events?lease HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        .unwrap();
        // Answered: the lease is held.
        let mut first = [0; 15];
        socket.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        socket
    };
    // The list does not count as a sign of life, as the status would.
    let state = || {
        let (_, body) = worker.call("GET", "/sessions", "");
        let list: Value = serde_json::from_str(&body).unwrap();
        list[0]["state"].as_str().unwrap().to_owned()
    };
    for _ in 0..2 {
        let owner = connect();
        until("it to run", || (state() == "running").then_some(()));
        drop(owner);
        until("it to be paused", || (state() == "paused").then_some(()));
    }
}

#[test]
fn p8_a_job_reads_only_what_lies_under_the_media_roots() {
    let media = tempfile::tempdir().unwrap();
    let input = short_clip(media.path());
    let root = media.path().join("allowed");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(&input, root.join("film.mkv")).unwrap();
    std::os::unix::fs::symlink(&input, root.join("link.mkv")).unwrap();
    let map = format!("/plex/media={}", root.display());
    let roots = root.to_str().unwrap();
    let worker = Worker::start(&["--media-root", roots, "--path-map", &map], None);
    let end = |id: &str, path: &Path| {
        worker.submit(id, path);
        until(id, || {
            let status = worker.status(id);
            matches!(status["state"].as_str()?, "completed" | "failed").then_some(status)
        })
    };
    let mapped = end("mapped", Path::new("/plex/media/film.mkv"));
    assert_eq!(mapped["state"], "completed", "{mapped}");
    for (id, path) in [
        ("outside", input),
        ("link", root.join("link.mkv")),
        ("dots", root.join("../short.mkv")),
        ("mapped-dots", PathBuf::from("/plex/media/../short.mkv")),
    ] {
        let status = end(id, &path);
        assert_eq!(status["state"], "failed", "{id}: {status}");
    }
}

/// A worker with a running job, and the pids of its children.
fn busy(args: &[&str]) -> (Worker, Vec<u32>) {
    let worker = Worker::start(args, Some("k3y-of-the-worker"));
    let input = long_clip(worker.dir.path());
    worker.until_ready();
    let (status, _) = worker.submit("film", &input);
    assert_eq!(status, 202);
    until("a segment", || {
        (worker.status("film")["segments"].as_u64()? > 0).then_some(())
    });
    let pids = until("job and spare", || {
        Some(children_of(worker.child.id())).filter(|pids| pids.len() == 2)
    });
    (worker, pids)
}

#[test]
fn sigterm_drains_and_leaves_nothing() {
    let (mut worker, pids) = busy(&["--drain-timeout", "700ms"]);
    let token = {
        let (_, body) = worker.call("GET", "/sessions", "");
        assert!(!body.contains("token"), "lists show no token");
        let list: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(list[0]["state"], "running");
        let (_, again) = worker.submit("film", &worker.dir.path().join("long.mkv"));
        again["token"].as_str().unwrap().to_owned()
    };
    let mut events = TcpStream::connect(worker.addr).unwrap();
    events.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        events,
        "GET /sessions/film/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    signal("TERM", worker.child.id());
    until("it to drain", || {
        let (_, body) = worker.call("GET", "/health", "");
        body.contains("draining").then_some(())
    });
    assert_eq!(worker.call("GET", "/ready", "").0, 503);
    let (refused, problem) = worker.submit("late", Path::new("/x.mkv"));
    assert_eq!((refused, &problem["kind"]), (503, &json!("unavailable")));
    let mut story = String::new();
    let _ = events.read_to_string(&mut story);
    for state in ["draining", "cancelled"] {
        assert!(story.contains(&format!("\"state\":\"{state}\"")), "{story}");
    }
    assert!(worker.wait().success());
    for pid in pids {
        assert!(!lives(pid), "child {pid} is left");
    }
    assert_eq!(on_disk(&worker.sessions()), 0);
    assert!(!worker.sessions().exists());
    // Logs of a worker with a key, at debug level, hold neither key nor token.
    let log = worker.log();
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains("k3y-of-the-worker") && !log.contains(&token));
}

#[test]
fn a_second_signal_leaves_at_once() {
    let (mut worker, pids) = busy(&["--drain-timeout", "1h"]);
    signal("INT", worker.child.id());
    until("it to drain", || {
        let (_, body) = worker.call("GET", "/health", "");
        body.contains("draining").then_some(())
    });
    assert_eq!(worker.status("film")["state"], "draining");
    signal("TERM", worker.child.id());
    worker.wait();
    for pid in pids {
        assert!(!lives(pid), "child {pid} is left");
    }
    assert!(!worker.sessions().exists());
}
