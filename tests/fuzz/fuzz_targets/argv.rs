//! A command line of any bytes is read without loss or refused, and judged without a panic. Words are
//! separated by NUL, which no argument can hold.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plexbeam_cartridge::{
    argv::CommandLine,
    config::CopyVideo,
    job::{self, Files, Surroundings},
};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// A host on which every file is there and holds its own name.
struct AllFiles;

impl Files for AllFiles {
    fn readable_size(&self, _path: &Path) -> io::Result<u64> {
        Ok(5)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(path.as_os_str().as_bytes().to_vec())
    }

    fn list(&self, folder: &Path) -> Vec<std::path::PathBuf> {
        vec![folder.join("font.ttf")]
    }
}

fuzz_target!(|bytes: &[u8]| {
    let words: Vec<OsString> = bytes
        .split(|b| *b == 0)
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    if let Ok(line) = CommandLine::parse(words.iter().cloned()) {
        assert_eq!(line.to_argv(), words, "words were lost");
    }
    for copy_video in [CopyVideo::Local, CopyVideo::Remote] {
        let around = Surroundings {
            cwd: Path::new(OsStr::new(
                "/transcode/Transcode/Sessions/plex-transcode-abc-def",
            )),
            copy_video,
            keep_local: &[],
            files: &AllFiles,
        };
        let _ = job::plan(&words, &around);
    }
});
