//! What must come out: the frames and keys that `ffmpeg` makes of the same film when it is given
//! the absolute list of keys, and the cuts that PROTOCOL 7.1 asks for in copied video.

use crate::{argv::Shape, media, probe};
use std::path::Path;

/// Frames of encoded video as (title time, key): constant rate, frame n at n / rate from the
/// title's zero, keys at the first frame at or after each multiple of D, from the first frame at or
/// after the seek.
#[track_caller]
pub fn encoded(film: &Path, shape: &Shape) -> Vec<(f64, bool)> {
    let work = tempfile::tempdir().expect("a temporary directory");
    let out = work.path().join("reference.nut");
    let keys = key_times(film, shape);
    let rate = shape.rate.map(|r| format!("{r}"));
    let mut args = vec![
        "-copyts",
        "-start_at_zero",
        "-i",
        film.to_str().expect("UTF-8 path"),
        "-map",
        &shape.picture,
        "-vf",
        "scale=64:36",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-x264-params",
        "keyint=infinite:scenecut=0",
        "-forced-idr",
        "1",
        "-pix_fmt",
        "yuv420p",
        "-fps_mode",
        "cfr",
        "-force_key_frames",
        &keys,
    ];
    if let Some(rate) = &rate {
        args.extend(["-r", rate]);
    }
    let out_text = out.to_str().expect("UTF-8 path").to_owned();
    args.extend(["-f", "nut", &out_text]);
    media::ffmpeg(args);
    let from = shape.seek.unwrap_or(0.0);
    presented(&probe::packets(&out, Some("v:0")), 0.0)
        .into_iter()
        .filter(|f| f.0 >= from - 1e-6)
        .collect()
}

/// The absolute list of keys for `-force_key_frames`: the first frame at or after each multiple of D.
#[track_caller]
pub fn key_times(film: &Path, shape: &Shape) -> String {
    let steps = (probe::duration(film) / shape.seconds).ceil() as u32;
    // The times of the frames meant, since ffmpeg rounds other times to the nearest frame.
    let keys: Vec<String> = (0..=steps)
        .map(|n| f64::from(n) * shape.seconds)
        .map(|due| match shape.rate {
            Some(rate) => (due * rate - 1e-6).ceil() / rate,
            None => due,
        })
        .map(|time| format!("{time:.6}"))
        .collect();
    keys.join(",")
}

/// Packets as (time, key) in order of presentation, `start` subtracted.
pub fn presented(packets: &[probe::Packet], start: f64) -> Vec<(f64, bool)> {
    let mut frames: Vec<(f64, bool)> = packets
        .iter()
        .filter_map(|p| Some((p.pts_time? - start, p.key())))
        .collect();
    frames.sort_by(|a, b| a.0.total_cmp(&b.0));
    frames
}

/// Frames of copied video: all of the film's from the key at or before the seek on.
#[track_caller]
pub fn copied(film: &Path, shape: &Shape) -> Vec<(f64, bool)> {
    // ffprobe's word for the stream has no input number.
    let own = shape.picture.split_once(':').map_or("v:0", |(_, s)| s);
    let seek = shape.seek.unwrap_or(0.0);
    let start = film_start(film);
    // A long film is read from the key that lies well before the seek.
    let packets = probe::packets_from(film, Some(own), (start + seek - 30.0).max(0.0));
    let frames = presented(&packets, start);
    let from = frames
        .iter()
        .rev()
        .find(|f| f.1 && f.0 <= seek + 1e-6)
        .map_or(0.0, |f| f.0);
    frames.into_iter().filter(|f| f.0 >= from - 1e-6).collect()
}

/// Start times of the segments of copied video by the cut rule: at a key with
/// `pts - first_pts >= (index - n + 1) x D - delta`.
pub fn copied_cuts(frames: &[(f64, bool)], seconds: f64, delta: f64) -> Vec<f64> {
    let mut cuts: Vec<f64> = Vec::new();
    for &(time, _) in frames.iter().filter(|f| f.1) {
        match cuts.first() {
            None => cuts.push(time),
            Some(first) if time - first >= cuts.len() as f64 * seconds - delta - 1e-6 => {
                cuts.push(time);
            }
            Some(_) => {}
        }
    }
    cuts
}

/// `start_time` of the file, which `-start_at_zero` takes off.
#[track_caller]
fn film_start(film: &Path) -> f64 {
    probe::start_time(film)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plex's own manifest: keys 10.4 s apart although D is 5.
    #[test]
    fn cuts_are_those_of_plexs_manifest() {
        let keys: Vec<(f64, bool)> = (0..3)
            .map(|n| (0.021 + 10.4 * f64::from(n), true))
            .collect();
        assert_eq!(copied_cuts(&keys, 5.0, 0.0).len(), 3);
        let keys: Vec<(f64, bool)> = (0..15).map(|n| (2.0 * f64::from(n), true)).collect();
        assert_eq!(
            copied_cuts(&keys, 5.0, 0.0),
            [0.0, 6.0, 10.0, 16.0, 20.0, 26.0]
        );
    }
}
