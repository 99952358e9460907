//! Plex's command line, read without loss (PROTOCOL 3).
//!
//! ffmpeg's grammar is positional: options belong to the input or output that follows them, and a
//! word that is no option and no option's value is an output. Whether an option takes a value is
//! known by its name only, so a name that is not in the table makes the rest of the line unreadable;
//! that is an [`Error`] and never a guess. [`CommandLine::to_argv`] gives back the same words.

mod table;

use std::ffi::{OsStr, OsString};
use table::Arity;

/// A command line in its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// In order; each ends with an input, an output, or the end of the line.
    pub groups: Vec<Group>,
}

/// Options and what they stand before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// In order, repeated ones included.
    pub options: Vec<Opt>,
    /// What ends the group.
    pub end: End,
}

/// The end of a [`Group`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// `-i` and its value.
    Input(OsString),
    /// The name of an output.
    Output(OsString),
    /// The end of the command line: options that old versions write last are global.
    Line,
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opt {
    /// As it stands, with its minus.
    flag: String,
    /// Length of the name inside `flag`, which starts at 1.
    name_len: usize,
    /// Its value, when it takes one.
    pub value: Option<OsString>,
}

/// The part of an option behind its first colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Specifier {
    /// `:1`, a position in the input or output.
    Index(u32),
    /// `:#0x01`, an id in the container.
    Id(u32),
    /// `:v`, `:V`, `:a`, `:s`, `:t`, `:d`, and `:v:0`.
    Kind(char, Option<u32>),
    /// `:s:1` of `-metadata`: the metadata of output stream 1.
    Stream(u32),
    /// Anything else, as text.
    Other(String),
}

/// Why a command line cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It takes an unknown number of words, so that nothing behind it can be told.
    #[error("unknown option `{0}`")]
    UnknownOption(String),
    /// The line ends where its value should be.
    #[error("option `{0}` has no value")]
    MissingValue(String),
}

impl CommandLine {
    /// Reads the words after `argv[0]`.
    pub fn parse<I>(words: I) -> Result<Self, Error>
    where
        I: IntoIterator<Item = OsString>,
    {
        let mut groups = Vec::new();
        let mut options = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let end = if is_option(&word) {
                let opt = Opt::parse(&word, &mut words)?;
                match opt {
                    Opt {
                        value: Some(url), ..
                    } if word == "-i" => End::Input(url),
                    opt => {
                        options.push(opt);
                        continue;
                    }
                }
            } else {
                End::Output(word)
            };
            groups.push(Group {
                options: std::mem::take(&mut options),
                end,
            });
        }
        if !options.is_empty() {
            groups.push(Group {
                options,
                end: End::Line,
            });
        }
        Ok(CommandLine { groups })
    }

    /// The words again, each as it was.
    pub fn to_argv(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        for group in &self.groups {
            for opt in &group.options {
                words.push(opt.flag.clone().into());
                words.extend(opt.value.clone());
            }
            match &group.end {
                End::Input(url) => words.extend(["-i".into(), url.clone()]),
                End::Output(name) => words.push(name.clone()),
                End::Line => {}
            }
        }
        words
    }

    /// Inputs with their options, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&[Opt], &OsStr)> {
        self.groups.iter().filter_map(|group| match &group.end {
            End::Input(url) => Some((group.options.as_slice(), url.as_os_str())),
            End::Output(_) | End::Line => None,
        })
    }

    /// Outputs with their options, in order.
    pub fn outputs(&self) -> impl Iterator<Item = (&[Opt], &OsStr)> {
        self.groups.iter().filter_map(|group| match &group.end {
            End::Output(name) => Some((group.options.as_slice(), name.as_os_str())),
            End::Input(_) | End::Line => None,
        })
    }

    /// All options wherever they stand; for those that are global by nature.
    pub fn options(&self) -> impl Iterator<Item = &Opt> {
        self.groups.iter().flat_map(|group| &group.options)
    }

    /// Text of the last option of this name, wherever it stands; ffmpeg takes the last, too.
    pub fn last_text(&self, name: &str) -> Option<&str> {
        self.options().filter(|o| o.name() == name).last()?.text()
    }

    /// True when an option of this name stands anywhere.
    pub fn has(&self, name: &str) -> bool {
        self.options().any(|o| o.name() == name)
    }
}

fn is_option(word: &OsStr) -> bool {
    // A lone minus is the output "stdout".
    word.as_encoded_bytes().len() > 1 && word.as_encoded_bytes()[0] == b'-'
}

impl Opt {
    fn parse(word: &OsStr, rest: &mut impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let unknown = || Error::UnknownOption(word.to_string_lossy().into_owned());
        let flag = word.to_str().ok_or_else(unknown)?.to_owned();
        let text = &flag[1..];
        let name_len = text.find(':').unwrap_or(text.len());
        let arity = table::arity(&text[..name_len]).ok_or_else(unknown)?;
        let value = match arity {
            Arity::Flag => None,
            Arity::Value => Some(rest.next().ok_or(Error::MissingValue(flag.clone()))?),
        };
        Ok(Opt {
            flag,
            name_len,
            value,
        })
    }

    /// Name without minus and specifier.
    pub fn name(&self) -> &str {
        &self.flag[1..=self.name_len]
    }

    /// The option as it stands, with minus and specifier.
    pub fn flag(&self) -> &str {
        &self.flag
    }

    /// Value as text; `None` when it has none or when it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.value.as_deref()?.to_str()
    }

    /// Which streams it speaks of; `None` when it says nothing.
    pub fn specifier(&self) -> Option<Specifier> {
        let text = self.flag.get(self.name_len + 2..)?;
        if self.name() == "metadata" {
            let stream = text.strip_prefix("s:").and_then(|n| n.parse().ok());
            return Some(
                stream.map_or_else(|| Specifier::Other(text.to_owned()), Specifier::Stream),
            );
        }
        Some(Specifier::parse(text))
    }
}

impl Specifier {
    /// Reads `1`, `#0x01`, `v`, `s:0`.
    pub fn parse(text: &str) -> Self {
        let other = || Specifier::Other(text.to_owned());
        if let Some(id) = text.strip_prefix('#').or_else(|| text.strip_prefix("i:")) {
            return number(id).map_or_else(other, Specifier::Id);
        }
        if let Ok(index) = text.parse() {
            return Specifier::Index(index);
        }
        let (kind, nth) = match text.split_once(':') {
            Some((kind, nth)) => match nth.parse() {
                Ok(nth) => (kind, Some(nth)),
                Err(_) => return other(),
            },
            None => (text, None),
        };
        match kind {
            "v" | "V" | "a" | "s" | "t" | "d" => Specifier::Kind(kind.as_bytes()[0].into(), nth),
            _ => other(),
        }
    }
}

/// A number as C's `strtol(..., 0)` reads it, as far as Plex uses it: decimal or `0x`.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
