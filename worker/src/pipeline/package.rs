//! Inner muxers: packets of one output in, bytes of a segment out at each cut.

use super::{Ready, av, describe};
use crate::libav::{Muxer, Packet, Rational};
use plexbeam_api::{
    Kind, Problem,
    job::Container,
    segment::{MediaKind, Rendition},
};

/// Bytes of one file, before it has a name.
pub(super) struct Part {
    /// Stream of the output, for one file per stream; `None` for a file of all streams.
    pub(super) stream: Option<usize>,
    pub(super) bytes: Vec<u8>,
}

/// An output's muxers.
pub(super) enum Packager {
    Dash(Vec<Fragmented>),
    Muxed(Muxed),
}

/// One stream as fragmented MP4 (PROTOCOL 7.1).
pub(super) struct Fragmented {
    ready: Ready,
    first_number: u32,
    muxer: Option<Muxer>,
    init_done: bool,
    time_base: Rational,
}

/// `styp` of a DASH media segment: brand `msdh`, compatible with `msdh` and `msix` (ISO 23009-1 6.3).
const STYP: [u8; 24] = *b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix";

impl Fragmented {
    pub(super) fn new(ready: Ready, first_number: u32) -> Self {
        let time_base = ready.time_base;
        Fragmented {
            ready,
            first_number,
            muxer: None,
            init_done: false,
            time_base,
        }
    }

    /// Seconds per tick of the file's times; the job's own until the first packet.
    pub(super) fn time_base(&self) -> Rational {
        self.time_base
    }

    /// What a manifest says of it.
    pub(super) fn rendition(&self) -> Rendition {
        describe::rendition(&self.ready, self.time_base.den.max(1) as u32)
    }

    fn open(&mut self, first: &Packet) -> Result<Muxer, Problem> {
        let mut muxer = Muxer::new("mp4").map_err(|e| av(&e))?;
        let rate = self.ready.frame_rate;
        // A time base of frames makes a time scale in which every frame has the same length.
        let wish = if !self.ready.encoded && rate.num > 0 && rate.den > 0 {
            Rational {
                num: 1,
                den: rate.num,
            }
        } else {
            self.ready.time_base
        };
        muxer
            .add_stream(&self.ready.params, wish, rate, &self.ready.metadata)
            .map_err(|e| av(&e))?;
        // `frag_discont` makes `tfdt` the first packet's own time. With a time that is not
        // positive (copied sound may begin before the title's zero) it would wrap around instead.
        let discont = if first.pts() > 0 { "+frag_discont" } else { "" };
        let options = [
            (
                "movflags".to_owned(),
                format!("+frag_custom+dash+delay_moov{discont}"),
            ),
            (
                "fragment_index".to_owned(),
                self.first_number.max(1).to_string(),
            ),
            ("avoid_negative_ts".to_owned(), "disabled".to_owned()),
            ("strict".to_owned(), "experimental".to_owned()),
        ];
        muxer.write_header(&options).map_err(|e| av(&e))?;
        self.time_base = muxer.time_base(0);
        Ok(muxer)
    }

    fn write(&mut self, mut packet: Packet) -> Result<(), Problem> {
        // Sound before the title's zero is what the encoder needs to begin. An edit list would cut
        // it off, but then a segment of a later start, which has none, would play that much early
        // on this init segment (P7).
        if self.ready.media == MediaKind::Audio && packet.pts() < 0 {
            if packet.pts() + packet.duration() <= 0 {
                return Ok(());
            }
            packet.set_times(0, 0);
        }
        let mut muxer = match self.muxer.take() {
            Some(muxer) => muxer,
            None => self.open(&packet)?,
        };
        packet.rescale(self.ready.time_base, self.time_base);
        packet.set_stream(0);
        muxer.write(&packet).map_err(|e| av(&e))?;
        self.muxer = Some(muxer);
        Ok(())
    }

    /// The init segment, once, and the media segment written so far.
    fn finish(&mut self) -> Result<(Option<Vec<u8>>, Vec<u8>), Problem> {
        let mut media = STYP.to_vec();
        let Some(muxer) = &mut self.muxer else {
            return Ok((None, media));
        };
        muxer.flush().map_err(|e| av(&e))?;
        let mut bytes = muxer.take().map_err(|e| av(&e))?;
        let mut init = None;
        if !self.init_done {
            // The first flush writes the delayed `moov`; the fragment follows with the next one.
            let end = moov_end(&bytes)
                .ok_or_else(|| Problem::new(Kind::Internal, "the MP4 muxer wrote no moov"))?;
            let rest = bytes.split_off(end);
            init = Some(bytes);
            bytes = rest;
            if bytes.is_empty() {
                muxer.flush().map_err(|e| av(&e))?;
                bytes = muxer.take().map_err(|e| av(&e))?;
            }
            self.init_done = true;
        }
        media.extend_from_slice(&bytes);
        Ok((init, media))
    }
}

/// Where the `moov` box at the top level ends.
fn moov_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 8) {
        let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if size < 8 || at + size > bytes.len() {
            return None;
        }
        at += size;
        if &header[4..] == b"moov" {
            return Some(at);
        }
    }
    None
}

/// All streams of an output in one running muxer, or in one per segment.
pub(super) struct Muxed {
    readies: Vec<Ready>,
    container: Container,
    options: Vec<(String, String)>,
    /// The header goes into a file of its own; segments carry none.
    separate_header: bool,
    /// A full file per segment: Matroska and text without a header file.
    whole_files: bool,
    muxer: Option<Muxer>,
    header: Option<Vec<u8>>,
    started: bool,
    shifted: bool,
}

