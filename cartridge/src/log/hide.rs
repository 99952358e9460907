//! What must not stand in a log: tokens always, names of media where the administrator asks.

use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::path::Path;

/// Query values and headers that open something.
const SECRETS: &[&str] = &["X-Plex-Token=", "token=", "signature=", "api_key="];

/// Takes names out of texts.
#[derive(Debug, Clone, Default)]
pub struct Hide {
    /// What is replaced, and by what; longest first.
    names: Vec<(String, String)>,
}

impl Hide {
    /// The paths of this command line, and their last parts.
    pub fn paths_of(words: &[OsString]) -> Self {
        let mut names = Vec::new();
        for word in words {
            let path = Path::new(word);
            if !path.is_absolute() {
                continue;
            }
            let stand_in = stand_in(word.as_encoded_bytes(), path);
            for part in [Some(word.as_os_str()), path.file_name(), path.file_stem()] {
                let text = part.unwrap_or_default().to_string_lossy().into_owned();
                // Shorter ones would be found inside innocent words.
                if text.len() >= 4 {
                    names.push((text, stand_in.clone()));
                }
            }
        }
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names.dedup();
        Hide { names }
    }

    /// The text without them.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, stand_in) in &self.names {
            if text.contains(name.as_str()) {
                text = text.replace(name.as_str(), stand_in);
            }
        }
        without_secrets(text)
    }
}

/// `<media 1a2b3c4d.mkv>`: the same for the same path.
fn stand_in(bytes: &[u8], path: &Path) -> String {
    let digest: String = Sha256::digest(bytes)
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect();
    let end = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    match !end.is_empty() && end.len() <= 5 {
        true => format!("<media {digest}.{end}>"),
        false => format!("<media {digest}>"),
    }
}

/// The values of tokens and keys, and what stands before the `@` of a URL, become dots.
pub fn without_secrets(mut text: String) -> String {
    for name in SECRETS {
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|rest| rest.find(name)) {
            let start = from + at + name.len();
            let rest = text.get(start..).unwrap_or_default();
            let len = rest.find(['&', ' ', '"', '\n']).unwrap_or(rest.len());
            text.replace_range(start..start + len, "...");
            from = start + 3;
        }
    }
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find("://")) {
        let start = from + at + 3;
        let rest = text.get(start..).unwrap_or_default();
        let host = rest.find(['/', '?', ' ', '"']).unwrap_or(rest.len());
        if let Some(end) = rest.get(..host).and_then(|r| r.rfind('@')) {
            text.replace_range(start..start + end, "...");
        }
        from = start;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_secrets_vanish_and_the_rest_stays() {
        let words =
            ["-i", "/films/Some Film (1999)/Some Film.mkv", "-f", "dash"].map(OsString::from);
        let hide = Hide::paths_of(&words);
        let text = hide
            .text("cannot open /films/Some Film (1999)/Some Film.mkv: input Some Film.mkv, dash");
        assert!(!text.contains("Some") && !text.contains("films"), "{text}");
        assert!(
            text.ends_with(".mkv>, dash") && text.starts_with("cannot open <media "),
            "{text}"
        );
        let url = "http://me:pw@tuner/x?X-Plex-Token=abc&b=1 and token=zz";
        assert_eq!(
            Hide::default().text(url),
            "http://...@tuner/x?X-Plex-Token=...&b=1 and token=..."
        );
    }
}
