//! File names of an output, from the patterns of ffmpeg's muxers.

use plexbeam_api::{FileName, Kind, Problem};

/// File names of an output.
pub(super) struct Names<'a> {
    pub(super) init: Option<&'a str>,
    pub(super) media: &'a str,
    pub(super) header: Option<&'a FileName>,
    pub(super) playlist: Option<&'a FileName>,
}

impl Names<'_> {
    fn bad(pattern: &str) -> Problem {
        Problem::new(
            Kind::InvalidArgument,
            format!("name pattern `{pattern}` gives no file name"),
        )
        .at("packaging")
    }

    /// The name of a file of stream `stream`; its number where the pattern asks for one.
    pub(super) fn file(pattern: &str, stream: usize, number: u32) -> Result<FileName, Problem> {
        expand(pattern, stream, number)
            .and_then(|name| FileName::try_from(name).ok())
            .ok_or_else(|| Self::bad(pattern))
    }
}

/// `$RepresentationID$`, `$Number$`, `$Number%05d$`, `%d` and `%05d`.
fn expand(pattern: &str, stream: usize, number: u32) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(['$', '%']) {
        out.push_str(&rest[..at]);
        let special = &rest[at..];
        if let Some(after) = special.strip_prefix("$RepresentationID$") {
            out.push_str(&stream.to_string());
            rest = after;
        } else if let Some(after) = special.strip_prefix("$Number$") {
            out.push_str(&number.to_string());
            rest = after;
        } else {
            let (inner, closing) = match special.strip_prefix("$Number") {
                Some(inner) => (inner, "$"),
                None => (special, ""),
            };
            let digits = inner.strip_prefix('%')?;
            let end = digits.find('d')?;
            let width: usize = match &digits[..end] {
                "" => 1,
                width => width.parse().ok().filter(|w| *w <= 20)?,
            };
            out.push_str(&format!("{number:0width$}"));
            rest = digits[end + 1..].strip_prefix(closing)?;
        }
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_muxers() {
        let media = "chunk-stream$RepresentationID$-$Number%05d$.m4s";
        assert_eq!(expand(media, 1, 42).unwrap(), "chunk-stream1-00042.m4s");
        let init = "init-stream$RepresentationID$.m4s";
        assert_eq!(expand(init, 0, 7).unwrap(), "init-stream0.m4s");
        assert_eq!(
            expand("media-%05d.ts", 0, 123_456).unwrap(),
            "media-123456.ts"
        );
        assert_eq!(expand("chunk-%d", 0, 3).unwrap(), "chunk-3");
        for bad in ["%s", "a%", "$Number%05d", "%99d", "$x$"] {
            assert!(expand(bad, 0, 0).is_none(), "{bad}");
        }
    }
}
