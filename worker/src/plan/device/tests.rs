use super::size;
use crate::{
    libav::{Frame, Graph, Rational, Received, hw::PixelFormat},
    plan::operation::{self, Operation},
};

/// The sizes that libav's own `scale` makes of the same words.
#[test]
fn sizes_are_those_of_libavs_scale() {
    let format = PixelFormat::AV_PIX_FMT_YUV420P;
    for (from, args) in [
        ((1920, 1080), "w=1280:h=720"),
        ((1920, 1080), "w=1280:h=-2"),
        ((1920, 800), "w=-1:h=-1"),
        ((1916, 796), "w=1280:h=-4"),
        ((720, 576), "w=-2:h=480"),
        (
            (1920, 1080),
            "w=640:h=640:force_original_aspect_ratio=decrease",
        ),
        (
            (1920, 804),
            "w=1281:h=720:force_original_aspect_ratio=decrease:force_divisible_by=4",
        ),
        (
            (1920, 804),
            "w=1280:h=720:force_original_aspect_ratio=increase:force_divisible_by=2",
        ),
        ((1920, 1080), "w=1279:h=719:force_divisible_by=4"),
    ] {
        let frame = Frame::grey(format, from).unwrap();
        let tick = Rational { num: 1, den: 25 };
        let rate = Rational { num: 25, den: 1 };
        let mut graph = Graph::video(&format!("scale={args}"), &frame, tick, rate).unwrap();
        graph.send(Some(&frame)).unwrap();
        let Received::Item(out) = graph.receive().unwrap() else {
            panic!("{args} made nothing");
        };
        let line = operation::read(&[format!("[0:0]scale={args}[1]")], "1").unwrap();
        let [Operation::Scale(scale)] = line.operations.as_slice() else {
            panic!("{args} is no scaling");
        };
        let ours = size::after(scale, Some(from));
        assert_eq!(
            ours,
            Some((out.width() as u32, out.height() as u32)),
            "{args}"
        );
    }
}

#[test]
fn what_is_no_plain_size_is_left_to_the_processor() {
    for args in [
        "w=iw/2:h=ih/2",
        "w=1280:h=720:out_color_matrix=bt709",
        "w=0x10:h=1",
    ] {
        let line = operation::read(&[format!("[0:0]scale={args}[1]")], "1").unwrap();
        let [Operation::Scale(scale)] = line.operations.as_slice() else {
            panic!("{args} is no scaling");
        };
        assert_eq!(size::after(scale, Some((1920, 1080))), None, "{args}");
    }
}
