//! `plexbeam-cartridge`: see the library.

fn main() {
    // Not by returning: threads that still wait for the mount are not waited for.
    std::process::exit(plexbeam_cartridge::run().into())
}
