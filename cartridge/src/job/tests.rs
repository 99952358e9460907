mod edges;

use super::*;
use plexbeam_api::job::{CodecSpec, ForcedKeys, Location, Source, StreamSelector};
use plexbeam_api::segment::MediaKind;
use std::io;

/// A host on which every file is there.
struct AllFiles;

impl Files for AllFiles {
    fn readable_size(&self, _path: &Path) -> io::Result<u64> {
        Ok(5)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(path.as_os_str().as_encoded_bytes().to_vec())
    }
    fn list(&self, folder: &Path) -> Vec<PathBuf> {
        vec![folder.join("A.ttf"), folder.join("readme.txt")]
    }
}

struct NoFiles;

impl Files for NoFiles {
    fn readable_size(&self, _path: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn list(&self, _folder: &Path) -> Vec<PathBuf> {
        Vec::new()
    }
}

const CWD: &str = "/transcode/Transcode/Sessions/plex-transcode-abc-def";

struct Line {
    id: String,
    kind: String,
    complete: bool,
    argv: Vec<OsString>,
}

fn recorded() -> Vec<Line> {
    include_str!("../../../tests/fixtures/commands.jsonl")
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
            Line {
                id: line["id"].as_str().unwrap().to_owned(),
                kind: line["kind"].as_str().unwrap().to_owned(),
                complete: line["complete"].as_bool().unwrap(),
                argv: words.into_iter().map(OsString::from).collect(),
            }
        })
        .collect()
}

fn line(id: &str) -> Vec<OsString> {
    let lines = recorded();
    lines.into_iter().find(|l| l.id == id).unwrap().argv
}

fn judged(argv: &[OsString], copy_video: CopyVideo) -> Result<Plan, Reason> {
    let around = Surroundings {
        cwd: Path::new(CWD),
        copy_video,
        keep_local: &[],
        files: &AllFiles,
    };
    plan(argv, &around)
}

fn remote(id: &str) -> Plan {
    judged(&line(id), CopyVideo::Remote).unwrap_or_else(|e| panic!("{id}: {e}"))
}

/// `argv` with the value of `option` replaced; with `None` the option and its value are removed.
fn changed(argv: &[OsString], option: &str, value: Option<&str>) -> Vec<OsString> {
    let at = argv.iter().position(|w| w == option).unwrap();
    let mut argv = argv.to_vec();
    match value {
        Some(value) => argv[at + 1] = value.into(),
        None => {
            argv.drain(at..=at + 1);
        }
    }
    argv
}

#[test]
fn the_27_complete_segmented_lines_leave() {
    let text = |argv: &[OsString], option: &str| {
        let at = argv.iter().position(|w| w == option)?;
        argv.get(at + 1)?.to_str().map(str::to_owned)
    };
    let segmented = |line: &Line| {
        let format = text(&line.argv, "-f").unwrap_or_default();
        let list = text(&line.argv, "-manifest_name").or(text(&line.argv, "-segment_list"));
        line.complete
            && ["dash", "ssegment", "segment"].contains(&format.as_str())
            && list.is_some()
    };
    let lines: Vec<Line> = recorded().into_iter().filter(segmented).collect();
    assert_eq!(lines.len(), 27);
    let (mut remote, mut encoded) = (0, 0);
    for line in &lines {
        match judged(&line.argv, CopyVideo::Remote) {
            Ok(_) => remote += 1,
            Err(reason) => panic!("{}: {reason}", line.id),
        }
        match judged(&line.argv, CopyVideo::Local) {
            Ok(_) => encoded += 1,
            Err(Reason::VideoIsCopied) => {}
            Err(reason) => panic!("{}: {reason}", line.id),
        }
    }
    assert_eq!(remote, 27);
    assert_eq!(encoded, 9);
}

