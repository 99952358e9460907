//! Bytes of any kind are MP4 boxes or an error, without a panic and within the memory they take. The
//! first half is read as an init segment, the second as media on it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plexbeam_tests::boxes;

fuzz_target!(|bytes: &[u8]| {
    let _ = boxes::parse(bytes);
    let _ = boxes::find(bytes, &["moov", "trak", "mdia", "mdhd"]);
    for at in [0, bytes.len() / 2] {
        let (head, body) = bytes.split_at(at);
        if let Ok(init) = boxes::init(if at == 0 { bytes } else { head }) {
            let _ = init.edit_shift();
            if let Ok(media) = boxes::media(body, &init) {
                let _ = (media.first_pts(), media.duration());
            }
        }
    }
});
