//! Filter graphs, maps and what is done to each output stream.

use super::{Output, Reason, keys, options};
use crate::argv::{CommandLine, Opt, Specifier};
use plexbeam_api::{
    job::{CodecSpec, Source, StreamSelector, StreamSpec},
    segment::MediaKind,
};

/// All filter graphs. What they say is for the worker's planner to judge: it names what it cannot do
/// before anything is told to PMS.
pub(super) fn graphs(line: &CommandLine) -> Result<Vec<String>, Reason> {
    line.options()
        .filter(|o| o.name() == "filter_complex")
        .map(|opt| {
            let graph = opt.text().ok_or_else(|| Reason::value(opt))?;
            Ok(graph.to_owned())
        })
        .collect()
}

/// Names and arguments of the filters of a graph, as they stand. Quoted or escaped separators stay
/// inside their filter.
pub(super) fn filters(graph: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    let mut ends = Vec::new();
    for (at, c) in graph.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => quoted = !quoted,
            ',' | ';' if !quoted => ends.push(at),
            _ => {}
        }
    }
    ends.push(graph.len());
    for end in ends {
        let mut text = graph[start..end].trim();
        // Input labels stand before the name.
        while let Some(rest) = text.strip_prefix('[') {
            text = rest.split_once(']').map_or("", |(_, rest)| rest.trim());
        }
        // And output labels at the end.
        while text.ends_with(']') {
            text = text
                .rsplit_once('[')
                .map_or("", |(rest, _)| rest.trim_end());
        }
        let (name, arguments) = text.split_once('=').unwrap_or((text, ""));
        found.push((name.split(['@', ' ']).next().unwrap_or_default(), arguments));
        start = end + 1;
    }
    found
}

/// The streams of an output, one for each `-map`.
pub(super) fn streams(output: &Output<'_>, graphs: &[String]) -> Result<Vec<StreamSpec>, Reason> {
    let mut streams = Vec::new();
    for opt in output.options.iter().filter(|o| o.name() == "map") {
        let source = source(opt, graphs)?;
        if streams.last().is_some_and(is_many) {
            // Behind a map of unknown width an index no longer names a stream.
            return Err(Reason::option(opt));
        }
        let index = streams.len() as u32;
        streams.push(stream(output, index, source)?);
    }
    if streams.is_empty() {
        return Err(Reason::Option("-map".into()));
    }
    for opt in output.options.iter().filter(|o| o.specifier().is_some()) {
        // An option that meets no stream would be lost without a word.
        let met = |(at, s): (usize, &StreamSpec)| speaks_of(opt, at as u32, &s.source);
        if !streams.iter().enumerate().any(met) {
            return Err(Reason::option(opt));
        }
    }
    Ok(streams)
}

fn is_many(stream: &StreamSpec) -> bool {
    match &stream.source {
        Source::Stream {
            select: StreamSelector::Kind { nth: None, .. },
            ..
        } => true,
        Source::Stream { .. } | Source::Graph { .. } => false,
    }
}

fn source(map: &Opt, graphs: &[String]) -> Result<Source, Reason> {
    let text = map.text().ok_or_else(|| Reason::value(map))?;
    if let Some(label) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        if !graphs.iter().any(|g| g.trim_end().ends_with(text)) {
            return Err(Reason::value(map));
        }
        return Ok(Source::Graph {
            label: label.to_owned(),
        });
    }
    let (text, optional) = match text.strip_suffix('?') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (input, which) = text.split_once(':').ok_or_else(|| Reason::value(map))?;
    let input = input.parse().map_err(|_| Reason::value(map))?;
    let select = selector(&Specifier::parse(which)).ok_or_else(|| Reason::value(map))?;
    let many = matches!(
        select,
        StreamSelector::Kind { media, nth: None } if media != MediaKind::Attachment
    );
    if many {
        return Err(Reason::value(map));
    }
    Ok(Source::Stream {
        input,
        select,
        optional,
    })
}

/// The contract's form of a specifier; `None` for one that picks by other means.
pub(super) fn selector(specifier: &Specifier) -> Option<StreamSelector> {
    match *specifier {
        Specifier::Index(index) => Some(StreamSelector::Index { index }),
        Specifier::Id(id) => Some(StreamSelector::Id { id }),
        Specifier::Kind(kind, nth) => Some(StreamSelector::Kind {
            media: match kind {
                'v' | 'V' => MediaKind::Video,
                'a' => MediaKind::Audio,
                's' => MediaKind::Subtitle,
                't' => MediaKind::Attachment,
                'd' => MediaKind::Data,
                _ => return None,
            },
            nth,
        }),
        Specifier::Stream(_) | Specifier::Other(_) => None,
    }
}