#[test]
fn a_burned_line_names_its_stream_and_carries_its_font() {
    let plan = remote("nv-08");
    let spec = &plan.spec;
    assert_eq!(spec.outputs.len(), 1, "the null output only decodes");
    assert_eq!(spec.burn_in.len(), 1);
    assert_eq!(spec.burn_in[0].input, 0);
    assert_eq!(spec.burn_in[0].select, StreamSelector::Index { index: 2 });
    let font = "/usr/lib/plexmediaserver/Resources/Fonts/NotoSans-Medium.otf";
    assert_eq!(spec.fonts.len(), 1);
    assert_eq!(spec.fonts[0].path, font);
    // A font that is not there costs a typeface, not the job; other outputs behind it stay.
    let graph = "[0:0]inlineass=fonts_dir=/fonts[2]";
    let plan = judged(
        &changed(&line("nv-08"), "-filter_complex", Some(graph)),
        CopyVideo::Local,
    );
    assert_eq!(plan.unwrap().spec.fonts[0].path, "/fonts/A.ttf");
    let other = changed(&line("nv-08"), "-map_inlineass", None);
    assert_eq!(judged(&other, CopyVideo::Local), Err(Reason::SideOutput));
}

#[test]
fn the_other_kinds_stay_here() {
    for line in recorded() {
        let judged = judged(&line.argv, CopyVideo::Remote);
        let want = match line.kind.as_str() {
            "thumbnail" | "hls" => Reason::NoProgressUrl,
            "sync/optimize" | "analysis" => Reason::NoListUrl,
            _ => continue,
        };
        assert_eq!(judged.err(), Some(want), "{}", line.id);
    }
}

#[test]
fn truncated_lines_never_leave() {
    // Of sp-11 only the audio is missing; what is left is a job.
    let cut = |line: &Line| !line.complete && line.id != "sp-11";
    for line in recorded().into_iter().filter(cut) {
        let judged = judged(&line.argv, CopyVideo::Remote);
        assert!(judged.is_err(), "{} is not runnable", line.id);
    }
}

#[test]
fn a_software_dash_line_becomes_this_job() {
    let plan = remote("sp-01");
    let spec = &plan.spec;
    assert_eq!(
        spec.job_id.as_str(),
        "buyrek9xv7rgflpt36lvm1xz-00000000-0000-4000-8000-000000000001"
    );
    assert_eq!(spec.inputs.len(), 1);
    let input = &spec.inputs[0];
    assert_eq!(
        input.locations,
        [Location::Path {
            path: "/media/Movies/Superman.mkv".into()
        }]
    );
    assert_eq!((input.seek_us, input.accurate_seek), (None, true));
    assert_eq!(input.probe_size, Some(20_000_000));
    assert_eq!(input.analyze_duration_us, Some(20_000_000));
    let hints: Vec<_> = input.decoders.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(hints, ["libdav1d", "eac3_eae"]);
    assert_eq!(
        spec.graphs,
        [
            "[0:0]scale=w=2276:h=1280:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1]",
            "[0:1] aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000[2]",
        ]
    );
    assert_eq!(
        spec.time,
        TimePolicy {
            copyts: true,
            start_at_zero: true,
            frames: FramePolicy::CfrFromZero,
        }
    );
    let output = &spec.outputs[0];
    assert_eq!(
        output.packaging,
        Packaging::Dash {
            segment_seconds: 3.0,
            first_number: 1,
            tolerance_seconds: 0.0625,
            init_name: "init-stream$RepresentationID$.m4s".into(),
            media_name: "chunk-stream$RepresentationID$-$Number%05d$.m4s".into(),
        }
    );
    let [video, audio] = &output.streams[..] else {
        panic!("two streams, not {:?}", output.streams)
    };
    let graph = |label: &str| Source::Graph {
        label: label.into(),
    };
    assert_eq!((&video.source, &audio.source), (&graph("1"), &graph("2")));
    assert_eq!(video.forced_keys, Some(ForcedKeys::Every { seconds: 3.0 }));
    assert_eq!(video.frame_rate.as_deref(), Some("23.975999999999999"));
    let CodecSpec::Encode { encoder, options } = &video.codec else {
        panic!("encoded")
    };
    assert_eq!(encoder, "libx264");
    let options: Vec<_> = options
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        options,
        [
            ("crf", "16"),
            ("maxrate", "20000k"),
            ("bufsize", "40000k"),
            ("preset", "veryfast"),
            (
                "x264opts",
                "subme=0:me_range=4:rc_lookahead=10:me=dia:no_chroma_me:8x8dct=0:partitions=none"
            ),
        ]
    );
    assert_eq!(audio.metadata, [("language".to_owned(), "eng".to_owned())]);
    assert_eq!(plan.patterns, ["init-stream*.m4s", "chunk-stream*-*.m4s"]);
    assert_eq!(plan.pms.log_level, Some(0));
    assert!(!plan.hardware_decode);
    assert!(plan.pms.progress.path().ends_with("/progress"));
    assert!(
        plan.list
            .url
            .path()
            .ends_with("/manifest?X-Plex-Http-Pipeline=infinite")
    );
    let ListForm::Mpd {
        window, segment_us, ..
    } = plan.list.form
    else {
        panic!("an MPD")
    };
    assert_eq!((window, segment_us), (Some(5), 3_000_000));
}

