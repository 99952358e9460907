//! Cache and spool never grow beyond their ceilings, however long the film is (P6).

use crate::kit::Stage;
use plexbeam_tests::{argv, fake_pms, media::Clip};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

const CEILING: u64 = 32 << 20;
/// File systems count in blocks: at most one more per file, and a few names.
const SLACK: u64 = 256 << 10;

/// Ten seconds of noise at 16 Mb/s, over and over.
fn film() -> Clip {
    let video = "testsrc2=size=1280x720:rate=24:duration=10,noise=alls=40:allf=t";
    Clip::custom(
        "noise-16M",
        "mkv",
        &[
            "-f",
            "lavfi",
            "-i",
            video,
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=48000:duration=10",
            "-map",
            "0",
            "-map",
            "1",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-b:v",
            "16M",
            "-minrate",
            "16M",
            "-maxrate",
            "16M",
            "-bufsize",
            "8M",
            "-x264-params",
            "keyint=24:scenecut=0:nal-hrd=cbr",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "ac3",
            "-t",
            "10",
        ],
    )
    .looped(185.0)
}

#[test]
fn a_job_of_ten_times_the_ceilings_is_read_to_the_end() {
    let flags = "32MiB";
    let stage = Stage::with(
        "ceilings",
        &["--spool-size", flags],
        &["--cache-size", flags],
    );
    let film = film().path();
    let mut play = stage.play(argv::line("mc-01"), &film);
    play.keep = None;
    let done = AtomicBool::new(false);
    let (cache, spool) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                cache.fetch_max(stage.mount.cache_bytes(), Ordering::SeqCst);
                spool.fetch_max(stage.worker.spool_bytes(), Ordering::SeqCst);
                thread::park_timeout(Duration::from_millis(5));
            }
        });
        let report = fake_pms::play(&play);
        done.store(true, Ordering::SeqCst);
        report
    })
    .expect("a play");
    let (cache, spool) = (cache.into_inner(), spool.into_inner());
    println!("most: cache {cache}, spool {spool}, read {}", report.bytes);
    report.assert_clean();
    assert!(!stage.original().exists(), "ran locally");
    assert!(report.bytes >= 10 * CEILING, "only {} bytes", report.bytes);
    assert!(
        cache > 0 && cache <= CEILING + SLACK,
        "cache grew to {cache}"
    );
    assert!(spool <= CEILING + SLACK, "spool grew to {spool}");
}