impl Muxed {
    pub(super) fn new(
        readies: Vec<Ready>,
        container: Container,
        options: &[(String, String)],
        separate_header: bool,
    ) -> Result<Self, Problem> {
        let known: &[&str] = match container {
            Container::MpegTs => &[
                "max_delay",
                "output_ts_offset",
                "mpegts_flags",
                "mpegts_copyts",
                "fflags",
            ],
            Container::Matroska => &[
                "max_delay",
                "output_ts_offset",
                "live",
                "fflags",
                "cluster_time_limit",
                "cluster_size_limit",
            ],
            Container::Ass | Container::Srt | Container::WebVtt => &[],
        };
        let mut own: Vec<(String, String)> = options
            .iter()
            .filter(|(k, _)| known.contains(&k.as_str()))
            .cloned()
            .collect();
        own.push(("avoid_negative_ts".to_owned(), "disabled".to_owned()));
        own.push(("strict".to_owned(), "experimental".to_owned()));
        if container == Container::Ass {
            // Else events wait in the muxer for the first of the title, which a seek left out.
            own.push(("ignore_readorder".to_owned(), "1".to_owned()));
        }
        let shifted = own.iter().any(|(k, _)| k == "output_ts_offset");
        let mut muxed = Muxed {
            readies,
            container,
            options: own,
            separate_header,
            whole_files: container != Container::MpegTs && !separate_header,
            muxer: None,
            header: None,
            started: false,
            shifted,
        };
        muxed.open()?;
        Ok(muxed)
    }

    fn open(&mut self) -> Result<(), Problem> {
        let format = match self.container {
            Container::MpegTs => "mpegts",
            Container::Matroska => "matroska",
            Container::Ass => "ass",
            Container::Srt => "srt",
            Container::WebVtt => "webvtt",
        };
        let mut muxer = Muxer::new(format).map_err(|e| av(&e))?;
        for ready in &self.readies {
            muxer
                .add_stream(
                    &ready.params,
                    ready.time_base,
                    ready.frame_rate,
                    &ready.metadata,
                )
                .map_err(|e| av(&e))?;
        }
        muxer.write_header(&self.options).map_err(|e| av(&e))?;
        if self.separate_header {
            let header = muxer.take().map_err(|e| av(&e))?;
            self.header = Some(self.timed(header));
        }
        self.muxer = Some(muxer);
        Ok(())
    }

    /// The header file, once.
    pub(super) fn take_header(&mut self) -> Option<Vec<u8>> {
        self.header.take()
    }

    /// WebVTT says by how much the transport stream beside it is shifted (RFC 8216 3.5); Plex's is
    /// always 10 s.
    fn timed(&self, text: Vec<u8>) -> Vec<u8> {
        const HEAD: &[u8] = b"WEBVTT\n";
        match text.strip_prefix(HEAD) {
            Some(rest) if self.container == Container::WebVtt => [
                HEAD,
                b"X-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n",
                rest,
            ]
            .concat(),
            _ => text,
        }
    }

    fn muxer(&mut self) -> Result<&mut Muxer, Problem> {
        if self.muxer.is_none() {
            self.open()?;
        }
        self.muxer
            .as_mut()
            .ok_or_else(|| Problem::new(Kind::Internal, "no muxer"))
    }

    fn write(&mut self, stream: usize, mut packet: Packet) -> Result<(), Problem> {
        let from = self.readies[stream].time_base;
        // Matroska has no times before its zero. Only audio priming lies there.
        if self.container == Container::Matroska && !self.shifted && packet.pts() < 0 {
            return Ok(());
        }
        let muxer = self.muxer()?;
        packet.rescale(from, muxer.time_base(stream));
        packet.set_stream(stream);
        muxer.write(&packet).map_err(|e| av(&e))?;
        self.started = true;
        Ok(())
    }

    fn finish(&mut self, last: bool) -> Result<Vec<u8>, Problem> {
        let whole = self.whole_files;
        let transport = self.container == Container::MpegTs;
        let muxer = self.muxer()?;
        muxer.flush().map_err(|e| av(&e))?;
        if whole || last {
            muxer.write_trailer().map_err(|e| av(&e))?;
        }
        let mut bytes = muxer.take().map_err(|e| av(&e))?;
        if whole {
            bytes = self.timed(bytes);
        }
        let Some(muxer) = &mut self.muxer else {
            return Ok(bytes);
        };
        if whole || last {
            self.muxer = None;
        } else if transport {
            // Every segment starts with its own PAT and PMT.
            muxer
                .set_option("mpegts_flags", "+resend_headers")
                .map_err(|e| av(&e))?;
        }
        self.started = false;
        Ok(bytes)
    }
}

impl Packager {
    /// Writes one packet of a stream, in order of decoding times over all streams.
    pub(super) fn write(&mut self, stream: usize, packet: Packet) -> Result<(), Problem> {
        match self {
            Packager::Dash(streams) => streams[stream].write(packet),
            Packager::Muxed(muxed) => muxed.write(stream, packet),
        }
    }

    /// Ends the segment: init parts that are new, then media parts, in order of streams.
    pub(super) fn finish(&mut self, last: bool) -> Result<(Vec<Part>, Vec<Part>), Problem> {
        match self {
            Packager::Dash(streams) => {
                let (mut inits, mut media) = (Vec::new(), Vec::new());
                for (at, stream) in streams.iter_mut().enumerate() {
                    let (init, bytes) = stream.finish()?;
                    inits.extend(init.map(|bytes| Part {
                        stream: Some(at),
                        bytes,
                    }));
                    media.push(Part {
                        stream: Some(at),
                        bytes,
                    });
                }
                Ok((inits, media))
            }
            Packager::Muxed(muxed) => {
                let bytes = muxed.finish(last)?;
                Ok((
                    Vec::new(),
                    vec![Part {
                        stream: None,
                        bytes,
                    }],
                ))
            }
        }
    }
}
