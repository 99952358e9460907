//! The MPD that PMS wants (PROTOCOL 6.6), as a value with a text form.
//!
//! The text follows libavformat's DASH muxer (`dashenc.c`, `-use_template 1 -use_timeline 1`), which
//! Plex's transcoder is built on: same elements, same attributes, same order, times cut (not
//! rounded) to tenths of a second.

use crate::segment::{MediaKind, Rendition};
use std::fmt;

/// One whole manifest. `Display` gives the text to post.
#[derive(Debug, Clone, PartialEq)]
pub struct Mpd {
    /// Growing or finished.
    pub presentation: Presentation,
    /// `-seg_duration` in microseconds; segments of copied video may be longer all the same.
    pub max_segment_us: i64,
    /// Twice the length of the newest full segment, microseconds.
    pub min_buffer_us: i64,
    /// One set with one representation per stream of the output.
    pub sets: Vec<AdaptationSet>,
}

/// The `type` of an MPD with the attributes that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presentation {
    /// More segments follow.
    Dynamic {
        /// When the first segment was announced, milliseconds since the Unix epoch.
        available_since_ms: u64,
        /// Now, milliseconds since the Unix epoch.
        published_ms: u64,
        /// Length of the newest full segment, microseconds.
        last_segment_us: i64,
        /// `-window_size`; `None` when all segments stay listed.
        window: Option<u32>,
    },
    /// Nothing follows.
    Static {
        /// End of the presentation, microseconds from the period's start.
        duration_us: i64,
    },
}

/// One stream.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptationSet {
    /// Position of the stream in the output; also the representation's id.
    pub id: u32,
    /// What the worker says of it.
    pub rendition: Rendition,
    /// Bits per second to name; 0 leaves the attribute out.
    pub bandwidth: u64,
    /// `-init_seg_name`.
    pub initialization: String,
    /// `-media_seg_name`.
    pub media: String,
    /// Number of the first entry of `timeline`.
    pub start_number: u32,
    /// Listed segments, in order.
    pub timeline: Vec<TimelineEntry>,
}

/// Place of one segment on the title's timeline, in ticks of the rendition's time scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Earliest presentation time.
    pub time: i64,
    /// Length.
    pub duration: i64,
}

impl fmt::Display for Mpd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <MPD xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"\n\
             \txmlns=\"urn:mpeg:dash:schema:mpd:2011\"\n\
             \txmlns:xlink=\"http://www.w3.org/1999/xlink\"\n\
             \txsi:schemaLocation=\"urn:mpeg:DASH:schema:MPD:2011 http://standards.iso.org/ittf/PubliclyAvailableStandards/MPEG-DASH_schema_files/DASH-MPD.xsd\"\n\
             \tprofiles=\"urn:mpeg:dash:profile:isoff-live:2011\"\n",
        )?;
        self.presentation.fmt(f)?;
        writeln!(
            f,
            "\tmaxSegmentDuration=\"{}\"\n\tminBufferTime=\"{}\">\n\
             \t<ProgramInformation>\n\t</ProgramInformation>\n\
             \t<ServiceDescription id=\"0\">\n\t</ServiceDescription>\n\
             \t<Period id=\"0\" start=\"PT0.0S\">",
            Time(self.max_segment_us),
            Time(self.min_buffer_us)
        )?;
        for set in &self.sets {
            set.fmt(f)?;
        }
        f.write_str("\t</Period>\n</MPD>\n")
    }
}

impl Presentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Presentation::Static { duration_us } => writeln!(
                f,
                "\ttype=\"static\"\n\tmediaPresentationDuration=\"{}\"",
                Time(*duration_us)
            ),
            Presentation::Dynamic {
                available_since_ms,
                published_ms,
                last_segment_us,
                window,
            } => {
                let seconds = last_segment_us / 1_000_000;
                writeln!(
                    f,
                    "\ttype=\"dynamic\"\n\tminimumUpdatePeriod=\"PT{seconds}S\"\n\
                     \tsuggestedPresentationDelay=\"PT{seconds}S\"\n\
                     \tavailabilityStartTime=\"{}\"\n\tpublishTime=\"{}\"",
                    Date(*available_since_ms),
                    Date(*published_ms)
                )?;
                match window {
                    Some(window) => writeln!(
                        f,
                        "\ttimeShiftBufferDepth=\"{}\"",
                        Time(last_segment_us.saturating_mul((*window).into()))
                    ),
                    None => Ok(()),
                }
            }
        }
    }
}

