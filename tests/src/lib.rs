//! plexbeam-tests
