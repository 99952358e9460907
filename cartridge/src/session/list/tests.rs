use super::*;
use crate::session::ready::tests::segment;
use plexbeam_api::segment::{MediaKind, SegmentKind};

fn rendition(media: MediaKind, bandwidth: u64) -> Rendition {
    Rendition {
        media,
        codecs: "x".into(),
        bandwidth,
        time_scale: 1000,
        language: None,
        width: None,
        height: None,
        sar: None,
        frame_rate: None,
        sample_rate: None,
        channels: None,
    }
}

fn init(id: u32, media: MediaKind) -> Segment {
    Segment {
        rendition_info: Some(rendition(media, 0)),
        ..segment(Some(id), SegmentKind::Init, None)
    }
}

fn batch(number: u32, first: bool) -> Batch {
    Batch {
        heads: match first {
            true => vec![init(0, MediaKind::Video), init(1, MediaKind::Audio)],
            false => Vec::new(),
        },
        number,
        media: [0, 1]
            .map(|id| segment(Some(id), SegmentKind::Media, Some(number)))
            .into(),
    }
}

fn mpd(window: Option<u32>) -> List {
    List::new(&ListForm::Mpd {
        window,
        segment_us: 5_000_000,
        initialization: "i".into(),
        media: "m".into(),
    })
}

/// Values of an attribute, in order.
fn values<'a>(text: &'a str, attribute: &str) -> Vec<&'a str> {
    let key = format!(" {attribute}=\"");
    text.match_indices(&key)
        .map(|(at, _)| text[at + key.len()..].split('"').next().unwrap())
        .collect()
}

#[test]
fn an_mpd_grows_by_one_number_and_then_slides() {
    let mut list = mpd(Some(3));
    let text = list.announce(&batch(100, true), 1_000);
    assert!(text.contains("type=\"dynamic\""));
    assert_eq!(values(&text, "startNumber"), ["100", "100"]);
    assert_eq!(
        values(&text, "t"),
        ["500000", "500000"],
        "absolute, also after a seek"
    );
    assert_eq!(
        values(&text, "bandwidth"),
        ["1600", "1600"],
        "from the first segment"
    );
    for number in 101..104 {
        let text = list.announce(&batch(number, false), u64::from(number) * 1_000);
        assert!(text.contains("availabilityStartTime=\"1970-01-01T00:00:01.000Z\""));
        assert!(text.contains(&format!(
            "publishTime=\"1970-01-01T00:01:{}.000Z\"",
            number - 60
        )));
        let start = if number == 103 { "101" } else { "100" };
        assert_eq!(values(&text, "startNumber"), [start; 2]);
    }
    let text = list.end().unwrap();
    assert!(text.contains("type=\"static\""));
    assert!(
        text.contains("mediaPresentationDuration=\"PT8M40.0S\""),
        "to the end of the title"
    );
    assert_eq!(values(&text, "r"), ["2", "2"], "three segments are listed");
}

#[test]
fn without_a_window_everything_stays_listed() {
    let mut list = mpd(None);
    for number in 1..=20 {
        list.announce(&batch(number, number == 1), 0);
    }
    let text = list.end().unwrap();
    assert_eq!(values(&text, "r"), ["19", "19"]);
}

#[test]
fn a_csv_list_holds_the_last_rows() {
    let mut list = List::new(&ListForm::Csv {
        size: Some(2),
        separate_stream_times: true,
    });
    let mut text = String::new();
    for number in 28..31 {
        let mut media = segment(None, SegmentKind::Media, Some(number));
        media.times = Some(RowTimes {
            start_us: 1,
            end_us: 2,
            audio_end_us: None,
            video_end_us: Some(2),
        });
        text = list.announce(
            &Batch {
                heads: Vec::new(),
                number,
                media: vec![media],
            },
            0,
        );
    }
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1], "Media-9-30,0.000001,0.000002,-1.000000,0.000002");
    assert_eq!(list.end(), None);
}
