//! Reading what is announced: the MPD (PROTOCOL 6.6) and the CSV list (6.7). An own reader, so that
//! the contract crate's writer is not judged by itself.

/// One representation of an MPD.
#[derive(Debug, Clone, PartialEq)]
pub struct Representation {
    /// `id`.
    pub id: String,
    /// `video`, `audio`, ... of the mime or content type.
    pub media: String,
    /// `timescale`.
    pub time_scale: u64,
    /// Pattern of the init segment.
    pub init: String,
    /// Pattern of media segments.
    pub pattern: String,
    /// `S` entries: (number, t, d), `r` unrolled.
    pub entries: Vec<(u32, u64, u64)>,
}

/// An MPD.
#[derive(Debug, Clone, PartialEq)]
pub struct Mpd {
    /// `type="static"`.
    pub is_static: bool,
    /// `mediaPresentationDuration` in seconds.
    pub duration: Option<f64>,
    /// All representations.
    pub representations: Vec<Representation>,
}

/// Reads an MPD.
pub fn mpd(text: &str) -> Result<Mpd, String> {
    let document = roxmltree::Document::parse(text).map_err(|e| format!("no XML: {e}"))?;
    let root = document.root_element();
    if root.tag_name().name() != "MPD" {
        return Err(format!("root element {}", root.tag_name().name()));
    }
    let is_static = match root.attribute("type") {
        Some("static") => true,
        Some("dynamic") => false,
        other => return Err(format!("MPD type {other:?}")),
    };
    let duration = match root.attribute("mediaPresentationDuration") {
        Some(text) => Some(iso_duration(text).ok_or_else(|| format!("duration `{text}`"))?),
        None => None,
    };
    let mut representations = Vec::new();
    for node in root
        .descendants()
        .filter(|n| n.has_tag_name_any("Representation"))
    {
        let set = node
            .parent()
            .ok_or("a Representation without AdaptationSet")?;
        let media = node
            .attribute("mimeType")
            .or(set.attribute("mimeType"))
            .or(set.attribute("contentType"))
            .unwrap_or_default();
        let template = node
            .children()
            .chain(set.children())
            .find(|n| n.has_tag_name_any("SegmentTemplate"))
            .ok_or("a Representation without SegmentTemplate")?;
        let number = |name: &str| -> Result<u64, String> {
            template
                .attribute(name)
                .ok_or_else(|| format!("SegmentTemplate without {name}"))?
                .parse()
                .map_err(|_| format!("{name} is no number"))
        };
        let text = |name: &str| {
            template
                .attribute(name)
                .map(str::to_owned)
                .ok_or_else(|| format!("SegmentTemplate without {name}"))
        };
        let mut entries = Vec::new();
        let mut next_number = number("startNumber")? as u32;
        let mut next_time = 0;
        for s in template.descendants().filter(|n| n.has_tag_name_any("S")) {
            let value = |name: &str| -> Result<Option<u64>, String> {
                s.attribute(name)
                    .map(|t| t.parse().map_err(|_| format!("S {name}=`{t}`")))
                    .transpose()
            };
            if let Some(t) = value("t")? {
                next_time = t;
            }
            let d = value("d")?.ok_or("S without d")?;
            for _ in 0..=value("r")?.unwrap_or(0) {
                entries.push((next_number, next_time, d));
                next_number += 1;
                next_time += d;
            }
        }
        representations.push(Representation {
            id: node.attribute("id").unwrap_or_default().to_owned(),
            media: media.split('/').next().unwrap_or_default().to_owned(),
            time_scale: number("timescale")?,
            init: text("initialization")?,
            pattern: text("media")?,
            entries,
        });
    }
    Ok(Mpd {
        is_static,
        duration,
        representations,
    })
}

trait AnyNamespace {
    fn has_tag_name_any(&self, name: &str) -> bool;
}

impl AnyNamespace for roxmltree::Node<'_, '_> {
    fn has_tag_name_any(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// `PT1H2M3.5S`.
fn iso_duration(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix("PT")?;
    let mut total = 0.0;
    while !rest.is_empty() {
        let at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let value: f64 = rest[..at].parse().ok()?;
        total += value
            * match &rest[at..=at] {
                "H" => 3600.0,
                "M" => 60.0,
                "S" => 1.0,
                _ => return None,
            };
        rest = &rest[at + 1..];
    }
    Some(total)
}

/// One row of the list, times in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct CsvRow {
    /// File name.
    pub name: String,
    /// Begins with `#`: still being written.
    pub unfinished: bool,
    /// Start and end.
    pub times: (f64, f64),
    /// Ends of audio and video, in the five-column form.
    pub ends: Option<(f64, f64)>,
}

/// Reads a list; `separate` asks for five columns.
pub fn csv(text: &str, separate: bool) -> Result<Vec<CsvRow>, String> {
    if !text.ends_with('\n') {
        return Err("the last row has no line end".into());
    }
    if text.contains('\r') {
        return Err("rows end with LF alone".into());
    }
    text.lines()
        .map(|line| {
            let unfinished = line.starts_with('#');
            let fields: Vec<&str> = line.trim_start_matches('#').split(',').collect();
            let columns = if separate { 5 } else { 3 };
            if fields.len() != columns && !unfinished {
                return Err(format!(
                    "{} columns instead of {columns}: {line}",
                    fields.len()
                ));
            }
            let time = |n: usize| -> Result<f64, String> {
                let text = fields.get(n).copied().unwrap_or("0.000000").trim();
                let decimals = text.split_once('.').map_or(0, |(_, d)| d.len());
                if decimals != 6 && !unfinished {
                    return Err(format!("`{text}` has not six decimals: {line}"));
                }
                text.parse()
                    .map_err(|_| format!("`{text}` is no time: {line}"))
            };
            Ok(CsvRow {
                name: fields[0].to_owned(),
                unfinished,
                times: (time(1)?, time(2)?),
                ends: if fields.len() >= 5 {
                    Some((time(3)?, time(4)?))
                } else {
                    None
                },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plexs_own_manifest_is_read() {
        let found = mpd(include_str!("../../fixtures/golden/plex-static.mpd")).unwrap();
        assert!(found.is_static);
        assert_eq!(found.duration, Some(29.9));
        assert_eq!(found.representations.len(), 2);
        let video = &found.representations[0];
        assert_eq!((video.id.as_str(), video.media.as_str()), ("0", "video"));
        assert_eq!(
            video.entries,
            [
                (1, 258, 127_476),
                (2, 127_734, 128_004),
                (3, 255_738, 113_148)
            ]
        );
    }

    #[test]
    fn rows_are_read_strictly() {
        let rows = csv("media-00000.ts,0.000000,1.001000,1.002667,1.001000\n", true).unwrap();
        assert_eq!(rows[0].ends, Some((1.002667, 1.001)));
        assert!(csv("media-00000.ts,0.0,1.001000,1.002667,1.001000\n", true).is_err());
        assert!(csv("media-00000.ts,0.000000,1.001000\n", true).is_err());
        assert!(csv("media-00000.ts,0.000000,1.001000", false).is_err());
        assert!(csv("#media-00000.ts,0.000000,1.001000\n", true).unwrap()[0].unfinished);
    }
}
