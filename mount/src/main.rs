//! plexbeam-mount
fn main() {}