impl AdaptationSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rendition = &self.rendition;
        let (content, mime) = match rendition.media {
            MediaKind::Video => ("video", "video/mp4"),
            MediaKind::Audio => ("audio", "audio/mp4"),
            MediaKind::Subtitle | MediaKind::Attachment | MediaKind::Data => {
                ("text", "application/mp4")
            }
        };
        write!(
            f,
            "\t\t<AdaptationSet id=\"{}\" contentType=\"{content}\" startWithSAP=\"1\" \
             segmentAlignment=\"true\" bitstreamSwitching=\"true\"",
            self.id
        )?;
        if let Some((num, den)) = rendition.frame_rate {
            write!(f, " frameRate=\"{num}/{den}\"")?;
        }
        let picture = rendition.width.zip(rendition.height);
        let sar = rendition.sar.unwrap_or((1, 1));
        if let Some((width, height)) = picture {
            let (par_w, par_h) = reduced(
                u64::from(width) * u64::from(sar.0.max(1)),
                u64::from(height) * u64::from(sar.1.max(1)),
            );
            write!(
                f,
                " maxWidth=\"{width}\" maxHeight=\"{height}\" par=\"{par_w}:{par_h}\""
            )?;
        }
        if let Some(language) = &rendition.language {
            write!(f, " lang=\"{}\"", Escaped(language))?;
        }
        write!(
            f,
            ">\n\t\t\t<Representation id=\"{}\" mimeType=\"{mime}\" codecs=\"{}\"",
            self.id,
            Escaped(&rendition.codecs)
        )?;
        if self.bandwidth > 0 {
            write!(f, " bandwidth=\"{}\"", self.bandwidth)?;
        }
        if let Some((width, height)) = picture {
            write!(
                f,
                " width=\"{width}\" height=\"{height}\" sar=\"{}:{}\"",
                sar.0, sar.1
            )?;
        }
        if let Some(rate) = rendition.sample_rate {
            write!(f, " audioSamplingRate=\"{rate}\"")?;
        }
        f.write_str(">\n")?;
        if let Some(channels) = rendition.channels {
            writeln!(
                f,
                "\t\t\t\t<AudioChannelConfiguration schemeIdUri=\"urn:mpeg:dash:23003:3:audio_channel_configuration:2011\" value=\"{channels}\" />"
            )?;
        }
        writeln!(
            f,
            "\t\t\t\t<SegmentTemplate timescale=\"{}\" initialization=\"{}\" media=\"{}\" startNumber=\"{}\">\n\
             \t\t\t\t\t<SegmentTimeline>",
            rendition.time_scale,
            Escaped(&self.initialization),
            Escaped(&self.media),
            self.start_number
        )?;
        self.timeline_fmt(f)?;
        f.write_str(
            "\t\t\t\t\t</SegmentTimeline>\n\t\t\t\t</SegmentTemplate>\n\
             \t\t\t</Representation>\n\t\t</AdaptationSet>\n",
        )
    }

    /// `t` stands on the first entry and where the one before does not end; equal neighbours
    /// become `r`.
    fn timeline_fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut expected = None;
        let mut rest = self.timeline.as_slice();
        while let Some(first) = rest.first() {
            f.write_str("\t\t\t\t\t\t<S ")?;
            if expected != Some(first.time) {
                write!(f, "t=\"{}\" ", first.time)?;
            }
            let same = rest
                .windows(2)
                .take_while(|pair| {
                    pair[1].duration == first.duration
                        && pair[1].time == pair[0].time.saturating_add(pair[0].duration)
                })
                .count();
            write!(f, "d=\"{}\" ", first.duration)?;
            if same > 0 {
                write!(f, "r=\"{same}\" ")?;
            }
            f.write_str("/>\n")?;
            expected = rest
                .get(same)
                .map(|last| last.time.saturating_add(last.duration));
            rest = rest.get(same + 1..).unwrap_or_default();
        }
        Ok(())
    }
}

fn reduced(a: u64, b: u64) -> (u64, u64) {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    let divisor = x.max(1);
    (a / divisor, b / divisor)
}

/// Microseconds as an XML duration (`PT1H2M3.4S`).
struct Time(i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.max(0) / 100_000;
        let (hours, minutes, seconds) = (tenths / 36_000, tenths / 600 % 60, tenths / 10 % 60);
        f.write_str("PT")?;
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        write!(f, "{seconds}.{}S", tenths % 10)
    }
}

/// Milliseconds since the Unix epoch as an XML date in UTC (`2026-01-31T23:59:59.123Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            ms / 3_600_000,
            ms / 60_000 % 60,
            ms / 1_000 % 60,
            ms % 1_000
        )
    }
}

