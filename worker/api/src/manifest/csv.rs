//! The CSV segment list that PMS wants (PROTOCOL 6.7), as a value with a text form.

use crate::{FileName, segment::RowTimes};
use std::fmt;

/// Rows of one `POST` of the list. `Display` gives its body: one row per line, LF line ends, times
/// in seconds with six decimals (`%f`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentList {
    /// Rows in order; the caller keeps as many as `-segment_list_size` says.
    pub rows: Vec<Row>,
    /// `-segment_list_separate_stream_times`: five columns instead of three.
    pub separate_stream_times: bool,
}

/// One finished segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Name as on disk, without folder.
    pub name: FileName,
    /// Title times.
    pub times: RowTimes,
}

impl fmt::Display for SegmentList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let times = &row.times;
            write!(
                f,
                "{},{},{}",
                Field(row.name.as_str()),
                Seconds(Some(times.start_us)),
                Seconds(Some(times.end_us))
            )?;
            if self.separate_stream_times {
                write!(
                    f,
                    ",{},{}",
                    Seconds(times.audio_end_us),
                    Seconds(times.video_end_us)
                )?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

/// Microseconds as `%f` seconds; `-1.000000` for a stream that the output does not have. Integer
/// arithmetic, so that long titles lose nothing.
struct Seconds(Option<i64>);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.unwrap_or(-1_000_000);
        let sign = if us < 0 { "-" } else { "" };
        let us = us.unsigned_abs();
        write!(f, "{sign}{}.{:06}", us / 1_000_000, us % 1_000_000)
    }
}

/// A text field, quoted as libavformat's segment muxer does: only when it holds a quote, a comma or
/// a line end; a quote inside is doubled.
struct Field<'a>(&'a str);

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(['"', ',', '\n', '\r']) {
            write!(f, "\"{}\"", self.0.replace('"', "\"\""))
        } else {
            f.write_str(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, start: i64, end: i64, audio: Option<i64>, video: Option<i64>) -> Row {
        Row {
            name: name.parse().unwrap(),
            times: RowTimes {
                start_us: start,
                end_us: end,
                audio_end_us: audio,
                video_end_us: video,
            },
        }
    }

    #[test]
    fn rows_have_three_or_five_columns() {
        let mut list = SegmentList {
            rows: vec![
                row(
                    "media-00028.ts",
                    224_000_000,
                    232_023_001,
                    Some(232_010_667),
                    Some(232_023_001),
                ),
                row(
                    "media-00029.ts",
                    232_023_001,
                    240_000_000,
                    None,
                    Some(240_000_000),
                ),
            ],
            separate_stream_times: true,
        };
        assert_eq!(
            list.to_string(),
            "media-00028.ts,224.000000,232.023001,232.010667,232.023001\n\
             media-00029.ts,232.023001,240.000000,-1.000000,240.000000\n"
        );
        list.separate_stream_times = false;
        assert_eq!(
            list.to_string(),
            "media-00028.ts,224.000000,232.023001\nmedia-00029.ts,232.023001,240.000000\n"
        );
    }

    #[test]
    fn small_negative_times_keep_their_sign() {
        let list = SegmentList {
            rows: vec![row("a", -21_333, 5_000_000, Some(-1), None)],
            separate_stream_times: true,
        };
        assert_eq!(
            list.to_string(),
            "a,-0.021333,5.000000,-0.000001,-1.000000\n"
        );
    }

    #[test]
    fn a_name_with_a_comma_or_quote_is_quoted() {
        let list = SegmentList {
            rows: vec![row("a,\"b\".ts", 0, 1, None, None)],
            separate_stream_times: false,
        };
        assert_eq!(list.to_string(), "\"a,\"\"b\"\".ts\",0.000000,0.000001\n");
    }
}
