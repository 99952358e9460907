//! The files that are read.

use super::{
    KIB, MANY, MIB,
    origin::{Content, Origin, noise},
};
use std::path::Path;

/// What the files hold.
pub(super) struct Contents {
    pub(super) four: Content,
    pub(super) large: Content,
    pub(super) small: Content,
    pub(super) tiny: Content,
    pub(super) one: Content,
}

/// Names of what is held.
pub(super) fn held_names() -> Vec<String> {
    let four = (0..16).map(|n| format!("four-{n}"));
    let large = (0..4).map(|n| format!("large-{n}"));
    let small = (0..100).map(|n| format!("small-{n}"));
    four.chain(large).chain(small).collect()
}

impl Contents {
    pub(super) fn new(root: &Path) -> Result<Contents, String> {
        let bytes = noise(64 * MIB);
        let part = |name: &str, len: usize| Content::new(root, name, &bytes[..len]);
        Ok(Contents {
            large: part("large", 64 * MIB)?,
            four: part("four", 4 * MIB)?,
            small: part("small", 300 * KIB)?,
            tiny: part("tiny", KIB)?,
            one: part("one", 1_000_000)?,
        })
    }

    pub(super) fn publish(&self, origin: &Origin) -> Result<(), String> {
        for (number, name) in held_names().into_iter().enumerate() {
            let content = match name.split('-').next() {
                Some("four") => &self.four,
                Some("large") => &self.large,
                _ => &self.small,
            };
            origin.publish("held", &name, number as u32, content)?;
        }
        for n in 0..MANY {
            origin.publish("many", &format!("chunk-stream0-{n:05}.m4s"), n, &self.tiny)?;
        }
        Ok(())
    }
}