/// True when an option of the output speaks of this stream.
fn speaks_of(opt: &Opt, index: u32, source: &Source) -> bool {
    match opt.specifier() {
        Some(Specifier::Index(at) | Specifier::Stream(at)) => at == index,
        Some(Specifier::Kind(kind, None)) => match source {
            Source::Stream {
                select: StreamSelector::Kind { media, .. },
                ..
            } => selector(&Specifier::Kind(kind, None)).is_some_and(
                |s| matches!(s, StreamSelector::Kind { media: wanted, .. } if wanted == *media),
            ),
            Source::Stream { .. } | Source::Graph { .. } => false,
        },
        Some(Specifier::Kind(_, Some(_)) | Specifier::Id(_) | Specifier::Other(_)) | None => false,
    }
}

fn stream(output: &Output<'_>, index: u32, source: Source) -> Result<StreamSpec, Reason> {
    let (mut codec, mut before_start) = (None, true);
    let (mut encoder_options, mut metadata) = (Vec::new(), Vec::new());
    let (mut forced_keys, mut frame_rate) = (None, None);
    for opt in output.options {
        if !speaks_of(opt, index, &source) {
            continue;
        }
        let text = opt.text().ok_or_else(|| Reason::value(opt))?;
        match opt.name() {
            "codec" | "c" => codec = Some(text.to_owned()),
            "metadata" => {
                let (key, value) = text.split_once('=').ok_or_else(|| Reason::value(opt))?;
                metadata.push((key.to_owned(), value.to_owned()));
            }
            "force_key_frames" => {
                forced_keys = Some(keys::parse(text).ok_or_else(|| Reason::value(opt))?);
            }
            "r" => frame_rate = Some(text.to_owned()),
            "copypriorss" => before_start = text != "0",
            name if options::ENCODER.contains(&name) => {
                encoder_options.push((name.to_owned(), text.to_owned()));
            }
            name if options::is_dropped(name, text) => {}
            _ => return Err(Reason::option(opt)),
        }
    }
    let codec = match codec.as_deref() {
        Some("copy") => CodecSpec::Copy { before_start },
        Some(encoder) => CodecSpec::Encode {
            encoder: encoder.to_owned(),
            options: encoder_options,
        },
        // The muxer's default codec would be taken; Plex always names one.
        None => return Err(Reason::Option(format!("-codec:{index} (missing)"))),
    };
    if matches!(codec, CodecSpec::Copy { .. }) && matches!(source, Source::Graph { .. }) {
        return Err(Reason::BadValue(format!("-codec:{index}"), "copy".into()));
    }
    Ok(StreamSpec {
        source,
        codec,
        metadata,
        forced_keys,
        frame_rate,
    })
}

/// True for a stream that is certainly sound: encoded by what is no encoder of pictures or texts.
pub(super) fn encodes_sound(stream: &StreamSpec) -> bool {
    const FAMILIES: &[&str] = &[
        "aac",
        "ac3",
        "alac",
        "dca",
        "eac3",
        "flac",
        "libfdk",
        "libmp3lame",
        "libopus",
        "libvorbis",
        "mp2",
        "mp3",
        "opus",
        "pcm_",
        "truehd",
        "vorbis",
        "wmav",
    ];
    match &stream.codec {
        CodecSpec::Copy { .. } => false,
        CodecSpec::Encode { encoder, .. } => FAMILIES.iter().any(|f| encoder.starts_with(f)),
    }
}

/// Encoders of moving pictures by the names that Plex uses on any platform.
pub(super) fn encodes_video(stream: &StreamSpec) -> bool {
    const FAMILIES: &[&str] = &[
        "libx26",
        "h264",
        "hevc",
        "av1",
        "libsvtav1",
        "libaom",
        "librav1e",
        "libvpx",
        "vp8",
        "vp9",
        "mpeg1video",
        "mpeg2",
        "mpeg4",
        "libxvid",
        "libopenh264",
        "mjpeg",
        "prores",
    ];
    match &stream.codec {
        CodecSpec::Copy { .. } => false,
        CodecSpec::Encode { encoder, .. } => FAMILIES.iter().any(|f| encoder.starts_with(f)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_names_are_found_behind_labels_and_quotes() {
        assert_eq!(
            filters("[0:0]hwupload[0];[0]scale_cuda=w=1280:h=720[1]"),
            [("hwupload", ""), ("scale_cuda", "w=1280:h=720")]
        );
        assert_eq!(
            filters("[0:1] aresample=async=1:ochl='a,b;c':x=1\\,2[0];[0] [1]overlay,null[2]"),
            [
                ("aresample", "async=1:ochl='a,b;c':x=1\\,2"),
                ("overlay", ""),
                ("null", "")
            ]
        );
        assert_eq!(filters(""), [("", "")]);
    }
}
