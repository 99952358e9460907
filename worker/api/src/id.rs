//! Checked names: what passes here may become a path component, a URL segment or a log field.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why a text is no [`Id`] or no [`FileName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no valid {what}: {rule}")]
pub struct InvalidName {
    what: &'static str,
    rule: &'static str,
    text: String,
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(InvalidName { what: $what, rule: $rule, text })
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_name!(
    /// The id of a job, session or worker: 1 to 128 of `A-Z a-z 0-9 . _ -`, no leading dot. Safe as
    /// a path component and in a URL without escaping.
    Id,
    "id",
    "1 to 128 of A-Z a-z 0-9 . _ - and no leading dot",
    is_id
);

checked_name!(
    /// The name of one file of a session: a single path component of 1 to 200 bytes without control
    /// characters, no leading dot. It never leaves its directory.
    FileName,
    "file name",
    "one path component of 1 to 200 bytes, no control characters, no leading dot",
    is_file_name
);

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_file_name(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && !text.starts_with('.')
        && !text.contains(['/', '\\'])
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_leave_their_directory() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            ".hidden",
            "a b",
            "ü",
            &"x".repeat(129),
        ] {
            assert!(Id::from_str(bad).is_err(), "{bad:?}");
        }
        assert!(Id::from_str("20250205_143022_12345").is_ok());
    }

    #[test]
    fn file_names_are_one_component() {
        for bad in ["", ".", "..", "a/b", "a\\b", "a\0", "a\nb", ".x"] {
            assert!(FileName::from_str(bad).is_err(), "{bad:?}");
        }
        for good in [
            "media-00001.ts",
            "header",
            "chunk-stream0-00001.m4s",
            "é.srt",
        ] {
            assert!(FileName::from_str(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_bad_id_is_refused_in_json() {
        assert!(serde_json::from_str::<Id>("\"../x\"").is_err());
    }
}
