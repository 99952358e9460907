//! The README's section "What the files mean": each sentence, and the test that carries it.

use std::path::Path;

/// Sentences in their order, and where their tests are: file and function.
const PROMISES: &[(&str, &[(&str, &str)])] = &[
    (
        "Plex hears of a segment only when all its bytes are on the Plex host and match the checksum that \
         the worker gave.",
        &[
            (BINDING, "a_name_appears_when_its_bytes_are_whole_and_here"),
            (BINDING, "damage_is_fetched_again_and_never_shown"),
            (PLAY, "dash_software_line"),
        ],
    ),
    (
        "One message per segment, in order.",
        &[
            (PLAY, "dash_software_line"),
            (FAKE, "every_misbehaviour_is_noticed"),
        ],
    ),
    (
        "A name appears in the session's directory with its final size and keeps its bytes.",
        &[
            (BINDING, "a_name_appears_when_its_bytes_are_whole_and_here"),
            (PROPERTY, "a_mount_agrees_with_its_model"),
        ],
    ),
    (
        "Listings and attributes never ask the network.",
        &[
            (
                BINDING,
                "a_frozen_worker_delays_one_read_up_to_its_deadline",
            ),
            (WAITS, "parked_reads_and_waits_hold_up_nothing_else"),
        ],
    ),
    (
        "A read waits at most `--read-deadline`, and what waits holds up nothing beside it.",
        &[
            (
                BINDING,
                "a_frozen_worker_delays_one_read_up_to_its_deadline",
            ),
            (WAITS, "parked_reads_and_waits_hold_up_nothing_else"),
        ],
    ),
    (
        "Plex kills the cartridge and starts another job in another directory.",
        &[(PLAY, "dash_after_a_seek")],
    ),
    (
        "Segment number and time belong together whoever makes the segment and wherever the job began; \
         segments after a seek play in the same player buffers as those before it.",
        &[
            (PLAY, "dash_after_many_seeks"),
            (PLAY, "mpegts_after_a_seek"),
            (PLAY, "odd_sources_are_sought_on_the_grid"),
        ],
    ),
    (
        "(a second output) come in segments of their own with a list of their own; one is told of when its \
         time is over, also while no later event is known.",
        &[(SIDE, "subtitles_have_segments_of_their_own")],
    ),
    (
        "Once Plex removes a file or the directory, nothing new appears there, so `rm -r` ends at once; then \
         the worker's session ends.",
        &[
            (REMOVAL, "the_first_removal_freezes_the_binding"),
            (REMOVAL, "rm_r_succeeds_in_a_publish_storm"),
            (
                REMOVAL,
                "rmdir_needs_an_empty_upper_layer_only_and_ends_the_session",
            ),
        ],
    ),
    (
        "What Plex writes into the transcoder directory lands in the directory under the mountpoint, by the \
         rules of POSIX.",
        &[
            (OVERLAY, "the_upper_layer_behaves_like_a_directory"),
            (OVERLAY, "two_processes_write_and_lock_at_once"),
            (
                TORTURE,
                "posix_calls_and_their_errors_are_as_pjdfstest_wants_them",
            ),
            (TORTURE, "fsx_finds_nothing_in_a_short_run"),
        ],
    ),
    (
        "A name that Plex wrote first stays Plex's.",
        &[(REMOVAL, "the_upper_layer_wins_for_names_never_held")],
    ),
    (
        "A segment cannot be overwritten or moved, only removed; `mv` copies it.",
        &[(REMOVAL, "the_upper_layer_wins_for_names_never_held")],
    ),
    (
        "A local transcoder works there as ever.",
        &[(LOCAL, "the_original_plays_through_the_mount")],
    ),
    (
        "A worker that freezes, dies, dawdles, cuts connections, lies about lengths or sends wrong bytes \
         costs its reader an error within `--read-deadline` or nothing, and no reader gets a wrong file to \
         its end.",
        &[
            (FAULTS, "faults_while_bytes_arrive"),
            (FAULTS, "faults_while_a_held_file_comes_again"),
            (FAULTS, "faults_while_a_file_streams_past_the_cache"),
            (FAULTS, "a_worker_that_stops_or_dies_keeps_no_reader"),
        ],
    ),
    (
        "A segment in a session's directory that was pushed out of the cache comes again, and is checked \
         again.",
        &[(FAULTS, "faults_while_a_held_file_comes_again")],
    ),
    (
        "A segment that the worker has dropped, too, is made again when it is read: the same frames and \
         times, but other bytes where the video is encoded.",
        &[(
            AGAIN_PLAYED,
            "a_segment_made_again_is_a_whole_file_with_the_same_pictures",
        )],
    ),
    (
        "It is a new file then, with another inode, size and digest: who had the first one open reads \
         `ESTALE` instead of parts of both, and the next open has the new one whole.",
        &[
            (AGAIN, "the_new_making_is_a_file_of_its_own"),
            (AGAIN, "no_reader_gets_a_mixture"),
        ],
    ),
    (
        "in the mount shows every session of the workers, read-only, for a look by hand and for jobs that \
         were posted without Plex.",
        &[(SESSIONS, "sessions_show_all_files_and_fetch_them_when_read")],
    ),
    (
        "There a file is asked for when it is opened.",
        &[(
            SESSIONS,
            "a_file_of_sessions_is_asked_for_when_it_is_opened",
        )],
    ),
    (
        "Its bytes are given as they arrive; the last ones only when all are right, so a file that \
         comes damaged ends with an error.",
        &[(
            SESSIONS,
            "a_reader_of_sessions_need_not_wait_for_the_whole_file",
        )],
    ),
    (
        "A read gives fewer bytes than it asks for only at the file's end and at its deadline.",
        &[
            (SESSIONS, "a_read_is_short_only_at_its_deadline"),
            (SESSIONS, "a_read_waits_for_all_that_it_asks_for"),
            (SESSIONS, "who_copies_by_the_page_cache_gets_the_whole_file"),
        ],
    ),
    (
        "never has more bytes than its ceiling, and files that are still open count.",
        &[
            (CROWD, "twenty_sessions_share_a_small_cache"),
            (
                REMOVAL,
                "rmdir_needs_an_empty_upper_layer_only_and_ends_the_session",
            ),
        ],
    ),
    (
        "What does not fit is read past it.",
        &[(CACHE, "a_file_beyond_the_ceiling_streams_past_the_cache")],
    ),
    (
        "What session directories show outlives the mount's process.",
        &[(ADOPT, "held_files_outlive_their_instance_and_their_worker")],
    ),
];