#[test]
fn a_seek_reads_its_number_and_drops_cfr() {
    let plan = remote("mc-02");
    assert_eq!(plan.spec.inputs[0].seek_us, Some(495_000_000));
    assert!(!plan.spec.inputs[0].accurate_seek);
    assert_eq!(plan.spec.time.frames, FramePolicy::CfrFromFirst);
    assert!(matches!(
        plan.spec.outputs[0].packaging,
        Packaging::Dash {
            first_number: 100,
            ..
        }
    ));
    // The number is the line's own, not computed from the seek.
    let odd = changed(&line("mc-02"), "-skip_to_segment", Some("7"));
    let odd = judged(&odd, CopyVideo::Remote).unwrap();
    assert!(matches!(
        odd.spec.outputs[0].packaging,
        Packaging::Dash {
            first_number: 7,
            ..
        }
    ));
}

#[test]
fn matroska_with_a_staged_subtitle_carries_the_text_along() {
    let plan = remote("nv-07");
    assert!(plan.hardware_decode);
    let [title, subtitle] = &plan.spec.inputs[..] else {
        panic!("two inputs")
    };
    assert!(matches!(title.locations[..], [Location::Path { .. }]));
    let [Location::Inline { name, data }] = &subtitle.locations[..] else {
        panic!("inline, not {:?}", subtitle.locations)
    };
    assert_eq!(name.as_str(), "temp-0.srt");
    assert!(
        data.ends_with(b"/temp-0.srt"),
        "the bytes of that very file"
    );
    assert_eq!(plan.media.len(), 1);
    let output = &plan.spec.outputs[0];
    assert_eq!(
        output.packaging,
        Packaging::Segment {
            container: Container::Matroska,
            segment_seconds: 1.0,
            first_number: 0,
            tolerance_seconds: 0.0625,
            media_name: "media-%05d.ts".into(),
            header_name: Some("header".parse().unwrap()),
        }
    );
    assert_eq!(
        output.muxer_options,
        [
            ("output_ts_offset".to_owned(), "10".to_owned()),
            ("max_delay".to_owned(), "5000000".to_owned()),
        ]
    );
    let text = &output.streams[2];
    assert_eq!(text.codec, CodecSpec::Copy { before_start: true });
    assert_eq!(
        text.source,
        Source::Stream {
            input: 1,
            select: StreamSelector::Kind {
                media: MediaKind::Subtitle,
                nth: Some(0)
            },
            optional: false,
        }
    );
    assert_eq!(plan.patterns, ["media-*.ts", "header"]);
    assert_eq!(
        plan.list.form,
        ListForm::Csv {
            size: Some(5),
            separate_stream_times: true
        }
    );
    let video = &output.streams[0];
    assert!(matches!(&video.codec, CodecSpec::Encode { encoder, .. } if encoder == "hevc_nvenc"));
}

