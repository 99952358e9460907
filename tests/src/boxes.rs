//! MP4 boxes (ISO/IEC 14496-12), as far as init segments and fragments need them. Read by hand, so
//! that a muxer's mistakes are not excused by a library's repairs.

use std::fmt;

/// Why bytes are not whole boxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxError(pub String);

impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One box: its type and its payload.
#[derive(Debug, Clone, Copy)]
pub struct Mp4Box<'a> {
    /// Four characters.
    pub kind: [u8; 4],
    /// Offset of the box in the file.
    pub offset: usize,
    /// Without the header.
    pub payload: &'a [u8],
    /// With the header.
    pub size: usize,
}

impl Mp4Box<'_> {
    /// The type as text.
    pub fn name(&self) -> String {
        self.kind.iter().map(|&b| b as char).collect()
    }
}

/// The boxes of `bytes`; their sizes add up to its length exactly, else an error.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mp4Box<'_>>, BoxError> {
    let mut boxes = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let fail = |what: &str| BoxError(format!("at byte {at} of {}: {what}", bytes.len()));
        if rest.len() < 8 {
            return Err(fail("less than a box header is left"));
        }
        let kind = [rest[4], rest[5], rest[6], rest[7]];
        if !kind.iter().all(|b| (0x20..0x7f).contains(b) || *b == 0xa9) {
            return Err(fail("the box type is not text"));
        }
        let (header, size) = match be(rest, 0, 4) {
            1 if rest.len() >= 16 => (16, be(rest, 8, 8)),
            0 => (8, rest.len() as u64),
            size => (8, size),
        };
        let size = usize::try_from(size).map_err(|_| fail("box size beyond memory"))?;
        if size < header || size > rest.len() {
            return Err(fail(&format!(
                "box `{}` says {size} bytes, {} are there",
                String::from_utf8_lossy(&kind),
                rest.len()
            )));
        }
        boxes.push(Mp4Box {
            kind,
            offset: at,
            payload: &rest[header..size],
            size,
        });
        at += size;
    }
    Ok(boxes)
}

fn be(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes
        .get(at..at + len)
        .map_or(0, |b| b.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
}

/// The first box at `path` (`["moov", "trak"]`) inside `boxes`.
pub fn find<'a>(bytes: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    let (first, rest) = path.split_first()?;
    let inner = parse(bytes)
        .ok()?
        .into_iter()
        .find(|b| b.kind == first.as_bytes())?
        .payload;
    if rest.is_empty() {
        Some(inner)
    } else {
        find(inner, rest)
    }
}

/// One entry of an edit list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// In movie ticks; 0 for "to the end" in fragmented files.
    pub duration: u64,
    /// In media ticks; -1 for an empty edit.
    pub media_time: i64,
}

/// What an init segment says of its only track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// Ticks per second of the movie (`mvhd`).
    pub movie_scale: u32,
    /// Ticks per second of the media (`mdhd`).
    pub time_scale: u32,
    /// `vide`, `soun`, ...
    pub handler: String,
    /// First sample entry, e.g. `avc1`.
    pub sample_entry: String,
    /// `elst`; empty when there is none.
    pub edits: Vec<Edit>,
    /// Default sample duration of `trex`.
    pub trex_duration: u32,
    /// Default sample size of `trex`.
    pub trex_size: u32,
    /// Default sample flags of `trex`.
    pub trex_flags: u32,
}

impl Init {
    /// What is added to a media time to get a presentation time, in media ticks.
    pub fn edit_shift(&self) -> i64 {
        let mut shift = 0;
        for edit in &self.edits {
            if edit.media_time < 0 {
                shift += (edit.duration as i128 * i128::from(self.time_scale)
                    / i128::from(self.movie_scale.max(1))) as i64;
            } else {
                return shift - edit.media_time;
            }
        }
        shift
    }
}

