//! MPEG-TS, Matroska and H.264/HEVC byte streams, as far as a look at a file can tell whether it
//! is whole.

/// What a media file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// MPEG transport stream.
    MpegTs,
    /// Matroska from its EBML header on.
    MatroskaHeader,
    /// Matroska clusters only.
    MatroskaClusters,
    /// MP4 boxes.
    Mp4,
    /// None of these.
    Other,
}

/// Tells by the first bytes.
pub fn look(bytes: &[u8]) -> Look {
    match bytes {
        [0x47, ..] => Look::MpegTs,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Look::MatroskaHeader,
        [0x1f, 0x43, 0xb6, 0x75, ..] => Look::MatroskaClusters,
        [_, _, _, _, b's' | b'f' | b'm', b't' | b'o' | b'i', ..] => Look::Mp4,
        _ => Look::Other,
    }
}

/// Packets of 188 bytes that begin with the sync byte, and nothing else.
pub fn check_ts(bytes: &[u8]) -> Result<(), String> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(188) {
        return Err(format!(
            "{} bytes are no whole number of TS packets",
            bytes.len()
        ));
    }
    match bytes.chunks(188).position(|p| p[0] != 0x47) {
        Some(n) => Err(format!("TS packet {n} lacks the sync byte")),
        None => Ok(()),
    }
}

/// ISO/IEC 13818-1: the continuity counter of a PID counts its packets with payload, over segment
/// borders too (PROTOCOL 7.2).
pub fn check_continuity(bytes: &[u8]) -> Result<(), String> {
    let mut last: std::collections::HashMap<u16, u8> = std::collections::HashMap::new();
    for (n, packet) in bytes.chunks_exact(188).enumerate() {
        let pid = u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]);
        let (payload, counter) = (packet[3] & 0x10 != 0, packet[3] & 0x0f);
        if pid == 0x1fff || !payload {
            continue;
        }
        if let Some(before) = last.insert(pid, counter)
            && counter != (before + 1) & 0x0f
        {
            return Err(format!(
                "TS packet {n}: PID {pid:#x} counts {counter} after {before}"
            ));
        }
    }
    Ok(())
}

const CLUSTER: u32 = 0x1f43_b675;
const SEGMENT: u32 = 0x1853_8067;
const EBML: u32 = 0x1a45_dfa3;

/// One EBML element: id, payload start, payload end (`None` when of unknown length).
fn element(bytes: &[u8], at: usize) -> Option<(u32, usize, Option<usize>)> {
    let first = *bytes.get(at)?;
    let id_len = first.leading_zeros() as usize + 1;
    if id_len > 4 {
        return None;
    }
    let id = bytes
        .get(at..at + id_len)?
        .iter()
        .fold(0, |n, &b| n << 8 | u32::from(b));
    let at = at + id_len;
    let first = *bytes.get(at)?;
    let len = first.leading_zeros() as usize + 1;
    if len > 8 {
        return None;
    }
    let raw = bytes
        .get(at..at + len)?
        .iter()
        .fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let value = raw & ((1 << (7 * len)) - 1);
    let unknown = value == (1 << (7 * len)) - 1;
    let start = at + len;
    let end =
        (!unknown).then(|| start.saturating_add(usize::try_from(value).unwrap_or(usize::MAX)));
    Some((id, start, end))
}