#[test]
fn streams_by_container_id_are_kept_as_such() {
    let argv: Vec<OsString> = line("mc-01")
        .iter()
        .map(|w| w.to_str().unwrap())
        .scan(0, |maps, w| {
            *maps += i32::from(w == "-map");
            Some(match w {
                "-codec:1" if *maps == 0 => "-codec:#0x02".into(),
                "0:0" => "0:#0x1011".into(),
                other => other.into(),
            })
        })
        .collect();
    let plan = judged(&argv, CopyVideo::Remote).unwrap();
    let id = |id| StreamSelector::Id { id };
    assert_eq!(plan.spec.inputs[0].decoders[1].stream, id(2));
    assert!(matches!(
        &plan.spec.outputs[0].streams[0].source,
        Source::Stream { select, .. } if *select == id(0x1011)
    ));
}

#[test]
fn attachments_may_be_taken_along_last() {
    // The Android line of 2020, with the end that its source cut off.
    let mut argv = line("cpx-262");
    let base = "http://127.0.0.1:32400/video/:/transcode/session/s/j";
    argv.extend(
        [
            "-segment_list",
            &format!("{base}/manifest?X-Plex-Http-Pipeline=infinite"),
            "-segment_list_type",
            "csv",
            "-segment_list_size",
            "2147483647",
            "media-%05d.ts",
            "-start_at_zero",
            "-copyts",
            "-progressurl",
            &format!("{base}/progress"),
        ]
        .map(OsString::from),
    );
    let plan = judged(&argv, CopyVideo::Local).unwrap();
    let streams = &plan.spec.outputs[0].streams;
    assert_eq!(streams.len(), 4);
    assert_eq!(
        streams[3].source,
        Source::Stream {
            input: 0,
            select: StreamSelector::Kind {
                media: MediaKind::Attachment,
                nth: None
            },
            optional: true,
        }
    );
    assert_eq!(streams[3].codec, CodecSpec::Copy { before_start: true });
    assert_eq!(plan.spec.inputs[1].seek_us, Some(224_000_000));
    assert_eq!(
        plan.list.form,
        ListForm::Csv {
            size: None,
            separate_stream_times: false
        }
    );
}

