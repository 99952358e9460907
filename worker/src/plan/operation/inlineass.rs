//! Plex's filter `inlineass`: text subtitles drawn on the picture (PROTOCOL 4).

use super::{Arguments, Filter};
use plexbeam_api::{Kind, Problem};

/// Text subtitles drawn on the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BurnText {
    /// Which entry of the job's `burn_in` it draws: the how manieth `inlineass` of the line this is.
    pub source: usize,
    /// Font for text that names none, and for plain text: a file of the Plex host, sent along.
    pub font_path: Option<String>,
    /// Folder of the Plex host with more fonts; those that matter are sent along.
    pub fonts_dir: Option<String>,
    /// Factor for all text; a number. `None`: 1.
    pub font_scale: Option<String>,
    /// Size of plain text; a number.
    pub font_size: Option<String>,
    /// Width of outlines; a number.
    pub outline: Option<String>,
    /// Depth of shadows; a number.
    pub shadow: Option<String>,
    /// Distance from the edge; a number.
    pub margin: Option<String>,
    /// Language of the text, for the choice of glyphs.
    pub language: Option<String>,
    /// ASS style fields that win over the script's own, `FontName=Noto Sans`.
    pub overrides: Vec<String>,
}

impl BurnText {
    pub(super) fn read(filter: &Filter, source: usize) -> Result<Self, Problem> {
        const KNOWN: &[&str] = &[
            "font_path",
            "fonts_dir",
            "font_scale",
            "font_size",
            "outline",
            "shadow",
            "margin",
            "language",
            "overrides",
            // Names fonts of the Plex host, which this machine has not.
            "fontconfig_file",
        ];
        for (name, _) in filter.arguments() {
            if !KNOWN.contains(&name.as_str()) {
                return Err(Problem::new(
                    Kind::Unsupported,
                    format!("`inlineass` has an option `{name}` that is unknown"),
                )
                .at("graphs"));
            }
        }
        let a = Arguments::of(filter, &[]);
        let number = |name: &str| match a.get(name) {
            Some(value) if !value.parse::<f64>().is_ok_and(f64::is_finite) => Err(Problem::new(
                Kind::InvalidArgument,
                format!("`{name}` of `inlineass` is no number: `{value}`"),
            )
            .at("graphs")),
            value => Ok(value),
        };
        Ok(BurnText {
            source,
            font_path: a.get("font_path"),
            fonts_dir: a.get("fonts_dir"),
            font_scale: number("font_scale")?,
            font_size: number("font_size")?,
            outline: number("outline")?,
            shadow: number("shadow")?,
            margin: number("margin")?,
            language: a.get("language"),
            overrides: a
                .get("overrides")
                .map(|list| list.split(',').map(|s| s.trim().to_owned()).collect())
                .unwrap_or_default(),
        })
    }
}
