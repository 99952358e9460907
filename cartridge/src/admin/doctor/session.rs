//! One playback, started as Plex starts it, of a film that is made for it.

use super::film;
use super::mount::Place;
use super::pms::Pms;
use super::{Checks, Doctor};
use crate::client::Worker;
use crate::http::{Call, Method, Url, within};
use crate::log::EndOfSession;
use plexbeam_api::{Id, Segment, route};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The checks of this room, in their order.
pub(super) const NAMES: [&str; 4] = ["film", "first_segment", "callbacks", "bandwidth"];

/// Seconds of the film, and of each segment.
const FILM: u32 = 8;
const SEGMENT: u32 = 2;
/// Longest wait for its end.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(5);

/// Everything that is removed afterwards.
struct Scene {
    temp: PathBuf,
    dir: PathBuf,
    child: Option<Child>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir_all(&self.temp);
        // Of the folders above, those that Plex does not use.
        let _ = self.dir.parent().map(fs::remove_dir);
        let _ = self.dir.parent().and_then(Path::parent).map(fs::remove_dir);
    }
}

/// Plays and judges.
pub(super) fn play(doctor: &Doctor, place: &Place, urls: &[Url], checks: &mut Checks) {
    let name = format!("plexbeamdoctor{}", std::process::id());
    let job = "00000000-0000-4000-8000-000000000000";
    let mut scene = Scene {
        temp: std::env::temp_dir().join(&name),
        dir: place
            .dir
            .join(format!("Transcode/Sessions/plex-transcode-{name}-{job}")),
        child: None,
    };
    let started = match start(doctor, &mut scene, &name, job) {
        Ok(started) => started,
        Err(error) => {
            checks.fail(
                "film",
                error.to_string(),
                "see that this host has space in its temporary folder",
            );
            NAMES
                .iter()
                .skip(1)
                .for_each(|name| checks.skip(name, "no film"));
            return;
        }
    };
    let (pms, began) = started;
    let id = format!("{name}-{job}");
    let mut first = None;
    let mut rate = None;
    let code = loop {
        if first.is_none()
            && let Some(heard) = pms
                .heard()
                .into_iter()
                .find(|h| h.call.contains("/manifest"))
        {
            first = Some((heard.at - began, segment(&scene.dir)));
            rate = bandwidth(doctor, urls, &id);
        }
        let ended = scene
            .child
            .as_mut()
            .and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = ended {
            break status.code();
        }
        if began.elapsed() > PATIENCE {
            break None;
        }
        std::thread::sleep(PAUSE);
    };
    let folder = scene.temp.join("logs/sessions").join(&id);
    let result = fs::read(folder.join("result.json")).ok();
    let result: Option<EndOfSession> = result.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let timeline = fs::read_to_string(folder.join("timeline.log")).unwrap_or_default();
    let master = fs::read_to_string(scene.temp.join("logs/master.log")).unwrap_or_default();
    judge_film(place, result.as_ref(), &timeline, &master, checks);
    match (&first, code) {
        (Some((time, Ok(size))), Some(0)) => checks.ok(
            "first_segment",
            format!(
                "announced after {} ms, {size} bytes read here",
                time.as_millis()
            ),
        ),
        (Some((_, Err(error))), _) => checks.fail(
            "first_segment",
            format!("announced, but it cannot be read: {error}"),
            "look into the mount's log",
        ),
        (Some(_), code) => checks.fail(
            "first_segment",
            format!(
                "the job failed behind it (exit {code:?}): {}",
                last_line(&timeline)
            ),
            "look into the worker's log",
        ),
        (None, _) => checks.skip("first_segment", "none was announced"),
    }
    let kinds = [
        "status=startup",
        "/streamDetail",
        "progress?duration=",
        "/manifest",
    ];
    let missing: Vec<&str> = kinds
        .into_iter()
        .filter(|kind| pms.count(kind) == 0)
        .collect();
    match (first.is_some(), missing.is_empty()) {
        (true, true) => checks.ok(
            "callbacks",
            format!("{} calls, in order", pms.heard().len()),
        ),
        (true, false) => checks.fail(
            "callbacks",
            format!("not heard: {}", missing.join(", ")),
            "this is a fault of PlexBeam; please report it with the session's log",
        ),
        (false, _) => checks.skip("callbacks", "nothing was announced"),
    }
    match rate {
        Some((bytes, time)) => {
            let rate = bytes as f64 / 1e6 / time.as_secs_f64().max(1e-6);
            let fact = format!(
                "{rate:.1} MB/s from the worker ({bytes} bytes in {} ms)",
                time.as_millis()
            );
            match rate < 5.0 && bytes > 100_000 {
                true => checks.warn(
                    "bandwidth",
                    fact,
                    "a film in 4K needs about 5 MB/s: use a wired network",
                ),
                false => checks.ok("bandwidth", fact),
            }
        }
        None => checks.skip("bandwidth", "no segment could be fetched for it"),
    }
}

