//! Filter graph text, read into chains of operations.
//!
//! The grammar is that of `avfilter_graph_parse`: chains separated by `;`, filters by `,`, link
//! labels in brackets, `'` quotes and `\` escapes. Arguments stay as they stood.

use plexbeam_api::{Kind, Problem, job::StreamSelector, segment::MediaKind};

/// One filter of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Name, without an instance id.
    pub name: String,
    /// Text after the first `=`, quotes and escapes kept.
    pub args: String,
}

impl Filter {
    /// A filter from its parts.
    pub fn new(name: &str, args: impl Into<String>) -> Self {
        Filter {
            name: name.to_owned(),
            args: args.into(),
        }
    }

    /// Text for libav.
    pub fn text(&self) -> String {
        if self.args.is_empty() {
            self.name.clone()
        } else {
            format!("{}={}", self.name, self.args)
        }
    }

    /// The arguments, unescaped as libav does it: once for the graph, once for the option list. A
    /// positional argument has an empty name.
    pub fn arguments(&self) -> Vec<(String, String)> {
        let text = unescape(&self.args);
        split(&text, ':')
            .unwrap_or_default()
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) if is_name(key) => (key.to_owned(), unescape(value)),
                _ => (String::new(), unescape(part)),
            })
            .collect()
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Takes away one level of `\\` escapes and `'` quotes.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut quoted = false;
    while let Some(ch) = chars.next() {
        match ch {
            '\'' => quoted = !quoted,
            '\\' if !quoted => out.extend(chars.next()),
            _ => out.push(ch),
        }
    }
    out
}

/// A value as it has to stand in a graph, so that [`Filter::arguments`] and libav read it back.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for ch in value.chars() {
        match ch {
            // Special for the option list, so both levels.
            '\'' => out.push_str("\\\\\\'"),
            '\\' => out.push_str("\\\\\\\\"),
            ':' => out.push_str("\\\\:"),
            // Special for the graph alone.
            '[' | ']' | ',' | ';' => {
                out.push('\\');
                out.push(ch);
            }
            _ => out.push(ch),
        }
    }
    out
}

/// Filters in a row, with the labels at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Labels in front, without brackets.
    pub inputs: Vec<String>,
    /// The filters.
    pub filters: Vec<Filter>,
    /// Labels behind.
    pub outputs: Vec<String>,
}

/// Reads one graph.
pub fn parse(text: &str) -> Result<Vec<Chain>, Problem> {
    split(text, ';')?
        .into_iter()
        .filter(|c| !c.trim().is_empty())
        .map(|c| parse_chain(&c))
        .collect()
}

fn malformed(what: &str, text: &str) -> Problem {
    let shown: String = text.chars().take(120).collect();
    Problem::new(
        Kind::InvalidArgument,
        format!("filter graph: {what} in `{shown}`"),
    )
    .at("graphs")
}

/// Splits at a separator outside quotes, escapes and brackets.
fn split(text: &str, separator: char) -> Result<Vec<String>, Problem> {
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for ch in text.chars() {
        if !quoted && !escaped && ch == separator {
            parts.push(String::new());
            continue;
        }
        match ch {
            _ if escaped => escaped = false,
            '\\' if !quoted => escaped = true,
            '\'' => quoted = !quoted,
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(ch);
        }
    }
    if quoted {
        Err(malformed("an open quote", text))
    } else {
        Ok(parts)
    }
}