#[test]
fn doubts_have_a_name() {
    let base = line("sp-01");
    let reason = |argv: &[OsString]| judged(argv, CopyVideo::Local).unwrap_err();
    let graph = |text: &str| {
        let mut argv = base.clone();
        let at = argv.iter().position(|w| w == "-filter_complex").unwrap();
        argv[at + 1] = text.into();
        reason(&argv)
    };
    assert_eq!(
        reason(&changed(&base, "-progressurl", None)),
        Reason::NoProgressUrl
    );
    assert_eq!(
        reason(&changed(&base, "-manifest_name", None)),
        Reason::NoListUrl
    );
    assert!(matches!(
        reason(&changed(&base, "-manifest_name", Some("https://x/y"))),
        Reason::Url { .. }
    ));
    assert_eq!(
        reason(&changed(&base, "-f", Some("hls"))),
        Reason::Format("hls".into())
    );
    assert_eq!(graph("[0:0]inlineass=font_size=1[1]"), Reason::InlineAss);
    assert_eq!(
        reason(&changed(
            &base,
            "-force_key_frames:0",
            Some("expr:gte(t0+n_forced*1)")
        )),
        Reason::BadValue(
            "-force_key_frames:0".into(),
            "expr:gte(t0+n_forced*1)".into()
        )
    );
    assert_eq!(
        reason(&changed(&base, "-avoid_negative_ts", Some("make_zero"))),
        Reason::Option("-avoid_negative_ts".into())
    );
    assert_eq!(
        reason(&changed(&base, "-fps_mode", Some("drop"))),
        Reason::BadValue("-fps_mode".into(), "drop".into())
    );
    for bad in ["0", "-3", "nan", "x", ""] {
        let reason = reason(&changed(&base, "-seg_duration", Some(bad)));
        assert!(matches!(reason, Reason::BadValue(..)), "{bad}: {reason}");
    }
    for bad in ["inf", "nan", "-1", "1e9"] {
        let mut argv = base.clone();
        let at = argv.len() - 1;
        argv.splice(at..at, ["-time_delta", bad].map(OsString::from));
        assert!(matches!(reason(&argv), Reason::BadValue(..)), "{bad}");
    }
    for bad in ["../x$RepresentationID$", "init.m4s"] {
        let reason = reason(&changed(&base, "-init_seg_name", Some(bad)));
        assert!(matches!(reason, Reason::BadValue(..)), "{bad}: {reason}");
    }
    let mut side = base.clone();
    side.extend(
        [
            "-map", "0:3", "-codec:0", "ass", "-f", "segment", "sub-%05d",
        ]
        .map(OsString::from),
    );
    assert_eq!(reason(&side), Reason::SideOutput);
    let mut tuner = base.clone();
    let at = tuner.iter().position(|w| w == "-i").unwrap();
    tuner[at + 1] = "http://192.0.2.1/tuner".into();
    assert!(matches!(reason(&tuner), Reason::Input { index: 0, .. }));
    // For a decoder's packets or the muxer's: what Plex's own filter drops is published nowhere.
    let output = base.iter().position(|w| w == "-f").unwrap();
    for at in [0, output] {
        let mut framedrop = base.clone();
        framedrop.splice(at..at, ["-bsf:0", "framedrop=count=1"].map(OsString::from));
        assert_eq!(reason(&framedrop), Reason::Option("-bsf:0".into()));
    }
    for (lost, value) in [
        ("-r", "24"),
        ("-b", "1M"),
        ("-b:7", "1M"),
        ("-b:#0x01", "1M"),
        ("-codec:v", "libx264"),
        ("-metadata:g", "a=b"),
        ("-t", "30"),
    ] {
        let mut argv = base.clone();
        let at = argv.len() - 1;
        argv.splice(at..at, [lost, value].map(OsString::from));
        assert_eq!(reason(&argv), Reason::Option(lost.into()));
    }
    let mut unknown = base.clone();
    unknown.insert(0, "-never_seen:0".into());
    assert!(matches!(reason(&unknown), Reason::Argv(_)));
    assert_eq!(
        judged(&line("mc-01"), CopyVideo::Local).unwrap_err(),
        Reason::VideoIsCopied
    );
}

#[test]
fn the_place_matters_too() {
    let argv = line("sp-01");
    let at = |cwd: &str, files: &dyn Files| {
        plan(
            &argv,
            &Surroundings {
                cwd: Path::new(cwd),
                copy_video: CopyVideo::Local,
                keep_local: &[],
                files,
            },
        )
    };
    for cwd in ["/run/s6/services/plex", "/", "plex-transcode-a-b"] {
        assert_eq!(
            at(cwd, &AllFiles).unwrap_err(),
            Reason::NotASessionDirectory
        );
    }
    assert!(matches!(
        at(CWD, &NoFiles).unwrap_err(),
        Reason::Input { index: 0, .. }
    ));
}

#[test]
fn job_ids_are_pmss_own_where_they_can_be() {
    let id = |path: &str, words: &[&str]| {
        let url = Url::parse(&format!("http://127.0.0.1:32400{path}")).unwrap();
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        job_id(&url, &words).as_str().to_owned()
    };
    let at = "/video/:/transcode/session";
    assert_eq!(id(&format!("{at}/s/j/progress"), &[]), "s-j");
    assert_eq!(
        id(
            &format!("{at}/16hex-com-plexapp-android/j/progress?x=1"),
            &[]
        ),
        "16hex-com-plexapp-android-j"
    );
    let old = |words| id(&format!("{at}/jc84/progress"), words);
    assert!(old(&["a"]).starts_with("jc84-"));
    assert_eq!(old(&["a"]), old(&["a"]));
    assert_ne!(
        old(&["a"]),
        old(&["b"]),
        "without a job part the line decides"
    );
    let odd = id(&format!("{at}/..%2f/j/progress"), &[]);
    assert_ne!(odd, id(&format!("{at}/..%2F/j/progress"), &[]));
    let long = id(&format!("{at}/{}/j/progress", "x".repeat(300)), &[]);
    assert!(long.len() <= 128);
    assert!(!id("/", &[]).is_empty());
}