fn start(
    doctor: &Doctor,
    scene: &mut Scene,
    name: &str,
    job: &str,
) -> std::io::Result<(Pms, Instant)> {
    fs::create_dir_all(&scene.temp)?;
    fs::create_dir_all(&scene.dir)?;
    let film = match &doctor.film {
        Some(film) => film.canonicalize()?,
        None => {
            let path = scene.temp.join("film.avi");
            let mut file = std::io::BufWriter::new(fs::File::create(&path)?);
            film::write(&mut file, FILM)?;
            path
        }
    };
    let pms = Pms::start()?;
    let base = format!(
        "http://{}/video/:/transcode/session/{name}/{job}",
        pms.address
    );
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command
        .arg0("/usr/lib/plexmediaserver/Plex Transcoder")
        .args(argv(&film, &base))
        .current_dir(&scene.dir)
        .env("X_PLEX_TOKEN", "doctor")
        .env("PLEXBEAM_LOG_DIR", scene.temp.join("logs"))
        .env("PLEXBEAM_HIDE_NAMES", "false")
        // Nothing is played where the worker does not.
        .env("PLEXBEAM_ORIGINAL", "/bin/false")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(path) = doctor.root.env()("PLEXBEAM_CONFIG") {
        command.env("PLEXBEAM_CONFIG", path);
    }
    let began = Instant::now();
    scene.child = Some(command.spawn()?);
    Ok((pms, began))
}

/// A line as recent servers write it (PROTOCOL 3), for the encoder that every worker has.
fn argv(film: &Path, base: &str) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> = vec!["-i".into(), film.into()];
    let text = format!(
        "-start_at_zero|-copyts|-fps_mode|cfr|-y|-nostats|-loglevel|quiet|-loglevel_plex|error\
         |-progressurl|{base}/progress\
         |-filter_complex|[0:0]scale=w=320:h=180:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1]\
         |-map|[1]|-codec:0|libx264|-crf:0|18|-r:0|{rate}|-preset:0|veryfast\
         |-force_key_frames:0|expr:gte(t,n_forced*{SEGMENT})\
         |-filter_complex|[0:1] aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000[2]\
         |-map|[2]|-codec:1|aac|-b:1|128k\
         |-f|dash|-seg_duration|{SEGMENT}|-dash_segment_type|mp4\
         |-init_seg_name|init-stream$RepresentationID$.m4s\
         |-media_seg_name|chunk-stream$RepresentationID$-$Number%05d$.m4s\
         |-window_size|5|-delete_removed|false|-skip_to_segment|1\
         |-manifest_name|{base}/manifest?X-Plex-Http-Pipeline=infinite\
         |-avoid_negative_ts|disabled|-map_metadata|-1|-map_chapters|-1|dash",
        rate = film::RATE,
    );
    // The one bar inside a value.
    let text = text.replace("yuv420p|nv12", "yuv420p");
    words.extend(text.split('|').map(Into::into));
    words
}

/// Reads the first segment where Plex would.
fn segment(dir: &Path) -> std::io::Result<usize> {
    let init = fs::read(dir.join("init-stream0.m4s"))?;
    let media = fs::read(dir.join("chunk-stream0-00001.m4s"))?;
    Ok(init.len() + media.len())
}

fn last_line(text: &str) -> &str {
    let line = text.lines().last().unwrap_or_default();
    line.split_once("] ").map_or(line, |(_, what)| what)
}

/// Did a worker open the film?
fn judge_film(
    place: &Place,
    result: Option<&EndOfSession>,
    timeline: &str,
    master: &str,
    checks: &mut Checks,
) {
    if timeline.contains("input open, encoding by") {
        let device = result
            .and_then(|r| r.facts.get("device").cloned())
            .unwrap_or_default();
        let ms = result
            .and_then(|r| r.facts.get("probed_ms").cloned())
            .unwrap_or_default();
        match result.is_some_and(|r| r.ran == "local") {
            false => checks.ok(
                "film",
                format!("opened by the worker after {ms} ms, encoding by {device}"),
            ),
            true => {
                let why = result.and_then(|r| r.reason.clone()).unwrap_or_default();
                checks.fail(
                    "film",
                    format!("opened, but not encoded: {why}"),
                    "look into the worker's log",
                );
            }
        }
        return;
    }
    let why = result
        .and_then(|r| r.reason.clone())
        .unwrap_or_else(|| last_line(master).to_owned());
    let route = place.info.as_ref().and_then(|info| info.media.clone());
    let input = ["input", "film", "media", "opened"]
        .iter()
        .any(|part| why.contains(part));
    let fix = match (route, input) {
        (_, false) => "look into the worker's log".to_owned(),
        (None, true) => {
            "start the mount with --export-media ADDR:8770, an address that the worker reaches; \
             or show the worker the films and name both paths with --path-map"
                .into()
        }
        (Some(route), true) => format!(
            "let the worker reach {route} (address of --export-media, firewall, the same key in mount, \
             settings and worker); or show it the films and use --path-map"
        ),
    };
    checks.fail("film", format!("no worker opened it: {why}"), fix);
}

/// Fetches the largest file of the session from its worker.
fn bandwidth(doctor: &Doctor, urls: &[Url], id: &str) -> Option<(usize, Duration)> {
    let key = crate::config::Config::load(&doctor.root.env())
        .ok()?
        .api_key;
    let id: Id = id.parse().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        for url in urls {
            let mut connection = Worker::new(url.clone(), key.clone()).connection();
            let list = Call::new(Method::GET, url.join(&route::session_files(&id)));
            let Ok(reply) = connection.call(&list, within(Duration::from_secs(3))).await else {
                continue;
            };
            let Ok(files) = serde_json::from_slice::<Vec<Segment>>(&reply.body) else {
                continue;
            };
            let largest = files.iter().max_by_key(|file| file.size)?;
            let get = Call::new(
                Method::GET,
                url.join(&route::session_file(&id, &largest.name)),
            );
            let started = Instant::now();
            let reply = connection
                .call(&get, within(Duration::from_secs(20)))
                .await
                .ok()?;
            return (reply.status == 200).then(|| (reply.body.len(), started.elapsed()));
        }
        None
    })
}
