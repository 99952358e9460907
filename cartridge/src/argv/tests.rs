use super::*;
use std::os::unix::ffi::OsStringExt;

fn words(text: &[&str]) -> Vec<OsString> {
    text.iter().map(OsString::from).collect()
}

fn parse(text: &[&str]) -> CommandLine {
    CommandLine::parse(words(text)).unwrap()
}

/// All recorded command lines: `(id, argv)`.
fn recorded() -> Vec<(String, Vec<String>)> {
    include_str!("../../../tests/fixtures/commands.jsonl")
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let argv = serde_json::from_value(line["argv"].clone()).unwrap();
            (line["id"].as_str().unwrap().to_owned(), argv)
        })
        .collect()
}

#[test]
fn every_recorded_line_comes_back_word_for_word() {
    let lines = recorded();
    assert_eq!(lines.len(), 49);
    for (id, argv) in lines {
        let argv: Vec<OsString> = argv.into_iter().map(OsString::from).collect();
        let line = CommandLine::parse(argv.clone()).unwrap_or_else(|e| panic!("{id}: {e}"));
        assert_eq!(line.to_argv(), argv, "{id}");
    }
}

#[test]
fn every_recorded_line_has_its_inputs_and_outputs() {
    for (id, argv) in recorded() {
        let line = CommandLine::parse(argv.iter().map(OsString::from)).unwrap();
        let inputs = argv.iter().filter(|w| *w == "-i").count();
        assert_eq!(line.inputs().count(), inputs, "{id}");
        let known = [
            "dash",
            "nullfile",
            "-",
            "media-%05d.ts",
            "sub-chunk-%05d",
            "chunk-%05d",
        ];
        for (_, name) in line.outputs() {
            let name = name.to_str().unwrap();
            assert!(
                known.contains(&name)
                    || name.starts_with('/')
                    || name.starts_with("C:\\")
                    || name == "thumb-%05d.jpeg",
                "{id}: `{name}` was taken for an output"
            );
        }
    }
}

#[test]
fn options_belong_to_the_file_that_follows() {
    let line = parse(&[
        "-codec:0", "hevc", "-ss", "5", "-i", "a.mkv", "-i", "b.srt", "-y", "-codec:0", "copy",
        "dash", "-codec:0", "ass", "-f", "null", "nullfile", "-copyts", "-vsync", "cfr",
    ]);
    let inputs: Vec<_> = line
        .inputs()
        .map(|(o, url)| (o.len(), url.to_owned()))
        .collect();
    assert_eq!(inputs, [(2, "a.mkv".into()), (0, "b.srt".into())]);
    let outputs: Vec<_> = line
        .outputs()
        .map(|(o, name)| (o.len(), name.to_owned()))
        .collect();
    assert_eq!(outputs, [(2, "dash".into()), (2, "nullfile".into())]);
    assert!(line.has("copyts"));
    assert_eq!(line.last_text("vsync"), Some("cfr"));
    assert_eq!(line.groups.last().unwrap().end, End::Line);
}

#[test]
fn a_value_may_begin_with_a_minus() {
    let line = parse(&[
        "-sei:0",
        "-a53_cc",
        "-map",
        "-0:s",
        "-map_metadata",
        "-1",
        "x",
    ]);
    let (options, name) = line.outputs().next().unwrap();
    let values: Vec<_> = options.iter().map(|o| o.text().unwrap()).collect();
    assert_eq!(values, ["-a53_cc", "-0:s", "-1"]);
    assert_eq!(name, "x");
}

#[test]
fn specifiers() {
    for (flag, want) in [
        ("-codec:0", Some(Specifier::Index(0))),
        ("-codec:#0x1011", Some(Specifier::Id(0x1011))),
        ("-codec:V", Some(Specifier::Kind('V', None))),
        ("-codec:v:0", Some(Specifier::Kind('v', Some(0)))),
        ("-codec:t", Some(Specifier::Kind('t', None))),
        ("-metadata:s:1", Some(Specifier::Stream(1))),
        ("-metadata:g", Some(Specifier::Other("g".into()))),
        ("-codec:p:7", Some(Specifier::Other("p:7".into()))),
        ("-codec", None),
        ("-forced-idr:0", Some(Specifier::Index(0))),
    ] {
        let line = parse(&[flag, "value", "out"]);
        assert_eq!(line.groups[0].options[0].specifier(), want, "{flag}");
    }
    assert_eq!(
        parse(&["-eae_prefix:1", "x_", "o"]).groups[0].options[0].name(),
        "eae_prefix"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let unknown = CommandLine::parse(words(&["-y", "-brand_new:0", "1", "dash"]));
    assert_eq!(unknown, Err(Error::UnknownOption("-brand_new:0".into())));
    assert_eq!(
        CommandLine::parse(words(&["-y", "-map"])),
        Err(Error::MissingValue("-map".into()))
    );
    let odd = OsString::from_vec(b"-\xff".to_vec());
    assert!(matches!(
        CommandLine::parse([odd]),
        Err(Error::UnknownOption(_))
    ));
}

#[test]
fn words_that_are_not_utf_8_survive() {
    let argv = vec![
        OsString::from("-i"),
        OsString::from_vec(b"/media/caf\xe9.mkv".to_vec()),
        OsString::from("-metadata:s:0"),
        OsString::from_vec(b"title=\xff".to_vec()),
        OsString::new(),
    ];
    let line = CommandLine::parse(argv.clone()).unwrap();
    assert_eq!(line.to_argv(), argv);
    assert_eq!(
        line.outputs().count(),
        1,
        "an empty word is an output's name, too"
    );
}

#[test]
fn a_lone_minus_is_an_output() {
    assert_eq!(
        parse(&["-f", "matroska", "-", "-y"])
            .outputs()
            .next()
            .unwrap()
            .1,
        "-"
    );
}
