//! `plexbeam-cartridge`: see the library. Under its own name it is the administrator's tool, under any
//! other, which is Plex's, the transcoder; a third name is only used by itself.

use plexbeam_cartridge::log::apart;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    apart::allow();
    if words
        .first()
        .is_some_and(|name| plexbeam_cartridge::admin::is_tool(name))
    {
        return plexbeam_cartridge::admin::run(words);
    }
    if let [name, words @ ..] = words.as_slice()
        && name == apart::NAME
    {
        // Not by returning either: it may be held up.
        std::process::exit(apart::serve(words).into())
    }
    // Not by returning: threads that still wait for the mount are not waited for.
    std::process::exit(plexbeam_cartridge::run().into())
}
