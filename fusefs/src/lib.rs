//! plexbeam-fusefs
