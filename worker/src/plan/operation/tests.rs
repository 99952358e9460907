use super::*;

fn operations(text: &str) -> Vec<Operation> {
    read(&[format!("[0:0]{text}[9]")], "9").unwrap().operations
}

fn scale(w: &str, h: &str) -> Operation {
    Operation::Scale(Scale {
        width: w.into(),
        height: h.into(),
        options: Vec::new(),
    })
}

fn format(name: &str) -> Operation {
    Operation::Format(vec![name.into()])
}

#[test]
fn one_intent_in_the_words_of_each_vendor() {
    let wanted = [scale("1280", "720"), format("nv12")];
    for text in [
        "hwupload,scale_cuda=w=1280:h=720:format=nv12",
        "hwupload,scale_vaapi=w=1280:h=720:format=nv12,hwupload",
        "scale_vaapi=1280:720:nv12,hwdownload",
        "vpp_qsv=w=1280:h=720:format=nv12",
        "scale_qsv=w=1280:h=720:format=nv12,hwmap=derive_device=vaapi,format=vaapi",
        "scale=1280:720,format=pix_fmts=nv12",
    ] {
        assert_eq!(operations(text), wanted, "{text}");
    }
}

#[test]
fn a_software_scale_keeps_what_else_it_says() {
    let scale = match &operations("scale=w=2276:h=1280:force_divisible_by=4")[0] {
        Operation::Scale(scale) => scale.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(scale.size(), Some((2276, 1280)));
    assert_eq!(
        scale.options,
        [("force_divisible_by".to_owned(), "4".to_owned())]
    );
}

#[test]
fn tone_mappers_of_each_vendor() {
    for (text, curve) in [
        ("format=p010,tonemap=mobius", Curve::Mobius),
        ("tonemap=tonemap=hable:desat=0", Curve::Hable),
        (
            "hwmap=derive_device=opencl,tonemap_opencl=tonemap=bt2390:t=bt709:format=nv12,\
             hwmap=derive_device=vaapi:reverse=1",
            Curve::Bt2390,
        ),
        ("tonemap_cuda=mobius:format=nv12", Curve::Mobius),
        ("tonemap_vaapi=format=nv12:t=bt709", Curve::Any),
        (
            "libplacebo=tonemapping=bt.2390:format=yuv420p",
            Curve::Bt2390,
        ),
        ("vpp_qsv=tonemap=1:format=nv12", Curve::Any),
    ] {
        let found = operations(text).into_iter().find_map(|o| match o {
            Operation::Tonemap(t) => Some(t.curve),
            _ => None,
        });
        assert_eq!(found, Some(curve), "{text}");
    }
}

#[test]
fn burned_text_with_its_options() {
    let graphs = [
        "[0:0]scale=w=1280:h=720:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[1];[1]\
         inlineass=font_scale=1.000000:font_path=/usr/lib/Fonts/NotoSans-Medium.otf:\
         fontconfig_file=/usr/lib/fonts.conf:language=en:overrides=ScaledBorderAndShadow\\\\\\=yes\
         \\\\\\,FontName\\\\\\=Noto\\\\\\ Sans\\\\\\ Medium\\\\\\,PrimaryColour\\\\\\=&H00FFFFFF:\
         outline=2.6:shadow=1.7:font_size=54[2]"
            .to_owned(),
    ];
    let line = read(&graphs, "2").unwrap();
    let Some(Operation::BurnText(burn)) = line.operations.last() else {
        panic!("{:?}", line.operations);
    };
    assert_eq!(
        burn.font_path.as_deref(),
        Some("/usr/lib/Fonts/NotoSans-Medium.otf")
    );
    assert_eq!(
        burn.overrides,
        [
            "ScaledBorderAndShadow=yes",
            "FontName=Noto Sans Medium",
            "PrimaryColour=&H00FFFFFF"
        ]
    );
    assert_eq!(burn.font_size.as_deref(), Some("54"));
    assert!(read(&["[0:0]inlineass=font_size=x[2]".into()], "2").is_err());
    assert!(read(&["[0:0]inlineass=filename=/x[2]".into()], "2").is_err());
}

#[test]
fn picture_subtitles_are_a_line_of_their_own() {
    let line = read(
        &["[0:3]scale=w=640:h=-1[2];[0:0]scale=640:360[0];[0][2]overlay=(W-w)/2:H-h[3]".into()],
        "3",
    )
    .unwrap();
    let Some(Operation::Overlay(overlay)) = line.operations.last() else {
        panic!("{:?}", line.operations);
    };
    assert_eq!((overlay.x.as_str(), overlay.y.as_str()), ("(W-w)/2", "H-h"));
    assert_eq!(overlay.line.select, StreamSelector::Index { index: 3 });
    assert_eq!(overlay.line.operations.len(), 1);
}

#[test]
fn deinterlacers() {
    for (text, per_field, only_marked) in [
        ("yadif", false, false),
        ("yadif=1:-1:1", true, true),
        ("yadif_cuda=mode=send_field:deint=interlaced", true, true),
        ("bwdif=0", false, false),
        ("deinterlace_vaapi=rate=field:auto=1", true, true),
    ] {
        let Operation::Deinterlace(found) = operations(text)[0] else {
            panic!("{text}");
        };
        assert_eq!(
            (found.per_field, found.only_marked),
            (per_field, only_marked),
            "{text}"
        );
    }
}

#[test]
fn filters_that_open_files_are_refused() {
    for bad in [
        "movie=/etc/passwd",
        "subtitles=/x",
        "drawtext=textfile=/x",
        "sendcmd=f=/x",
        "lut3d=/x",
    ] {
        let problem = read(&[format!("[0:0]{bad}[1]")], "1").unwrap_err();
        assert_eq!(problem.kind, Kind::Unsupported, "{bad}");
    }
}
