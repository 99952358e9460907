//! Tells the watchdog of reading that gets on.

use crate::{libav::ByteSource, pipeline::Control};
use std::{
    io::{Read, Result, Seek, SeekFrom},
    sync::Arc,
};

/// A source that counts as moving when it is read further than ever before. Reading the same bytes
/// again and again does not: that is what a demuxer does that turns in circles.
pub struct Watched {
    source: Box<dyn ByteSource>,
    control: Arc<Control>,
    furthest: u64,
}

impl Watched {
    /// Reads from `source` and tells `control`.
    pub fn new(source: Box<dyn ByteSource>, control: Arc<Control>) -> Self {
        Watched {
            source,
            control,
            furthest: 0,
        }
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.source.read(buffer)?;
        let at = self.source.stream_position()?;
        if at > self.furthest {
            self.furthest = at;
            self.control.moved();
        }
        Ok(count)
    }
}

impl Seek for Watched {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.source.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn bytes_that_were_read_before_do_not_count() {
        let control = Control::new();
        let mut source = Watched::new(Box::new(Cursor::new(vec![0; 100])), control.clone());
        let mut buffer = [0; 40];
        source.read_exact(&mut buffer).unwrap();
        let first = control.moves();
        source.rewind().unwrap();
        source.read_exact(&mut buffer).unwrap();
        assert_eq!(control.moves(), first);
        source.read_exact(&mut buffer).unwrap();
        assert_ne!(control.moves(), first);
    }
}