/// A Matroska segment file: with `header_apart` clusters only, else from the EBML header on. Every
/// top element must end within the file, and at least one cluster must be there.
pub fn check_matroska(bytes: &[u8], header_apart: bool) -> Result<(), String> {
    let mut at = 0;
    let mut clusters = 0;
    let mut first = true;
    while at < bytes.len() {
        let (id, start, end) =
            element(bytes, at).ok_or_else(|| format!("no EBML element at byte {at}"))?;
        if first && header_apart && id != CLUSTER {
            return Err(format!("begins with element {id:x}, not with a cluster"));
        }
        if first && !header_apart && id != EBML {
            return Err(format!(
                "begins with element {id:x}, not with an EBML header"
            ));
        }
        first = false;
        clusters += usize::from(id == CLUSTER);
        at = match end {
            // What is inside a segment stands on the same level for us.
            _ if id == SEGMENT => start,
            // A cluster of unknown length (live) ends where the next one begins.
            None if id == CLUSTER => start,
            None => return Err(format!("element {id:x} of unknown length")),
            Some(end) if end > bytes.len() => {
                return Err(format!(
                    "element {id:x} ends at byte {end}, the file at {}",
                    bytes.len()
                ));
            }
            Some(end) => end,
        };
    }
    if clusters == 0 {
        return Err("no cluster".into());
    }
    Ok(())
}

/// Codec of a byte stream, for [`pictures`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nal {
    /// H.264.
    H264,
    /// HEVC.
    Hevc,
}

/// One coded picture of an Annex B stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// Instantaneous decoding refresh.
    pub idr: bool,
    /// HEVC: clean random access (an open-GOP key).
    pub cra: bool,
    /// Parameter sets stand before it: SPS and PPS (and VPS for HEVC).
    pub headers: bool,
}

/// The coded pictures of an Annex B byte stream, in order of decoding.
pub fn pictures(bytes: &[u8], nal: Nal) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let (mut sps, mut pps) = (false, false);
    for unit in units(bytes) {
        let Some(&first) = unit.first() else { continue };
        let (slice, idr, cra, new_picture) = match nal {
            Nal::H264 => {
                let kind = first & 0x1f;
                sps |= kind == 7;
                pps |= kind == 8;
                // first_mb_in_slice is 0, written as a single 1 bit, in a picture's first slice.
                let start = unit.get(1).is_some_and(|b| b & 0x80 != 0);
                (matches!(kind, 1 | 5), kind == 5, false, start)
            }
            Nal::Hevc => {
                let kind = first >> 1 & 0x3f;
                sps |= kind == 33;
                pps |= kind == 34;
                let start = unit.get(2).is_some_and(|b| b & 0x80 != 0);
                (kind < 32, matches!(kind, 19 | 20), kind == 21, start)
            }
        };
        if slice && new_picture {
            pictures.push(Picture {
                idr,
                cra,
                headers: sps && pps,
            });
            (sps, pps) = (false, false);
        }
    }
    pictures
}

/// The NAL units between start codes.
fn units(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    while at + 3 <= bytes.len() {
        if bytes[at] == 0 && bytes[at + 1] == 0 && bytes[at + 2] == 1 {
            starts.push(at + 3);
            at += 3;
        } else {
            at += 1;
        }
    }
    let ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|s| s - 3)
        .chain([bytes.len()])
        .collect();
    starts.into_iter().zip(ends).map(|(s, e)| &bytes[s..e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_packet_is_seen() {
        let mut ts = vec![0; 376];
        ts[0] = 0x47;
        ts[188] = 0x47;
        assert_eq!(check_ts(&ts), Ok(()));
        assert!(check_ts(&ts[..375]).is_err());
        ts[188] = 0;
        assert!(check_ts(&ts).is_err());
    }

    #[test]
    fn a_cut_cluster_is_seen() {
        let cluster = [0x1f, 0x43, 0xb6, 0x75, 0x83, 0xe7, 0x81, 0x00];
        assert_eq!(check_matroska(&cluster, true), Ok(()));
        assert!(check_matroska(&cluster, false).is_err());
        assert!(check_matroska(&cluster[..7], true).is_err());
        assert!(check_matroska(b"", true).is_err());
    }

    #[test]
    fn pictures_are_told_apart() {
        let stream = [
            0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 1, 0, 0, 1, 0x65, 0x88, 0, 0, 1, 0x41, 0x9a,
        ];
        let found = pictures(&stream, Nal::H264);
        assert_eq!(found.len(), 2);
        assert!(found[0].idr && found[0].headers);
        assert!(!found[1].idr && !found[1].headers);
    }
}