/// Year, month and day of the proleptic Gregorian calendar for a count of days since 1970-01-01,
/// with years that begin in March so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Text inside a double-quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&apos;")?,
                c if c.is_control() => write!(f, "&#{};", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/fixtures/plex-static.mpd");

    fn entries(start: i64, durations: &[i64]) -> Vec<TimelineEntry> {
        let mut time = start;
        durations
            .iter()
            .map(|&duration| {
                let entry = TimelineEntry { time, duration };
                time += duration;
                entry
            })
            .collect()
    }

    fn video() -> AdaptationSet {
        AdaptationSet {
            id: 0,
            rendition: Rendition {
                media: MediaKind::Video,
                codecs: "hev1".into(),
                bandwidth: 485_283,
                time_scale: 12_288,
                language: None,
                width: Some(640),
                height: Some(360),
                sar: Some((1, 1)),
                frame_rate: Some((24, 1)),
                sample_rate: None,
                channels: None,
            },
            bandwidth: 485_283,
            initialization: "init-stream$RepresentationID$.m4s".into(),
            media: "chunk-stream$RepresentationID$-$Number%05d$.m4s".into(),
            start_number: 1,
            timeline: entries(258, &[127_476, 128_004, 113_148]),
        }
    }

    fn audio() -> AdaptationSet {
        AdaptationSet {
            id: 1,
            rendition: Rendition {
                media: MediaKind::Audio,
                codecs: "mp4a.40.2".into(),
                bandwidth: 256_000,
                time_scale: 96_000,
                language: Some("eng".into()),
                width: None,
                height: None,
                sar: None,
                frame_rate: None,
                sample_rate: Some(96_000),
                channels: Some(2),
            },
            bandwidth: 256_000,
            timeline: entries(0, &[990_208, 1_000_448, 892_928]),
            ..video()
        }
    }

    fn mpd(presentation: Presentation) -> Mpd {
        Mpd {
            presentation,
            max_segment_us: 5_000_000,
            min_buffer_us: 20_917_968,
            sets: vec![video(), audio()],
        }
    }

    #[test]
    fn the_text_is_that_of_plexs_own_transcoder() {
        let ours = mpd(Presentation::Static {
            duration_us: 368_628 * 1_000_000 / 12_288,
        });
        assert_eq!(ours.to_string(), GOLDEN);
    }

    #[test]
    fn a_dynamic_manifest_names_when_it_was_made() {
        let text = mpd(Presentation::Dynamic {
            available_since_ms: 951_782_400_000,
            published_ms: 1_798_761_599_999,
            last_segment_us: 5_005_000,
            window: Some(5),
        })
        .to_string();
        for part in [
            "\ttype=\"dynamic\"\n\tminimumUpdatePeriod=\"PT5S\"\n\tsuggestedPresentationDelay=\"PT5S\"\n",
            "\tavailabilityStartTime=\"2000-02-29T00:00:00.000Z\"\n",
            "\tpublishTime=\"2026-12-31T23:59:59.999Z\"\n",
            "\ttimeShiftBufferDepth=\"PT25.0S\"\n\tmaxSegmentDuration=\"PT5.0S\"\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains("mediaPresentationDuration"));
    }

    #[test]
    fn a_timeline_folds_repeats_and_names_gaps() {
        let mut set = video();
        set.timeline = entries(1000, &[10, 10, 10, 7]);
        set.timeline.extend(entries(1050, &[7, 7]));
        let text = Mpd {
            sets: vec![set],
            ..mpd(Presentation::Static { duration_us: 0 })
        }
        .to_string();
        let lines: Vec<&str> = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("<S "))
            .collect();
        assert_eq!(
            lines,
            [
                "t=\"1000\" d=\"10\" r=\"2\" />",
                "d=\"7\" />",
                "t=\"1050\" d=\"7\" r=\"1\" />"
            ]
        );
    }

    #[test]
    fn texts_of_the_job_cannot_break_the_markup() {
        let mut set = video();
        set.media = "a\"><x/>&'\u{1}".into();
        let text = Mpd {
            sets: vec![set],
            ..mpd(Presentation::Static { duration_us: 0 })
        }
        .to_string();
        assert!(text.contains("media=\"a&quot;&gt;&lt;x/&gt;&amp;&apos;&#1;\""));
    }

    #[test]
    fn long_times_have_hours_and_minutes() {
        assert_eq!(Time(3_723_450_000).to_string(), "PT1H2M3.4S");
        assert_eq!(Time(60_000_000).to_string(), "PT1M0.0S");
        assert_eq!(Time(-5).to_string(), "PT0.0S");
    }
}
