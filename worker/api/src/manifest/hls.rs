//! An HLS media playlist (RFC 8216) as a value with a text form.

use crate::FileName;
use std::fmt;

/// A playlist of finished segments. `Display` gives the file's text.
#[derive(Debug, Clone, PartialEq)]
pub struct MediaPlaylist {
    /// Number of the first entry.
    pub media_sequence: u32,
    /// Entries in order.
    pub entries: Vec<Entry>,
    /// True when nothing follows.
    pub ended: bool,
}

/// One segment of a playlist.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// File name, relative to the playlist.
    pub name: FileName,
    /// Length in seconds.
    pub seconds: f64,
}

impl fmt::Display for MediaPlaylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // RFC 8216 4.3.3.1: no EXTINF, rounded to the nearest integer, may exceed the target.
        let target = self
            .entries
            .iter()
            .map(|e| e.seconds.round() as u64)
            .max()
            .unwrap_or(1);
        writeln!(f, "#EXTM3U")?;
        writeln!(f, "#EXT-X-VERSION:3")?;
        writeln!(f, "#EXT-X-TARGETDURATION:{}", target.max(1))?;
        writeln!(f, "#EXT-X-MEDIA-SEQUENCE:{}", self.media_sequence)?;
        writeln!(f, "#EXT-X-PLAYLIST-TYPE:EVENT")?;
        for entry in &self.entries {
            writeln!(f, "#EXTINF:{:.6},\n{}", entry.seconds, entry.name)?;
        }
        if self.ended {
            writeln!(f, "#EXT-X-ENDLIST")?;
        }
        Ok(())
    }
}