const ADOPT: &str = "fusefs/tests/mount/adopt.rs";
const AGAIN: &str = "fusefs/tests/mount/again.rs";
const AGAIN_PLAYED: &str = "tests/e2e/again.rs";
const BINDING: &str = "fusefs/tests/mount/binding.rs";
const CACHE: &str = "fusefs/tests/mount/cache.rs";
const CROWD: &str = "fusefs/tests/mount/crowd.rs";
const FAULTS: &str = "fusefs/tests/mount/faults.rs";
const OVERLAY: &str = "fusefs/tests/mount/overlay.rs";
const PROPERTY: &str = "fusefs/tests/mount/property.rs";
const REMOVAL: &str = "fusefs/tests/mount/removal.rs";
const SESSIONS: &str = "fusefs/tests/mount/sessions.rs";
const TORTURE: &str = "fusefs/tests/mount/torture.rs";
const WAITS: &str = "fusefs/tests/mount/waits.rs";
const FAKE: &str = "tests/e2e/fake.rs";
const LOCAL: &str = "tests/e2e/local.rs";
const PLAY: &str = "tests/e2e/play.rs";
const SIDE: &str = "tests/e2e/side.rs";

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_sentence_of_the_readme_has_a_test() {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## What the files mean\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (_, section) = section.split_once("\n- ").unwrap();
    // The bold words are headings.
    let mut text = String::new();
    for (at, part) in section.split("**").enumerate() {
        text.push_str(if at % 2 == 0 { part } else { "" });
    }
    let words = text.split_whitespace().filter(|word| *word != "-");
    let mut rest = words.collect::<Vec<_>>().join(" ");
    for (sentence, tests) in PROMISES {
        assert!(rest.starts_with(sentence), "not `{sentence}` but `{rest}`");
        rest = rest[sentence.len()..].trim_start().to_owned();
        assert!(!tests.is_empty());
        for (file, test) in *tests {
            let there = read(file).contains(&format!("\nfn {test}()"));
            assert!(there, "`{test}` is not in {file}: `{sentence}`");
        }
    }
    assert!(rest.is_empty(), "nothing carries `{rest}`");
}