#[test]
fn a_path_that_is_no_text_is_left_to_the_media_route() {
    use std::os::unix::ffi::OsStringExt;
    let mut argv = line("sp-01");
    let at = argv.iter().position(|w| w == "-i").unwrap();
    argv[at + 1] = OsString::from_vec(b"/media/caf\xe9.mkv".to_vec());
    let plan = judged(&argv, CopyVideo::Local).unwrap();
    assert_eq!(plan.spec.inputs[0].locations, []);
    assert_eq!(plan.media[0].1.as_os_str(), argv[at + 1]);
}

#[test]
fn work_that_is_kept_stays() {
    let kept = |words: &[OsString], work: Work| {
        let around = Surroundings {
            cwd: Path::new(CWD),
            copy_video: CopyVideo::Remote,
            keep_local: &[work],
            files: &AllFiles,
        };
        plan(words, &around).err() == Some(Reason::Kept(work))
    };
    let graph = |text: &str| changed(&line("sp-01"), "-filter_complex", Some(text));
    let plain = line("sp-01");
    let side = line("mc-08");
    let hdr = graph("[0:0]hwmap=derive_device=opencl,tonemap_opencl=mobius[0];[0]hwdownload[1]");
    let text = line("nv-08");
    let pictures = graph("[0:3]scale=w=720:h=480[0];[0:0][0]overlay=x=1[1]");
    for (work, lines) in [
        (Work::ToneMapping, [&hdr]),
        (Work::BurnedText, [&text]),
        (Work::BurnedPictures, [&pictures]),
        (Work::SideSubtitles, [&side]),
    ] {
        for other in [&plain, &side, &hdr, &text, &pictures] {
            let own = lines.contains(&other);
            // A line of a real server may be of several kinds.
            if own || other == &plain {
                assert_eq!(kept(other, work), own, "{work:?} {other:?}");
            }
        }
        assert!(kept(&plain, Work::Everything));
    }
    assert!(
        !kept(&text, Work::SideSubtitles),
        "its second output writes nothing"
    );
    assert!(judged(&plain, CopyVideo::Local).is_ok());
}

#[test]
fn only_regular_files_that_can_be_read_are_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("film.mkv");
    std::fs::write(&file, b"seven b").unwrap();
    assert_eq!(HostFiles.readable_size(&file).unwrap(), 7);
    assert_eq!(HostFiles.read(&file).unwrap(), b"seven b");
    let not_one = HostFiles.readable_size(dir.path()).unwrap_err();
    assert_eq!(not_one.to_string(), "not a regular file");
    for missing in [dir.path().join("gone"), file.join("below")] {
        assert!(HostFiles.readable_size(&missing).is_err());
        assert!(HostFiles.read(&missing).is_err());
    }
}

#[test]
fn each_text_format_may_stand_beside_the_film() {
    let base = line("mc-08");
    let at = base.iter().rposition(|w| w == "-segment_format").unwrap() + 1;
    for (name, container) in [
        ("ass", Container::Ass),
        ("srt", Container::Srt),
        ("webvtt", Container::WebVtt),
    ] {
        let mut argv = base.clone();
        argv[at] = name.into();
        let plan = judged(&argv, CopyVideo::Remote).unwrap();
        let Packaging::Segment { container: got, .. } = plan.spec.outputs[1].packaging else {
            panic!("{name}: {:?}", plan.spec.outputs[1])
        };
        assert_eq!(got, container);
    }
    let mut argv = base;
    argv[at] = "mpegts".into();
    assert_eq!(judged(&argv, CopyVideo::Remote), Err(Reason::SideOutput));
}
