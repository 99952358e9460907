//! What tells that the bytes of a file are those that were announced.
//!
//! [`Digest`] names a file's bytes across programs. To see that they came undamaged [`Checksum`] serves
//! as well, for a thirtieth of the processor's time: announcement and bytes come from one worker over
//! one kind of connection, so whoever could forge the one could forge the other, under SHA-256 too. A
//! forger is kept out by the connection, not by a sum.

use crate::segment::{Digest, Segment};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use twox_hash::XxHash3_128;

/// XXH3 of 128 bits, seed 0: 32 lower-case hex digits, the most significant first, as `xxh128sum`
/// prints it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(pub String);

impl Checksum {
    /// Checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Checksum::from_sum(XxHash3_128::oneshot(bytes))
    }

    fn from_sum(sum: u128) -> Self {
        Checksum(format!("{sum:032x}"))
    }
}

/// Checks the bytes of a segment as they come: their number, and the checksum, or the digest where no
/// checksum was announced.
#[derive(Clone)]
pub struct Verifier {
    size: u64,
    expected: u64,
    sum: Sum,
}

#[derive(Clone)]
enum Sum {
    Checksum(Box<XxHash3_128>, Checksum),
    Digest(Box<Sha256>, Digest),
}

impl Verifier {
    /// For the bytes of this segment, from its first on.
    pub fn new(segment: &Segment) -> Self {
        let sum = match &segment.checksum {
            Some(checksum) => Sum::Checksum(Box::default(), checksum.clone()),
            None => Sum::Digest(Box::default(), segment.digest.clone()),
        };
        Verifier {
            size: 0,
            expected: segment.size,
            sum,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.sum {
            Sum::Checksum(hash, _) => hash.write(bytes),
            Sum::Digest(hash, _) => hash.update(bytes),
        }
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True when the bytes taken are the segment, whole and undamaged.
    pub fn is_right(self) -> bool {
        self.size == self.expected
            && match self.sum {
                Sum::Checksum(hash, expected) => Checksum::from_sum(hash.finish_128()) == expected,
                Sum::Digest(hash, expected) => Digest::from_sum(&hash.finalize()) == expected,
            }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = match &self.sum {
            Sum::Checksum(..) => "checksum",
            Sum::Digest(..) => "digest",
        };
        f.debug_struct("Verifier")
            .field("size", &self.size)
            .field("expected", &self.expected)
            .field("by", &by)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentKind;

    /// `xxh128sum` of nothing and of `abc`.
    #[test]
    fn the_checksum_is_that_of_xxh128sum() {
        assert_eq!(Checksum::of(b"").0, "99aa06d3014798d86001c324468d497f");
        assert_eq!(Checksum::of(b"abc").0, "06b05ab6733a618578af5f94892f3950");
    }

    fn announced(bytes: &[u8], with_checksum: bool) -> Segment {
        Segment {
            output: 0,
            rendition: None,
            kind: SegmentKind::Media,
            number: Some(0),
            name: "media-00000.ts".parse().unwrap(),
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            checksum: with_checksum.then(|| Checksum::of(bytes)),
            time_scale: 1,
            pts: 0,
            duration: 0,
            times: None,
            rendition_info: None,
        }
    }

    fn takes(segment: &Segment, bytes: &[u8], part: usize) -> bool {
        let mut verifier = Verifier::new(segment);
        for bytes in bytes.chunks(part) {
            verifier.update(bytes);
        }
        verifier.is_right()
    }

    /// By checksum and by digest, in parts of any size: only the very bytes are right.
    #[test]
    fn only_the_announced_bytes_are_right() {
        let bytes: Vec<u8> = (0..3000_u32).map(|n| ((n * n) >> 3) as u8).collect();
        for with_checksum in [true, false] {
            let segment = announced(&bytes, with_checksum);
            for part in [1, 7, 1000, 5000] {
                assert!(takes(&segment, &bytes, part));
                assert!(!takes(&segment, &bytes[..2999], part));
                assert!(!takes(&segment, &[&bytes[..], &[0]].concat(), part));
            }
            for at in [0, 1500, 2999] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert!(!takes(&segment, &damaged, 1000), "at {at}");
            }
        }
    }

    /// A worker that announces no checksum is understood, and so is one that announces more than we
    /// know.
    #[test]
    fn an_announcement_without_checksum_is_read() {
        let with = announced(b"bytes", true);
        let mut value = serde_json::to_value(&with).unwrap();
        assert_eq!(value["checksum"], Checksum::of(b"bytes").0);
        let fields = value.as_object_mut().unwrap();
        fields.remove("checksum");
        fields.insert("later".into(), true.into());
        let read: Segment = serde_json::from_value(value).unwrap();
        assert_eq!(read, announced(b"bytes", false));
    }
}
