//! Which file names a job will produce, so that "not yet" can be told from "never".

use plexbeam_api::{
    JobSpec,
    job::{OutputSpec, Packaging},
};

/// The names that a job's outputs may get.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    parts: Vec<Part>,
    /// Numbers below were left out on purpose (a seek) and never come.
    first_number: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Digits, at least this many; zero-padded when there are more than one.
    Number {
        width: usize,
    },
    /// Position of a stream in its output, below this count.
    Representation {
        count: u32,
    },
}

impl Names {
    /// Names of the outputs of this job.
    pub(super) fn of(spec: &JobSpec) -> Self {
        Names(spec.outputs.iter().flat_map(patterns).collect())
    }

    /// True when the job may yet produce this name.
    pub(super) fn may_be(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.fits(name))
    }
}

fn patterns(output: &OutputSpec) -> Vec<Pattern> {
    let streams = output.streams.len() as u32;
    let pattern = |text: &str, first_number| Pattern {
        parts: parse(text, streams),
        first_number,
    };
    match &output.packaging {
        Packaging::Dash {
            first_number,
            init_name,
            media_name,
            ..
        } => vec![pattern(init_name, 0), pattern(media_name, *first_number)],
        Packaging::Segment {
            first_number,
            media_name,
            header_name,
            ..
        } => {
            let mut all = vec![pattern(media_name, *first_number)];
            all.extend(header_name.as_ref().map(|name| literal(name.as_str())));
            all
        }
        Packaging::Hls {
            first_number,
            media_name,
            playlist_name,
            ..
        } => vec![
            pattern(media_name, *first_number),
            literal(playlist_name.as_str()),
        ],
    }
}

fn literal(text: &str) -> Pattern {
    Pattern {
        parts: vec![Part::Text(text.to_owned())],
        first_number: 0,
    }
}

/// Reads `%d`, `%0Nd`, `$Number$`, `$Number%0Nd$` and `$RepresentationID$`; all else is text.
fn parse(pattern: &str, streams: u32) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(next) = rest.chars().next() {
        let special = if let Some(after) = rest.strip_prefix("$RepresentationID$") {
            Some((Part::Representation { count: streams }, after))
        } else if let Some(after) = rest.strip_prefix("$Number$") {
            Some((Part::Number { width: 1 }, after))
        } else if let Some(after) = rest.strip_prefix("$Number%") {
            width(after)
                .and_then(|(width, after)| Some((Part::Number { width }, after.strip_prefix('$')?)))
        } else if let Some(after) = rest.strip_prefix('%') {
            width(after).map(|(width, after)| (Part::Number { width }, after))
        } else {
            None
        };
        match special {
            Some((part, after)) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
                rest = after;
            }
            None => {
                text.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// The `05d` of `%05d`: minimum digits and what follows.
fn width(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_at(text.find('d')?);
    let width = match digits {
        "" => 1,
        _ => digits
            .parse()
            .ok()
            .filter(|width| (1..=20).contains(width))?,
    };
    Some((width, &rest[1..]))
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        fits(&self.parts, name, self.first_number)
    }
}

fn fits(parts: &[Part], name: &str, first: u32) -> bool {
    let Some((part, parts)) = parts.split_first() else {
        return name.is_empty();
    };
    if let Part::Text(text) = part {
        return name
            .strip_prefix(text.as_str())
            .is_some_and(|rest| fits(parts, rest, first));
    }
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    // A number takes as many digits as there are, or fewer where digits follow in the pattern.
    (1..=digits.min(20)).rev().any(|taken| {
        let (number, rest) = name.split_at(taken);
        let padded = number.len() > 1 && number.starts_with('0');
        let Ok(value) = number.parse::<u32>() else {
            return false;
        };
        let fit = match *part {
            Part::Number { width } => {
                value >= first && (taken == width || (taken > width && !padded))
            }
            Part::Representation { count } => value < count && !padded,
            Part::Text(_) => false,
        };
        fit && fits(parts, rest, first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str, first_number: u32) -> Pattern {
        Pattern {
            parts: parse(text, 2),
            first_number,
        }
    }

    #[test]
    fn dash_names() {
        let media = pattern("chunk-stream$RepresentationID$-$Number%05d$.m4s", 9);
        for yes in [
            "chunk-stream0-00009.m4s",
            "chunk-stream1-12345.m4s",
            "chunk-stream0-100000.m4s",
        ] {
            assert!(media.fits(yes), "{yes}");
        }
        for no in [
            "chunk-stream0-00008.m4s",
            "chunk-stream2-00009.m4s",
            "chunk-stream0-9.m4s",
            "chunk-stream0-000009.m4s",
            "chunk-stream00-00009.m4s",
            "chunk-stream0-00009.m4s.tmp",
            "chunk-stream0-.m4s",
            "",
        ] {
            assert!(!media.fits(no), "{no}");
        }
        assert!(pattern("init-stream$RepresentationID$.m4s", 0).fits("init-stream1.m4s"));
        assert!(!pattern("init-stream$RepresentationID$.m4s", 0).fits("init-stream2.m4s"));
    }

    #[test]
    fn segment_names_and_odd_ones() {
        assert!(pattern("media-%05d.ts", 0).fits("media-00000.ts"));
        assert!(!pattern("media-%05d.ts", 0).fits("media-0000.ts"));
        assert!(pattern("%d", 0).fits("17"));
        assert!(pattern("é%dé", 0).fits("é17é"));
        assert!(pattern("$Number$-$Number$", 0).fits("3-3"));
        assert!(pattern("100%", 0).fits("100%"));
        assert!(pattern("a%99999999999999999999d", 0).fits("a%99999999999999999999d"));
        assert!(!pattern("media-%05d.ts", 0).fits("media-99999999999999999999999.ts"));
    }
}
