//! A film that needs no encoder: uncompressed pictures and sound in an AVI file (RIFF, OpenDML's
//! first part). Noise, so that its segments are as large as those of a real film.

use std::io::{self, Write};

/// Pictures per second.
pub(super) const RATE: u32 = 24;
const WIDTH: u32 = 320;
const HEIGHT: u32 = 180;
/// Samples per second; two channels of 16 bits.
const SAMPLES: u32 = 48_000;

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    if body.len() % 2 == 1 {
        out.push(0);
    }
    out
}

fn list(kind: &[u8; 4], parts: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"LIST", &[kind.to_vec(), parts.concat()].concat())
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Writes so many seconds.
pub(super) fn write(out: &mut impl Write, seconds: u32) -> io::Result<()> {
    let (frames, picture) = (seconds * RATE, WIDTH * HEIGHT * 3 / 2);
    let sound = SAMPLES / RATE * 4;
    // avih: 0x10 has an index, 0x100 interleaved.
    let main = words(&[
        1_000_000 / RATE,
        RATE * (picture + sound),
        0,
        0x110,
        frames,
        0,
        2,
        picture,
        WIDTH,
        HEIGHT,
        0,
        0,
        0,
        0,
    ]);
    let head = |kind: &[u8; 4],
                codec: &[u8; 4],
                scale: u32,
                rate: u32,
                length: u32,
                buffer: u32,
                sample: u32| {
        let mut body = [kind.to_vec(), codec.to_vec()].concat();
        body.extend(words(&[
            0,
            0,
            0,
            scale,
            rate,
            0,
            length,
            buffer,
            u32::MAX,
            sample,
        ]));
        // rcFrame.
        body.extend([0; 8]);
        chunk(b"strh", &body)
    };
    let mut bitmap = words(&[40, WIDTH, HEIGHT]);
    bitmap.extend([1, 0, 12, 0]);
    bitmap.extend(b"I420");
    bitmap.extend(words(&[picture, 0, 0, 0, 0]));
    // WAVEFORMATEX: PCM, two channels, rate, bytes per second, block, bits.
    let mut wave = vec![1, 0, 2, 0];
    wave.extend(words(&[SAMPLES, SAMPLES * 4]));
    wave.extend([4, 0, 16, 0]);
    let header = list(
        b"hdrl",
        &[
            chunk(b"avih", &main),
            list(
                b"strl",
                &[
                    head(b"vids", b"I420", 1, RATE, frames, picture, 0),
                    chunk(b"strf", &bitmap),
                ],
            ),
            list(
                b"strl",
                &[
                    head(
                        b"auds",
                        &[0; 4],
                        4,
                        SAMPLES * 4,
                        seconds * SAMPLES,
                        sound,
                        4,
                    ),
                    chunk(b"strf", &wave),
                ],
            ),
        ],
    );
    let movie = 4 + frames * (8 + picture + 8 + sound);
    let index = frames * 32;
    out.write_all(b"RIFF")?;
    out.write_all(&(4 + header.len() as u32 + 8 + movie + 8 + index).to_le_bytes())?;
    out.write_all(b"AVI ")?;
    out.write_all(&header)?;
    out.write_all(b"LIST")?;
    out.write_all(&movie.to_le_bytes())?;
    out.write_all(b"movi")?;
    let (mut noise, mut entries, mut at) = (1_u32, Vec::new(), 4_u32);
    for _ in 0..frames {
        let mut pixels = vec![128_u8; picture as usize];
        let luma = (WIDTH * HEIGHT) as usize;
        for pixel in pixels.iter_mut().take(luma) {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *pixel = 96 + (noise >> 26) as u8;
        }
        let samples = vec![0_u8; sound as usize];
        for (name, body) in [(b"00db", pixels), (b"01wb", samples)] {
            out.write_all(&chunk(name, &body))?;
            entries.extend(name);
            // 0x10: may be started with.
            entries.extend(words(&[0x10, at, body.len() as u32]));
            at += 8 + body.len() as u32;
        }
    }
    out.write_all(&chunk(b"idx1", &entries))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    /// Its judge is ffprobe.
    #[test]
    fn ffprobe_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.avi");
        super::write(&mut std::fs::File::create(&path).unwrap(), 2).unwrap();
        let output = std::process::Command::new("ffprobe")
            .args(["-v", "error", "-count_packets", "-show_entries"])
            .args([
                "stream=codec_name,width,height,nb_read_packets,r_frame_rate,sample_rate,duration",
            ])
            .args(["-of", "compact"])
            .arg(&path)
            .output()
            .expect("ffprobe");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.stderr.is_empty(),
            "{:?}",
            String::from_utf8(output.stderr)
        );
        let mut lines = text.lines();
        let video = lines.next().unwrap();
        for part in [
            "rawvideo",
            "width=320",
            "height=180",
            "24/1",
            "duration=2.000000",
            "nb_read_packets=48",
        ] {
            assert!(video.contains(part), "{part} in {video}");
        }
        let audio = lines.next().unwrap();
        for part in ["pcm_s16le", "sample_rate=48000"] {
            assert!(audio.contains(part), "{part} in {audio}");
        }
        let sound = std::process::Command::new("ffmpeg")
            .args(["-v", "error", "-i"])
            .arg(&path)
            .args(["-map", "0:a", "-f", "s16le", "-"])
            .output()
            .expect("ffmpeg");
        assert_eq!(sound.stdout.len(), 2 * 48_000 * 4);
    }
}
