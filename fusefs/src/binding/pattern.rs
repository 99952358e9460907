//! Name patterns of a binding.

/// True where `name` is `pattern` with any text for each `*`.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // The leftmost place for each inner part leaves the most for those behind it.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("header", "header", true),
            ("header", "header2", false),
            ("chunk-stream*-*.m4s", "chunk-stream0-00001.m4s", true),
            ("chunk-stream*-*.m4s", "chunk-stream0.m4s", false),
            ("media-*.ts", "media-.ts", true),
            ("media-*.ts", "media-1.ts.tmp", false),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("a*ab*b", "aabb", true),
            ("a*ab*b", "aab", false),
            ("*a*", "bab", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
