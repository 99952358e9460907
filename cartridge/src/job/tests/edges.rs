//! The edges of what is read: where one more step gives another job, or none.

use super::*;
use crate::config::Work;

/// `argv` with words put before its output's name, which is the last word.
fn before_output(argv: &[OsString], words: &[&str]) -> Vec<OsString> {
    let mut argv = argv.to_vec();
    let at = argv.len() - 1;
    argv.splice(at..at, words.iter().map(OsString::from));
    argv
}

fn widely(argv: &[OsString]) -> Result<Plan, Reason> {
    judged(argv, CopyVideo::Remote)
}

#[test]
fn dash_of_old_names_its_length_in_microseconds() {
    let seconds = |argv: &[OsString]| match widely(argv).unwrap().spec.outputs[0].packaging {
        Packaging::Dash {
            segment_seconds, ..
        } => segment_seconds,
        ref other => panic!("{other:?}"),
    };
    let none = changed(&line("sp-01"), "-seg_duration", None);
    assert_eq!(seconds(&none), 5.0, "the muxer's own default");
    let old = before_output(&none, &["-min_seg_duration", "8000000"]);
    assert_eq!(seconds(&old), 8.0);
}

#[test]
fn the_name_of_segments_stays_in_its_directory_and_has_a_number() {
    let base = line("sp-02");
    for bad in ["media.ts", "sub/media-%05d.ts", "/media-%05d.ts"] {
        let mut argv = base.clone();
        *argv.last_mut().unwrap() = bad.into();
        assert_eq!(
            widely(&argv),
            Err(Reason::BadValue("the output".into(), bad.into()))
        );
    }
    assert!(widely(&base).is_ok());
}

#[test]
fn log_levels_are_pmss() {
    for (name, level) in [
        ("quiet", Some(None)),
        ("panic", Some(Some(0))),
        ("fatal", Some(Some(0))),
        ("error", Some(Some(0))),
        ("warning", Some(Some(1))),
        ("info", Some(Some(2))),
        ("verbose", Some(Some(3))),
        ("debug", Some(Some(4))),
        ("trace", Some(Some(4))),
        ("loud", None),
    ] {
        let argv = changed(&line("sp-01"), "-loglevel_plex", Some(name));
        let plan = widely(&argv).ok().map(|plan| plan.pms.log_level);
        assert_eq!(plan, level, "{name}");
    }
    let without = changed(&line("sp-01"), "-loglevel_plex", None);
    assert_eq!(widely(&without).unwrap().pms.log_level, None);
}

/// The plan of sp-01 with these URLs.
fn at(progress: &str, list: &str) -> Plan {
    let base = "http://127.0.0.1:32400/video/:/transcode";
    let argv = changed(
        &line("sp-01"),
        "-progressurl",
        Some(&format!("{base}{progress}")),
    );
    let argv = changed(&argv, "-manifest_name", Some(&format!("{base}{list}")));
    widely(&argv).unwrap()
}

#[test]
fn the_age_of_a_pms_is_told_by_its_urls() {
    for (progress, list, want) in [
        (
            "/session/s/j/progress",
            "/session/s/j/manifest?x=1",
            Dialect::New,
        ),
        (
            "/session/s/j/progress?x",
            "/session/s/j/seglist?x",
            Dialect::Old,
        ),
        ("/session/s/progress", "/session/s/manifest", Dialect::Old),
        ("/session/s//progress", "/session/s/manifest", Dialect::Old),
        ("/session/", "/session/s/manifest", Dialect::Old),
        ("/elsewhere", "/elsewhere", Dialect::New),
    ] {
        assert_eq!(at(progress, list).pms.dialect, want, "{progress} {list}");
    }
}

#[test]
fn jobs_of_one_session_have_a_prefix_in_common() {
    let prefix = |path: &str| at(path, "/session/x/y/manifest").session_prefix;
    assert_eq!(
        prefix("/session/viewer/j1/progress"),
        Some("viewer-".into())
    );
    // Too short, changed on the way into the id, or with no job of its own.
    for path in [
        "/session/abc/j1/progress",
        "/session/vi%20er/j1/progress",
        "/session/viewer/progress",
        "/elsewhere",
    ] {
        assert_eq!(prefix(path), None, "{path}");
    }
}

/// Every file has this size.
struct Sized(u64);