/// Reads an init segment: `ftyp` and `moov`, no media.
pub fn init(bytes: &[u8]) -> Result<Init, BoxError> {
    let top = parse(bytes)?;
    let need = |name: &str| BoxError(format!("no `{name}` in the init segment"));
    if top.first().is_none_or(|b| b.kind != *b"ftyp") {
        return Err(BoxError("an init segment begins with `ftyp`".into()));
    }
    if top.iter().any(|b| b.kind == *b"moof" || b.kind == *b"mdat") {
        return Err(BoxError("an init segment holds no media".into()));
    }
    let moov = top
        .iter()
        .find(|b| b.kind == *b"moov")
        .ok_or_else(|| need("moov"))?
        .payload;
    let mvhd = find(moov, &["mvhd"]).ok_or_else(|| need("mvhd"))?;
    let mdhd = find(moov, &["trak", "mdia", "mdhd"]).ok_or_else(|| need("mdhd"))?;
    let hdlr = find(moov, &["trak", "mdia", "hdlr"]).ok_or_else(|| need("hdlr"))?;
    let stsd = find(moov, &["trak", "mdia", "minf", "stbl", "stsd"]).ok_or_else(|| need("stsd"))?;
    let trex = find(moov, &["mvex", "trex"]).ok_or_else(|| need("mvex/trex"))?;
    let scale = |b: &[u8]| be(b, if b.first() == Some(&1) { 20 } else { 12 }, 4) as u32;
    let mut edits = Vec::new();
    if let Some(elst) = find(moov, &["trak", "edts", "elst"]) {
        let long = elst.first() == Some(&1);
        let entry = if long { 20 } else { 12 };
        for n in 0..be(elst, 4, 4) as usize {
            let at = 8 + n * entry;
            edits.push(if long {
                Edit {
                    duration: be(elst, at, 8),
                    media_time: be(elst, at + 8, 8) as i64,
                }
            } else {
                Edit {
                    duration: be(elst, at, 4),
                    media_time: i64::from(be(elst, at + 4, 4) as u32 as i32),
                }
            });
        }
    }
    let text = |b: Option<&[u8]>| {
        b.map(|b| String::from_utf8_lossy(b).into_owned())
            .unwrap_or_default()
    };
    Ok(Init {
        movie_scale: scale(mvhd),
        time_scale: scale(mdhd),
        handler: text(hdlr.get(8..12)),
        sample_entry: text(stsd.get(12..16)),
        edits,
        trex_duration: be(trex, 12, 4) as u32,
        trex_size: be(trex, 16, 4) as u32,
        trex_flags: be(trex, 20, 4) as u32,
    })
}

/// One sample of a fragment, in media ticks before the edit list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Decode time.
    pub dts: i64,
    /// Composition time.
    pub pts: i64,
    /// Length.
    pub duration: u32,
    /// Offset in the file.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Not marked as a non-sync sample.
    pub sync: bool,
}

/// What a media segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Types of the top boxes, in order.
    pub order: Vec<String>,
    /// `sidx`: (time scale, earliest presentation time, sum of the subsegments' durations).
    pub sidx: Option<(u32, u64, u64)>,
    /// `mfhd` numbers, in order.
    pub sequence: Vec<u32>,
    /// `tfdt` of the first fragment.
    pub tfdt: u64,
    /// All samples, in order of decoding.
    pub samples: Vec<Sample>,
}

impl Media {
    /// Earliest composition time, media ticks.
    pub fn first_pts(&self) -> i64 {
        self.samples.iter().map(|s| s.pts).min().unwrap_or(0)
    }

    /// Sum of the samples' durations, media ticks.
    pub fn duration(&self) -> i64 {
        self.samples.iter().map(|s| i64::from(s.duration)).sum()
    }
}

/// Reads a media segment of the track that `init` describes.
pub fn media(bytes: &[u8], init: &Init) -> Result<Media, BoxError> {
    let top = parse(bytes)?;
    let mut found = Media {
        order: top.iter().map(Mp4Box::name).collect(),
        sidx: None,
        sequence: Vec::new(),
        tfdt: 0,
        samples: Vec::new(),
    };
    let mut fragments = 0;
    for (n, b) in top.iter().enumerate() {
        match &b.kind {
            b"styp" | b"mdat" | b"prft" | b"emsg" | b"free" => {}
            b"sidx" => found.sidx = found.sidx.or(Some(sidx(b.payload))),
            b"moof" => {
                if top.get(n + 1).is_none_or(|b| b.kind != *b"mdat") {
                    return Err(BoxError("`moof` without `mdat` behind it".into()));
                }
                fragment(b, init, &mut found, fragments == 0)?;
                fragments += 1;
            }
            _ => return Err(BoxError(format!("`{}` in a media segment", b.name()))),
        }
    }
    if fragments == 0 {
        return Err(BoxError("a media segment without `moof`".into()));
    }
    if let Some(sample) = found
        .samples
        .iter()
        .find(|s| s.offset + s.size > bytes.len())
    {
        return Err(BoxError(format!(
            "a sample ends at byte {}, the file at {}",
            sample.offset + sample.size,
            bytes.len()
        )));
    }
    Ok(found)
}

