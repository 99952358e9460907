//! What the debug forms of messages leave out: they end up in logs.

use std::fmt;

/// Stands for a secret.
pub(crate) struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A URL without its query, which may hold a signature, and without credentials.
pub(crate) fn bare(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (scheme, rest) = match url[..end].split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), &url[..end]),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use crate::{
        job::{Location, ShortInput},
        mount::{Binding, MountInfo},
        session::{Accepted, Urls},
    };

    #[test]
    fn debug_forms_tell_no_secret() {
        let id = |text: &str| text.parse().unwrap();
        let url = "http://user:SECRET@nas:8770/media/f.mkv?sig=SECRET#SECRET";
        let shown = [
            format!(
                "{:?}",
                Binding {
                    worker: id("w"),
                    session: id("s"),
                    token: "SECRET".to_owned(),
                    patterns: Vec::new(),
                    epoch: 1,
                }
            ),
            format!(
                "{:?}",
                Accepted {
                    job_id: id("j"),
                    session: id("s"),
                    token: "SECRET".to_owned(),
                    worker: id("w"),
                    api_version: 1,
                    urls: Urls {
                        status: String::new(),
                        events: String::new(),
                        files: String::new(),
                        cancel: String::new(),
                    },
                }
            ),
            format!(
                "{:?}",
                MountInfo {
                    version: String::new(),
                    api_version: 1,
                    mountpoint: String::new(),
                    read_deadline_ms: 0,
                    media: None,
                    media_secret: Some("SECRET".to_owned()),
                }
            ),
            format!(
                "{:?}",
                Location::Url {
                    url: url.to_owned()
                }
            ),
            format!(
                "{:?}",
                Location::Inline {
                    name: "a.srt".parse().unwrap(),
                    data: b"SECRET".to_vec(),
                }
            ),
            format!(
                "{:?}",
                ShortInput {
                    kind: "url".to_owned(),
                    path: None,
                    url: Some(url.to_owned()),
                }
            ),
        ];
        for text in &shown {
            assert!(!text.contains("SECRET"), "{text}");
            let bytes = format!("{:?}", b"SECRET".to_vec());
            assert!(!text.contains(&bytes), "{text}");
        }
        assert!(
            shown[3].contains("http://nas:8770/media/f.mkv"),
            "{}",
            shown[3]
        );
    }
}
