//! A filter graph of any text is read into operations or refused, without a panic; what was read and
//! written again reads as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plexbeam_worker::plan::{graph, operation};

fuzz_target!(|text: &str| {
    let Ok(chains) = graph::parse(text) else {
        return;
    };
    let _ = chains;
    let graphs: Vec<String> = text.split('\n').map(str::to_owned).collect();
    for label in ["0", "1", "2"] {
        let _ = graph::line(&graphs, label);
        let _ = operation::read(&graphs, label);
    }
    let _ = graph::parse_stream(text);
    let escaped = graph::escape(text);
    let whole = format!("[0:0]drawtext=text={escaped}[0]");
    graph::parse(&whole).expect("an escaped value is a value");
});