fn parse_chain(text: &str) -> Result<Chain, Problem> {
    let mut chain = Chain {
        inputs: Vec::new(),
        filters: Vec::new(),
        outputs: Vec::new(),
    };
    let parts = split(text, ',')?;
    let count = parts.len();
    for (at, part) in parts.iter().enumerate() {
        let (mut rest, labels) = leading_labels(part.trim(), text)?;
        if at == 0 {
            chain.inputs = labels;
        } else if !labels.is_empty() {
            return Err(malformed("a label between two filters", text));
        }
        let mut outputs = Vec::new();
        while rest.ends_with(']') {
            let open = rest
                .rfind('[')
                .ok_or_else(|| malformed("a `]` without `[`", text))?;
            outputs.insert(0, rest[open + 1..rest.len() - 1].to_owned());
            rest = rest[..open].trim_end();
        }
        if at + 1 == count {
            chain.outputs = outputs;
        } else if !outputs.is_empty() {
            return Err(malformed("a label between two filters", text));
        }
        let (name, args) = rest.split_once('=').unwrap_or((rest, ""));
        let name = name.split('@').next().unwrap_or(name).trim();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(malformed("no filter name", text));
        }
        chain.filters.push(Filter::new(name, args));
    }
    Ok(chain)
}

fn leading_labels<'a>(mut rest: &'a str, text: &str) -> Result<(&'a str, Vec<String>), Problem> {
    let mut labels = Vec::new();
    while let Some(inner) = rest.strip_prefix('[') {
        let end = inner
            .find(']')
            .ok_or_else(|| malformed("a `[` without `]`", text))?;
        labels.push(inner[..end].to_owned());
        rest = inner[end + 1..].trim_start();
    }
    Ok((rest, labels))
}

/// Filters from one input stream to one output label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which input of the job.
    pub input: u32,
    /// Which of its streams.
    pub select: StreamSelector,
    /// What happens on the way.
    pub steps: Vec<Step>,
}

/// One filter of a [`Line`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The filter.
    pub filter: Filter,
    /// What its second input gets, as of `overlay`.
    pub side: Option<Box<Line>>,
}

/// Follows `label` back to its input stream. Labels are unique over all graphs of a job, so the
/// graphs are read as one.
pub fn line(graphs: &[String], label: &str) -> Result<Line, Problem> {
    let mut chains = Vec::new();
    for graph in graphs {
        chains.extend(parse(graph)?);
    }
    follow(&chains, label, &mut chains.len())
}

/// `left`: chains that may still be consumed, so that a circle ends as well.
fn follow(chains: &[Chain], label: &str, left: &mut usize) -> Result<Line, Problem> {
    if let Some((input, select)) = parse_stream(label) {
        return Ok(Line {
            input,
            select,
            steps: Vec::new(),
        });
    }
    let chain = chains
        .iter()
        .find(|c| c.outputs.iter().any(|o| o == label))
        .ok_or_else(|| {
            Problem::new(
                Kind::InvalidArgument,
                format!("filter graph: no filter makes the label [{label}]"),
            )
            .at("graphs")
        })?;
    *left = left
        .checked_sub(1)
        .ok_or_else(|| malformed("a circle", label))?;
    let (main, side) = match (chain.inputs.as_slice(), chain.outputs.as_slice()) {
        ([main], [_]) => (main, None),
        ([main, side], [_]) => (main, Some(side)),
        _ => {
            let name = chain.filters.last().map_or("?", |f| f.name.as_str());
            return Err(Problem::new(
                Kind::Unsupported,
                format!("filter `{name}` joins or splits streams, which is not possible yet"),
            )
            .at("graphs"));
        }
    };
    let mut line = follow(chains, main, left)?;
    let mut side = match side {
        Some(side) => Some(Box::new(follow(chains, side, left)?)),
        None => None,
    };
    line.steps.extend(chain.filters.iter().map(|filter| Step {
        filter: filter.clone(),
        side: side.take(),
    }));
    Ok(line)
}