impl Files for Sized {
    fn readable_size(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.0)
    }
    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn list(&self, _folder: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

#[test]
fn side_files_travel_up_to_a_bound_and_titles_never() {
    use plexbeam_api::job::MAX_INLINE_BYTES;
    let with = |inputs: &[&str], size: u64| {
        let mut argv = line("sp-01");
        let at = argv.iter().position(|w| w == "-i").unwrap();
        argv[at + 1] = inputs[0].into();
        for (n, input) in inputs[1..].iter().enumerate() {
            let more = ["-i", *input].map(OsString::from);
            argv.splice(at + 2 + 2 * n..at + 2 + 2 * n, more);
        }
        let around = Surroundings {
            cwd: Path::new(CWD),
            copy_video: CopyVideo::Local,
            keep_local: &[],
            files: &Sized(size),
        };
        plan(&argv, &around).map(|plan| plan.media.iter().map(|m| m.0).collect::<Vec<_>>())
    };
    let most = MAX_INLINE_BYTES as u64;
    let too_large = Err(Reason::SideInputsTooLarge(MAX_INLINE_BYTES));
    assert_eq!(with(&["/m.mkv", "/t/temp-0.srt"], most), Ok(vec![0]));
    assert_eq!(with(&["/m.mkv", "/t/temp-0.srt"], most + 1), too_large);
    let two = ["/m.mkv", "/t/temp-0.SRT", "/t/temp-1.ass"];
    assert_eq!(with(&two, most / 2), Ok(vec![0]));
    assert_eq!(with(&two, most / 2 + 1), too_large, "all of them together");
    assert_eq!(
        with(&["/m.srt", "/n.mkv"], most * 9),
        Ok(vec![0, 1]),
        "the first is the title whatever its name, and films do not travel"
    );
}

#[test]
fn seeks_are_accurate_unless_the_line_says_no() {
    let accurate = |words: &[&str]| {
        let mut argv = changed(&line("mc-02"), "-probesize", None);
        argv.retain(|w| w != "-noaccurate_seek");
        argv.splice(0..0, words.iter().map(OsString::from));
        widely(&argv).unwrap().spec.inputs[0].accurate_seek
    };
    assert!(accurate(&[]));
    assert!(!accurate(&["-noaccurate_seek"]));
    assert!(accurate(&["-noaccurate_seek", "-accurate_seek"]));
}

#[test]
fn a_list_holds_as_many_rows_as_it_is_asked_to() {
    let size = |text: &str| {
        let argv = changed(&line("sp-02"), "-segment_list_size", Some(text));
        match widely(&argv).unwrap().list.form {
            ListForm::Csv { size, .. } => size,
            other => panic!("{other:?}"),
        }
    };
    for (text, want) in [
        ("0", None),
        ("1", Some(1)),
        ("2147483646", Some(2_147_483_646)),
        ("2147483647", None),
        ("2147483648", None),
    ] {
        assert_eq!(size(text), want, "{text}");
    }
    let window = |text: &str| {
        let argv = changed(&line("sp-01"), "-window_size", Some(text));
        match widely(&argv).unwrap().list.form {
            ListForm::Mpd { window, .. } => window,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((window("0"), window("7")), (None, Some(7)));
    let json = changed(&line("sp-02"), "-segment_list_type", Some("m3u8"));
    assert!(matches!(widely(&json), Err(Reason::BadValue(..))));
}

#[test]
fn frame_policies_have_two_names_each() {
    for (text, want) in [
        ("auto", Some(FramePolicy::CfrFromFirst)),
        ("-1", Some(FramePolicy::CfrFromFirst)),
        ("cfr", Some(FramePolicy::CfrFromZero)),
        ("1", Some(FramePolicy::CfrFromZero)),
        ("vfr", Some(FramePolicy::Vfr)),
        ("2", Some(FramePolicy::Vfr)),
        ("passthrough", Some(FramePolicy::Passthrough)),
        ("0", Some(FramePolicy::Passthrough)),
        ("3", None),
    ] {
        let argv = changed(&line("sp-01"), "-fps_mode", Some(text));
        let frames = widely(&argv).ok().map(|plan| plan.spec.time.frames);
        assert_eq!(frames, want, "{text}");
    }
}

#[test]
fn the_work_is_named_in_the_reason() {
    let reason = Reason::Kept(Work::ToneMapping);
    assert!(reason.to_string().contains("tone_mapping"), "{reason}");
}

/// PROTOCOL 4: the map names the stream, the filter draws it; either of them burns text in.
#[test]
fn burned_text_is_kept_by_its_map_or_by_its_filter() {
    let kept = |argv: &[OsString]| {
        let around = Surroundings {
            cwd: Path::new(CWD),
            copy_video: CopyVideo::Remote,
            keep_local: &[Work::BurnedText],
            files: &AllFiles,
        };
        plan(argv, &around) == Err(Reason::Kept(Work::BurnedText))
    };
    let plain = line("sp-01");
    let mapped = before_output(&plain, &["-map_inlineass", "0:2"]);
    let drawn = changed(
        &plain,
        "-filter_complex",
        Some("[0:0]inlineass=font_size=1[1]"),
    );
    assert!(!kept(&plain));
    assert!(kept(&mapped), "no filter");
    assert!(kept(&drawn), "no map");
    assert!(kept(&changed(
        &mapped,
        "-filter_complex",
        Some("[0:0]inlineass=font_size=1[1]")
    )));
}

/// The letters of ffmpeg's manual, "Stream specifiers".
#[test]
fn a_map_picks_by_each_kind_of_stream() {
    let picked = |which: &str| {
        let argv = changed(&line("mc-01"), "-map", Some(which));
        match &widely(&argv)?.spec.outputs[0].streams[0].source {
            Source::Stream { select, .. } => Ok(select.clone()),
            other => panic!("{which}: {other:?}"),
        }
    };
    for (letter, media) in [
        ('v', MediaKind::Video),
        ('V', MediaKind::Video),
        ('a', MediaKind::Audio),
        ('s', MediaKind::Subtitle),
        ('d', MediaKind::Data),
        ('t', MediaKind::Attachment),
    ] {
        for nth in [0, 3] {
            let want = StreamSelector::Kind {
                media,
                nth: Some(nth),
            };
            assert_eq!(picked(&format!("0:{letter}:{nth}")), Ok(want), "{letter}");
        }
    }
    // A kind alone is as many streams as the film has of it.
    for many in ["0:v", "0:a?", "0:s", "0:d"] {
        let refused = Reason::BadValue("-map".into(), many.into());
        assert_eq!(picked(many), Err(refused));
    }
    // A program, a key, all, a negative one.
    for other in ["0:p:1", "0:m:language:eng", "0", "-0:1", "0:u"] {
        assert!(picked(other).is_err(), "{other}");
    }
}

/// Behind attachments, of which a film may have any number, no stream can be named by its place.
#[test]
fn nothing_is_mapped_behind_attachments() {
    let base = line("mc-01");
    let attached = |more: &[&str]| widely(&before_output(&base, more)).map(|_| ());
    let count = base.iter().filter(|w| *w == "-map").count();
    let codec = |at: usize| format!("-codec:{at}");
    let (fonts, last) = (codec(count), codec(count + 1));
    assert_eq!(attached(&["-map", "0:t?", &fonts, "copy"]), Ok(()));
    assert_eq!(
        attached(&["-map", "0:t?", &fonts, "copy", "-map", "0:2", &last, "copy"]),
        Err(Reason::Option("-map".into()))
    );
    // One of them is one stream.
    assert_eq!(
        attached(&[
            "-map", "0:t:0", &fonts, "copy", "-map", "0:2", &last, "copy"
        ]),
        Ok(())
    );
}

/// ffmpeg's manual: `-copypriorss 0` drops what comes before the start; 1, or nothing said, keeps it.
#[test]
fn copied_packets_before_the_start_are_kept_unless_the_line_says_no() {
    let before_start = |value: Option<&str>| {
        let mut argv = line("mc-01");
        while let Some(at) = argv.iter().position(|w| w == "-copypriorss:0") {
            argv.drain(at..=at + 1);
        }
        if let Some(value) = value {
            argv = before_output(&argv, &["-copypriorss:0", value]);
        }
        match widely(&argv).unwrap().spec.outputs[0].streams[0].codec {
            CodecSpec::Copy { before_start } => before_start,
            ref other => panic!("{other:?}"),
        }
    };
    assert!(!before_start(Some("0")));
    assert!(before_start(Some("1")));
    assert!(before_start(None));
}

/// What only Plex's fork knows must not reach an encoder (PROTOCOL 4).
#[test]
fn an_encoder_gets_its_own_options_only() {
    let argv = before_output(&line("sp-01"), &["-strict_ts:0", "0", "-profile:0", "high"]);
    let plan = widely(&argv).unwrap();
    let CodecSpec::Encode { options, .. } = &plan.spec.outputs[0].streams[0].codec else {
        panic!("encoded")
    };
    let has = |name: &str| options.iter().any(|(known, _)| known == name);
    assert!(has("profile") && !has("strict_ts"), "{options:?}");
}

#[test]
fn only_an_output_that_writes_nothing_is_left_out() {
    let base = line("nv-08");
    let null = base.iter().rposition(|w| w == "null").unwrap();
    assert!(widely(&base).is_ok());
    let mut written = base.clone();
    written[null] = "segment".into();
    assert_eq!(widely(&written), Err(Reason::SideOutput));
    let mut limited = base;
    limited.splice(null - 1..null - 1, ["-frames:0", "1"].map(OsString::from));
    assert_eq!(widely(&limited), Err(Reason::SideOutput));
}

#[test]
fn a_folder_is_listed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["c", "a", "b"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let all = ["a", "b", "c"].map(|name| dir.path().join(name));
    assert_eq!(HostFiles.list(dir.path()), all);
    assert_eq!(HostFiles.list(&dir.path().join("gone")), [] as [PathBuf; 0]);
}
