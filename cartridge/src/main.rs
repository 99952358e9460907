//! `plexbeam-cartridge`: see the library. Under its own name it is the administrator's tool, under any
//! other, which is Plex's, the transcoder.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    if words
        .first()
        .is_some_and(|name| plexbeam_cartridge::admin::is_tool(name))
    {
        return plexbeam_cartridge::admin::run(words);
    }
    // Not by returning: threads that still wait for the mount are not waited for.
    std::process::exit(plexbeam_cartridge::run().into())
}
