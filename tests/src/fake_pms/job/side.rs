//! The list of a second output, judged: text subtitles in segments of their own (PROTOCOL 7.2). Their
//! numbers say nothing of the time, so what counts is order, the whole files and their own stamps.

use super::Job;
use crate::{
    argv::{Shape, Side},
    fake_pms::{Rule, list},
};

/// A segment of subtitles as announced and read.
#[derive(Debug, Clone, PartialEq)]
pub struct SideRow {
    /// File name.
    pub name: String,
    /// Start and end on the title's timeline, seconds.
    pub times: (f64, f64),
    /// The file's text.
    pub text: String,
}

/// What became of a second output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SideSeen {
    /// Text of the header file.
    pub header: Option<String>,
    /// In order.
    pub rows: Vec<SideRow>,
    /// The connection that its list came by.
    connection: Option<u64>,
}

impl Job {
    /// A list of the second output came by `connection`.
    pub fn side_rows(&self, text: &str, connection: u64) {
        let Some(side) = &self.shape.side else {
            self.fault(
                Rule::Malformed,
                "a second list for a job with one output".into(),
            );
            return;
        };
        let (known, main) = {
            let mut state = self.state.lock();
            let seen = &mut state.seen;
            let main = seen.first_post.is_some();
            let before = seen.side.connection.replace(connection);
            let other = before.is_some_and(|c| c != connection) || {
                let list = state.list_connection;
                list == Some(connection)
            };
            let known = state.seen.side.rows.clone();
            drop(state);
            if other {
                self.fault(
                    Rule::PipelineClosed,
                    "the second list did not stay on a connection of its own".into(),
                );
            }
            (known, main)
        };
        if !main {
            self.fault(
                Rule::OutOfOrder,
                "the second list came before the first one".into(),
            );
        }
        let rows = match list::csv(text, side.separate) {
            Ok(rows) => rows,
            Err(error) => {
                self.fault(Rule::Malformed, format!("second list: {error}"));
                return;
            }
        };
        if side.rows > 0 && rows.len() > side.rows {
            self.fault(
                Rule::Malformed,
                format!("{} rows in a second list of {}", rows.len(), side.rows),
            );
        }
        let mut new = 0;
        for row in rows.iter().filter(|r| !r.unfinished) {
            if let Some(old) = known.iter().find(|k| k.name == row.name) {
                if old.times != row.times {
                    self.fault(Rule::Changed, format!("the row of {} changed", row.name));
                }
                continue;
            }
            let due = Shape::segment_name(&side.media, side.first + (known.len() + new) as u32);
            if row.name != due {
                self.fault(
                    Rule::OutOfOrder,
                    format!("{} announced where {due} was due", row.name),
                );
            }
            new += 1;
            self.side_row(side, row);
        }
        if new > 1 {
            self.fault(
                Rule::NotListed,
                format!("{new} subtitle segments announced by one call"),
            );
        }
    }

    fn side_row(&self, side: &Side, row: &list::CsvRow) {
        let ill = |text: String| self.fault(Rule::IllTimed, format!("{}: {text}", row.name));
        let header_known = self.state.lock().seen.side.header.is_some();
        if let Some(name) = side.header.as_ref().filter(|_| !header_known) {
            let header = self.read_file(&self.dir, name).unwrap_or_default();
            let header = String::from_utf8_lossy(&header).into_owned();
            if side.format == "ass"
                && !(header.starts_with("[Script Info]") && header.contains("\n[Events]"))
            {
                self.fault(
                    Rule::FileNotWhole,
                    format!("{name} is no header of ASS: {header:?}"),
                );
            }
            self.state.lock().seen.side.header = Some(header);
        }
        let bytes = self.read_file(&self.dir, &row.name).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (start, end) = row.times;
        if end < start {
            ill(format!("ends at {end}, begins at {start}"));
        }
        if row.ends.is_some_and(|ends| ends != (-1.0, -1.0)) {
            ill(format!("ends of sound and picture are {:?}", row.ends));
        }
        let last = self.state.lock().seen.side.rows.last().map(|r| r.times.0);
        if last.is_some_and(|last| start < last) {
            ill(format!("begins at {start}, the one before at {last:?}"));
        }
        if side.format == "ass" {
            match ass_start(&text) {
                Some(first) if (first - start).abs() > 0.02 => {
                    ill(format!("the row begins at {start}, the text at {first}"));
                }
                Some(_) => {}
                None => self.fault(
                    Rule::FileNotWhole,
                    format!("{} holds no event alone: {text:?}", row.name),
                ),
            }
        }
        self.state.lock().seen.side.rows.push(SideRow {
            name: row.name.clone(),
            times: row.times,
            text,
        });
    }
}

/// Start of the first event of a text that holds nothing but events.
fn ass_start(text: &str) -> Option<f64> {
    let mut starts = text.lines().map(|line| {
        let stamp = line.strip_prefix("Dialogue: ")?.split(',').nth(1)?;
        let mut parts = stamp.split(':').rev();
        let seconds: f64 = parts.next()?.parse().ok()?;
        let minutes: f64 = parts.next()?.parse().ok()?;
        let hours: f64 = parts.next()?.parse().ok()?;
        Some(hours * 3600.0 + minutes * 60.0 + seconds)
    });
    let first = starts.next()??;
    starts.all(|s| s.is_some()).then_some(first)
}
