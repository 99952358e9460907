//! plexbeam-cartridge