fn sidx(b: &[u8]) -> (u32, u64, u64) {
    let long = b.first() == Some(&1);
    let ept = if long { be(b, 12, 8) } else { be(b, 12, 4) };
    let counts = if long { 28 } else { 20 };
    let entries = be(b, counts + 2, 2) as usize;
    let total = (0..entries)
        .map(|n| be(b, counts + 4 + n * 12 + 4, 4))
        .sum();
    (be(b, 8, 4) as u32, ept, total)
}

fn fragment(
    moof: &Mp4Box<'_>,
    init: &Init,
    found: &mut Media,
    first: bool,
) -> Result<(), BoxError> {
    let need = |name: &str| BoxError(format!("no `{name}` in `moof`"));
    let mfhd = find(moof.payload, &["mfhd"]).ok_or_else(|| need("mfhd"))?;
    found.sequence.push(be(mfhd, 4, 4) as u32);
    let traf = find(moof.payload, &["traf"]).ok_or_else(|| need("traf"))?;
    let tfdt = find(traf, &["tfdt"]).ok_or_else(|| need("tfdt"))?;
    let base = if tfdt.first() == Some(&1) {
        be(tfdt, 4, 8)
    } else {
        be(tfdt, 4, 4)
    };
    if first {
        found.tfdt = base;
    }
    let tfhd = find(traf, &["tfhd"]).ok_or_else(|| need("tfhd"))?;
    let flags = be(tfhd, 1, 3);
    let mut at = 8;
    let mut take = |bit: u64, len: usize| {
        (flags & bit != 0).then(|| {
            at += len;
            be(tfhd, at - len, len)
        })
    };
    let data_base = take(0x01, 8).map_or(moof.offset, |o| o as usize);
    let _description = take(0x02, 4);
    let default_duration = take(0x08, 4).map_or(init.trex_duration, |v| v as u32);
    let default_size = take(0x10, 4).map_or(init.trex_size, |v| v as u32);
    let default_flags = take(0x20, 4).map_or(init.trex_flags, |v| v as u32);
    let mut dts = base as i64;
    let mut offset = data_base;
    for trun in parse(traf)?.iter().filter(|b| b.kind == *b"trun") {
        let b = trun.payload;
        let flags = be(b, 1, 3);
        let count = be(b, 4, 4);
        let mut at = 8;
        if flags & 0x01 != 0 {
            offset = data_base.wrapping_add_signed(be(b, at, 4) as u32 as i32 as isize);
            at += 4;
        }
        let first_flags = (flags & 0x04 != 0).then(|| {
            at += 4;
            be(b, at - 4, 4) as u32
        });
        for n in 0..count {
            let mut field = |bit: u64, default: u32| {
                if flags & bit == 0 {
                    return default;
                }
                at += 4;
                be(b, at - 4, 4) as u32
            };
            let duration = field(0x100, default_duration);
            let size = field(0x200, default_size) as usize;
            let own = field(0x400, default_flags);
            let shift = field(0x800, 0) as i32;
            let sample_flags = if n == 0 {
                first_flags.unwrap_or(own)
            } else {
                own
            };
            found.samples.push(Sample {
                dts,
                pts: dts + i64::from(shift),
                duration,
                offset,
                size,
                sync: sample_flags & 0x0001_0000 == 0,
            });
            dts += i64::from(duration);
            offset += size;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((payload.len() + 8) as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(kind);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_box_that_is_cut_is_an_error() {
        let whole = boxed(b"styp", b"msdhmsdh");
        assert_eq!(parse(&whole).unwrap().len(), 1);
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        assert!(parse(&[whole.as_slice(), &[0, 0, 0]].concat()).is_err());
    }

    #[test]
    fn edits_shift_presentation() {
        let mut init = Init {
            movie_scale: 1000,
            time_scale: 48000,
            handler: "soun".into(),
            sample_entry: "mp4a".into(),
            edits: vec![Edit {
                duration: 0,
                media_time: 1024,
            }],
            trex_duration: 0,
            trex_size: 0,
            trex_flags: 0,
        };
        assert_eq!(init.edit_shift(), -1024);
        init.edits.insert(
            0,
            Edit {
                duration: 500,
                media_time: -1,
            },
        );
        assert_eq!(init.edit_shift(), 24000 - 1024);
    }
}
