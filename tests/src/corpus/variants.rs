//! Lines like the recorded ones.

use super::Case;

/// Variants of recorded lines.
#[must_use]
pub fn likes() -> Vec<Case> {
    Vec::new()
}