/// Reads `0:1`, `0:#0x01`, `0:v:0`, `0:a`.
pub fn parse_stream(text: &str) -> Option<(u32, StreamSelector)> {
    let (input, rest) = text.split_once(':')?;
    let input = input.parse().ok()?;
    if let Some(id) = rest.strip_prefix('#') {
        let id = match id.strip_prefix("0x").or_else(|| id.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => id.parse().ok()?,
        };
        return Some((input, StreamSelector::Id { id }));
    }
    if let Ok(index) = rest.parse() {
        return Some((input, StreamSelector::Index { index }));
    }
    let (kind, nth) = match rest.split_once(':') {
        Some((kind, nth)) => (kind, Some(nth.parse().ok()?)),
        None => (rest, Some(0)),
    };
    let media = match kind {
        "v" | "V" => MediaKind::Video,
        "a" => MediaKind::Audio,
        "s" => MediaKind::Subtitle,
        _ => return None,
    };
    Some((input, StreamSelector::Kind { media, nth }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graphs(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn a_software_line_is_followed_back_to_its_stream() {
        let graphs = graphs(&[
            "[0:0]scale=w=2276:h=1280:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1]",
            "[0:1] aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000[2]",
        ]);
        let video = line(&graphs, "1").unwrap();
        assert_eq!(
            (video.input, &video.select),
            (0, &StreamSelector::Index { index: 0 })
        );
        assert_eq!(
            video.steps[0].filter.text(),
            "scale=w=2276:h=1280:force_divisible_by=4"
        );
        assert_eq!(video.steps[1].filter.text(), "format=pix_fmts=yuv420p|nv12");
        let audio = line(&graphs, "2").unwrap();
        assert_eq!(audio.select, StreamSelector::Index { index: 1 });
        assert_eq!(
            audio.steps[0].filter.text(),
            "aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000"
        );
    }

    #[test]
    fn separators_inside_quotes_and_escapes_do_not_split() {
        let chains = parse(r"[0:#0x01]drawtext=text='a;b,c[d]',inlineass=x=a\\\,b[9]").unwrap();
        assert_eq!(chains.len(), 1);
        assert_eq!(chains[0].inputs, ["0:#0x01"]);
        assert_eq!(chains[0].filters.len(), 2);
        assert_eq!(chains[0].filters[1].args, r"x=a\\\,b");
        assert_eq!(chains[0].outputs, ["9"]);
    }

    #[test]
    fn arguments_are_unescaped_twice_and_escape_undoes_that() {
        let filter = Filter::new(
            "inlineass",
            r"font_scale=1.0:overrides=A\\\=yes\\\,FontName\\\=Noto\\\ Sans\\\,B\\\=&H00:outline=2.6",
        );
        let arguments = filter.arguments();
        assert_eq!(arguments[1].0, "overrides");
        assert_eq!(arguments[1].1, "A=yes,FontName=Noto Sans,B=&H00");
        assert_eq!(arguments[2], ("outline".into(), "2.6".into()));
        for value in ["a:b", "it's", r"c:\\d", "x,y;[z]", "plain"] {
            let filter = Filter::new("f", format!("k={}:after=1", escape(value)));
            assert_eq!(
                filter.arguments(),
                [("k".into(), value.into()), ("after".into(), "1".into())],
                "{value}"
            );
        }
    }

    #[test]
    fn an_overlay_keeps_both_of_its_streams() {
        let line = line(
            &graphs(&["[0:3]scale=w=640:h=360[2];[0:0]scale=w=640:h=360[0];[0][2]overlay=x=1[3]"]),
            "3",
        )
        .unwrap();
        assert_eq!(line.select, StreamSelector::Index { index: 0 });
        assert_eq!(line.steps.len(), 2);
        let side = line.steps[1].side.as_ref().unwrap();
        assert_eq!(side.select, StreamSelector::Index { index: 3 });
        assert_eq!(side.steps[0].filter.name, "scale");
    }

    #[test]
    fn stream_names() {
        assert_eq!(
            parse_stream("0:#0x1f"),
            Some((0, StreamSelector::Id { id: 31 }))
        );
        let first_audio = StreamSelector::Kind {
            media: MediaKind::Audio,
            nth: Some(0),
        };
        assert_eq!(parse_stream("1:a:0"), Some((1, first_audio)));
        assert_eq!(parse_stream("12"), None);
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        for bad in [
            "[0:0",
            "scale='x",
            "]",
            "[a]scale[b],null[c]",
            "[0]null[1];[1]null[0]",
            "",
            "=",
        ] {
            assert!(line(&graphs(&[bad]), "0").is_err(), "{bad}");
        }
    }
}
