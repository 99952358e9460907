//! Subtitles that become part of the picture: which streams, and with which fonts.

use super::{Files, Output, Reason, streams};
use crate::argv::{CommandLine, Opt, Specifier};
use plexbeam_api::job::{BurnSource, FontFile, InputSpec, Location, MAX_INLINE_BYTES};
use std::path::{Path, PathBuf};

/// The streams of `-map_inlineass`, one for each `inlineass` of the graphs.
pub(super) fn sources(line: &CommandLine, graphs: &[String]) -> Result<Vec<BurnSource>, Reason> {
    let mut sources = Vec::new();
    for opt in line.options().filter(|o| o.name() == "map_inlineass") {
        let text = opt.text().ok_or_else(|| Reason::value(opt))?;
        let (input, which) = text.split_once(':').ok_or_else(|| Reason::value(opt))?;
        sources.push(BurnSource {
            input: input.parse().map_err(|_| Reason::value(opt))?,
            select: streams::selector(&Specifier::parse(which))
                .ok_or_else(|| Reason::value(opt))?,
        });
    }
    let drawn = graphs
        .iter()
        .flat_map(|graph| streams::filters(graph))
        .filter(|(name, _)| *name == "inlineass")
        .count();
    if drawn == sources.len() {
        Ok(sources)
    } else {
        Err(Reason::InlineAss)
    }
}

/// The output that makes the original decode the stream which `inlineass` draws; it writes nothing.
pub(super) fn is_sink(output: &Output<'_>) -> bool {
    let harmless = |opt: &Opt| matches!(opt.name(), "map" | "f" | "codec" | "c");
    output.text("f") == Some("null") && output.options.iter().all(harmless)
}

/// The fonts that the graphs name, as far as they can be read and fit beside the side inputs. What
/// is missing costs a typeface, not the job: the worker has fonts, too.
pub(super) fn fonts(graphs: &[String], inputs: &[InputSpec], files: &dyn Files) -> Vec<FontFile> {
    let carried: usize = inputs
        .iter()
        .flat_map(|input| &input.locations)
        .map(|location| match location {
            Location::Inline { data, .. } => data.len(),
            Location::Path { .. } | Location::Url { .. } => 0,
        })
        .sum();
    let mut room = MAX_INLINE_BYTES.saturating_sub(carried);
    let mut fonts: Vec<FontFile> = Vec::new();
    for path in named(graphs, files) {
        let Some(text) = path.to_str() else { continue };
        if fonts.iter().any(|font| font.path == text) {
            continue;
        }
        let fits = files
            .readable_size(&path)
            .is_ok_and(|size| usize::try_from(size).is_ok_and(|size| size <= room));
        if !fits {
            continue;
        }
        if let Ok(data) = files.read(&path)
            && data.len() <= room
        {
            room -= data.len();
            fonts.push(FontFile {
                path: text.to_owned(),
                data,
            });
        }
    }
    fonts
}

/// Paths of fonts: those named, then what lies in the folders named.
fn named(graphs: &[String], files: &dyn Files) -> Vec<PathBuf> {
    let (mut paths, mut folders) = (Vec::new(), Vec::new());
    for graph in graphs {
        for (name, arguments) in streams::filters(graph) {
            if name != "inlineass" {
                continue;
            }
            if let Some(path) = argument(arguments, "font_path") {
                paths.push(PathBuf::from(path));
            }
            if let Some(folder) = argument(arguments, "fonts_dir") {
                folders.push(PathBuf::from(folder));
            }
        }
    }
    for folder in folders {
        paths.extend(files.list(&folder).into_iter().filter(|p| is_font(p)));
    }
    paths
}

fn is_font(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension
        .is_some_and(|e| ["ttf", "otf", "ttc", "otc"].contains(&e.to_ascii_lowercase().as_str()))
}

/// A filter's argument, unescaped as libav does it: once for the graph, once for the option list.
fn argument(arguments: &str, name: &str) -> Option<String> {
    let text = unescape(arguments);
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    let mut ends = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if !quoted => escaped = true,
            '\'' => quoted = !quoted,
            ':' if !quoted => ends.push(at),
            _ => {}
        }
    }
    ends.push(text.len());
    for end in ends {
        if let Some((key, value)) = text[start..end].split_once('=')
            && key == name
            && !value.is_empty()
        {
            return Some(unescape(value));
        }
        start = end + 1;
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' => quoted = !quoted,
            '\\' if !quoted => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_unescaped_twice() {
        let text = r"font_scale=1:font_path=/Fonts/Noto\\\ Sans\\:1.otf:overrides=A\\\=yes\\\,B";
        assert_eq!(
            argument(text, "font_path").as_deref(),
            Some("/Fonts/Noto Sans:1.otf")
        );
        assert_eq!(argument(text, "overrides").as_deref(), Some("A=yes,B"));
        assert_eq!(argument(text, "fonts_dir"), None);
    }

    /// ffmpeg-utils, "Quoting and escaping": between quotes everything stands for itself, a backslash
    /// too. The graph takes away one layer, the option list the next.
    #[test]
    fn quotes_protect_on_each_layer() {
        for (text, path) in [
            (r"font_path='/Fonts/My\:1.otf':margin=3", "/Fonts/My:1.otf"),
            (r"font_path=\'/Fonts/A:B.otf\':margin=3", "/Fonts/A:B.otf"),
            (r"font_path=\'/F/a\\\':margin=3", r"/F/a\"),
            (r"margin=3:font_path='/a b'", "/a b"),
        ] {
            assert_eq!(argument(text, "font_path").as_deref(), Some(path), "{text}");
        }
    }

    /// Files of these sizes.
    struct Fonts(&'static [(&'static str, usize)]);

    impl Files for Fonts {
        fn readable_size(&self, path: &Path) -> std::io::Result<u64> {
            self.read(path).map(|data| data.len() as u64)
        }
        fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
            let name = path.file_name().and_then(|n| n.to_str());
            let known = self.0.iter().find(|(known, _)| Some(*known) == name);
            let (_, size) = known.ok_or(std::io::ErrorKind::NotFound)?;
            Ok(vec![0; *size])
        }
        fn list(&self, folder: &Path) -> Vec<PathBuf> {
            self.0.iter().map(|(name, _)| folder.join(name)).collect()
        }
    }

    fn carried(graph: &str, files: &Fonts) -> Vec<String> {
        let fonts = fonts(&[graph.to_owned()], &[], files);
        fonts.into_iter().map(|font| font.path).collect()
    }

    #[test]
    fn each_font_travels_once_while_there_is_room() {
        let two = "inlineass=font_path=/f/a.ttf[0];[0]inlineass=font_path=/f/b.ttf[1];\
                   [1]inlineass=font_path=/f/a.ttf";
        let small = Fonts(&[("a.ttf", 9), ("b.ttf", 9)]);
        assert_eq!(carried(two, &small), ["/f/a.ttf", "/f/b.ttf"]);
        const MIB: usize = 1 << 20;
        let large = Fonts(&[
            ("a.ttf", 9 * MIB),
            ("b.ttf", 9 * MIB),
            ("c.OTF", MIB),
            ("d.txt", 1),
        ]);
        assert_eq!(
            carried("inlineass=fonts_dir=/f", &large),
            ["/f/a.ttf", "/f/c.OTF"],
            "what fits, and only fonts"
        );
    }
}
